//! SHA-256, by which files are told apart in records, caches and checkpoints.

use std::fmt;
use std::io::Read;
use std::path::Path;
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// The SHA-256 of a file or of other bytes. As text, and in serde's formats: 64 hexadecimal digits, written in lower
/// case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentHash(pub [u8; 32]);

impl ContentHash {
    /// The SHA-256 of the file at `path`.
    ///
    /// # Errors
    /// [`Error::Unreadable`].
    pub fn of_file(path: &Path) -> Result<Self> {
        hash_file(path).map(|(_, hash)| hash)
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for ContentHash {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = || Error::invalid(format!("{text:?} is no SHA-256, expected 64 hexadecimal digits"));
        let digit = |c: u8| char::from(c).to_digit(16);
        let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return Err(invalid()) };
        let bytes: Option<Vec<u8>> = pairs.iter().map(|&[a, b]| Some((digit(a)? * 16 + digit(b)?) as u8)).collect();
        bytes.and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or_else(invalid)
    }
}

impl Serialize for ContentHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ContentHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A running SHA-256.
#[derive(Debug, Clone, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Takes in the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of everything taken in.
    pub fn finish(self) -> ContentHash {
        ContentHash(self.0.finalize().into())
    }
}

/// The SHA-256 of `bytes`.
pub fn sha256(bytes: &[u8]) -> ContentHash {
    ContentHash(Sha256::digest(bytes).into())
}

/// Size in bytes and SHA-256 of a file, read piece by piece.
///
/// # Errors
/// [`Error::Unreadable`].
pub fn hash_file(path: &Path) -> Result<(u64, ContentHash)> {
    let fault = |e| Error::unreadable(path, e);
    let mut file = crate::open_regular(path).map_err(fault)?;
    let (mut hasher, mut size, mut piece) = (Hasher::default(), 0, vec![0; 1 << 16]);
    loop {
        match file.read(&mut piece).map_err(fault)? {
            0 => return Ok((size, hasher.finish())),
            n => {
                hasher.update(&piece[..n]);
                size += n as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    /// FIPS 180-2, appendix B.1, and the digest of the empty message.
    #[test]
    fn known_digests() {
        assert_eq!(sha256(b"abc").to_string(), ABC);
        assert_eq!(sha256(b"").to_string(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }

    #[test]
    fn hashes_are_read_and_written_as_hexadecimal() {
        let hash: ContentHash = ABC.parse().unwrap();
        assert_eq!(hash, sha256(b"abc"));
        assert_eq!(ABC.to_uppercase().parse::<ContentHash>().unwrap(), hash);
        assert_eq!(serde_json::to_string(&hash).unwrap(), format!("{ABC:?}"));
        assert_eq!(serde_json::from_str::<ContentHash>(&format!("{ABC:?}")).unwrap(), hash);
        let long = format!("{ABC}00");
        for bad in [&ABC[1..], &ABC[2..], &long, &ABC.replace('b', "g"), &ABC.replace("ba", "+a"), ""] {
            assert!(bad.parse::<ContentHash>().is_err(), "{bad}");
            assert!(serde_json::from_str::<ContentHash>(&format!("{bad:?}")).is_err(), "{bad}");
        }
    }
}
