//! The index's file: written and read in the format of [`layout`](super::layout), and read in those of before.
//!
//! The folder is stored relative to the file where it lies at or below the file's own folder, so that an archive can be moved
//! with its index. Every size is checked against the length of the file.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::index::{Content, Index, Precision, Vectors};
use super::layout::{BLOCK, Layout, MAGIC, MAX_HEADER, PLAIN, ROUNDED};
use super::older;
use super::rounded::Rounded;
use super::stored::{Block, Stored};
use super::writer::{Header, Writer};
use crate::encode::EncoderId;
use crate::io::shards::check_no_shard;
use crate::io::{atomic, open_regular};
use crate::{Error, Result};

/// Most bytes of vectors that are read into memory when an index is opened. Larger ones stay in their file, with rounded
/// copies of the vectors.
pub(super) const IN_MEMORY: u64 = 256 << 20;

impl Index {
    /// Writes the index to `path`, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] where the system refuses, [`Error::Config`] if the archive's folder has a name that the
    /// file cannot hold, on systems whose paths are not bytes.
    pub fn save(&self, path: &Path) -> Result<()> {
        self.save_for(path, IN_MEMORY)
    }

    /// As [`Index::save`], for a reader that keeps up to `in_memory` bytes of vectors in memory.
    fn save_for(&self, path: &Path, in_memory: u64) -> Result<()> {
        let mut header = header(self.encoder(), self.precision(), self.len(), self.root(), path)?;
        (header.complete, header.tiles) = (self.is_complete(), self.tiles());
        atomic::write(path, |file| {
            let mut writer = Writer::new(path, file, &header, in_memory)?;
            match &*self.content {
                Content::Memory(held) => {
                    for (id, entry) in held.entries.iter().enumerate() {
                        writer.push(entry, &held.vectors.row(id, header.encoder.dimension))?;
                    }
                }
                Content::File(stored) => {
                    let (entries, mut block) = (stored.entries()?, Block::default());
                    for (number, entries) in entries.chunks(BLOCK).enumerate() {
                        stored.block(number, &mut block)?;
                        let rows = block.vectors(stored.layout());
                        for (i, entry) in entries.iter().enumerate() {
                            writer.push(entry, &rows.row(i, header.encoder.dimension))?;
                        }
                    }
                }
            }
            writer.finish()
        })
    }

    /// Opens the index at `path`. Of 256 MiB of vectors or less it is read into memory and validated as a whole; of more,
    /// the header is read, and everything else when it is needed.
    ///
    /// # Errors
    /// [`Error::Input`] saying what is wrong if the file is missing, of another kind or version, damaged, or
    /// holds a path that leaves the archive's folder or a vector without direction.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_within(path, IN_MEMORY)
    }

    /// As [`Index::open`], into memory up to `memory` bytes of vectors.
    ///
    /// # Errors
    /// As [`Index::open`].
    pub fn open_within(path: &Path, memory: u64) -> Result<Self> {
        let bad = |e: std::io::Error| Error::input(path, format!("cannot be read: {e}"));
        let mut file = open_regular(path).map_err(bad)?;
        let length = file.metadata().map_err(bad)?.len();
        let mut start = Vec::new();
        Read::by_ref(&mut file).take(16).read_to_end(&mut start).map_err(bad)?;
        let Some((magic, [version, text])) = start.split_first_chunk::<8>().and_then(|(magic, rest)| {
            let [a, b] = rest.as_chunks::<4>().0.first_chunk::<2>()?;
            Some((magic, [u32::from_le_bytes(*a), u32::from_le_bytes(*b)]))
        }) else {
            check_no_shard(path)?;
            return Err(Error::input(path, "is not an index of images: make one with `adir index build`"));
        };
        if magic != MAGIC {
            check_no_shard(path)?;
            return Err(Error::input(path, "is not an index of images: make one with `adir index build`"));
        }
        match version {
            older::OLDEST..PLAIN => {
                file.seek(SeekFrom::Start(0)).map_err(bad)?;
                older::read(path, BufReader::with_capacity(1 << 20, file), length)
            }
            PLAIN..=ROUNDED => {
                let (header, stored) = stored(path, file, length, version, start, text)?;
                match stored.layout().vectors() <= memory {
                    true => held(path, header, &stored),
                    false => Ok(with(path, header, |encoder, root, complete, tiles| {
                        Self::stored(encoder, root, complete, tiles, stored)
                    })),
                }
            }
            _ => {
                let oldest = older::OLDEST;
                let message = format!("has the index format {version}, this program reads {oldest} to {ROUNDED}");
                Err(Error::input(path, message))
            }
        }
    }
}

