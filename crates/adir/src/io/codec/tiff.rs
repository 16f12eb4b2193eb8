//! TIFF with grey or RGB pixels, with or without alpha, of 8 or 16 bits or 32-bit float; the first page
//! of a file. Planar files are interleaved. EXIF is a directory in TIFF and not a block of bytes, so it
//! is neither read nor written; orientation has a tag of its own.

use std::io::{BufRead, Seek};
use std::path::Path;

use image::metadata::Orientation;
use tiff::ColorType;
use tiff::decoder::{Decoder, DecodingResult, Limits as TiffLimits};
use tiff::encoder::colortype::{self, ColorType as EncodedColor};
use tiff::encoder::{Compression, DeflateLevel, TiffEncoder, TiffValue};
use tiff::tags::{ExtraSamples, Tag};
use tiff::{TiffError, TiffResult};

use super::{Decoded, Metadata, Raster, Samples, read_error, refused};
use crate::io::atomic::AtomicFile;
use crate::io::limits::Limits;
use crate::{Error, Result};

pub fn decode(path: &Path, reader: impl BufRead + Seek, limits: &Limits) -> Result<Decoded> {
    let damaged = |e: TiffError| match e {
        TiffError::IoError(e) => read_error(path, e),
        other => Error::input(path, other.to_string()),
    };
    let budget = usize::try_from(limits.max_decoded_bytes).unwrap_or(usize::MAX);
    let mut own = TiffLimits::default();
    own.decoding_buffer_size = budget;
    own.intermediate_buffer_size = budget;
    own.ifd_value_size = limits.max_metadata;
    let mut decoder = Decoder::new(reader).map_err(damaged)?.with_limits(own);
    let (width, height) = decoder.dimensions().map_err(damaged)?;
    let color = decoder.colortype().map_err(damaged)?;
    let channels: usize = match color {
        ColorType::Gray(_) => 1,
        ColorType::GrayA(_) | ColorType::Multiband { num_samples: 2, .. } => 2,
        ColorType::RGB(_) => 3,
        ColorType::RGBA(_) => 4,
        _ => return Err(unsupported(path, color)),
    };
    let bits = color.bit_depth();
    if !matches!(bits, 8 | 16 | 32) {
        return Err(unsupported(path, color));
    }
    limits.check(path, (width, height), channels as u64 * u64::from(bits / 8))?;
    let orientation = decoder.find_tag_unsigned::<u8>(Tag::Orientation).map_err(damaged)?;
    let icc = decoder.get_tag_u8_vec(Tag::IccProfile).ok();
    let mut result = DecodingResult::U8(Vec::new());
    let layout = decoder.read_image_to_buffer(&mut result).map_err(damaged)?;
    let planes = layout.planes;
    let samples = match result {
        DecodingResult::U8(samples) => Samples::Eight(interleave(samples, planes)),
        DecodingResult::U16(samples) => Samples::Sixteen(interleave(samples, planes)),
        DecodingResult::F32(samples) => Samples::Float(interleave(samples, planes)),
        _ => return Err(unsupported(path, color)),
    };
    Ok(Decoded {
        raster: Raster { width, height, channels, samples },
        icc,
        exif: None,
        orientation: orientation.and_then(Orientation::from_exif).unwrap_or(Orientation::NoTransforms),
    })
}

fn unsupported(path: &Path, color: ColorType) -> Error {
    Error::input(path, format!("{color:?} samples are not supported, only grey and RGB of 8, 16 or 32-bit float"))
}

/// Planes one after another, brought together by pixel.
fn interleave<T: Copy>(samples: Vec<T>, planes: usize) -> Vec<T> {
    let size = samples.len() / planes.max(1);
    if planes <= 1 || size == 0 {
        return samples;
    }
    let planes: Vec<&[T]> = samples.chunks_exact(size).collect();
    (0..size).flat_map(|pixel| planes.iter().filter_map(move |plane| plane.get(pixel).copied())).collect()
}

pub fn encode(path: &Path, file: &mut AtomicFile<'_>, raster: &Raster, metadata: &Metadata<'_>) -> Result<()> {
    let rgb = raster.channels >= 3;
    match (&raster.samples, rgb) {
        (Samples::Eight(samples), false) => page::<colortype::Gray8>(file, raster, samples, metadata),
        (Samples::Eight(samples), true) => page::<colortype::RGB8>(file, raster, samples, metadata),
        (Samples::Sixteen(samples), false) => page::<colortype::Gray16>(file, raster, samples, metadata),
        (Samples::Sixteen(samples), true) => page::<colortype::RGB16>(file, raster, samples, metadata),
        (Samples::Float(samples), false) => page::<colortype::Gray32Float>(file, raster, samples, metadata),
        (Samples::Float(samples), true) => page::<colortype::RGB32Float>(file, raster, samples, metadata),
    }
    .map_err(|e| match e {
        TiffError::IoError(e) => Error::io(path, e),
        other => refused(path, other),
    })
}

fn page<C: EncodedColor>(
    file: &mut AtomicFile<'_>,
    raster: &Raster,
    samples: &[C::Inner],
    metadata: &Metadata<'_>,
) -> TiffResult<()>
where
    [C::Inner]: TiffValue,
{
    let mut encoder = TiffEncoder::new(file)?.with_compression(Compression::Deflate(DeflateLevel::Balanced));
    let mut image = encoder.new_image::<C>(raster.width, raster.height)?;
    if raster.channels.is_multiple_of(2) {
        image.extra_samples(&[ExtraSamples::UnassociatedAlpha])?;
    }
    if let Some(icc) = metadata.icc {
        image.encoder().write_tag(Tag::IccProfile, icc)?;
    }
    image.write_data(samples)
}
