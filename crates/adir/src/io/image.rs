//! Image files to tensors and back. Pixels exist only in this module.
//!
//! Samples map linearly to [-1, 1] and no colour management takes place: an ICC profile is carried from
//! input to output as it is. 32-bit float TIFF keeps values beyond the range, since a noisy observation
//! has them and clipping would bias it. EXIF orientation is applied to the pixels and cleared in the
//! block that is carried along.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use image::metadata::Orientation;

use super::atomic;
use super::codec::kinds::{DEVELOP, is_raw, other_kind, way_out};
use super::codec::{self, Decoded, Raster};
use super::exact::Exact;
use super::exif;
use super::hash::{ContentHash, sha256};
use super::limits::Limits;
use super::metadata::upright_xmp;
use super::raster::raster;
use super::scale::{check_unit_range, proposal, range};
use super::tally::counted;
use super::turned::Turned;
use crate::operator::Mask;
use crate::tensor::{Tensor, cpu, from_f32};
use crate::units::NoiseLevel;
use crate::{Error, Result};

pub use super::codec::{BitDepth, ImageFormat, Samples};
pub use super::metadata::{FitsHeader, Metadata, Resolution, Text};
pub use super::scale::{Reading, Scale};

/// An image read from a file.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Picture {
    /// The pixels, `[1, c, h, w]` with c = 1 (grey) or 3 (RGB), on the CPU. Black is -1, white 1: 8-bit v is
    /// v / 127.5 - 1, 16-bit v is v / 32767.5 - 1, a float v is 2 v - 1 and may lie outside. With a
    /// [`Picture::scale`], v is 2 (v - black) / (white - black) - 1.
    pub tensor: Tensor<4>,
    /// The alpha channel, h * w values row by row, 0 transparent to 1 opaque.
    pub alpha: Option<Vec<f32>>,
    /// Whether the colours are multiplied by alpha already, which TIFF can say and OpenEXR means.
    pub associated_alpha: bool,
    /// The pixels that were observed, where a FITS file says of some that they were not. Those are filled with the median
    /// of the others.
    pub observed: Option<Mask>,
    /// What the file says besides.
    pub metadata: Metadata,
    /// How the file stores a sample. Types that are only read, such as signed integers, count as floats.
    pub bit_depth: BitDepth,
    /// Black and white in the values of the file, where they are not those of [`Picture::bit_depth`].
    pub scale: Option<Scale>,
    /// The file's format.
    pub format: ImageFormat,
    /// Pages, planes or frames of the file.
    pub pages: usize,
    /// What was unusual about the file, for people: a missing end marker, pages that were not read.
    pub warnings: Vec<String>,
    /// Pixels that are written with the very floats that a file had.
    pub(crate) exact: Option<Arc<Exact>>,
}

impl Picture {
    /// A picture from memory, `[1, c, h, w]` with c = 1 or 3 in [-1, 1], whose values are not rounded.
    pub fn from_tensor(tensor: Tensor<4>) -> Self {
        Self {
            tensor,
            alpha: None,
            associated_alpha: false,
            observed: None,
            metadata: Metadata::default(),
            bit_depth: BitDepth::Float,
            scale: None,
            format: ImageFormat::Tiff,
            pages: 1,
            warnings: Vec::new(),
            exact: None,
        }
    }

    /// A picture of samples in memory, read as those of a file are: `[h, w, c]` with c = 1 (grey), 2 (grey, alpha), 3 (RGB) or
    /// 4 (RGB, alpha). White is 255, 65535 or 1.0 unless `reading` says otherwise.
    ///
    /// # Errors
    /// [`Error::Config`] for another shape or number of samples; [`Error::Input`] for values that are not finite, and for
    /// floats beyond black and white of which `reading` says nothing.
    pub fn from_samples(samples: Samples, shape: [usize; 3], reading: &Reading) -> Result<Self> {
        let [height, width, channels] = shape;
        let sides = (u32::try_from(width), u32::try_from(height));
        let count = height.checked_mul(width).and_then(|pixels| pixels.checked_mul(channels));
        let (Ok(raster_width), Ok(raster_height), 1..=4, true) =
            (sides.0, sides.1, channels, count == Some(samples.len()) && samples.len() > 0)
        else {
            let message = format!("{} samples of the shape {shape:?}: expected [h, w, 1 to 4]", samples.len());
            return Err(Error::Config(message));
        };
        reading.check()?;
        let raster = Raster { width: raster_width, height: raster_height, channels, samples, associated: false };
        let format = ImageFormat::Tiff;
        picture(Path::new("<memory>"), format, Decoded::new(raster, Metadata::default()), reading)
    }

