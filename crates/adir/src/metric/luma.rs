//! Luma as super-resolution papers take it: BT.601, studio range.

use super::pixels::Plane;
use crate::{Error, Result};

/// Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255 of 8-bit planes, not rounded, in [16, 235].
///
/// A single plane is grey and stays as it is, in [0, 255]: that is how the grey images of the
/// standard sets are scored.
///
/// # Errors
/// [`Error::Config`] when there are neither 1 nor 3 planes.
pub(super) fn luma(planes: &[Plane]) -> Result<Plane> {
    match planes {
        [gray] => Ok(gray.clone()),
        [red, green, blue] => {
            let rgb = red.values.iter().zip(&green.values).zip(&blue.values);
            let values = rgb.map(|((r, g), b)| 16.0 + (65.481 * r + 128.553 * g + 24.966 * b) / 255.0).collect();
            Ok(Plane { height: red.height, width: red.width, values })
        }
        _ => Err(Error::config(format!("luma needs an image of 1 or 3 channels, found {}", planes.len()))),
    }
}
