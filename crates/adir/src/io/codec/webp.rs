//! WebP: both kinds are read, and files are written in the lossless kind. Grey is stored as RGB, which is all the
//! format knows. Of an animation, frames are read as they are shown, over those before.

use std::io::{BufRead, Seek};
use std::path::Path;

use image_webp::{ColorType, DecodingError, EncodingError, WebPDecoder, WebPEncoder};

use super::{Decoded, Raster, Samples, check_page, damaged, read_error, refused, unsupported};
use crate::io::atomic::AtomicFile;
use crate::io::limits::Limits;
use crate::io::metadata::Metadata;
use crate::{Error, Result};

pub fn decode(path: &Path, reader: impl BufRead + Seek, page: usize, limits: &Limits) -> Result<Decoded> {
    let damaged = |e: DecodingError| match e {
        DecodingError::IoError(e) => read_error(path, e),
        DecodingError::UnsupportedFeature(said) => unsupported(path, said),
        other => damaged(path, other),
    };
    let mut decoder = WebPDecoder::new(reader).map_err(damaged)?;
    let channels = if decoder.has_alpha() { 4 } else { 3 };
    let (width, height) = decoder.dimensions();
    let size = limits.check(path, (width, height), channels as u64)?;
    let pages = if decoder.is_animated() { decoder.num_frames().max(1) as usize } else { 1 };
    check_page(path, page, pages)?;
    let metadata = Metadata {
        icc: decoder.icc_profile().map_err(damaged)?,
        exif: decoder.exif_metadata().map_err(damaged)?,
        xmp: decoder.xmp_metadata().map_err(damaged)?,
        ..Metadata::default()
    };
    let mut samples = vec![0; size];
    if page == 1 {
        decoder.read_image(&mut samples).map_err(damaged)?;
    } else {
        for _ in 0..page {
            decoder.read_frame(&mut samples).map_err(damaged)?;
        }
    }
    let raster = Raster { width, height, channels, samples: Samples::Eight(samples), associated: false };
    Ok(Decoded { pages, ..Decoded::new(raster, metadata) })
}

pub fn encode(path: &Path, file: &mut AtomicFile<'_>, raster: &Raster, metadata: &Metadata) -> Result<()> {
    let color = match raster.channels {
        1 => ColorType::L8,
        2 => ColorType::La8,
        3 => ColorType::Rgb8,
        _ => ColorType::Rgba8,
    };
    let Samples::Eight(samples) = &raster.samples else {
        return Err(refused(path, "WebP has 8 bits per sample"));
    };
    let mut encoder = WebPEncoder::new(file);
    if let Some(icc) = &metadata.icc {
        encoder.set_icc_profile(icc.clone());
    }
    if let Some(exif) = &metadata.exif {
        encoder.set_exif_metadata(exif.clone());
    }
    if let Some(xmp) = &metadata.xmp {
        encoder.set_xmp_metadata(xmp.clone());
    }
    encoder.encode(samples, raster.width, raster.height, color).map_err(|e| match e {
        EncodingError::IoError(e) => Error::io(path, e),
        other => refused(path, other),
    })
}
