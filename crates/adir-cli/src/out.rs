//! Output: files that may be written, and answers on stdout. A closed stdout (`adir ... | head -1`) is not a failure.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write, stdout};
use std::path::Path;

use adir::io::atomic::{check_writable, refuse_overwrite};
use adir::{Error, Result};

/// Path in errors about stdout.
const STDOUT: &str = "<stdout>";

/// Like `println!`, but returns an error instead of panicking.
macro_rules! say {
    ($($part:tt)*) => { $crate::out::line(format_args!($($part)*)) };
}

/// What [`say!`] calls.
pub fn line(text: Arguments<'_>) -> Result<()> {
    writeln!(stdout().lock(), "{text}").map_err(|e| Error::io(STDOUT, e))
}

/// Whether the error is a closed stdout.
pub fn nobody_listens(error: &Error) -> bool {
    matches!(error, Error::Io { path, source }
        if path == Path::new(STDOUT) && source.kind() == ErrorKind::BrokenPipe)
}

/// Checks that `output` may be written, before anything is computed.
pub fn check_output(input: &Path, output: &Path, overwrite: bool) -> Result<()> {
    refuse_overwrite(input, output, overwrite)?;
    Ok(check_writable(output)?)
}