    /// The samples of a file that stores it as deep as it is, and their shape `[h, w, c]`, as for [`Picture::from_samples`].
    /// Floats went through [-1, 1], which rounds them.
    ///
    /// # Errors
    /// As [`write_image`], but for those of the system.
    pub fn samples(&self) -> Result<(Samples, [usize; 3])> {
        let raster = raster(Path::new("<memory>"), &self.tensor, &self.stored(self.bit_depth))?;
        Ok((raster.samples, [raster.height as usize, raster.width as usize, raster.channels]))
    }

    /// The image of a file, within the default limits; see [`read_image`].
    ///
    /// # Errors
    /// As [`read_image`].
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        read_image(path.as_ref(), &Limits::default())
    }

    /// Writes it in the format that the extension names, as deep as that can hold, with the metadata that it can hold;
    /// see [`write_image`]. At its own depth, values are those of its [`Picture::scale`].
    ///
    /// # Errors
    /// As [`write_image`].
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let bit_depth = ImageFormat::from_path(path)?.depth_for(self.bit_depth);
        let options = WriteOptions { metadata: self.metadata.clone(), ..self.stored(bit_depth) };
        write(path, &self.tensor, &options, self.exact.as_deref())
    }

    /// How its pixels are stored at that depth: at its own, with its scale.
    fn stored(&self, bit_depth: BitDepth) -> WriteOptions {
        WriteOptions {
            bit_depth,
            scale: self.scale.filter(|_| bit_depth == self.bit_depth),
            alpha: self.alpha.clone(),
            associated_alpha: self.associated_alpha,
            metadata: Metadata::default(),
        }
    }

    /// The bytes of a PNG file with nothing but the pixels, 8 bits a sample, that shows it: what lies beyond black and
    /// white is cut off.
    ///
    /// # Errors
    /// As [`write_image`], but for those of the system.
    pub fn to_png(&self) -> Result<Vec<u8>> {
        let name = Path::new("<png>");
        let raster =
            raster(name, &self.tensor, &WriteOptions { alpha: self.alpha.clone(), ..WriteOptions::default() })?;
        codec::png_bytes(name, &raster, &Metadata::default())
    }

    /// The picture of the file `path`, unless it has pixels that were not observed, see [`Picture::observed`].
    ///
    /// # Errors
    /// [`Error::Input`] if it has.
    pub fn whole(self, path: &Path) -> Result<Self> {
        let hidden = self.observed.iter().flat_map(|mask| mask.known()).filter(|known| !**known).count();
        match hidden {
            0 => Ok(self),
            _ => Err(Error::input(
                path,
                format!("only an observation may have pixels that were not observed (BLANK or NaN): {hidden} here"),
            )),
        }
    }

    /// The least and the greatest value, in [-1, 1] units, that a file of this picture holds; any, as floats.
    pub(crate) fn bounds(&self) -> Option<[f64; 2]> {
        let scale = self.scale.unwrap_or(self.bit_depth.scale());
        let bounds = || scale.bounds(self.bit_depth).map(|value| 2.0 * value - 1.0);
        (self.bit_depth != BitDepth::Float).then(bounds)
    }

    /// Standard deviation of the quantisation error: 1/sqrt(12) of a step.
    pub fn rounding(&self) -> NoiseLevel {
        match (self.bit_depth, self.scale) {
            (BitDepth::Float, _) | (_, None) => self.bit_depth.rounding(),
            (_, Some(scale)) => NoiseLevel(2.0 / scale.span() / 12.0_f64.sqrt()),
        }
    }
}

