//! Oracles for tests: priors whose exact denoiser is known in closed form, and comparison of tensors.
//!
//! Public because tests of every module, of the program and of code built on this crate need the same ones. Here and
//! nowhere else a function may panic: an assertion is its purpose.

use crate::models::{Denoiser, Prediction};
use crate::schedule::{Schedule, Timestep};
use crate::tensor::{Tensor, from_f64, to_f64};
use crate::{Error, Result};

/// The exact denoiser of the prior x0 ~ N(mean, variance), independent in every element.
#[derive(Debug, Clone)]
pub struct GaussianDenoiser {
    schedule: Schedule,
    mean: Tensor<4>,
    variance: Tensor<4>,
}

impl GaussianDenoiser {
    /// For a prior of `mean` and `variance` (0 or more), each `[1, c, h, w]`, or 1 where all elements agree, in the
    /// precision of the samples.
    pub fn new(schedule: Schedule, mean: Tensor<4>, variance: Tensor<4>) -> Self {
        Self { schedule, mean, variance }
    }
}

impl Denoiser for GaussianDenoiser {
    fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// eps = sqrt(1 - alpha_bar) (x_t - sqrt(alpha_bar) mean) / (alpha_bar variance + 1 - alpha_bar).
    fn predict(&self, x_t: &Tensor<4>, t: Timestep, _class: Option<usize>) -> Result<Prediction> {
        let alpha_bar = self.schedule.original_alpha_bar(t);
        let centred = x_t.clone() - self.mean.clone().mul_scalar(alpha_bar.sqrt());
        let spread = self.variance.clone().mul_scalar(alpha_bar).add_scalar(1.0 - alpha_bar);
        Ok(Prediction { eps: (centred / spread).mul_scalar((1.0 - alpha_bar).sqrt()), variance: None })
    }

    fn size_multiple(&self) -> usize {
        1
    }
}

/// The exact denoiser of the prior that is one of a few images with equal probability.
#[derive(Debug, Clone)]
pub struct FiniteSetDenoiser {
    schedule: Schedule,
    images: Vec<Vec<f64>>,
}

impl FiniteSetDenoiser {
    /// For the given images, each `[c, h, w]` row-major.
    pub fn new(schedule: Schedule, images: Vec<Vec<f64>>) -> Self {
        Self { schedule, images }
    }
}

impl Denoiser for FiniteSetDenoiser {
    fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// x0 = sum of w_i x_i with w_i proportional to exp(-|x_t - sqrt(alpha_bar) x_i|^2 / (2 (1 - alpha_bar))).
    fn predict(&self, x_t: &Tensor<4>, t: Timestep, _class: Option<usize>) -> Result<Prediction> {
        let alpha_bar = self.schedule.original_alpha_bar(t);
        let values = to_f64(x_t)?;
        let size = x_t.dims()[1..].iter().product::<usize>();
        let mut eps = Vec::with_capacity(values.len());
        for sample in values.chunks(size.max(1)) {
            let log_weights = self
                .images
                .iter()
                .map(|image| {
                    if image.len() != size {
                        return Err(Error::config(format!("a prior of {} values for {size}", image.len())));
                    }
                    let distance: f64 = sample.iter().zip(image).map(|(x, i)| (x - alpha_bar.sqrt() * i).powi(2)).sum();
                    Ok(-distance / (2.0 * (1.0 - alpha_bar)))
                })
                .collect::<Result<Vec<_>>>()?;
            let largest = log_weights.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = log_weights.iter().map(|w| (w - largest).exp()).collect();
            let total: f64 = weights.iter().sum();
            for (j, x) in sample.iter().enumerate() {
                let x0 = self.images.iter().zip(&weights).map(|(image, w)| w * image[j]).sum::<f64>() / total;
                eps.push((x - alpha_bar.sqrt() * x0) / (1.0 - alpha_bar).sqrt());
            }
        }
        let eps = from_f64(eps, x_t.dims(), &x_t.device()).cast(x_t.dtype());
        Ok(Prediction { eps, variance: None })
    }

    fn size_multiple(&self) -> usize {
        1
    }
}

/// How far apart two lists of numbers are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distance {
    /// |actual - expected|_2 / |expected|_2; the numerator alone where all expected values are zero.
    pub relative_l2: f64,
    /// Largest absolute difference.
    pub max: f64,
    /// Where that difference is.
    pub worst: usize,
}