/// The header of a complete index of whole images in the file at `path`.
pub(super) fn header(
    encoder: &EncoderId,
    precision: Precision,
    images: usize,
    root: &Path,
    path: &Path,
) -> Result<Header> {
    let root = stored_root(root, path)?;
    Ok(Header {
        encoder: encoder.clone(),
        precision,
        images: images as u64,
        complete: true,
        tiles: None,
        root: root.to_string_lossy().into_owned(),
        root_bytes: bytes_of(&root)?,
    })
}

/// The header of a file of which `start` is read, with a text of `length` bytes, and what is behind it.
fn stored(
    path: &Path,
    mut file: File,
    bytes: u64,
    version: u32,
    mut start: Vec<u8>,
    length: u32,
) -> Result<(Header, Stored)> {
    let damaged = |message: &str| Error::input(path, message);
    if length > MAX_HEADER {
        let message = format!("declares a header of {length} bytes, but at most {MAX_HEADER} are allowed");
        return Err(damaged(&message));
    }
    let read = Read::by_ref(&mut file).take(u64::from(length) + 4).read_to_end(&mut start);
    read.map_err(|e| Error::input(path, format!("cannot be read: {e}")))?;
    let Some((text, crc)) = start.split_last_chunk::<4>().filter(|(text, _)| text.len() == 16 + length as usize) else {
        return Err(damaged("is truncated: its header is incomplete"));
    };
    if crc32fast::hash(text) != u32::from_le_bytes(*crc) {
        return Err(damaged("is damaged: the checksum of its header is wrong"));
    }
    let header: Header =
        serde_json::from_slice(&text[16..]).map_err(|e| damaged(&format!("has an invalid header: {e}")))?;
    let images = usize::try_from(header.images).ok();
    let (dimension, precision) = (header.encoder.dimension, header.precision);
    let layout = images.and_then(|n| Layout::new(version, n, dimension, precision, start.len() as u64));
    let Some(layout) = layout.filter(|layout| layout.dimension > 0) else {
        return Err(damaged(&format!("declares {} images of {dimension} numbers", header.images)));
    };
    Ok((header, Stored::new(path, file, bytes, layout)?))
}

/// A stored index in memory, validated as a whole.
fn held(path: &Path, header: Header, stored: &Stored) -> Result<Index> {
    let entries = stored.entries()?;
    let mut vectors = Vectors::new(header.precision);
    vectors.reserve(stored.layout().images * stored.layout().dimension)?;
    let (mut block, mut rounded) = (Block::default(), Rounded::default());
    for number in 0..stored.layout().blocks() {
        stored.block(number, &mut block)?;
        vectors.append(&block.vectors(stored.layout()));
        if stored.layout().rounded {
            stored.rounded(number, &mut rounded)?;
        }
    }
    with(path, header, |encoder, root, complete, tiles| Index::new(encoder, root, complete, tiles, entries, vectors))
        .map_err(|e| Error::input(path, e.to_string()))
}

