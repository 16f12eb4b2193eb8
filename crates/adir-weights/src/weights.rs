//! Model weights: named tensors in a safetensors file or a PyTorch checkpoint, read one at a time.
//!
//! Opening reads the names, shapes and places; each `read_*` then reads one tensor, and `stream` one after the other, so
//! that a large checkpoint is never in memory twice. The format is recognised by content, not by file name.
//! Weights rounded to 8 bits are read as floating-point numbers: a safetensors file holds signed 8-bit integers `NAME` and,
//! in `NAME_scale`, a factor for each index of their first dimension (the layout of compressed-tensors).
//! Floating-point values are checked to be finite on the way, since nothing after this would
//! notice a poisoned weight before a whole image is spoilt.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{Read, Seek};
use std::path::Path;

use crate::collect::{Collector, Element};
use crate::hash::ContentHash;
use crate::pass::Pass;
use crate::source::{CHUNK, Packing, Region, Source};
use crate::{Error, Result, npz, safetensors, torch, zip};

/// Most tensors in a file.
pub(crate) const MAX_TENSORS: usize = 20_000;

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

/// Type and shape of a stored tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Element type.
    pub dtype: Dtype,
    /// Extent of each dimension, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
}

/// A tensor's description together with its place in the file. `first` and `strides` count elements;
/// whoever fills this in has checked that every element lies inside `region`, and that `shape` multiplies without
/// overflow.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub info: TensorInfo,
    pub region: Region,
    pub first: u64,
    /// `None` for row-major order.
    pub strides: Option<Vec<u64>>,
    /// What the integers of each index of the first dimension are multiplied by, where they stand for weights.
    pub scales: Option<Box<Stored>>,
}

impl Stored {
    /// Whether its values are weights: floating-point numbers, or integers with scales.
    pub fn is_float(&self) -> bool {
        self.info.dtype.is_float() || self.scales.is_some()
    }

    /// Number of elements.
    pub fn count(&self) -> usize {
        self.info.shape.iter().product()
    }

    /// Number of elements from the first to the last, with those between that are not its own.
    pub fn span(&self) -> u64 {
        match &self.strides {
            Some(strides) if self.count() > 0 => {
                let extents = self.info.shape.iter().zip(strides);
                extents.map(|(&extent, stride)| (extent as u64 - 1) * stride).sum::<u64>() + 1
            }
            _ => self.count() as u64,
        }
    }

    /// Where its bytes begin in its region, and how many there are up to the last.
    pub fn bytes(&self) -> (u64, u64) {
        let size = self.info.dtype.size() as u64;
        (self.first * size, self.span() * size)
    }

    /// The first byte of the file that has to be read for it.
    fn position(&self) -> u64 {
        match self.region.packing {
            Packing::Stored => self.region.offset + self.bytes().0,
            Packing::Deflated { .. } => self.region.offset,
        }
    }
}

/// An open file of named tensors.
#[derive(Debug)]
pub struct WeightFile {
    source: Source,
    tensors: BTreeMap<String, Stored>,
    metadata: BTreeMap<String, String>,
    /// The runs of bytes that have a checksum, in order.
    checked: Vec<Region>,
}

impl WeightFile {
    /// Opens a safetensors file, a PyTorch checkpoint (`.pt`, `.pth`, `.bin`, `.ckpt`) or NumPy's `.npz`, told apart by
    /// content. A checkpoint's tensors are named by their path through its containers, joined by dots;
    /// a leading `state_dict.` that all of them share is dropped.
    ///
    /// # Errors
    /// [`Error::Malformed`] if the file is missing, of another kind, or malformed.
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

