//! The index's file.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `ADIRINDX` |
//! | 4 | format version, 3 |
//! | 4 | length of the header, at most 64 KiB |
//! | | header: JSON with the encoder, the precision, the number of images, whether the build was complete, the side of tiles, and the archive's folder |
//! | | for each image: length of the path (2), path, size (8), time of its last change (8, not in version 1), whether the hash is known (1), SHA-256 (32), and from version 3 whether it is a tile (1) and, if so, its top, left, height and width (4 each) |
//! | | the vectors, row after row |
//! | 4 | CRC-32 of everything before |
//!
//! Numbers are little-endian. The folder is stored relative to the file where it lies at or below the
//! file's own folder, so that an archive can be moved with its index. Every size is checked against the length of the
//! file. The checksum detects damage, not malice: a forged file can only name other images of the archive.

use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use half::f16;
use serde::{Deserialize, Serialize};

use super::ContentHash;
use super::index::{Entry, Index, Precision, Vectors};
use super::tile::{Tile, TileSide};
use crate::encode::EncoderId;
use crate::io::{atomic, open_regular};
use crate::{Error, Result};

const MAGIC: &[u8; 8] = b"ADIRINDX";
const VERSION: u32 = 3;
/// The first format with tiles.
const WITH_TILES: u32 = 3;
/// The oldest format that is read; its entries have no times.
const OLDEST: u32 = 1;
const MAX_HEADER: u32 = 64 << 10;
/// Bytes of an entry besides its path and its time.
const ENTRY_BYTES: u64 = 2 + 8 + 1 + 32;
/// Bytes read or written at a time; a multiple of every number's size.
const CHUNK: usize = 1 << 20;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    encoder: EncoderId,
    precision: Precision,
    images: u64,
    complete: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tiles: Option<TileSide>,
    root: String,
    /// The bytes of the folder's path where it is not UTF-8, on systems whose paths are bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    root_bytes: Option<Vec<u8>>,
}

impl Index {
    /// Writes the index to `path`, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] where the system refuses, [`Error::Config`] if the archive's folder has a name that the
    /// file cannot hold, on systems whose paths are not bytes.
    pub fn save(&self, path: &Path) -> Result<()> {
        let root = stored_root(self.root(), path)?;
        let header = Header {
            encoder: (**self.encoder()).clone(),
            precision: self.precision(),
            images: self.entries().len() as u64,
            complete: self.is_complete(),
            tiles: self.tiles(),
            root: root.to_string_lossy().into_owned(),
            root_bytes: bytes_of(&root)?,
        };
        let header = serde_json::to_vec(&header).map_err(|e| Error::config(format!("invalid index header: {e}")))?;
        atomic::write(path, |file| {
            let mut writer = Checked { inner: file, crc: crc32fast::Hasher::new() };
            self.write(&header, &mut writer).map_err(|e| Error::io(path, e))
        })
    }

    fn write(&self, header: &[u8], writer: &mut Checked<impl Write>) -> std::io::Result<()> {
        writer.write_all(MAGIC)?;
        writer.write_all(&VERSION.to_le_bytes())?;
        writer.write_all(&(header.len() as u32).to_le_bytes())?;
        writer.write_all(header)?;
        for entry in self.entries() {
            let length = u16::try_from(entry.path.len()).map_err(|_| std::io::ErrorKind::InvalidFilename)?;
            writer.write_all(&length.to_le_bytes())?;
            writer.write_all(entry.path.as_bytes())?;
            writer.write_all(&entry.size.to_le_bytes())?;
            writer.write_all(&entry.modified.unwrap_or(0).to_le_bytes())?;
            writer.write_all(&[u8::from(entry.content.is_some())])?;
            writer.write_all(&entry.content.map_or([0; 32], |hash| hash.0))?;
            writer.write_all(&[u8::from(entry.tile.is_some())])?;
            for number in entry.tile.iter().flat_map(|tile| [tile.top, tile.left, tile.height, tile.width]) {
                writer.write_all(&number.to_le_bytes())?;
            }
        }
        match &self.vectors {
            Vectors::F16(all) => write_numbers(writer, all, |v, bytes| bytes.extend(v.to_le_bytes()))?,
            Vectors::F32(all) => write_numbers(writer, all, |v, bytes| bytes.extend(v.to_le_bytes()))?,
        }
        let crc = writer.crc.clone().finalize();
        writer.write_all(&crc.to_le_bytes())
    }

