//! Pixels at white: bounds, not measurements.
//!
//! Where the light is beyond what a sensor or a file can hold, y is white, and A x is at least that. A restoration that
//! takes the white for a measurement makes rings and dark centres, because no x explains it. Black is another matter:
//! there is no light below black, so y = 0 says that x is black, and it stays a measurement.

use serde::{Deserialize, Serialize};

use crate::operator::{ImageShape, Mask};
use crate::tensor::{self, Tensor};
use crate::{Error, Result};

/// What pixels at white say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Saturated {
    /// That there was at least that much light, after a blur with weights of 0 or more; else nothing: the [`plateaus`] of
    /// them are left out, as unknown pixels are. They never count in the agreement. The default of deblurring, for those
    /// around which no image up to white explains y.
    Ignore,
    /// What they say. The default of all else: a noisy white would be darker without its brighter half.
    Keep,
}

/// Pixels of a plateau, at least. A single white pixel is more likely noise.
const PLATEAU: usize = 4;

/// Which pixels of `y`, `[1, c, h, w]` in [-1, 1], are not in a plateau at white: 4 or more neighbours, also
/// diagonal ones, that are white in a channel. `None` where all are, and where values beyond white show that nothing was
/// cut off there.
///
/// # Errors
/// [`crate::Error::Config`] when nothing else is left, [`crate::Error::Backend`] when the tensor cannot be read.
pub fn plateaus(y: &Tensor<4>) -> Result<Option<Mask>> {
    let ImageShape { height, width, .. } = ImageShape::of_batch(y);
    let values = tensor::to_f32(y)?;
    if values.iter().any(|v| *v > 1.0) || !values.contains(&1.0) {
        return Ok(None);
    }
    let mut known = vec![true; height * width];
    for plane in values.chunks_exact(height * width) {
        let at_white: Vec<bool> = plane.iter().map(|v| *v >= 1.0).collect();
        for area in areas(&at_white, width).into_iter().filter(|area| area.len() >= PLATEAU) {
            area.into_iter().for_each(|i| known[i] = false);
        }
    }
    if known.iter().all(|known| *known) {
        return Ok(None);
    }
    if !known.contains(&true) {
        return Err(Error::config(
            "all pixels of the observation are saturated: `--saturated keep` takes white as it is",
        ));
    }
    Mask::new(height, width, known).map(Some)
}

/// The areas of `marked` pixels of rows of `width`, each being neighbours, also diagonal ones.
pub(super) fn areas(marked: &[bool], width: usize) -> Vec<Vec<usize>> {
    let height = marked.len() / width;
    let mut seen = vec![false; marked.len()];
    let mut areas = Vec::new();
    for start in 0..marked.len() {
        if !marked[start] || seen[start] {
            continue;
        }
        seen[start] = true;
        let mut area = vec![start];
        let mut next = 0;
        while let Some(&i) = area.get(next) {
            next += 1;
            let (row, column) = (i / width, i % width);
            for r in row.saturating_sub(1)..(row + 2).min(height) {
                for c in column.saturating_sub(1)..(column + 2).min(width) {
                    let j = r * width + c;
                    if marked[j] && !seen[j] {
                        seen[j] = true;
                        area.push(j);
                    }
                }
            }
        }
        areas.push(area);
    }
    areas
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{cpu, from_f32};

    fn unknown(values: Vec<f32>, height: usize, width: usize) -> Vec<usize> {
        let y = from_f32(values, [1, 1, height, width], &cpu());
        let mask = plateaus(&y).unwrap();
        mask.map_or(Vec::new(), |mask| {
            mask.known().iter().enumerate().filter(|(_, known)| !**known).map(|(i, _)| i).collect()
        })
    }

    #[test]
    fn plateaus_are_found_and_single_pixels_are_not() {
        let mut values = vec![0.0; 64];
        for i in [9, 18, 27, 20, 63, 55] {
            values[i] = 1.0;
        }
        assert_eq!(unknown(values.clone(), 8, 8), [9, 18, 20, 27], "diagonals join, two in the corner do not");
        values[1] = 1.01;
        assert!(unknown(values, 8, 8).is_empty(), "not cut off at white");
        assert!(plateaus(&from_f32(vec![1.0; 64], [1, 1, 8, 8], &cpu())).is_err());
    }

    #[test]
    fn one_channel_at_white_is_enough() {
        let mut values = vec![0.0; 3 * 16];
        (16..20).for_each(|i| values[i] = 1.0);
        let mask = plateaus(&from_f32(values, [1, 3, 4, 4], &cpu())).unwrap().unwrap();
        assert_eq!(mask.known().iter().filter(|known| !**known).count(), 4);
    }
}
