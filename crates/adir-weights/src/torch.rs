//! PyTorch checkpoints: what `torch.save` writes (as a zip archive, and as the older plain stream) and
//! TorchScript archives. A pickle describes the tensors, their bytes lie beside it.
//!
//! Only tensors come out, named by the path that leads to them through dictionaries, lists and objects.

use std::collections::{BTreeMap, HashMap};

use crate::Result;
use crate::pickle::{Heap, Id, MAX_PICKLE, Node, Storage, Tensor};
use crate::source::{Packing, Region, Source};
use crate::weights::{Dtype, MAX_TENSORS, Stored, TensorInfo};
use crate::zip;

/// The pickle of the number that the older format begins with.
const LEGACY_MAGIC: [u8; 15] = *b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
/// The version of the older format, which is the second pickle.
const LEGACY_VERSION: i64 = 1001;
/// Deepest nesting of containers around a tensor.
const MAX_DEPTH: usize = 64;
/// Most values looked at in search of tensors.
const MAX_VISITS: usize = 1_000_000;
/// Longest key, in bytes, of a container that leads to a tensor.
const MAX_KEY: usize = 256;
/// Longest name of a tensor, and most bytes of all names together: a tensor that many paths lead to has many names.
const MAX_NAME: usize = 1024;
const MAX_NAMES: usize = 4 << 20;
/// Most bytes to pass over for nothing when every tensor is read by itself: so many times what the tensors hold, and so
/// many times the file.
const MAX_WASTE_OF_TENSORS: u64 = 16;
const MAX_WASTE_OF_FILE: u64 = 64;

/// Whether a file that begins so is one of these.
pub(crate) fn recognises(start: &[u8; 16]) -> bool {
    // A safetensors header of 64 MiB begins with the same four bytes; it goes on with zeros and a brace.
    let safetensors = start[4..9] == *b"\0\0\0\0{";
    (start.starts_with(&zip::SIGNATURE) && !safetensors) || start.starts_with(&LEGACY_MAGIC)
}

/// The tensors of a checkpoint, and every run of bytes in its file that has a checksum, in order. It is a zip archive with
/// these `entries`, or else the older stream.
pub(crate) fn read(
    source: &Source,
    entries: Option<BTreeMap<String, Region>>,
) -> Result<(BTreeMap<String, Stored>, Vec<Region>)> {
    let Content { heap, root, regions, checked } = match entries {
        Some(entries) => read_zip(source, entries),
        None => read_legacy(source),
    }?;
    let mut found = Search { heap: &heap, tensors: BTreeMap::new(), path: String::new(), names: 0, visits: 0 };
    found.visit(root, 0).map_err(|message| source.error(message))?;
    if found.tensors.is_empty() {
        return Err(source.error("the pickle describes no tensor"));
    }
    let mut tensors = BTreeMap::new();
    for (name, tensor) in found.tensors {
        let stored = place(&heap, tensor, &regions).map_err(|m| source.error(format!("tensor {name:?}: {m}")))?;
        tensors.insert(name, stored);
    }
    check_waste(&tensors, source.len()).map_err(|message| source.error(message))?;
    const WRAPPER: &str = "state_dict.";
    if tensors.keys().all(|name| name.starts_with(WRAPPER)) {
        tensors = tensors.into_iter().map(|(name, stored)| (name[WRAPPER.len()..].to_owned(), stored)).collect();
    }
    Ok((tensors, checked))
}

/// Where each storage's bytes lie, by its key.
type Regions = HashMap<String, Region>;

/// What a checkpoint holds, before the tensors in it are looked for.
struct Content {
    heap: Heap,
    root: Id,
    regions: Regions,
    checked: Vec<Region>,
}

fn read_zip(source: &Source, entries: BTreeMap<String, Region>) -> Result<Content> {
    let mut pickles = entries.keys().filter_map(|name| name.strip_suffix("data.pkl"));
    let mut folders = pickles.by_ref().filter(|folder| folder.matches('/').count() <= 1);
    let (Some(folder), None) = (folders.next(), folders.next()) else {
        return Err(source.error("not a PyTorch checkpoint: the zip archive must contain exactly one data.pkl"));
    };
    let entry = |name: &str| entries.get(&format!("{folder}{name}")).copied();
    if let Some(order) = entry("byteorder")
        && (order.len != 6 || source.read_region(order)? != b"little")
    {
        return Err(source.error("written on a big-endian machine"));
    }
    let pickle = entry("data.pkl").unwrap_or(Region::plain(0, 0));
    if pickle.len > MAX_PICKLE {
        return Err(source.error(format!("the pickle has {} bytes, but at most {MAX_PICKLE} are allowed", pickle.len)));
    }
    let pickle = source.read_region(pickle)?;
    let mut heap = Heap::default();
    let (root, _) = heap.load(&pickle).map_err(|message| source.error(message))?;
    let mut regions = Regions::new();
    let data = format!("{folder}data/");
    for (name, region) in &entries {
        if let Some(key) = name.strip_prefix(&data) {
            regions.insert(key.to_owned(), *region);
        }
    }
    Ok(Content { heap, root, regions, checked: zip::checked(entries.into_values()) })
}