    /// Reads an index from `path` into memory and validates it.
    ///
    /// # Errors
    /// [`Error::Input`] saying what is wrong if the file is missing, of another kind or version, damaged, or
    /// holds a path that leaves the archive's folder or a vector without direction.
    pub fn open(path: &Path) -> Result<Self> {
        let bad = |e: std::io::Error| Error::input(path, format!("cannot be read: {e}"));
        let file = open_regular(path).map_err(bad)?;
        let metadata = file.metadata().map_err(bad)?;
        let reader = BufReader::with_capacity(CHUNK, file);
        Reader { path, reader, remaining: metadata.len(), crc: crc32fast::Hasher::new(), version: VERSION }.index()
    }
}

/// The archive's folder as the file at `file` names it.
fn stored_root(root: &Path, file: &Path) -> Result<PathBuf> {
    let below = parent(file).canonicalize().ok().zip(root.canonicalize().ok());
    let relative = below.as_ref().and_then(|(folder, root)| root.strip_prefix(folder).ok());
    let absolute = || std::path::absolute(root).map_err(|e| Error::io(root, e));
    relative.map_or_else(absolute, |path| Ok(path.to_owned()))
}

/// The bytes of a path that is not UTF-8.
fn bytes_of(path: &Path) -> Result<Option<Vec<u8>>> {
    if path.to_str().is_some() {
        return Ok(None);
    }
    #[cfg(unix)]
    return Ok(Some(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()).to_vec()));
    #[cfg(not(unix))]
    Err(Error::Config(format!("{}: the path of the folder is not Unicode", path.display())))
}

/// The path of a header.
fn root_of(header: &Header) -> PathBuf {
    #[cfg(unix)]
    if let Some(bytes) = &header.root_bytes {
        return <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(bytes).into();
    }
    PathBuf::from(&header.root)
}

