//! TIFF with grey, RGB or palette pixels, with or without alpha. Planar files are interleaved. Smaller versions of an
//! image are no pages of their own. EXIF is directories in TIFF, and a block elsewhere; orientation has a tag of its own.

use std::io::{BufRead, Cursor, Read, Seek, SeekFrom, Write};
use std::path::Path;

use image::metadata::Orientation;
use tiff::decoder::ifd::Value;
use tiff::decoder::{Decoder, DecodingResult, Limits as TiffLimits};
use tiff::encoder::colortype::{self, ColorType as EncodedColor};
use tiff::encoder::{Compression, DeflateLevel, Rational, TiffEncoder, TiffKind, TiffKindBig, TiffValue};
use tiff::tags::{ExtraSamples, ResolutionUnit, Tag};
use tiff::{TiffError, TiffResult};

use super::kinds::DEVELOP;
use super::tiff_exif::{Exif, MAKER_NOTE};
use super::tiff_pages::{Directories, Layout, Page, Patched, directories};
use super::tiff_samples::{check, colours, convert, unpack};
use super::tiff_zstd::{ZSTD, unpacked};
use super::{Decoded, Raster, Samples, check_page, jpeg_markers, read_error, refused, unsupported};
use crate::io::atomic::AtomicFile;
use crate::io::limits::Limits;
use crate::io::metadata::{Metadata, Resolution, TIFF_TEXTS, Text, tiff_tag};
use crate::{Error, Result};

/// XMP, and the colours of a palette.
const XMP: Tag = Tag::Unknown(700);
const COLOUR_MAP: Tag = Tag::Unknown(320);
const IMAGE_DEPTH: Tag = Tag::Unknown(32997);

fn damaged(path: &Path) -> impl Fn(TiffError) -> Error + '_ {
    move |e| match e {
        TiffError::IoError(e) => read_error(path, e),
        TiffError::UnsupportedError(e) => unsupported(path, e),
        other => super::damaged(path, other),
    }
}

pub fn decode(path: &Path, mut file: impl BufRead + Seek, page: usize, limits: &Limits) -> Result<Decoded> {
    let (layout, page, pages, cut) = choose(path, &mut file, page)?;
    check(path, &page)?;
    let palette = page.photometric == Some(3);
    let exif = Exif::read(&mut file, layout, page.offset, limits.max_metadata);
    let start = |file| Patched::starting_with(file, layout, &page).map_err(|e| read_error(path, e));
    let mut view = start(&mut file)?;
    if palette {
        view = view.call_grey(layout, &page);
    }
    let damaged = damaged(path);
    let budget = usize::try_from(limits.max_decoded_bytes).unwrap_or(usize::MAX);
    let mut own = TiffLimits::default();
    own.decoding_buffer_size = budget;
    own.intermediate_buffer_size = budget;
    own.ifd_value_size = limits.max_metadata;
    let mut decoder = Decoder::new(view).map_err(&damaged)?.with_limits(own.clone());
    let (width, height) = decoder.dimensions().map_err(&damaged)?;
    let bits = page.bits.first().copied().unwrap_or(1);
    let stored = usize::try_from(page.samples).unwrap_or(usize::MAX);
    let channels = if palette { 3 } else { stored };
    limits.check(path, (width, height), (channels as u64).saturating_mul(bits.div_ceil(8)))?;
    if page.compression == 7 {
        check_jpeg(path, &mut decoder)?;
    }
    let orientation = decoder.find_tag_unsigned::<u8>(Tag::Orientation).map_err(&damaged)?;
    refuse_hidden(path, &mut decoder, pages, [width.into(), height.into(), stored as u64, bits])?;
    let metadata = metadata(&mut decoder, &page, exif.as_ref());
    let mut result = DecodingResult::U8(Vec::new());
    let planes = if ZSTD.contains(&page.compression) {
        let file = Cursor::new(unpacked(path, &mut decoder, layout, &page, limits)?);
        let mut plain = Decoder::new(file).map_err(&damaged)?.with_limits(own);
        plain.read_image_to_buffer(&mut result).map_err(&damaged)?.planes
    } else {
        decoder.read_image_to_buffer(&mut result).map_err(&damaged)?.planes
    };
    let (samples, white) = match result {
        DecodingResult::U8(packed) if palette || bits < 8 => {
            let mut indices = if bits < 8 { unpack(&packed, width as usize, bits as usize) } else { packed };
            if palette {
                let map = decoder.get_tag_u16_vec(COLOUR_MAP).map_err(&damaged)?;
                (colours(path, &indices, &map)?, Ok(255.0))
            } else {
                let step = 255 / ((1_u8 << bits) - 1);
                indices.iter_mut().for_each(|v| *v *= step);
                (Samples::Eight(indices), Ok(255.0))
            }
        }
        DecodingResult::U8(mut samples) if page.photometric == Some(6) => {
            rgb_from_ycbcr(&mut samples);
            (Samples::Eight(samples), Ok(255.0))
        }
        other => convert(path, other, planes)?,
    };
    let raster = Raster { width, height, channels, samples, associated: page.extra == [1] };
    let orientation = orientation.and_then(Orientation::from_exif).unwrap_or(Orientation::NoTransforms);
    let warnings =
        cut.then(|| format!("its list of pages is damaged or cut off after page {pages}")).into_iter().collect();
    Ok(Decoded { white, orientation, pages, warnings, ..Decoded::new(raster, metadata) })
}

