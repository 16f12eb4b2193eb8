//! NumPy's `.npz` files: a zip archive with a `.npy` file for each array.

use std::collections::BTreeMap;

use crate::Result;
use crate::source::{Region, Source};
use crate::weights::{MAX_TENSORS, Stored, TensorInfo};
use crate::{npy, zip};

const END: &str = ".npy";

/// Whether an archive with these entries is one.
pub(crate) fn recognises(entries: &BTreeMap<String, Region>) -> bool {
    !entries.is_empty() && entries.keys().all(|name| name.ends_with(END))
}

/// The arrays of an archive by their names, and the runs of bytes that have a checksum, in order. Arrays of kinds that weights
/// do not have, such as records and text, are left out.
pub(crate) fn read(
    source: &Source,
    entries: BTreeMap<String, Region>,
) -> Result<(BTreeMap<String, Stored>, Vec<Region>)> {
    if entries.len() > MAX_TENSORS {
        return Err(source.error(format!("{} arrays, at most {MAX_TENSORS} are allowed", entries.len())));
    }
    let mut tensors = BTreeMap::new();
    for (name, region) in &entries {
        let name = name.strip_suffix(END).unwrap_or(name);
        let start = source.read_start(*region, npy::MAX_START as u64)?;
        let bad = |message: String| source.error(format!("array {name:?}: {message}"));
        if let Some(array) = npy::array(&start).map_err(bad)? {
            tensors.insert(name.to_owned(), place(array, *region).map_err(bad)?);
        }
    }
    Ok((tensors, zip::checked(entries.into_values())))
}

/// Checks that an array fills its entry.
fn place(array: npy::Array, region: Region) -> Result<Stored, String> {
    let npy::Array { dtype, by_columns, extents: shape, start } = array;
    let size = dtype.size() as u64;
    let bytes = shape.iter().try_fold(size, |bytes, &extent| bytes.checked_mul(extent as u64));
    let left = region.len.checked_sub(start);
    if bytes.is_none() || bytes != left {
        let left = left.unwrap_or(0);
        return Err(format!("shape {shape:?} does not fit {left} bytes of {size} each"));
    }
    if !start.is_multiple_of(size) {
        return Err(format!("its numbers begin at byte {start}, which is no multiple of {size}"));
    }
    let by_columns = by_columns && shape.iter().filter(|extent| **extent > 1).count() > 1;
    let strides = by_columns.then(|| {
        let next = |stride: &mut u64, extent: &usize| {
            let own = *stride;
            *stride = own.saturating_mul((*extent).max(1) as u64);
            Some(own)
        };
        shape.iter().scan(1, next).collect()
    });
    Ok(Stored { info: TensorInfo { dtype, shape }, region, first: start / size, strides, scales: None })
}
