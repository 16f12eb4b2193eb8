//! The configuration file beside a weights file.

use std::io::Read;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// A configuration is a few hundred bytes; more than this is something else.
const MOST_BYTES: u64 = 64 * 1024;

/// The `.json` file that belongs to a weights file: `NAME.json` beside `NAME.pt`, `NAME.safetensors` or
/// `NAME.weights.safetensors`.
pub fn beside(weights: &Path) -> Option<PathBuf> {
    let stem = weights.with_extension("");
    [append(&stem, ".json"), stem.with_extension("json")].into_iter().find(|path| path.is_file())
}

/// `path` with `suffix` after its last letter, dots or not.
fn append(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The text of a configuration file.
///
/// # Errors
/// [`Error::Model`] when it cannot be read, is longer than 64 kB, or is not text.
pub fn sidecar_config(path: &Path) -> Result<String> {
    let fault = |e: std::io::Error| Error::model(path, format!("cannot be read: {e}"));
    let mut text = String::new();
    super::open_regular(path).map_err(fault)?.take(MOST_BYTES + 1).read_to_string(&mut text).map_err(fault)?;
    if text.len() as u64 > MOST_BYTES {
        return Err(Error::model(path, format!("the configuration has more than {MOST_BYTES} bytes")));
    }
    Ok(text)
}
