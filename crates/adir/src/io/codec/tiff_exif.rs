//! EXIF between TIFF, where it is directories of the file, and the other formats, where it is a block of its own: a small
//! TIFF file. The fields move as they are; a maker note does not, since it may point into the file that it came from.

use std::borrow::Cow;
use std::io::{Cursor, Read, Result, Seek, SeekFrom, Write};

use tiff::TiffResult;
use tiff::encoder::{DirectoryEncoder, TiffEncoder, TiffKind, TiffValue};
use tiff::tags::{Tag, Type};

use super::tiff_pages::{Layout, number_at};

const EXIF: u16 = 34665;
const GPS: u16 = 34853;
const INTEROP: u16 = 40965;
const MAKER_NOTE_TAG: u16 = 37500;
/// What people call what [`Exif::incomplete`] says.
pub const MAKER_NOTE: &str = "parts of EXIF, such as the maker note";
/// Fields of the main directory that describe the picture, and those of its resolution.
const DESCRIBING: [u16; 8] = [270, 271, 272, 305, 306, 315, 316, 33432];
const RESOLUTION: [u16; 3] = [282, 283, 296];
/// Make and model, without which and without further directories there is no EXIF.
const CAMERA: [u16; 2] = [271, 272];
/// Most fields of a directory that are looked at.
const MOST_FIELDS: u64 = 1000;

/// A field: its tag, its type, and its values, little-endian.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    pub tag: u16,
    pub kind: u16,
    pub bytes: Vec<u8>,
}

/// Bytes of a value of that type, and of the numbers that it is made of.
fn sizes(kind: u16) -> Option<(usize, usize)> {
    match kind {
        1 | 2 | 7 => Some((1, 1)),
        3 => Some((2, 2)),
        4 | 9 => Some((4, 4)),
        5 | 10 => Some((8, 4)),
        _ => None,
    }
}

/// The fields of all directories.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Exif {
    main: Vec<Field>,
    exif: Vec<Field>,
    gps: Vec<Field>,
    interop: Vec<Field>,
    /// Whether something is left out.
    pub incomplete: bool,
}

impl Exif {
    /// The fields of the main directory at `offset` and of those below it, at most `most` bytes of each; `None` where there
    /// are none but those that every file has.
    pub fn read(file: &mut (impl Read + Seek), layout: Layout, offset: u64, most: usize) -> Option<Self> {
        let mut exif = Self::default();
        let main = fields(file, layout, offset, most, &mut exif.incomplete)?;
        let below = |fields: &[Field], tag| {
            let field = fields.iter().find(|field| field.tag == tag)?;
            field.bytes.first_chunk().map(|bytes| u64::from(u32::from_le_bytes(*bytes)))
        };
        for tag in [EXIF, GPS] {
            let fields = below(&main, tag).and_then(|offset| fields(file, layout, offset, most, &mut exif.incomplete));
            let fields = fields.unwrap_or_default();
            if tag == EXIF { exif.exif = fields } else { exif.gps = fields }
        }
        let interop =
            below(&exif.exif, INTEROP).and_then(|offset| fields(file, layout, offset, most, &mut exif.incomplete));
        exif.interop = interop.unwrap_or_default();
        let all = exif.exif.len();
        exif.exif.retain(|field| field.tag != MAKER_NOTE_TAG);
        exif.incomplete |= exif.exif.len() < all;
        exif.exif.retain(|field| field.tag != INTEROP);
        exif.main = main;
        // A resolution of no unit is but a ratio of sides, which many files have for want of another.
        let unit = exif.main.iter().find(|field| field.tag == RESOLUTION[2]).map(|field| field.bytes.as_slice());
        let real = matches!(unit, None | Some([2 | 3, ..]));
        exif.main.retain(|field| DESCRIBING.contains(&field.tag) || real && RESOLUTION.contains(&field.tag));
        let camera = exif.main.iter().any(|field| CAMERA.contains(&field.tag));
        (camera || !exif.exif.is_empty() || !exif.gps.is_empty()).then_some(exif)
    }

    /// The fields of a block.
    pub fn of_block(block: &[u8]) -> Option<Self> {
        let mut file = Cursor::new(block);
        let layout = Layout::of(block.get(..4)?.try_into().ok()?)?;
        let first = number_at(&mut file, layout, 4, 4).ok()?;
        Self::read(&mut file, layout, first, block.len())
    }

