//! A = I: denoising.

use super::{Gram, ImageShape, LinearOperator, host};
use crate::Result;
use crate::tensor::Tensor;

/// y = x (+ e): the degradation is noise alone.
#[derive(Debug, Clone)]
pub struct Identity {
    shape: ImageShape,
}

impl Identity {
    /// The identity on images of `shape`.
    ///
    /// # Errors
    /// [`crate::Error::Config`] when the shape is empty.
    pub fn new(shape: ImageShape) -> Result<Self> {
        shape.check()?;
        Ok(Self { shape })
    }
}

impl LinearOperator for Identity {
    fn domain(&self) -> ImageShape {
        self.shape
    }

    fn range(&self) -> ImageShape {
        self.shape
    }

    fn apply(&self, x: &Tensor<4>) -> Result<Tensor<4>> {
        host::check_shape(x, self.shape)?;
        Ok(x.clone())
    }

    fn adjoint(&self, y: &Tensor<4>) -> Result<Tensor<4>> {
        self.apply(y)
    }

    fn norm_squared(&self) -> f64 {
        1.0
    }

    fn gram(&self) -> Option<Gram> {
        Some(Gram::scaled(self.shape, 1.0))
    }
}
