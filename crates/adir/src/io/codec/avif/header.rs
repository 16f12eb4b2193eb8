//! The sequence header of an AV1 picture: what has to be known before memory is taken for pixels.

use super::boxes::Fault;

/// Kinds of units of AV1 data.
const SEQUENCE_HEADER: u8 = 1;
const FRAME_HEADER: u8 = 3;
const FRAME: u8 = 6;
/// Most layers of a picture.
const LAYERS: usize = 4;

/// Code points of ITU-T H.273.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cicp {
    pub primaries: u16,
    pub transfer: u16,
    pub matrix: u16,
    pub full_range: bool,
}

/// A sequence header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub width: u32,
    pub height: u32,
    /// Bits of a sample: 8, 10 or 12.
    pub depth: u8,
    pub grey: bool,
    /// Whether chroma has half the columns, and half the rows.
    pub halved: [bool; 2],
    pub cicp: Cicp,
}

impl Header {
    /// The first sequence header of a picture, which may have no more frames than it can have layers.
    pub fn of(data: &[u8]) -> Result<Self, Fault> {
        let (mut header, mut frames) = (None, 0);
        let mut rest = data;
        while let Some((kind, content, after)) = next(rest) {
            rest = after;
            match kind {
                SEQUENCE_HEADER if header.is_none() => {
                    header = Some(Bits { bytes: content, at: 0 }.header().ok_or("unexpected end of file in a header")?);
                }
                FRAME_HEADER | FRAME => frames += 1,
                _ => {}
            }
        }
        if frames > LAYERS {
            return Err(Fault::unsupported("a picture of many frames"));
        }
        Ok(header.ok_or("unexpected end of file: no sequence header")?)
    }
}

/// Kind and content of a unit of AV1 data, and what follows it.
fn next(data: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (head, rest) = data.split_first()?;
    let rest = if head & 4 == 0 { rest } else { rest.get(1..)? };
    let (size, rest) = if head & 2 == 0 { (rest.len(), rest) } else { leb128(rest)? };
    let (content, rest) = rest.split_at_checked(size)?;
    Some((head >> 3 & 15, content, rest))
}

/// A number of seven bits a byte, and what follows it.
fn leb128(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut number = 0;
    for (index, byte) in bytes.iter().enumerate().take(8) {
        number |= u64::from(byte & 127) << (7 * index);
        if byte & 128 == 0 {
            return Some((usize::try_from(number).ok()?, &bytes[index + 1..]));
        }
    }
    None
}

struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    /// A number of so many bits, at most 32.
    fn get(&mut self, bits: u32) -> Option<u32> {
        (0..bits).try_fold(0_u32, |number, _| {
            let byte = self.bytes.get(self.at / 8)?;
            let bit = byte >> (7 - self.at % 8) & 1;
            self.at += 1;
            Some(number << 1 | u32::from(bit))
        })
    }

    fn flag(&mut self) -> Option<bool> {
        self.get(1).map(|bit| bit == 1)
    }

    /// Section 5.5 of the AV1 specification.
    fn header(mut self) -> Option<Header> {
        let profile = self.get(3)?;
        self.flag()?;
        let reduced = self.flag()?;
        if reduced {
            self.get(5)?;
        } else {
            self.operating_points()?;
        }
        let [columns, rows] = [self.get(4)? + 1, self.get(4)? + 1];
        let [width, height] = [self.get(columns)? + 1, self.get(rows)? + 1];
        if !reduced && self.flag()? {
            self.get(7)?;
        }
        self.get(3)?;
        if !reduced {
            self.get(4)?;
            let order = self.flag()?;
            if order {
                self.get(2)?;
            }
            let screen = self.flag()? || self.flag()?;
            if screen && !self.flag()? {
                self.flag()?;
            }
            if order {
                self.get(3)?;
            }
        }
        self.get(3)?;
        self.colour(profile, [width, height])
    }

    fn operating_points(&mut self) -> Option<()> {
        let mut delay = None;
        if self.flag()? {
            self.get(32)?;
            self.get(32)?;
            if self.flag()? {
                // An exponential Golomb code.
                let mut zeros = 0;
                while !self.flag()? {
                    zeros += 1;
                }
                if zeros < 32 {
                    self.get(zeros)?;
                }
            }
            if self.flag()? {
                delay = Some(self.get(5)? + 1);
                self.get(32)?;
                self.get(10)?;
            }
        }
        let initial = self.flag()?;
        for _ in 0..=self.get(5)? {
            self.get(12)?;
            if self.get(5)? > 7 {
                self.flag()?;
            }
            if let Some(delay) = delay
                && self.flag()?
            {
                self.get(delay)?;
                self.get(delay)?;
                self.flag()?;
            }
            if initial && self.flag()? {
                self.get(4)?;
            }
        }
        Some(())
    }

    fn colour(&mut self, profile: u32, [width, height]: [u32; 2]) -> Option<Header> {
        let high = self.flag()?;
        let depth = match high {
            false => 8,
            true if profile == 2 && self.flag()? => 12,
            true => 10,
        };
        let grey = profile != 1 && self.flag()?;
        let [primaries, transfer, matrix] =
            if self.flag()? { [self.get(8)?, self.get(8)?, self.get(8)?] } else { [2, 2, 2] };
        let srgb = !grey && [primaries, transfer, matrix] == [1, 13, 0];
        let full_range = srgb || self.flag()?;
        let halved = match profile {
            _ if srgb => [false, false],
            _ if grey => [true, true],
            0 => [true, true],
            1 => [false, false],
            _ if depth == 12 => {
                let columns = self.flag()?;
                [columns, columns && self.flag()?]
            }
            _ => [true, false],
        };
        let [primaries, transfer, matrix] = [primaries, transfer, matrix].map(|code| code as u16);
        let cicp = Cicp { primaries, transfer, matrix, full_range };
        Some(Header { width, height, depth, grey, halved, cicp })
    }
}
