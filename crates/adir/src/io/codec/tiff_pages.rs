//! The directories of a TIFF file, read before its decoder is asked: which of them are pages, what they hold, and a view
//! of the file in which one of them is the first.

use std::io::{Read, Result, Seek, SeekFrom};

/// Most directories and most entries of one that are looked at.
const MOST_DIRECTORIES: usize = 1 << 16;
const MOST_ENTRIES: u64 = 4096;
/// Most values of an entry that are read.
const MOST_VALUES: u64 = 64;

/// What a directory says, as far as it decides how to read it.
#[derive(Debug, Default, Clone)]
pub struct Page {
    pub offset: u64,
    /// NewSubfileType: 1 is a smaller version of another image, 4 a mask.
    pub subfile: u64,
    pub photometric: Option<u64>,
    /// Where that number is stored.
    pub photometric_at: u64,
    pub bits: Vec<u64>,
    pub samples: u64,
    pub extra: Vec<u64>,
    pub compression: u64,
    /// 1 unsigned, 2 signed, 3 float.
    pub format: u64,
    pub children: Vec<u64>,
    /// Whether it is of a digital negative.
    pub dng: bool,
    /// Kinds of metadata that are directories or blocks of their own.
    pub exif: bool,
    pub iptc: bool,
}

impl Page {
    /// A whole image, and neither a smaller version of one nor a mask.
    pub fn is_whole(&self) -> bool {
        self.subfile & 5 == 0
    }

    /// Whether its samples are those of a sensor.
    pub fn is_raw(&self) -> bool {
        self.dng || matches!(self.photometric, Some(32803 | 34892))
    }
}

/// A file's byte order and whether its offsets have 8 bytes.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    pub little: bool,
    pub big: bool,
}

impl Layout {
    /// From the first bytes of a file.
    pub fn of(head: [u8; 4]) -> Option<Self> {
        matches!(&head, [b'I', b'I', 42 | 43, 0] | [b'M', b'M', 0, 42 | 43])
            .then(|| Self { little: head[0] == b'I', big: head.contains(&43) })
    }

    /// A number of any length.
    pub fn number(self, bytes: &[u8]) -> u64 {
        let add = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        if self.little { bytes.iter().rev().fold(0, add) } else { bytes.iter().fold(0, add) }
    }

    /// A number as it is stored.
    pub fn bytes(self, value: u64, size: usize) -> Vec<u8> {
        if self.little { value.to_le_bytes()[..size].to_vec() } else { value.to_be_bytes()[8 - size..].to_vec() }
    }

    fn offset_size(self) -> usize {
        if self.big { 8 } else { 4 }
    }
}

/// The directories of a file.
pub struct Directories {
    pub layout: Layout,
    pub chain: Vec<Page>,
    /// Those below each.
    pub below: Vec<Page>,
    /// Whether the chain goes on to what cannot be read.
    pub cut: bool,
}

/// The directories of the chain and those below each. What cannot be read ends the list.
pub fn directories(reader: &mut (impl Read + Seek)) -> Result<Directories> {
    let mut head = [0; 4];
    reader.seek(SeekFrom::Start(0))?;
    reader.read_exact(&mut head)?;
    let layout = Layout::of(head).ok_or(std::io::ErrorKind::InvalidData)?;
    let mut next = number_at(reader, layout, if layout.big { 8 } else { 4 }, layout.offset_size())?;
    let (mut chain, mut below, mut cut) = (Vec::<Page>::new(), Vec::new(), false);
    while next != 0 && chain.len() < MOST_DIRECTORIES {
        let Ok((page, after)) = directory(reader, layout, next) else {
            cut = true;
            break;
        };
        if below.len() < MOST_DIRECTORIES {
            below.extend(page.children.iter().filter_map(|child| directory(reader, layout, *child).ok()).map(|d| d.0));
        }
        // A directory behind all so far is new; one before may close a circle.
        let seen = after <= next && chain.iter().any(|page| page.offset == after) || after == next;
        chain.push(page);
        next = if seen { 0 } else { after };
    }
    Ok(Directories { layout, chain, below, cut })
}

/// The number of `size` bytes at `at`.
pub fn number_at(reader: &mut (impl Read + Seek), layout: Layout, at: u64, size: usize) -> Result<u64> {
    let mut bytes = [0; 8];
    reader.seek(SeekFrom::Start(at))?;
    reader.read_exact(&mut bytes[..size])?;
    Ok(layout.number(&bytes[..size]))
}

