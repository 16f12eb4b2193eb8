//! The image formats, each between a file and a [`Raster`] of interleaved samples.
//!
//! PNG and TIFF are decoded by their own crates and not through `image`: only there can text chunks be
//! left alone and 32-bit float samples be read. Every decoder checks the header against the limits
//! before it takes memory for pixels.

use std::io::{BufRead, Seek, Write};
use std::path::Path;

use image::ImageDecoder;
use image::metadata::Orientation;

use super::atomic::AtomicFile;
use super::limits::Limits;
use crate::units::NoiseLevel;
use crate::{Error, Result};

mod jpeg;
mod png;
mod tiff;
mod webp;

/// An image file format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ImageFormat {
    /// Lossless; 8 or 16 bits a sample.
    Png,
    /// Lossy; 8 bits a sample, no alpha.
    Jpeg,
    /// 8 bits a sample; written without loss.
    WebP,
    /// Lossless; 8 or 16 bits or 32-bit float a sample.
    Tiff,
}

impl ImageFormat {
    /// The format that a path's extension names.
    ///
    /// # Errors
    /// [`Error::Config`] for an unknown extension.
    pub fn from_path(path: &Path) -> Result<Self> {
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
        match extension.as_str() {
            "png" => Ok(Self::Png),
            "jpg" | "jpeg" => Ok(Self::Jpeg),
            "webp" => Ok(Self::WebP),
            "tif" | "tiff" => Ok(Self::Tiff),
            other => Err(Error::config(format!(
                "{}: unknown image format {other:?}, expected .png, .jpg, .webp or .tif",
                path.display()
            ))),
        }
    }

    /// The format that a file's first bytes reveal.
    pub(super) fn from_content(start: &[u8]) -> Option<Self> {
        match start {
            [0x89, b'P', b'N', b'G', ..] => Some(Self::Png),
            [0xff, 0xd8, 0xff, ..] => Some(Self::Jpeg),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(Self::WebP),
            [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => Some(Self::Tiff),
            _ => None,
        }
    }

    /// Whether the format can hold samples of this depth.
    pub fn supports(self, depth: BitDepth) -> bool {
        match self {
            Self::Jpeg | Self::WebP => depth == BitDepth::Eight,
            Self::Png => depth != BitDepth::Float,
            Self::Tiff => true,
        }
    }

    /// Whether the format can hold an alpha channel.
    pub fn holds_alpha(self) -> bool {
        self != Self::Jpeg
    }

    /// That depth where the format can hold it, else 8 bits.
    pub fn depth_for(self, depth: BitDepth) -> BitDepth {
        if self.supports(depth) { depth } else { BitDepth::Eight }
    }
}

/// How a sample is stored in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BitDepth {
    /// 8-bit integers; 0 is black, 255 white.
    Eight,
    /// 16-bit integers; 0 is black, 65535 white.
    Sixteen,
    /// 32-bit floats; 0 is black, 1 white, and values beyond are kept.
    Float,
}

impl BitDepth {
    /// Bytes of a sample.
    pub fn bytes(self) -> u64 {
        match self {
            Self::Eight => 1,
            Self::Sixteen => 2,
            Self::Float => 4,
        }
    }

    /// Standard deviation of the quantisation error: 1/sqrt(12) of a step.
    pub fn rounding(self) -> NoiseLevel {
        let steps = match self {
            Self::Eight => 255.0,
            Self::Sixteen => 65535.0,
            Self::Float => return NoiseLevel(0.0),
        };
        NoiseLevel(2.0 / steps / 12.0_f64.sqrt())
    }
}

/// Samples, interleaved by pixel, rows from the top.
pub(super) enum Samples {
    Eight(Vec<u8>),
    Sixteen(Vec<u16>),
    Float(Vec<f32>),
}

impl Samples {
    pub fn depth(&self) -> BitDepth {
        match self {
            Self::Eight(_) => BitDepth::Eight,
            Self::Sixteen(_) => BitDepth::Sixteen,
            Self::Float(_) => BitDepth::Float,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Eight(samples) => samples.len(),
            Self::Sixteen(samples) => samples.len(),
            Self::Float(samples) => samples.len(),
        }
    }
}