/// The older stream: pickles of a magic number, a version, the writing system, the content and the
/// storages' keys, then each storage in that order as a count of elements and its bytes.
fn read_legacy(source: &Source) -> Result<Content> {
    let bytes = source.read_vec(0, source.len().min(MAX_PICKLE))?;
    let mut heap = Heap::default();
    let mut at = LEGACY_MAGIC.len();
    let mut next = |heap: &mut Heap| {
        let (root, len) = heap.load(bytes.get(at..).unwrap_or_default()).map_err(|message| source.error(message))?;
        at += len;
        Ok::<_, crate::Error>((root, at as u64))
    };
    let (version, _) = next(&mut heap)?;
    if !matches!(heap.get(version), Node::Int(LEGACY_VERSION)) {
        return Err(source.error(format!("unknown version of the PyTorch stream, expected {LEGACY_VERSION}")));
    }
    let (system, _) = next(&mut heap)?;
    if is_big_endian(&heap, system) {
        return Err(source.error("written on a big-endian machine"));
    }
    let (root, _) = next(&mut heap)?;
    let (keys, mut offset) = next(&mut heap)?;
    let storages: HashMap<&str, &Storage> = (heap.nodes().iter())
        .filter_map(|node| match node {
            Node::Storage(storage) => heap.text(storage.key).map(|key| (key, &**storage)),
            _ => None,
        })
        .collect();
    let Node::List(keys) = heap.get(keys) else {
        return Err(source.error("the PyTorch stream has no list of storages"));
    };
    let mut regions = Regions::new();
    for key in keys {
        let known = heap.text(*key).and_then(|key| Some((key, storages.get(key)?)));
        let (key, storage) = known.ok_or_else(|| source.error("lists a storage of an unknown type"))?;
        let mut count = [0; 8];
        source.read_exact_at(offset, &mut count)?;
        let len = byte_len(storage.dtype, storage.len).filter(|_| u64::from_le_bytes(count) == storage.len);
        let end = len.and_then(|len| offset.checked_add(8)?.checked_add(len)).filter(|&end| end <= source.len());
        let (Some(len), Some(end)) = (len, end) else {
            let len = storage.len;
            return Err(source.error(format!("storage {key:?} has fewer than {len} elements: the file is damaged")));
        };
        regions.insert(key.to_owned(), Region::plain(offset + 8, len));
        offset = end;
    }
    Ok(Content { heap, root, regions, checked: Vec::new() })
}

fn is_big_endian(heap: &Heap, system: Id) -> bool {
    let Node::Map(map) = heap.get(system) else { return false };
    map.items.iter().any(|(key, value)| {
        matches!((heap.get(*key), heap.get(*value)), (Node::Text(key), Node::Bool(false)) if &**key == "little_endian")
    })
}

fn byte_len(dtype: Dtype, elements: u64) -> Option<u64> {
    elements.checked_mul(dtype.size() as u64)
}

/// Checks that every element of a tensor lies inside its storage and the storage inside the file.
fn place(heap: &Heap, tensor: &Tensor, regions: &Regions) -> Result<Stored, String> {
    let Node::Storage(storage) = heap.get(tensor.storage) else {
        return Err("has no storage".to_owned());
    };
    let key = heap.text(storage.key).unwrap_or_default();
    let region = regions.get(key).copied().ok_or_else(|| format!("storage {key:?} is not in the file"))?;
    if byte_len(storage.dtype, storage.len).is_none_or(|len| len > region.len) {
        let (elements, bytes) = (storage.len, region.len);
        return Err(format!("storage {key:?} declares {elements} elements and has {bytes} bytes"));
    }
    let Tensor { first, shape, strides, .. } = tensor;
    // Also refuses a stride of zero that repeats elements: a small file could then fill any memory.
    let count = shape.iter().try_fold(1_u64, |count, &extent| count.checked_mul(extent as u64));
    let extents = shape.iter().zip(strides);
    let last = extents.clone().try_fold(*first, |last, (&extent, stride)| {
        last.checked_add(stride.checked_mul((extent as u64).saturating_sub(1))?)
    });
    let fits = match count {
        Some(0) => *first <= storage.len,
        Some(count) => count <= storage.len && last.is_some_and(|last| last < storage.len),
        None => false,
    };
    if !fits {
        let len = storage.len;
        return Err(format!(
            "shape {shape:?}, strides {strides:?} and offset {first} exceed its storage of {len} elements"
        ));
    }
    let mut expected = 1_u64;
    let mut row_major = true;
    for (&extent, &stride) in extents.rev() {
        row_major &= extent <= 1 || stride == expected;
        expected = expected.saturating_mul(extent.max(1) as u64);
    }
    let strides = (!row_major).then(|| strides.clone());
    let info = TensorInfo { dtype: storage.dtype, shape: shape.clone() };
    Ok(Stored { info, region, first: *first, strides, scales: None })
}