/// The distance between `actual` and `expected`.
///
/// # Errors
/// [`Error::Config`] when they differ in length, [`Error::Numerical`] when either holds a value that is not finite.
pub fn distance(actual: &[f64], expected: &[f64]) -> Result<Distance> {
    if actual.len() != expected.len() {
        return Err(Error::config(format!("{} values to compare with {}", actual.len(), expected.len())));
    }
    for (values, which) in [(actual, "actual"), (expected, "expected")] {
        if let Some(i) = values.iter().position(|v| !v.is_finite()) {
            return Err(Error::Numerical(format!("{which} value {i} is {}", values[i])));
        }
    }
    let (mut squares, mut reference, mut max, mut worst) = (0.0, 0.0, 0.0, 0);
    for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
        let difference = (a - e).abs();
        squares += difference * difference;
        reference += e * e;
        if difference > max {
            (max, worst) = (difference, i);
        }
    }
    let scale = if reference > 0.0 { reference.sqrt() } else { 1.0 };
    Ok(Distance { relative_l2: squares.sqrt() / scale, max, worst })
}

/// Asserts that `actual` is within `relative_l2` of `expected`, both finite, in norm.
///
/// # Panics
/// Where it is not, naming the element that differs most.
#[track_caller]
pub fn assert_close(actual: &[f64], expected: &[f64], relative_l2: f64) {
    match distance(actual, expected) {
        Ok(d) => assert!(
            d.relative_l2 <= relative_l2,
            "relative L2 distance {:e}, allowed {relative_l2:e}; worst at {}: {} instead of {}",
            d.relative_l2,
            d.worst,
            actual[d.worst],
            expected[d.worst]
        ),
        Err(error) => panic!("{error}"),
    }
}

/// [`assert_close`] on tensors, whose shapes must agree.
///
/// # Panics
/// As [`assert_close`].
#[track_caller]
pub fn assert_tensors_close<const D: usize>(actual: &Tensor<D>, expected: &Tensor<D>, relative_l2: f64) {
    assert_eq!(actual.dims(), expected.dims(), "shapes differ");
    match (to_f64(actual), to_f64(expected)) {
        (Ok(actual), Ok(expected)) => assert_close(&actual, &expected, relative_l2),
        (Err(error), _) | (_, Err(error)) => panic!("{error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_does_not_let_opposite_errors_cancel_or_nan_pass() {
        let d = distance(&[1.5, 0.5, 2.0], &[1.0, 1.0, 2.0]).expect("comparable");
        assert_eq!(d, Distance { relative_l2: f64::sqrt(0.5 / 6.0), max: 0.5, worst: 0 });
        assert_eq!(distance(&[0.25], &[0.0]).expect("comparable").relative_l2, 0.25);
        assert!(distance(&[f64::NAN], &[f64::NAN]).is_err());
        assert!(distance(&[1.0], &[f64::INFINITY]).is_err());
        assert!(distance(&[1.0], &[1.0, 2.0]).is_err());
    }

    #[test]
    #[should_panic(expected = "worst at 1: 2.5 instead of 2")]
    fn assert_close_names_the_worst_element() {
        assert_close(&[1.0, 2.5], &[1.0, 2.0], 1e-3);
    }

    /// A Gaussian is the limit of many points: E[x0 | x_t] by numerical integration over the prior.
    #[test]
    fn gaussian_denoiser_is_the_conditional_expectation() {
        let schedule = Schedule::new(crate::schedule::BetaSchedule::Linear, 1000).expect("a schedule");
        let device = crate::tensor::cpu();
        let one = |v: f64| from_f64(vec![v], [1, 1, 1, 1], &device);
        let denoiser = GaussianDenoiser::new(schedule.clone(), one(0.3), one(0.5));
        for (t, x) in [(10, 0.9), (300, -0.4), (900, 1.7)] {
            let alpha_bar = schedule.alpha_bar(t);
            let weight = |x0: f64| {
                (-(x0 - 0.3).powi(2) / (2.0 * 0.5) - (x - alpha_bar.sqrt() * x0).powi(2) / (2.0 * (1.0 - alpha_bar)))
                    .exp()
            };
            let grid = || (-40_000..40_000).map(|i| f64::from(i) * 2.5e-4);
            let x0 = grid().map(|v| v * weight(v)).sum::<f64>() / grid().map(weight).sum::<f64>();
            let eps = to_f64(&denoiser.predict(&one(x), Timestep(t as u16), None).expect("a prediction").eps)
                .expect("readable");
            assert_close(&eps, &[(x - alpha_bar.sqrt() * x0) / (1.0 - alpha_bar).sqrt()], 1e-9);
        }
    }
}
