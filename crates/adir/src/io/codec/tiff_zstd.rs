//! TIFF with ZSTD compression, which the decoder does not know: the strips or tiles of a page are decompressed first, and the
//! page becomes a file in memory that is not compressed.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use ruzstd::decoding::StreamingDecoder;
use tiff::decoder::Decoder;
use tiff::tags::Tag;

use super::read_error;
use super::tiff_exif::{Field, append, fields};
use super::tiff_pages::{Layout, Page};
use crate::io::limits::Limits;
use crate::{Error, Result};

/// Numbers of the compression, by libtiff and of old.
pub const ZSTD: [u64; 2] = [50000, 34926];
/// Tags of the layout of pixels.
const LAYOUT: [u16; 13] = [256, 257, 258, 262, 277, 278, 284, 266, 317, 322, 323, 338, 339];
/// Tiles of up to so many bytes may hang over any image.
const SMALL: u64 = 16 << 20;
const COMPRESSION: u16 = 259;
const PHOTOMETRIC: u16 = 262;

/// The page `page` of `decoder`, which is at that page, as a file of its own. A palette is left out, its indices grey.
pub fn unpacked<R: Read + Seek>(
    path: &Path,
    decoder: &mut Decoder<R>,
    layout: Layout,
    page: &Page,
    limits: &Limits,
) -> Result<Vec<u8>> {
    let damaged = || Error::input(path, "the ZSTD data are damaged or cut off");
    let too_large = || Error::Limits(format!("{}: the strips or tiles hold too many bytes", path.display()));
    let mut incomplete = false;
    let own = fields(decoder.inner(), layout, page.offset, limits.max_metadata, &mut incomplete);
    let mut own = own.ok_or_else(damaged)?;
    own.retain(|field| LAYOUT.contains(&field.tag));
    let tiled = own.iter().any(|field| field.tag == 322);
    let tags = if tiled { [Tag::TileOffsets, Tag::TileByteCounts] } else { [Tag::StripOffsets, Tag::StripByteCounts] };
    let [offsets, counts] = tags.map(|tag| decoder.get_tag_u64_vec(tag).unwrap_or_default());
    // Of one strip or tile.
    let (width, height) = decoder.chunk_dimensions();
    let bits = page.bits.first().copied().unwrap_or(1);
    let planar = own.iter().any(|field| field.tag == 284 && field.bytes.starts_with(&[2]));
    let samples = if planar { 1 } else { page.samples };
    let row = u64::from(width).saturating_mul(samples).saturating_mul(bits).div_ceil(8);
    let most = row.saturating_mul(height.into());
    let (columns, rows) = decoder.dimensions().map_err(|_| damaged())?;
    let whole = u64::from(columns).saturating_mul(rows.into()).saturating_mul(page.samples).saturating_mul(bits) / 8;
    // A tile may be larger than a small image, but not by much: a few bytes decompress to as many as they like.
    let budget = whole.saturating_mul(4).max(SMALL).min(limits.max_decoded_bytes);
    let (mut data, mut places, mut sizes) = (Vec::new(), Vec::new(), Vec::new());
    for (offset, count) in offsets.into_iter().zip(counts) {
        let mut packed = Vec::new();
        decoder.inner().seek(SeekFrom::Start(offset)).map_err(|e| read_error(path, e))?;
        decoder.inner().take(count).read_to_end(&mut packed).map_err(|e| read_error(path, e))?;
        let start = data.len();
        let stream = StreamingDecoder::new(packed.as_slice()).map_err(|_| damaged())?;
        let left = (budget + 1).saturating_sub(start as u64);
        stream.take(most.min(left)).read_to_end(&mut data).map_err(|_| damaged())?;
        if data.len() as u64 > budget {
            return Err(too_large());
        }
        places.push(u32::try_from(start).map_err(|_| too_large())?);
        sizes.push((data.len() - start) as u32);
    }
    let numbers = |tag: Tag, numbers: &[u32]| Field {
        tag: tag.to_u16(),
        kind: 4,
        bytes: numbers.iter().flat_map(|number| number.to_le_bytes()).collect(),
    };
    let short = |tag: u16, value: u16| Field { tag, kind: 3, bytes: value.to_le_bytes().to_vec() };
    own.push(short(COMPRESSION, 1));
    if page.photometric == Some(3) {
        own.retain(|field| field.tag != PHOTOMETRIC);
        own.push(short(PHOTOMETRIC, 1));
    }
    own.extend([numbers(tags[0], &places), numbers(tags[1], &sizes)]);
    // The places are known once the length of all before is.
    let little = layout.little;
    let head = if little { *b"II\x2a\0\x08\0\0\0" } else { *b"MM\0\x2a\0\0\0\x08" };
    let mut file = head.to_vec();
    append(&mut file, &mut own, little);
    let first = u32::try_from(file.len()).map_err(|_| too_large())?;
    places
        .iter_mut()
        .try_for_each(|place| {
            *place = place.checked_add(first)?;
            Some(())
        })
        .ok_or_else(too_large)?;
    own.retain(|field| field.tag != tags[0].to_u16());
    own.push(numbers(tags[0], &places));
    file.truncate(head.len());
    append(&mut file, &mut own, little);
    file.extend(data);
    Ok(file)
}
