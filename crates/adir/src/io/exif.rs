//! The few entries of an EXIF block that a restoration changes: thumbnail, resolution, size. All in place, so that
//! nothing else moves; what does not fit its own sizes is left as it is.

use super::metadata::Resolution;

const WIDTH: u16 = 0x100;
const HEIGHT: u16 = 0x101;
const X_RESOLUTION: u16 = 0x11a;
const Y_RESOLUTION: u16 = 0x11b;
const RESOLUTION_UNIT: u16 = 0x128;
const THUMBNAIL: u16 = 0x201;
const THUMBNAIL_BYTES: u16 = 0x202;
const EXIF_DIRECTORY: u16 = 0x8769;
const PIXEL_X: u16 = 0xa002;
const PIXEL_Y: u16 = 0xa003;
/// Most entries of a directory that are looked at.
const MOST_ENTRIES: usize = 1000;

/// A block and its byte order.
struct Block<'a> {
    bytes: &'a mut [u8],
    little: bool,
}

/// An entry of a directory: its type, and where its value field lies.
#[derive(Clone, Copy)]
struct Entry {
    kind: u16,
    field: usize,
}

impl<'a> Block<'a> {
    fn new(bytes: &'a mut [u8]) -> Option<Self> {
        let little = match bytes.get(..4)? {
            b"II\x2a\0" => true,
            b"MM\0\x2a" => false,
            _ => return None,
        };
        Some(Self { bytes, little })
    }

