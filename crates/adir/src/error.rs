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
    #[error("{}: {message}", shown(path))]
    Input {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A model file is missing, damaged, or does not fit the network it claims to be.
    #[error("{}: {message}", shown(path))]
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
    /// An image, read or to be written, is larger than is allowed.
    #[error("{}: {message}", shown(path))]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size, and what is allowed.
        message: String,
        /// Bytes of memory that would have to be allowed for it, see [`Limits::within`](crate::io::limits::Limits::within).
        memory: u64,
    },
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
    #[error("{}: {source}", shown(path))]
    Io {
        /// The path being read or written.
        path: PathBuf,
        /// The system's own error.
        source: std::io::Error,
    },
}

/// A path as messages show it: a long one without its middle.
fn shown(path: &Path) -> String {
    const LONGEST: usize = 200;
    let text = path.to_string_lossy();
    let count = text.chars().count();
    if count <= LONGEST {
        return text.into_owned();
    }
    let (start, end) = (text.chars().take(LONGEST / 2), text.chars().skip(count - LONGEST / 4));
    let left_out = count - LONGEST / 2 - LONGEST / 4;
    format!("{}[... {left_out} characters ...]{}", start.collect::<String>(), end.collect::<String>())
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

    /// An [`Error::Limits`] for what needs `need` bytes of memory where `free` may be taken.
    pub fn short_of_memory(need: u64, free: u64) -> Self {
        let [need, free] = [need, free].map(|bytes| bytes as f64 / 1e9);
        Self::Limits(format!("this needs about {need:.2} GB of memory, but may take only {free:.2} GB"))
    }

    /// The same error with the message that `change` makes of its own; one without a message stays as it is.
    pub(crate) fn reworded(self, change: impl FnOnce(String) -> String) -> Self {
        match self {
            Self::Input { path, message } => Self::Input { path, message: change(message) },
            Self::Model { path, message } => Self::Model { path, message: change(message) },
            Self::TooLarge { path, message, memory } => Self::TooLarge { path, message: change(message), memory },
            Self::Config(message) => Self::Config(change(message)),
            Self::Limits(message) => Self::Limits(change(message)),
            Self::Numerical(message) => Self::Numerical(change(message)),
            Self::Backend(message) => Self::Backend(change(message)),
            Self::Interrupted | Self::Io { .. } => self,
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_path_is_shown_by_its_ends() {
        let path = format!("{}/é.png", "漢".repeat(3000));
        let message = Error::input(&path, "cannot be read").to_string();
        assert!(message.len() < 700 && message.starts_with("漢漢"), "{message}");
        assert!(
            message.ends_with("/é.png: cannot be read") && message.contains("[... 2856 characters ...]"),
            "{message}"
        );
        assert_eq!(Error::input("a/b.png", "is bad").to_string(), "a/b.png: is bad");
    }
}
