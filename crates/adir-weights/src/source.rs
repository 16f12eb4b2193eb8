//! Where the bytes of a model file come from: a file read in pieces, or bytes embedded in the program.
//!
//! No memory map: a mapped file that is truncated while it is read kills the process, and a mapping
//! needs `unsafe`. Every read is checked against the length found when the file was opened.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use flate2::Crc;
use flate2::read::DeflateDecoder;

use crate::{Error, Result, open_regular};

/// Chunk size in bytes; a multiple of every element size.
pub(crate) const CHUNK: usize = 1 << 20;

/// Random access to the bytes of one model file.
#[derive(Debug)]
pub(crate) struct Source {
    path: PathBuf,
    len: u64,
    bytes: Bytes,
}

enum Bytes {
    Reader(Mutex<Box<dyn ReadSeek>>),
    Memory(Cow<'static, [u8]>),
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reader(_) => "Reader",
            Self::Memory(_) => "Memory",
        })
    }
}

trait ReadSeek: Read + Seek + Send {}

impl<R: Read + Seek + Send> ReadSeek for R {}

/// A run of bytes inside a [`Source`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Region {
    /// Where it begins in the file.
    pub offset: u64,
    /// Bytes that it yields.
    pub len: u64,
    /// How they are kept.
    pub packing: Packing,
    /// The CRC-32 of what it yields, where one is recorded.
    pub crc: Option<u32>,
}

/// How a [`Region`]'s bytes are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    /// As they are.
    Stored,
    /// By DEFLATE, in this many bytes.
    Deflated { compressed: u64 },
}

impl Region {
    /// A run of bytes kept as they are, without a checksum.
    pub fn plain(offset: u64, len: u64) -> Self {
        Self { offset, len, packing: Packing::Stored, crc: None }
    }

    /// The first byte after it in the file.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(match self.packing {
            Packing::Stored => self.len,
            Packing::Deflated { compressed } => compressed,
        })
    }

    /// Compares the CRC-32 of what it yielded with the one recorded.
    pub fn check_crc(&self, found: &Crc) -> Result<(), String> {
        match self.crc {
            Some(crc) if crc != found.sum() => Err(format!(
                "the {} bytes at offset {} have the CRC-32 {:08x}, recorded is {crc:08x}: the file is damaged",
                self.len,
                self.offset,
                found.sum()
            )),
            _ => Ok(()),
        }
    }
}

impl Source {
    pub fn open(path: &Path) -> Result<Self> {
        let cannot = |e: io::Error| Error::malformed(path, format!("cannot be opened: {e}"));
        let file = open_regular(path).map_err(cannot)?;
        let metadata = file.metadata().map_err(cannot)?;
        Ok(Self { path: path.to_owned(), len: metadata.len(), bytes: Bytes::Reader(Mutex::new(Box::new(file))) })
    }

