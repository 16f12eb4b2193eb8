//! PNG. Palettes and low bit depths are expanded, transparency becomes alpha, an animation gives its default image or
//! a frame as it is shown. Compressed texts are skipped unread: some inflate without bound.

use std::borrow::Cow;
use std::io::{BufRead, Read, Seek, SeekFrom, Write};
use std::path::Path;

use image::AnimationDecoder;
use png::chunk::ChunkType;
use png::{
    BitDepth, ColorType, Decoder, DecodingError, Encoder, EncodingError, Info, PixelDimensions, Transformations, Unit,
};

use super::png_chunks::{INCHES_IN_A_METRE, XMP, collect, international_chunk, text_chunk};
use super::{Decoded, Raster, Samples, check_page, damaged, image_error, read_error, refused};
use crate::io::limits::Limits;
use crate::io::metadata::Metadata;
use crate::{Error, Result};

pub fn decode(path: &Path, mut file: impl BufRead + Seek, page: usize, limits: &Limits) -> Result<Decoded> {
    let mut metadata = Metadata::default();
    collect(&mut file, limits.max_metadata, &mut metadata).map_err(|e| read_error(path, e))?;
    file.seek(SeekFrom::Start(0)).map_err(|e| read_error(path, e))?;
    let damaged = |e: DecodingError| match e {
        DecodingError::IoError(e) => read_error(path, e),
        other => damaged(path, other),
    };
    // For the decoder's own buffers: ICC and EXIF, each held twice while read, and two rows of pixels.
    let row = claimed_width(&mut file).map_err(|e| read_error(path, e))?.saturating_mul(16);
    let own = limits.max_metadata.saturating_mul(4).saturating_add(row);
    let mut decoder = Decoder::new_with_limits(&mut file, png::Limits { bytes: own });
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
    let frames = reader.info().animation_control().map_or(0, |control| control.num_frames as usize);
    // The default image is the first frame where it has a frame's header.
    let apart = usize::from(frames > 0 && reader.info().frame_control().is_none());
    let pages = (frames + apart).max(1);
    check_page(path, page, pages)?;
    let mut bytes = vec![0; size];
    reader.next_frame(&mut bytes).map_err(damaged)?;
    // Reads to the end, which finds metadata behind the pixels and a file cut off.
    reader.finish().map_err(damaged)?;
    let info = reader.info();
    metadata.icc = info.icc_profile.as_deref().map(<[u8]>::to_vec);
    metadata.exif = info.exif_metadata.as_deref().map(<[u8]>::to_vec);
    let samples = match depth {
        BitDepth::Sixteen => Samples::Sixteen(bytes.as_chunks().0.iter().map(|b| u16::from_be_bytes(*b)).collect()),
        _ => Samples::Eight(bytes),
    };
    let mut raster = Raster { width, height, channels, samples, associated: false };
    if page > 1 {
        drop(reader);
        file.seek(SeekFrom::Start(0)).map_err(|e| read_error(path, e))?;
        raster = frame(path, file, page - 1 - apart, raster, limits)?;
    }
    Ok(Decoded { pages, ..Decoded::new(raster, metadata) })
}

/// The width in the header, which is checked with the height before a row is allocated.
fn claimed_width(file: &mut (impl BufRead + Seek)) -> std::io::Result<usize> {
    let mut head = Vec::new();
    file.by_ref().take(20).read_to_end(&mut head)?;
    file.seek(SeekFrom::Start(0))?;
    let width = head.last_chunk().filter(|_| head.len() == 20).map_or(0, |bytes| u32::from_be_bytes(*bytes));
    Ok(width as usize)
}

/// A frame of an animation, counted from 0, in the channels of its default image.
fn frame(path: &Path, file: impl BufRead + Seek, index: usize, still: Raster, limits: &Limits) -> Result<Raster> {
    let failed = |e| image_error(path, e);
    let mut own = image::Limits::default();
    own.max_alloc = Some(limits.max_decoded_bytes);
    let decoder = image::codecs::png::PngDecoder::with_limits(file, own).map_err(failed)?;
    let mut frames = decoder.apng().map_err(failed)?.into_frames();
    let missing = || Error::input(path, "the animation ends before that frame");
    let frame = frames.nth(index).ok_or_else(missing)?.map_err(failed)?.into_buffer();
    if frame.dimensions() != (still.width, still.height) {
        return Err(Error::input(path, "a frame has another size than the animation"));
    }
    let kept: &[usize] = match still.channels {
        1 => &[0],
        2 => &[0, 3],
        3 => &[0, 1, 2],
        _ => &[0, 1, 2, 3],
    };
    let samples = frame.pixels().flat_map(|pixel| kept.iter().map(|channel| pixel.0[*channel])).collect();
    Ok(Raster { samples: Samples::Eight(samples), ..still })
}

pub fn encode(path: &Path, file: &mut impl Write, raster: &Raster, metadata: &Metadata) -> Result<()> {
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
    info.icc_profile = metadata.icc.as_deref().map(Cow::Borrowed);
    info.exif_metadata = metadata.exif.as_deref().map(Cow::Borrowed);
    info.pixel_dims = metadata.resolution.map(|resolution| {
        let per_metre = |v: f64| (v * INCHES_IN_A_METRE).round().clamp(1.0, f64::from(i32::MAX)) as u32;
        PixelDimensions { xppu: per_metre(resolution.x), yppu: per_metre(resolution.y), unit: Unit::Meter }
    });
    let mut writer = Encoder::with_info(file, info).and_then(Encoder::write_header).map_err(failed)?;
    // A profile says more than these, and must not stand beside sRGB.
    let colour = metadata.png_colour.iter().filter(|_| metadata.icc.is_none());
    let colour = colour.map(|(kind, data)| (ChunkType(*kind), data.clone()));
    let xmp = metadata.xmp.iter().map(|xmp| international_chunk(XMP, xmp));
    for (kind, data) in colour.chain(xmp).chain(metadata.texts.iter().map(text_chunk)) {
        writer.write_chunk(kind, &data).map_err(failed)?;
    }
    writer.write_image_data(&bytes).map_err(failed)?;
    writer.finish().map_err(failed)
}
