//! FITS images: the primary one and extensions, integers and floats. A file holds physical values, so that mostly nobody
//! but the user knows which is white. The first row of a file is the bottom row of the picture, unless its header says
//! otherwise. Planes of a cube are pages, but three are red, green and blue unless a page is asked for.

use std::io::{BufRead, Seek, SeekFrom, Write};
use std::path::Path;

use super::fits_samples::{Planes, samples};
use super::{Decoded, Raster, Samples, check_page, read_error};
use crate::io::atomic::AtomicFile;
use crate::io::fits_cards::{Card, FitsHeader, card, is_true, keyword, string, whole, written};
use crate::io::limits::Limits;
use crate::io::metadata::Metadata;
use crate::{Error, Result};

/// Headers and data are whole blocks of that many bytes.
const BLOCK: u64 = 2880;
const MOST_AXES: i64 = 999;

/// An image of a file: a header and an array.
struct Unit {
    /// Its place among the headers of the file.
    index: usize,
    header: u64,
    data: u64,
    /// Negative for floats.
    bits: i64,
    axes: Vec<u64>,
    /// Whether three planes are three pages, too.
    apart: bool,
}

impl Unit {
    /// Lengths of the axes from the third on.
    fn depth(&self) -> &[u64] {
        self.axes.get(2..).unwrap_or_default()
    }

    /// Whether its planes are red, green and blue.
    fn is_colour(&self) -> bool {
        !self.apart && self.depth().iter().filter(|length| **length != 1).eq(&[3])
    }

    fn pages(&self) -> u64 {
        if self.is_colour() { 1 } else { self.depth().iter().fold(1, |pages, length| pages.saturating_mul(*length)) }
    }

    /// Those that lie before the `end` of the file, at least one.
    fn pages_before(&self, end: u64) -> u64 {
        let values = self.axes.iter().take(2).try_fold(1_u64, |values, length| values.checked_mul(*length));
        let plane = values.and_then(|values| values.checked_mul(self.bits.unsigned_abs() / 8)).unwrap_or(u64::MAX);
        self.pages().min((end.saturating_sub(self.data) / plane.max(1)).max(1))
    }

    /// Where a page, from 0, lies along the axes from the third on.
    fn place(&self, page: u64) -> Vec<u64> {
        let mut left = page;
        let along = |length: &u64| {
            let place = left % length;
            left /= length;
            place
        };
        self.depth().iter().map(along).collect()
    }
}

pub fn decode(path: &Path, mut file: impl BufRead + Seek, asked: Option<usize>, limits: &Limits) -> Result<Decoded> {
    let mut units = units(path, &mut file, limits)?;
    units.iter_mut().for_each(|unit| unit.apart = asked.is_some());
    let page = asked.unwrap_or(1);
    let end = length(path, &mut file)?;
    let sum = |of: &dyn Fn(&Unit) -> u64| units.iter().fold(0_u64, |sum, unit| sum.saturating_add(of(unit)));
    let (pages, promised) = (sum(&|unit| unit.pages_before(end)), sum(&Unit::pages));
    let pages = usize::try_from(pages).unwrap_or(usize::MAX);
    check_page(path, page, pages)?;
    let mut within = page as u64 - 1;
    let unit = units.iter().find(|unit| match within.checked_sub(unit.pages()) {
        None => true,
        Some(left) => {
            within = left;
            false
        }
    });
    let unit = unit.ok_or_else(|| Error::input(path, "the FITS file holds no image"))?;
    let at = |file: &mut _, start| header(path, file, start, limits.max_metadata)?.ok_or_else(|| cut_off(path));
    let cards = at(&mut file, unit.header)?;
    let above = if unit.header > 0 { at(&mut file, 0)? } else { Vec::new() };
    if !unit.is_colour() && string(&cards, "BAYERPAT").is_some() {
        return Err(Error::input(
            path,
            "holds the mosaic of a colour sensor (BAYERPAT), not an image: develop it first (debayer), for example in Siril",
        ));
    }
    let planes = Planes {
        width: side(path, unit.axes[0])?,
        height: side(path, unit.axes[1])?,
        channels: if unit.is_colour() { 3 } else { 1 },
        bits: unit.bits,
        from_top: FitsHeader::from_top(&cards),
    };
    let Planes { width, height, channels, .. } = planes;
    limits.check(path, (width, height), channels as u64 * unit.bits.unsigned_abs() / 8)?;
    let plane = u64::from(width) * u64::from(height) * unit.bits.unsigned_abs() / 8;
    let start = plane.checked_mul(within).and_then(|skipped| skipped.checked_add(unit.data));
    let end = start.and_then(|start| start.checked_add(plane * channels as u64));
    let (Some(start), Some(end)) = (start, end) else { return Err(cut_off(path)) };
    if end > length(path, &mut file)? {
        return Err(cut_off(path));
    }
    file.seek(SeekFrom::Start(start)).map_err(|e| read_error(path, e))?;
    let found = samples(path, &mut file, planes, &cards)?;
    let raster = Raster { width, height, channels, samples: found.samples, associated: false };
    let size = [width, height];
    let header = FitsHeader::of(&cards, &above, &if unit.is_colour() { vec![0] } else { unit.place(within) }, size);
    let metadata = Metadata { fits: Some(header), linear: true, ..Metadata::default() };
    let name = if pages > 1 { Some(format!("page {page} is {}", name(unit, within, &cards))) } else { None };
    let cut = (promised > pages as u64).then(|| format!("cut off: {pages} of {promised} planes are there"));
    let warnings = name.into_iter().chain(cut).collect();
    Ok(Decoded { pages, white: found.white, unobserved: found.unobserved, warnings, ..Decoded::new(raster, metadata) })
}

