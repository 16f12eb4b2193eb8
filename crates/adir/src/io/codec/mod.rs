//! The image formats, each between a file and a [`Raster`] of interleaved samples.
//!
//! PNG, TIFF and WebP are decoded by their own crates and not through `image`: only there can text chunks be
//! left alone, 32-bit float samples be read, and frames be counted. Every decoder checks the header against the
//! limits before it takes memory for pixels.

use std::ffi::OsStr;
use std::io::{BufRead, Seek, Write};
use std::path::Path;

use image::metadata::Orientation;

use super::atomic::AtomicFile;
use super::limits::Limits;
use super::metadata::Metadata;
use super::scale::Scale;
use crate::units::NoiseLevel;
use crate::{Error, Result};

mod avif;
mod boxes;
pub(super) mod exr;
mod exr_blocks;
mod exr_header;
mod exr_piz;
mod fits;
mod fits_samples;
mod jpeg;
mod jpeg_markers;
mod jxl;
pub(super) mod kinds;
mod png;
mod png_chunks;
mod tiff;
pub(super) mod tiff_exif;
mod tiff_pages;
mod tiff_samples;
mod tiff_zstd;
mod webp;

pub(super) use fits::Array;
pub(super) use tiff::Stack;

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
    /// Lossless; 8 or 16 bits or 32-bit float a sample, no alpha.
    Fits,
    /// Lossless; 32-bit float a sample.
    OpenExr,
    /// Read only; 8 or 16 bits or 32-bit float a sample.
    JpegXl,
    /// Read only; 8 or 16 bits a sample.
    Avif,
}

impl ImageFormat {
    /// Pixels on a side, at most, where the format sets a bound that images meet.
    pub(crate) fn longest_side(self) -> Option<usize> {
        match self {
            Self::Jpeg => Some(65535),
            Self::WebP => Some(16383),
            _ => None,
        }
    }

    /// Whether values mean light by the format's convention.
    pub fn holds_light(self) -> bool {
        matches!(self, Self::Fits | Self::OpenExr)
    }

    /// Whether a path's extension is that of an image that can be read.
    pub fn reads(path: &Path) -> bool {
        let only_read = |extension: &OsStr| ["jxl", "avif"].iter().any(|other| extension.eq_ignore_ascii_case(other));
        path.extension().is_some_and(only_read) || Self::from_path(path).is_ok()
    }

