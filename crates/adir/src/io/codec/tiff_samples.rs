//! TIFF samples of all types as 8 bits, 16 bits or floats.

use std::path::Path;

use tiff::decoder::DecodingResult;

use super::Samples;
use super::tiff_pages::Page;
use crate::{Error, Result};

/// An unsigned 32-bit image that reaches this is taken to use its whole range.
const FULL_RANGE: u32 = 1 << 28;

/// Samples, and their white; `Err` with the type's name where the file does not say what is white.
pub fn convert(path: &Path, result: DecodingResult, planes: usize) -> Result<(Samples, Result<f64, String>)> {
    fn floats<T: Copy>(samples: Vec<T>, planes: usize, convert: impl Fn(T) -> f32) -> Samples {
        Samples::Float(interleave(samples, planes).into_iter().map(convert).collect())
    }
    let unknown = |name: &str| Err(name.to_owned());
    Ok(match result {
        DecodingResult::U8(samples) => (Samples::Eight(interleave(samples, planes)), Ok(255.0)),
        DecodingResult::U16(samples) => (Samples::Sixteen(interleave(samples, planes)), Ok(65535.0)),
        DecodingResult::F32(samples) => (Samples::Float(interleave(samples, planes)), Ok(1.0)),
        DecodingResult::F16(samples) => (floats(samples, planes, f32::from), Ok(1.0)),
        DecodingResult::F64(samples) => (floats(samples, planes, |v| v as f32), Ok(1.0)),
        DecodingResult::U32(samples) => {
            let full = samples.iter().any(|v| *v >= FULL_RANGE);
            let white = if full { Ok(f64::from(u32::MAX)) } else { unknown("32-bit integers") };
            (floats(samples, planes, |v| v as f32), white)
        }
        DecodingResult::I8(samples) => (floats(samples, planes, f32::from), unknown("signed 8-bit integers")),
        DecodingResult::I16(samples) => (floats(samples, planes, f32::from), unknown("signed 16-bit integers")),
        DecodingResult::I32(samples) => (floats(samples, planes, |v| v as f32), unknown("signed 32-bit integers")),
        DecodingResult::U64(_) | DecodingResult::I64(_) => {
            return Err(Error::input(path, "64-bit integers are not read: store floats or 16 bits"));
        }
    })
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

/// Samples of 1, 2 or 4 bits, packed into rows of whole bytes, a byte each.
pub fn unpack(packed: &[u8], width: usize, bits: usize) -> Vec<u8> {
    let row = (width * bits).div_ceil(8);
    let mask = (1_u8 << bits) - 1;
    let sample = |row: &[u8], x: usize| row[x * bits / 8] >> (8 - bits - x * bits % 8) & mask;
    packed.chunks_exact(row).flat_map(|row| (0..width).map(move |x| sample(row, x))).collect()
}

/// The colours of a palette's indices. `map` holds all reds, then all greens, then all blues, of 16 bits.
pub fn colours(path: &Path, indices: &[u8], map: &[u16]) -> Result<Samples> {
    let size = map.len() / 3;
    // Some writers store 8 bits, though 16 are asked for.
    let shift = if map.iter().all(|v| *v < 256) { 0 } else { 8 };
    let colour = |channel: usize, index: u8| map.get(channel * size + usize::from(index)).map(|v| (v >> shift) as u8);
    if size == 0 || indices.iter().any(|index| usize::from(*index) >= size) {
        return Err(Error::input(path, format!("an index lies outside the palette of {size} colours")));
    }
    Ok(Samples::Eight(indices.iter().flat_map(|index| (0..3).filter_map(move |c| colour(c, *index))).collect()))
}

/// Refuses what is not read, by name.
pub fn check(path: &Path, page: &Page) -> Result<()> {
    let refuse = |message: String| Err(Error::input(path, message));
    let bits = page.bits.first().copied().unwrap_or(1);
    let compression = match page.compression {
        1 | 4 | 5 | 8 | 32946 | 32773 | 34926 | 50000 => None,
        7 if matches!(page.photometric, Some(0..=2 | 6)) && bits == 8 => None,
        2 | 3 => Some("CCITT RLE or Group 3"),
        6 => Some("old-style JPEG"),
        7 => Some("JPEG of this kind"),
        34712 | 33003 | 33005 => Some("JPEG 2000"),
        34887 => Some("LERC"),
        34925 => Some("LZMA"),
        50001 | 34927 => Some("WebP"),
        50002 | 52546 => Some("JPEG XL"),
        _ => Some("this kind of"),
    };
    if let Some(name) = compression {
        return refuse(format!(
            "{name} compression ({}) is not read in TIFF: store it with deflate or LZW, for example with tiffcp -c zip",
            page.compression
        ));
    }
    match page.photometric {
        Some(0..=3) => {}
        Some(6) if page.compression == 7 => {}
        Some(4) => return refuse("holds a transparency mask and no image".into()),
        Some(5) => return refuse("holds CMYK: convert it to RGB first".into()),
        Some(6) => return refuse("holds YCbCr that is not JPEG: convert it to RGB first".into()),
        Some(8..=10) => return refuse("holds L*a*b*: convert it to RGB first".into()),
        Some(32844 | 32845) => return refuse("holds LogLuv: convert it to 32-bit float RGB first".into()),
        Some(other) => return refuse(format!("holds pixels of kind {other}, not grey, RGB or a palette")),
        None => return refuse("does not say what its samples mean (PhotometricInterpretation)".into()),
    }
    let palette = page.photometric == Some(3);
    let fits = match (page.format, bits) {
        (1, 8) => true,
        (1, 1 | 2 | 4) => page.samples == 1,
        (1 | 4, 16 | 32) | (2, 8 | 16 | 32) | (3, 16 | 32 | 64) => !palette,
        _ => false,
    };
    if !fits || page.bits.iter().any(|other| *other != bits) {
        let format = match page.format {
            1 => "unsigned",
            2 => "signed",
            3 => "float",
            _ => "undefined",
        };
        let what = if palette { "a palette of" } else { "samples of" };
        return refuse(format!(
            "{what} {bits} bits ({format}) are not read, but grey of 1, 2 and 4, palettes of up to 8, and grey and RGB of \
             8, 16 and 32 bits"
        ));
    }
    check_channels(path, page)
}

/// Refuses channels that are neither colour nor declared as alpha.
fn check_channels(path: &Path, page: &Page) -> Result<()> {
    let colours = if matches!(page.photometric, Some(2 | 6)) { 3 } else { 1 };
    let alpha = page.extra == [1] || page.extra == [2];
    if page.samples == colours || page.samples == colours + 1 && alpha && page.photometric != Some(3) {
        return Ok(());
    }
    let kind = if colours == 3 { "RGB has 3" } else { "grey has 1" };
    let others = match page.samples.checked_sub(colours) {
        None | Some(0) => "",
        Some(1) => ", and the other is not declared as alpha",
        Some(_) => ", and the others are not alpha alone",
    };
    Err(Error::input(
        path,
        format!(
            "has {} channels, but {kind}{others}: store the channels to restore in a file of their own",
            page.samples
        ),
    ))
}
