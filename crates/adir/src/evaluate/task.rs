//! A task of an evaluation: how the truth is degraded.

use std::str::FromStr;
use std::sync::Arc;

use crate::io::limits::Limits;
use crate::metric::psnr_rgb;
use crate::noise::{Noise, Stream};
use crate::operator::{Boundary, Degradation, ImageShape, LinearOperator, Mask, wiener};
use crate::problem::{Measurement, Problem, Saturated};
use crate::task::Task;
use crate::tensor::{self, Tensor, from_f32};
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

    /// `TASK[:KERNEL][+SIGMA][+GAINg][+light]`: the noise in grey levels of 0..255, the gain of noise that grows with the
    /// signal, and whether it is light that is degraded, by the tone curve of sRGB.
    fn from_str(text: &str) -> Result<Self> {
        let mut parts = text.split('+');
        let what = parts.next().unwrap_or_default();
        let (mut sigma, mut gain, mut linear_light) = (None, None, false);
        for part in parts {
            if part == "light" && !linear_light {
                linear_light = true;
                continue;
            }
            let (number, into) = match part.strip_suffix('g') {
                Some(number) => (number, &mut gain),
                None => (part, &mut sigma),
            };
            let number = number.parse::<f64>().ok().filter(|v| (0.0..=1000.0).contains(v) && into.is_none());
            *into = Some(number.ok_or_else(|| {
                Error::config(format!(
                    "{text}: expected a noise level from 0 to 1000 after +, a gain with the letter g, or light, each once"
                ))
            })?);
        }
        let sigma = sigma.unwrap_or(0.0);
        let (name, kernel) = what.split_once(':').map_or((what, None), |(name, kernel)| (name, Some(kernel)));
        let task: Task = name.parse()?;
        let mut problem = Problem::new(task).sigma(sigma).boundary(Boundary::Circular);
        problem.kernel = kernel.map(Into::into);
        (problem.gain, problem.linear_light) = (gain, linear_light);
        problem.check_light()?;
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
    /// The same on light.
    ///
    /// # Errors
    /// [`Error::Config`] for tasks that mix no pixels, to which light and encoded values are the same.
    pub fn in_light(&self) -> Result<Self> {
        if self.problem.linear_light { Ok(self.clone()) } else { format!("{}+light", self.text).parse() }
    }

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
    pub fn operator(&self, x: &Tensor<4>) -> Result<Arc<dyn LinearOperator>> {
        let shape = ImageShape::of_batch(x);
        self.degradation.build(shape, self.mask(shape)?.as_ref())
    }

    /// y = A x + e, in full precision; of light, y is encoded again before the noise comes.
    ///
    /// # Errors
    /// Those of the operator.
    pub fn observe(&self, x: &Tensor<4>, seed: u64) -> Result<Tensor<4>> {
        let a = self.operator(x)?;
        match self.problem.light() {
            None => observe(a.as_ref(), x, self.sigma, self.problem.gain, seed),
            Some(light) => Ok(with_noise(light.to_encoded(&a.apply(&light.to_light(x)?)?)?, self.sigma, seed)),
        }
    }

    /// By what results of the shape of x are compared with y, see [`Measurement::judged`] and [`Measurement::compared`].
    /// `None` where it is A and y as they are.
    ///
    /// # Errors
    /// Those of the operator.
    pub fn measured(&self, x: &Tensor<4>, y: &Tensor<4>) -> Result<Option<Measurement>> {
        if self.problem.gain.is_none() && !self.problem.linear_light {
            return Ok(None);
        }
        let shape = ImageShape::of_batch(x);
        let mut problem = self.problem.clone();
        problem.mask = self.mask(shape)?.map(Into::into);
        problem.measure(y, NoiseLevel(0.0), shape.channels, &Limits::default()).map(Some)
    }

    /// y through a Wiener filter of `a`, in light where that is what `a` acts on.
    pub(super) fn filtered(&self, a: &dyn LinearOperator, y: &Tensor<4>, ratio: f64) -> Result<Tensor<4>> {
        match self.problem.light() {
            None => wiener(a, y, ratio),
            Some(light) => light.to_encoded(&wiener(a, &light.to_light(y)?, ratio)?),
        }
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
                sum += psnr_rgb(&self.filtered(a.as_ref(), y, ratio)?, x)?[0];
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

/// y = A x + e, the noise drawn from `seed`. With a gain, A x is counted in events of `gain` grey levels each, whose number
/// is Poisson's, before the noise of standard deviation `sigma` comes; below black there are none.
///
/// # Errors
/// Those of the operator.
pub fn observe(
    a: &dyn LinearOperator,
    x: &Tensor<4>,
    sigma: NoiseLevel,
    gain: Option<f64>,
    seed: u64,
) -> Result<Tensor<4>> {
    let mut y = a.apply(x)?;
    if let Some(gain) = gain {
        let (noise, unit) = (Noise::new(seed, Stream::Degradation), NoiseLevel::from_255(gain).0);
        let values = tensor::to_f64(&y)?.into_iter().enumerate();
        let counted =
            values.map(|(i, v)| noise.poisson(0, i as u64, ((v + 1.0) / unit).max(0.0)) * unit - 1.0).collect();
        y = tensor::from_f64(counted, y.dims(), &y.device()).cast(y.dtype());
    }
    Ok(with_noise(y, sigma, seed))
}

/// `y` with white noise drawn from `seed`.
pub fn with_noise(y: Tensor<4>, sigma: NoiseLevel, seed: u64) -> Tensor<4> {
    if sigma.0 == 0.0 {
        return y;
    }
    let noise = Noise::new(seed, Stream::Degradation).normal_tensor(0, y.dims(), &y.device(), y.dtype());
    y + noise * sigma.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_cut_to_what_network_and_factor_divide() {
        let unit = |text: &str, multiple: usize| text.parse::<EvalTask>().unwrap().unit(multiple);
        assert_eq!((unit("sr3", 8), unit("sr4", 8), unit("sr16", 8), unit("sr6", 4)), (24, 8, 16, 12));
        let noise = |text: &str| text.parse::<EvalTask>().map(|task| (task.sigma.to_255(), task.problem.gain));
        assert_eq!(noise("denoise+2+1.5g").unwrap(), (2.0, Some(1.5)));
        assert_eq!(noise("sr4+1.5g").unwrap(), (0.0, Some(1.5)));
        assert!(
            ["denoise+2+3", "sr4+1g+1g", "sr4+g", "sr4+-1", "denoise+2+0g"].iter().all(|text| noise(text).is_err())
        );
        let light = |text: &str| text.parse::<EvalTask>().map(|task| task.problem.linear_light);
        assert!(light("deblur:box:3+1+light").unwrap() && light("sr2+light").unwrap() && !light("sr2").unwrap());
        for refused in ["denoise+25+light", "inpaint+light", "colourise+light", "sr2+light+light", "sr2+1.5g+light"] {
            assert!(matches!(light(refused), Err(Error::Config(_))), "{refused}");
        }
        assert_eq!((unit("denoise+25", 32), unit("sr3:box:3+2", 1), unit("inpaint", 0)), (32, 3, 1));
    }

    /// Of black and white in equal parts, half of the light is left, which is brighter than half of the encoded values; and
    /// the truth agrees with what was seen of its light.
    #[test]
    fn light_is_degraded_as_light() {
        let checks = (0..3 * 256).map(|i| if (i % 16 + i / 16) % 2 == 0 { -1.0 } else { 1.0 }).collect();
        let x = from_f32(checks, [1, 3, 16, 16], &tensor::cpu());
        let plain: EvalTask = "sr2".parse().unwrap();
        let light = plain.in_light().unwrap();
        assert_eq!((light.text.as_str(), light.in_light().unwrap().text.as_str()), ("sr2+light", "sr2+light"));
        for (task, expected) in [(&plain, 0.0), (&light, 2.0 * 0.735_357 - 1.0)] {
            let y = task.observe(&x, 0).unwrap();
            // Within, where no border is mirrored.
            let inside = |i: usize| (2..6).contains(&(i % 8)) && (2..6).contains(&(i / 8 % 8));
            let off = |(i, v): (usize, f64)| inside(i) && (v - expected).abs() > 1e-3;
            assert!(!tensor::to_f64(&y).unwrap().into_iter().enumerate().any(off), "{}", task.text);
        }
        let y = light.observe(&x, 0).unwrap();
        assert!(plain.measured(&x, &y).unwrap().is_none());
        let measured = light.measured(&x, &y).unwrap().unwrap();
        let dark = measured.agreement(&(x.clone() * 0.9)).unwrap();
        assert!(measured.agreement(&x).unwrap() > 80.0 && dark < 40.0, "{dark}");
    }
}
