//! WebP, through the `image` crate: both kinds are read, an animation gives its first frame, and files
//! are written in the lossless kind. Grey is stored as RGB, which is all the format knows.

use std::io::{BufRead, Seek};
use std::path::Path;

use image::codecs::webp::{WebPDecoder, WebPEncoder};
use image::{ExtendedColorType, ImageEncoder, ImageError};

use super::{Decoded, Metadata, Raster, Samples, decode_eight_bit, image_error, refused};
use crate::io::atomic::AtomicFile;
use crate::io::limits::Limits;
use crate::{Error, Result};

pub fn decode(path: &Path, reader: impl BufRead + Seek, limits: &Limits) -> Result<Decoded> {
    let decoder = WebPDecoder::new(reader).map_err(|e| image_error(path, e))?;
    decode_eight_bit(path, decoder, limits)
}

pub fn encode(path: &Path, file: &mut AtomicFile<'_>, raster: &Raster, metadata: &Metadata<'_>) -> Result<()> {
    let color = match raster.channels {
        1 => ExtendedColorType::L8,
        2 => ExtendedColorType::La8,
        3 => ExtendedColorType::Rgb8,
        _ => ExtendedColorType::Rgba8,
    };
    let Samples::Eight(samples) = &raster.samples else {
        return Err(refused(path, "WebP has 8 bits per sample"));
    };
    let mut encoder = WebPEncoder::new_lossless(file);
    if let Some(icc) = metadata.icc {
        encoder.set_icc_profile(icc.to_vec()).map_err(|e| refused(path, e))?;
    }
    if let Some(exif) = metadata.exif {
        encoder.set_exif_metadata(exif.to_vec()).map_err(|e| refused(path, e))?;
    }
    encoder.write_image(samples, raster.width, raster.height, color).map_err(|e| match e {
        ImageError::IoError(e) => Error::io(path, e),
        other => refused(path, other),
    })
}