    /// The format that a path's extension names, of those that can be written.
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
            "fits" | "fit" | "fts" => Ok(Self::Fits),
            "exr" => Ok(Self::OpenExr),
            "jxl" => Err(Error::config(format!(
                "{}: JPEG XL is read, not written: choose .png, or .tif for floats",
                path.display()
            ))),
            "avif" => Err(Error::config(format!("{}: AVIF is read, not written: choose .png", path.display()))),
            other => Err(Error::config(format!(
                "{}: unknown image format {other:?}, expected .png, .jpg, .webp, .tif, .fits or .exr",
                path.display()
            ))),
        }
    }

    /// How many of a file's first bytes reveal its format.
    pub(super) const START: u64 = 64;

    /// The format that they reveal.
    pub(super) fn from_content(start: &[u8]) -> Option<Self> {
        match start {
            [0x89, b'P', b'N', b'G', ..] => Some(Self::Png),
            [0xff, 0xd8, 0xff, ..] => Some(Self::Jpeg),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(Self::WebP),
            [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] => Some(Self::Tiff),
            [b'S', b'I', b'M', b'P', b'L', b'E', b' ', b' ', b'=', ..] => Some(Self::Fits),
            [b'v', b'/', b'1', 1, ..] => Some(Self::OpenExr),
            [0xff, 0x0a, ..] | [0, 0, 0, 12, b'J', b'X', b'L', b' ', ..] => Some(Self::JpegXl),
            _ if avif::is_avif(start) => Some(Self::Avif),
            _ => None,
        }
    }

    /// Whether the format can hold samples of this depth.
    pub fn supports(self, depth: BitDepth) -> bool {
        match self {
            Self::Jpeg | Self::WebP => depth == BitDepth::Eight,
            Self::Png => depth != BitDepth::Float,
            Self::Tiff | Self::Fits => true,
            Self::OpenExr => depth == BitDepth::Float,
            Self::JpegXl | Self::Avif => false,
        }
    }

    /// Whether the format can hold an alpha channel.
    pub fn holds_alpha(self) -> bool {
        !matches!(self, Self::Jpeg | Self::Fits | Self::JpegXl | Self::Avif)
    }

    /// Whether the format can hold colours with that alpha, by which they are multiplied if `associated`. In OpenEXR they
    /// always are.
    pub fn alpha_fits(self, alpha: Option<&[f32]>, associated: bool) -> bool {
        match (alpha, self) {
            (None, _) => true,
            (Some(alpha), Self::OpenExr) => associated || alpha.iter().all(|alpha| *alpha >= 1.0),
            (Some(_), _) => self.holds_alpha() && (!associated || self == Self::Tiff),
        }
    }

    /// That depth where the format can hold it, else one that it can hold.
    pub fn depth_for(self, depth: BitDepth) -> BitDepth {
        match self {
            _ if self.supports(depth) => depth,
            Self::OpenExr => BitDepth::Float,
            _ => BitDepth::Eight,
        }
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

    /// Black and white.
    pub fn scale(self) -> Scale {
        let white = match self {
            Self::Eight => 255.0,
            Self::Sixteen => 65535.0,
            Self::Float => 1.0,
        };
        Scale { black: 0.0, white }
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
#[derive(Debug, Clone, PartialEq)]
pub enum Samples {
    /// 8 bits each.
    Eight(Vec<u8>),
    /// 16 bits each.
    Sixteen(Vec<u16>),
    /// 32-bit floats.
    Float(Vec<f32>),
}

impl Samples {
    /// How they are stored.
    pub fn depth(&self) -> BitDepth {
        match self {
            Self::Eight(_) => BitDepth::Eight,
            Self::Sixteen(_) => BitDepth::Sixteen,
            Self::Float(_) => BitDepth::Float,
        }
    }

    /// White, where the type has one: that of floats is 1.
    pub(super) fn white(&self) -> f64 {
        self.depth().scale().white
    }

    /// The greatest.
    pub(super) fn most(&self) -> f64 {
        match self {
            Self::Eight(samples) => samples.iter().max().map_or(0.0, |v| f64::from(*v)),
            Self::Sixteen(samples) => samples.iter().max().map_or(0.0, |v| f64::from(*v)),
            Self::Float(samples) => samples.iter().copied().fold(0.0, f32::max).into(),
        }
    }

    pub(in crate::io) fn len(&self) -> usize {
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
    /// Floats are the values of the file.
    pub samples: Samples,
    /// Whether the colours are multiplied by alpha already.
    pub associated: bool,
}

/// A decoded file.
pub(super) struct Decoded {
    pub raster: Raster,
    /// The file value that is white; `Err` with the samples' type where it does not say.
    pub white: Result<f64, String>,
    pub metadata: Metadata,
    /// From the format's own tag; [`Orientation::NoTransforms`] where EXIF holds it.
    pub orientation: Orientation,
    /// Pages or frames in the file.
    pub pages: usize,
    /// Pixels, row by row, of which the file says that they were not observed; empty if there are none. Their samples
    /// are stopgaps.
    pub unobserved: Vec<bool>,
    /// What is wrong with the file, though it could be read.
    pub warnings: Vec<String>,
}

impl Decoded {
    /// A file of one page whose samples have the usual white.
    pub fn new(raster: Raster, metadata: Metadata) -> Self {
        let white = Ok(raster.samples.white());
        let orientation = Orientation::NoTransforms;
        Self { raster, white, metadata, orientation, pages: 1, unobserved: Vec::new(), warnings: Vec::new() }
    }
}

/// Decodes a file.
pub(super) fn decode(
    format: ImageFormat,
    path: &Path,
    reader: impl BufRead + Seek,
    asked: Option<usize>,
    limits: &Limits,
) -> Result<Decoded> {
    let page = asked.unwrap_or(1);
    let mut decoded = match format {
        ImageFormat::Png => png::decode(path, reader, page, limits),
        ImageFormat::Jpeg => jpeg::decode(path, reader, page, limits),
        ImageFormat::WebP => webp::decode(path, reader, page, limits),
        ImageFormat::Tiff => tiff::decode(path, reader, page, limits),
        ImageFormat::Fits => fits::decode(path, reader, asked, limits),
        ImageFormat::OpenExr => exr::decode(path, reader, page, limits),
        ImageFormat::JpegXl => jxl::decode(path, reader, page, limits),
        ImageFormat::Avif => avif::decode(path, reader, page, limits),
    }?;
    let Raster { width, height, channels, samples, .. } = &decoded.raster;
    let expected = (*width as usize).saturating_mul(*height as usize).saturating_mul(*channels);
    if samples.len() != expected {
        let found = samples.len();
        return Err(Error::input(path, format!("{found} samples for {width}x{height} pixels of {channels} channels")));
    }
    let Metadata { icc, exif, xmp, .. } = &mut decoded.metadata;
    let mut large = Vec::new();
    for (block, what) in [(icc, "a large ICC profile"), (exif, "a large EXIF block"), (xmp, "a large XMP packet")] {
        block.take_if(|bytes| bytes.is_empty());
        large.extend(block.take_if(|bytes| bytes.len() > limits.max_metadata).map(|_| what));
    }
    large.into_iter().for_each(|what| decoded.metadata.leave_out(what));
    Ok(decoded)
}

/// Encodes into `file`, which will become `path`.
pub(super) fn encode(
    format: ImageFormat,
    path: &Path,
    file: &mut AtomicFile<'_>,
    raster: &Raster,
    metadata: &Metadata,
) -> Result<()> {
    match format {
        ImageFormat::Png => png::encode(path, file, raster, metadata),
        ImageFormat::Jpeg => jpeg::encode(path, file, raster, metadata),
        ImageFormat::WebP => webp::encode(path, file, raster, metadata),
        ImageFormat::Tiff => tiff::encode(path, file, raster, metadata),
        ImageFormat::Fits => fits::encode(path, file, raster, metadata),
        ImageFormat::OpenExr => exr::encode(path, file, raster, metadata),
        ImageFormat::JpegXl => Err(refused(path, "JPEG XL is read, not written")),
        ImageFormat::Avif => Err(refused(path, "AVIF is read, not written")),
    }?;
    file.flush().map_err(|e| Error::io(path, e))
}

/// The bytes of a PNG file, which messages call `path`.
pub(super) fn png_bytes(path: &Path, raster: &Raster, metadata: &Metadata) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    png::encode(path, &mut bytes, raster, metadata)?;
    Ok(bytes)
}

/// Refuses a page that the file does not have.
fn check_page(path: &Path, page: usize, pages: usize) -> Result<()> {
    match pages {
        _ if page <= pages => Ok(()),
        1 => Err(Error::config(format!("{}: page {page} of a file of one page", path.display()))),
        _ => Err(Error::config(format!("{}: page {page} of a file of {pages} pages", path.display()))),
    }
}

/// An error of the `image` crate while reading.
fn image_error(path: &Path, error: image::ImageError) -> Error {
    match error {
        image::ImageError::IoError(e) => read_error(path, e),
        image::ImageError::Unsupported(e) => unsupported(path, e),
        other => damaged(path, other),
    }
}

/// What to say of a file of a known format that a decoder gives up on.
fn damaged(path: &Path, said: impl std::fmt::Display) -> Error {
    const SIGNS_OF_AN_END: [&str; 6] =
        ["eof", "end of file", "end of the file", "unexpected end", "failed to fill", "truncated"];
    let said = said.to_string();
    let end = SIGNS_OF_AN_END.iter().any(|sign| said.to_ascii_lowercase().contains(sign));
    let what = if end { "is cut off" } else { "is damaged" };
    Error::input(path, format!("{what}: copy it again, or save it anew in the program that made it ({said})"))
}

/// What to say of a file of a known format whose kind is not read.
fn unsupported(path: &Path, said: impl std::fmt::Display) -> Error {
    Error::input(path, format!("is of a kind that is not read: save it as a usual PNG or TIFF first ({said})"))
}

/// A decoder's I/O error: the system's own where it carries the system's code, else damage in the file
/// (decompressors report that in this way too).
fn read_error(path: &Path, error: std::io::Error) -> Error {
    match error.raw_os_error() {
        Some(_) => Error::io(path, error),
        None => damaged(path, error),
    }
}

/// What to say when a format refuses pixels that passed our own checks (such as WebP above 16383 a side).
fn refused(path: &Path, error: impl std::fmt::Display) -> Error {
    Error::config(format!("{}: cannot be written in this format: {error}", path.display()))
}
