//! The table of contents of a zip archive, as far as PyTorch checkpoints need it: names, and where each
//! entry's bytes lie. Nothing is sized by a number from the file before that much of the file was seen.

use std::collections::BTreeMap;

use crate::Result;
use crate::source::{Packing, Region, Source};

/// Most bytes of central directory.
const MAX_DIRECTORY: u64 = 32 << 20;
/// DEFLATE cannot inflate by more than this factor.
const MAX_INFLATION: u64 = 1032;
/// Most entries. Each has a name and a place, which the table of contents need not make much larger than itself.
const MAX_ENTRIES: usize = 100_000;
/// Length of an end record without its comment, and of the longest comment.
const END_LEN: usize = 22;
const MAX_COMMENT: usize = 65535;

/// The first bytes of an archive that has an entry.
pub(crate) const SIGNATURE: [u8; 4] = *b"PK\x03\x04";

/// Every entry of the archive, by name. No byte of the file belongs to two of them.
pub(crate) fn entries(source: &Source) -> Result<BTreeMap<String, Region>> {
    let (offset, len) = directory(source)?;
    let bytes = source.read_vec(offset, len)?;
    let mut entries = BTreeMap::new();
    let mut places = Vec::new();
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        let (entry, after) = Entry::parse(rest).map_err(|message| source.error(format!("zip archive: {message}")))?;
        rest = after;
        let region = locate(source, &entry, offset)?;
        if places.len() == MAX_ENTRIES {
            return Err(source.error(format!("zip archive: more than {MAX_ENTRIES} entries")));
        }
        places.push((entry.header, region.end()));
        if entries.insert(entry.name.clone(), region).is_some() {
            return Err(source.error(format!("zip archive: entry {:?} appears twice", entry.name)));
        }
    }
    places.sort_unstable();
    if let Some([(_, end), (next, _)]) = places.array_windows().find(|[(_, end), (next, _)]| next < end) {
        return Err(source.error(format!("zip archive: an entry begins at byte {next}, inside one that ends at {end}")));
    }
    Ok(entries)
}

/// The entries whose bytes lie in the file as they are and have a checksum, in order.
pub(crate) fn checked(entries: impl IntoIterator<Item = Region>) -> Vec<Region> {
    let is_checked = |region: &Region| region.packing == Packing::Stored && region.len > 0 && region.crc.is_some();
    let mut checked: Vec<_> = entries.into_iter().filter(is_checked).collect();
    checked.sort_unstable_by_key(|region| region.offset);
    checked
}

/// Offset and length of the central directory.
fn directory(source: &Source) -> Result<(u64, u64)> {
    let broken = |what: &str| source.error(format!("zip archive: {what}"));
    let tail_len = source.len().min((END_LEN + MAX_COMMENT) as u64);
    let tail_offset = source.len() - tail_len;
    let tail = source.read_vec(tail_offset, tail_len)?;
    let is_end = |at: &usize| {
        let record = &tail[*at..];
        record.starts_with(b"PK\x05\x06")
            && u16_at(record, 20).is_some_and(|comment| record.len() == END_LEN + usize::from(comment))
    };
    let end = (0..=tail.len().saturating_sub(END_LEN)).rev().find(is_end);
    let end = end.ok_or_else(|| broken("no table of contents: the file is truncated"))?;
    let record = &tail[end..];
    let small = u32_at(record, 16).zip(u32_at(record, 12)).map(|(offset, len)| (u64::from(offset), u64::from(len)));
    let mut limit = tail_offset + end as u64;
    let locator = end.checked_sub(20).map(|at| &tail[at..]).filter(|locator| locator.starts_with(b"PK\x06\x07"));
    let place = match locator {
        Some(locator) => {
            limit = u64_at(locator, 8).unwrap_or(u64::MAX);
            let record = source.read_vec(limit, 56)?;
            if !record.starts_with(b"PK\x06\x06") {
                return Err(broken("damaged zip64 end record"));
            }
            u64_at(&record, 48).zip(u64_at(&record, 40))
        }
        None => small,
    };
    match place {
        Some((offset, len)) if offset.checked_add(len).is_some_and(|end| end <= limit) && len <= MAX_DIRECTORY => {
            Ok((offset, len))
        }
        _ => Err(broken("the table of contents does not fit the file")),
    }
}

