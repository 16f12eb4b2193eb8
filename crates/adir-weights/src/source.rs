//! Where the bytes of a model file come from: a file read in pieces, or bytes embedded in the program.
//!
//! No memory map: a mapped file that is truncated while it is read kills the process, and a mapping
//! needs `unsafe`. Every read is checked against the length found when the file was opened.

use std::borrow::Cow;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use flate2::read::DeflateDecoder;

use crate::hash::Hasher;
use crate::{Error, Result};

/// Bytes handed over at a time; a multiple of every element size.
const CHUNK: usize = 1 << 20;

/// Random access to the bytes of one model file.
#[derive(Debug)]
pub(crate) struct Source {
    path: PathBuf,
    len: u64,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    File(Mutex<File>),
    Memory(Cow<'static, [u8]>),
}

/// A run of bytes inside a [`Source`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Region {
    /// Stored as they are.
    Raw { offset: u64, len: u64 },
    /// Compressed by DEFLATE; `len` is the size after inflating.
    Deflated { offset: u64, compressed: u64, len: u64 },
}

impl Region {
    /// The number of bytes it yields.
    pub fn len(self) -> u64 {
        match self {
            Self::Raw { len, .. } | Self::Deflated { len, .. } => len,
        }
    }
}

impl Source {
    pub fn open(path: &Path) -> Result<Self> {
        let cannot = |e: std::io::Error| Error::malformed(path, format!("cannot be opened: {e}"));
        let file = File::open(path).map_err(cannot)?;
        let metadata = file.metadata().map_err(cannot)?;
        if !metadata.is_file() {
            return Err(Error::malformed(path, "is not a regular file"));
        }
        Ok(Self { path: path.to_owned(), len: metadata.len(), bytes: Bytes::File(Mutex::new(file)) })
    }

    pub fn from_bytes(name: &str, bytes: Cow<'static, [u8]>) -> Self {
        Self { path: PathBuf::from(format!("<{name}>")), len: bytes.len() as u64, bytes: Bytes::Memory(bytes) }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    /// An [`Error::Malformed`] about this file.
    pub fn error(&self, message: impl Into<String>) -> Error {
        Error::malformed(&self.path, message)
    }

    /// Fills `buffer` from `offset`.
    pub fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let wanted = buffer.len();
        let end = offset.checked_add(wanted as u64).filter(|&end| end <= self.len);
        let Some(end) = end else {
            return Err(self.error(format!("{wanted} bytes at offset {offset} lie beyond its {} bytes", self.len)));
        };
        match &self.bytes {
            Bytes::Memory(bytes) => {
                let slice = bytes.get(offset as usize..end as usize);
                buffer.copy_from_slice(slice.ok_or_else(|| self.error("shorter than it was"))?);
                Ok(())
            }
            Bytes::File(file) => {
                // A panic elsewhere cannot leave a file half changed: every read seeks first.
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                file.seek(SeekFrom::Start(offset))
                    .and_then(|_| file.read_exact(buffer))
                    .map_err(|e| self.error(format!("reading {wanted} bytes at offset {offset}: {e}")))
            }
        }
    }

    /// The bytes `offset..offset + len` in one piece; fails before allocating if the file is shorter.
    pub fn read_vec(&self, offset: u64, len: u64) -> Result<Vec<u8>> {
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(self.error(format!("{len} bytes at offset {offset} lie beyond its {} bytes", self.len)));
        }
        let len = usize::try_from(len).map_err(|_| self.error(format!("{len} bytes do not fit this machine")))?;
        let mut buffer = vec![0; len];
        self.read_exact_at(offset, &mut buffer)?;
        Ok(buffer)
    }

    /// Hands bytes `start..start + len` of `region` to `take`, in pieces that are multiples of 8 bytes
    /// (but the last).
    pub fn for_each_chunk(
        &self,
        region: Region,
        start: u64,
        len: u64,
        mut take: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        if start.checked_add(len).is_none_or(|end| end > region.len()) {
            return Err(self.error(format!("bytes {start} to {start}+{len} lie beyond a run of {}", region.len())));
        }
        let mut buffer = vec![0; len.min(CHUNK as u64) as usize];
        match region {
            Region::Raw { offset, .. } => {
                let mut done = 0;
                while done < len {
                    let piece = (len - done).min(CHUNK as u64) as usize;
                    self.read_exact_at(offset + start + done, &mut buffer[..piece])?;
                    take(&buffer[..piece])?;
                    done += piece as u64;
                }
            }
            Region::Deflated { offset, compressed, .. } => {
                let reader = RegionReader { source: self, position: offset, end: offset.saturating_add(compressed) };
                let mut inflated = DeflateDecoder::new(reader);
                let damaged = |e: std::io::Error| self.error(format!("inflating data at offset {offset}: {e}"));
                let skipped = std::io::copy(&mut (&mut inflated).take(start), &mut std::io::sink()).map_err(damaged)?;
                if skipped != start {
                    return Err(self.error(format!("compressed data at offset {offset} ends early")));
                }
                let mut done = 0;
                while done < len {
                    let piece = (len - done).min(CHUNK as u64) as usize;
                    inflated.read_exact(&mut buffer[..piece]).map_err(damaged)?;
                    take(&buffer[..piece])?;
                    done += piece as u64;
                }
            }
        }
        Ok(())
    }

    /// The bytes `start..start + len` of `region` in one piece.
    pub fn read_region(&self, region: Region, start: u64, len: u64) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        self.for_each_chunk(region, start, len, |piece| {
            all.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(all)
    }

    /// The SHA-256 of the whole file.
    pub fn sha256(&self) -> Result<String> {
        let mut hasher = Hasher::default();
        self.for_each_chunk(Region::Raw { offset: 0, len: self.len }, 0, self.len, |piece| {
            hasher.update(piece);
            Ok(())
        })?;
        Ok(hasher.finish())
    }
}

/// Sequential reading of a part of a [`Source`], for the inflater.
struct RegionReader<'a> {
    source: &'a Source,
    position: u64,
    end: u64,
}

impl Read for RegionReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let piece = (buffer.len() as u64).min(self.end.saturating_sub(self.position)) as usize;
        self.source.read_exact_at(self.position, &mut buffer[..piece]).map_err(std::io::Error::other)?;
        self.position += piece as u64;
        Ok(piece)
    }
}
