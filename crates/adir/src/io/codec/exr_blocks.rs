//! Blocks of an OpenEXR file, taken out of their compression. What comes out has the size that the header asks for, and
//! nothing larger is made on the way.

use std::io::Read;

use flate2::read::ZlibDecoder;

use super::exr_piz;

/// How the blocks of a file are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    None,
    Rle,
    /// A line a block.
    Zips,
    Zip,
    Piz,
    Pxr24,
}

impl Compression {
    /// Lines of a block.
    pub fn lines(self) -> usize {
        match self {
            Self::None | Self::Rle | Self::Zips => 1,
            Self::Zip | Self::Pxr24 => 16,
            Self::Piz => 32,
        }
    }
}

/// The type of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Whole,
    Half,
    Float,
}

impl Kind {
    /// Bytes of a sample.
    pub fn bytes(self) -> usize {
        if self == Self::Half { 2 } else { 4 }
    }
}

/// The samples of a block of `lines` lines of `width` pixels, whose channels are of `kinds`: line by line, and in each
/// channel by channel, little-endian. `None` for damaged data.
pub fn decompress(
    data: &[u8],
    compression: Compression,
    kinds: &[Kind],
    [width, lines]: [usize; 2],
) -> Option<Vec<u8>> {
    let size = width * lines * kinds.iter().map(|kind| kind.bytes()).sum::<usize>();
    // What does not shrink is stored as it is.
    if data.len() == size {
        return Some(data.to_vec());
    }
    match compression {
        Compression::None => None,
        Compression::Rle => Some(undo_differences(&unpack(data, size)?)),
        Compression::Zips | Compression::Zip => Some(undo_differences(&inflate(data, size)?)),
        Compression::Piz => exr_piz::decompress(data, kinds, [width, lines]),
        Compression::Pxr24 => pxr24(data, kinds, [width, lines], size),
    }
}

fn inflate(data: &[u8], size: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(size);
    ZlibDecoder::new(data).take(size as u64 + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() == size).then_some(bytes)
}

/// Runs: a count of repetitions less one, or a negative count of bytes as they are.
fn unpack(data: &[u8], size: usize) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(size);
    let mut data = data;
    while let [count, rest @ ..] = data {
        let count = count.cast_signed();
        let length = usize::from(count.unsigned_abs());
        if count < 0 {
            bytes.extend_from_slice(rest.get(..length)?);
            data = rest.get(length..)?;
        } else {
            bytes.resize(bytes.len() + length + 1, *rest.first()?);
            data = rest.get(1..)?;
        }
        if bytes.len() > size {
            return None;
        }
    }
    (bytes.len() == size).then_some(bytes)
}

/// Sums up differences, and brings together the bytes at even and odd places.
fn undo_differences(bytes: &[u8]) -> Vec<u8> {
    let mut last = 128_u8;
    let sums: Vec<u8> = bytes
        .iter()
        .map(|byte| {
            last = last.wrapping_add(*byte).wrapping_sub(128);
            last
        })
        .collect();
    let (even, odd) = sums.split_at(sums.len().div_ceil(2));
    let mut merged = vec![0; sums.len()];
    merged.iter_mut().step_by(2).zip(even).for_each(|(to, from)| *to = *from);
    merged.iter_mut().skip(1).step_by(2).zip(odd).for_each(|(to, from)| *to = *from);
    merged
}

/// The inverse of [`undo_differences`].
pub fn differences(bytes: &[u8]) -> Vec<u8> {
    let parted = bytes.iter().step_by(2).chain(bytes.iter().skip(1).step_by(2));
    let mut last = 128_u8;
    let difference = |byte: &u8| {
        let difference = byte.wrapping_sub(last).wrapping_add(128);
        last = *byte;
        difference
    };
    parted.map(difference).collect()
}

/// Differences along the lines, of floats the upper three bytes, each byte of all samples of a line together.
fn pxr24(data: &[u8], kinds: &[Kind], [width, lines]: [usize; 2], size: usize) -> Option<Vec<u8>> {
    let planes = |kind: &Kind| if *kind == Kind::Float { 3 } else { kind.bytes() };
    let inflated = inflate(data, width * lines * kinds.iter().map(planes).sum::<usize>())?;
    let mut bytes = Vec::with_capacity(size);
    let mut rest = inflated.as_slice();
    for kind in (0..lines).flat_map(|_| kinds) {
        let planes = planes(kind);
        let (line, after) = rest.split_at_checked(width * planes)?;
        rest = after;
        let mut value = 0_u32;
        for x in 0..width {
            let step = (0..planes).fold(0, |step, plane| step << 8 | u32::from(line[plane * width + x]));
            value = value.wrapping_add(if *kind == Kind::Float { step << 8 } else { step });
            bytes.extend_from_slice(&value.to_le_bytes()[..kind.bytes()]);
        }
    }
    Some(bytes)
}
