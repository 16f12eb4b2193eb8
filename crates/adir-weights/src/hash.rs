//! SHA-256, by which files are told apart in records, caches and checkpoints.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// A running SHA-256.
#[derive(Debug, Clone, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Takes in the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of everything taken in, as 64 lower-case hexadecimal digits.
    pub fn finish(self) -> String {
        self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The SHA-256 of `bytes`, as 64 lower-case hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    let mut hasher = Hasher::default();
    hasher.update(bytes);
    hasher.finish()
}

/// Size in bytes and SHA-256 of a file, read piece by piece; the digest as of [`sha256`].
///
/// # Errors
/// [`Error::Unreadable`].
pub fn hash_file(path: &Path) -> Result<(u64, String)> {
    let fault = |e| Error::unreadable(path, e);
    let mut file = File::open(path).map_err(fault)?;
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

    /// FIPS 180-2, appendix B.1, and the digest of the empty message.
    #[test]
    fn known_digests() {
        assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(sha256(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