    /// The fields as a block.
    pub fn block(&self) -> Vec<u8> {
        let mut block = b"II\x2a\0\x08\0\0\0".to_vec();
        let pointer = |tag, at: usize| Field { tag, kind: 4, bytes: (at as u32).to_le_bytes().to_vec() };
        // Directories follow each other, and their places are known from their sizes.
        let mut main = self.main.clone();
        let mut exif = self.exif.clone();
        let parts = [!self.exif.is_empty(), !self.gps.is_empty(), !self.interop.is_empty()];
        for (tag, _) in [EXIF, GPS].into_iter().zip(parts).filter(|(_, there)| *there) {
            main.push(pointer(tag, 0));
        }
        if parts[2] {
            exif.push(pointer(INTEROP, 0));
        }
        let exif_at = 8 + length(&main);
        let gps_at = exif_at + if parts[0] { length(&exif) } else { 0 };
        let interop_at = gps_at + if parts[1] { length(&self.gps) } else { 0 };
        for field in main.iter_mut().chain(&mut exif) {
            match field.tag {
                EXIF => *field = pointer(EXIF, exif_at),
                GPS => *field = pointer(GPS, gps_at),
                INTEROP => *field = pointer(INTEROP, interop_at),
                _ => {}
            }
        }
        append(&mut block, &mut main, true);
        if parts[0] {
            append(&mut block, &mut exif, true);
        }
        if parts[1] {
            append(&mut block, &mut self.gps.clone(), true);
        }
        if parts[2] {
            append(&mut block, &mut self.interop.clone(), true);
        }
        block
    }

    /// Writes the directories below, and returns what the main one says of them.
    pub fn write_below<W: Write + Seek, K: TiffKind>(
        &self,
        file: &mut TiffEncoder<W, K>,
    ) -> TiffResult<Vec<(u16, u32)>> {
        let mut below = |fields: &[Field], pointers: &[(u16, u32)]| {
            let mut directory = file.extra_directory()?;
            fields.iter().try_for_each(|field| field.write(&mut directory))?;
            pointers.iter().try_for_each(|(tag, at)| directory.write_tag(Tag::from_u16_exhaustive(*tag), *at))?;
            let at = directory.finish_with_offsets()?.pointer.0;
            Ok::<_, tiff::TiffError>(u32::try_from(at)?)
        };
        let mut pointers = Vec::new();
        if !self.interop.is_empty() {
            pointers.push((INTEROP, below(&self.interop, &[])?));
        }
        let mut main = Vec::new();
        if !self.exif.is_empty() {
            main.push((EXIF, below(&self.exif, &pointers)?));
        }
        if !self.gps.is_empty() {
            main.push((GPS, below(&self.gps, &[])?));
        }
        Ok(main)
    }

    /// Writes the fields of the main directory that describe the picture, but for those `written` already.
    pub fn write_main<W: Write + Seek, K: TiffKind>(
        &self,
        directory: &mut DirectoryEncoder<'_, W, K>,
        written: &[u16],
    ) -> TiffResult<()> {
        let own = |field: &&Field| DESCRIBING.contains(&field.tag) && !written.contains(&field.tag);
        self.main.iter().filter(own).try_for_each(|field| field.write(directory))
    }
}

/// The fields of a directory whose types EXIF has, at most `most` bytes of them; notes whether one is too large or cut off.
pub fn fields(
    file: &mut (impl Read + Seek),
    layout: Layout,
    offset: u64,
    most: usize,
    incomplete: &mut bool,
) -> Option<Vec<Field>> {
    let (count_size, size, long) = if layout.big { (8, 20, 8) } else { (2, 12, 4) };
    let count = number_at(file, layout, offset, count_size).ok()?.min(MOST_FIELDS);
    let mut entries = vec![0; count as usize * size];
    file.read_exact(&mut entries).ok()?;
    let (mut fields, mut left) = (Vec::new(), most);
    for entry in entries.chunks_exact(size) {
        let (tag, kind) = (layout.number(&entry[..2]) as u16, layout.number(&entry[2..4]) as u16);
        let count = layout.number(&entry[4..4 + long]);
        // Pointers to directories may have a type of their own.
        let kind = if matches!(kind, 13 | 18) { 4 } else { kind };
        let (Some((bytes, number)), value) = (sizes(kind), &entry[4 + long..]) else { continue };
        let length = usize::try_from(count).ok().and_then(|count| count.checked_mul(bytes));
        let Some(length) = length.filter(|length| *length <= left) else {
            *incomplete = true;
            continue;
        };
        left -= length;
        let read =
            if length <= long { Ok(value[..length].to_vec()) } else { bytes_at(file, layout.number(value), length) };
        let Ok(mut bytes) = read else {
            *incomplete = true;
            continue;
        };
        if !layout.little {
            bytes.chunks_mut(number).for_each(<[u8]>::reverse);
        }
        fields.push(Field { tag, kind, bytes });
    }
    Some(fields)
}

fn bytes_at(file: &mut (impl Read + Seek), at: u64, length: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(at))?;
    file.take(length as u64).read_to_end(&mut bytes)?;
    if bytes.len() == length { Ok(bytes) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) }
}

/// Bytes of a directory of a block with its values.
fn length(fields: &[Field]) -> usize {
    let values = fields.iter().map(|field| field.bytes.len()).filter(|length| *length > 4);
    6 + 12 * fields.len() + values.map(|length| length.next_multiple_of(2)).sum::<usize>()
}