/// The directory of a page, the number of pages, and whether the list of them breaks off. Where the chain has smaller
/// versions only, the whole images below are the pages.
fn choose(path: &Path, file: &mut (impl Read + Seek), page: usize) -> Result<(Layout, Page, usize, bool)> {
    let Directories { layout, chain, below, cut } = directories(file).map_err(|e| read_error(path, e))?;
    if chain.iter().chain(&below).any(Page::is_raw) {
        return Err(Error::input(path, DEVELOP));
    }
    let whole = |pages: &[Page]| pages.iter().filter(|page| page.is_whole()).cloned().collect::<Vec<_>>();
    let pages = [whole(&chain), whole(&below), chain].into_iter().find(|pages| !pages.is_empty()).unwrap_or_default();
    if pages.is_empty() {
        return Err(Error::input(path, "the TIFF file holds no image, or is cut off"));
    }
    check_page(path, page, pages.len())?;
    Ok((layout, pages[page - 1].clone(), pages.len(), cut))
}

/// Refuses images that lie behind the one of a page without a page of their own: large stacks of ImageJ, arrays that tifffile
/// truncates, and volumes. An image has that width and height, and so many samples a pixel of so many bits.
fn refuse_hidden<R: Read + Seek>(
    path: &Path,
    decoder: &mut Decoder<R>,
    pages: usize,
    [width, height, samples, bits]: [u64; 4],
) -> Result<()> {
    let unread = |count: u64, how: &str| {
        let message = format!("holds {count} images in one page, {how}: save each as a page, or as a file of its own");
        Err(Error::input(path, message))
    };
    if let Ok(Some(depth @ 2..)) = decoder.find_tag_unsigned::<u64>(IMAGE_DEPTH) {
        return unread(depth, "as a volume (ImageDepth)");
    }
    let Ok(text) = decoder.get_tag_ascii_string(Tag::ImageDescription) else { return Ok(()) };
    let count = if text.starts_with("ImageJ=") {
        text.lines().find_map(|line| line.strip_prefix("images=")?.trim().parse::<u64>().ok())
    } else {
        truncated(&text, width * height * samples)
    };
    let Some(count) = count.filter(|count| *count > pages as u64) else { return Ok(()) };
    // A page that was taken out of a stack may still have its description.
    let offsets = decoder.get_tag_u64_vec(Tag::StripOffsets).unwrap_or_default();
    let image = (width * height).saturating_mul(samples.saturating_mul(bits)).div_ceil(8);
    let end = decoder.inner().seek(SeekFrom::End(0)).map_err(|e| read_error(path, e))?;
    match offsets.first() {
        Some(first) if count.saturating_mul(image).saturating_add(*first) <= end => {
            unread(count, "as ImageJ writes large stacks and tifffile truncated ones")
        }
        _ => Ok(()),
    }
}

/// The number of images of so many values in an array of which tifffile wrote one directory.
fn truncated(description: &str, values: u64) -> Option<u64> {
    let described: serde_json::Value = serde_json::from_str(description).ok()?;
    let is_truncated = described.get("truncated")?.as_bool()?;
    let all = described.get("shape")?.as_array()?.iter().try_fold(1_u64, |n, side| n.checked_mul(side.as_u64()?))?;
    is_truncated.then(|| all.checked_div(values)).flatten()
}

