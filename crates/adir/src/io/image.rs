//! Image files to tensors and back. Pixels exist only in this module.
//!
//! Samples map linearly to [-1, 1] and no colour management takes place: an ICC profile is carried from
//! input to output as it is. 32-bit float TIFF keeps values beyond the range, since a noisy observation
//! has them and clipping would bias it. EXIF orientation is applied to the pixels and cleared in the
//! block that is carried along; nothing else in EXIF is interpreted.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::Path;

use image::metadata::Orientation;

use super::atomic;
use super::codec::{self, Decoded, Metadata, Raster, Samples};
use super::hash::{ContentHash, sha256};
use super::limits::Limits;
use crate::tensor::{Tensor, cpu, from_f32, to_f32};
use crate::{Error, Result};

pub use super::codec::{BitDepth, ImageFormat};

/// An image read from a file.
#[derive(Debug, Clone)]
pub struct Picture {
    /// The pixels, `[1, c, h, w]` with c = 1 (grey) or 3 (RGB), on the CPU. Black is -1, white 1: 8-bit v is
    /// v / 127.5 - 1, 16-bit v is v / 32767.5 - 1, a float v is 2 v - 1 and may lie outside.
    pub tensor: Tensor<4>,
    /// The alpha channel, h * w values row by row, 0 transparent to 1 opaque.
    pub alpha: Option<Vec<f32>>,
    /// The ICC profile, unread; absent if above [`Limits::max_metadata`].
    pub icc: Option<Vec<u8>>,
    /// The EXIF block with its orientation set to normal; absent if above [`Limits::max_metadata`].
    pub exif: Option<Vec<u8>>,
    /// How the file stores a sample.
    pub bit_depth: BitDepth,
    /// The file's format.
    pub format: ImageFormat,
}

impl Picture {
    /// A picture from memory, `[1, c, h, w]` with c = 1 or 3 in [-1, 1], whose values are not rounded.
    pub fn from_tensor(tensor: Tensor<4>) -> Self {
        let (bit_depth, format) = (BitDepth::Float, ImageFormat::Tiff);
        Self { tensor, alpha: None, icc: None, exif: None, bit_depth, format }
    }

    /// The image of a file, within the default limits; see [`read_image`].
    ///
    /// # Errors
    /// As [`read_image`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        read_image(path.as_ref(), &Limits::default())
    }

    /// Writes it in the format that the extension names, as deep as that can hold; see [`write_image`].
    ///
    /// # Errors
    /// As [`write_image`].
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let options = WriteOptions {
            bit_depth: ImageFormat::from_path(path)?.depth_for(self.bit_depth),
            alpha: self.alpha.clone(),
            icc: self.icc.clone(),
            exif: self.exif.clone(),
        };
        write_image(path, &self.tensor, &options)
    }
}

/// How to write an image.
#[derive(Debug, Clone)]
pub struct WriteOptions {
    /// How to store a sample.
    pub bit_depth: BitDepth,
    /// Alpha to add, h * w values from 0 to 1, row by row.
    pub alpha: Option<Vec<f32>>,
    /// ICC profile to embed.
    pub icc: Option<Vec<u8>>,
    /// EXIF block to embed; left out of TIFF, where EXIF is not a block.
    pub exif: Option<Vec<u8>>,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self { bit_depth: BitDepth::Eight, alpha: None, icc: None, exif: None }
    }
}

/// Reads a PNG, JPEG, WebP or TIFF image, told apart by content. Of several frames or pages it is the first.
///
/// # Errors
/// [`Error::Input`] if the file is missing, damaged, cut off or of another kind; [`Error::Limits`] if it
/// declares more than `limits` allow.
pub fn read_image(path: &Path, limits: &Limits) -> Result<Picture> {
    let (format, decoded) = decode_file(path, limits)?;
    picture(path, format, decoded)
}

/// Reads an image as [`read_image`] does, and the SHA-256 of its file. The file is read once, so that picture and hash
/// are of the same bytes even if it is replaced meanwhile.
///
/// # Errors
/// As [`read_image`].
pub fn read_hashed(path: &Path, limits: &Limits) -> Result<(Picture, ContentHash)> {
    let mut bytes = Vec::new();
    let read = open(path, limits)?.take(limits.max_decoded_bytes).read_to_end(&mut bytes);
    read.map_err(|e| unreadable(path, &e))?;
    let (format, decoded) = decode(path, Cursor::new(&bytes), limits)?;
    Ok((picture(path, format, decoded)?, sha256(&bytes)))
}