/// Appends a directory to a file, and its values behind it.
pub fn append(file: &mut Vec<u8>, fields: &mut [Field], little: bool) {
    fields.sort_by_key(|field| field.tag);
    let layout = Layout { little, big: false };
    let mut values = Vec::new();
    let behind = file.len() + 6 + 12 * fields.len();
    file.extend(layout.bytes(fields.len() as u64, 2));
    for Field { tag, kind, bytes } in fields.iter() {
        let (size, number) = sizes(*kind).unwrap_or((1, 1));
        let mut bytes = bytes.clone();
        if !little {
            bytes.chunks_mut(number).for_each(<[u8]>::reverse);
        }
        file.extend(layout.bytes(u64::from(*tag), 2));
        file.extend(layout.bytes(u64::from(*kind), 2));
        file.extend(layout.bytes((bytes.len() / size) as u64, 4));
        if bytes.len() <= 4 {
            file.extend(&bytes);
            file.resize(file.len() + 4 - bytes.len(), 0);
        } else {
            file.extend(layout.bytes((behind + values.len()) as u64, 4));
            values.extend(bytes);
            values.resize(values.len().next_multiple_of(2), 0);
        }
    }
    file.extend([0; 4]);
    file.extend(values);
}

/// The values of a field of that type.
struct Raw<const KIND: u16>(Vec<u8>);

impl<const KIND: u16> TiffValue for Raw<KIND> {
    const BYTE_LEN: u8 = match KIND {
        3 => 2,
        4 | 9 => 4,
        5 | 10 => 8,
        _ => 1,
    };
    const FIELD_TYPE: Type = match KIND {
        1 => Type::BYTE,
        2 => Type::ASCII,
        3 => Type::SHORT,
        4 => Type::LONG,
        5 => Type::RATIONAL,
        9 => Type::SLONG,
        10 => Type::SRATIONAL,
        _ => Type::UNDEFINED,
    };

    fn count(&self) -> usize {
        self.0.len() / usize::from(Self::BYTE_LEN)
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.0)
    }
}

impl Field {
    fn write<W: Write + Seek, K: TiffKind>(&self, directory: &mut DirectoryEncoder<'_, W, K>) -> TiffResult<()> {
        let mut bytes = self.bytes.clone();
        if cfg!(target_endian = "big") {
            let number = sizes(self.kind).map_or(1, |(_, number)| number);
            bytes.chunks_mut(number).for_each(<[u8]>::reverse);
        }
        let tag = Tag::from_u16_exhaustive(self.tag);
        match self.kind {
            1 => directory.write_tag(tag, Raw::<1>(bytes)),
            2 => directory.write_tag(tag, Raw::<2>(bytes)),
            3 => directory.write_tag(tag, Raw::<3>(bytes)),
            4 => directory.write_tag(tag, Raw::<4>(bytes)),
            5 => directory.write_tag(tag, Raw::<5>(bytes)),
            9 => directory.write_tag(tag, Raw::<9>(bytes)),
            10 => directory.write_tag(tag, Raw::<10>(bytes)),
            _ => directory.write_tag(tag, Raw::<7>(bytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(tag: u16, kind: u16, bytes: &[u8]) -> Field {
        Field { tag, kind, bytes: bytes.to_vec() }
    }

    fn exif() -> Exif {
        Exif {
            main: vec![field(271, 2, b"Camera\0"), field(282, 5, &[44, 1, 0, 0, 1, 0, 0, 0])],
            exif: vec![field(33434, 5, &[1, 0, 0, 0, 60, 0, 0, 0]), field(36864, 7, b"0230"), field(37510, 7, b"odd")],
            gps: vec![field(1, 2, b"N\0"), field(2, 5, &[7; 24])],
            interop: vec![field(1, 2, b"R98\0")],
            incomplete: false,
        }
    }

    #[test]
    fn blocks_come_back() {
        assert_eq!(Exif::of_block(&exif().block()), Some(exif()));
        let camera = Exif { exif: vec![], gps: vec![], interop: vec![], ..exif() };
        assert_eq!(Exif::of_block(&camera.block()), Some(camera.clone()));
        let nothing = Exif { main: camera.main[1..].to_vec(), ..camera };
        assert_eq!(Exif::of_block(&nothing.block()), None);
        let mut note = exif();
        note.exif.push(field(MAKER_NOTE_TAG, 7, b"Camera says"));
        assert_eq!(Exif::of_block(&note.block()), Some(Exif { incomplete: true, ..exif() }));
    }

    #[test]
    fn damaged_blocks_are_read_in_part_or_not_at_all() {
        let whole = exif().block();
        for at in 0..whole.len() {
            let _ = Exif::of_block(&whole[..at]);
            for value in [0, 1, 0x7f, 0xff] {
                let mut block = whole.clone();
                block[at] = value;
                let _ = Exif::of_block(&block).map(|exif| exif.block());
            }
        }
    }
}
