//! Crops a window from a larger image, so that an operator applies to a canvas with sides that a network accepts.

use super::{Gram, ImageShape, LinearOperator, host};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// y = the top left `range` of x; the rest of x is not observed.
#[derive(Debug, Clone)]
pub struct Crop {
    domain: ImageShape,
    range: ImageShape,
}

impl Crop {
    /// A window of shape `range` on images of shape `domain`.
    ///
    /// # Errors
    /// [`Error::Config`] when a shape is empty, or the window is larger than the image or has other channels.
    pub fn new(domain: ImageShape, range: ImageShape) -> Result<Self> {
        domain.check()?;
        range.check()?;
        if range.channels != domain.channels || range.height > domain.height || range.width > domain.width {
            return Err(Error::config(format!("a window of {range} does not fit into an image of {domain}")));
        }
        Ok(Self { domain, range })
    }

    /// Rows of the window in the image and in the window itself, in step.
    fn rows(&self) -> impl Iterator<Item = (std::ops::Range<usize>, std::ops::Range<usize>)> + use<> {
        let (wide, narrow) = (self.domain.width, self.range.width);
        (0..self.range.height).map(move |row| (row * wide..row * wide + narrow, row * narrow..(row + 1) * narrow))
    }
}

impl LinearOperator for Crop {
    fn domain(&self) -> ImageShape {
        self.domain
    }

    fn range(&self) -> ImageShape {
        self.range
    }

    fn apply(&self, x: &Tensor<4>) -> Result<Tensor<4>> {
        host::map_planes(x, self.domain, self.range, |x, y| {
            for (image, window) in self.rows() {
                y[window].copy_from_slice(&x[image]);
            }
        })
    }

    fn adjoint(&self, y: &Tensor<4>) -> Result<Tensor<4>> {
        host::map_planes(y, self.range, self.domain, |y, x| {
            for (image, window) in self.rows() {
                x[image].copy_from_slice(&y[window]);
            }
        })
    }

    fn norm_squared(&self) -> f64 {
        1.0
    }

    fn gram(&self) -> Option<Gram> {
        Some(Gram::scaled(self.range, 1.0))
    }
}
