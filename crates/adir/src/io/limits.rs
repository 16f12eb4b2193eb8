//! Limits for image files, checked on the header before any pixel is decoded.

use std::path::Path;

use crate::{Error, Result};

/// Safety limits for reading images. The defaults suit photographs on an ordinary machine; the sides of an image have no
/// limit of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest size in bytes of the decoded samples; a file on disk may not be larger either.
    pub max_decoded_bytes: u64,
    /// Largest ICC profile and largest EXIF block, each in bytes. A larger one is not carried along.
    pub max_metadata: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_decoded_bytes: 512 << 20, max_metadata: 1 << 20 }
    }
}

impl Limits {
    /// Bytes of memory that an image takes for a byte of its samples, at least: it is computed with in 32 bits.
    const MEMORY: u64 = 8;

    /// What may be read where `memory` bytes may be taken: an eighth of them.
    pub fn within(memory: u64) -> Self {
        Self { max_decoded_bytes: memory / Self::MEMORY, ..Self::default() }
    }

    /// Checks the width and height of the image at `path`, read or to be written; returns the number of bytes its pixels take.
    ///
    /// # Errors
    /// [`Error::TooLarge`] for more than is allowed, [`Error::Input`] for an image without pixels.
    pub fn check(&self, path: &Path, (width, height): (u32, u32), bytes_per_pixel: u64) -> Result<usize> {
        if width == 0 || height == 0 {
            return Err(Error::input(path, format!("the image has {width}x{height} pixels")));
        }
        let bytes = u64::from(width).saturating_mul(u64::from(height)).saturating_mul(bytes_per_pixel);
        match usize::try_from(bytes) {
            Ok(size) if bytes <= self.max_decoded_bytes => Ok(size),
            _ => Err(self.refused(path, &format!("{width}x{height} pixels take"), bytes)),
        }
    }

    /// The refusal of `bytes` of a file, of which `what` says what they are.
    pub fn refused(&self, path: &Path, what: &str, bytes: u64) -> Error {
        Error::TooLarge {
            path: path.to_owned(),
            message: format!("{what} {bytes} bytes, but at most {} are allowed", self.max_decoded_bytes),
            memory: bytes.saturating_mul(Self::MEMORY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_limited_and_sides_are_not() {
        let limits = Limits::within(8 * 105);
        let check = |size, bytes| limits.check(Path::new("y.png"), size, bytes);
        assert_eq!(check((5, 7), 3).unwrap(), 105);
        assert_eq!(check((105, 1), 1).unwrap(), 105);
        let refused = check((53, 2), 1).unwrap_err();
        assert!(refused.to_string().contains("53x2 pixels take 106 bytes"), "{refused}");
        // As much as it says is enough.
        let Error::TooLarge { memory, .. } = refused else { panic!("{refused}") };
        assert!(Limits::within(memory).check(Path::new("y.png"), (53, 2), 1).is_ok());
        assert!(matches!(check((u32::MAX, u32::MAX), u64::MAX), Err(Error::TooLarge { .. })));
        assert!(matches!(check((0, 7), 3), Err(Error::Input { .. })));
    }
}
