//! An index that stays in its file: opening it reads the header, a search streams the vectors, and of the entries only those
//! are read that it finds.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

use super::index::{Entry, Precision};
use super::layout::{BLOCK, ENTRY_BYTES, Layout, MAX_ENTRY, checksum, read_entry};
use super::rounded::Rounded;
use crate::io::folder::is_plain;
use crate::{Error, Result};

/// Bytes of entries read at a time, where all are.
const CHUNK: usize = 4 << 20;

/// An open file.
#[derive(Debug)]
pub(super) struct Stored {
    path: PathBuf,
    file: File,
    layout: Layout,
    /// Bytes of all entries.
    entries: u64,
    /// Blocks whose checksum was right.
    checked: Vec<AtomicBool>,
    /// Blocks of whose rounded copies it was.
    rounded_checked: Vec<AtomicBool>,
}

/// A part of the file in memory: some vectors, and one over the length of each.
#[derive(Debug, Default)]
pub(super) struct Block {
    words: Vec<u64>,
    rows: usize,
}

/// Vectors of a block, row after row.
pub(super) enum Rows<'a> {
    F16(&'a [f16]),
    F32(&'a [f32]),
}

impl Stored {
    /// Compares what the header says with the size of the file.
    ///
    /// # Errors
    /// [`Error::Input`] if they disagree.
    pub fn new(path: &Path, file: File, length: u64, layout: Layout) -> Result<Self> {
        let entries = length
            .checked_sub(layout.entries_at())
            .filter(|&bytes| (ENTRY_BYTES * layout.images as u64..=MAX_ENTRY * layout.images as u64).contains(&bytes));
        let Some(entries) = entries else {
            return Err(Error::input(
                path,
                format!(
                    "declares {} images of {} numbers, which do not make its {length} bytes: it is cut off or damaged",
                    layout.images, layout.dimension
                ),
            ));
        };
        let unchecked = |blocks: usize| std::iter::repeat_with(AtomicBool::default).take(blocks).collect();
        let checked = unchecked(layout.blocks());
        let rounded_checked = unchecked(if layout.rounded { layout.blocks() } else { 0 });
        let stored = Self { path: path.to_owned(), file, layout, entries, checked, rounded_checked };
        match layout.images {
            0 => Ok(stored),
            images if stored.ends(images - 1, 1)? == [entries] => Ok(stored),
            _ => Err(stored.damaged("the last entry does not end with the file")),
        }
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Reads a block. Its checksum is compared when it is read first.
    ///
    /// # Errors
    /// [`Error::Input`] if it cannot be read or is damaged.
    pub fn block(&self, number: usize, block: &mut Block) -> Result<()> {
        let layout = &self.layout;
        block.rows = layout.rows_of(number);
        let words = layout.words(block.rows);
        self.words(&mut block.words, words, layout.block_at(number), number, &self.checked)?;
        block.make_native(layout.precision);
        Ok(())
    }

    /// Reads the rounded copies of a block, of a file that has them, likewise.
    ///
    /// # Errors
    /// As [`Stored::block`].
    pub fn rounded(&self, number: usize, block: &mut Rounded) -> Result<()> {
        let layout = &self.layout;
        block.rows = layout.rows_of(number);
        let words = layout.rounded_words(block.rows);
        self.words(&mut block.words, words, layout.rounded_at(number), number, &self.rounded_checked)
    }

    /// Reads `count` words of a block and the checksum behind them.
    fn words(&self, words: &mut Vec<u64>, count: usize, at: u64, block: usize, checked: &[AtomicBool]) -> Result<()> {
        words.resize(count + 1, 0);
        self.read(bytemuck::cast_slice_mut(words), at)?;
        let stored = words.pop().map(u64::from_le);
        if !checked[block].load(Ordering::Relaxed) {
            if stored != Some(checksum(block, words)) {
                let first = block * BLOCK;
                return Err(self.damaged(&format!("the checksum of the images from number {first} on is wrong")));
            }
            checked[block].store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The vector of an image, widened.
    ///
    /// # Errors
    /// [`Error::Input`] if it cannot be read or is damaged.
    pub fn row(&self, id: usize) -> Result<Vec<f32>> {
        if !self.checked[id / BLOCK].load(Ordering::Relaxed) {
            self.block(id / BLOCK, &mut Block::default())?;
        }
        let mut bytes = vec![0; self.layout.row()];
        self.read(&mut bytes, self.layout.row_at(id))?;
        Ok(match self.layout.precision {
            Precision::F16 => bytes.as_chunks::<2>().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect(),
            Precision::F32 => bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
        })
    }

    /// An entry.
    ///
    /// # Errors
    /// [`Error::Input`] if it cannot be read, is damaged, or has a path that leaves the archive's folder.
    pub fn entry(&self, id: usize) -> Result<Entry> {
        let (start, end) = match self.ends(id.saturating_sub(1), id.min(1) + 1)?[..] {
            [end] => (0, end),
            [start, end] => (start, end),
            _ => return Err(self.damaged_entry(id)),
        };
        let length = end.checked_sub(start).filter(|length| end <= self.entries && *length <= MAX_ENTRY);
        let mut bytes = vec![0; length.ok_or_else(|| self.damaged_entry(id))? as usize];
        self.read(&mut bytes, self.layout.entries_at() + start)?;
        self.parsed(&bytes, id)
    }

    /// All entries.
    ///
    /// # Errors
    /// As [`Stored::entry`].
    pub fn entries(&self) -> Result<Vec<Entry>> {
        let mut all = Vec::new();
        let (mut at, mut bytes) = (0, Vec::new());
        for first in (0..self.layout.images).step_by(CHUNK / 64) {
            let ends = self.ends(first, (CHUNK / 64).min(self.layout.images - first))?;
            let last = *ends.last().unwrap_or(&at);
            let are_ordered = ends.is_sorted() && at <= ends[0] && last <= self.entries;
            if !are_ordered || last - at > MAX_ENTRY * ends.len() as u64 {
                return Err(self.damaged_entry(first));
            }
            bytes.resize((last - at) as usize, 0);
            self.read(&mut bytes, self.layout.entries_at() + at)?;
            let mut left = &bytes[..];
            for (id, end) in (first..).zip(ends) {
                let (entry, rest) = left.split_at((end - at) as usize);
                all.push(self.parsed(entry, id)?);
                (left, at) = (rest, end);
            }
        }
        Ok(all)
    }

    fn parsed(&self, bytes: &[u8], id: usize) -> Result<Entry> {
        let entry = read_entry(bytes).ok_or_else(|| self.damaged_entry(id))?;
        match is_plain(&entry.path) {
            true => Ok(entry),
            false => Err(self.damaged(&format!("{:?} is not a path inside the folder", entry.path))),
        }
    }

    /// Where `count` entries end, from the one of the image `first` on.
    fn ends(&self, first: usize, count: usize) -> Result<Vec<u64>> {
        let mut ends = vec![0; count];
        self.read(bytemuck::cast_slice_mut(&mut ends), self.layout.ends_at() + 8 * first as u64)?;
        ends.iter_mut().for_each(|end| *end = u64::from_le(*end));
        Ok(ends)
    }

    fn read(&self, bytes: &mut [u8], at: u64) -> Result<()> {
        read_exact_at(&self.file, bytes, at).map_err(|e| Error::input(&self.path, format!("cannot be read: {e}")))
    }

    fn damaged_entry(&self, id: usize) -> Error {
        self.damaged(&format!("the entry of image {id} is wrong"))
    }

    fn damaged(&self, message: &str) -> Error {
        Error::input(&self.path, format!("is damaged: {message}; make it anew with `adir index build`"))
    }
}

impl Block {
    /// One over the length of each vector.
    pub fn inverse_norms(&self) -> &[f32] {
        &bytemuck::cast_slice(&self.words)[..self.rows]
    }

    /// The vectors.
    pub fn vectors(&self, layout: &Layout) -> Rows<'_> {
        let numbers = self.rows * layout.dimension;
        match layout.precision {
            Precision::F16 => {
                let halves: &[u16] = bytemuck::cast_slice(&self.words);
                Rows::F16(halves[2 * self.rows..][..numbers].reinterpret_cast())
            }
            Precision::F32 => Rows::F32(&bytemuck::cast_slice(&self.words)[self.rows..][..numbers]),
        }
    }

    /// The bytes of each number in the order of this machine.
    fn make_native(&mut self, precision: Precision) {
        if cfg!(target_endian = "little") {
            return;
        }
        let (norms, vectors) = bytemuck::cast_slice_mut::<u64, u32>(&mut self.words).split_at_mut(self.rows);
        norms.iter_mut().for_each(|word| *word = u32::from_le(*word));
        match precision {
            Precision::F16 => {
                let halves: &mut [u16] = bytemuck::cast_slice_mut(vectors);
                halves.iter_mut().for_each(|half| *half = u16::from_le(*half));
            }
            Precision::F32 => vectors.iter_mut().for_each(|word| *word = u32::from_le(*word)),
        }
    }
}

impl Rows<'_> {
    /// The vector of that number, widened.
    pub fn row(&self, number: usize, dimension: usize) -> Vec<f32> {
        let range = number * dimension..(number + 1) * dimension;
        match self {
            Self::F16(all) => all[range].to_f32_vec(),
            Self::F32(all) => all[range].to_vec(),
        }
    }
}

/// Reads all of `bytes` from a place in a file, whatever others read from it at the time.
fn read_exact_at(file: &File, bytes: &mut [u8], at: u64) -> io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::read_exact_at(file, bytes, at);
    #[cfg(windows)]
    {
        let mut done = 0;
        while done < bytes.len() {
            match std::os::windows::fs::FileExt::seek_read(file, &mut bytes[done..], at + done as u64)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => done += read,
            }
        }
        Ok(())
    }
}
