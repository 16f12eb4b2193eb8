//! OpenEXR: half and float samples of light, grey or RGB, with or without alpha, which is multiplied into the colours.
//!
//! A file may hold many channels in many parts. Read are those that show a picture: R, G, B and A, or Y and A. Written are
//! floats in blocks of lines, deflated.

use std::io::{BufRead, Write};
use std::path::Path;

use flate2::Compression as Level;
use flate2::write::ZlibEncoder;

use super::exr_blocks::{Compression, Kind, decompress, differences};
use super::exr_header::{Bytes, Headers, Part, attribute, headers};
use super::{Decoded, Raster, Samples, check_page, refused};
use crate::io::atomic::AtomicFile;
use crate::io::limits::Limits;
use crate::io::metadata::{Metadata, Resolution, Text};
use crate::{Error, Result};

const MAGIC: [u8; 4] = *b"v/1\x01";
/// Bytes of samples for a byte of a file, at most: deflate makes no more of it, and the others less.
const MOST_INFLATED: u64 = 1100;
/// Attributes of texts, by their keywords.
const TEXTS: [(&str, &str); 4] =
    [("Comment", "comments"), ("Copyright", "owner"), ("Software", "software"), ("Creation Time", "capDate")];

/// The channels of a picture: their part, and their places in it, in the order of the samples.
struct Picture {
    part: usize,
    channels: Vec<usize>,
    warnings: Vec<String>,
}

fn cut_off(path: &Path) -> Error {
    Error::input(path, "the OpenEXR file is damaged or cut off")
}

pub fn decode(path: &Path, mut reader: impl BufRead, page: usize, limits: &Limits) -> Result<Decoded> {
    check_page(path, page, 1)?;
    let mut file = Vec::new();
    reader.read_to_end(&mut file).map_err(|e| Error::io(path, e))?;
    let headers = headers(&file).filter(|headers| !headers.parts.is_empty()).ok_or_else(|| cut_off(path))?;
    let picture = choose(path, &headers.parts)?;
    let part = &headers.parts[picture.part];
    let compression = part.compression().map_err(|name| {
        Error::input(path, format!("{name} compression is not read in OpenEXR: store it with ZIP or PIZ, for example"))
    })?;
    let [width, height] = part.size().filter(|size| !size.contains(&0)).ok_or_else(|| cut_off(path))?;
    let channels = picture.channels.len();
    let size = limits.check(path, (width, height), channels as u64 * 4)?;
    let bytes = part.channels.iter().map(|channel| channel.kind.bytes() as u64).sum::<u64>();
    let claimed = (u64::from(width) * u64::from(height)).saturating_mul(bytes);
    if claimed > (file.len() as u64).saturating_mul(MOST_INFLATED) {
        return Err(cut_off(path));
    }
    let mut samples = vec![0.0; size / 4];
    let blocks = Blocks { file: &file, headers: &headers, picture: &picture, compression, size: [width, height] };
    blocks.read(&mut samples).ok_or_else(|| cut_off(path))?;
    let mut warnings = picture.warnings;
    if part.data != part.display {
        warnings.push("the image is that of the data window, which is not the display window".into());
    }
    // Where all is opaque, nothing has been multiplied.
    let alpha = channels - 1;
    let associated = channels.is_multiple_of(2) && samples.iter().skip(alpha).step_by(channels).any(|v| *v != 1.0);
    let raster = Raster { width, height, channels, samples: Samples::Float(samples), associated };
    Ok(Decoded { warnings, ..Decoded::new(raster, metadata(part)) })
}

/// What it takes to read the blocks of a part.
struct Blocks<'a> {
    file: &'a [u8],
    headers: &'a Headers,
    picture: &'a Picture,
    compression: Compression,
    size: [u32; 2],
}

