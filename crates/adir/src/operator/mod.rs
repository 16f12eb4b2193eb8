//! Degradations: a linear operator A and its exact transpose.

use std::fmt::Debug;

use crate::Result;
use crate::tensor::Tensor;

/// Size of an image without its batch dimension: channels, height, width.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ImageShape {
    /// Number of colour channels.
    pub channels: usize,
    /// Height in pixels.
    pub height: usize,
    /// Width in pixels.
    pub width: usize,
}

/// y = A x (Eq. 1): a linear degradation.
///
/// Computes in the precision of the tensor it is given (f32 or f64), for any batch size.
pub trait LinearOperator: Debug + Send + Sync {
    /// Shape of x.
    fn domain(&self) -> ImageShape;
    /// Shape of y.
    fn range(&self) -> ImageShape;
    /// A x: `[n, domain]` to `[n, range]`.
    ///
    /// # Errors
    /// [`crate::Error::Config`] when the shape of `x` is not the domain's.
    fn apply(&self, x: &Tensor<4>) -> Result<Tensor<4>>;
    /// A^T y, the exact transpose (not a pseudo-inverse, not an up-sampler): `[n, range]` to `[n, domain]`.
    ///
    /// # Errors
    /// [`crate::Error::Config`] when the shape of `y` is not the range's.
    fn adjoint(&self, y: &Tensor<4>) -> Result<Tensor<4>>;
    /// Largest eigenvalue of A^T A.
    fn norm_squared(&self) -> f64;
}
