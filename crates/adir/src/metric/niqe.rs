//! NIQE of Mittal, Soundararajan and Bovik (2013): how far the statistics of an image are from those of pristine
//! photographs, without the truth.

use std::sync::OnceLock;

use libm::tgamma;

use super::luma::luma;
use super::pixels::{Plane, eight_bit};
use super::{Better, Case, Metric, Needs, Over, single};
use crate::operator::{BicubicDownsample, ImageShape, LinearOperator};
use crate::tensor::{self, Tensor, cpu};
use crate::{Error, Result};

/// Side of the blocks whose features are compared.
const BLOCK: usize = 96;
/// Features of a block at one scale, and at both.
const FEATURES: usize = 18;
const ALL: usize = 2 * FEATURES;
/// Mean and covariance (upper triangle) of the features of pristine photographs, as published.
static PRISTINE: &[u8; (ALL + ALL * (ALL + 1) / 2) * 8] = adir_assets::NIQE_PRISTINE;

/// NIQE of the images rounded to 8 bit, on their luma (BT.601, studio range); about 2 to 10, less is better.
///
/// The square root of (m - m')^T ((C + C') / 2)^-1 (m - m'), m and C the mean and covariance over blocks of 96x96
/// pixels of 36 features: the asymmetric generalised Gaussians (AGGD) fitted to the locally normalised luma and to the
/// products of its neighbours, at two scales. Pixels beyond the last whole block are ignored.
///
/// # Shapes
/// `[n, 1 or 3, h, w]` in [-1, 1], with room for two blocks; one value for each image. A grey image is taken as it is.
///
/// # Errors
/// [`Error::Config`] when there is no room for two blocks, or neither 1 nor 3 channels; [`Error::Numerical`] when a
/// value is not finite, or fewer than two blocks have any structure.
pub fn niqe(image: &Tensor<4>) -> Result<Vec<f64>> {
    eight_bit(image, "the image")?.iter().map(|planes| of_plane(&luma(planes)?)).collect()
}

/// [`niqe()`] of the image, of several samples of each; where there is room for two blocks, two of which have structure.
#[derive(Debug, Clone, Copy, Default)]
pub struct Niqe;

impl Metric for Niqe {
    fn name(&self) -> &str {
        "niqe"
    }

    fn describe(&self) -> &str {
        "about 2 to 10; distance of the statistics from those of pristine photographs (Mittal et al. 2013), from 192x96 pixels on"
    }

    fn better(&self) -> Better {
        Better::Lower
    }

    fn needs(&self) -> Needs {
        Needs::Nothing
    }

    fn digits(&self) -> usize {
        2
    }

    fn over(&self) -> Over {
        Over::Samples
    }

    fn takes(&self) -> String {
        format!("images of at least {}x{BLOCK} pixels that are not flat", 2 * BLOCK)
    }

    fn value(&self, case: &Case<'_>) -> Result<Option<f64>> {
        let [height, width] = case.inner(0);
        if !case.has_luma() || (height / BLOCK) * (width / BLOCK) < 2 {
            return Ok(None);
        }
        let images = eight_bit(case.restored, "the image")?;
        let values = images.iter().map(|planes| of_plane(&luma(planes)?)).collect::<Result<Vec<_>>>();
        match values {
            Ok(values) => single(&values),
            // The image is finite, so this is one without structure.
            Err(Error::Numerical(_)) => Ok(None),
            Err(other) => Err(other),
        }
    }
}