fn cut_off(path: &Path) -> Error {
    Error::input(path, "the FITS file is cut off: its header promises more than there is")
}

fn side(path: &Path, pixels: u64) -> Result<u32> {
    u32::try_from(pixels).map_err(|_| Error::Limits(format!("{}: {pixels} pixels a side", path.display())))
}

fn length(path: &Path, file: &mut impl Seek) -> Result<u64> {
    file.seek(SeekFrom::End(0)).map_err(|e| read_error(path, e))
}

/// What a page is.
fn name(unit: &Unit, page: u64, cards: &[Card]) -> String {
    let mut name = match unit.index {
        0 => "the primary image".to_owned(),
        index => format!("extension {index}"),
    };
    if let Some(own) = string(cards, "EXTNAME") {
        name = format!("{name} ({own})");
    }
    if unit.pages() > 1 { format!("plane {} of {} of {name}", page + 1, unit.pages()) } else { name }
}

/// The images of a file.
fn units(path: &Path, file: &mut (impl BufRead + Seek), limits: &Limits) -> Result<Vec<Unit>> {
    let end = length(path, file)?;
    let (mut units, mut tables, mut others) = (Vec::new(), 0, 0);
    let mut at = 0;
    for index in 0.. {
        // What follows the last extension is none.
        let Some(cards) = header(path, file, at, limits.max_metadata).or_else(|e| match index {
            0 => Err(e),
            _ => Ok(None),
        })?
        else {
            break;
        };
        let kind = if index == 0 { None } else { string(&cards, "XTENSION") };
        if is_true(&cards, "ZIMAGE") || kind.as_deref() == Some("BINTABLE") && whole(&cards, "ZNAXIS").is_some() {
            return Err(Error::input(
                path,
                "holds a compressed FITS image (.fz), which is not read: unpack it with funpack",
            ));
        }
        if is_true(&cards, "GROUPS") {
            return Err(Error::input(path, "holds random groups and no image"));
        }
        let (bits, axes) = match array(path, &cards) {
            Err(e) if index == 0 => return Err(e),
            Err(_) => break,
            Ok(array) => array,
        };
        let data = at + ((cards.len() as u64 + 1) * 80).next_multiple_of(BLOCK);
        let values = if axes.is_empty() { Some(0) } else { axes.iter().try_fold(1_u64, |sum, n| sum.checked_mul(*n)) };
        let count = |key, least| u64::try_from(whole(&cards, key).unwrap_or(least).max(least)).unwrap_or(0);
        let bytes = values.and_then(|values| {
            let values = values.checked_add(count("PCOUNT", 0))?;
            values.checked_mul(count("GCOUNT", 1))?.checked_mul(bits.unsigned_abs() / 8)
        });
        match kind.as_deref() {
            Some("TABLE" | "BINTABLE" | "A3DTABLE") => tables += 1,
            None | Some("IMAGE") if axes.len() >= 2 && !axes.contains(&0) => {
                units.push(Unit { index, header: at, data, bits, axes, apart: false });
            }
            None if axes.is_empty() || axes.contains(&0) => {}
            _ => others += 1,
        }
        match bytes.and_then(|bytes| bytes.checked_next_multiple_of(BLOCK)?.checked_add(data)) {
            Some(next) if next < end => at = next,
            _ => break,
        }
    }
    match (units.is_empty(), tables, others) {
        (false, ..) => Ok(units),
        (true, 0, 0) => Err(Error::input(path, "the FITS file holds no image")),
        (true, 0, _) => {
            Err(Error::input(path, "the FITS file holds data of one dimension or an unknown kind, and no image"))
        }
        (true, ..) => Err(Error::input(path, "the FITS file holds tables and no image")),
    }
}

/// The cards of the header at `start`, without the last, END; `None` where no header begins.
fn header(path: &Path, file: &mut (impl BufRead + Seek), start: u64, most: usize) -> Result<Option<Vec<Card>>> {
    file.seek(SeekFrom::Start(start)).map_err(|e| read_error(path, e))?;
    let mut cards = Vec::new();
    let mut bytes = [0; 80];
    let begins = if start == 0 { "SIMPLE" } else { "XTENSION" };
    loop {
        match file.read_exact(&mut bytes) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof && cards.is_empty() => return Ok(None),
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Err(cut_off(path)),
            Err(e) => return Err(read_error(path, e)),
        }
        let card = card(&bytes);
        if cards.is_empty() && keyword(&card) != begins {
            return Ok(None);
        }
        if keyword(&card) == "END" && card[8..].iter().all(|byte| *byte == b' ') {
            return Ok(Some(cards));
        }
        cards.push(card);
        if cards.len() * 80 > most {
            return Err(Error::input(path, format!("a FITS header has no end within {most} bytes")));
        }
    }
}