impl Blocks<'_> {
    /// Reads all blocks of the full resolution into interleaved samples; `None` for a damaged file.
    fn read(&self, samples: &mut [f32]) -> Option<()> {
        let part = &self.headers.parts[self.picture.part];
        let [width, height] = self.size.map(|side| side as usize);
        let [across, down] = part.tile.map_or([width, self.compression.lines()], |tile| tile.map(|side| side as usize));
        if across == 0 || down == 0 {
            return None;
        }
        let mut table = Bytes::new(self.file, self.headers.end);
        for other in &self.headers.parts[..self.picture.part] {
            table.take(usize::try_from(other.chunks?).ok()?.checked_mul(8)?)?;
        }
        let kinds: Vec<Kind> = part.channels.iter().map(|channel| channel.kind).collect();
        for y in 0..height.div_ceil(down) {
            for x in 0..width.div_ceil(across) {
                let mut chunk = Bytes::new(self.file, usize::try_from(table.long()?).ok()?);
                if self.headers.numbered && usize::try_from(chunk.int()?).ok()? != self.picture.part {
                    return None;
                }
                let at = [x * across, y * down];
                let expected = match part.tile {
                    Some(_) => vec![x as i64, y as i64, 0, 0],
                    None => vec![at[1] as i64 + i64::from(part.data[1])],
                };
                for expected in expected {
                    (i64::from(chunk.int()?) == expected).then_some(())?;
                }
                let length = usize::try_from(chunk.int()?).ok()?;
                let size = [across.min(width - at[0]), down.min(height - at[1])];
                let block = decompress(chunk.take(length)?, self.compression, &kinds, size)?;
                self.place(&block, &kinds, at, size, samples)?;
            }
        }
        Some(())
    }

    /// Brings a block to its place.
    fn place(&self, block: &[u8], kinds: &[Kind], at: [usize; 2], size: [usize; 2], samples: &mut [f32]) -> Option<()> {
        let channels = self.picture.channels.len();
        let mut rest = block;
        for y in 0..size[1] {
            let first = (at[1] + y) * self.size[0] as usize + at[0];
            for (channel, kind) in kinds.iter().enumerate() {
                let (line, after) = rest.split_at_checked(size[0] * kind.bytes())?;
                rest = after;
                let Some(place) = self.picture.channels.iter().position(|own| *own == channel) else { continue };
                let to = samples.get_mut(first * channels..)?.iter_mut().skip(place).step_by(channels);
                match kind {
                    Kind::Half => {
                        let values = line.as_chunks().0.iter().map(|bytes| half::f16::from_le_bytes(*bytes).to_f32());
                        to.zip(values).for_each(|(to, value)| *to = value);
                    }
                    _ => {
                        let values = line.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
                        to.zip(values).for_each(|(to, value)| *to = value);
                    }
                }
            }
        }
        Some(())
    }
}

/// The part and the channels to read: plain names before those of a layer (`beauty.R`).
fn choose(path: &Path, parts: &[Part]) -> Result<Picture> {
    let refuse = |message: String| Err(Error::input(path, message));
    let mut found: Option<(usize, Vec<usize>, &str)> = None;
    for (k, part) in parts.iter().enumerate().filter(|(_, part)| !part.deep) {
        let mut layers: Vec<&str> = part.channels.iter().map(|channel| layer(&channel.name)).collect();
        layers.sort_unstable();
        layers.dedup();
        for layer in layers {
            let place = |own: &str| part.channels.iter().position(|c| c.name.strip_prefix(layer) == Some(own));
            let all = |own: &[&str]| own.iter().map(|own| place(own)).collect::<Option<Vec<_>>>();
            if place("RY").is_some() || place("BY").is_some() {
                return refuse("holds luminance and chroma (Y, RY, BY): convert it to RGB first".into());
            }
            let Some(colours) = all(&["R", "G", "B"]).or_else(|| all(&["Y"])) else { continue };
            if found.as_ref().is_none_or(|(.., before)| layer.is_empty() && !before.is_empty()) {
                found = Some((k, colours.into_iter().chain(place("A")).collect(), layer));
            }
        }
    }
    let names = |channels: &mut dyn Iterator<Item = &super::exr_header::Channel>| {
        channels.map(|channel| channel.name.as_str()).collect::<Vec<_>>().join(", ")
    };
    let Some((k, channels, layer)) = found else {
        if parts.iter().any(|part| part.deep) {
            return refuse("holds deep pixels, which are not read: flatten it first".into());
        }
        let all = names(&mut parts.iter().flat_map(|part| &part.channels).take(8));
        return refuse(format!("holds no channels R, G, B or Y, but {all}: rename those to restore"));
    };
    let part = &parts[k];
    let chosen = || channels.iter().map(|k| &part.channels[*k]);
    if chosen().any(|channel| channel.kind == Kind::Whole) {
        return refuse("holds whole numbers, which are no picture".into());
    }
    if part.channels.iter().any(|channel| channel.sampled) {
        return refuse("holds channels with fewer samples than pixels: convert it to RGB first".into());
    }
    let others = parts.iter().map(|part| part.channels.len()).sum::<usize>() - channels.len();
    let warning = (others > 0).then(|| {
        let name = Some(layer.trim_end_matches('.')).filter(|name| !name.is_empty()).or(part.name.as_deref());
        let of = name.map_or(String::new(), |name| format!(" of {name}"));
        format!("the channels {}{of} only; not read: {others} more", names(&mut chosen()))
    });
    Ok(Picture { part: k, warnings: warning.into_iter().collect(), channels })
}

/// What stands before the last part of a channel's name, with its dot.
fn layer(name: &str) -> &str {
    name.rfind('.').map_or("", |dot| &name[..=dot])
}

