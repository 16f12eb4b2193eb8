//! The formats of the index's file before [`layout`](super::layout), which are read and no longer written.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `ADIRINDX` |
//! | 4 | format version, 1 to 3 |
//! | 4 | length of the header, at most 64 KiB |
//! | | header: JSON, as today |
//! | | for each image: length of the path (2), path, size (8), time of its last change (8, not in version 1), whether the hash is known (1), SHA-256 (32), and from version 3 whether it is a tile (1) and, if so, its top, left, height and width (4 each) |
//! | | the vectors, row after row |
//! | 4 | CRC-32 of everything before |

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use half::f16;

use super::ContentHash;
use super::index::{Entry, Index, Precision, Vectors};
use super::index_file::parent;
use super::layout::{MAGIC, MAX_HEADER};
use super::tile::Tile;
use super::writer::Header;
use crate::{Error, Result};

/// The first format with tiles.
const WITH_TILES: u32 = 3;
/// The oldest format that is read; its entries have no times.
pub(super) const OLDEST: u32 = 1;
/// Bytes of an entry besides its path and its time.
const ENTRY_BYTES: u64 = 2 + 8 + 1 + 32;
/// Bytes read at a time; a multiple of every number's size.
const CHUNK: usize = 1 << 20;

/// Reads the `length` bytes of the file at `path` into memory.
///
/// # Errors
/// As [`Index::open`].
pub(super) fn read(path: &Path, reader: impl Read, length: u64) -> Result<Index> {
    Reader { path, reader, remaining: length, crc: crc32fast::Hasher::new(), version: OLDEST }.index()
}

/// Reads an index file front to back, never more than is left of it.
struct Reader<'a, R> {
    path: &'a Path,
    reader: R,
    remaining: u64,
    crc: crc32fast::Hasher,
    version: u32,
}