    pub fn from_reader(path: &Path, mut reader: impl Read + Seek + Send + 'static) -> Result<Self> {
        let len = reader.seek(SeekFrom::End(0));
        let len = len.map_err(|e| Error::malformed(path, format!("its length cannot be found: {e}")))?;
        Ok(Self { path: path.to_owned(), len, bytes: Bytes::Reader(Mutex::new(Box::new(reader))) })
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
            return Err(self.error(format!(
                "{wanted} bytes at offset {offset} are beyond the end of the file ({} bytes)",
                self.len
            )));
        };
        match &self.bytes {
            Bytes::Memory(bytes) => {
                let slice = bytes.get(offset as usize..end as usize);
                buffer.copy_from_slice(slice.ok_or_else(|| self.error("the file became shorter while it was read"))?);
                Ok(())
            }
            Bytes::Reader(reader) => {
                // A panic elsewhere cannot leave a reader half changed: every read seeks first.
                let mut reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
                reader
                    .seek(SeekFrom::Start(offset))
                    .and_then(|_| reader.read_exact(buffer))
                    .map_err(|e| self.error(format!("reading {wanted} bytes at offset {offset}: {e}")))
            }
        }
    }

    /// The bytes `offset..offset + len` in one piece; fails before allocating if the file is shorter.
    pub fn read_vec(&self, offset: u64, len: u64) -> Result<Vec<u8>> {
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(self
                .error(format!("{len} bytes at offset {offset} are beyond the end of the file ({} bytes)", self.len)));
        }
        let len = usize::try_from(len).map_err(|_| self.error(format!("{len} bytes exceed the address space")))?;
        let mut buffer = vec![0; len];
        self.read_exact_at(offset, &mut buffer)?;
        Ok(buffer)
    }

    /// Hands bytes `start..start + len` of `region` to `take`, in pieces that are multiples of 8 bytes (but the last).
    /// Where that takes going through all of the region, its CRC-32 is checked at the end.
    pub fn for_each_chunk(
        &self,
        region: Region,
        start: u64,
        len: u64,
        mut take: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        if start.checked_add(len).is_none_or(|end| end > region.len) {
            return Err(
                self.error(format!("bytes {start} to {start}+{len} are beyond the {} bytes of the entry", region.len))
            );
        }
        if let Packing::Deflated { .. } = region.packing {
            let reader = RegionReader { source: self, position: region.offset, end: region.end() };
            return self.inflate(reader, region, start, len, take);
        }
        let whole = len == region.len;
        let mut crc = Crc::new();
        let mut buffer = vec![0; len.min(CHUNK as u64) as usize];
        let mut done = 0;
        while done < len {
            let piece = (len - done).min(CHUNK as u64) as usize;
            self.read_exact_at(region.offset + start + done, &mut buffer[..piece])?;
            if whole && region.crc.is_some() {
                crc.update(&buffer[..piece]);
            }
            take(&buffer[..piece])?;
            done += piece as u64;
        }
        if whole { region.check_crc(&crc).map_err(|message| self.error(message)) } else { Ok(()) }
    }

    /// As [`for_each_chunk`](Self::for_each_chunk) for a deflated region, whose compressed bytes `reader` yields. All
    /// of it is inflated, which tells whether it is whole.
    pub fn inflate(
        &self,
        reader: impl Read,
        region: Region,
        start: u64,
        len: u64,
        mut take: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let damaged = |e: &dyn fmt::Display| self.error(format!("inflating data at offset {}: {e}", region.offset));
        let mut inflated = DeflateDecoder::new(reader);
        let mut crc = Crc::new();
        let mut buffer = vec![0; region.len.min(CHUNK as u64) as usize];
        for (wanted, len) in [(false, start), (true, len), (false, region.len - start - len)] {
            let mut done = 0;
            while done < len {
                let piece = (len - done).min(CHUNK as u64) as usize;
                inflated.read_exact(&mut buffer[..piece]).map_err(|e| damaged(&e))?;
                crc.update(&buffer[..piece]);
                if wanted {
                    take(&buffer[..piece])?;
                }
                done += piece as u64;
            }
        }
        if inflated.read(&mut [0]).map_err(|e| damaged(&e))? > 0 {
            return Err(damaged(&format_args!("more than the {} bytes declared", region.len)));
        }
        region.check_crc(&crc).map_err(|message| self.error(message))
    }

    /// The first bytes of `region`, at most `most`; nothing is checked.
    pub fn read_start(&self, region: Region, most: u64) -> Result<Vec<u8>> {
        let len = region.len.min(most);
        let Packing::Deflated { .. } = region.packing else { return self.read_vec(region.offset, len) };
        let reader = RegionReader { source: self, position: region.offset, end: region.end() };
        let mut start = Vec::new();
        let read = DeflateDecoder::new(reader).take(len).read_to_end(&mut start);
        read.map_err(|e| self.error(format!("inflating data at offset {}: {e}", region.offset)))?;
        Ok(start)
    }

    /// The bytes of `region` in one piece, checked as by [`for_each_chunk`](Self::for_each_chunk).
    pub fn read_region(&self, region: Region) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        self.for_each_chunk(region, 0, region.len, |piece| {
            all.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(all)
    }
}

/// Sequential reading of a part of a [`Source`], for the inflater.
struct RegionReader<'a> {
    source: &'a Source,
    position: u64,
    end: u64,
}

impl Read for RegionReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let piece = (buffer.len() as u64).min(self.end.saturating_sub(self.position)) as usize;
        self.source.read_exact_at(self.position, &mut buffer[..piece]).map_err(io::Error::other)?;
        self.position += piece as u64;
        Ok(piece)
    }
}
