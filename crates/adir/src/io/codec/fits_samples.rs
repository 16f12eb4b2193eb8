//! The values of a FITS image as samples: scaled, turned, and with what was not observed filled in and marked.

use std::io::Read;
use std::path::Path;

use super::{Samples, read_error};
use crate::io::fits_cards::{Card, number, whole};
use crate::{Error, Result};

/// Layout of an image.
#[derive(Debug, Clone, Copy)]
pub struct Planes {
    pub width: u32,
    pub height: u32,
    /// 1 or 3, one plane after the other.
    pub channels: usize,
    /// Negative for floats.
    pub bits: i64,
    /// Whether the first row is the top row.
    pub from_top: bool,
}

/// What an image holds.
pub struct Found {
    pub samples: Samples,
    /// As in [`Decoded`](super::Decoded).
    pub white: Result<f64, String>,
    pub unobserved: Vec<bool>,
}

/// The greatest of floats that seem to run from 0 to 1, at least: a physical quantity may be as small as it likes.
const LEAST_WHITE: f32 = 0.25;

/// Reads the planes from `file`, which has the bytes for them.
pub fn samples(path: &Path, file: &mut impl Read, planes: Planes, cards: &[Card]) -> Result<Found> {
    let scale = number(cards, "BSCALE").unwrap_or(1.0);
    let zero = number(cards, "BZERO").unwrap_or(0.0);
    if !(scale.is_finite() && zero.is_finite() && scale != 0.0) {
        return Err(Error::input(path, format!("the FITS header scales values by {scale} and adds {zero}")));
    }
    let blank = whole(cards, "BLANK").filter(|_| planes.bits > 0);
    let Planes { width, height, channels, bits, from_top } = planes;
    let (width, height) = (width as usize, height as usize);
    let mut values = vec![0.0_f32; width * height * channels];
    let mut unobserved = Vec::new();
    let mut row = vec![0; width * usize::try_from(bits.unsigned_abs() / 8).unwrap_or(1)];
    for channel in 0..channels {
        for y in 0..height {
            file.read_exact(&mut row).map_err(|e| read_error(path, e))?;
            let y = if from_top { y } else { height - 1 - y };
            let target = values[y * width * channels..].iter_mut().skip(channel).step_by(channels);
            for (x, (target, value)) in target.zip(row.chunks_exact(row.len() / width)).enumerate() {
                match read(value, bits, blank) {
                    Some(value) => *target = (value * scale + zero) as f32,
                    None => {
                        unobserved.resize(width * height, false);
                        unobserved[y * width + x] = true;
                    }
                }
            }
        }
    }
    fill(path, &mut values, channels, &unobserved)?;
    let most = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let unsigned = bits == 16 && scale == 1.0 && zero == 32768.0;
    let plain = scale == 1.0 && zero == 0.0;
    let unknown = |name: &str| Err(name.to_owned());
    let white = match bits {
        8 if plain => Ok(255.0),
        16 if unsigned && most > 32767.0 => Ok(65535.0),
        16 if unsigned => unknown("unsigned 16-bit integers"),
        ..0 if most >= LEAST_WHITE => Ok(1.0),
        ..0 => unknown("floats"),
        _ if plain => unknown(&format!("{bits}-bit integers")),
        _ => unknown(&format!("scaled {bits}-bit integers")),
    };
    let samples = match bits {
        8 if plain => Samples::Eight(values.into_iter().map(|v| v as u8).collect()),
        16 if unsigned => Samples::Sixteen(values.into_iter().map(|v| v as u16).collect()),
        _ => Samples::Float(values),
    };
    Ok(Found { samples, white, unobserved })
}

/// A value as it is stored; `None` where none was observed.
fn read(bytes: &[u8], bits: i64, blank: Option<i64>) -> Option<f64> {
    let whole = match (bits, bytes) {
        (8, [a]) => i64::from(*a),
        (16, [a, b]) => i16::from_be_bytes([*a, *b]).into(),
        (32, [a, b, c, d]) => i32::from_be_bytes([*a, *b, *c, *d]).into(),
        (-32, [a, b, c, d]) => return Some(f32::from_be_bytes([*a, *b, *c, *d]).into()).filter(|v: &f64| !v.is_nan()),
        _ => {
            let bytes = *bytes.first_chunk::<8>()?;
            match bits {
                64 => i64::from_be_bytes(bytes),
                _ => return Some(f64::from_be_bytes(bytes)).filter(|v| !v.is_nan()),
            }
        }
    };
    (blank != Some(whole)).then_some(whole as f64)
}

/// Gives what was not observed the median of each channel.
fn fill(path: &Path, values: &mut [f32], channels: usize, unobserved: &[bool]) -> Result<()> {
    if unobserved.is_empty() {
        return Ok(());
    }
    for channel in 0..channels {
        let own = || values.iter().skip(channel).step_by(channels).zip(unobserved);
        let mut observed: Vec<f32> = own().filter(|(_, hidden)| !**hidden).map(|(value, _)| *value).collect();
        if observed.is_empty() {
            return Err(Error::input(path, "no pixel was observed: all are BLANK or NaN"));
        }
        let middle = observed.len() / 2;
        let median = *observed.select_nth_unstable_by(middle, f32::total_cmp).1;
        let hidden = values.iter_mut().skip(channel).step_by(channels).zip(unobserved).filter(|(_, hidden)| **hidden);
        hidden.for_each(|(value, _)| *value = median);
    }
    Ok(())
}