/// The samples of a file as a tensor, turned upright.
fn picture(path: &Path, format: ImageFormat, decoded: Decoded) -> Result<Picture> {
    let Decoded { raster, icc, mut exif, orientation } = decoded;
    let from_exif = exif.as_mut().and_then(|exif| Orientation::remove_from_exif_chunk(exif));
    let orientation = from_exif.unwrap_or(orientation);
    let bit_depth = raster.samples.depth();
    let turned = Turned::new(orientation, raster.width as usize, raster.height as usize);
    let channels = raster.channels;
    let color = if channels >= 3 { 3 } else { 1 };
    let mut values = Vec::with_capacity(color * turned.pixels());
    for channel in 0..color {
        turned.plane(&raster, channel, |unit| 2.0 * unit - 1.0, &mut values);
    }
    let alpha = (channels > color).then(|| {
        let mut alpha = Vec::with_capacity(turned.pixels());
        turned.plane(&raster, color, |unit| unit, &mut alpha);
        alpha
    });
    let bad = values.iter().chain(alpha.iter().flatten()).filter(|value| !value.is_finite()).count();
    if bad > 0 {
        return Err(Error::input(path, format!("{bad} samples are not finite")));
    }
    let tensor = from_f32(values, [1, color, turned.height, turned.width], &cpu());
    Ok(Picture { tensor, alpha, icc, exif, bit_depth, format })
}

/// Opens, tells the format and decodes, without interpreting the samples.
pub(super) fn decode_file(path: &Path, limits: &Limits) -> Result<(ImageFormat, Decoded)> {
    decode(path, BufReader::new(open(path, limits)?), limits)
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    Error::input(path, format!("cannot be read: {error}"))
}

/// Opens a file that is a regular one and not too large.
fn open(path: &Path, limits: &Limits) -> Result<File> {
    let file = super::open_regular(path).map_err(|e| unreadable(path, &e))?;
    let metadata = file.metadata().map_err(|e| unreadable(path, &e))?;
    if !metadata.is_file() {
        return Err(Error::input(path, "is not a regular file"));
    }
    if metadata.len() > limits.max_decoded_bytes {
        let (found, most) = (metadata.len(), limits.max_decoded_bytes);
        return Err(Error::Limits(format!("{}: {found} bytes, but at most {most} are allowed", path.display())));
    }
    Ok(file)
}

/// Tells the format of an image and decodes it.
fn decode(path: &Path, mut reader: impl BufRead + Seek, limits: &Limits) -> Result<(ImageFormat, Decoded)> {
    let mut start = Vec::new();
    reader.by_ref().take(12).read_to_end(&mut start).map_err(|e| unreadable(path, &e))?;
    reader.seek(SeekFrom::Start(0)).map_err(|e| unreadable(path, &e))?;
    let format = ImageFormat::from_content(&start)
        .ok_or_else(|| Error::input(path, "is not a PNG, JPEG, WebP or TIFF image"))?;
    let decoded = codec::decode(format, path, reader, limits)?;
    Ok((format, decoded))
}

/// A view of a raster after its orientation is applied.
struct Turned {
    orientation: Orientation,
    stored: [usize; 2],
    width: usize,
    height: usize,
}

impl Turned {
    fn new(orientation: Orientation, width: usize, height: usize) -> Self {
        use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
        let stored = [width, height];
        match orientation {
            Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH => {
                Self { orientation, stored, width: height, height: width }
            }
            _ => Self { orientation, stored, width, height },
        }
    }

    fn pixels(&self) -> usize {
        self.width * self.height
    }

    /// The stored pixel that appears at column x, row y.
    fn source(&self, x: usize, y: usize) -> usize {
        let [width, height] = self.stored;
        let (column, row) = match self.orientation {
            Orientation::NoTransforms => (x, y),
            Orientation::FlipHorizontal => (width - 1 - x, y),
            Orientation::Rotate180 => (width - 1 - x, height - 1 - y),
            Orientation::FlipVertical => (x, height - 1 - y),
            Orientation::Rotate90FlipH => (y, x),
            Orientation::Rotate90 => (y, height - 1 - x),
            Orientation::Rotate270FlipH => (width - 1 - y, height - 1 - x),
            Orientation::Rotate270 => (width - 1 - y, x),
        };
        row * width + column
    }

