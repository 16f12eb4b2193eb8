//! Writing safetensors files: the header first, from the tensors' descriptions, then one tensor after the other.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use serde::Serialize;

use crate::safetensors::{MAX_HEADER, MAX_NAME, MAX_RANK, METADATA};
use crate::weights::{Dtype, MAX_TENSORS};
use crate::{Error, Result, atomic};

/// Values that are converted at a time.
const PIECE: usize = 4096;

/// The description of a tensor that [`stream_safetensors`] is to write.
#[derive(Debug, Clone, Copy)]
pub struct TensorSpec<'a> {
    /// Its name, at most 256 bytes.
    pub name: &'a str,
    /// Extent of each dimension, outermost first.
    pub shape: &'a [usize],
    /// The floating-point type to store; values are rounded to the nearest.
    pub dtype: Dtype,
}

/// A tensor for [`write_safetensors`].
#[derive(Debug, Clone, Copy)]
pub struct TensorToWrite<'a> {
    /// Its name, at most 256 bytes.
    pub name: &'a str,
    /// Extent of each dimension, outermost first.
    pub shape: &'a [usize],
    /// The floating-point type to store; values are rounded to the nearest.
    pub dtype: Dtype,
    /// The values in row-major order.
    pub values: &'a [f32],
}

/// Writes tensors and metadata as a safetensors file, sorted by name, whole or not at all.
///
/// # Errors
/// As [`stream_safetensors`].
pub fn write_safetensors(
    path: &Path,
    tensors: &[TensorToWrite<'_>],
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let specs: Vec<_> =
        (tensors.iter()).map(|&TensorToWrite { name, shape, dtype, .. }| TensorSpec { name, shape, dtype }).collect();
    stream_safetensors(path, &specs, metadata, |index| Ok::<_, Error>(tensors[index].values))
}

/// Writes tensors and metadata as a safetensors file, sorted by name, whole or not at all. `values` is asked for the
/// values of one tensor of `tensors` after the other, each once and by its index, in row-major order; they are let go
/// before it is asked for the next, so that no more than one tensor is in memory.
///
/// # Errors
/// [`Error::Invalid`] if two tensors share a name, a name is too long or reserved, a shape does not fit its
/// values, the type is not floating-point, or there are more tensors or more metadata than a file may have;
/// [`Error::NotFinite`] if a value is not finite in the stored type, since such a file would not load; [`Error::Io`] if
/// it cannot be written; what `values` returns.
pub fn stream_safetensors<E: From<Error>, V: AsRef<[f32]>>(
    path: &Path,
    tensors: &[TensorSpec<'_>],
    metadata: &BTreeMap<String, String>,
    mut values: impl FnMut(usize) -> Result<V, E>,
) -> Result<(), E> {
    let mut sorted: Vec<_> = tensors.iter().enumerate().collect();
    sorted.sort_by_key(|(_, tensor)| tensor.name);
    let header = header(sorted.iter().map(|(_, tensor)| *tensor), metadata)?;
    atomic::write(path, |file| {
        let io_error = |e| Error::io(path, e);
        file.write_all(&(header.len() as u64).to_le_bytes()).map_err(io_error)?;
        file.write_all(&header).map_err(io_error)?;
        for (index, tensor) in sorted {
            write_values(tensor, values(index)?.as_ref(), file, path)?;
        }
        Ok(())
    })
}

/// An entry of the header.
#[derive(Serialize)]
#[serde(untagged)]
enum Entry<'a> {
    Metadata(&'a BTreeMap<String, String>),
    Tensor { data_offsets: [usize; 2], dtype: &'static str, shape: &'a [usize] },
}

fn header<'a>(
    sorted: impl ExactSizeIterator<Item = &'a TensorSpec<'a>>,
    metadata: &BTreeMap<String, String>,
) -> Result<Vec<u8>> {
    let invalid = |name: &str, message: String| Err(Error::invalid(format!("tensor {name:?}: {message}")));
    if sorted.len() > MAX_TENSORS {
        return Err(Error::invalid(format!("{} tensors, at most {MAX_TENSORS}", sorted.len())));
    }
    let mut entries = BTreeMap::new();
    if !metadata.is_empty() {
        entries.insert(METADATA, Entry::Metadata(metadata));
    }
    let mut from = 0_usize;
    for &TensorSpec { name, shape, dtype } in sorted {
        if name.len() > MAX_NAME || name == METADATA {
            return invalid(name, format!("a name must have at most {MAX_NAME} bytes and must not be {METADATA}"));
        }
        let dtype_name = match dtype {
            Dtype::F16 => "F16",
            Dtype::BF16 => "BF16",
            Dtype::F32 => "F32",
            Dtype::F64 => "F64",
            other => return invalid(name, format!("cannot be stored as {other:?}, only as a floating-point type")),
        };
        if shape.len() > MAX_RANK {
            return invalid(name, format!("has {} dimensions, at most {MAX_RANK}", shape.len()));
        }
        let bytes = shape.iter().try_fold(dtype.size(), |bytes, &extent| bytes.checked_mul(extent));
        let Some(to) = bytes.and_then(|bytes| from.checked_add(bytes)) else {
            return invalid(name, format!("the shape {shape:?} exceeds this machine's range"));
        };
        let entry = Entry::Tensor { data_offsets: [from, to], dtype: dtype_name, shape };
        if entries.insert(name, entry).is_some() {
            return invalid(name, "given twice".to_owned());
        }
        from = to;
    }
    let mut header = serde_json::to_vec(&entries).map_err(|e| Error::invalid(format!("safetensors header: {e}")))?;
    // Data aligned to 8 bytes can be used in place by readers that map the file.
    header.resize(header.len().next_multiple_of(8), b' ');
    if header.len() as u64 > MAX_HEADER {
        return Err(Error::invalid(format!("a safetensors header of {} bytes, at most {MAX_HEADER}", header.len())));
    }
    Ok(header)
}

fn write_values(tensor: &TensorSpec<'_>, values: &[f32], file: &mut impl Write, path: &Path) -> Result<()> {
    let TensorSpec { name, shape, dtype } = tensor;
    let all = values.len();
    if shape.iter().product::<usize>() != all {
        return Err(Error::invalid(format!("tensor {name:?}: {all} values do not fill {shape:?}")));
    }
    let mut overflowed = 0;
    let mut bytes = Vec::new();
    for values in values.chunks(PIECE) {
        bytes.clear();
        overflowed += match dtype {
            Dtype::F16 => {
                let mut halves = [f16::ZERO; PIECE];
                let halves = &mut halves[..values.len()];
                halves.convert_from_f32_slice(values);
                bytes.extend(halves.iter().flat_map(|value| value.to_le_bytes()));
                halves.iter().filter(|value| !value.is_finite()).count()
            }
            Dtype::BF16 => {
                let halves = values.iter().map(|&value| bf16::from_f32(value));
                bytes.extend(halves.clone().flat_map(bf16::to_le_bytes));
                halves.filter(|value| !value.is_finite()).count()
            }
            Dtype::F64 => {
                bytes.extend(values.iter().flat_map(|&value| f64::from(value).to_le_bytes()));
                values.iter().filter(|value| !value.is_finite()).count()
            }
            _ => {
                bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
                values.iter().filter(|value| !value.is_finite()).count()
            }
        };
        file.write_all(&bytes).map_err(|e| Error::io(path, e))?;
    }
    if overflowed > 0 {
        return Err(Error::NotFinite(format!(
            "tensor {name:?}: {overflowed} of {all} values are not finite as {dtype:?}"
        )));
    }
    Ok(())
}
