//! The mean over the channels: colourisation is its inverse problem.
//!
//! Equal weights of 1/c, as the methods it is compared with use, not a luma: see `metric` for luma.

use super::{Gram, ImageShape, LinearOperator, Window, host};
use crate::Result;
use crate::tensor::Tensor;

/// y = (x_1 + ... + x_c) / c: c channels to one.
#[derive(Debug, Clone)]
pub struct Grayscale {
    domain: ImageShape,
}

impl Grayscale {
    /// The channel mean of images of shape `domain`.
    ///
    /// # Errors
    /// [`crate::Error::Config`] when the shape is empty.
    pub fn new(domain: ImageShape) -> Result<Self> {
        domain.check()?;
        Ok(Self { domain })
    }
}

impl LinearOperator for Grayscale {
    fn domain(&self) -> ImageShape {
        self.domain
    }

    fn range(&self) -> ImageShape {
        ImageShape { channels: 1, ..self.domain }
    }

    fn apply(&self, x: &Tensor<4>) -> Result<Tensor<4>> {
        let weight = self.norm_squared();
        host::map_images(x, self.domain, self.range(), |x, y| {
            for plane in x.chunks_exact(y.len()) {
                for (y, x) in y.iter_mut().zip(plane) {
                    *y += weight * x;
                }
            }
        })
    }

    fn adjoint(&self, y: &Tensor<4>) -> Result<Tensor<4>> {
        let weight = self.norm_squared();
        host::map_images(y, self.range(), self.domain, |y, x| {
            for plane in x.chunks_exact_mut(y.len()) {
                for (x, y) in plane.iter_mut().zip(y) {
                    *x = weight * y;
                }
            }
        })
    }

    /// A A^T = I / c, so the norm and the weight are the same number, 1/c.
    fn norm_squared(&self) -> f64 {
        1.0 / self.domain.channels as f64
    }

    fn seen_within(&self, window: Window) -> Option<Window> {
        Some(window)
    }

    fn gram(&self) -> Option<Gram> {
        Some(Gram::scaled(self.range(), self.norm_squared()))
    }
}
