//! Model weights: named tensors in a safetensors file or a PyTorch checkpoint, read one at a time.
//!
//! Opening reads the names, shapes and places; each `read_*` then reads one tensor, so that a large
//! checkpoint is never in memory twice. Which of the two formats a file is, its content says, not its
//! name. Floating-point values are checked to be finite on the way, since nothing after this would
//! notice a poisoned weight before a whole image is spoilt.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::Path;

use half::{bf16, f16};

use crate::source::{Region, Source};
use crate::{Result, safetensors, torch};

/// The element type of a stored tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dtype {
    /// 16-bit IEEE float.
    F16,
    /// 16-bit brain float.
    BF16,
    /// 32-bit float.
    F32,
    /// 64-bit float.
    F64,
    /// Signed 64-bit integer.
    I64,
    /// Signed 32-bit integer.
    I32,
    /// Signed 16-bit integer.
    I16,
    /// Signed 8-bit integer.
    I8,
    /// Unsigned 8-bit integer.
    U8,
    /// Truth value, one byte each.
    Bool,
}

impl Dtype {
    /// Bytes an element takes.
    pub fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::BF16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }
}

/// What a stored tensor is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Element type.
    pub dtype: Dtype,
    /// Extent of each dimension, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
}

/// A tensor's description together with its place in the file. `first` and `strides` count elements;
/// whoever fills this in has checked that every element lies inside `region`.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub info: TensorInfo,
    pub region: Region,
    pub first: u64,
    /// `None` for row-major order.
    pub strides: Option<Vec<u64>>,
}

/// An open file of named tensors.
#[derive(Debug)]
pub struct WeightFile {
    source: Source,
    tensors: BTreeMap<String, Stored>,
    metadata: BTreeMap<String, String>,
}