/// Refuses JPEG data that declare more pixels than their strip or tile, which would be decoded before they are cut.
fn check_jpeg<R: Read + Seek>(path: &Path, decoder: &mut Decoder<R>) -> Result<()> {
    let [offsets, counts] = [[Tag::StripOffsets, Tag::TileOffsets], [Tag::StripByteCounts, Tag::TileByteCounts]]
        .map(|tags| tags.into_iter().find_map(|tag| decoder.get_tag_u64_vec(tag).ok()).unwrap_or_default());
    let (width, height) = decoder.chunk_dimensions();
    for (offset, count) in offsets.into_iter().zip(counts) {
        let mut data = Vec::new();
        decoder.inner().seek(SeekFrom::Start(offset)).map_err(|e| read_error(path, e))?;
        decoder.inner().take(count).read_to_end(&mut data).map_err(|e| read_error(path, e))?;
        match jpeg_markers::size(&data) {
            Some((w, h)) if w <= width.next_multiple_of(16) && h <= height.next_multiple_of(16) => {}
            _ => return Err(Error::input(path, "JPEG data do not have the size of their strip or tile")),
        }
    }
    Ok(())
}

/// In place, as JFIF defines it.
fn rgb_from_ycbcr(samples: &mut [u8]) {
    for pixel in samples.as_chunks_mut::<3>().0 {
        let [y, cb, cr] = pixel.map(f32::from);
        let (cb, cr) = (cb - 128.0, cr - 128.0);
        let rgb = [y + 1.402 * cr, y - 0.344_136 * cb - 0.714_136 * cr, y + 1.772 * cb];
        *pixel = rgb.map(|v| v.round().clamp(0.0, 255.0) as u8);
    }
}

/// What the tags say besides the pixels.
fn metadata<R: Read + Seek>(decoder: &mut Decoder<R>, page: &Page, exif: Option<&Exif>) -> Metadata {
    let mut metadata = Metadata { icc: decoder.get_tag_u8_vec(Tag::IccProfile).ok(), ..Metadata::default() };
    metadata.xmp = decoder.get_tag_u8_vec(XMP).ok();
    let unit = decoder.find_tag_unsigned::<u16>(Tag::ResolutionUnit).ok().flatten().unwrap_or(2);
    let mut side = |tag| match decoder.get_tag(tag) {
        Ok(Value::Rational(n, d)) => Some(f64::from(n) / f64::from(d)),
        Ok(Value::List(values)) => match values.as_slice() {
            [Value::Rational(n, d)] => Some(f64::from(*n) / f64::from(*d)),
            _ => None,
        },
        _ => None,
    };
    if let (Some(x), Some(y), 2 | 3) = (side(Tag::XResolution), side(Tag::YResolution), unit) {
        metadata.resolution = Resolution::per(x, y, if unit == 3 { 1.0 / 2.54 } else { 1.0 });
    }
    for (tag, keyword) in TIFF_TEXTS {
        match decoder.get_tag_ascii_string(Tag::from_u16_exhaustive(tag)) {
            // These describe the pages and sizes of the file, which the result does not have.
            Ok(text) if text.starts_with("{\"shape\":") => {}
            Ok(text) if describes_layout(&text) => metadata.leave_out("a description of the file's layout"),
            Ok(text) if !text.is_empty() => metadata.texts.push(Text { keyword: keyword.into(), text }),
            _ => {}
        }
    }
    metadata.exif = exif.map(Exif::block);
    match exif {
        None if page.exif => metadata.leave_out("EXIF"),
        Some(exif) if exif.incomplete => metadata.leave_out(MAKER_NOTE),
        _ => {}
    }
    if page.iptc {
        metadata.leave_out("IPTC or Photoshop data");
    }
    metadata
}

/// Whether a description is one that programs read: of ImageJ or OME.
fn describes_layout(text: &str) -> bool {
    text.starts_with("ImageJ=") || text.contains("<OME ") || text.contains(":OME ")
}

pub fn encode(path: &Path, file: &mut AtomicFile<'_>, raster: &Raster, metadata: &Metadata) -> Result<()> {
    let encoder = TiffEncoder::new(file).map(packed);
    encoder.and_then(|mut encoder| add(&mut encoder, raster, metadata)).map_err(unwritten(path))
}

fn unwritten(path: &Path) -> impl Fn(TiffError) -> Error + '_ {
    move |e| match e {
        TiffError::IoError(e) => Error::io(path, e),
        other => refused(path, other),
    }
}

/// With the pixels compressed.
fn packed<W: Write + Seek, K: TiffKind>(encoder: TiffEncoder<W, K>) -> TiffEncoder<W, K> {
    encoder.with_compression(Compression::Deflate(DeflateLevel::Balanced))
}

/// A file of several pages that is being written.
pub enum Stack<'a, 'b> {
    Usual(TiffEncoder<&'a mut AtomicFile<'b>>),
    /// With offsets of 8 bytes.
    Big(TiffEncoder<&'a mut AtomicFile<'b>, TiffKindBig>),
}