impl<R: Read> Reader<'_, R> {
    fn error(&self, message: impl Into<String>) -> Error {
        Error::input(self.path, message)
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<()> {
        let wanted = buffer.len() as u64;
        if wanted > self.remaining {
            return Err(self.error(format!("is truncated: {wanted} more bytes expected, {} left", self.remaining)));
        }
        self.reader.read_exact(buffer).map_err(|e| self.error(format!("cannot be read: {e}")))?;
        self.remaining -= wanted;
        self.crc.update(buffer);
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn index(mut self) -> Result<Index> {
        let header = self.header()?;
        let dimension = header.encoder.dimension as u64;
        let row = dimension.checked_mul(header.precision.bytes() as u64).filter(|&row| row > 0);
        let row = row.ok_or_else(|| self.error(format!("declares vectors of {dimension} numbers")))?;
        let least = row.checked_add(ENTRY_BYTES).and_then(|image| image.checked_mul(header.images));
        if least.is_none_or(|least| least > self.remaining) {
            return Err(self.error(format!(
                "declares {} images of {dimension} numbers, but only {} bytes follow",
                header.images, self.remaining
            )));
        }
        let entries = (0..header.images).map(|_| self.entry()).collect::<Result<Vec<_>>>()?;
        let vectors_bytes = row * header.images;
        if self.remaining != vectors_bytes + 4 {
            return Err(self.error(format!(
                "{} bytes follow the paths, expected {vectors_bytes} of vectors and 4 of checksum",
                self.remaining
            )));
        }
        let vectors = match header.precision {
            Precision::F16 => Vectors::F16(self.numbers(vectors_bytes, f16::from_le_bytes)?),
            Precision::F32 => Vectors::F32(self.numbers(vectors_bytes, f32::from_le_bytes)?),
        };
        let computed = self.crc.clone().finalize();
        let stored = u32::from_le_bytes(self.array()?);
        if stored != computed {
            return Err(self.error(format!("is damaged: checksum {computed:08x}, expected {stored:08x}")));
        }
        let root = parent(self.path).join(header.root());
        Index::new(Arc::new(header.encoder), root, header.complete, header.tiles, entries, vectors)
            .map_err(|e| self.error(e.to_string()))
    }

    fn header(&mut self) -> Result<Header> {
        if self.remaining < MAGIC.len() as u64 || &self.array::<8>()? != MAGIC {
            return Err(self.error("is not an index of images: make one with `adir index build`"));
        }
        let version = u32::from_le_bytes(self.array()?);
        self.version = version;
        let length = u32::from_le_bytes(self.array()?);
        if length > MAX_HEADER {
            return Err(
                self.error(format!("declares a header of {length} bytes, but at most {MAX_HEADER} are allowed"))
            );
        }
        let mut bytes = vec![0; length as usize];
        self.fill(&mut bytes)?;
        serde_json::from_slice(&bytes).map_err(|e| self.error(format!("has an invalid header: {e}")))
    }

    fn entry(&mut self) -> Result<Entry> {
        let mut path = vec![0; usize::from(u16::from_le_bytes(self.array()?))];
        self.fill(&mut path)?;
        let path = String::from_utf8(path).map_err(|_| self.error("holds a path that is not UTF-8"))?;
        let size = u64::from_le_bytes(self.array()?);
        let modified = if self.version > OLDEST { u64::from_le_bytes(self.array()?) } else { 0 };
        let modified = (modified > 0).then_some(modified);
        let [known] = self.array()?;
        let hash = ContentHash(self.array()?);
        let content = self.flag(known, &path)?.then_some(hash);
        let tiled = if self.version >= WITH_TILES { self.array::<1>()?[0] } else { 0 };
        let mut number = || self.array().map(u32::from_le_bytes);
        let tile = match tiled {
            1 => Some(Tile { top: number()?, left: number()?, height: number()?, width: number()? }),
            other => self.flag(other, &path).map(|_| None)?,
        };
        Ok(Entry { path, size, content, modified, tile })
    }

    /// A yes or no of the entry of `path`.
    fn flag(&self, byte: u8, path: &str) -> Result<bool> {
        match byte {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.error(format!("marks the entry of {path:?} with {other}, expected 0 or 1"))),
        }
    }

    /// `bytes` bytes of numbers; `bytes` has been compared with the file's length.
    fn numbers<T, const N: usize>(&mut self, bytes: u64, read: fn([u8; N]) -> T) -> Result<Vec<T>> {
        let count = usize::try_from(bytes / N as u64).ok();
        let mut all = Vec::new();
        count.and_then(|count| all.try_reserve_exact(count).ok()).ok_or_else(|| {
            Error::Limits(format!("{}: {bytes} bytes of vectors do not fit in memory", self.path.display()))
        })?;
        let mut buffer = vec![0; CHUNK];
        let mut left = bytes;
        while left > 0 {
            let part = &mut buffer[..left.min(CHUNK as u64) as usize];
            self.fill(part)?;
            all.extend(part.as_chunks::<N>().0.iter().map(|&bytes| read(bytes)));
            left -= part.len() as u64;
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::EncoderId;

    fn encoder() -> EncoderId {
        EncoderId { name: "test".into(), weights: "aa".into(), preprocessing: "bb".into(), dimension: 3 }
    }

    /// Two images, as earlier programs wrote them.
    fn saved(version: u32, precision: Precision) -> Vec<u8> {
        let (images, complete, tiles, root, root_bytes) = (2, false, None, "/archive".into(), None);
        let header = Header { encoder: encoder(), precision, images, complete, tiles, root, root_bytes };
        let header = serde_json::to_vec(&header).unwrap();
        let mut bytes = [&MAGIC[..], &version.to_le_bytes(), &(header.len() as u32).to_le_bytes(), &header].concat();
        for (path, size, time, content) in [("a.png", 7_u64, 77_u64, Some([9; 32])), ("b/ä.png", 0, 0, None)] {
            bytes.extend((path.len() as u16).to_le_bytes());
            bytes.extend(path.as_bytes());
            bytes.extend(size.to_le_bytes());
            if version > 1 {
                bytes.extend(time.to_le_bytes());
            }
            bytes.push(u8::from(content.is_some()));
            bytes.extend(content.unwrap_or_default());
            if version > 2 {
                bytes.push(0);
            }
        }
        for value in [1.0, 0.0, 0.0, 0.0, -0.6, 0.8] {
            match precision {
                Precision::F16 => bytes.extend(f16::from_f32(value).to_le_bytes()),
                Precision::F32 => bytes.extend(value.to_le_bytes()),
            }
        }
        sealed(bytes)
    }

    fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
        let crc = crc32fast::hash(&bytes);
        bytes.extend(crc.to_le_bytes());
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Index> {
        super::read(Path::new("folder/x.index"), bytes, bytes.len() as u64)
    }

    #[test]
    fn what_was_written_is_read() {
        for (version, precision) in [(1, Precision::F16), (2, Precision::F32), (3, Precision::F16), (3, Precision::F32)]
        {
            let index = read(&saved(version, precision)).unwrap();
            assert_eq!((index.len(), index.precision(), index.is_complete()), (2, precision, false));
            let [a, b] = [0, 1].map(|id| index.entry(id).unwrap());
            assert_eq!((a.content, a.modified), (Some(ContentHash([9; 32])), (version > 1).then_some(77)));
            assert_eq!((b.path.as_str(), b.content, b.modified, b.tile), ("b/ä.png", None, None, None));
            assert!((index.embedding(1).unwrap().values()[2] - 0.8).abs() < 1e-3);
            assert_eq!(index.root(), Path::new("/archive"));
        }
    }

    #[test]
    fn every_truncation_and_every_changed_byte_is_refused() {
        let bytes = saved(3, Precision::F16);
        for length in 0..bytes.len() {
            assert!(matches!(read(&bytes[..length]), Err(Error::Input { .. })), "cut at {length}");
        }
        for at in 0..bytes.len() {
            for flip in [1, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] ^= flip;
                assert!(matches!(read(&damaged), Err(Error::Input { .. })), "byte {at}");
            }
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(read(&longer).is_err());
    }

    #[test]
    fn sealed_nonsense_is_refused() {
        let whole = saved(3, Precision::F16);
        let body = &whole[..whole.len() - 4];
        for (from, to, hint) in [
            ("\"images\":2", "\"images\":9", "9 images"),
            ("\"images\":2", "\"images\":4611686018427387905", "declares"),
            ("\"images\":2", "\"images\":99999999999999999999", "header"),
            ("\"dimension\":3", "\"dimension\":0", "0 numbers"),
            ("\"dimension\":3", "\"dimension\":2", "follow the paths"),
            ("\"f16\"", "\"f32\"", "follow"),
            ("complete", "complexe", "header"),
            ("a.png", "../ng", "inside the folder"),
            ("a.png", "c.png", "order"),
        ] {
            let mut bytes = body.to_vec();
            let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).expect("present");
            bytes.splice(at..at + from.len(), to.bytes());
            let header = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) + to.len() as u32 - from.len() as u32;
            bytes[12..16].copy_from_slice(&header.to_le_bytes());
            let message = read(&sealed(bytes)).unwrap_err().to_string();
            assert!(message.contains(hint), "{to}: {message}");
        }
        let mut zero = body.to_vec();
        let end = zero.len();
        zero[end - 6..].fill(0);
        assert!(read(&sealed(zero)).unwrap_err().to_string().contains("no direction"));
    }
}
