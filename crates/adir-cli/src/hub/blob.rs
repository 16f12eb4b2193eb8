//! The hash of a file as the Hub states it, which also is the file's name in the cache.

use sha1::Digest as _;
use sha2::Sha256;

use super::id::is_hex;

/// What the bytes of a file must hash to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Digest {
    /// SHA-256, of large files.
    Sha256(String),
    /// The SHA-1 that git gives a file.
    Git(String),
    /// A name that says nothing of the bytes: a server's own.
    Opaque(String),
}

impl Digest {
    /// Reads a hash, or an `ETag` with its quotes; `None` if it cannot name a file.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim().trim_start_matches("W/").trim_matches('"');
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        match text {
            _ if is_hex(text, 64) => Some(Self::Sha256(text.into())),
            _ if is_hex(text, 40) => Some(Self::Git(text.into())),
            _ if !text.is_empty() && text.len() <= 128 && text.chars().all(plain) => Some(Self::Opaque(text.into())),
            _ => None,
        }
    }

    /// The name of the file in the cache.
    pub fn name(&self) -> &str {
        match self {
            Self::Sha256(name) | Self::Git(name) | Self::Opaque(name) => name,
        }
    }

    /// Begins to hash a file of that many bytes.
    pub fn start(&self, size: u64) -> Hashing {
        match self {
            Self::Sha256(_) => Hashing::Sha256(Sha256::new()),
            Self::Git(_) => Hashing::Git(sha1::Sha1::new_with_prefix(format!("blob {size}\0"))),
            Self::Opaque(_) => Hashing::Nothing,
        }
    }
}

/// A hash that is being taken.
pub enum Hashing {
    Sha256(Sha256),
    Git(sha1::Sha1),
    Nothing,
}

impl Hashing {
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(state) => state.update(bytes),
            Self::Git(state) => state.update(bytes),
            Self::Nothing => {}
        }
    }

    /// The kind of the hash and its digits, where there is one.
    pub fn finish(self) -> Option<(&'static str, String)> {
        let digits = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        match self {
            Self::Sha256(state) => Some(("SHA-256", digits(&state.finalize()))),
            Self::Git(state) => Some(("git hash", digits(&state.finalize()))),
            Self::Nothing => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_git_and_of_lfs() {
        let of = |name: &str, bytes: &[u8]| {
            let digest = Digest::parse(name).unwrap();
            let mut hashing = digest.start(bytes.len() as u64);
            bytes.iter().for_each(|byte| hashing.update(&[*byte]));
            hashing.finish().map(|(_, digits)| digits)
        };
        // `echo hello | git hash-object --stdin`, `echo hello | sha256sum`
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        let sha256 = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        assert_eq!(of(git, b"hello\n").as_deref(), Some(git));
        assert_eq!(of(sha256, b"hello\n").as_deref(), Some(sha256));
        assert_eq!(of("abc-1", b"hello\n"), None);
    }

    #[test]
    fn tags_that_cannot_name_a_file_are_none() {
        assert_eq!(Digest::parse("W/\"abc\""), Some(Digest::Opaque("abc".into())));
        for bad in ["", "\"\"", "../x", "a/b", "a.incomplete", "a\\b", "a b", &"a".repeat(200)] {
            assert_eq!(Digest::parse(bad), None, "{bad}");
        }
    }
}
