//! One pass over a file, in which its SHA-256 and the checksums in it are taken while tensors are read.

use std::io::{self, Read};

use flate2::Crc;

use crate::Result;
use crate::hash::{ContentHash, Hasher};
use crate::source::{CHUNK, Packing, Region, Source};
use crate::weights::Stored;

/// A pass over a [`Source`], from its first byte to its last.
pub(crate) struct Pass<'a> {
    source: &'a Source,
    at: u64,
    hasher: Hasher,
    /// The runs of bytes that have a checksum and are not over yet, in order; none begins before the one before ends.
    checked: &'a [Region],
    /// The checksum of what came by of the first of them.
    crc: Crc,
    buffer: Vec<u8>,
}

impl<'a> Pass<'a> {
    pub fn new(source: &'a Source, checked: &'a [Region]) -> Self {
        Self { source, at: 0, hasher: Hasher::default(), checked, crc: Crc::new(), buffer: Vec::new() }
    }

    /// The next byte of the file.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Goes on to the end of a tensor, none of whose bytes came by yet, and hands over the bytes from its first element
    /// to its last, in pieces of whole elements.
    pub fn read(&mut self, stored: &Stored, mut take: impl FnMut(&[u8])) -> Result<()> {
        let region = stored.region;
        let (start, len) = stored.bytes();
        match region.packing {
            Packing::Stored => {
                self.go_to(region.offset + start, |_| ())?;
                self.go_to(region.offset + start + len, take)
            }
            Packing::Deflated { .. } => {
                self.go_to(region.offset, |_| ())?;
                let source = self.source;
                let compressed = Compressed { pass: self, end: region.end() };
                source.inflate(compressed, region, start, len, |bytes| {
                    take(bytes);
                    Ok(())
                })?;
                // What the inflater had no need of.
                self.go_to(region.end(), |_| ())
            }
        }
    }

    /// Reads the file to its end.
    pub fn finish(mut self) -> Result<ContentHash> {
        self.go_to(self.source.len(), |_| ())?;
        Ok(self.hasher.finish())
    }

    /// Reads up to `end`, in pieces that are multiples of 8 bytes (but the last).
    fn go_to(&mut self, end: u64, mut take: impl FnMut(&[u8])) -> Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let most = end.saturating_sub(self.at).min(CHUNK as u64) as usize;
        if buffer.len() < most {
            buffer.resize(most, 0);
        }
        while self.at < end {
            let piece = &mut buffer[..(end - self.at).min(CHUNK as u64) as usize];
            self.source.read_exact_at(self.at, piece)?;
            self.pass_by(piece)?;
            take(piece);
        }
        self.buffer = buffer;
        Ok(())
    }

    /// Takes note of the next bytes of the file.
    fn pass_by(&mut self, mut bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        let mut at = self.at;
        self.at += bytes.len() as u64;
        while let Some((region, rest)) = self.checked.split_first()
            && region.offset < self.at
        {
            let from = region.offset.saturating_sub(at).min(bytes.len() as u64) as usize;
            let to = (region.end() - at).min(bytes.len() as u64) as usize;
            self.crc.update(&bytes[from..to]);
            if region.end() > self.at {
                break;
            }
            region.check_crc(&self.crc).map_err(|message| self.source.error(message))?;
            self.crc.reset();
            self.checked = rest;
            bytes = &bytes[to..];
            at += to as u64;
        }
        Ok(())
    }
}

/// The compressed bytes up to `end`, for the inflater.
struct Compressed<'p, 'a> {
    pass: &'p mut Pass<'a>,
    end: u64,
}

impl Read for Compressed<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let piece = (buffer.len() as u64).min(self.end.saturating_sub(self.pass.at)) as usize;
        let piece = &mut buffer[..piece];
        self.pass.source.read_exact_at(self.pass.at, piece).map_err(io::Error::other)?;
        self.pass.pass_by(piece).map_err(io::Error::other)?;
        Ok(piece.len())
    }
}