    /// The same for anything that can be read from any place; `path` names it in messages.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_reader(path: &Path, reader: impl Read + Seek + Send + 'static) -> Result<Self> {
        Self::from_source(Source::from_reader(path, reader)?)
    }

    fn from_source(source: Source) -> Result<Self> {
        let mut start = [0; 16];
        let known = source.len().min(start.len() as u64) as usize;
        source.read_exact_at(0, &mut start[..known])?;
        if torch::recognises(&start) {
            let entries = if start.starts_with(&zip::SIGNATURE) { Some(zip::entries(&source)?) } else { None };
            let (tensors, checked) = match entries {
                Some(arrays) if npz::recognises(&arrays) => npz::read(&source, arrays)?,
                entries => torch::read(&source, entries)?,
            };
            Ok(Self { source, tensors, metadata: BTreeMap::new(), checked })
        } else {
            let (tensors, metadata) = safetensors::read(&source)?;
            Ok(Self { source, tensors, metadata, checked: Vec::new() })
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
    /// The entries of a PyTorch archive have checksums. One is compared where reading the tensor takes reading all of
    /// its entry, as it does for all but views of a part of a storage; [`stream`](Self::stream) compares them all. A
    /// checksum of zero counts as none: writers can be told to leave it out.
    ///
    /// # Errors
    /// [`Error::Malformed`] if there is no such tensor, it holds integers, it cannot be read, it is damaged, or a value
    /// is not finite (as f32).
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        self.read_floats(name)
    }

    /// As [`read_f32`](Self::read_f32), keeping the full precision of f64 tensors.
    ///
    /// # Errors
    /// As [`read_f32`](Self::read_f32).
    pub fn read_f64(&self, name: &str) -> Result<Vec<f64>> {
        self.read_floats(name)
    }

    /// The values of an integer or truth-value tensor in row-major order.
    ///
    /// # Errors
    /// [`Error::Malformed`] if there is no such tensor, it holds floating-point values, it cannot be read, or it is
    /// damaged.
    pub fn read_i64(&self, name: &str) -> Result<Vec<i64>> {
        let stored = self.stored(name)?;
        if stored.is_float() {
            return Err(self.wrong_kind(name, stored, "integers"));
        }
        let mut values = self.collector(name, stored)?;
        self.read(stored, &mut values)?;
        Ok(values.finish())
    }

    /// Hands the values of every floating-point tensor for which `wanted` is true to `visit`, each once and as f32, in
    /// the order in which they lie in the file; returns the SHA-256 of the whole file. `wanted` gets a tensor's name
    /// and description.
    ///
    /// That takes one pass over the file, except for bytes that belong to several of the tensors: those are read once
    /// for each. One tensor is in memory at a time. On an error, what was visited before is not to be used: the file
    /// may be damaged.
    ///
    /// # Errors
    /// As [`read_f32`](Self::read_f32), and what `visit` returns; also where a checksum anywhere in a PyTorch archive
    /// is wrong, but for entries that are compressed and not wanted.
    pub fn stream<E: From<Error>>(
        &self,
        mut wanted: impl FnMut(&str, &TensorInfo) -> bool,
        mut visit: impl FnMut(&str, Vec<f32>) -> Result<(), E>,
    ) -> Result<ContentHash, E> {
        let mut tensors: Vec<_> = (self.tensors.iter()).filter(|(name, stored)| wanted(name, &stored.info)).collect();
        // In a deflated storage by place inside it; by name where that is the same.
        tensors.sort_by_key(|(_, stored)| (stored.position(), stored.first));
        let mut pass = Pass::new(&self.source, &self.checked);
        for (name, stored) in tensors {
            let values = if stored.count() > 0 && stored.position() >= pass.at() {
                let mut values = self.float_collector(name, stored)?;
                pass.read(stored, |bytes| values.take(bytes))?;
                self.weights(name, stored, values)?
            } else {
                self.read_f32(name)?
            };
            visit(name, values)?;
        }
        Ok(pass.finish()?)
    }

    /// The SHA-256 of the file. Reads all of it, and compares the checksums of what is not compressed.
    ///
    /// # Errors
    /// [`Error::Malformed`] if it cannot be read, or a checksum is wrong.
    pub fn sha256(&self) -> Result<ContentHash> {
        Pass::new(&self.source, &self.checked).finish()
    }

    fn stored(&self, name: &str) -> Result<&Stored> {
        self.tensors.get(name).ok_or_else(|| self.source.error(format!("has no tensor {name:?}")))
    }

    fn wrong_kind(&self, name: &str, stored: &Stored, expected: &str) -> Error {
        self.source.error(format!("tensor {name:?} contains {:?}, expected {expected}", stored.info.dtype))
    }

    fn read_floats<T: Element>(&self, name: &str) -> Result<Vec<T>> {
        let stored = self.stored(name)?;
        let mut values = self.float_collector(name, stored)?;
        self.read(stored, &mut values)?;
        self.weights(name, stored, values)
    }

    fn collector<T: Element>(&self, name: &str, stored: &Stored) -> Result<Collector<T>> {
        Collector::new(stored).map_err(|message| self.source.error(format!("tensor {name:?}: {message}")))
    }

    fn float_collector<T: Element>(&self, name: &str, stored: &Stored) -> Result<Collector<T>> {
        if !stored.is_float() {
            return Err(self.wrong_kind(name, stored, "floating-point numbers"));
        }
        self.collector(name, stored)
    }

    /// The values that were collected, scaled and known to be finite.
    fn weights<T: Element>(&self, name: &str, stored: &Stored, values: Collector<T>) -> Result<Vec<T>> {
        let mut values = values.finish();
        if let Some(stored) = &stored.scales
            && !values.is_empty()
        {
            let mut scales = self.collector(name, stored)?;
            self.read(stored, &mut scales)?;
            let scales: Vec<T> = scales.finish();
            let each = values.len() / scales.len();
            for (values, &scale) in values.chunks_exact_mut(each).zip(&scales) {
                values.iter_mut().for_each(|value| *value = *value * scale);
            }
        }
        let bad = values.iter().filter(|value| !value.finite()).count();
        if bad > 0 {
            let all = values.len();
            return Err(self.source.error(format!("tensor {name:?}: {bad} of {all} values are not finite")));
        }
        Ok(values)
    }

    /// Reads the bytes of a tensor into `values`.
    fn read<T: Element>(&self, stored: &Stored, values: &mut Collector<T>) -> Result<()> {
        let size = stored.info.dtype.size() as u64;
        let (count, span) = (stored.count() as u64, stored.span());
        let (start, len) = stored.bytes();
        if count == 0 {
            return Ok(());
        }
        // Where little of much is wanted, what lies between is left out. An inflater cannot leave anything out.
        let sparse = span / 4 > count && stored.region.packing == Packing::Stored;
        if !sparse {
            return self.source.for_each_chunk(stored.region, start, len, |bytes| {
                values.take(bytes);
                Ok(())
            });
        }
        while let Some(next) = values.next() {
            let piece = (span - next).min(CHUNK as u64 / size);
            values.skip_to(next);
            self.source.for_each_chunk(stored.region, start + next * size, piece * size, |bytes| {
                values.take(bytes);
                Ok(())
            })?;
        }
        Ok(())
    }
}

impl Dtype {
    pub(crate) fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::BF16 | Self::F32 | Self::F64)
    }
}
