//! The safetensors format: a length, a JSON header, then the tensors' bytes back to back.
//!
//! The header is parsed here and not by the upstream crate, which wants the whole file in memory.
//! Everything a header can claim is checked before any tensor is read: each byte of the data belongs to
//! exactly one tensor, as upstream demands too, so that no file can hide content between tensors.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Write;
use std::path::Path;

use half::{bf16, f16};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};

use crate::source::{Region, Source};
use crate::weights::{Dtype, Stored, TensorInfo};
use crate::{Error, Result, atomic};

/// Largest header in bytes, as in the reference implementation.
const MAX_HEADER: u64 = 100_000_000;
/// Most tensors in a file.
const MAX_TENSORS: usize = 20_000;
/// Longest tensor name in bytes.
const MAX_NAME: usize = 256;
/// The key of the free-form metadata.
const METADATA: &str = "__metadata__";

type Contents = (BTreeMap<String, Stored>, BTreeMap<String, String>);

/// The tensors and the metadata of a safetensors file.
pub(crate) fn read(source: &Source) -> Result<Contents> {
    let mut length = [0; 8];
    if source.len() < 8 {
        return Err(
            source.error(format!("neither a safetensors file nor a PyTorch checkpoint: {} bytes", source.len()))
        );
    }
    source.read_exact_at(0, &mut length)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER || length > source.len() - 8 {
        return Err(source.error(format!(
            "neither a safetensors file nor a PyTorch checkpoint (a safetensors header of {length} bytes in a file of {})",
            source.len()
        )));
    }
    let bytes = source.read_vec(8, length)?;
    if bytes.first() != Some(&b'{') {
        return Err(source.error("neither a safetensors file nor a PyTorch checkpoint (no header)"));
    }
    let header: Header =
        serde_json::from_slice(&bytes).map_err(|e| source.error(format!("safetensors header: {e}")))?;
    let tensors = check(header.tensors, 8 + length, source.len()).map_err(|message| source.error(message))?;
    Ok((tensors, header.metadata))
}

/// Checks what the header claims against the file: `data` is where the tensors' bytes begin, `end` the
/// file's length.
fn check(described: Vec<(String, Described)>, data: u64, end: u64) -> Result<BTreeMap<String, Stored>, String> {
    let mut tensors = BTreeMap::new();
    let mut places = Vec::with_capacity(described.len());
    for (name, Described { dtype, shape, data_offsets: [from, to] }) in described {
        let dtype = parse_dtype(&dtype).ok_or_else(|| format!("tensor {name:?}: element type {dtype:?} is unknown"))?;
        let bytes = shape.iter().try_fold(dtype.size(), |bytes, &extent| bytes.checked_mul(extent));
        if bytes.is_none_or(|bytes| from.checked_add(bytes as u64) != Some(to)) {
            return Err(format!("tensor {name:?}: {dtype:?} {shape:?} does not fill bytes {from}..{to}"));
        }
        if to > end - data {
            return Err(format!("tensor {name:?}: bytes {from}..{to} lie beyond the {} of data", end - data));
        }
        places.push((from, to, name.clone()));
        let region = Region::Raw { offset: data + from, len: to - from };
        let stored = Stored { info: TensorInfo { dtype, shape }, region, first: 0, strides: None };
        tensors.insert(name, stored);
    }
    places.sort_unstable();
    let mut expected = 0;
    for (from, to, name) in places {
        if from != expected {
            return Err(format!(
                "tensor {name:?} begins at byte {from}, expected {expected}: tensors overlap or leave a gap"
            ));
        }
        expected = to;
    }
    if expected != end - data {
        return Err(format!("{} bytes of data, but its tensors take {expected}", end - data));
    }
    Ok(tensors)
}

fn parse_dtype(text: &str) -> Option<Dtype> {
    Some(match text {
        "F16" => Dtype::F16,
        "BF16" => Dtype::BF16,
        "F32" => Dtype::F32,
        "F64" => Dtype::F64,
        "I64" => Dtype::I64,
        "I32" => Dtype::I32,
        "I16" => Dtype::I16,
        "I8" => Dtype::I8,
        "U8" => Dtype::U8,
        "BOOL" => Dtype::Bool,
        _ => return None,
    })
}

/// One entry of the header.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Described {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

struct Header {
    tensors: Vec<(String, Described)>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

/// Reads the header's map entry by entry: serde's own maps let a repeated key replace the first.
struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
        let mut header = Header { tensors: Vec::new(), metadata: BTreeMap::new() };
        let mut seen = BTreeSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if name.len() > MAX_NAME {
                return Err(de::Error::custom(format_args!("a name of {} bytes, at most {MAX_NAME}", name.len())));
            }
            if !seen.insert(name.clone()) {
                return Err(de::Error::custom(format_args!("{name:?} appears twice")));
            }
            if name == METADATA {
                header.metadata = map.next_value::<Metadata>()?.0;
            } else if header.tensors.len() == MAX_TENSORS {
                return Err(de::Error::custom(format_args!("more than {MAX_TENSORS} tensors")));
            } else {
                header.tensors.push((name, map.next_value()?));
            }
        }
        Ok(header)
    }
}