/// How to write an image.
#[derive(Debug, Clone)]
pub struct WriteOptions {
    /// How to store a sample.
    pub bit_depth: BitDepth,
    /// The values of black and white, where they are not those of the depth. Values beyond are then kept as far as the
    /// type of the samples goes.
    pub scale: Option<Scale>,
    /// Alpha to add, h * w values from 0 to 1, row by row.
    pub alpha: Option<Vec<f32>>,
    /// Whether the colours are multiplied by alpha already; only TIFF and OpenEXR can say so.
    pub associated_alpha: bool,
    /// What to write besides the pixels; what the format cannot hold is left out, see [`Metadata::fitted`].
    pub metadata: Metadata,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self {
            bit_depth: BitDepth::Eight,
            scale: None,
            alpha: None,
            associated_alpha: false,
            metadata: Metadata::default(),
        }
    }
}

/// Reads a PNG, JPEG, WebP, TIFF, FITS, OpenEXR, JPEG XL or AVIF image, told apart by content. Of several frames or pages it is the first.
///
/// # Errors
/// [`Error::Input`] if the file is missing, damaged, cut off or of another kind, if floats do not fit the range from
/// black (0) to white (1), or if pixels were not observed; [`Error::TooLarge`] if it declares more than `limits` allow.
pub fn read_image(path: &Path, limits: &Limits) -> Result<Picture> {
    read_image_as(path, &Reading::default(), limits)
}

/// Reads an image as [`read_image`] does: the page, and with the black and white, of `reading`. With a white given, all
/// values are taken as they are.
///
/// # Errors
/// As [`read_image`], and [`Error::Config`] for a page that the file does not have, or levels in the wrong order.
pub fn read_image_as(path: &Path, reading: &Reading, limits: &Limits) -> Result<Picture> {
    read_observation(path, reading, limits)?.whole(path)
}

/// Reads an observation as [`read_image_as`] reads an image, but with pixels that were not observed.
///
/// # Errors
/// As [`read_image_as`], but for those pixels.
pub fn read_observation(path: &Path, reading: &Reading, limits: &Limits) -> Result<Picture> {
    let (format, decoded) = decode_file(path, reading, limits)?;
    picture(path, format, decoded, reading)
}

/// Reads an observation as [`read_observation`] does, and the SHA-256 of its file. The file is read once, so that picture and hash are of the same bytes even if it is replaced meanwhile.
///
/// # Errors
/// As [`read_image_as`].
pub fn read_hashed_as(path: &Path, reading: &Reading, limits: &Limits) -> Result<(Picture, ContentHash)> {
    let mut bytes = Vec::new();
    let read = open(path, limits)?.take(limits.max_decoded_bytes).read_to_end(&mut bytes);
    read.map_err(|e| unreadable(path, &e))?;
    read_bytes(path, &bytes, reading, limits)
}

/// Reads an image as [`read_image`] does, whose greatest value is white where its type has none, or of floats beyond 1: numbers
/// that mark.
pub(super) fn read_marks(path: &Path, limits: &Limits) -> Result<Picture> {
    let (format, mut decoded) = decode_file(path, &Reading::default(), limits)?;
    let most = decoded.raster.samples.most();
    decoded.white = match decoded.white {
        Ok(white) if !(matches!(decoded.raster.samples, Samples::Float(_)) && most > white) => Ok(white),
        _ => Ok(most.max(1.0)),
    };
    picture(path, format, decoded, &Reading::default())?.whole(path)
}

/// Reads an image as [`read_hashed_as`] does from the bytes of a file, which messages call `name`.
///
/// # Errors
/// As [`read_image_as`].
pub fn read_bytes(name: &Path, bytes: &[u8], reading: &Reading, limits: &Limits) -> Result<(Picture, ContentHash)> {
    let (format, decoded) = decode(name, Cursor::new(bytes), reading, limits)?;
    Ok((picture(name, format, decoded, reading)?, sha256(bytes)))
}

