//! The files of results, told by their names: `x.png` and its record `x.png.json`, the samples `x.1.png`, `x.2.png` ...,
//! and where they differ, `x.std.png` and `x.heat.png`. A folder of results holds a manifest, too.

use std::ffi::OsString;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::open_regular;

/// Of the names of manifests.
pub(crate) const MANIFEST_START: &str = "adir-manifest";
pub(crate) const MANIFEST_END: &str = ".jsonl";
/// Of the names of records: this follows the whole name of the image.
pub(crate) const RECORD_END: &str = ".json";
/// Records are some kilobytes: of what is longer, the end is not looked for.
pub(crate) const MOST_RECORD_BYTES: u64 = 1 << 26;

/// Samples of one result, at most.
pub(crate) const MOST_SAMPLES: usize = 1000;

/// Whether a file's name is that of a manifest of results.
pub(crate) fn is_manifest_name(name: &str) -> bool {
    name.starts_with(MANIFEST_START) && name.ends_with(MANIFEST_END)
}

/// The record of a result.
pub(crate) fn record_of(image: &Path) -> PathBuf {
    let mut record = OsString::from(image);
    record.push(RECORD_END);
    record.into()
}

/// The pictures of where samples differ, PNG whatever the image is: the map, and the image with the map over it.
pub(crate) fn maps_of(image: &Path) -> [PathBuf; 2] {
    ["std.png", "heat.png"].map(|end| image.with_extension(end))
}

/// The file of the k-th sample, counted from 1.
pub(crate) fn sample_of(image: &Path, k: usize) -> PathBuf {
    let mut end = OsString::from(format!("{k}."));
    end.push(image.extension().unwrap_or_default());
    image.with_extension(end)
}

/// The number of samples in a record, of whatever version; `None` for anything else.
pub(crate) fn samples_in(record: &Path) -> Option<usize> {
    #[derive(Deserialize)]
    struct Start {
        program: String,
        samples: usize,
    }
    let file = open_regular(record).ok()?;
    let start: Start = serde_json::from_reader(BufReader::new(file.take(MOST_RECORD_BYTES))).ok()?;
    start.program.starts_with("adir ").then_some(start.samples)
}