/// Text to text, without repeated keys.
struct Metadata(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MetadataVisitor;
        impl<'de> Visitor<'de> for MetadataVisitor {
            type Value = Metadata;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of text to text")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Metadata, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some((key, value)) = map.next_entry::<String, String>()? {
                    if entries.insert(key.clone(), value).is_some() {
                        return Err(de::Error::custom(format_args!("metadata {key:?} appears twice")));
                    }
                }
                Ok(Metadata(entries))
            }
        }
        deserializer.deserialize_map(MetadataVisitor)
    }
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
/// [`Error::Invalid`] if two tensors share a name, a name is too long or reserved, a shape does not fit its
/// values, or the type is not floating-point; [`Error::NotFinite`] if a value is not finite in the stored
/// type, since such a file would not load; [`Error::Io`] if it cannot be written.
pub fn write_safetensors(
    path: &Path,
    tensors: &[TensorToWrite<'_>],
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let mut sorted: Vec<_> = tensors.iter().collect();
    sorted.sort_by_key(|tensor| tensor.name);
    let header = header(&sorted, metadata)?;
    atomic::write(path, |file| {
        let io_error = |e| Error::io(path, e);
        file.write_all(&(header.len() as u64).to_le_bytes()).map_err(io_error)?;
        file.write_all(&header).map_err(io_error)?;
        for tensor in sorted {
            write_values(tensor, file, path)?;
        }
        Ok(())
    })
}

fn header(sorted: &[&TensorToWrite<'_>], metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    let invalid = |name: &str, message: String| Err(Error::invalid(format!("tensor {name:?}: {message}")));
    let mut entries = serde_json::Map::new();
    if !metadata.is_empty() {
        entries.insert(METADATA.to_owned(), serde_json::json!(metadata));
    }
    let mut from = 0;
    for TensorToWrite { name, shape, dtype, values } in sorted {
        if name.len() > MAX_NAME || *name == METADATA {
            return invalid(name, format!("names have at most {MAX_NAME} bytes and are not {METADATA}"));
        }
        let dtype_name = match dtype {
            Dtype::F16 => "F16",
            Dtype::BF16 => "BF16",
            Dtype::F32 => "F32",
            Dtype::F64 => "F64",
            other => return invalid(name, format!("cannot be stored as {other:?}, only as a floating-point type")),
        };
        if shape.iter().try_fold(1_usize, |n, &extent| n.checked_mul(extent)) != Some(values.len()) {
            return invalid(name, format!("{} values do not fill {shape:?}", values.len()));
        }
        let to = from + values.len() * dtype.size();
        let entry = serde_json::json!({ "dtype": dtype_name, "shape": shape, "data_offsets": [from, to] });
        if entries.insert((*name).to_owned(), entry).is_some() {
            return invalid(name, "given twice".to_owned());
        }
        from = to;
    }
    let mut header = serde_json::to_vec(&entries).map_err(|e| Error::invalid(format!("safetensors header: {e}")))?;
    // Data aligned to 8 bytes can be used in place by readers that map the file.
    header.resize(header.len().next_multiple_of(8), b' ');
    Ok(header)
}

fn write_values(tensor: &TensorToWrite<'_>, file: &mut impl Write, path: &Path) -> Result<()> {
    let mut overflowed = 0_usize;
    for &value in tensor.values {
        let finite = match tensor.dtype {
            Dtype::F16 => f16::from_f32(value).is_finite(),
            Dtype::BF16 => bf16::from_f32(value).is_finite(),
            _ => value.is_finite(),
        };
        overflowed += usize::from(!finite);
        match tensor.dtype {
            Dtype::F16 => file.write_all(&f16::from_f32(value).to_le_bytes()),
            Dtype::BF16 => file.write_all(&bf16::from_f32(value).to_le_bytes()),
            Dtype::F64 => file.write_all(&f64::from(value).to_le_bytes()),
            _ => file.write_all(&value.to_le_bytes()),
        }
        .map_err(|e| Error::io(path, e))?;
    }
    if overflowed > 0 {
        let TensorToWrite { name, dtype, values, .. } = tensor;
        let all = values.len();
        return Err(Error::NotFinite(format!(
            "tensor {name:?}: {overflowed} of {all} values are not finite as {dtype:?}"
        )));
    }
    Ok(())
}
