//! PIZ, a compression of OpenEXR: 16-bit values by a table of those that occur, a wavelet transform, and a Huffman code.

use super::exr_blocks::Kind;

/// Values of 16 bits.
const VALUES: usize = 1 << 16;
/// Longest code, and most symbols of one: all values, and the mark of a run.
const LONGEST: usize = 58;
const SYMBOLS: usize = VALUES + 1;
/// Beyond this, differences in the transform wrap around.
const WRAPS_FROM: u16 = 1 << 14;

/// As [`decompress`](super::exr_blocks::decompress).
pub fn decompress(data: &[u8], kinds: &[Kind], [width, lines]: [usize; 2]) -> Option<Vec<u8>> {
    let (bounds, rest) = data.split_first_chunk::<4>()?;
    let [first, last] =
        [[bounds[0], bounds[1]], [bounds[2], bounds[3]]].map(|pair| usize::from(u16::from_le_bytes(pair)));
    if last >= VALUES / 8 {
        return None;
    }
    let flags = if first <= last { rest.get(..=last - first)? } else { &[] };
    let rest = rest.get(flags.len()..)?;
    // 0 always occurs.
    let occurs = |value: &u16| {
        let flag = usize::from(*value) / 8;
        *value == 0 || flag >= first && flags.get(flag - first).is_some_and(|flag| flag >> (value % 8) & 1 == 1)
    };
    let values: Vec<u16> = (0..=u16::MAX).filter(occurs).collect();
    let most = u16::try_from(values.len() - 1).ok()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let coded = rest.get(..usize::try_from(i32::from_le_bytes(*length)).ok()?)?;
    let planes = |kind: &Kind| kind.bytes() / 2;
    let count = width * lines * kinds.iter().map(planes).sum::<usize>();
    let mut words = decode(coded, count)?;
    let mut start = 0;
    for kind in kinds {
        let planes = planes(kind);
        let end = start + width * lines * planes;
        for plane in 0..planes {
            undo_wavelet(&mut words[start + plane..end], [width, lines], planes, most);
        }
        start = end;
    }
    for word in &mut words {
        *word = *values.get(usize::from(*word))?;
    }
    // From channel after channel to line after line.
    let mut bytes = Vec::with_capacity(2 * count);
    for line in 0..lines {
        let mut start = 0;
        for kind in kinds {
            let row = width * planes(kind);
            let words = &words[start + line * row..start + (line + 1) * row];
            bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
            start += row * lines;
        }
    }
    Some(bytes)
}

/// Bits, the highest of each byte first.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
}

impl Bits<'_> {
    fn one(&mut self) -> Option<u64> {
        let byte = self.bytes.get(self.at / 8).filter(|_| self.at < self.end)?;
        let bit = byte >> (7 - self.at % 8) & 1;
        self.at += 1;
        Some(bit.into())
    }

    fn number(&mut self, bits: usize) -> Option<usize> {
        (0..bits).try_fold(0, |number, _| Some(number << 1 | self.one()? as usize))
    }
}

/// The codes of each length, which are numbers in a row: the first, where its symbol stands in `symbols`, and how many.
struct Codes {
    lengths: [(u64, usize, usize); LONGEST + 1],
    symbols: Vec<u32>,
}

impl Codes {
    /// From the length of each symbol's code; 0 where it has none.
    fn new(lengths: &[u8]) -> Self {
        let mut of_length = [(0, 0, 0); LONGEST + 1];
        for length in lengths.iter().filter(|length| **length > 0) {
            of_length[usize::from(*length)].2 += 1;
        }
        // Longer codes are the smaller numbers.
        let mut first = 0_u64;
        for (code, _, count) in of_length.iter_mut().skip(1).rev() {
            *code = first;
            first = (first + *count as u64) >> 1;
        }
        let mut start = 0;
        for (_, place, count) in &mut of_length {
            *place = start;
            start += *count;
        }
        let mut places = of_length.map(|(_, place, _)| place);
        let mut symbols = vec![0; start];
        for (symbol, length) in (0..).zip(lengths).filter(|(_, length)| **length > 0) {
            let place = &mut places[usize::from(*length)];
            symbols[*place] = symbol;
            *place += 1;
        }
        Self { lengths: of_length, symbols }
    }

    fn next(&self, bits: &mut Bits<'_>) -> Option<u32> {
        let mut code = 0;
        for (first, place, count) in &self.lengths[1..] {
            code = code << 1 | bits.one()?;
            if let Some(k) = code.checked_sub(*first).filter(|k| *k < *count as u64) {
                return self.symbols.get(place + k as usize).copied();
            }
        }
        None
    }
}