/// A directory, and where the next is.
fn directory(reader: &mut (impl Read + Seek), layout: Layout, offset: u64) -> Result<(Page, u64)> {
    let (count_size, entry_size) = if layout.big { (8, 20) } else { (2, 12) };
    let count = number_at(reader, layout, offset, count_size)?.min(MOST_ENTRIES);
    let mut entries = vec![0; count as usize * entry_size];
    reader.read_exact(&mut entries)?;
    let next = number_at(reader, layout, offset + (count_size + entries.len()) as u64, layout.offset_size())?;
    let mut page = Page { offset, samples: 1, compression: 1, format: 1, bits: vec![1], ..Page::default() };
    for (i, entry) in entries.chunks_exact(entry_size).enumerate() {
        let tag = layout.number(&entry[..2]);
        let field = offset + (count_size + i * entry_size + entry_size - layout.offset_size()) as u64;
        let mut values = || values(reader, layout, entry, field);
        let first = |values: Vec<u64>| values.first().copied();
        match tag {
            254 => page.subfile = values().ok().and_then(first).unwrap_or(0),
            258 => page.bits = values()?,
            259 => page.compression = values().ok().and_then(first).unwrap_or(1),
            262 => (page.photometric, page.photometric_at) = (values().ok().and_then(first), field),
            277 => page.samples = values().ok().and_then(first).unwrap_or(1),
            330 => page.children = values().unwrap_or_default(),
            338 => page.extra = values()?,
            339 => page.format = values().ok().and_then(first).unwrap_or(1),
            33723 | 34377 => page.iptc = true,
            34665 | 34853 => page.exif = true,
            50706 => page.dng = true,
            _ => {}
        }
    }
    Ok((page, next))
}

/// The first values of an entry of whole numbers, whose value field lies at `field`.
fn values(reader: &mut (impl Read + Seek), layout: Layout, entry: &[u8], field: u64) -> Result<Vec<u64>> {
    let size: usize = match layout.number(&entry[2..4]) {
        1 | 2 | 6 | 7 => 1,
        3 | 8 => 2,
        4 | 9 | 13 => 4,
        16..=18 => 8,
        _ => return Ok(Vec::new()),
    };
    let count = layout.number(&entry[4..4 + layout.offset_size()]).min(MOST_VALUES) as usize;
    let inside = layout.number(&entry[4..4 + layout.offset_size()]) <= (layout.offset_size() / size) as u64;
    let mut bytes = vec![0; count * size];
    let at = if inside { field } else { number_at(reader, layout, field, layout.offset_size())? };
    reader.seek(SeekFrom::Start(at))?;
    reader.read_exact(&mut bytes)?;
    Ok(bytes.chunks_exact(size).map(|value| layout.number(value)).collect())
}

/// A file with some bytes replaced.
pub struct Patched<R> {
    inner: R,
    at: u64,
    patches: Vec<(u64, Vec<u8>)>,
}

impl<R: Read + Seek> Patched<R> {
    /// The file whose first directory is `page`.
    pub fn starting_with(mut inner: R, layout: Layout, page: &Page) -> Result<Self> {
        inner.seek(SeekFrom::Start(0))?;
        let start = (if layout.big { 8 } else { 4 }, layout.bytes(page.offset, layout.offset_size()));
        Ok(Self { inner, at: 0, patches: vec![start] })
    }

    /// The same, its indices into a palette called grey.
    pub fn call_grey(mut self, layout: Layout, page: &Page) -> Self {
        self.patches.push((page.photometric_at, layout.bytes(1, 2)));
        self
    }
}

impl<R: Read> Read for Patched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let count = self.inner.read(buffer)?;
        for (start, bytes) in &self.patches {
            for (i, byte) in bytes.iter().enumerate() {
                let at = (start + i as u64).checked_sub(self.at).and_then(|at| usize::try_from(at).ok());
                if let Some(target) = at.filter(|at| *at < count).and_then(|at| buffer.get_mut(at)) {
                    *target = *byte;
                }
            }
        }
        self.at += count as u64;
        Ok(count)
    }
}

impl<R: Seek> Seek for Patched<R> {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        self.at = self.inner.seek(to)?;
        Ok(self.at)
    }
}
