//! Limits for image files, checked on the header before any pixel is decoded.

use std::path::Path;

use crate::{Error, Result};

/// Safety limits for reading images. The defaults suit photographs on an ordinary machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest width in pixels.
    pub max_width: u32,
    /// Largest height in pixels.
    pub max_height: u32,
    /// Largest size in bytes of the decoded samples; a file on disk may not be larger either.
    pub max_decoded_bytes: u64,
    /// Largest ICC profile and largest EXIF block, each in bytes. A larger one is not carried along.
    pub max_metadata: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_width: 8192, max_height: 8192, max_decoded_bytes: 512 << 20, max_metadata: 1 << 20 }
    }
}

impl Limits {
    /// Checks the width and height of the image at `path`, read or to be written; returns the number of bytes its pixels take.
    ///
    /// # Errors
    /// [`Error::Limits`] for more than is allowed, [`Error::Input`] for an image without pixels.
    pub fn check(&self, path: &Path, (width, height): (u32, u32), bytes_per_pixel: u64) -> Result<usize> {
        if width == 0 || height == 0 {
            return Err(Error::input(path, format!("the image has {width}x{height} pixels")));
        }
        if width > self.max_width || height > self.max_height {
            return Err(Error::Limits(format!(
                "{}: {width}x{height} pixels, but at most {}x{} are allowed",
                path.display(),
                self.max_width,
                self.max_height
            )));
        }
        let bytes = u64::from(width) * u64::from(height) * bytes_per_pixel;
        match usize::try_from(bytes) {
            Ok(size) if bytes <= self.max_decoded_bytes => Ok(size),
            _ => Err(Error::Limits(format!(
                "{}: {bytes} bytes of pixels, but at most {} are allowed",
                path.display(),
                self.max_decoded_bytes
            ))),
        }
    }
}