/// So many values of a Huffman code.
fn decode(data: &[u8], count: usize) -> Option<Vec<u16>> {
    let (head, rest) = data.split_first_chunk::<20>()?;
    let number = |k: usize| u32::from_le_bytes([head[k], head[k + 1], head[k + 2], head[k + 3]]) as usize;
    let (first, last, bits) = (number(0), number(4), number(12));
    if first > last || last >= SYMBOLS {
        return None;
    }
    let mut table = Bits { bytes: rest, at: 0, end: rest.len() * 8 };
    let mut lengths = vec![0_u8; last + 1];
    let mut symbol = first;
    while symbol <= last {
        // Lengths beyond the longest stand for symbols without a code: a few, or many.
        let length = table.number(6)?;
        match length {
            ..=LONGEST => {
                lengths[symbol] = length as u8;
                symbol += 1;
            }
            63 => symbol += table.number(8)? + 6,
            _ => symbol += length - 57,
        }
    }
    if symbol > last + 1 {
        return None;
    }
    let codes = Codes::new(&lengths);
    let rest = rest.get(table.at.div_ceil(8)..)?;
    let mut bits = Bits { bytes: rest, at: 0, end: bits.min(rest.len() * 8) };
    let mut values = Vec::with_capacity(count);
    while values.len() < count {
        let symbol = codes.next(&mut bits)?;
        if symbol as usize == last {
            // The value before, again.
            let (times, value) = (bits.number(8)?, *values.last()?);
            values.resize(values.len() + times, value);
        } else {
            values.push(u16::try_from(symbol).ok()?);
        }
    }
    (values.len() == count).then_some(values)
}

/// A mean and a difference as the two values that they are of.
fn pair(mean: u16, difference: u16, wraps: bool) -> (u16, u16) {
    if wraps {
        let second = mean.wrapping_sub(difference >> 1);
        (difference.wrapping_add(second).wrapping_sub(1 << 15), second)
    } else {
        let (mean, difference) = (i32::from(mean.cast_signed()), i32::from(difference.cast_signed()));
        let first = mean + (difference & 1) + (difference >> 1);
        (first as u16, (first - difference) as u16)
    }
}

/// Undoes the transform of an image whose values are `stride` apart, the largest scale first.
fn undo_wavelet(values: &mut [u16], [width, height]: [usize; 2], stride: usize, most: u16) {
    let wraps = most >= WRAPS_FROM;
    let mut step = 1;
    while step <= width.min(height) {
        step *= 2;
    }
    step /= 2;
    while step >= 2 {
        let half = step / 2;
        let at = |x: usize, y: usize| (y * width + x) * stride;
        let mut join = |mean: usize, difference: usize| {
            (values[mean], values[difference]) = pair(values[mean], values[difference], wraps);
        };
        // Whole squares, then the first column and row that none covers, if half a square fits there.
        let (columns, rows) = (width / step * step, height / step * step);
        for y in (0..rows).step_by(step) {
            for x in (0..columns).step_by(step) {
                join(at(x, y), at(x, y + half));
                join(at(x + half, y), at(x + half, y + half));
                join(at(x, y), at(x + half, y));
                join(at(x, y + half), at(x + half, y + half));
            }
            if width & half != 0 {
                join(at(columns, y), at(columns, y + half));
            }
        }
        if height & half != 0 {
            for x in (0..columns).step_by(step) {
                join(at(x, rows), at(x + half, rows));
            }
        }
        step = half;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mean, rounded down, and the difference that a writer stores.
    #[test]
    fn pairs_come_back_from_mean_and_difference() {
        let numbers = [0_u16, 1, 2, 999, 8191, 16383, 16384, 32767, 32768, 65534, 65535];
        for (a, b) in numbers.iter().flat_map(|a| numbers.map(|b| (*a, b))) {
            if a < WRAPS_FROM && b < WRAPS_FROM {
                let (mean, difference) = ((a + b) / 2, a.wrapping_sub(b));
                assert_eq!(pair(mean, difference, false), (a, b), "{a} {b}");
            }
            let (first, second) = (u32::from(a ^ 0x8000), u32::from(b));
            let difference = (first as u16).wrapping_sub(b);
            let mean = ((first + second) / 2) as u16;
            let mean = if first < second { mean ^ 0x8000 } else { mean };
            assert_eq!(pair(mean, difference, true), (a, b), "{a} {b}");
        }
    }
}
