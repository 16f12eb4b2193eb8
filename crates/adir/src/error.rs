//! One error type, by fault: whose mistake it was decides what the program says and how it exits.

use std::path::{Path, PathBuf};

/// Result of a library call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, sorted by whose fault it is. The text says what was found and what was expected;
/// the program adds what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An input file (image, mask, kernel, gallery) is missing, damaged or of the wrong kind.
    #[error("{}: {message}", .path.display())]
    Input {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A model file is missing, damaged, or does not fit the network it claims to be.
    #[error("{}: {message}", .path.display())]
    Model {
        /// The file (or `<embedded>`).
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A setting is invalid by itself or does not fit the input.
    #[error("{0}")]
    Config(String),
    /// The work does not fit the machine or exceeds a safety limit (memory, disk, image size).
    #[error("{0}")]
    Limits(String),
    /// A computation produced a value that is not finite.
    #[error("{0}")]
    Numerical(String),
    /// The tensor backend or the device failed.
    #[error("{0}")]
    Backend(String),
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// The operating system refused to read or write.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The path being read or written.
        path: PathBuf,
        /// The system's own error.
        source: std::io::Error,
    },
}

impl Error {
    /// An [`Error::Input`] about `path`.
    pub fn input(path: impl AsRef<Path>, message: impl Into<String>) -> Self {
        Self::Input { path: path.as_ref().to_owned(), message: message.into() }
    }

    /// An [`Error::Model`] about `path`.
    pub fn model(path: impl AsRef<Path>, message: impl Into<String>) -> Self {
        Self::Model { path: path.as_ref().to_owned(), message: message.into() }
    }

    /// An [`Error::Config`].
    pub fn config(message: impl Into<String>) -> Self {
        Self::Config(message.into())
    }

    /// An [`Error::Io`] about `path`.
    pub fn io(path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::Io { path: path.as_ref().to_owned(), source }
    }
}

impl From<adir_weights::Error> for Error {
    fn from(error: adir_weights::Error) -> Self {
        use adir_weights::Error as Weights;
        match error {
            Weights::Malformed { path, message } => Self::Model { path, message },
            Weights::Unreadable { path, source } => Self::input(path, format!("cannot be read: {source}")),
            Weights::Io { path, source } => Self::Io { path, source },
            Weights::NotFinite(message) => Self::Numerical(message),
            Weights::Invalid(message) => Self::Config(message),
            // Of a later version: what is wrong is said, if not whose fault it is.
            other => Self::Config(other.to_string()),
        }
    }
}
