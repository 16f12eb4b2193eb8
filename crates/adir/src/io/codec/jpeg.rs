//! JPEG, through the `image` crate. Its decoder fills what a file lacks with grey and says nothing. So the image is
//! decoded once more with other data behind its own: if that changes a pixel, the data were not enough for all.

use std::borrow::Cow;
use std::io::{BufRead, Cursor, Write};
use std::path::Path;

use image::codecs::jpeg::{JpegDecoder, JpegEncoder, PixelDensity, PixelDensityUnit};
use image::{ExtendedColorType, ImageDecoder, ImageEncoder, ImageError};

use super::jpeg_markers::{insertion, segment, walk};
use super::{Decoded, Raster, Samples, check_page, image_error, refused};
use crate::io::atomic::AtomicFile;
use crate::io::limits::Limits;
use crate::io::metadata::Metadata;
use crate::{Error, Result};

/// Quality at which JPEG files are written, of 100.
const QUALITY: u8 = 95;
/// Begins an XMP segment.
const XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";
/// Data that decode to something else than zeros do, whatever the code.
const FILLER: [u8; 24] = [
    0x5a, 0xc3, 0x96, 0x3c, 0xe1, 0x78, 0xb4, 0x2d, 0x69, 0xf0, 0x87, 0x1e, 0xd2, 0x4b, 0xa5, 0x0f, 0x93, 0x6c, 0xd8,
    0x35, 0xca, 0x71, 0x8e, 0x56,
];

pub fn decode(path: &Path, mut reader: impl BufRead, page: usize, limits: &Limits) -> Result<Decoded> {
    check_page(path, page, 1)?;
    let mut file = Vec::new();
    reader.read_to_end(&mut file).map_err(|e| Error::io(path, e))?;
    let markers = walk(&file, limits.max_metadata);
    let cut_off = || Error::input(path, "the JPEG file is cut off: the data do not suffice for all pixels");
    let end = markers.end.ok_or_else(cut_off)?;
    // A block takes a bit at least.
    if markers.scanned * 8 < markers.frame.blocks() || !markers.closed && !markers.frame.is_whole() {
        return Err(cut_off());
    }
    file.truncate(end);
    let closed = |parts: &[&[u8]]| [parts.concat(), vec![0xff, 0xd9]].concat();
    // The probe comes first, so that its pixels are gone before those that are kept are decoded.
    let probe = pixels(path, &closed(&[&file, &FILLER]), limits).map(|raster| digest(&raster));
    let file = closed(&[&file]);
    let raster = pixels(path, &file, limits)?;
    if probe.is_ok_and(|probe| probe != digest(&raster)) {
        return Err(cut_off());
    }
    let mut decoder = decoder(path, &file)?;
    let mut metadata = Metadata {
        icc: decoder.icc_profile().map_err(|e| image_error(path, e))?,
        exif: decoder.exif_metadata().map_err(|e| image_error(path, e))?,
        xmp: decoder.xmp_metadata().map_err(|e| image_error(path, e))?,
        ..markers.metadata
    };
    metadata.texts.retain(|text| !text.text.is_empty());
    let mut decoded = Decoded::new(raster, metadata);
    if !markers.closed {
        decoded.warnings.push("the end-of-image marker is missing; all pixels are there".into());
    }
    if markers.closed && !markers.frame.is_whole() {
        decoded.warnings.push("the last scans are missing, which would refine the image".into());
    }
    Ok(decoded)
}

fn decoder<'a>(path: &Path, file: &'a [u8]) -> Result<JpegDecoder<Cursor<&'a [u8]>>> {
    JpegDecoder::new(Cursor::new(file)).map_err(|e| image_error(path, e))
}

fn pixels(path: &Path, file: &[u8], limits: &Limits) -> Result<Raster> {
    let decoder = decoder(path, file)?;
    let color = decoder.color_type();
    let (width, height) = decoder.dimensions();
    let size = limits.check(path, (width, height), u64::from(color.bytes_per_pixel()))?;
    let mut samples = vec![0; size];
    decoder.read_image(&mut samples).map_err(|e| image_error(path, e))?;
    let channels = usize::from(color.channel_count());
    Ok(Raster { width, height, channels, samples: Samples::Eight(samples), associated: false })
}

fn digest(raster: &Raster) -> u32 {
    match &raster.samples {
        Samples::Eight(samples) => crc32fast::hash(samples),
        _ => 0,
    }
}

pub fn encode(path: &Path, file: &mut AtomicFile<'_>, raster: &Raster, metadata: &Metadata) -> Result<()> {
    let color = match raster.channels {
        1 => ExtendedColorType::L8,
        _ => ExtendedColorType::Rgb8,
    };
    let Samples::Eight(samples) = &raster.samples else {
        return Err(refused(path, "JPEG has 8 bits per sample"));
    };
    let mut encoded = Vec::new();
    let mut encoder = JpegEncoder::new_with_quality(&mut encoded, QUALITY);
    if let Some(icc) = &metadata.icc {
        encoder.set_icc_profile(icc.clone()).map_err(|e| refused(path, e))?;
    }
    if let Some(exif) = &metadata.exif {
        encoder.set_exif_metadata(exif.clone()).map_err(|e| refused(path, e))?;
    }
    if let Some(resolution) = metadata.resolution {
        let whole = |v: f64| v.round().clamp(1.0, f64::from(u16::MAX)) as u16;
        let density = (whole(resolution.x), whole(resolution.y));
        encoder.set_pixel_density(PixelDensity { density, unit: PixelDensityUnit::Inches });
    }
    encoder.write_image(samples, raster.width, raster.height, color).map_err(|e| match e {
        ImageError::IoError(e) => Error::io(path, e),
        other => refused(path, other),
    })?;
    let (head, tail) = encoded.split_at(insertion(&encoded));
    let xmp = metadata.xmp.iter().filter_map(|xmp| segment(0xe1, &[XMP, xmp]));
    let texts = metadata.texts.iter().filter_map(|text| {
        let keyword = match text.keyword.as_str() {
            "Comment" | "Description" => Cow::Borrowed(""),
            other => Cow::Owned(format!("{other}: ")),
        };
        segment(0xfe, &[keyword.as_bytes(), text.text.as_bytes()])
    });
    let mut parts = [head.to_vec()].into_iter().chain(xmp).chain(texts).chain([tail.to_vec()]);
    parts.try_for_each(|part| file.write_all(&part)).map_err(|e| Error::io(path, e))
}
