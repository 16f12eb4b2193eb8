//! Peak signal-to-noise ratio, in dB: 10 log10(peak^2 / mean squared error). Infinite for equal
//! images.

use super::luma::luma;
use super::pixels::{Plane, check_same_shape, for_each_pair};
use crate::Result;
use crate::operator::{ImageShape, LinearOperator};
use crate::tensor::{self, Tensor};

/// PSNR over all channels of the images rounded to 8 bit, no crop.
///
/// # Shapes
/// Both `[n, c, h, w]` in [-1, 1]; one value for each image.
///
/// # Errors
/// [`crate::Error::Config`] when the shapes differ, [`crate::Error::Numerical`] when a value is not finite.
pub fn psnr_rgb(a: &Tensor<4>, b: &Tensor<4>) -> Result<Vec<f64>> {
    for_each_pair(a, b, |a, b| Ok(psnr(a, b)))
}

/// PSNR of the BT.601 luma (studio range) of the images rounded to 8 bit, without `border` pixels at
/// each side: the factor, by the convention of super-resolution. Grey images are compared as they are.
///
/// # Shapes
/// Both `[n, 1 or 3, h, w]` in [-1, 1]; one value for each image.
///
/// # Errors
/// As [`psnr_rgb`], and [`crate::Error::Config`] when there are neither 1 nor 3 channels or the crop
/// leaves nothing.
pub fn psnr_y(a: &Tensor<4>, b: &Tensor<4>, border: usize) -> Result<Vec<f64>> {
    for_each_pair(a, b, |a, b| Ok(psnr(&[luma(a)?.cropped(border)?], &[luma(b)?.cropped(border)?])))
}

/// PSNR of A x against y, the agreement of a restoration with its input. Nothing is rounded or
/// clamped; the peak is the 2 of [-1, 1].
///
/// # Shapes
/// x `[n, domain]`, y `[n, range]`; one value for each image.
///
/// # Errors
/// Those of the operator, [`crate::Error::Config`] when the shapes do not fit, and
/// [`crate::Error::Numerical`] when a value is not finite.
pub fn agreement(a: &dyn LinearOperator, x: &Tensor<4>, y: &Tensor<4>) -> Result<Vec<f64>> {
    let ax = a.apply(x)?;
    check_same_shape(&ax, y)?;
    tensor::check_finite(&ax, "A x")?;
    tensor::check_finite(y, "y")?;
    let size = ImageShape::of(y).elements();
    let (ax, y) = (tensor::to_f64(&ax)?, tensor::to_f64(y)?);
    Ok(ax.chunks(size).zip(y.chunks(size)).map(|(ax, y)| decibel(squared_error(ax, y) / size as f64, 2.0)).collect())
}

fn psnr(a: &[Plane], b: &[Plane]) -> f64 {
    let squares: f64 = a.iter().zip(b).map(|(a, b)| squared_error(&a.values, &b.values)).sum();
    let count: usize = a.iter().map(|plane| plane.values.len()).sum();
    decibel(squares / count as f64, 255.0)
}

fn squared_error(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

fn decibel(mean_squared_error: f64, peak: f64) -> f64 {
    10.0 * (peak * peak / mean_squared_error).log10()
}