fn metadata(part: &Part) -> Metadata {
    let mut metadata = Metadata { linear: true, ..Metadata::default() };
    for (keyword, own) in TEXTS {
        let texts = part.texts.iter().filter(|(name, text)| name == own && !text.is_empty());
        metadata.texts.extend(texts.map(|(_, text)| Text { keyword: keyword.into(), text: text.clone() }));
    }
    match part.density {
        Some(x) => metadata.resolution = Resolution::per(x.into(), f64::from(x) * f64::from(part.aspect), 1.0),
        None if part.aspect != 1.0 => metadata.leave_out("the pixel aspect ratio"),
        None => {}
    }
    if part.primaries {
        metadata.leave_out("primaries (chromaticities)");
    }
    if part.others {
        metadata.leave_out("other OpenEXR attributes");
    }
    metadata
}

/// Whether a text of that keyword has an attribute.
pub fn holds_text(keyword: &str) -> bool {
    TEXTS.iter().any(|(own, _)| *own == keyword)
}

pub fn encode(path: &Path, file: &mut AtomicFile<'_>, raster: &Raster, metadata: &Metadata) -> Result<()> {
    let Samples::Float(samples) = &raster.samples else {
        return Err(refused(path, "OpenEXR has floating-point samples"));
    };
    // By name, as readers want them, with their places in the raster.
    let channels: &[(&str, usize)] = match raster.channels {
        1 => &[("Y", 0)],
        2 => &[("A", 1), ("Y", 0)],
        3 => &[("B", 2), ("G", 1), ("R", 0)],
        _ => &[("A", 3), ("B", 2), ("G", 1), ("R", 0)],
    };
    let (Ok(width), Ok(height)) = (i32::try_from(raster.width), i32::try_from(raster.height)) else {
        return Err(refused(path, "too many pixels a side"));
    };
    let head = header(channels, [width, height], metadata);
    let (width, height) = (raster.width as usize, raster.height as usize);
    let lines = Compression::Zip.lines();
    let (mut table, mut blocks) = (Vec::new(), Vec::new());
    let start = head.len() + 8 * height.div_ceil(lines);
    for y in (0..height).step_by(lines) {
        let mut bytes = Vec::new();
        for row in y..(y + lines).min(height) {
            for (_, channel) in channels {
                let line = samples[row * width * raster.channels..][..width * raster.channels].iter();
                bytes.extend(line.skip(*channel).step_by(raster.channels).flat_map(|v| v.to_le_bytes()));
            }
        }
        let mut encoder = ZlibEncoder::new(Vec::new(), Level::default());
        let deflated = encoder.write_all(&differences(&bytes)).and_then(|()| encoder.finish());
        let deflated = deflated.map_err(|e| Error::io(path, e))?;
        let data = if deflated.len() < bytes.len() { deflated } else { bytes };
        table.extend(((start + blocks.len()) as u64).to_le_bytes());
        blocks.extend((y as u32).to_le_bytes());
        blocks.extend((data.len() as u32).to_le_bytes());
        blocks.extend(data);
    }
    [head, table, blocks].iter().try_for_each(|part| file.write_all(part)).map_err(|e| Error::io(path, e))
}

/// The beginning of a file of float channels.
fn header(channels: &[(&str, usize)], [width, height]: [i32; 2], metadata: &Metadata) -> Vec<u8> {
    let mut head = [MAGIC, 2_i32.to_le_bytes()].concat();
    let mut list = Vec::new();
    for (name, _) in channels {
        list.extend(name.bytes());
        list.push(0);
        // Float, not linear to the eye, a sample a pixel.
        list.extend([2, 0, 1, 1].map(i32::to_le_bytes).as_flattened());
    }
    list.push(0);
    let window = [0, 0, width - 1, height - 1].map(i32::to_le_bytes);
    let aspect = metadata.resolution.map_or(1.0, |Resolution { x, y }| (y / x) as f32);
    let mut put = |name: &str, kind: &str, value: &[u8]| attribute(&mut head, name, kind, value);
    put("channels", "chlist", &list);
    put("compression", "compression", &[3]);
    put("dataWindow", "box2i", window.as_flattened());
    put("displayWindow", "box2i", window.as_flattened());
    put("lineOrder", "lineOrder", &[0]);
    put("pixelAspectRatio", "float", &aspect.to_le_bytes());
    put("screenWindowCenter", "v2f", &[0; 8]);
    put("screenWindowWidth", "float", &1.0_f32.to_le_bytes());
    if let Some(resolution) = metadata.resolution {
        put("xDensity", "float", &(resolution.x as f32).to_le_bytes());
    }
    for (keyword, name) in TEXTS {
        if let Some(text) = metadata.texts.iter().find(|text| text.keyword == keyword) {
            put(name, "string", text.text.as_bytes());
        }
    }
    head.push(0);
    head
}
