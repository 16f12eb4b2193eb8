//! JPEG, through the `image` crate. Its decoder fills what a cut-off file lacks with grey and says
//! nothing, so the end-of-image marker is looked for first.

use std::io::{BufRead, Cursor};
use std::path::Path;

use image::codecs::jpeg::{JpegDecoder, JpegEncoder};
use image::{ExtendedColorType, ImageEncoder, ImageError};

use super::{Decoded, Metadata, Raster, Samples, decode_eight_bit, image_error, refused};
use crate::io::atomic::AtomicFile;
use crate::io::limits::Limits;
use crate::{Error, Result};

/// Quality at which JPEG files are written, of 100.
const QUALITY: u8 = 95;

pub fn decode(path: &Path, mut reader: impl BufRead, limits: &Limits) -> Result<Decoded> {
    let mut file = Vec::new();
    reader.read_to_end(&mut file).map_err(|e| Error::io(path, e))?;
    if !is_complete(&file) {
        return Err(Error::input(path, "the JPEG data ends before its end marker"));
    }
    let decoder = JpegDecoder::new(Cursor::new(file)).map_err(|e| image_error(path, e))?;
    decode_eight_bit(path, decoder, limits)
}

/// Whether an end-of-image marker follows the first start of scan. Thumbnails, which end with one too,
/// lie in the segments before, which are stepped over by their lengths.
fn is_complete(file: &[u8]) -> bool {
    let mut at = 2;
    loop {
        match file.get(at..) {
            // Any number of fill bytes may precede a marker.
            Some([0xff, 0xff, ..]) => at += 1,
            Some([0xff, 0xda, scan @ ..]) => return scan.windows(2).rev().any(|pair| pair == [0xff, 0xd9]),
            Some([0xff, 0x01 | 0xd0..=0xd7, ..]) => at += 2,
            Some([0xff, _, high, low, ..]) => at += 2 + usize::from(u16::from_be_bytes([*high, *low])),
            _ => return false,
        }
    }
}

pub fn encode(path: &Path, file: &mut AtomicFile<'_>, raster: &Raster, metadata: &Metadata<'_>) -> Result<()> {
    let color = match raster.channels {
        1 => ExtendedColorType::L8,
        3 => ExtendedColorType::Rgb8,
        _ => return Err(refused(path, "JPEG has no alpha channel")),
    };
    let Samples::Eight(samples) = &raster.samples else {
        return Err(refused(path, "JPEG has 8 bits per sample"));
    };
    let mut encoder = JpegEncoder::new_with_quality(file, QUALITY);
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
