//! How the index's file is laid out, from format 4 on: so that a search reads it from front to back, and any part of it can be
//! read and checked alone.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `ADIRINDX` |
//! | 4 | format version: 5 with rounded copies of the vectors, else 4 |
//! | 4 | length of the header, at most 64 KiB |
//! | | header: JSON with the encoder, the precision, the number of images, whether the build was complete, the side of tiles, and the archive's folder |
//! | 4 | CRC-32 of everything before |
//! | | for each 256 images, the last ones fewer: one over the length of each vector (f32), the vectors, zeros up to a multiple of 8, and a checksum of these (8); in format 5 also their [rounded copies](super::rounded), zeros, and a checksum |
//! | | for each image: where its entry ends, counted from the first entry (8) |
//! | | for each image its entry: length of the path (2), path, size (8), what is known of it (1), the time of its last change (8), SHA-256 (32), a tile's top, left, height and width (4 each), as far as they are known, and the CRC-32 of the entry (4) |
//!
//! Numbers are little-endian. The checksums detect damage, not malice: a forged file can only name other images of the archive.

use std::io;

use super::ContentHash;
use super::index::{Entry, Precision};
use super::tile::Tile;

pub(super) const MAGIC: &[u8; 8] = b"ADIRINDX";
/// The formats that are written: without rounded copies of the vectors, and with them.
pub(super) const PLAIN: u32 = 4;
pub(super) const ROUNDED: u32 = 5;
pub(super) const MAX_HEADER: u32 = 64 << 10;
/// Images in a block. One of usual vectors stays in a core's cache between reading and scanning.
pub(super) const BLOCK: usize = 256;
/// Bytes of the checksum of a block.
const CHECKSUM: u64 = 8;
/// Least bytes of an entry.
pub(super) const ENTRY_BYTES: u64 = 2 + 8 + 1 + 4;
/// Most bytes of an entry.
pub(super) const MAX_ENTRY: u64 = ENTRY_BYTES + u16::MAX as u64 + 8 + 32 + 16;

const HAS_TIME: u8 = 1;
const HAS_CONTENT: u8 = 2;
const HAS_TILE: u8 = 4;

/// Where things are in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub images: usize,
    pub dimension: usize,
    pub precision: Precision,
    /// Whether rounded copies of the vectors follow those of each block.
    pub rounded: bool,
    /// Where the first block begins.
    start: u64,
}

impl Precision {
    /// Bytes of a number.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::F32 => 4,
        }
    }
}

impl Layout {
    /// Of a file of that format whose header ends at `start`; `None` if such a file would have more bytes than can be counted.
    pub fn new(version: u32, images: usize, dimension: usize, precision: Precision, start: u64) -> Option<Self> {
        // At most 4 bytes of a vector's number and 1 of its copy, and 4 for a whole block of copies.
        let row = (dimension as u64).checked_mul(4 + 1 + 4)?.checked_add(4 + 4 + 8 + ENTRY_BYTES + 2 * CHECKSUM)?;
        let rows = (images as u64).checked_next_multiple_of(BLOCK as u64)?;
        row.checked_mul(rows)?.checked_add(start)?.checked_add(8 * BLOCK as u64)?;
        usize::try_from((BLOCK as u64).checked_mul(row)?).ok()?;
        Some(Self { images, dimension, precision, rounded: version == ROUNDED, start })
    }

    /// Bytes of a vector.
    pub fn row(&self) -> usize {
        self.dimension * self.precision.bytes()
    }

    /// Bytes of all vectors.
    pub fn vectors(&self) -> u64 {
        self.images as u64 * self.row() as u64
    }

    pub fn blocks(&self) -> usize {
        self.images.div_ceil(BLOCK)
    }

    /// Images in a block.
    pub fn rows_of(&self, block: usize) -> usize {
        BLOCK.min(self.images - block * BLOCK)
    }

    /// Words of a block of that many images, without its checksum.
    pub fn words(&self, rows: usize) -> usize {
        (rows * (4 + self.row())).div_ceil(8)
    }

    /// Words of the rounded copies of a block of that many images, without their checksum.
    pub fn rounded_words(&self, rows: usize) -> usize {
        (4 * (self.dimension + rows) + rows * self.dimension).div_ceil(8)
    }

    /// Bytes of a block of that many images.
    fn block_bytes(&self, rows: usize) -> u64 {
        let rounded = if self.rounded { 8 * self.rounded_words(rows) as u64 + CHECKSUM } else { 0 };
        8 * self.words(rows) as u64 + CHECKSUM + rounded
    }

    /// Where a block begins.
    pub fn block_at(&self, block: usize) -> u64 {
        self.start + block as u64 * self.block_bytes(BLOCK)
    }

    /// Where the rounded copies of a block begin.
    pub fn rounded_at(&self, block: usize) -> u64 {
        self.block_at(block) + 8 * self.words(self.rows_of(block)) as u64 + CHECKSUM
    }

    /// Where a vector begins.
    pub fn row_at(&self, id: usize) -> u64 {
        let (block, row) = (id / BLOCK, id % BLOCK);
        self.block_at(block) + (4 * self.rows_of(block) + row * self.row()) as u64
    }

    /// Where the ends of entries begin.
    pub fn ends_at(&self) -> u64 {
        match self.images % BLOCK {
            0 => self.block_at(self.blocks()),
            rest => self.block_at(self.blocks() - 1) + self.block_bytes(rest),
        }
    }

    /// Where the entries begin.
    pub fn entries_at(&self) -> u64 {
        self.ends_at() + 8 * self.images as u64
    }
}

