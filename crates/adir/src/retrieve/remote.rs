//! Indexes on servers: what a search needs of one. This crate opens no connections; who does, implements these traits.

use std::path::{Path, PathBuf};

use crate::Result;
use crate::encode::{Embedding, EncoderId};

/// An image that a remote index has found.
#[derive(Debug, Clone, PartialEq)]
pub struct RemoteHit {
    /// What the server knows it by.
    pub key: String,
    /// Where the image is: an address, or a path below a folder.
    pub place: String,
    /// Spherical distance from the query in radians (Eq. 19).
    pub distance: f64,
}

/// An index on a server.
pub trait RemoteIndex: Send + Sync {
    /// Its address as it was named, without any secret.
    fn address(&self) -> &str;

    /// Up to `count` images that are nearest to `query`, nearest first.
    ///
    /// # Errors
    /// [`Error::Input`](crate::Error::Input) if the server does not answer, or answers with something else;
    /// [`Error::Interrupted`](crate::Error::Interrupted).
    fn nearest(&self, query: &Embedding, count: usize) -> Result<Vec<RemoteHit>>;

    /// Whether images may be had at all.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) saying what is missing.
    fn check_images(&self) -> Result<()>;

    /// The file of an image, fetched now if it must be and may be.
    ///
    /// # Errors
    /// [`Error::Input`](crate::Error::Input) where this image cannot be had, and others may be;
    /// [`Error::Config`](crate::Error::Config) and [`Error::Interrupted`](crate::Error::Interrupted) end the search.
    fn file(&self, hit: &RemoteHit) -> Result<PathBuf>;
}

/// What opens remote indexes.
pub trait Remotes: Send + Sync {
    /// The index at that address, whose vectors are compared with those of `encoder`.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) for an address of an unknown kind; [`Error::Input`](crate::Error::Input) for
    /// an index that is not there or has vectors of another dimension.
    fn open(&self, address: &str, encoder: &EncoderId) -> Result<Box<dyn RemoteIndex>>;
}

/// The address of a remote index, `KIND://HOST/NAME`, if that is what the path is and nothing of that name is there.
pub fn remote_address(path: &Path) -> Option<&str> {
    let text = path.to_str()?;
    let (kind, _) = text.split_once("://")?;
    let is_kind = kind.starts_with(|c: char| c.is_ascii_lowercase())
        && kind.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || b"+-.".contains(&c));
    (is_kind && path.symlink_metadata().is_err()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_paths() {
        for text in ["qdrant://a:6333/photos", "clip-retrieval+https://a.org/laion", "x://"] {
            assert_eq!(remote_address(Path::new(text)), Some(text));
        }
        for text in ["photos", "a/b://c", "C://x", "://x", "", "photos.index"] {
            assert_eq!(remote_address(Path::new(text)), None, "{text}");
        }
    }
}