/// One record of the central directory.
struct Entry {
    name: String,
    deflated: bool,
    compressed: u64,
    len: u64,
    header: u64,
    crc: u32,
}

impl Entry {
    fn parse(bytes: &[u8]) -> Result<(Self, &[u8]), String> {
        let short = || "damaged table of contents".to_owned();
        if !bytes.starts_with(b"PK\x01\x02") {
            return Err(short());
        }
        let half = |at| u16_at(bytes, at).ok_or_else(short);
        let word = |at| u32_at(bytes, at).map(u64::from).ok_or_else(short);
        let name_end = 46 + usize::from(half(28)?);
        let extra_end = name_end + usize::from(half(30)?);
        let name = bytes.get(46..name_end).ok_or_else(short)?;
        let extra = bytes.get(name_end..extra_end).ok_or_else(short)?;
        let rest = bytes.get(extra_end + usize::from(half(32)?)..).ok_or_else(short)?;
        let name = String::from_utf8(name.to_vec()).map_err(|_| "an entry's name is not UTF-8".to_owned())?;
        if half(8)? & 1 != 0 {
            return Err(format!("entry {name:?} is encrypted"));
        }
        let deflated = match half(10)? {
            0 => false,
            8 => true,
            method => return Err(format!("entry {name:?} is compressed by method {method}, expected none or DEFLATE")),
        };
        // A field of all ones stands for 8 bytes in the zip64 extra field, where they follow in this order.
        let mut large = zip64_extra(extra).unwrap_or_default();
        let mut field = |at| -> Result<u64, String> {
            let value = word(at)?;
            if value != u64::from(u32::MAX) {
                return Ok(value);
            }
            let value = u64_at(large, 0).ok_or_else(short)?;
            large = &large[8..];
            Ok(value)
        };
        let (len, compressed, header) = (field(24)?, field(20)?, field(42)?);
        let crc = u32_at(bytes, 16).ok_or_else(short)?;
        Ok((Self { name, deflated, compressed, len, header, crc }, rest))
    }
}

/// The content of the zip64 extra field, if there is one.
fn zip64_extra(mut extra: &[u8]) -> Option<&[u8]> {
    loop {
        let end = 4 + usize::from(u16_at(extra, 2)?);
        let content = extra.get(4..end)?;
        if u16_at(extra, 0)? == 1 {
            return Some(content);
        }
        extra = &extra[end..];
    }
}

/// Where an entry's bytes lie, which its local header decides; all before `directory`.
fn locate(source: &Source, entry: &Entry, directory: u64) -> Result<Region> {
    let broken = |what: &str| source.error(format!("zip archive: entry {:?} {what}", entry.name));
    let mut local = [0; 30];
    source.read_exact_at(entry.header, &mut local)?;
    let (Some(name), Some(extra), true) = (u16_at(&local, 26), u16_at(&local, 28), local.starts_with(&SIGNATURE))
    else {
        return Err(broken("has no header"));
    };
    // No overflow: the header was read at this offset.
    let offset = entry.header + 30 + u64::from(name) + u64::from(extra);
    if offset.checked_add(entry.compressed).is_none_or(|end| end > directory) {
        return Err(broken("is beyond the data of the archive"));
    }
    // Writers that skip checksums leave a zero.
    let crc = Some(entry.crc).filter(|&crc| crc != 0);
    if entry.deflated {
        if entry.len / MAX_INFLATION > entry.compressed {
            return Err(broken("declares more bytes than it can inflate to"));
        }
        let packing = Packing::Deflated { compressed: entry.compressed };
        Ok(Region { offset, len: entry.len, packing, crc })
    } else if entry.compressed == entry.len {
        Ok(Region { offset, len: entry.len, packing: Packing::Stored, crc })
    } else {
        Err(broken("is stored uncompressed with two different sizes"))
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|b| u16::from_le_bytes(*b))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|b| u64::from_le_bytes(*b))
}