impl WeightFile {
    /// Opens a safetensors file or a PyTorch checkpoint (`.pt`, `.pth`, `.bin`, `.ckpt`), told apart by
    /// content. A checkpoint's tensors are named by their path through its containers, joined by dots;
    /// a leading `state_dict.` that all of them share is dropped.
    ///
    /// # Errors
    /// [`Error::Malformed`](crate::Error::Malformed) if the file is missing, of another kind, or malformed.
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_source(Source::open(path)?)
    }

    /// The same for bytes embedded in the program; `path()` is then `<name>`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_bytes(name: &str, bytes: impl Into<Cow<'static, [u8]>>) -> Result<Self> {
        Self::from_source(Source::from_bytes(name, bytes.into()))
    }

    fn from_source(source: Source) -> Result<Self> {
        let mut start = [0; 16];
        let known = source.len().min(start.len() as u64) as usize;
        source.read_exact_at(0, &mut start[..known])?;
        if torch::recognises(&start) {
            let tensors = torch::read(&source)?;
            Ok(Self { source, tensors, metadata: BTreeMap::new() })
        } else {
            let (tensors, metadata) = safetensors::read(&source)?;
            Ok(Self { source, tensors, metadata })
        }
    }

    /// The file, or `<name>` where it is embedded.
    pub fn path(&self) -> &Path {
        self.source.path()
    }

    /// The `__metadata__` of a safetensors file; empty for a PyTorch checkpoint.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The tensors' names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// What the tensor `name` is, if there is one.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name).map(|stored| &stored.info)
    }

    /// The values of a floating-point tensor in row-major order.
    ///
    /// # Errors
    /// [`Error::Malformed`](crate::Error::Malformed) if there is no such tensor, it holds integers, it cannot be
    /// read, or a value is not finite (as f32).
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        self.read_floats(name, |dtype, bytes, out: &mut Vec<f32>| match dtype {
            Dtype::F16 => extend(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
            Dtype::BF16 => extend(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
            Dtype::F64 => extend(bytes, out, |b| f64::from_le_bytes(b) as f32),
            _ => extend(bytes, out, f32::from_le_bytes),
        })
    }

    /// As [`read_f32`](Self::read_f32), keeping the full precision of f64 tensors.
    ///
    /// # Errors
    /// As [`read_f32`](Self::read_f32).
    pub fn read_f64(&self, name: &str) -> Result<Vec<f64>> {
        self.read_floats(name, |dtype, bytes, out: &mut Vec<f64>| match dtype {
            Dtype::F16 => extend(bytes, out, |b| f16::from_le_bytes(b).to_f64()),
            Dtype::BF16 => extend(bytes, out, |b| bf16::from_le_bytes(b).to_f64()),
            Dtype::F32 => extend(bytes, out, |b| f64::from(f32::from_le_bytes(b))),
            _ => extend(bytes, out, f64::from_le_bytes),
        })
    }

    /// The values of an integer or truth-value tensor in row-major order.
    ///
    /// # Errors
    /// [`Error::Malformed`](crate::Error::Malformed) if there is no such tensor, it holds floating-point values,
    /// or it cannot be read.
    pub fn read_i64(&self, name: &str) -> Result<Vec<i64>> {
        let stored = self.stored(name)?;
        if stored.info.dtype.is_float() {
            return Err(self.wrong_kind(name, stored, "integers"));
        }
        self.read(stored, |bytes, out| match stored.info.dtype {
            Dtype::I32 => extend(bytes, out, |b| i64::from(i32::from_le_bytes(b))),
            Dtype::I16 => extend(bytes, out, |b| i64::from(i16::from_le_bytes(b))),
            Dtype::I8 => extend(bytes, out, |b| i64::from(i8::from_le_bytes(b))),
            Dtype::U8 => extend(bytes, out, |b| i64::from(u8::from_le_bytes(b))),
            Dtype::Bool => extend(bytes, out, |b| i64::from(u8::from_le_bytes(b) != 0)),
            _ => extend(bytes, out, i64::from_le_bytes),
        })
    }

    /// The SHA-256 of the file as 64 lower-case hexadecimal digits. Reads all of it.
    ///
    /// # Errors
    /// [`Error::Malformed`](crate::Error::Malformed) if it cannot be read.
    pub fn sha256(&self) -> Result<String> {
        self.source.sha256()
    }

    fn stored(&self, name: &str) -> Result<&Stored> {
        self.tensors.get(name).ok_or_else(|| self.source.error(format!("has no tensor {name:?}")))
    }

    fn wrong_kind(&self, name: &str, stored: &Stored, expected: &str) -> crate::Error {
        self.source.error(format!("tensor {name:?} holds {:?} values, expected {expected}", stored.info.dtype))
    }

    fn read_floats<T: Finite>(&self, name: &str, decode: impl Fn(Dtype, &[u8], &mut Vec<T>)) -> Result<Vec<T>> {
        let stored = self.stored(name)?;
        let dtype = stored.info.dtype;
        if !dtype.is_float() {
            return Err(self.wrong_kind(name, stored, "floating-point numbers"));
        }
        let values = self.read(stored, |bytes, out| decode(dtype, bytes, out))?;
        let bad = values.iter().filter(|value| !value.finite()).count();
        if bad > 0 {
            let all = values.len();
            return Err(self.source.error(format!("tensor {name:?}: {bad} of {all} values are not finite")));
        }
        Ok(values)
    }

    /// Reads a tensor in row-major order; `decode` appends the values of whole elements.
    fn read<T: Copy>(&self, stored: &Stored, decode: impl Fn(&[u8], &mut Vec<T>)) -> Result<Vec<T>> {
        let size = stored.info.dtype.size() as u64;
        let count: usize = stored.info.shape.iter().product();
        let mut values = Vec::new();
        let Some(strides) = stored.strides.as_ref().filter(|_| count > 0) else {
            values.reserve_exact(count);
            self.source.for_each_chunk(stored.region, stored.first * size, count as u64 * size, |bytes| {
                decode(bytes, &mut values);
                Ok(())
            })?;
            return Ok(values);
        };
        let shape = &stored.info.shape;
        let last: u64 = shape.iter().zip(strides).map(|(&extent, stride)| (extent as u64 - 1) * stride).sum();
        let mut spanned = Vec::new();
        self.source.for_each_chunk(stored.region, stored.first * size, (last + 1) * size, |bytes| {
            decode(bytes, &mut spanned);
            Ok(())
        })?;
        values.reserve_exact(count);
        let mut index = vec![0_u64; shape.len()];
        for _ in 0..count {
            let at: u64 = index.iter().zip(strides).map(|(i, stride)| i * stride).sum();
            values.extend(spanned.get(at as usize));
            for (i, &extent) in index.iter_mut().zip(shape).rev() {
                *i += 1;
                if *i < extent as u64 {
                    break;
                }
                *i = 0;
            }
        }
        Ok(values)
    }
}

impl Dtype {
    fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::BF16 | Self::F32 | Self::F64)
    }
}

trait Finite: Copy {
    fn finite(self) -> bool;
}

impl Finite for f32 {
    fn finite(self) -> bool {
        self.is_finite()
    }
}

impl Finite for f64 {
    fn finite(self) -> bool {
        self.is_finite()
    }
}

/// Appends the values of little-endian elements of N bytes.
fn extend<const N: usize, T>(bytes: &[u8], out: &mut Vec<T>, decode: impl Fn([u8; N]) -> T) {
    out.extend(bytes.as_chunks::<N>().0.iter().map(|element| decode(*element)));
}
