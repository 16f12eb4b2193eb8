//! Output: answers on stdout, and what a terminal shows of names. A closed stdout (`adir ... | head -1`) is not a failure.

use std::borrow::Cow;
use std::fmt::Arguments;
use std::io::{ErrorKind, IsTerminal, Write, stdout};
use std::path::Path;

use adir::io::plain;
use adir::{Error, Result};

/// Path in errors about stdout.
const STDOUT: &str = "<stdout>";

/// Like `println!`, but returns an error instead of panicking.
macro_rules! say {
    ($($part:tt)*) => { $crate::out::line(format_args!($($part)*)) };
}

/// What [`say!`] calls.
pub fn line(text: Arguments<'_>) -> Result<()> {
    let mut out = stdout().lock();
    let written = match out.is_terminal() {
        true => writeln!(out, "{}", plain::lines(&text.to_string())),
        // Programs get names as they are.
        false => writeln!(out, "{text}"),
    };
    written.map_err(failed)
}

/// A name as a line shows it: on one line in a terminal; programs get it as it is.
pub fn name(text: &str) -> Cow<'_, str> {
    if stdout().is_terminal() { plain::one_line(text) } else { text.into() }
}

/// An error of stdout.
pub fn failed(error: std::io::Error) -> Error {
    Error::io(STDOUT, error)
}

/// Whether the error is a closed stdout.
pub fn nobody_listens(error: &Error) -> bool {
    matches!(error, Error::Io { path, source }
        if path == Path::new(STDOUT) && source.kind() == ErrorKind::BrokenPipe)
}
