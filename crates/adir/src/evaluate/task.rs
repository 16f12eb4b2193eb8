//! A task of an evaluation: how the truth is degraded.

use std::str::FromStr;

use crate::io::limits::Limits;
use crate::metric::psnr_rgb;
use crate::noise::{Noise, Stream};
use crate::operator::{Boundary, Degradation, ImageShape, LinearOperator, Mask, wiener};
use crate::problem::{Problem, Saturated};
use crate::task::Task;
use crate::tensor::{Tensor, from_f32};
use crate::units::NoiseLevel;
use crate::{Error, Result};

use super::Truth;

/// A degradation and the noise after it.
#[derive(Debug, Clone)]
pub struct EvalTask {
    /// As it was written.
    pub text: String,
    /// The task.
    pub task: Task,
    /// What is done to the truth.
    pub degradation: Degradation,
    /// Standard deviation of the noise.
    pub sigma: NoiseLevel,
    /// The same as a restoration is told, without the mask.
    pub problem: Problem,
}

impl FromStr for EvalTask {
    type Err = Error;

    /// `TASK[:KERNEL][+SIGMA]`, the noise in grey levels of 0..255.
    fn from_str(text: &str) -> Result<Self> {
        let (what, sigma) = match text.split_once('+') {
            Some((what, sigma)) => {
                let sigma = sigma.parse().ok().filter(|s| (0.0..=1000.0).contains(s));
                (
                    what,
                    sigma.ok_or_else(|| {
                        Error::config(format!("{text}: expected a noise level from 0 to 1000 after +"))
                    })?,
                )
            }
            None => (text, 0.0),
        };
        let (name, kernel) = what.split_once(':').map_or((what, None), |(name, kernel)| (name, Some(kernel)));
        let task: Task = name.parse()?;
        let mut problem = Problem::new(task).sigma(sigma).boundary(Boundary::Circular);
        problem.kernel = kernel.map(Into::into);
        // Observations keep their full precision and range: nothing was cut off at white.
        problem.saturated = Some(Saturated::Keep);
        let limits = Limits::default();
        let degradation = match task {
            // Its mask follows from the size of each image.
            Task::Inpaint if kernel.is_none() => Degradation::Inpaint,
            _ => problem.degradation(Boundary::Circular, &limits)?.0,
        };
        Ok(Self { text: text.to_owned(), task, degradation, sigma: NoiseLevel::from_255(sigma), problem })
    }
}

impl EvalTask {
    /// The factor of a super-resolution.
    pub fn factor(&self) -> Option<usize> {
        match self.task {
            Task::SuperResolution { factor } => Some(factor),
            _ => None,
        }
    }

    /// What sides must be multiples of: the least common multiple of what the network takes and of the factor. They are
    /// cut down to such a side, as much at either end as at the other (one more pixel at the right and the bottom).
    pub fn unit(&self, multiple: usize) -> usize {
        let (multiple, factor) = (multiple.max(1), self.factor().unwrap_or(1));
        let (mut a, mut b) = (multiple, factor);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        multiple / a * factor
    }

    /// The missing pixels of an inpainting: a hole in the middle, a quarter of the sides.
    ///
    /// # Errors
    /// [`Error::Config`] when the image has no other pixels.
    pub fn mask(&self, shape: ImageShape) -> Result<Option<Mask>> {
        if !self.degradation.needs_mask() {
            return Ok(None);
        }
        let ImageShape { height, width, .. } = shape;
        let inside = |i: usize, side: usize| (side * 3 / 8..side - side * 3 / 8).contains(&i);
        let known = (0..height * width).map(|i| !(inside(i / width, height) && inside(i % width, width))).collect();
        Mask::new(height, width, known).map(Some)
    }

    /// A for images of the shape of x.
    ///
    /// # Errors
    /// As [`Degradation::build`].
    pub fn operator(&self, x: &Tensor<4>) -> Result<std::sync::Arc<dyn LinearOperator>> {
        let shape = ImageShape::of_batch(x);
        self.degradation.build(shape, self.mask(shape)?.as_ref())
    }

    /// y = A x + e, in full precision.
    ///
    /// # Errors
    /// Those of the operator.
    pub fn observe(&self, x: &Tensor<4>, seed: u64) -> Result<Tensor<4>> {
        observe(self.operator(x)?.as_ref(), x, self.sigma, seed)
    }

    /// For a blur, the noise-to-signal ratio with which a Wiener filter has the best mean PSNR on these very images,
    /// which favours it.
    ///
    /// # Errors
    /// Those of the operator.
    pub fn tuned_wiener(&self, images: &[Truth]) -> Result<Option<f64>> {
        if !matches!(self.degradation, Degradation::Blur { .. }) {
            return Ok(None);
        }
        let mut best: Option<(f64, f64)> = None;
        let observed = images.iter().map(|t| Ok((self.operator(&t.x)?, self.observe(&t.x, t.noise(0))?, &t.x)));
        let observed = observed.collect::<Result<Vec<_>>>()?;
        for tenth in -60..=0 {
            let ratio = 10f64.powf(f64::from(tenth) / 10.0);
            let mut sum = 0.0;
            for (a, y, x) in &observed {
                sum += psnr_rgb(&wiener(a.as_ref(), y, ratio)?, x)?[0];
            }
            if best.is_none_or(|(most, _)| sum > most) {
                best = Some((sum, ratio));
            }
        }
        Ok(best.map(|(_, ratio)| ratio))
    }

    /// The observation as a picture of the size of x: missing pixels grey, small ones enlarged.
    ///
    /// # Errors
    /// As [`EvalTask::mask`].
    pub fn picture(&self, y: &Tensor<4>, x: &Tensor<4>) -> Result<Tensor<4>> {
        let [_, _, height, width] = x.dims();
        let [_, channels, h, w] = y.dims();
        let y = if channels == 1 { y.clone().repeat_dim(1, 3) } else { y.clone() };
        let y =
            y.reshape([1, 3, h, 1, w, 1]).repeat(&[1, 1, 1, height / h, 1, width / w]).reshape([1, 3, height, width]);
        match self.mask(ImageShape::of_batch(x))? {
            Some(mask) => {
                let known = mask.known().iter().map(|k| f32::from(*k)).collect();
                Ok(y * from_f32(known, [1, 1, height, width], &x.device()))
            }
            None => Ok(y),
        }
    }
}

/// y = A x + e, the noise drawn from `seed`.
///
/// # Errors
/// Those of the operator.
pub fn observe(a: &dyn LinearOperator, x: &Tensor<4>, sigma: NoiseLevel, seed: u64) -> Result<Tensor<4>> {
    let y = a.apply(x)?;
    if sigma.0 == 0.0 {
        return Ok(y);
    }
    let noise = Noise::new(seed, Stream::Degradation).normal_tensor(0, y.dims(), &y.device(), y.dtype());
    Ok(y + noise * sigma.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_cut_to_what_network_and_factor_divide() {
        let unit = |text: &str, multiple: usize| text.parse::<EvalTask>().unwrap().unit(multiple);
        assert_eq!((unit("sr3", 8), unit("sr4", 8), unit("sr16", 8), unit("sr6", 4)), (24, 8, 16, 12));
        assert_eq!((unit("denoise+25", 32), unit("sr3:box:3+2", 1), unit("inpaint", 0)), (32, 3, 1));
    }
}