fn of_plane(luma: &Plane) -> Result<f64> {
    let (rows, columns) = (luma.height / BLOCK, luma.width / BLOCK);
    if rows * columns < 2 {
        return Err(Error::config(format!(
            "NIQE needs at least two blocks of {BLOCK}x{BLOCK} pixels, found {}x{} (height x width)",
            luma.height, luma.width
        )));
    }
    let (height, width) = (rows * BLOCK, columns * BLOCK);
    let lines = luma.values.chunks_exact(luma.width).take(height);
    let fine = lines.flat_map(|line| line[..width].iter().map(|v| v.round())).collect::<Vec<_>>();
    let coarse = {
        let shape = ImageShape { channels: 1, height, width };
        let x = tensor::from_f64(fine.clone(), [1, 1, height, width], &cpu());
        tensor::to_f64(&BicubicDownsample::new(shape, 2)?.apply(&x)?)?
    };
    let mut blocks = vec![Vec::with_capacity(ALL); rows * columns];
    for (plane, side) in [(fine, BLOCK), (coarse, BLOCK / 2)] {
        let width = columns * side;
        let normalised = normalised(&plane, width);
        for (i, features) in blocks.iter_mut().enumerate() {
            let (top, left) = (i / columns * side, i % columns * side);
            let lines = normalised.chunks_exact(width).skip(top).take(side);
            features_of(
                &lines.flat_map(|line| line[left..left + side].iter().copied()).collect::<Vec<_>>(),
                side,
                features,
            );
        }
    }
    distance(&blocks)
}

/// (I - mean) / (deviation + 1) in a Gaussian window of 7x7 (standard deviation 7/6), the border replicated.
fn normalised(plane: &[f64], width: usize) -> Vec<f64> {
    let squares: Vec<f64> = plane.iter().map(|v| v * v).collect();
    let (means, squares) = (windowed(plane, width), windowed(&squares, width));
    let normalised =
        |((value, mean), square): ((&f64, f64), f64)| (value - mean) / ((square - mean * mean).abs().sqrt() + 1.0);
    plane.iter().zip(means).zip(squares).map(normalised).collect()
}

