//! Output: answers on stdout, and what a terminal shows of names. A closed stdout (`adir ... | head -1`) is not a failure.

use std::borrow::Cow;
use std::fmt::Arguments;
use std::io::{ErrorKind, IsTerminal, Write, stdout};
use std::path::Path;

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
        true => writeln!(out, "{}", escaped(&text.to_string())),
        // Programs get names as they are.
        false => writeln!(out, "{text}"),
    };
    written.map_err(failed)
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

/// A text whose control characters, lines and tabs aside, are written out: the names of files may hold any, and a terminal
/// obeys them.
pub fn escaped(text: &str) -> Cow<'_, str> {
    let obeyed = |c: char| (c.is_control() && c != '\n' && c != '\t') || is_bidi(c);
    if !text.contains(obeyed) {
        return text.into();
    }
    let mut plain = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if obeyed(c) { plain.extend(c.escape_unicode()) } else { plain.push(c) }
    }
    plain.into()
}

/// Whether a character turns the direction of the text around it.
fn is_bidi(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn what_a_terminal_obeys_is_written_out() {
        assert_eq!(escaped("a\tb\nĉ é 漢"), "a\tb\nĉ é 漢");
        assert_eq!(escaped("\u{1b}[31mred\r\u{7}.png"), "\\u{1b}[31mred\\u{d}\\u{7}.png");
        assert_eq!(escaped("\u{9b}2J\u{202e}gnp"), "\\u{9b}2J\\u{202e}gnp");
    }
}