/// Reads an image as [`read_image`] does, and the SHA-256 of its file.
///
/// # Errors
/// As [`read_image`].
pub fn read_hashed(path: &Path, limits: &Limits) -> Result<(Picture, ContentHash)> {
    let (picture, hash) = read_hashed_as(path, &Reading::default(), limits)?;
    Ok((picture.whole(path)?, hash))
}

/// How a file is to be turned, which it then no longer says.
pub(super) fn orientation_of(decoded: &mut Decoded) -> Orientation {
    let from_exif = decoded.metadata.exif.as_mut().and_then(|exif| Orientation::remove_from_exif_chunk(exif));
    from_exif.unwrap_or(decoded.orientation)
}

/// The warning of a picture that is the first of several pages, none of which was asked for.
pub(crate) fn first_of(pages: usize) -> String {
    format!("page 1 of {pages} only")
}

/// The samples of a file as a tensor, turned upright.
fn picture(path: &Path, format: ImageFormat, decoded: Decoded, reading: &Reading) -> Result<Picture> {
    let mut decoded = decoded;
    let orientation = orientation_of(&mut decoded);
    let Decoded { raster, white, mut metadata, pages, unobserved, mut warnings, .. } = decoded;
    if let Some(xmp) = metadata.xmp.as_mut().filter(|_| orientation != Orientation::NoTransforms) {
        upright_xmp(xmp);
    }
    if let Some(exif) = &mut metadata.exif {
        exif::remove_thumbnail(exif);
        metadata.resolution = metadata.resolution.or_else(|| exif::resolution(exif));
    }
    let bit_depth = raster.samples.depth();
    let turned = Turned::new(orientation, raster.width as usize, raster.height as usize);
    if [turned.width, turned.height] != [raster.width as usize, raster.height as usize] {
        metadata.resolution = metadata.resolution.map(|Resolution { x, y }| Resolution { x: y, y: x });
        if let Some(exif) = &mut metadata.exif {
            let side = |pixels: usize| u32::try_from(pixels).unwrap_or(u32::MAX);
            exif::turn(exif, (side(turned.width), side(turned.height)));
        }
    }
    let channels = raster.channels;
    let color = if channels >= 3 { 3 } else { 1 };
    let mut values = Vec::with_capacity(color * turned.pixels());
    for channel in 0..color {
        turned.plane(&raster, channel, |v| v, &mut values);
    }
    let own = raster.samples.white();
    let alpha = (channels > color).then(|| {
        let mut alpha = Vec::with_capacity(turned.pixels());
        turned.plane(&raster, color, |v| v / own as f32, &mut alpha);
        alpha
    });
    let bad = values.iter().chain(alpha.iter().flatten()).filter(|value| !value.is_finite()).count();
    if bad > 0 {
        return Err(Error::input(path, format!("{} not finite: NaN or infinite", counted(bad, "sample"))));
    }
    let [least, most] = range(alpha.as_deref().unwrap_or_default());
    if least < -1e-3 || most > 1.001 {
        return Err(Error::input(path, format!("the alpha channel holds {least} to {most}, expected 0 to 1")));
    }
    let scale = reading.scale(path, white.clone().ok())?.ok_or_else(|| {
        let ([least, most], name) = (range(&values), white.err().unwrap_or_default());
        let proposal = proposal(least, most);
        Error::input(
            path,
            format!("holds {name} from {least} to {most}: say which value is white, for example {proposal}"),
        )
    })?;
    if bit_depth == BitDepth::Float && reading.white.is_none() && scale.span() == 1.0 {
        check_unit_range(path, &values)?;
    }
    let (black, span) = (scale.black as f32, scale.span() as f32);
    for value in &mut values {
        *value = 2.0 * ((*value - black) / span) - 1.0;
    }
    if pages > 1 && reading.page.is_none() {
        warnings.push(first_of(pages));
    }
    let hidden = unobserved.iter().filter(|hidden| **hidden).count();
    let observed = match hidden {
        0 => None,
        _ => Some(Mask::new(turned.height, turned.width, unobserved.into_iter().map(|hidden| !hidden).collect())?),
    };
    if hidden > 0 {
        warnings.push(format!("pixels that were not observed (BLANK or NaN): {hidden}"));
    }
    let tensor = from_f32(values, [1, color, turned.height, turned.width], &cpu());
    let associated_alpha = raster.associated && alpha.is_some();
    let scale = Some(scale).filter(|scale| *scale != Scale { black: 0.0, white: own });
    Ok(Picture {
        tensor,
        alpha,
        associated_alpha,
        observed,
        metadata,
        bit_depth,
        scale,
        format,
        pages,
        warnings,
        exact: None,
    })
}

