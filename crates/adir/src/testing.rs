//! Oracles for tests: priors whose exact denoiser is known in closed form, and comparison of tensors.
//!
//! Behind the feature `testing`, which this crate's own tests switch on: tests of every module and of code built on
//! this crate need the same ones, and a program needs none. Here and nowhere else a function may panic: an assertion
//! is its purpose.

use crate::models::{Conditioning, Denoiser, DenoiserInfo, EstimateErrors, Prediction, PredictionKind, Pullback};
use crate::operator::{ImageShape, LinearOperator};
use crate::schedule::{Schedule, Timestep, VarianceKind};
use crate::tensor::{Tensor, from_f64, to_f64};
use crate::{Error, Result};

/// The exact denoiser of the prior x0 ~ N(mean, variance), independent in every element.
#[derive(Debug, Clone)]
pub struct GaussianDenoiser {
    info: DenoiserInfo,
    mean: Tensor<4>,
    variance: Tensor<4>,
}

impl GaussianDenoiser {
    /// For a prior of `mean` and `variance` (0 or more), each `[1, c, h, w]`, or 1 where all elements agree, in the
    /// precision of the samples.
    pub fn new(schedule: Schedule, mean: Tensor<4>, variance: Tensor<4>) -> Self {
        Self { info: ideal(schedule, mean.dims()[1]), mean, variance }
    }

    /// The same with a table of the errors of its estimates.
    #[must_use]
    pub fn with_errors(mut self, errors: Option<EstimateErrors>) -> Self {
        self.info.errors = errors;
        self
    }

    /// d eps / d x_t of every element: sqrt(1 - alpha_bar) / (alpha_bar variance + 1 - alpha_bar).
    fn slope(&self, t: Timestep) -> Tensor<4> {
        let alpha_bar = self.info.schedule.original_alpha_bar(t);
        let spread = self.variance.clone().mul_scalar(alpha_bar).add_scalar(1.0 - alpha_bar);
        spread.recip().mul_scalar((1.0 - alpha_bar).sqrt())
    }
}

/// What is known of an ideal denoiser of images of that many channels.
fn ideal(schedule: Schedule, channels: usize) -> DenoiserInfo {
    let (variance, prediction) = (VarianceKind::FixedSmall, PredictionKind::Epsilon);
    DenoiserInfo { channels, size_multiple: 1, schedule, variance, prediction, errors: None }
}

/// The way back of a [`GaussianDenoiser`], which is linear: its slope, and the shape of x_t.
struct Slope(Tensor<4>, [usize; 4]);

impl Pullback for Slope {
    fn x_t(&self, cotangent: &Tensor<4>) -> Result<Tensor<4>> {
        if cotangent.dims() != self.1 {
            let message = format!("a cotangent of shape {:?} for a result of {:?}", cotangent.dims(), self.1);
            return Err(Error::config(message));
        }
        Ok(cotangent.clone() * self.0.clone())
    }
}

impl Denoiser for GaussianDenoiser {
    fn info(&self) -> &DenoiserInfo {
        &self.info
    }

    /// eps = sqrt(1 - alpha_bar) (x_t - sqrt(alpha_bar) mean) / (alpha_bar variance + 1 - alpha_bar).
    fn predict(&self, x_t: &Tensor<4>, t: Timestep, _conditioning: &Conditioning) -> Result<Prediction> {
        let alpha_bar = self.info.schedule.original_alpha_bar(t);
        let centred = x_t.clone() - self.mean.clone().mul_scalar(alpha_bar.sqrt());
        let spread = self.variance.clone().mul_scalar(alpha_bar).add_scalar(1.0 - alpha_bar);
        Ok(Prediction { eps: (centred / spread).mul_scalar((1.0 - alpha_bar).sqrt()), variance: None })
    }

    fn predict_back(
        &self,
        x_t: &Tensor<4>,
        t: Timestep,
        conditioning: &Conditioning,
    ) -> Result<(Prediction, Box<dyn Pullback>)> {
        Ok((self.predict(x_t, t, conditioning)?, Box::new(Slope(self.slope(t), x_t.dims()))))
    }
}

/// The exact denoiser of the prior that is one of a few images with equal probability.
#[derive(Debug, Clone)]
pub struct FiniteSetDenoiser {
    info: DenoiserInfo,
    images: Vec<Vec<f64>>,
}

impl FiniteSetDenoiser {
    /// For the given images of one channel, each `[1, h, w]` row-major.
    pub fn new(schedule: Schedule, images: Vec<Vec<f64>>) -> Self {
        Self { info: ideal(schedule, 1), images }
    }
}

impl Denoiser for FiniteSetDenoiser {
    fn info(&self) -> &DenoiserInfo {
        &self.info
    }

