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
        Self::Malformed { path: path.as_ref().to_owned(), message: message.into() }
    }

    pub(crate) fn unreadable(path: impl AsRef<Path>, source: io::Error) -> Self {
        Self::Unreadable { path: path.as_ref().to_owned(), source }
    }

    pub(crate) fn io(path: impl AsRef<Path>, source: io::Error) -> Self {
        Self::Io { path: path.as_ref().to_owned(), source }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid(message.into())
    }
}