/// Opens, tells the format and decodes, without interpreting the samples.
pub(super) fn decode_file(path: &Path, reading: &Reading, limits: &Limits) -> Result<(ImageFormat, Decoded)> {
    decode(path, BufReader::new(open(path, limits)?), reading, limits)
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    Error::input(path, format!("cannot be read: {error}"))
}

/// Refuses what is no file that can be opened, before more is said of it.
///
/// # Errors
/// [`Error::Input`].
pub fn check_file(path: &Path) -> Result<()> {
    super::open_regular(path).map(drop).map_err(|e| unreadable(path, &e))
}

/// Opens a file that is a regular one and not too large.
fn open(path: &Path, limits: &Limits) -> Result<File> {
    let file = super::open_regular(path).map_err(|e| unreadable(path, &e))?;
    let metadata = file.metadata().map_err(|e| unreadable(path, &e))?;
    if metadata.len() > limits.max_decoded_bytes {
        return Err(limits.refused(path, "the file has", metadata.len()));
    }
    Ok(file)
}

/// Tells the format of an image and decodes it.
fn decode(
    path: &Path,
    mut reader: impl BufRead + Seek,
    reading: &Reading,
    limits: &Limits,
) -> Result<(ImageFormat, Decoded)> {
    let mut start = Vec::new();
    reader.by_ref().take(ImageFormat::START).read_to_end(&mut start).map_err(|e| unreadable(path, &e))?;
    reader.seek(SeekFrom::Start(0)).map_err(|e| unreadable(path, &e))?;
    if start.is_empty() {
        return Err(Error::input(path, "is empty"));
    }
    if is_raw(path, &start) {
        return Err(Error::input(path, DEVELOP));
    }
    let format = ImageFormat::from_content(&start).ok_or_else(|| {
        let other = other_kind(&start).map_or(String::new(), |kind| format!(" but a {kind} file: {}", way_out(kind)));
        Error::input(path, format!("is not a PNG, JPEG, WebP, TIFF, FITS, OpenEXR, JPEG XL or AVIF image{other}"))
    })?;
    let decoded = codec::decode(format, path, reader, reading.page, limits)?;
    Ok((format, decoded))
}

/// Writes an image in the format that the extension names (png, jpg, webp, tif, fits, exr), whole or not at all.
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
    write(path, tensor, options, None)
}

fn write(path: &Path, tensor: &Tensor<4>, options: &WriteOptions, exact: Option<&Exact>) -> Result<()> {
    let format = ImageFormat::from_path(path)?;
    if !format.supports(options.bit_depth) {
        let depth = options.bit_depth;
        return Err(Error::config(format!("{}: {format:?} cannot hold {depth:?} samples", path.display())));
    }
    if options.alpha.is_some() && !format.holds_alpha() {
        return Err(Error::config(format!("{}: {format:?} has no alpha channel", path.display())));
    }
    if !format.alpha_fits(options.alpha.as_deref(), options.associated_alpha) {
        let message = match format {
            ImageFormat::OpenExr => "colours must be multiplied by alpha in .exr",
            _ => "colours multiplied by alpha can be written only as .tif and .exr",
        };
        return Err(Error::config(format!("{}: {message}", path.display())));
    }
    let mut raster = raster(path, tensor, options)?;
    if let Some(exact) = exact {
        exact.put_back(&mut raster);
    }
    let (metadata, _) = options.metadata.fitted(format, tensor.dims()[1]);
    atomic::write(path, |file| codec::encode(format, path, file, &raster, &metadata))
}
