//! Reading the safetensors format: a length, a JSON header, then the tensors' bytes back to back.
//!
//! The header is parsed here and not by the upstream crate, which wants the whole file in memory.
//! Everything a header can claim is checked before any tensor is read: each byte of the data belongs to
//! exactly one tensor, as upstream demands too, so that no file can hide content between tensors.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::Result;
use crate::source::{Region, Source};
use crate::weights::{Dtype, MAX_TENSORS, Stored, TensorInfo};

/// Largest header in bytes, as in the reference implementation.
pub(crate) const MAX_HEADER: u64 = 100_000_000;
/// Longest tensor name in bytes.
pub(crate) const MAX_NAME: usize = 256;
/// Most dimensions of a tensor, as in PyTorch.
pub(crate) const MAX_RANK: usize = 64;
/// The key of the free-form metadata.
pub(crate) const METADATA: &str = "__metadata__";

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
    let mut tensors = check(header.tensors, 8 + length, source.len()).map_err(|message| source.error(message))?;
    join_scales(&mut tensors);
    Ok((tensors, header.metadata))
}

/// Checks what the header claims against the file: `data` is where the tensors' bytes begin, `end` the
/// file's length.
fn check(described: Vec<(String, Described)>, data: u64, end: u64) -> Result<BTreeMap<String, Stored>, String> {
    let mut tensors = BTreeMap::new();
    let mut places = Vec::with_capacity(described.len());
    for (name, Described { dtype, shape: Shape(shape), data_offsets: [from, to] }) in described {
        let dtype = parse_dtype(&dtype).ok_or_else(|| format!("tensor {name:?}: unknown element type {dtype:?}"))?;
        let bytes = shape.iter().try_fold(dtype.size(), |bytes, &extent| bytes.checked_mul(extent));
        if bytes.is_none_or(|bytes| from.checked_add(bytes as u64) != Some(to)) {
            return Err(format!("tensor {name:?}: {dtype:?} {shape:?} does not fill bytes {from}..{to}"));
        }
        if to > end - data {
            return Err(format!("tensor {name:?}: bytes {from}..{to} lie beyond the {} of data", end - data));
        }
        places.push((from, to, name.clone()));
        let region = Region::plain(data + from, to - from);
        let stored = Stored { info: TensorInfo { dtype, shape }, region, first: 0, strides: None, scales: None };
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
        return Err(format!("{} bytes of data, but the tensors need {expected}", end - data));
    }
    Ok(tensors)
}

/// Gives signed 8-bit integers NAME the factors in NAME_scale, [n] or [n, 1 ...] for n indices of their first dimension.
fn join_scales(tensors: &mut BTreeMap<String, Stored>) {
    let fits = |name: &str| {
        let (weights, scales) = (tensors.get(name)?, tensors.get(&format!("{name}_scale"))?);
        let (first, of) = (weights.info.shape.first()?, scales.info.shape.split_first()?);
        let by_first = of.0 == first && of.1.iter().all(|&extent| extent == 1);
        (weights.info.dtype == Dtype::I8 && scales.info.dtype.is_float() && by_first).then_some(())
    };
    let names: Vec<String> = tensors.keys().filter(|name| fits(name).is_some()).cloned().collect();
    for name in names {
        let scales = tensors.remove(&format!("{name}_scale"));
        if let Some(weights) = tensors.get_mut(&name) {
            weights.scales = scales.map(Box::new);
        }
    }
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
    shape: Shape,
    data_offsets: [u64; 2],
}

/// Extents, of which there are not many: two bytes of text make eight bytes of extent.
struct Shape(Vec<usize>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ShapeVisitor;
        impl<'de> Visitor<'de> for ShapeVisitor {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of extents")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Shape, A::Error> {
                let mut shape = Vec::new();
                while let Some(extent) = list.next_element()? {
                    if shape.len() == MAX_RANK {
                        return Err(de::Error::custom(format_args!("a shape of more than {MAX_RANK} extents")));
                    }
                    shape.push(extent);
                }
                Ok(Shape(shape))
            }
        }
        deserializer.deserialize_seq(ShapeVisitor)
    }
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
