//! The JSON record beside a result: every value used and where it came from, enough to repeat the run.

use std::io::Write;
use std::path::{Path, PathBuf};

use adir::io::atomic;
use adir::{Error, Result};
use serde_json::{Value, json};

/// `x.json` for `x.png`.
pub fn path_for(output: &Path) -> PathBuf {
    output.with_extension("json")
}

/// Writes a record, whole or not at all.
pub fn write(path: &Path, record: &Value) -> Result<()> {
    atomic::write(path, |file| {
        let text = serde_json::to_string_pretty(record).map_err(|e| Error::config(format!("the record: {e}")))?;
        file.write_all(text.as_bytes()).and_then(|()| file.write_all(b"\n")).map_err(|e| Error::io(path, e))
    })
}

/// A number for JSON, which has no infinity: perfect agreement is written as the string `inf`.
pub fn number(value: f64) -> Value {
    if value.is_finite() { json!(value) } else { json!(value.to_string()) }
}
