//! How much fine detail a blurred y shows, of what photographs have.

use rayon::prelude::*;

use super::Measurement;
use crate::Result;
use crate::operator::{Degradation, ImageShape, Mask, detail_left};
use crate::tensor;

/// Mean square of the Laplacian of photographs, in grey levels: the geometric mean of 23 tuning photographs.
const OF_PHOTOGRAPHS: f64 = 1660.0;
/// The Laplacian's gain for the variance of white noise.
const OF_NOISE: f64 = 20.0;
/// What a photograph would show, in units of what noise shows, from which y tells how much detail there is.
const CLEAR: f64 = 4.0;

impl Measurement {
    /// The fine detail of y, as the mean square of its Laplacian less that of its noise, in relation to what a photograph
    /// blurred by A has on average. `None` where A is no blur of images or the noise of y hides what that would be.
    ///
    /// # Errors
    /// Those of reading y, and of a kernel's parameters.
    pub fn detail(&self) -> Result<Option<f64>> {
        let Some(Degradation::Blur { kernel, .. }) = &self.degradation else { return Ok(None) };
        // Rounding is part of a noise that is larger.
        let noise = OF_NOISE * self.sigma().to_255().max(self.rounding.to_255()).powi(2);
        let expected = OF_PHOTOGRAPHS * detail_left(&kernel.build()?);
        if self.light.is_some() || self.uneven.is_some() || noise == 0.0 || expected < CLEAR * noise {
            return Ok(None);
        }
        let shape = ImageShape::of_batch(&self.y);
        let values = tensor::to_f32(&self.y)?;
        let found = laplacian_square(&values, shape, self.known.as_ref().map(Mask::known));
        Ok(found.map(|found| (found * 127.5 * 127.5 - noise).max(0.0) / expected))
    }
}

/// Mean square of the Laplacian, where a pixel and its four neighbours are known. Sums are taken row by row, so that the number
/// of threads changes nothing.
fn laplacian_square(values: &[f32], shape: ImageShape, known: Option<&[bool]>) -> Option<f64> {
    let ImageShape { height, width, .. } = shape;
    let around = |i: usize| [i, i - width, i - 1, i + 1, i + width];
    let usable = |i: &usize| known.is_none_or(|known| around(*i).into_iter().all(|i| known[i]));
    let square = |plane: &[f32], i: usize| {
        let [middle, others @ ..] = around(i).map(|i| f64::from(plane[i]));
        (4.0 * middle - others.iter().sum::<f64>()).powi(2)
    };
    let of_row = |row: usize| {
        let inner = (row * width + 1..row * width + width.saturating_sub(1)).filter(usable);
        inner.fold((0.0, 0_usize), |(sum, count), i| {
            let squares = values.chunks_exact(shape.pixels()).map(|plane| square(plane, i));
            (sum + squares.sum::<f64>(), count + shape.channels)
        })
    };
    let rows: Vec<_> = (1..height.saturating_sub(1)).into_par_iter().map(of_row).collect();
    let (sum, count) = rows.into_iter().fold((0.0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    (count > 0).then(|| sum / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::image::BitDepth;
    use crate::io::limits::Limits;
    use crate::problem::{Problem, Sigma};
    use crate::task::Task;
    use crate::tensor::{cpu, from_f32};

    fn detail(values: impl Fn(usize, usize) -> f32, sigma: f64, kernel: &str) -> Option<f64> {
        let side = 64;
        let values = (0..side * side).map(|i| values(i / side, i % side).round() / 127.5 - 1.0).collect();
        let y = from_f32(values, [1, 1, side, side], &cpu());
        let problem =
            Problem { kernel: Some(kernel.into()), sigma: Some(Sigma::Levels(sigma)), ..Problem::new(Task::Deblur) };
        problem.measure(&y, BitDepth::Eight.rounding(), 3, &Limits::default()).unwrap().detail().unwrap()
    }

    #[test]
    fn the_laplacian_is_that_of_known_pixels() {
        let shape = ImageShape { channels: 1, height: 4, width: 4 };
        let squares: Vec<f32> = (0..16).map(|i| ((i / 4) * (i / 4)) as f32).collect();
        assert_eq!(laplacian_square(&squares, shape, None), Some(4.0));
        let mut known = vec![true; 16];
        known[1] = false;
        known[4] = false;
        assert_eq!(laplacian_square(&squares, shape, Some(&known)), Some(4.0));
        known[5] = false;
        known[11] = false;
        assert_eq!(laplacian_square(&squares, shape, Some(&known)), None);
    }

    #[test]
    fn a_smooth_picture_has_little_of_it() {
        let ramp = |i: usize, j: usize| 40.0 + 1.7 * i as f32 + 0.9 * j as f32;
        assert!(detail(ramp, 0.0, "box:5").unwrap() < 0.05);
        // A wave of 6 pixels: amplitude 8, so that the Laplacian has (4 - 4 cos 60 degrees) / 2 of 8, squared, on average 1/2.
        let wave = |_: usize, j: usize| 128.0 + 8.0 * (std::f32::consts::TAU * j as f32 / 6.0).sin();
        let found = detail(wave, 0.0, "box:5").unwrap();
        let expected = 8.0 * 8.0 / 2.0 / (OF_PHOTOGRAPHS * 0.02255);
        assert!((found / expected - 1.0).abs() < 0.1, "{found} {expected}");
        assert_eq!(detail(wave, 2.0, "box:5"), None, "noise hides it");
        assert_eq!(detail(wave, 0.0, "gaussian:21:4"), None);
    }
}
