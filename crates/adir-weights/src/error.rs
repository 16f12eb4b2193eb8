//! One error type, by what went wrong.

use std::io;
use std::path::{Path, PathBuf};

/// Result of a call to this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong. The text says what was found and what was expected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file is missing, damaged, or not what it claims to be.
    #[error("{}: {message}", .path.display())]
    Malformed {
        /// The file (or `<name>` for bytes in memory).
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A file whose content does not matter here could not be read.
    #[error("{}: cannot be read: {source}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's own error.
        source: io::Error,
    },
    /// The operating system refused to write.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The path being written.
        path: PathBuf,
        /// The system's own error.
        source: io::Error,
    },
    /// What was to be written makes no valid file.
    #[error("{0}")]
    Invalid(String),
    /// A value to be written is not finite in the type it is stored as.
    #[error("{0}")]
    NotFinite(String),
}

impl Error {
    pub(crate) fn malformed(path: impl AsRef<Path>, message: impl Into<String>) -> Self {
        Self::Malformed { path: path.as_ref().to_owned(), message: abridged(message.into()) }
    }

    pub(crate) fn unreadable(path: impl AsRef<Path>, source: io::Error) -> Self {
        Self::Unreadable { path: path.as_ref().to_owned(), source }
    }

    pub(crate) fn io(path: impl AsRef<Path>, source: io::Error) -> Self {
        Self::Io { path: path.as_ref().to_owned(), source }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid(abridged(message.into()))
    }
}

/// A message of a length that can be read: names and shapes in it come from the file, which may hold megabytes of them.
fn abridged(message: String) -> String {
    const START: usize = 160;
    const END: usize = 120;
    if message.len() <= START + END {
        return message;
    }
    let (start, end) = (message.floor_char_boundary(START), message.ceil_char_boundary(message.len() - END));
    format!("{} [...] {}", &message[..start], &message[end..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_keep_their_start_and_their_end() {
        let message = |name: &str| Error::malformed("f", format!("tensor {name:?}: is bad")).to_string();
        assert_eq!(message("weight"), "f: tensor \"weight\": is bad");
        // Characters of three bytes, so that the places of the cuts fall into some of them.
        for extra in 0..3 {
            let long = message(&("x".repeat(extra) + &"\u{65e5}".repeat(1 << 20)));
            assert!(long.len() < 320 && long.starts_with("f: tensor") && long.ends_with(": is bad"), "{long}");
        }
    }
}
