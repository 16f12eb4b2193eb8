//! Whether y holds values that no image from black to white explains: a star, a lamp, the sun.

use super::Measurement;
use crate::Result;
use crate::operator::{Degradation, ImageShape, Mask};
use crate::resample::cubic;
use crate::tensor;

/// Standard deviations of noise that the largest of many values may lie off.
const SPREAD: f64 = 6.0;
/// Values beyond this come from no rounding in f32.
const ROUNDING: f64 = 1e-4;

impl Measurement {
    /// The least and the largest value of y, black being 0 and white 1, where they lie further outside than noise and
    /// the overshoot of A on images from black to white can take them. Missing pixels do not count. `None` where they
    /// do not, and for an operator of a caller, whose values need not be those of an image.
    ///
    /// # Errors
    /// Those of reading y, and of a kernel's parameters.
    pub fn beyond_range(&self) -> Result<Option<[f64; 2]>> {
        let Some(degradation) = &self.degradation else { return Ok(None) };
        let known = self.known.as_ref().map(Mask::known);
        let plane = ImageShape::of_batch(&self.y).pixels();
        let seen = |i: usize| known.is_none_or(|known| known.get(i % plane).is_none_or(|known| *known));
        let values = tensor::to_f32(&self.y)?;
        let values = values.iter().enumerate().filter(|(i, _)| seen(*i)).map(|(_, v)| f64::from(*v));
        let (least, most) = values.fold((0.0_f64, 0.0_f64), |(a, b), v| (a.min(v), b.max(v)));
        let noise =
            SPREAD * self.unevenness().map_or(self.sigma(), |noise| noise.most).0.hypot(self.rounding.0) + ROUNDING;
        let limit = gain(degradation)? + noise;
        Ok((least < -limit || most > limit).then(|| [least, most].map(|v| (v + 1.0) / 2.0)))
    }
}

/// The largest absolute value that A makes of values from -1 to 1, or a bound of it.
fn gain(degradation: &Degradation) -> Result<f64> {
    Ok(match degradation {
        Degradation::Identity | Degradation::Inpaint | Degradation::Grayscale => 1.0,
        Degradation::SuperResolution { factor } => overshoot(*factor).powi(2),
        Degradation::Blur { kernel, .. } => kernel.build()?.weights().iter().map(|w| w.abs()).sum(),
        Degradation::Compose(parts) => parts.iter().map(gain).product::<Result<f64>>()?,
    })
}

/// The same of the cubic kernel that shrinks a row by `factor`.
fn overshoot(factor: usize) -> f64 {
    let scale = factor as f64;
    let middle = (scale - 1.0) / 2.0;
    let weights = (-2 * factor as i64..=3 * factor as i64).map(|i| cubic((i as f64 - middle) / scale));
    let (sum, absolute) = weights.fold((0.0, 0.0), |(sum, absolute), w| (sum + w, absolute + w.abs()));
    absolute / sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::limits::Limits;
    use crate::problem::Problem;
    use crate::tensor::{cpu, from_f32};
    use crate::units::NoiseLevel;

    fn beyond(problem: &Problem, most: f32) -> bool {
        let mut y = vec![0.2; 3 * 256];
        y[77] = most;
        y[78] -= 0.1;
        is_beyond(problem, y)
    }

    fn is_beyond(problem: &Problem, y: Vec<f32>) -> bool {
        let y = from_f32(y, [1, 3, 16, 16], &cpu());
        let measured = problem.measure(&y, NoiseLevel(0.0), 3, &Limits::default()).unwrap();
        measured.beyond_range().unwrap().is_some()
    }

    #[test]
    fn noise_and_overshoot_are_within_what_lies_outside() {
        let (noisy, sharp) = (Problem::denoise(25.0), Problem::denoise(1.0));
        assert!(!beyond(&noisy, 1.9) && beyond(&noisy, 2.4));
        assert!(!beyond(&sharp, 1.04) && beyond(&sharp, 1.06));
        let shrunk = Problem::super_resolution(4);
        assert!(!beyond(&shrunk, 1.3) && beyond(&shrunk, 1.5), "{}", overshoot(4).powi(2));
        // A single bright value is no blur of an area, but a point, whose light is no part of what is left of y.
        let rising = |most: f32| (0..3 * 256).map(|i| most * (i % 16) as f32 / 15.0).collect();
        assert!(is_beyond(&Problem::deblur("gaussian:5:1.2"), rising(1.01)));
        assert!(!is_beyond(&Problem::deblur("gaussian:5:1.2"), rising(1.0)));
    }
}