    /// x0 = sum of w_i x_i with w_i proportional to exp(-|x_t - sqrt(alpha_bar) x_i|^2 / (2 (1 - alpha_bar))).
    fn predict(&self, x_t: &Tensor<4>, t: Timestep, _conditioning: &Conditioning) -> Result<Prediction> {
        let alpha_bar = self.info.schedule.original_alpha_bar(t);
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
}

/// A matrix as an operator, from images `[1, 1, columns]` to `[1, 1, rows]`.
#[derive(Debug, Clone)]
pub struct DenseOperator {
    /// The transpose, `[columns, rows]`, f64.
    transpose: Tensor<2>,
    norm_squared: f64,
}

impl DenseOperator {
    /// From the `rows` of the matrix.
    ///
    /// # Errors
    /// [`Error::Config`] when there are none, they are empty, or they differ in length.
    pub fn new(rows: &[Vec<f64>]) -> Result<Self> {
        let columns = rows.first().map_or(0, Vec::len);
        if columns == 0 || rows.iter().any(|row| row.len() != columns) {
            return Err(Error::config(format!("a matrix of {} rows that are empty or differ in length", rows.len())));
        }
        let matrix: Tensor<2> = from_f64(rows.concat(), [rows.len(), columns], &crate::tensor::cpu());
        Ok(Self { transpose: matrix.transpose(), norm_squared: largest_eigenvalue(rows) })
    }

    /// The matrix that scales each element by its own factor.
    ///
    /// # Errors
    /// [`Error::Config`] when there are no factors.
    pub fn diagonal(factors: &[f64]) -> Result<Self> {
        let row = |i| (0..factors.len()).map(|j| if i == j { factors[i] } else { 0.0 }).collect();
        Self::new(&(0..factors.len()).map(row).collect::<Vec<_>>())
    }

    fn multiply(x: &Tensor<4>, matrix: Tensor<2>) -> Result<Tensor<4>> {
        let [n, c, h, w] = x.dims();
        let [from, to] = matrix.dims();
        if [c, h, w] != [1, 1, from] {
            return Err(Error::config(format!("{c}x{h}x{w} values for a matrix that takes 1x1x{from}")));
        }
        let matrix = matrix.cast(x.dtype()).to_device(&x.device());
        Ok(x.clone().reshape([n, from]).matmul(matrix).reshape([n, 1, 1, to]))
    }
}

impl LinearOperator for DenseOperator {
    fn domain(&self) -> ImageShape {
        ImageShape { channels: 1, height: 1, width: self.transpose.dims()[0] }
    }

    fn range(&self) -> ImageShape {
        ImageShape { channels: 1, height: 1, width: self.transpose.dims()[1] }
    }

    fn apply(&self, x: &Tensor<4>) -> Result<Tensor<4>> {
        Self::multiply(x, self.transpose.clone())
    }

    fn adjoint(&self, y: &Tensor<4>) -> Result<Tensor<4>> {
        Self::multiply(y, self.transpose.clone().transpose())
    }

    fn norm_squared(&self) -> f64 {
        self.norm_squared
    }
}

/// Of A^T A for the matrix A of these rows, by power iteration.
fn largest_eigenvalue(rows: &[Vec<f64>]) -> f64 {
    let mut v: Vec<f64> = (0..rows[0].len()).map(|i| 1.0 + 0.1 * (i as f64).sin()).collect();
    let mut eigenvalue = 0.0;
    for _ in 0..2000 {
        let length = v.iter().map(|x| x * x).sum::<f64>().sqrt();
        if length == 0.0 {
            return 0.0;
        }
        let mut next = vec![0.0; v.len()];
        for row in rows {
            let image: f64 = row.iter().zip(&v).map(|(a, x)| a * x / length).sum();
            next.iter_mut().zip(row).for_each(|(out, a)| *out += a * image);
        }
        v = next;
        eigenvalue = v.iter().map(|x| x * x).sum::<f64>().sqrt();
    }
    eigenvalue
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
        let d = distance(&[2.0, 0.0, 2.0, 0.0], &[1.0; 4]).expect("comparable");
        assert_eq!(d, Distance { relative_l2: 1.0, max: 1.0, worst: 0 });
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
            let eps =
                to_f64(&denoiser.predict(&one(x), Timestep(t as u16), &Conditioning::None).expect("a prediction").eps)
                    .expect("readable");
            assert_close(&eps, &[(x - alpha_bar.sqrt() * x0) / (1.0 - alpha_bar).sqrt()], 1e-9);
        }
    }

    /// It is linear: a difference over a long step is exact.
    #[test]
    fn gaussian_denoiser_pulls_back_by_its_slope() {
        let schedule = Schedule::new(crate::schedule::BetaSchedule::Linear, 1000).expect("a schedule");
        let device = crate::tensor::cpu();
        let row = |v: [f64; 3]| from_f64(v.to_vec(), [1, 1, 1, 3], &device);
        let denoiser = GaussianDenoiser::new(schedule, row([0.3, 0.1, -0.2]), row([0.5, 0.01, 2.0]));
        for t in [Timestep(10), Timestep(900)] {
            let (at, far, g) = (row([0.1, -1.0, 0.4]), row([1.1, 0.0, 1.4]), row([0.7, -0.3, 1.9]));
            let (near, back) = denoiser.predict_back(&at, t, &Conditioning::None).expect("a prediction");
            let moved = denoiser.predict(&far, t, &Conditioning::None).expect("a prediction").eps - near.eps;
            assert_tensors_close(&back.x_t(&g).expect("a gradient"), &(moved * g), 1e-12);
        }
        let none = FiniteSetDenoiser::new(denoiser.info().schedule.clone(), vec![vec![0.0; 3]]);
        assert!(none.predict_back(&row([0.0; 3]), Timestep(0), &Conditioning::None).is_err());
    }
}