    fn u16(&self, at: usize) -> Option<u16> {
        let bytes = self.bytes.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(if self.little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    }

    fn u32(&self, at: usize) -> Option<u32> {
        let bytes = self.bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(if self.little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    }

    fn set_u16(&mut self, at: usize, value: u16) {
        if let Some(bytes) = self.bytes.get_mut(at..at.saturating_add(2)) {
            bytes.copy_from_slice(&if self.little { value.to_le_bytes() } else { value.to_be_bytes() });
        }
    }

    fn set_u32(&mut self, at: usize, value: u32) {
        if let Some(bytes) = self.bytes.get_mut(at..at.saturating_add(4)) {
            bytes.copy_from_slice(&if self.little { value.to_le_bytes() } else { value.to_be_bytes() });
        }
    }

    fn offset(&self, at: usize) -> Option<usize> {
        usize::try_from(self.u32(at)?).ok()
    }

    /// The entry of `tag` in the directory at `directory`.
    fn find(&self, directory: usize, tag: u16) -> Option<Entry> {
        let entries = usize::from(self.u16(directory)?).min(MOST_ENTRIES);
        (0..entries)
            .map(|i| directory + 2 + 12 * i)
            .find(|at| self.u16(*at) == Some(tag))
            .and_then(|at| Some(Entry { kind: self.u16(at + 2)?, field: at + 8 }))
    }

    /// The value of an entry of one whole number.
    fn number(&self, entry: Entry) -> Option<u32> {
        match entry.kind {
            3 => self.u16(entry.field).map(u32::from),
            4 => self.u32(entry.field),
            _ => None,
        }
    }

    /// Where the numerator of a fraction lies.
    fn fraction(&self, directory: usize, tag: u16) -> Option<usize> {
        self.find(directory, tag).filter(|entry| entry.kind == 5).and_then(|entry| self.offset(entry.field))
    }

    fn set_number(&mut self, directory: usize, tag: u16, value: u32) {
        match (self.find(directory, tag), u16::try_from(value)) {
            (Some(Entry { kind: 3, field }), Ok(value)) => self.set_u16(field, value),
            (Some(Entry { kind: 4, field }), _) => self.set_u32(field, value),
            _ => {}
        }
    }

    fn multiply(&mut self, directory: usize, tag: u16, factor: f64) {
        let Some(at) = self.fraction(directory, tag) else { return };
        if let (Some(above), Some(below)) = (self.u32(at), self.u32(at.saturating_add(4)))
            && let Some((above, below)) = times(above, below, factor)
        {
            self.set_u32(at, above);
            self.set_u32(at + 4, below);
        }
    }
}

/// A fraction times a factor: exactly where the numerator stays whole, else to six digits.
fn times(above: u32, below: u32, factor: f64) -> Option<(u32, u32)> {
    let product = f64::from(above) * factor;
    let fits = |v: f64| (v >= 0.0 && v <= f64::from(u32::MAX)).then_some(v as u32);
    if product.fract() == 0.0 {
        return Some((fits(product)?, below));
    }
    let scale = (1_000_000.0 / product.max(1.0)).max(1.0).floor();
    Some((fits((product * scale).round())?, fits(f64::from(below) * scale)?))
}

/// Removes the thumbnail: the second directory is no longer reached, and the bytes of the picture are cleared, or cut off
/// where they are the last.
pub(super) fn remove_thumbnail(exif: &mut Vec<u8>) {
    let Some(end) = clear_thumbnail(exif) else { return };
    exif.truncate(end);
}

fn clear_thumbnail(exif: &mut [u8]) -> Option<usize> {
    let length = exif.len();
    let mut block = Block::new(exif)?;
    let first = block.offset(4)?;
    let next = first + 2 + 12 * usize::from(block.u16(first)?);
    let second = block.offset(next).filter(|offset| *offset > 0)?;
    let value = |tag| block.find(second, tag).and_then(|entry| block.number(entry)).map(|v| v as usize);
    let picture = value(THUMBNAIL).zip(value(THUMBNAIL_BYTES));
    block.set_u32(next, 0);
    let (start, bytes) = picture?;
    let end = start.checked_add(bytes).filter(|end| *end <= length && start > 8)?;
    block.bytes[start..end].fill(0);
    (end == length && first < start && second < start).then_some(start)
}

/// The resolution in a block.
pub(super) fn resolution(exif: &[u8]) -> Option<Resolution> {
    let mut exif = exif.to_vec();
    let block = Block::new(&mut exif)?;
    let first = block.offset(4)?;
    let value = |tag| {
        let at = block.fraction(first, tag)?;
        Some(f64::from(block.u32(at)?) / f64::from(block.u32(at.checked_add(4)?)?))
    };
    let unit = block.find(first, RESOLUTION_UNIT).and_then(|entry| block.number(entry)).unwrap_or(2);
    let inches = if unit == 3 { 1.0 / 2.54 } else { 1.0 };
    Resolution::per(value(X_RESOLUTION)?, value(Y_RESOLUTION)?, inches)
}

/// Exchanges the resolutions of a picture that was turned on its side, and notes its new size.
pub(super) fn turn(exif: &mut [u8], size: (u32, u32)) {
    let factors = resolution(exif).map_or([1.0; 2], |Resolution { x, y }| [y / x, x / y]);
    resize(exif, factors, size);
}

/// Multiplies the resolution by `factors`, and notes the new size.
pub(super) fn resize(exif: &mut [u8], factors: [f64; 2], (width, height): (u32, u32)) {
    let Some(mut block) = Block::new(exif) else { return };
    let Some(first) = block.offset(4) else { return };
    if factors != [1.0, 1.0] {
        let same = block.fraction(first, X_RESOLUTION) == block.fraction(first, Y_RESOLUTION);
        block.multiply(first, X_RESOLUTION, factors[0]);
        if !same {
            block.multiply(first, Y_RESOLUTION, factors[1]);
        }
    }
    let inner = block.find(first, EXIF_DIRECTORY).and_then(|entry| block.offset(entry.field));
    block.set_number(first, WIDTH, width);
    block.set_number(first, HEIGHT, height);
    if let Some(inner) = inner {
        block.set_number(inner, PIXEL_X, width);
        block.set_number(inner, PIXEL_Y, height);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two directories: 300/1 pixels per inch both ways, a size in an inner one, and a thumbnail of 6 bytes.
    fn block() -> Vec<u8> {
        let mut bytes = b"II\x2a\0\x08\0\0\0".to_vec();
        let entry = |tag: u16, kind: u16, value: u32| {
            [&tag.to_le_bytes()[..], &kind.to_le_bytes(), &1_u32.to_le_bytes(), &value.to_le_bytes()].concat()
        };
        let directory = |entries: &[Vec<u8>], next: u32| {
            [&(entries.len() as u16).to_le_bytes()[..], &entries.concat(), &next.to_le_bytes()].concat()
        };
        // At 8: 42 bytes; the inner at 50: 30 bytes; fractions at 80; the second at 96: 30 bytes; the picture at 126.
        bytes.extend(directory(
            &[entry(X_RESOLUTION, 5, 80), entry(Y_RESOLUTION, 5, 88), entry(EXIF_DIRECTORY, 4, 50)],
            96,
        ));
        bytes.extend(directory(&[entry(PIXEL_X, 3, 32), entry(PIXEL_Y, 4, 32)], 0));
        for number in [300_u32, 1, 300, 1] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(directory(&[entry(THUMBNAIL, 4, 126), entry(THUMBNAIL_BYTES, 4, 6)], 0));
        bytes.extend(b"\xff\xd8JPEG");
        bytes
    }

    #[test]
    fn a_turned_picture_has_its_resolutions_exchanged() {
        let mut exif = block();
        // The first fraction: 600/1 instead of 300/1.
        exif[80..84].copy_from_slice(&600_u32.to_le_bytes());
        turn(&mut exif, (8, 16));
        assert_eq!(resolution(&exif), Some(Resolution { x: 300.0, y: 600.0 }));
    }

    #[test]
    fn the_thumbnail_goes_and_the_rest_stays() {
        let mut exif = block();
        remove_thumbnail(&mut exif);
        assert_eq!(exif.len(), 126);
        assert_eq!(&exif[46..50], [0; 4], "no second directory");
        assert_eq!(exif[..46], block()[..46]);
        let again = exif.clone();
        remove_thumbnail(&mut exif);
        assert_eq!(exif, again);
        let mut inside = [block(), b"more".to_vec()].concat();
        remove_thumbnail(&mut inside);
        assert!(inside.ends_with(b"\0\0\0\0\0\0more"), "cleared where it is not the last");
    }

    #[test]
    fn resolution_and_size_follow_the_pixels() {
        let mut exif = block();
        assert_eq!(resolution(&exif), Some(Resolution { x: 300.0, y: 300.0 }));
        resize(&mut exif, [4.0, 2.5], (128, 80));
        assert_eq!(resolution(&exif), Some(Resolution { x: 1200.0, y: 750.0 }));
        let mut copy = exif.clone();
        let read = Block::new(&mut copy).unwrap();
        assert_eq!([PIXEL_X, PIXEL_Y].map(|tag| read.number(read.find(50, tag).unwrap())), [Some(128), Some(80)]);
        let (above, below) = times(1, 3, 1.5).unwrap();
        assert!((f64::from(above) / f64::from(below) - 0.5).abs() < 1e-6);
    }

    #[test]
    fn damaged_blocks_are_left_alone_or_stay_within_their_bytes() {
        let whole = block();
        for cut in 0..whole.len() {
            let mut exif = whole[..cut].to_vec();
            resize(&mut exif, [2.0, 2.0], (9, 9));
            remove_thumbnail(&mut exif);
            let _ = resolution(&exif);
        }
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut exif = whole.clone();
                exif[at] = value;
                resize(&mut exif, [2.0, 2.0], (9, 9));
                remove_thumbnail(&mut exif);
                let _ = resolution(&exif);
            }
        }
    }
}
