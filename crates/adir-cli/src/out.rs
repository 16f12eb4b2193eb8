//! Where results go: files that may be written, and answers on stdout. Whoever reads those may have seen enough
//! (`adir ... | head -1`): that is no failure.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write, stdout};
use std::path::Path;

use adir::io::atomic::{check_writable, refuse_overwrite};
use adir::{Error, Result};

/// What an error about stdout names instead of a file.
const STDOUT: &str = "<stdout>";

/// Prints a line as `println!` does, and returns an error where that would panic.
macro_rules! say {
    ($($part:tt)*) => { $crate::out::line(format_args!($($part)*)) };
}

/// What [`say!`] calls.
pub fn line(text: Arguments<'_>) -> Result<()> {
    writeln!(stdout().lock(), "{text}").map_err(|e| Error::io(STDOUT, e))
}

/// Whether the reader of stdout has left.
pub fn nobody_listens(error: &Error) -> bool {
    matches!(error, Error::Io { path, source }
        if path == Path::new(STDOUT) && source.kind() == ErrorKind::BrokenPipe)
}

/// Whether `output`, made from `input`, may and can be written: asked before anything is computed.
pub fn check_output(input: &Path, output: &Path, overwrite: bool) -> Result<()> {
    refuse_overwrite(input, output, overwrite)?;
    Ok(check_writable(output)?)
}