fn windowed(plane: &[f64], width: usize) -> Vec<f64> {
    const RADIUS: isize = 3;
    const SIGMA: f64 = 7.0 / 6.0;
    let weights: Vec<f64> = (-RADIUS..=RADIUS).map(|x| (-(x * x) as f64 / (2.0 * SIGMA * SIGMA)).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let weights: Vec<f64> = weights.iter().map(|w| w / sum).collect();
    let height = plane.len() / width;
    let near = |i: usize, shift: usize, side: usize| {
        (i as isize + shift as isize - RADIUS).clamp(0, side as isize - 1) as usize
    };
    let along: Vec<f64> = (0..plane.len())
        .map(|i| {
            weights.iter().enumerate().map(|(k, w)| w * plane[i / width * width + near(i % width, k, width)]).sum()
        })
        .collect();
    (0..plane.len())
        .map(|i| {
            weights.iter().enumerate().map(|(k, w)| w * along[near(i / width, k, height) * width + i % width]).sum()
        })
        .collect()
}

/// Shape and mean scale of a block, then shape, mean and both scales of its products with itself moved by one pixel
/// down, right and along both diagonals (around the border).
fn features_of(block: &[f64], side: usize, out: &mut Vec<f64>) {
    let fit = Aggd::fit(block.iter().copied());
    out.extend([fit.shape, (fit.left + fit.right) / 2.0]);
    for (down, right) in [(0, 1), (1, 0), (1, 1), (1, side - 1)] {
        let from = |i: usize| (i / side + side - down) % side * side + (i % side + side - right) % side;
        let fit = Aggd::fit(block.iter().enumerate().map(|(i, v)| v * block[from(i)]));
        let mean = (fit.right - fit.left) * tgamma(2.0 / fit.shape) / tgamma(1.0 / fit.shape);
        out.extend([fit.shape, mean, fit.left, fit.right]);
    }
}

/// An asymmetric generalised Gaussian.
struct Aggd {
    shape: f64,
    left: f64,
    right: f64,
}

impl Aggd {
    /// By moments; the shape is the nearest of 0.2, 0.201 ... 10. NaN where a side has no values.
    fn fit(values: impl Iterator<Item = f64>) -> Self {
        static RATIOS: OnceLock<Vec<f64>> = OnceLock::new();
        let shape_at = |i: usize| 0.2 + 0.001 * i as f64;
        let ratios = RATIOS.get_or_init(|| {
            let ratio = |shape: f64| tgamma(2.0 / shape).powi(2) / (tgamma(1.0 / shape) * tgamma(3.0 / shape));
            (0..=9800).map(|i| ratio(shape_at(i))).collect()
        });
        let (mut left, mut right, mut absolute, mut n) = ((0.0, 0.0), (0.0, 0.0), 0.0, 0.0);
        for v in values {
            let side: &mut (f64, f64) = if v < 0.0 { &mut left } else { &mut right };
            // Zeros are of neither side.
            *side = (side.0 + v * v, side.1 + f64::from(v != 0.0));
            absolute += v.abs();
            n += 1.0;
        }
        let (left_deviation, right_deviation) = ((left.0 / left.1).sqrt(), (right.0 / right.1).sqrt());
        let g = left_deviation / right_deviation;
        let ratio = (absolute / n).powi(2) / ((left.0 + right.0) / n);
        let wanted = ratio * (g.powi(3) + 1.0) * (g + 1.0) / (g * g + 1.0).powi(2);
        if !wanted.is_finite() {
            return Self { shape: f64::NAN, left: f64::NAN, right: f64::NAN };
        }
        // The ratio grows with the shape: the nearest is beside where it would be inserted.
        let after = ratios.partition_point(|r| *r < wanted).min(ratios.len() - 1);
        let before = after.saturating_sub(1);
        let nearest = if wanted - ratios[before] <= (ratios[after] - wanted).abs() { before } else { after };
        let shape = shape_at(nearest);
        let scale = (tgamma(1.0 / shape) / tgamma(3.0 / shape)).sqrt();
        Self { shape, left: left_deviation * scale, right: right_deviation * scale }
    }
}

fn distance(blocks: &[Vec<f64>]) -> Result<f64> {
    let whole: Vec<&Vec<f64>> = blocks.iter().filter(|b| b.iter().all(|v| v.is_finite())).collect();
    if whole.len() < 2 {
        return Err(Error::Numerical("NIQE: fewer than two blocks have any structure".into()));
    }
    let number = |i: usize| f64::from_le_bytes(std::array::from_fn(|b| PRISTINE[8 * i + b]));
    let mean_of = |rows: &mut dyn Iterator<Item = f64>| {
        let (sum, n) = rows.filter(|v| v.is_finite()).fold((0.0, 0.0), |(sum, n), v| (sum + v, n + 1.0));
        sum / n
    };
    // The published mean takes every finite feature, the covariance only blocks all of whose features are finite.
    let difference: Vec<f64> = (0..ALL).map(|i| number(i) - mean_of(&mut blocks.iter().map(|b| b[i]))).collect();
    let means: Vec<f64> = (0..ALL).map(|i| mean_of(&mut whole.iter().map(|b| b[i]))).collect();
    let mut matrix = vec![0.0; ALL * ALL];
    let mut next = ALL;
    for i in 0..ALL {
        for j in i..ALL {
            let products = whole.iter().map(|b| (b[i] - means[i]) * (b[j] - means[j]));
            let covariance = products.sum::<f64>() / (whole.len() - 1) as f64;
            matrix[j * ALL + i] = (number(next) + covariance) / 2.0;
            next += 1;
        }
    }
    // The pristine covariance is positive definite, so the mean of both is: d^T M^-1 d = |L^-1 d|^2 with M = L L^T.
    let mut solved = difference;
    for j in 0..ALL {
        for k in 0..j {
            let factor = matrix[j * ALL + k];
            for i in j..ALL {
                matrix[i * ALL + j] -= factor * matrix[i * ALL + k];
            }
            solved[j] -= factor * solved[k];
        }
        let pivot = matrix[j * ALL + j].sqrt();
        for i in j..ALL {
            matrix[i * ALL + j] /= pivot;
        }
        solved[j] /= pivot;
    }
    let squared: f64 = solved.iter().map(|v| v * v).sum();
    if squared.is_finite() { Ok(squared.sqrt()) } else { Err(Error::Numerical("NIQE is not finite".into())) }
}
