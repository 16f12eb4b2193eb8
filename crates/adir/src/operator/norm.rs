//! The norm of an operator, and the adjoint divided by it.
//!
//! The norm is found by Lanczos iteration, not by plain power iteration: the same products with
//! A^T A, but the error falls with the square of their number. It matters here, because the largest
//! eigenvalues of a blur crowd together and power iteration crawls.

use super::dot_test::test_vector;
use super::{ImageShape, LinearOperator};
use crate::tensor::{self, Tensor};
use crate::{Error, Result};

/// Iterations after which the estimate is taken as it is. Without a gap between the eigenvalues its
/// relative error is then about (ln n / 2k)^2, below 1e-3 for any image and in practice below 1e-9.
const MAX_ITERATIONS: usize = 200;
/// Values of an image up to which a norm is found by iteration over all of it, in a fraction of a second. Larger images
/// get a bound from the spectrum or from the norms of the parts, so that a plan is quick whatever the size.
pub(super) const MOST_ITERATED: usize = 128 * 128;
/// Relative change of the estimate, twice in a row, at which the iteration stops.
const TOLERANCE: f64 = 1e-13;

/// A* y = A^T y / lambda_max(A^T A), the adjoint the guidance uses by default.
///
/// Normalised, one guidance scale s has the same strength for every operator: for bicubic
/// down-sampling by a factor that divides the size, A* is bicubic up-sampling.
///
/// # Shapes
/// `[n, range]` to `[n, domain]`.
///
/// # Errors
/// Those of [`LinearOperator::adjoint`], and [`Error::Numerical`] when the norm is not positive.
pub fn normalized_adjoint(a: &dyn LinearOperator, y: &Tensor<4>) -> Result<Tensor<4>> {
    let norm_squared = a.norm_squared();
    if norm_squared.is_finite() && norm_squared > 0.0 {
        Ok(a.adjoint(y)? / norm_squared)
    } else {
        Err(Error::Numerical(format!("the squared norm of an operator must be positive, found {norm_squared}")))
    }
}

/// The largest eigenvalue of A^T A, which [`LinearOperator::norm_squared`] is to give, by iteration over images of all of its
/// domain: up to 200 products with A and A^T.
///
/// # Errors
/// Those of the operator.
pub fn iterated_norm_squared(a: &dyn LinearOperator) -> Result<f64> {
    let ImageShape { channels, height, width } = a.domain();
    largest_eigenvalue(a.domain().elements(), |v| {
        let x = tensor::from_f64(v.to_vec(), [1, channels, height, width], &tensor::cpu());
        tensor::to_f64(&a.adjoint(&a.apply(&x)?)?)
    })
}

/// Largest eigenvalue of a symmetric positive semi-definite map of `n` values, given its product
/// with a vector. Deterministic: the start is always the same vector, constant plus noise (the
/// constant is near the answer for a blur, the noise reaches every other eigenvector).
pub(super) fn largest_eigenvalue<E>(
    n: usize,
    mut product: impl FnMut(&[f64]) -> Result<Vec<f64>, E>,
) -> Result<f64, E> {
    let mut v: Vec<f64> = test_vector(0, 0, n).into_iter().map(|noise| 1.0 + 0.25 * noise).collect();
    let length = norm(&v);
    v.iter_mut().for_each(|v| *v /= length);
    let mut previous = vec![0.0; n];
    let mut diagonal: Vec<f64> = Vec::new();
    let mut off_diagonal: Vec<f64> = Vec::new();
    let (mut estimate, mut settled) = (0.0f64, 0);
    while diagonal.len() < MAX_ITERATIONS.min(n) && settled < 2 {
        let mut w = product(&v)?;
        let alpha = dot(&v, &w);
        let beta_before = off_diagonal.last().copied().unwrap_or(0.0);
        for ((w, v), previous) in w.iter_mut().zip(&v).zip(&previous) {
            *w -= alpha * v + beta_before * previous;
        }
        diagonal.push(alpha);
        let next = largest_tridiagonal(&diagonal, &off_diagonal);
        settled = if (next - estimate).abs() <= TOLERANCE * next.abs() { settled + 1 } else { 0 };
        estimate = next;
        let beta = norm(&w);
        if beta <= f64::EPSILON * estimate.abs() {
            break;
        }
        w.iter_mut().for_each(|w| *w /= beta);
        off_diagonal.push(beta);
        previous = std::mem::replace(&mut v, w);
    }
    Ok(estimate)
}

/// Largest eigenvalue of a symmetric tridiagonal matrix, by bisection on the number of negative
/// pivots of T - x I (Sturm).
fn largest_tridiagonal(diagonal: &[f64], off_diagonal: &[f64]) -> f64 {
    let beta = |i: usize| off_diagonal.get(i).copied().unwrap_or(0.0);
    let all_below = |x: f64| {
        let mut pivot = -1.0;
        diagonal.iter().enumerate().all(|(i, alpha)| {
            let before = if i == 0 { 0.0 } else { beta(i - 1) };
            pivot = alpha - x - before * before / pivot;
            pivot < 0.0
        })
    };
    let mut low = diagonal.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut high = diagonal
        .iter()
        .enumerate()
        .map(|(i, alpha)| {
            alpha + if i == 0 { 0.0 } else { beta(i - 1) } + if i + 1 < diagonal.len() { beta(i) } else { 0.0 }
        })
        .fold(low, f64::max);
    loop {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            return high;
        }
        if all_below(middle) { high = middle } else { low = middle }
    }
}

/// <a, b>.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn norm(a: &[f64]) -> f64 {
    dot(a, a).sqrt()
}