/// An index made from what the header of the file at `path` says.
fn with<T>(
    path: &Path,
    header: Header,
    make: impl FnOnce(Arc<EncoderId>, PathBuf, bool, Option<super::TileSide>) -> T,
) -> T {
    let root = parent(path).join(header.root());
    make(Arc::new(header.encoder), root, header.complete, header.tiles)
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

/// The folder that a file lies in.
pub(super) fn parent(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::Embedding;
    use crate::retrieve::{ContentHash, Entry, Exclude, Tile, TileSide};

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("adir-index-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        folder
    }

    fn encoder(dimension: usize) -> Arc<EncoderId> {
        Arc::new(EncoderId { name: "test".into(), weights: "aa".into(), preprocessing: "bb".into(), dimension })
    }

    /// Images of which something else is known each, over several blocks; the vectors differ.
    fn index(images: usize, precision: Precision) -> Index {
        let mut vectors = Vectors::new(precision);
        let entry = |i: usize| {
            let tile = Tile { top: i as u32, left: 2, height: 3, width: 4 };
            Entry {
                path: format!("b/{i:05}ä.png"),
                size: i as u64,
                content: i.is_multiple_of(2).then_some(ContentHash([i as u8; 32])),
                modified: i.is_multiple_of(3).then_some(i as u64),
                tile: i.is_multiple_of(5).then_some(tile),
            }
        };
        for i in 0..images {
            let angle = i as f32 * 0.7;
            vectors.push(&[angle.cos() * 0.8, angle.sin() * 0.8, -0.6]);
        }
        let entries = (0..images).map(entry).collect();
        let side = Some(TileSide::new(64).unwrap());
        Index::new(encoder(3), PathBuf::from("/archive"), false, side, entries, vectors).unwrap()
    }

    #[test]
    fn what_was_written_is_read_in_memory_or_in_its_file() {
        let f = folder("written");
        for (images, precision) in
            [(1, Precision::F16), (256, Precision::F32), (700, Precision::F16), (700, Precision::F32)]
        {
            let (index, small, large) = (index(images, precision), f.join("small.index"), f.join("large.index"));
            index.save(&small).unwrap();
            index.save_for(&large, 0).unwrap();
            assert!(std::fs::read(&small).unwrap()[8] == 4 && std::fs::read(&large).unwrap()[8] == 5);
            let open = |file| [Index::open(file).unwrap(), Index::open_within(file, 0).unwrap()];
            let ([held, stored], [large_held, large_stored]) = (open(&small), open(&large));
            assert!(held.is_in_memory() && large_held.is_in_memory());
            assert!(!stored.is_in_memory() && !large_stored.is_in_memory());
            // Written once more from its file it is the same.
            large_stored.save_for(&f.join("again.index"), 0).unwrap();
            assert_eq!(std::fs::read(f.join("again.index")).unwrap(), std::fs::read(&large).unwrap());
            large_stored.save(&f.join("again.index")).unwrap();
            assert_eq!(std::fs::read(f.join("again.index")).unwrap(), std::fs::read(&small).unwrap());
            for read in [&held, &stored, &large_held, &large_stored] {
                assert_eq!((read.len(), read.precision(), read.is_complete()), (images, precision, false));
                assert_eq!((read.root(), read.tiles()), (Path::new("/archive"), index.tiles()));
                assert_eq!(read.entries().unwrap(), index.entries().unwrap());
                for id in (0..images).step_by(37).chain([images - 1]) {
                    assert_eq!(read.entry(id).unwrap(), index.entry(id).unwrap());
                    assert_eq!(read.vector(id).unwrap(), index.vector(id).unwrap());
                }
                assert!(read.entry(images).is_err() && read.vector(images).is_err());
                let query = index.embedding(images / 2).unwrap();
                for exclude in [
                    Exclude::default(),
                    Exclude { closer_than: 0.3, content: None },
                    Exclude { closer_than: 0.0, content: index.entry(images / 2).unwrap().content },
                ] {
                    let expected = index.nearest(&query, 20, &exclude).unwrap();
                    assert_eq!(read.nearest(&query, 20, &exclude).unwrap(), expected);
                }
            }
        }
        std::fs::remove_dir_all(f).unwrap();
    }

    /// Everything that a file can be asked.
    fn all_of(file: &Path) -> Result<()> {
        let index = Index::open_within(file, 0)?;
        index.entries()?;
        for id in 0..index.len() {
            index.entry(id)?;
        }
        let query = Embedding::new(index.encoder().clone(), vec![1.0, 0.0, 0.0])?;
        index.nearest(&query, 3, &Exclude::default()).map(drop)
    }

    #[test]
    fn every_truncation_and_every_changed_byte_is_refused() {
        let f = folder("damage");
        let file = f.join("x.index");
        for in_memory in [u64::MAX, 0] {
            index(3, Precision::F16).save_for(&file, in_memory).unwrap();
            let bytes = std::fs::read(&file).unwrap();
            all_of(&file).unwrap();
            let refused = |bytes: &[u8], what: &str| {
                std::fs::write(&file, bytes).unwrap();
                assert!(matches!(Index::open(&file), Err(Error::Input { .. })), "in memory: {what}");
                assert!(matches!(all_of(&file), Err(Error::Input { .. })), "in its file: {what}");
            };
            for length in 0..bytes.len() {
                refused(&bytes[..length], &format!("cut at {length}"));
            }
            for at in 0..bytes.len() {
                for flip in [1, 0x80, 0xff] {
                    let mut damaged = bytes.clone();
                    damaged[at] ^= flip;
                    refused(&damaged, &format!("byte {at}"));
                }
            }
            refused(&[&bytes[..], &[0]].concat(), "longer");
        }
        std::fs::remove_dir_all(f).unwrap();
    }

    /// A header that is sealed, whatever it says.
    #[test]
    fn a_declared_size_is_compared_with_the_file_before_it_is_believed() {
        let f = folder("declared");
        let file = f.join("x.index");
        index(2, Precision::F16).save(&file).unwrap();
        let whole = std::fs::read(&file).unwrap();
        let text = 16..16 + u32::from_le_bytes(whole[12..16].try_into().unwrap()) as usize;
        let header = String::from_utf8(whole[text.clone()].to_vec()).unwrap();
        for (from, to, hint) in [
            ("\"images\":2", "\"images\":0", "declares 0 images"),
            ("\"images\":2", "\"images\":9", "declares 9 images"),
            ("\"images\":2", "\"images\":4611686018427387905", "declares"),
            ("\"images\":2", "\"images\":18446744073709551615", "declares"),
            ("\"images\":2", "\"images\":99999999999999999999", "header"),
            ("\"dimension\":3", "\"dimension\":0", "0 numbers"),
            ("\"dimension\":3", "\"dimension\":18446744073709551615", "declares"),
            ("\"f16\"", "\"f32\"", "entr"),
            ("complete", "complexe", "header"),
            ("/archive", "\\u0000", ""),
        ] {
            assert!(header.contains(from));
            let header = header.replace(from, to);
            let start = [&whole[..12], &(header.len() as u32).to_le_bytes(), header.as_bytes()].concat();
            let bytes = [&start[..], &crc32fast::hash(&start).to_le_bytes(), &whole[text.end + 4..]].concat();
            std::fs::write(&file, bytes).unwrap();
            if hint.is_empty() {
                // A folder of any name is one that is not there.
                Index::open(&file).unwrap();
                continue;
            }
            for found in [Index::open(&file).map(drop), all_of(&file)] {
                let message = found.unwrap_err().to_string();
                assert!(message.contains(hint), "{to}: {message}");
            }
        }
        for (bytes, hint) in [
            (&b"ADIRINDX\x06\0\0\0\0\0\0\0"[..], "format 6"),
            (b"ADIRINDX\0\0\0\0\0\0\0\0", "format 0"),
            (b"ADIRINDX\x04\0\0\0\xff\xff\xff\xff", "at most"),
            (b"ADIRINDY\x04\0\0\0\0\0\0\0", "not an index"),
            (b"", "not an index"),
        ] {
            std::fs::write(&file, bytes).unwrap();
            let message = Index::open(&file).unwrap_err().to_string();
            assert!(message.contains(hint), "{hint}: {message}");
        }
        std::fs::remove_dir_all(f).unwrap();
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
