//! Where and in what precision a network computes, by name, and on how many threads.

mod workers;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::tensor::{self, Compute, DType, Isa};
use crate::{Error, Result};

pub use workers::Workers;
pub(crate) use workers::{get_or_make, in_pool, no_thread};

/// Precision that a network computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Precision {
    /// 32-bit float.
    #[default]
    F32,
    /// 64-bit float, on the CPU.
    F64,
    /// bfloat16, on GPUs; on CPUs with AVX-512 BF16 only the products of convolutions.
    Bf16,
    /// 16-bit float, on GPUs.
    F16,
}

impl Precision {
    /// Every precision, with the name it is written by.
    pub const ALL: [(Self, &'static str); 4] =
        [(Self::F32, "f32"), (Self::F64, "f64"), (Self::Bf16, "bf16"), (Self::F16, "f16")];

    /// Whether it has 16 bits.
    pub fn is_half(self) -> bool {
        matches!(self, Self::Bf16 | Self::F16)
    }

    fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F64 => DType::F64,
            Self::Bf16 => DType::BF16,
            Self::F16 => DType::F16,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Self::ALL.iter().find(|(precision, _)| precision == self).map_or(Ok(()), |(_, name)| f.write_str(name))
    }
}

impl FromStr for Precision {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .iter()
            .find(|(_, name)| *name == text)
            .map(|(precision, _)| *precision)
            .ok_or_else(|| Error::config(format!("unknown precision {text:?}: expected f32, f64, bf16 or f16")))
    }
}

/// What the weights of a network are kept in, which computes in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum WeightPrecision {
    /// 32-bit float.
    #[default]
    F32,
    /// 16-bit float: half the memory, 11 bits.
    F16,
    /// bfloat16: half the memory, 8 bits.
    Bf16,
    /// That of the file.
    File,
}

impl WeightPrecision {
    /// Each, with the name it is written by.
    pub const ALL: [(Self, &'static str); 4] =
        [(Self::F32, "f32"), (Self::F16, "f16"), (Self::Bf16, "bf16"), (Self::File, "file")];

    /// Whether it is f32, as where nothing is said.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for WeightPrecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Self::ALL.iter().find(|(precision, _)| precision == self).map_or(Ok(()), |(_, name)| f.write_str(name))
    }
}

impl FromStr for WeightPrecision {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.iter().find(|(_, name)| *name == text).map(|(precision, _)| *precision);
        found.ok_or_else(|| {
            Error::config(format!("unknown precision of weights {text:?}: expected f32, f16, bf16 or file"))
        })
    }
}

impl Compute {
    /// On the device of that name (see [`tensor::device`]) in that precision.
    ///
    /// # Errors
    /// As [`tensor::device`]; [`Error::Config`] for a precision that the device lacks.
    pub fn named(device: &str, precision: Precision) -> Result<Self> {
        let name = device;
        let device = tensor::device(name)?;
        if !tensor::is_cpu(&device) {
            // GPUs say that they have f64, and compute its exponentials wrongly (docs/results/performance.md).
            if precision == Precision::F64 {
                return Err(Error::config("--dtype f64 needs --device cpu; GPUs compute in f32, bf16 or f16"));
            }
            if !device.supports_dtype(precision.dtype()) {
                return Err(Error::config(format!(
                    "--dtype {precision}: the device {name} cannot compute in it; use f32"
                )));
            }
            return Ok(Self::new(&device, precision.dtype()));
        }
        match precision {
            Precision::F32 | Precision::F64 => Ok(Self::new(&device, precision.dtype())),
            Precision::F16 => {
                Err(Error::config("--dtype f16 needs a GPU device; the CPU computes in f32, f64 or bf16"))
            }
            Precision::Bf16 if Isa::has_bf16_products() => {
                Ok(Self { bf16_products: true, ..Self::new(&device, DType::F32) })
            }
            Precision::Bf16 => Err(Error::config("--dtype bf16: this processor lacks AVX-512 BF16; use f32")),
        }
    }
}
