//! Opening files that were named by others.

use std::fs::{self, File};
use std::io;
use std::path::Path;

/// Opens a regular file for reading. What else may have its name, a pipe or a device, might never answer.
///
/// # Errors
/// The system's, and one for what is no regular file.
pub fn open_regular(path: &Path) -> io::Result<File> {
    // Asked before: a pipe without a writer keeps whoever opens it.
    if fs::metadata(path)?.is_file() { File::open(path) } else { Err(io::Error::other("is not a regular file")) }
}
