//! PNG. Palettes and low bit depths are expanded, transparency becomes alpha, an animation gives its
//! default image. Text chunks are skipped unread: some inflate without bound.

use std::borrow::Cow;
use std::io::{BufRead, Seek};
use std::path::Path;

use image::metadata::Orientation;
use png::{BitDepth, ColorType, Decoder, DecodingError, Encoder, EncodingError, Info, Transformations};

use super::{Decoded, Metadata, Raster, Samples, read_error, refused};
use crate::io::atomic::AtomicFile;
use crate::io::limits::Limits;
use crate::{Error, Result};

pub fn decode(path: &Path, reader: impl BufRead + Seek, limits: &Limits) -> Result<Decoded> {
    let damaged = |e: DecodingError| match e {
        DecodingError::IoError(e) => read_error(path, e),
        other => Error::input(path, other.to_string()),
    };
    // For the decoder's own buffers: ICC and EXIF, each held twice while read, and two rows of pixels.
    let own = limits.max_metadata.saturating_mul(4).saturating_add(limits.max_width as usize * 16);
    let mut decoder = Decoder::new_with_limits(reader, png::Limits { bytes: own });
    decoder.set_ignore_text_chunk(true);
    decoder.set_transformations(Transformations::EXPAND);
    let header = decoder.read_header_info().map_err(damaged)?;
    limits.check(path, header.size(), header.bytes_per_pixel() as u64)?;
    let mut reader = decoder.read_info().map_err(damaged)?;
    let (color, depth) = reader.output_color_type();
    let channels = color.samples();
    let (width, height) = reader.info().size();
    let bytes_per_sample: usize = if depth == BitDepth::Sixteen { 2 } else { 1 };
    let size = limits.check(path, (width, height), (channels * bytes_per_sample) as u64)?;
    if reader.output_buffer_size() != Some(size) {
        return Err(Error::input(path, format!("unexpected pixel layout: {color:?} with {depth:?} bits")));
    }
    let mut bytes = vec![0; size];
    reader.next_frame(&mut bytes).map_err(damaged)?;
    // Reads to the end, which finds metadata behind the pixels and a file cut off.
    reader.finish().map_err(damaged)?;
    let info = reader.info();
    let samples = match depth {
        BitDepth::Sixteen => Samples::Sixteen(bytes.as_chunks().0.iter().map(|b| u16::from_be_bytes(*b)).collect()),
        _ => Samples::Eight(bytes),
    };
    Ok(Decoded {
        raster: Raster { width, height, channels, samples },
        icc: info.icc_profile.as_deref().map(<[u8]>::to_vec),
        exif: info.exif_metadata.as_deref().map(<[u8]>::to_vec),
        orientation: Orientation::NoTransforms,
    })
}

pub fn encode(path: &Path, file: &mut AtomicFile<'_>, raster: &Raster, metadata: &Metadata<'_>) -> Result<()> {
    let failed = |e: EncodingError| match e {
        EncodingError::IoError(e) => Error::io(path, e),
        other => refused(path, other),
    };
    let mut info = Info::with_size(raster.width, raster.height);
    info.color_type = match raster.channels {
        1 => ColorType::Grayscale,
        2 => ColorType::GrayscaleAlpha,
        3 => ColorType::Rgb,
        _ => ColorType::Rgba,
    };
    let bytes = match &raster.samples {
        Samples::Eight(samples) => Cow::Borrowed(samples.as_slice()),
        Samples::Sixteen(samples) => samples.iter().flat_map(|sample| sample.to_be_bytes()).collect(),
        Samples::Float(_) => return Err(refused(path, "PNG has no floating-point samples")),
    };
    info.bit_depth = if matches!(raster.samples, Samples::Sixteen(_)) { BitDepth::Sixteen } else { BitDepth::Eight };
    info.icc_profile = metadata.icc.map(Cow::Borrowed);
    info.exif_metadata = metadata.exif.map(Cow::Borrowed);
    let mut writer = Encoder::with_info(file, info).and_then(Encoder::write_header).map_err(failed)?;
    writer.write_image_data(&bytes).map_err(failed)?;
    writer.finish().map_err(failed)
}