/// The checksum of a block: that of its words, and of its place.
pub(super) fn checksum(block: usize, words: &[u64]) -> u64 {
    adir_kernels::checksum(block as u64, words)
}

/// The bytes of an entry, added to `bytes`.
pub(super) fn write_entry(entry: &Entry, bytes: &mut Vec<u8>) -> io::Result<()> {
    let start = bytes.len();
    let length = u16::try_from(entry.path.len()).map_err(|_| io::ErrorKind::InvalidFilename)?;
    bytes.extend(length.to_le_bytes());
    bytes.extend(entry.path.as_bytes());
    bytes.extend(entry.size.to_le_bytes());
    let known = |is_known: bool, flag: u8| if is_known { flag } else { 0 };
    bytes.push(
        known(entry.modified.is_some(), HAS_TIME)
            | known(entry.content.is_some(), HAS_CONTENT)
            | known(entry.tile.is_some(), HAS_TILE),
    );
    bytes.extend(entry.modified.iter().flat_map(|time| time.to_le_bytes()));
    bytes.extend(entry.content.iter().flat_map(|content| content.0));
    let tile = entry.tile.iter().flat_map(|tile| [tile.top, tile.left, tile.height, tile.width]);
    bytes.extend(tile.flat_map(u32::to_le_bytes));
    let crc = crc32fast::hash(&bytes[start..]);
    bytes.extend(crc.to_le_bytes());
    Ok(())
}

/// The entry that these bytes are, if they are one.
pub(super) fn read_entry(bytes: &[u8]) -> Option<Entry> {
    let (mut left, crc) = bytes.split_last_chunk::<4>()?;
    if crc32fast::hash(left) != u32::from_le_bytes(*crc) {
        return None;
    }
    let length = u16::from_le_bytes(take(&mut left)?);
    let (path, rest) = left.split_at_checked(length.into())?;
    left = rest;
    let path = std::str::from_utf8(path).ok()?.to_owned();
    let size = u64::from_le_bytes(take(&mut left)?);
    let [known] = take(&mut left)?;
    if known > HAS_TIME | HAS_CONTENT | HAS_TILE {
        return None;
    }
    let modified = if known & HAS_TIME != 0 { Some(u64::from_le_bytes(take(&mut left)?)) } else { None };
    let content = if known & HAS_CONTENT != 0 { Some(ContentHash(take(&mut left)?)) } else { None };
    let tile = match known & HAS_TILE {
        0 => None,
        _ => {
            let mut number = || take(&mut left).map(u32::from_le_bytes);
            Some(Tile { top: number()?, left: number()?, height: number()?, width: number()? })
        }
    };
    left.is_empty().then_some(Entry { path, size, content, modified, tile })
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (first, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_follow_one_another() {
        let sizes =
            [(0, 3, Precision::F16), (1, 1, Precision::F16), (256, 3, Precision::F16), (600, 5, Precision::F32)];
        for ((images, dimension, precision), version) in sizes.into_iter().flat_map(|size| [(size, 4), (size, 5)]) {
            let layout = Layout::new(version, images, dimension, precision, 100).unwrap();
            let mut at = 100;
            for block in 0..layout.blocks() {
                let rows = layout.rows_of(block);
                assert_eq!(layout.block_at(block), at);
                assert_eq!(layout.row_at(block * BLOCK + rows - 1), at + (4 * rows + (rows - 1) * layout.row()) as u64);
                at += 8 * layout.words(rows) as u64 + 8;
                if version == 5 {
                    assert_eq!(layout.rounded_at(block), at);
                    at += 8 * layout.rounded_words(rows) as u64 + 8;
                }
            }
            assert_eq!((layout.ends_at(), layout.entries_at()), (at, at + 8 * images as u64));
        }
        for (images, dimension) in [(usize::MAX, 1), (1, usize::MAX), (1 << 40, 1 << 30)] {
            assert_eq!(Layout::new(5, images, dimension, Precision::F16, 100), None);
        }
    }

    #[test]
    fn entries_are_read_as_they_were_written() {
        let whole = Entry { path: "b/ä.png".into(), size: 7, content: None, modified: None, tile: None };
        let tile = Tile { top: 1, left: 2, height: 3, width: 4 };
        for entry in [
            Entry { content: Some(ContentHash([9; 32])), modified: Some(0), tile: Some(tile), ..whole.clone() },
            Entry { modified: Some(u64::MAX), ..whole.clone() },
            Entry { tile: Some(tile), ..whole.clone() },
            whole,
        ] {
            let mut bytes = Vec::new();
            write_entry(&entry, &mut bytes).unwrap();
            assert!((ENTRY_BYTES..=MAX_ENTRY).contains(&(bytes.len() as u64)));
            assert_eq!(read_entry(&bytes).as_ref(), Some(&entry));
            for at in 0..bytes.len() {
                assert_eq!(read_entry(&bytes[..at]), None);
                let mut changed = bytes.clone();
                changed[at] ^= 0x10;
                assert_eq!(read_entry(&changed), None);
            }
            // Sealed, but with flags of no meaning, or more than there is.
            for (at, value) in [(2 + entry.path.len() + 8, 8), (2 + entry.path.len() + 8, 7), (0, 200), (1, 1)] {
                let mut sealed = bytes.clone();
                sealed[at] = value;
                let body = sealed.len() - 4;
                let crc = crc32fast::hash(&sealed[..body]);
                sealed[body..].copy_from_slice(&crc.to_le_bytes());
                assert!(sealed == bytes || read_entry(&sealed).is_none(), "{at}: {value}");
            }
        }
    }
}