    /// Appends one channel, each sample scaled to [0, 1] and then through `map`.
    fn plane(&self, raster: &Raster, channel: usize, map: impl Fn(f32) -> f32, out: &mut Vec<f32>) {
        match &raster.samples {
            Samples::Eight(s) => self.gather(s, raster.channels, channel, |v| map(f32::from(v) / 255.0), out),
            Samples::Sixteen(s) => self.gather(s, raster.channels, channel, |v| map(f32::from(v) / 65535.0), out),
            Samples::Float(s) => self.gather(s, raster.channels, channel, map, out),
        }
    }

    fn gather<T: Copy>(
        &self,
        samples: &[T],
        channels: usize,
        channel: usize,
        map: impl Fn(T) -> f32,
        out: &mut Vec<f32>,
    ) {
        for y in 0..self.height {
            out.extend((0..self.width).map(|x| map(samples[self.source(x, y) * channels + channel])));
        }
    }
}

/// Writes an image in the format that the extension names (png, jpg, webp, tif), whole or not at all.
///
/// Integer samples are the values clamped to [-1, 1] and rounded to the nearest, halves away from zero.
/// Float samples are not clamped. JPEG is written at quality 95, WebP without loss.
///
/// # Shapes
/// `tensor`: `[1, c, h, w]` with c = 1 or 3.
///
/// # Errors
/// [`Error::Config`] if the format is unknown, cannot hold the depth, the alpha or the size, or a shape is
/// wrong; [`Error::Numerical`] if a value is not finite; [`Error::Io`] if it cannot be written.
pub fn write_image(path: &Path, tensor: &Tensor<4>, options: &WriteOptions) -> Result<()> {
    let format = ImageFormat::from_path(path)?;
    if !format.supports(options.bit_depth) {
        let depth = options.bit_depth;
        return Err(Error::config(format!("{}: {format:?} cannot hold {depth:?} samples", path.display())));
    }
    let raster = raster(path, tensor, options)?;
    let metadata = Metadata { icc: options.icc.as_deref(), exif: options.exif.as_deref() };
    atomic::write(path, |file| codec::encode(format, path, file, &raster, &metadata))
}

fn raster(path: &Path, tensor: &Tensor<4>, options: &WriteOptions) -> Result<Raster> {
    let [batch, color, height, width] = tensor.dims();
    let sizes = (u32::try_from(width), u32::try_from(height));
    let (Ok(raster_width), Ok(raster_height), 1, 1 | 3) = (sizes.0, sizes.1, batch, color) else {
        return Err(Error::config(format!(
            "{}: an image of shape {:?} cannot be written, expected [1, 1 or 3, h, w]",
            path.display(),
            tensor.dims()
        )));
    };
    let pixels = width * height;
    if pixels == 0 {
        return Err(Error::config(format!("{}: an image of {width}x{height} pixels", path.display())));
    }
    if let Some(alpha) = options.alpha.as_ref().filter(|alpha| alpha.len() != pixels) {
        let found = alpha.len();
        return Err(Error::config(format!("{}: {found} alpha values for {width}x{height} pixels", path.display())));
    }
    let values = to_f32(tensor)?;
    let alpha = options.alpha.as_deref().unwrap_or_default();
    let bad = values.iter().chain(alpha).filter(|value| !value.is_finite()).count();
    if bad > 0 {
        return Err(Error::Numerical(format!("{}: {bad} values to be written are not finite", path.display())));
    }
    let mut planes: Vec<&[f32]> = values.chunks_exact(pixels).collect();
    // Alpha joins the colour planes in their range, so that one rule stores them all.
    let alpha: Vec<f32> = alpha.iter().map(|unit| 2.0 * unit - 1.0).collect();
    planes.extend((!alpha.is_empty()).then_some(alpha.as_slice()));
    let channels = planes.len();
    let samples = match options.bit_depth {
        BitDepth::Eight => Samples::Eight(interleave(&planes, |v| quantise(v, 255.0) as u8)),
        BitDepth::Sixteen => Samples::Sixteen(interleave(&planes, |v| quantise(v, 65535.0) as u16)),
        BitDepth::Float => Samples::Float(interleave(&planes, |v| (v + 1.0) / 2.0)),
    };
    Ok(Raster { width: raster_width, height: raster_height, channels, samples })
}

fn quantise(value: f32, white: f32) -> f32 {
    ((value.clamp(-1.0, 1.0) + 1.0) / 2.0 * white).round()
}

fn interleave<T>(planes: &[&[f32]], map: impl Fn(f32) -> T) -> Vec<T> {
    let pixels = planes.first().map_or(0, |plane| plane.len());
    let mut samples = Vec::with_capacity(pixels * planes.len());
    for pixel in 0..pixels {
        samples.extend(planes.iter().map(|plane| map(plane[pixel])));
    }
    samples
}