/// Bits of a value and lengths of the axes.
fn array(path: &Path, cards: &[Card]) -> Result<(i64, Vec<u64>)> {
    let bits = whole(cards, "BITPIX").filter(|bits| [8, 16, 32, 64, -32, -64].contains(bits));
    let bits = bits.ok_or_else(|| Error::input(path, "the FITS header has no BITPIX of 8, 16, 32, 64, -32 or -64"))?;
    let bad = |key: &str| Error::input(path, format!("the FITS header has no {key}, or one that is wrong"));
    let axes = whole(cards, "NAXIS").filter(|axes| (0..=MOST_AXES).contains(axes)).ok_or_else(|| bad("NAXIS"))?;
    let axis = |k| {
        let key = format!("NAXIS{k}");
        whole(cards, &key).and_then(|length| u64::try_from(length).ok()).ok_or_else(|| bad(&key))
    };
    Ok((bits, (1..=axes).map(axis).collect::<Result<_>>()?))
}

pub fn encode(path: &Path, file: &mut AtomicFile<'_>, raster: &Raster, metadata: &Metadata) -> Result<()> {
    let mut array = Array::begin(path, file, raster, metadata, None)?;
    array.add(path, raster)?;
    array.end(path)
}

/// The array of a file that is being written.
pub struct Array<'a, 'b> {
    file: &'a mut AtomicFile<'b>,
    from_top: bool,
    bytes: usize,
}

impl<'a, 'b> Array<'a, 'b> {
    /// Writes the header of a picture, or of a cube of so many grey `pages` like it.
    pub fn begin(
        path: &Path,
        file: &'a mut AtomicFile<'b>,
        raster: &Raster,
        metadata: &Metadata,
        pages: Option<usize>,
    ) -> Result<Self> {
        let kept = metadata.fits.as_ref().map(FitsHeader::raw).unwrap_or_default();
        let (bits, sixteen) = match raster.samples {
            Samples::Eight(_) => ("8", false),
            Samples::Sixteen(_) => ("16", true),
            Samples::Float(_) => ("-32", false),
        };
        let fixed = |key: &str, value: &str| written(key, value, "");
        let planes = match pages {
            Some(pages) => Some((pages, "")),
            None => (raster.channels == 3).then_some((3, "red, green, blue")),
        };
        let mut cards = vec![written("SIMPLE", "T", "FITS"), fixed("BITPIX", bits)];
        cards.push(fixed("NAXIS", if planes.is_some() { "3" } else { "2" }));
        cards.push(fixed("NAXIS1", &raster.width.to_string()));
        cards.push(fixed("NAXIS2", &raster.height.to_string()));
        if let Some((planes, comment)) = planes {
            cards.push(written("NAXIS3", &planes.to_string(), comment));
        }
        if sixteen {
            cards.push(written("BZERO", "32768.0", "unsigned 16-bit integers"));
            cards.push(fixed("BSCALE", "1.0"));
        }
        cards.extend(kept);
        let mut bytes = cards.concat();
        bytes.extend(b"END");
        bytes.resize(bytes.len().next_multiple_of(BLOCK as usize), b' ');
        file.write_all(&bytes).map_err(|e| Error::io(path, e))?;
        Ok(Self { file, from_top: FitsHeader::from_top(kept), bytes: 0 })
    }

    /// Writes the planes of a picture.
    pub fn add(&mut self, path: &Path, raster: &Raster) -> Result<()> {
        let (width, height, channels) = (raster.width as usize, raster.height as usize, raster.channels);
        for channel in 0..channels {
            for row in 0..height {
                let row = if self.from_top { row } else { height - 1 - row };
                let places = (0..width).map(|x| (row * width + x) * channels + channel);
                let bytes: Vec<u8> = match &raster.samples {
                    Samples::Eight(samples) => places.map(|at| samples[at]).collect(),
                    // Stored less 32768, which turns the first bit.
                    Samples::Sixteen(samples) => places.flat_map(|at| (samples[at] ^ 0x8000).to_be_bytes()).collect(),
                    Samples::Float(samples) => places.flat_map(|at| samples[at].to_be_bytes()).collect(),
                };
                self.bytes += bytes.len();
                self.file.write_all(&bytes).map_err(|e| Error::io(path, e))?;
            }
        }
        Ok(())
    }

    /// Fills the last block.
    pub fn end(self, path: &Path) -> Result<()> {
        let padding = self.bytes.next_multiple_of(BLOCK as usize) - self.bytes;
        self.file.write_all(&vec![0; padding]).map_err(|e| Error::io(path, e))
    }
}
