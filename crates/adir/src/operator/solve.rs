//! Linear systems of an operator, by conjugate gradients.

use super::LinearOperator;
use crate::Result;
use crate::tensor::{DType, Tensor, cpu, to_f64};

/// When [`solve`] stops.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Solve {
    /// Largest number of steps.
    pub steps: usize,
    /// Share of the right side's norm that may be left of the residual.
    pub tolerance: f64,
}

/// u with (scale A A^T + damping I) u = r, by conjugate gradients in f64 on the host, where operators compute.
///
/// With it, x0 - scale A^T u solves min |x - x0|^2 + (scale / damping) |A x - y|^2 for r = A x0 - y. For several images
/// their sum of squares is what goes down.
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
    let inner = |a: &Tensor<4>, b: &Tensor<4>| -> Result<f64> {
        Ok(to_f64(&(a.clone() * b.clone()).sum())?.iter().sum::<f64>())
    };
    let (device, dtype) = (r.device(), r.dtype());
    let mut left = r.clone().to_device(&cpu()).cast(DType::F64);
    let mut solution = left.zeros_like();
    let mut direction = left.clone();
    let mut square = inner(&left, &left)?;
    let enough = square * stop.tolerance * stop.tolerance;
    for _ in 0..stop.steps {
        if square <= enough {
            break;
        }
        let back = operator.adjoint(&direction)?;
        let back = if scale == 1.0 { back } else { back.mul_scalar(scale) };
        let image = operator.apply(&back)? + direction.clone() * damping;
        let length = square / inner(&direction, &image)?;
        solution = solution + direction.clone() * length;
        left = left - image * length;
        let next = inner(&left, &left)?;
        direction = left.clone() + direction * (next / square);
        square = next;
    }
    Ok(solution.cast(dtype).to_device(&device))
}
