//! Bounds on what an image file may ask for, checked on its header before a pixel is decoded.

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
