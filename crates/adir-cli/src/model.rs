//! Which network, where, in which precision.

use std::path::PathBuf;

use adir::io::sidecar::sidecar_config;
use adir::io::weights::WeightFile;
use adir::models::embedded_prior;
use adir::models::guided_diffusion::{GuidedDiffusion, UNetConfig};
use adir::tensor::{self, DType, Device, Isa};
use adir::{Error, Result};
use clap::{Args, ValueEnum};

/// Precision a network computes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Precision {
    /// 32-bit float.
    #[default]
    F32,
    /// 64-bit float, on the CPU.
    F64,
    /// bfloat16 on GPUs; on CPUs with AVX-512 BF16, convolutions multiply in it.
    Bf16,
    /// 16-bit float, on GPUs.
    F16,
}

impl Precision {
    fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F64 => DType::F64,
            Self::Bf16 => DType::BF16,
            Self::F16 => DType::F16,
        }
    }

    /// As it is written on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }

    pub fn is_half(self) -> bool {
        matches!(self, Self::Bf16 | Self::F16)
    }
}

/// The device of that name, made ready to compute in that precision, and the precision of its tensors.
pub fn place(name: &str, dtype: Precision) -> Result<(Device, DType)> {
    let device = tensor::device(name)?;
    if !tensor::is_cpu(&device) {
        // GPUs say that they have f64, and compute its exponentials wrongly (docs/performance.md).
        if dtype == Precision::F64 {
            return Err(Error::config("--dtype f64 needs --device cpu; GPUs compute in f32, bf16 or f16"));
        }
        if !device.supports_dtype(dtype.dtype()) {
            let dtype = dtype.name();
            return Err(Error::config(format!("--dtype {dtype}: the device {name} cannot compute in it; use f32")));
        }
        return Ok((device, dtype.dtype()));
    }
    match dtype {
        Precision::F32 | Precision::F64 => Ok((device, dtype.dtype())),
        Precision::F16 => Err(Error::config("--dtype f16 needs a GPU device; the CPU computes in f32, f64 or bf16")),
        Precision::Bf16 if Isa::has_bf16_products() => {
            tensor::set_bf16_products(true);
            Ok((device, DType::F32))
        }
        Precision::Bf16 => {
            Err(Error::config("--dtype bf16: this processor has no instructions for it (AVX-512 BF16); use f32"))
        }
    }
}

/// The network of a command.
#[derive(Debug, Clone, Args)]
pub struct ModelArgs {
    /// Weights: guided-diffusion's .pt or safetensors; without it the embedded prior
    #[arg(short = 'm', long, value_name = "WEIGHTS")]
    pub model: Option<PathBuf>,
    /// Configuration of the network (JSON), where the weights do not tell it; by default a .json file beside them
    #[arg(long, value_name = "JSON")]
    pub model_config: Option<PathBuf>,
    /// cpu, or (in builds with that feature) cuda, vulkan, metal or rocm, with :N for the N-th
    #[arg(long, default_value = "cpu")]
    pub device: String,
    /// Precision of the network
    #[arg(long, value_enum, default_value_t)]
    pub dtype: Precision,
}

impl ModelArgs {
    /// The weights, opened but not read.
    pub fn open(&self) -> Result<WeightFile> {
        match &self.model {
            Some(path) => Ok(WeightFile::open(path)?),
            None => embedded_prior(),
        }
    }

    /// The configuration given, or found beside the weights; `None` leaves it to the weights themselves.
    pub fn config(&self, file: &WeightFile) -> Result<Option<UNetConfig>> {
        let (path, text) = match (&self.model_config, &self.model) {
            (Some(path), _) => (path.clone(), sidecar_config(path)?),
            (None, Some(weights)) if !file.metadata().contains_key("config") => {
                let Some(path) = adir::io::sidecar::beside(weights) else { return Ok(None) };
                let text = sidecar_config(&path)?;
                (path, text)
            }
            _ => return Ok(None),
        };
        UNetConfig::from_json(&text).map(Some).map_err(|e| Error::model(path, e.to_string()))
    }

    /// The network, and the SHA-256 of its weight file.
    pub fn load(&self) -> Result<(GuidedDiffusion, String)> {
        let file = self.open()?;
        let (device, dtype) = self.place()?;
        let model = GuidedDiffusion::load(&file, self.config(&file)?, &device, dtype)?;
        Ok((model, file.sha256()?.to_string()))
    }

    /// See [`place`].
    pub fn place(&self) -> Result<(Device, DType)> {
        place(&self.device, self.dtype)
    }

    /// How the weights are called in messages and records.
    pub fn name(&self) -> String {
        self.model.as_ref().map_or_else(|| "embedded prior".into(), |p| p.display().to_string())
    }
}
