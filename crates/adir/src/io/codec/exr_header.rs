//! The headers of an OpenEXR file: which channels a part has, how they are stored, and what is said of them.

use super::exr_blocks::{Compression, Kind};

/// Longest name of an attribute or a channel.
const LONGEST_NAME: usize = 255;
/// Parts that are looked at.
const MOST_PARTS: usize = 1024;

/// A channel.
#[derive(Debug, Clone)]
pub struct Channel {
    pub name: String,
    pub kind: Kind,
    /// Whether it has fewer samples than pixels.
    pub sampled: bool,
}

/// A part: an image of its own channels.
#[derive(Debug, Clone, Default)]
pub struct Part {
    pub channels: Vec<Channel>,
    /// By its number in the file.
    pub compression: u8,
    /// First and last column and row of the pixels, and of the picture that they belong to: x0, y0, x1, y1.
    pub data: [i32; 4],
    pub display: [i32; 4],
    /// Columns and rows of a tile; none for lines.
    pub tile: Option<[u32; 2]>,
    pub deep: bool,
    pub name: Option<String>,
    /// Blocks of all levels.
    pub chunks: Option<u32>,
    /// Width of a pixel over its height.
    pub aspect: f32,
    /// Pixels per inch along rows.
    pub density: Option<f32>,
    /// Attributes that are texts, by their names.
    pub texts: Vec<(String, String)>,
    /// Whether it has primaries, and attributes that are neither read here nor of the layout.
    pub primaries: bool,
    pub others: bool,
}

impl Part {
    /// Columns and rows.
    pub fn size(&self) -> Option<[u32; 2]> {
        let side = |k: usize| u32::try_from(i64::from(self.data[k + 2]) - i64::from(self.data[k]) + 1).ok();
        Some([side(0)?, side(1)?])
    }

    /// The compression, or its name if it is not read.
    pub fn compression(&self) -> Result<Compression, &'static str> {
        Ok(match self.compression {
            0 => Compression::None,
            1 => Compression::Rle,
            2 => Compression::Zips,
            3 => Compression::Zip,
            4 => Compression::Piz,
            5 => Compression::Pxr24,
            6 | 7 => return Err("B44"),
            8 | 9 => return Err("DWA"),
            _ => return Err("this kind of"),
        })
    }
}

/// All parts, whether chunks name their part, and where the headers end.
#[derive(Debug)]
pub struct Headers {
    pub parts: Vec<Part>,
    pub numbered: bool,
    pub end: usize,
}

/// What is left of a file.
pub struct Bytes<'a> {
    file: &'a [u8],
    pub at: usize,
}

impl<'a> Bytes<'a> {
    pub fn new(file: &'a [u8], at: usize) -> Self {
        Self { file, at }
    }

    pub fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(count)?;
        let bytes = self.file.get(self.at..end)?;
        self.at = end;
        Some(bytes)
    }

    pub fn int(&mut self) -> Option<i32> {
        Some(i32::from_le_bytes(*self.take(4)?.first_chunk()?))
    }

    pub fn long(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(*self.take(8)?.first_chunk()?))
    }

    /// A text that ends with a zero.
    fn name(&mut self) -> Option<String> {
        let rest = self.file.get(self.at..)?;
        let length = rest.iter().take(LONGEST_NAME + 1).position(|byte| *byte == 0)?;
        let name = text(self.take(length)?);
        self.at += 1;
        Some(name)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

/// Reads the headers; `None` for a damaged or unknown file.
pub fn headers(file: &[u8]) -> Option<Headers> {
    let mut bytes = Bytes::new(file, 4);
    let version = bytes.int()?;
    if version & 0xff != 2 {
        return None;
    }
    let (tiled, deep, numbered) = (version & 0x200 != 0, version & 0x800 != 0, version & 0x1000 != 0);
    let mut parts = Vec::new();
    while let Some(mut part) = part(&mut bytes)? {
        if !tiled && !numbered {
            part.tile = None;
        }
        part.deep |= deep;
        parts.push(part);
        if !numbered || parts.len() > MOST_PARTS {
            break;
        }
    }
    Some(Headers { parts, numbered, end: bytes.at })
}

/// Reads a header; the inner `None` is the end of a list of them.
fn part(bytes: &mut Bytes<'_>) -> Option<Option<Part>> {
    let mut part = Part { compression: u8::MAX, aspect: 1.0, ..Part::default() };
    let mut empty = true;
    let (mut windows, mut lines) = (0, false);
    loop {
        let name = bytes.name()?;
        if name.is_empty() {
            break;
        }
        empty = false;
        let kind = bytes.name()?;
        let size = usize::try_from(bytes.int()?).ok()?;
        let value = bytes.take(size)?;
        let numbers = |count: usize| -> Option<Vec<[u8; 4]>> { Some(value.get(..4 * count)?.as_chunks().0.to_vec()) };
        let float = || numbers(1).map(|v| f32::from_le_bytes(v[0]));
        let window = || numbers(4).and_then(|v| <[[u8; 4]; 4]>::try_from(v).ok()).map(|v| v.map(i32::from_le_bytes));
        match (name.as_str(), kind.as_str()) {
            ("channels", "chlist") => part.channels = channels(value)?,
            ("compression", "compression") => part.compression = *value.first()?,
            ("dataWindow", "box2i") => (part.data, windows) = (window()?, windows + 1),
            ("displayWindow", "box2i") => (part.display, windows) = (window()?, windows + 1),
            ("tiles", "tiledesc") => {
                let sides = numbers(2)?;
                part.tile = Some([u32::from_le_bytes(sides[0]), u32::from_le_bytes(sides[1])]);
            }
            ("type", "string") => {
                part.deep = value.starts_with(b"deep");
                lines = value == b"scanlineimage";
            }
            ("name", "string") => part.name = Some(text(value)),
            ("chunkCount", "int") => part.chunks = numbers(1).map(|v| u32::from_le_bytes(v[0])),
            ("pixelAspectRatio", "float") => part.aspect = float()?,
            ("xDensity", "float") => part.density = float(),
            ("comments" | "owner" | "software" | "capDate", "string") => part.texts.push((name, text(value))),
            ("chromaticities", _) => part.primaries = true,
            ("lineOrder" | "screenWindowCenter" | "screenWindowWidth" | "preview" | "version" | "view", _) => {}
            _ => part.others = true,
        }
    }
    if empty {
        return Some(None);
    }
    if lines {
        part.tile = None;
    }
    let complete = windows >= 2 && !part.channels.is_empty() && part.compression != u8::MAX;
    complete.then_some(Some(part))
}

fn channels(value: &[u8]) -> Option<Vec<Channel>> {
    let mut bytes = Bytes::new(value, 0);
    let mut channels = Vec::new();
    loop {
        let name = bytes.name()?;
        if name.is_empty() {
            return Some(channels);
        }
        let kind = match bytes.int()? {
            0 => Kind::Whole,
            1 => Kind::Half,
            2 => Kind::Float,
            _ => return None,
        };
        // Whether it is linear, and three bytes more.
        bytes.take(4)?;
        let sampled = [bytes.int()?, bytes.int()?] != [1, 1];
        channels.push(Channel { name, kind, sampled });
    }
}

/// Appends an attribute.
pub fn attribute(to: &mut Vec<u8>, name: &str, kind: &str, value: &[u8]) {
    for text in [name, kind] {
        to.extend(text.bytes());
        to.push(0);
    }
    to.extend((value.len() as u32).to_le_bytes());
    to.extend(value);
}