/// The folder that a file lies in.
fn parent(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

fn write_numbers<T: Copy>(out: &mut impl Write, all: &[T], put: impl Fn(T, &mut Vec<u8>)) -> std::io::Result<()> {
    let mut bytes = Vec::with_capacity(CHUNK);
    for part in all.chunks(CHUNK / size_of::<T>()) {
        bytes.clear();
        part.iter().for_each(|&v| put(v, &mut bytes));
        out.write_all(&bytes)?;
    }
    Ok(())
}

/// Takes the checksum of what passes through.
struct Checked<W> {
    inner: W,
    crc: crc32fast::Hasher,
}

impl<W: Write> Write for Checked<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.crc.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
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
        let number = match header.precision {
            Precision::F16 => 2,
            Precision::F32 => 4,
        };
        let row = dimension.checked_mul(number).filter(|&row| row > 0);
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
        let root = parent(self.path).join(root_of(&header));
        Index::new(Arc::new(header.encoder), root, header.complete, header.tiles, entries, vectors)
            .map_err(|e| self.error(e.to_string()))
    }

    fn header(&mut self) -> Result<Header> {
        if self.remaining < MAGIC.len() as u64 || &self.array::<8>()? != MAGIC {
            return Err(self.error("is not an index of images: make one with `adir index build`"));
        }
        let version = u32::from_le_bytes(self.array()?);
        if !(OLDEST..=VERSION).contains(&version) {
            return Err(self.error(format!("has the index format {version}, this program reads {OLDEST} to {VERSION}")));
        }
        self.version = version;
        let length = u32::from_le_bytes(self.array()?);
        if length > MAX_HEADER {
            return Err(
                self.error(format!("declares a header of {length} bytes, but at most {MAX_HEADER} are allowed"))
            );
        }
        let mut bytes = vec![0; length as usize];
        self.fill(&mut bytes)?;
        serde_json::from_slice(&bytes).map_err(|e| self.error(format!("has a malformed header: {e}")))
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

    fn saved(precision: Precision) -> Vec<u8> {
        let encoder = EncoderId { name: "test".into(), weights: "aa".into(), preprocessing: "bb".into(), dimension: 3 };
        let mut vectors = Vectors::new(precision);
        vectors.push(&[1.0, 0.0, 0.0]);
        vectors.push(&[0.0, -0.6, 0.8]);
        let entries = vec![
            Entry {
                path: "a.png".into(),
                size: 7,
                content: Some(ContentHash([9; 32])),
                modified: Some(77),
                tile: None,
            },
            Entry { path: "b/ä.png".into(), size: 0, content: None, modified: None, tile: None },
        ];
        let index = Index::new(Arc::new(encoder), PathBuf::from("/archive"), false, None, entries, vectors).unwrap();
        let header = Header {
            encoder: (**index.encoder()).clone(),
            precision,
            images: 2,
            complete: false,
            tiles: None,
            root: "/archive".into(),
            root_bytes: None,
        };
        let mut writer = Checked { inner: Vec::new(), crc: crc32fast::Hasher::new() };
        index.write(&serde_json::to_vec(&header).unwrap(), &mut writer).unwrap();
        writer.inner
    }

    fn read(bytes: &[u8]) -> Result<Index> {
        let path = Path::new("folder/x.index");
        Reader { path, reader: bytes, remaining: bytes.len() as u64, crc: crc32fast::Hasher::new(), version: VERSION }
            .index()
    }

    /// Puts a valid checksum under changed bytes.
    fn resealed(mut bytes: Vec<u8>) -> Vec<u8> {
        let body = bytes.len() - 4;
        let crc = crc32fast::hash(&bytes[..body]);
        bytes[body..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// A written index with `from` replaced once; a change of length is taken to be the header's.
    fn replaced(from: &str, to: &str) -> Vec<u8> {
        let mut bytes = saved(Precision::F16);
        let at = bytes.windows(from.len()).position(|w| w == from.as_bytes()).expect("present");
        bytes.splice(at..at + from.len(), to.bytes());
        let header = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) + to.len() as u32 - from.len() as u32;
        bytes[12..16].copy_from_slice(&header.to_le_bytes());
        resealed(bytes)
    }

    #[test]
    fn what_was_written_is_read() {
        for precision in [Precision::F16, Precision::F32] {
            let index = read(&saved(precision)).unwrap();
            assert_eq!((index.entries().len(), index.precision(), index.is_complete()), (2, precision, false));
            assert_eq!(index.entries()[0].content, Some(ContentHash([9; 32])));
            assert_eq!((index.entries()[0].modified, index.entries()[1].modified), (Some(77), None));
            assert_eq!((index.entries()[1].path.as_str(), index.entries()[1].content), ("b/ä.png", None));
            assert!((index.embedding(1).unwrap().values()[2] - 0.8).abs() < 1e-3);
            assert_eq!(index.root(), Path::new("/archive"));
        }
    }

    /// Version 1 had no times, and neither 1 nor 2 had tiles.
    #[test]
    fn older_indexes_are_read() {
        for version in [1, 2] {
            let mut bytes = saved(Precision::F16);
            bytes[8] = version;
            for (path, size) in [("b/ä.png", 0_u64), ("a.png", 7)] {
                let at = bytes.windows(path.len()).position(|w| w == path.as_bytes()).unwrap() + path.len();
                assert_eq!(bytes[at..at + 8], size.to_le_bytes());
                bytes.remove(at + 8 + 8 + 1 + 32);
                if version == 1 {
                    bytes.drain(at + 8..at + 16);
                }
            }
            let index = read(&resealed(bytes)).unwrap();
            assert_eq!((index.entries().len(), index.entries()[0].tile, index.tiles()), (2, None, None));
            assert_eq!(index.entries()[0].modified, (version == 2).then_some(77));
            assert_eq!(index.entries()[0].content, Some(ContentHash([9; 32])));
        }
    }

    #[test]
    fn every_truncation_and_every_changed_byte_is_refused() {
        let bytes = saved(Precision::F16);
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
        for (from, to, hint) in [
            ("ADIRINDX", "ADIRINDY", "not an index"),
            ("INDX\x03", "INDX\x04", "format 4"),
            ("\"images\":2", "\"images\":9", "9 images"),
            ("\"dimension\":3", "\"dimension\":0", "0 numbers"),
            ("\"dimension\":3", "\"dimension\":2", "follow the paths"),
            ("\"f16\"", "\"f32\"", "follow"),
            ("complete", "complexe", "header"),
            ("a.png", "../ng", "inside the folder"),
            ("a.png", "c.png", "order"),
            ("a.png", "\u{7f}.png", "order"),
        ] {
            let message = read(&replaced(from, to)).unwrap_err().to_string();
            assert!(message.contains(hint), "{to}: {message}");
        }
        let mut zero = saved(Precision::F16);
        let end = zero.len() - 4;
        zero[end - 6..end].fill(0);
        assert!(read(&resealed(zero)).unwrap_err().to_string().contains("no direction"));
    }

    #[test]
    fn a_declared_size_is_compared_with_the_file_before_it_is_believed() {
        for images in ["3", "4611686018427387905", "18446744073709551615", "99999999999999999999"] {
            let message = read(&replaced("\"images\":2", &format!("\"images\":{images}"))).unwrap_err().to_string();
            assert!(message.contains("declares") || message.contains("header"), "{images}: {message}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_folder_may_have_any_name() {
        use std::os::unix::ffi::OsStrExt;
        let folder = std::env::temp_dir().join(format!("adir-index-bytes-{}", std::process::id()));
        let root = folder.join(std::ffi::OsStr::from_bytes(b"caf\xe9"));
        std::fs::create_dir_all(&root).unwrap();
        let entries = vec![Entry { path: "a.png".into(), size: 0, content: None, modified: None, tile: None }];
        let encoder = EncoderId { name: "t".into(), weights: "".into(), preprocessing: "".into(), dimension: 1 };
        let index = Index::new(Arc::new(encoder), root.clone(), true, None, entries, Vectors::F32(vec![1.0])).unwrap();
        for file in [folder.join("x.index"), std::env::temp_dir().join(format!("adir-{}.index", std::process::id()))] {
            index.save(&file).unwrap();
            assert_eq!(Index::open(&file).unwrap().file(0).unwrap(), root.join("a.png"));
            std::fs::remove_file(file).unwrap();
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn an_archive_moves_with_its_index() {
        let folder = std::env::temp_dir().join(format!("adir-index-{}", std::process::id()));
        let (before, after) = (folder.join("before"), folder.join("after"));
        std::fs::create_dir_all(before.join("photos")).unwrap();
        let entries = vec![Entry { path: "a.png".into(), size: 0, content: None, modified: None, tile: None }];
        let encoder = EncoderId { name: "t".into(), weights: "".into(), preprocessing: "".into(), dimension: 1 };
        let vectors = Vectors::F32(vec![1.0]);
        let index = Index::new(Arc::new(encoder), before.join("photos"), true, None, entries, vectors).unwrap();
        index.save(&before.join("photos.index")).unwrap();
        index.save(&before.join("photos.index/x.index")).unwrap_err();
        index.save(&before.join("photos/inside.index")).unwrap();
        std::fs::rename(&before, &after).unwrap();
        let found = Index::open(&after.join("photos.index")).unwrap();
        assert_eq!(found.file(0).unwrap(), after.join("photos/a.png"));
        let found = Index::open(&after.join("photos/inside.index")).unwrap();
        assert_eq!(found.file(0).unwrap(), after.join("photos/a.png"));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