/// Refuses files in which a little of what the tensors hold lies far apart in much that is none of theirs: each of a few
/// values strided over a storage that inflates to a gigabyte takes a gigabyte of inflating to read.
fn check_waste(tensors: &BTreeMap<String, Stored>, file: u64) -> Result<(), String> {
    let mut wasted = 0_u64;
    let mut held = HashMap::new();
    for stored in tensors.values() {
        let own = stored.count() as u64 * stored.info.dtype.size() as u64;
        if own == 0 {
            continue;
        }
        let passed = match stored.region.packing {
            Packing::Stored => stored.span() * stored.info.dtype.size() as u64,
            Packing::Deflated { .. } => stored.region.len,
        };
        wasted = wasted.saturating_add(passed.saturating_sub(own));
        let bytes = held.entry(stored.region.offset).or_insert(0_u64);
        *bytes = bytes.saturating_add(own).min(stored.region.len);
    }
    // What several tensors share counts once.
    let held = held.into_values().fold(0, u64::saturating_add);
    let most = held.saturating_mul(MAX_WASTE_OF_TENSORS).saturating_add(file.saturating_mul(MAX_WASTE_OF_FILE));
    if wasted > most {
        return Err(format!(
            "to read its tensors one by one would mean to go through {wasted} bytes that belong to none of them, at most \
             {most} for tensors of {held} bytes"
        ));
    }
    Ok(())
}

/// The walk from the root to every tensor.
struct Search<'a> {
    heap: &'a Heap,
    tensors: BTreeMap<String, &'a Tensor>,
    /// The name of the value being visited, without the leading dot.
    path: String,
    /// Bytes of all names found.
    names: usize,
    visits: usize,
}

impl<'a> Search<'a> {
    fn visit(&mut self, id: Id, depth: usize) -> Result<(), String> {
        self.visits += 1;
        if self.visits > MAX_VISITS {
            return Err(format!("more than {MAX_VISITS} values: the search for tensors stops"));
        }
        if depth > MAX_DEPTH {
            return Err(format!("containers nested more than {MAX_DEPTH} deep"));
        }
        match self.heap.get(id) {
            Node::Tensor(tensor) => {
                let name = if self.path.is_empty() { "tensor" } else { &self.path };
                self.names += name.len();
                if name.len() > MAX_NAME {
                    return Err(format!("tensor {name:?}: a name of {} bytes, at most {MAX_NAME}", name.len()));
                }
                if self.names > MAX_NAMES || self.tensors.len() == MAX_TENSORS {
                    return Err(format!("more than {MAX_TENSORS} tensors, or names of more than {MAX_NAMES} bytes"));
                }
                if self.tensors.insert(name.to_owned(), tensor).is_some() {
                    return Err(format!("two tensors are named {:?}", self.path));
                }
            }
            Node::List(items) => self.visit_numbered(items, depth)?,
            Node::Tuple(items) => self.visit_numbered(items, depth)?,
            Node::Map(map) => {
                for (key, value) in &map.items {
                    match self.heap.get(*key) {
                        Node::Text(key) => self.visit_child(key, *value, depth)?,
                        Node::Int(key) => self.visit_child(&key.to_string(), *value, depth)?,
                        // Other keys name nothing, and what they lead to is not a model's.
                        _ => {}
                    }
                }
                if let Some(attributes) = map.attributes {
                    self.visit(attributes, depth + 1)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn visit_numbered(&mut self, items: &[Id], depth: usize) -> Result<(), String> {
        items.iter().enumerate().try_for_each(|(number, item)| self.visit_child(&number.to_string(), *item, depth))
    }

    fn visit_child(&mut self, key: &str, value: Id, depth: usize) -> Result<(), String> {
        if !matches!(self.heap.get(value), Node::Tensor(_) | Node::List(_) | Node::Tuple(_) | Node::Map(_)) {
            return Ok(());
        }
        if key.len() > MAX_KEY {
            return Err(format!("a key has {} bytes, but at most {MAX_KEY} are allowed", key.len()));
        }
        let parent = self.path.len();
        if parent > 0 {
            self.path.push('.');
        }
        self.path.push_str(key);
        self.visit(value, depth + 1)?;
        self.path.truncate(parent);
        Ok(())
    }
}
