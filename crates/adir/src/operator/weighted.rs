//! An operator whose values are weighed, each by its own weight.

use std::sync::{Arc, OnceLock};

use super::{Gram, ImageShape, LinearOperator, host, norm};
use crate::compute::get_or_make;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// y = W A x with W diagonal. With weights that are the inverse of y's standard deviations, the noise of W y is white:
/// what is made for white noise is then right for noise that differs from value to value.
#[derive(Debug, Clone)]
pub struct Weighted {
    inner: Arc<dyn LinearOperator>,
    weights: Arc<[f64]>,
    norm_squared: OnceLock<f64>,
}

impl Weighted {
    /// `inner` with a weight for each value of its range: channel by channel, row by row.
    ///
    /// # Errors
    /// [`Error::Config`] when the number of weights is another, or one is not a finite number above 0.
    pub fn new(inner: Arc<dyn LinearOperator>, weights: Arc<[f64]>) -> Result<Self> {
        let range = inner.range();
        if weights.len() != range.elements() {
            return Err(Error::config(format!("{} weights for the values of {range}", weights.len())));
        }
        if let Some(weight) = weights.iter().find(|weight| !(weight.is_finite() && **weight > 0.0)) {
            return Err(Error::config(format!("a weight of {weight}: expected a number above 0")));
        }
        Ok(Self { inner, weights, norm_squared: OnceLock::new() })
    }

    /// W y.
    ///
    /// # Shapes
    /// y and the result `[n, range]`.
    ///
    /// # Errors
    /// [`Error::Config`] when y is not of the range.
    pub fn weigh(&self, y: &Tensor<4>) -> Result<Tensor<4>> {
        let range = self.inner.range();
        host::map_images(y, range, range, |from, to| {
            to.iter_mut().zip(from).zip(self.weights.iter()).for_each(|((to, from), weight)| *to = weight * from);
        })
    }
}

impl LinearOperator for Weighted {
    fn domain(&self) -> ImageShape {
        self.inner.domain()
    }

    fn range(&self) -> ImageShape {
        self.inner.range()
    }

    fn apply(&self, x: &Tensor<4>) -> Result<Tensor<4>> {
        self.weigh(&self.inner.apply(x)?)
    }

    fn adjoint(&self, y: &Tensor<4>) -> Result<Tensor<4>> {
        self.inner.adjoint(&self.weigh(y)?)
    }

    fn apply_gram(&self, u: &Tensor<4>) -> Result<Tensor<4>> {
        self.weigh(&self.inner.apply_gram(&self.weigh(u)?)?)
    }

    /// From the eigenvalues where they are known. Else found by iteration for images of up to 128 x 128 values; for larger
    /// ones it is that of A times the largest squared weight, which is never too small.
    fn norm_squared(&self) -> f64 {
        *get_or_make(&self.norm_squared, || {
            if let Some(gram) = self.exact_gram() {
                return gram.largest();
            }
            let most = self.weights.iter().copied().fold(0.0, f64::max);
            let bound = || self.inner.norm_squared() * most * most;
            if self.domain().elements() > norm::MOST_ITERATED {
                return bound();
            }
            norm::iterated_norm_squared(self).unwrap_or_else(|_| bound())
        })
    }

    /// W A A^T W: exact where A A^T is diagonal; else A A^T as an approximation, the nearer the less the weights differ.
    fn gram(&self) -> Option<Gram> {
        Some(self.inner.gram()?.weighted(&self.weights))
    }

    fn observed(&self) -> Option<&[bool]> {
        self.inner.observed()
    }
}
