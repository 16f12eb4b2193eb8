//! Linear systems of an operator: in closed form where its eigenvectors are known, else by conjugate gradients.

use rayon::prelude::*;

use super::{LinearOperator, Mask};
use crate::Result;
use crate::tensor::{DType, Tensor, cpu, from_f64, into_f64, to_f64};

/// When [`solve`] stops.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Solve {
    /// Largest number of steps.
    pub steps: usize,
    /// Share of the right side's norm that may be left of the residual.
    pub tolerance: f64,
}

impl Default for Solve {
    /// 30 steps, and a thousandth of the residual.
    fn default() -> Self {
        Self { steps: 30, tolerance: 1e-3 }
    }
}

/// Least damping, in units of the largest eigenvalue of A A^T, of a system that is solved by iteration.
const LEAST_DAMPING: f64 = 1e-5;

/// The least tolerance for which the preconditioner may be computed in f32. Its rounding makes it a little unsymmetric, and
/// directions of the search then no longer add up to all that is left.
const LEAST_FOR_F32: f64 = 1e-4;

/// The least damping with which [`solve`] finds what A says of x, of A A^T unscaled: none in closed form. An iteration
/// would amplify rounding errors of y and of sums without it.
pub fn least_damping(operator: &dyn LinearOperator) -> f64 {
    if operator.exact_gram().is_some() { 0.0 } else { LEAST_DAMPING * operator.norm_squared() }
}

/// u with (scale A A^T + damping I) u = r.
///
/// In closed form where [`LinearOperator::gram`] is exact; else by conjugate gradients in f64 on the host, where
/// operators compute, preconditioned by an approximate Gram matrix if there is one.
///
/// With it, x0 - scale A^T u solves min |x - x0|^2 + (scale / damping) |A x - y|^2 for r = A x0 - y. For several images
/// their sum of squares is what goes down. A damping of 0 gives the pseudo-inverse, in closed form only.
///
/// # Shapes
/// r and the result `[n, range]`, on the device and in the precision of r.
///
/// # Errors
/// Those of the operator.
pub fn solve(
    operator: &dyn LinearOperator,
    scale: f64,
    damping: f64,
    r: &Tensor<4>,
    stop: &Solve,
) -> Result<Tensor<4>> {
    let gram = operator.gram();
    let inverse = |eigenvalue: f64| match scale * eigenvalue + damping {
        0.0 => 0.0,
        sum => 1.0 / sum,
    };
    if let Some(gram) = gram.as_ref().filter(|gram| gram.is_exact()) {
        return gram.filter(r, inverse);
    }
    // What an approximation takes for nearly unobserved may be observed.
    let floor = gram.as_ref().map_or(0.0, |gram| 1e-6 * scale * gram.largest());
    let seen = observed_mask(operator)?;
    let precision = if stop.tolerance >= LEAST_FOR_F32 { DType::F32 } else { DType::F64 };
    let near = gram.as_ref().map(|gram| gram.near_inverse(scale, damping.max(floor), precision));
    let precondition = |r: &Tensor<4>| match (&near, &seen) {
        (Some(near), seen) => {
            let improved = near(r)?;
            // What is not observed stays 0: the directions of the search never leave what is.
            seen.as_ref().map_or(Ok(improved.clone()), |seen| seen.keep(&improved))
        }
        (None, _) => Ok(r.clone()),
    };
    let (device, dtype, shape) = (r.device(), r.dtype(), r.dims());
    let host = r.clone().to_device(&cpu()).cast(DType::F64);
    let tensor = |values: &[f64]| from_f64(values.to_vec(), shape, &cpu());
    // Rows of A that are zero leave only the damping: their part of u is known.
    let first = match (&seen, &gram) {
        (Some(seen), Some(_)) => seen.keep(&host)?,
        _ => host.clone(),
    };
    let mut left = to_f64(&first)?;
    let mut solution = vec![0.0; left.len()];
    let enough = inner(&left, &left) * stop.tolerance * stop.tolerance;
    // The direction of the search, and r times the preconditioned r.
    let mut search: Option<(Vec<f64>, f64)> = None;
    for _ in 0..stop.steps {
        if inner(&left, &left) <= enough {
            break;
        }
        let mut direction = into_f64(precondition(&tensor(&left))?)?;
        let square = inner(&left, &direction);
        if let Some((old, of_old)) = &search {
            add(&mut direction, square / of_old, old);
        }
        let image = operator.apply_gram(&tensor(&direction))?;
        let mut image = into_f64(if scale == 1.0 { image } else { image.mul_scalar(scale) })?;
        add(&mut image, damping, &direction);
        let length = square / inner(&direction, &image);
        add(&mut solution, length, &direction);
        add(&mut left, -length, &image);
        search = Some((direction, square));
    }
    let mut solution = from_f64(solution, shape, &cpu());
    if let (Some(seen), Some(_)) = (&seen, &gram)
        && damping > 0.0
    {
        solution = solution + (host.clone() - seen.keep(&host)?) / damping;
    }
    Ok(solution.cast(dtype).to_device(&device))
}

/// Values that one task takes. Sums are taken task by task, so that the number of threads changes nothing.
const CHUNK: usize = 1 << 14;

fn inner(a: &[f64], b: &[f64]) -> f64 {
    let sums = a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK));
    let sums = sums.map(|(a, b)| a.iter().zip(b).map(|(a, b)| a * b).sum());
    sums.collect::<Vec<f64>>().iter().sum()
}

/// a += factor b.
fn add(a: &mut [f64], factor: f64, b: &[f64]) {
    a.par_chunks_mut(CHUNK).zip(b.par_chunks(CHUNK)).for_each(|(a, b)| {
        a.iter_mut().zip(b).for_each(|(a, b)| *a += factor * b);
    });
}

/// The observed pixels of y, where some are not.
fn observed_mask(operator: &dyn LinearOperator) -> Result<Option<Mask>> {
    let Some(observed) = operator.observed() else { return Ok(None) };
    let range = operator.range();
    Mask::new(range.height, range.width, observed.to_vec()).map(Some)
}