/// Pixels of 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha) channels.
pub(super) struct Raster {
    pub width: u32,
    pub height: u32,
    pub channels: usize,
    pub samples: Samples,
}

/// A decoded file.
pub(super) struct Decoded {
    pub raster: Raster,
    pub icc: Option<Vec<u8>>,
    /// Without the `Exif\0\0` prefix.
    pub exif: Option<Vec<u8>>,
    /// From the format's own tag; [`Orientation::NoTransforms`] where EXIF holds it.
    pub orientation: Orientation,
}

/// Raw metadata carried along with the pixels.
pub(super) struct Metadata<'a> {
    pub icc: Option<&'a [u8]>,
    pub exif: Option<&'a [u8]>,
}

/// Decodes a file.
pub(super) fn decode(
    format: ImageFormat,
    path: &Path,
    reader: impl BufRead + Seek,
    limits: &Limits,
) -> Result<Decoded> {
    let mut decoded = match format {
        ImageFormat::Png => png::decode(path, reader, limits),
        ImageFormat::Jpeg => jpeg::decode(path, reader, limits),
        ImageFormat::WebP => webp::decode(path, reader, limits),
        ImageFormat::Tiff => tiff::decode(path, reader, limits),
    }?;
    let Raster { width, height, channels, samples } = &decoded.raster;
    let expected = (*width as usize).saturating_mul(*height as usize).saturating_mul(*channels);
    if samples.len() != expected {
        let found = samples.len();
        return Err(Error::input(path, format!("{found} samples for {width}x{height} pixels of {channels} channels")));
    }
    let fits = |bytes: &Vec<u8>| !bytes.is_empty() && bytes.len() <= limits.max_metadata;
    decoded.icc = decoded.icc.filter(fits);
    decoded.exif = decoded.exif.filter(fits);
    Ok(decoded)
}

/// Encodes into `file`, which will become `path`.
pub(super) fn encode(
    format: ImageFormat,
    path: &Path,
    file: &mut AtomicFile<'_>,
    raster: &Raster,
    metadata: &Metadata<'_>,
) -> Result<()> {
    match format {
        ImageFormat::Png => png::encode(path, file, raster, metadata),
        ImageFormat::Jpeg => jpeg::encode(path, file, raster, metadata),
        ImageFormat::WebP => webp::encode(path, file, raster, metadata),
        ImageFormat::Tiff => tiff::encode(path, file, raster, metadata),
    }?;
    file.flush().map_err(|e| Error::io(path, e))
}

/// All of an 8-bit image from a decoder of the `image` crate, whose header is read already.
fn decode_eight_bit(path: &Path, mut decoder: impl ImageDecoder, limits: &Limits) -> Result<Decoded> {
    let color = decoder.color_type();
    let (width, height) = decoder.dimensions();
    let size = limits.check(path, (width, height), u64::from(color.bytes_per_pixel()))?;
    let icc = decoder.icc_profile().map_err(|e| image_error(path, e))?;
    let exif = decoder.exif_metadata().map_err(|e| image_error(path, e))?;
    let mut samples = vec![0; size];
    decoder.read_image(&mut samples).map_err(|e| image_error(path, e))?;
    let channels = usize::from(color.channel_count());
    let raster = Raster { width, height, channels, samples: Samples::Eight(samples) };
    Ok(Decoded { raster, icc, exif, orientation: Orientation::NoTransforms })
}

/// An error of the `image` crate while reading.
fn image_error(path: &Path, error: image::ImageError) -> Error {
    match error {
        image::ImageError::IoError(e) => read_error(path, e),
        other => Error::input(path, other.to_string()),
    }
}

/// A decoder's I/O error: the system's own where it carries the system's code, else damage in the file
/// (decompressors report that in this way too).
fn read_error(path: &Path, error: std::io::Error) -> Error {
    match error.raw_os_error() {
        Some(_) => Error::io(path, error),
        None => Error::input(path, error.to_string()),
    }
}

/// What to say when a format refuses pixels that passed our own checks (such as WebP above 16383 a side).
fn refused(path: &Path, error: impl std::fmt::Display) -> Error {
    Error::config(format!("{}: cannot be written in this format: {error}", path.display()))
}