impl<'a, 'b> Stack<'a, 'b> {
    /// Begins a file, which will become `path` and holds so many bytes of pixels before they are compressed.
    pub fn begin(path: &Path, file: &'a mut AtomicFile<'b>, bytes: u64) -> Result<Self> {
        // Deflate may make pixels longer by a little, and metadata need room, too.
        let stack = match bytes > u64::from(u32::MAX) / 10 * 9 {
            true => TiffEncoder::new_big(file).map(|encoder| Self::Big(packed(encoder))),
            false => TiffEncoder::new(file).map(|encoder| Self::Usual(packed(encoder))),
        };
        stack.map_err(unwritten(path))
    }

    /// Adds a page. In a file with long offsets it has no EXIF, whose offsets are short.
    pub fn add(&mut self, path: &Path, raster: &Raster, metadata: &Metadata) -> Result<()> {
        match self {
            Self::Usual(encoder) => add(encoder, raster, metadata),
            Self::Big(encoder) => add(encoder, raster, &Metadata { exif: None, ..metadata.clone() }),
        }
        .map_err(unwritten(path))
    }
}

/// Adds a page to a file.
fn add<W: Write + Seek, K: TiffKind>(
    file: &mut TiffEncoder<W, K>,
    raster: &Raster,
    metadata: &Metadata,
) -> TiffResult<()> {
    let rgb = raster.channels >= 3;
    match (&raster.samples, rgb) {
        (Samples::Eight(samples), false) => page::<colortype::Gray8, _, _>(file, raster, samples, metadata),
        (Samples::Eight(samples), true) => page::<colortype::RGB8, _, _>(file, raster, samples, metadata),
        (Samples::Sixteen(samples), false) => page::<colortype::Gray16, _, _>(file, raster, samples, metadata),
        (Samples::Sixteen(samples), true) => page::<colortype::RGB16, _, _>(file, raster, samples, metadata),
        (Samples::Float(samples), false) => page::<colortype::Gray32Float, _, _>(file, raster, samples, metadata),
        (Samples::Float(samples), true) => page::<colortype::RGB32Float, _, _>(file, raster, samples, metadata),
    }
}

fn page<C: EncodedColor, W: Write + Seek, K: TiffKind>(
    encoder: &mut TiffEncoder<W, K>,
    raster: &Raster,
    samples: &[C::Inner],
    metadata: &Metadata,
) -> TiffResult<()>
where
    [C::Inner]: TiffValue,
{
    let exif = metadata.exif.as_deref().and_then(Exif::of_block);
    let below = exif.as_ref().map(|exif| exif.write_below(encoder)).transpose()?.unwrap_or_default();
    let mut image = encoder.new_image::<C>(raster.width, raster.height)?;
    for (tag, at) in below {
        image.encoder().write_tag(Tag::from_u16_exhaustive(tag), at)?;
    }
    if raster.channels.is_multiple_of(2) {
        let alpha = if raster.associated { ExtraSamples::AssociatedAlpha } else { ExtraSamples::UnassociatedAlpha };
        image.extra_samples(&[alpha])?;
    }
    if let Some(Resolution { x, y }) = metadata.resolution {
        image.resolution_unit(ResolutionUnit::Inch);
        image.x_resolution(fraction(x));
        image.y_resolution(fraction(y));
    }
    if let Some(icc) = &metadata.icc {
        image.encoder().write_tag(Tag::IccProfile, icc.as_slice())?;
    }
    if let Some(xmp) = &metadata.xmp {
        image.encoder().write_tag(XMP, xmp.as_slice())?;
    }
    let mut written = Vec::new();
    for Text { keyword, text } in &metadata.texts {
        let tag = tiff_tag(keyword).filter(|tag| !written.contains(tag));
        let text = text.replace('\0', " ");
        if let Some(tag) = tag {
            written.push(tag);
            image.encoder().write_tag(Tag::from_u16_exhaustive(tag), text.as_str())?;
        }
    }
    if let Some(exif) = &exif {
        exif.write_main(image.encoder(), &written)?;
    }
    image.write_data(samples)
}

/// Whole where it nearly is, as 300 pixels per inch are after a detour through pixels per metre.
fn fraction(v: f64) -> Rational {
    if (v - v.round()).abs() < 0.005 {
        return Rational { n: v.round() as u32, d: 1 };
    }
    let d = (1e9 / v).clamp(1.0, 1e4).floor();
    Rational { n: (v * d).round() as u32, d: d as u32 }
}
