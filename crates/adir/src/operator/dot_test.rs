//! The dot test: does `adjoint` transpose `apply`?
//!
//! Public, so that a user can check an operator of their own. A wrong transpose (an up-sampler, a
//! border treated as self-adjoint) shows as a gap of 1e-3 or more; an exact one stays near the
//! rounding of the precision.

use burn::tensor::{DType, TensorData};

use super::norm::dot;
use super::{ImageShape, LinearOperator};
use crate::Result;
use crate::noise::{Noise, Stream};
use crate::tensor::{self, Tensor};

/// Worst relative gap |<A x, y> - <x, A^T y>| / (|A x| |y|) over `draws` random pairs, in f64.
///
/// An exact transpose stays below 1e-12. Infinite when a result is not finite, or when <A x, y> is
/// zero with A x = 0 and <x, A^T y> is not.
///
/// # Errors
/// Those of the operator.
pub fn dot_test(a: &dyn LinearOperator, seed: u64, draws: usize) -> Result<f64> {
    worst_gap(a, seed, draws, DType::F64)
}

/// [`dot_test`] with tensors of f32; the products are still accumulated in f64. An exact transpose
/// stays below 1e-6.
///
/// # Errors
/// Those of the operator.
pub fn dot_test_f32(a: &dyn LinearOperator, seed: u64, draws: usize) -> Result<f64> {
    worst_gap(a, seed, draws, DType::F32)
}

fn worst_gap(a: &dyn LinearOperator, seed: u64, draws: usize, dtype: DType) -> Result<f64> {
    let mut worst = 0.0f64;
    for draw in 0..draws as u32 {
        let x = random_image(a.domain(), seed, 2 * draw, dtype);
        let y = random_image(a.range(), seed, 2 * draw + 1, dtype);
        let (ax, aty) = (tensor::to_f64(&a.apply(&x)?)?, tensor::to_f64(&a.adjoint(&y)?)?);
        let (x, y) = (tensor::to_f64(&x)?, tensor::to_f64(&y)?);
        let difference = (dot(&ax, &y) - dot(&x, &aty)).abs();
        let scale = (dot(&ax, &ax) * dot(&y, &y)).sqrt();
        let gap = match difference / scale {
            _ if difference == 0.0 => 0.0,
            gap if gap.is_finite() => gap,
            _ => f64::INFINITY,
        };
        worst = worst.max(gap);
    }
    Ok(worst)
}

fn random_image(shape: ImageShape, seed: u64, i: u32, dtype: DType) -> Tensor<4> {
    let ImageShape { channels, height, width } = shape;
    let data = TensorData::new(test_vector(seed, i, shape.elements()), [1, channels, height, width]);
    Tensor::from_data(data, (&tensor::cpu(), dtype))
}

/// `n` values, uniform in [-1, 1): vector number `i` of `seed`.
pub(super) fn test_vector(seed: u64, i: u32, n: usize) -> Vec<f64> {
    let noise = Noise::new(seed, Stream::Evaluation);
    (0..n).map(|j| 2.0 * noise.uniform(i, j as u32) - 1.0).collect()
}
