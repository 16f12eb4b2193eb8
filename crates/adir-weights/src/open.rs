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
    match fs::metadata(path)? {
        found if found.is_file() => File::open(path),
        found if found.is_dir() => Err(io::Error::new(io::ErrorKind::IsADirectory, "is a folder, expected a file")),
        _ => Err(io::Error::other("is a pipe, a socket or a device, expected a file")),
    }
}
