//! An operator some of whose values were not measured.

use std::sync::Arc;

use super::{Gram, ImageShape, LinearOperator, Mask, Part, Window};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// y = M A x: A, of whose values only those at known pixels count. The others are 0 and not
/// [observed](LinearOperator::observed).
#[derive(Debug, Clone)]
pub struct Masked {
    inner: Arc<dyn LinearOperator>,
    /// Also without the pixels that A does not observe.
    mask: Mask,
}

impl Masked {
    /// `inner` observed where `mask`, of the size of its range, says so.
    ///
    /// # Errors
    /// [`Error::Config`] when the mask has another size, or leaves nothing that A observes.
    pub fn new(inner: Arc<dyn LinearOperator>, mask: &Mask) -> Result<Self> {
        let range = inner.range();
        if (mask.height(), mask.width()) != (range.height, range.width) {
            return Err(Error::config(format!(
                "the mask has {}x{} pixels, the observation {}x{} (height x width)",
                mask.height(),
                mask.width(),
                range.height,
                range.width
            )));
        }
        let mask = match inner.observed() {
            Some(observed) => mask.and(&Mask::new(range.height, range.width, observed.to_vec())?)?,
            None => mask.clone(),
        };
        Ok(Self { inner, mask })
    }

    /// `images` of the range with 0 where nothing was measured.
    ///
    /// # Errors
    /// [`Error::Config`] when they are not of the range.
    pub fn keep(&self, images: &Tensor<4>) -> Result<Tensor<4>> {
        super::host::check_shape(images, self.inner.range())?;
        self.mask.keep(images)
    }
}

impl LinearOperator for Masked {
    fn domain(&self) -> ImageShape {
        self.inner.domain()
    }

    fn range(&self) -> ImageShape {
        self.inner.range()
    }

    fn apply(&self, x: &Tensor<4>) -> Result<Tensor<4>> {
        self.mask.keep(&self.inner.apply(x)?)
    }

    fn adjoint(&self, y: &Tensor<4>) -> Result<Tensor<4>> {
        self.inner.adjoint(&self.keep(y)?)
    }

    fn apply_gram(&self, u: &Tensor<4>) -> Result<Tensor<4>> {
        self.mask.keep(&self.inner.apply_gram(&self.keep(u)?)?)
    }

    /// That of A, which is never too small: what is left out makes no direction stronger.
    fn norm_squared(&self) -> f64 {
        self.inner.norm_squared()
    }

    /// M A A^T M: exact where A A^T is a multiple of I; else that of A as an approximation, the nearer the fewer pixels
    /// are left out.
    fn gram(&self) -> Option<Gram> {
        let gram = self.inner.gram()?;
        Some(match gram.constant() {
            Some(scale) => Gram::pixels(self.inner.range(), self.mask.known()).times(scale),
            None => gram.approximate(),
        })
    }

    fn part_of(&self) -> Option<Part> {
        let seen = Some(self.mask.clone());
        match self.inner.exact_gram() {
            Some(gram) if gram.constant().is_some() => None,
            Some(_) => Some(Part { whole: self.inner.clone(), window: Window::whole(self.inner.range()), seen }),
            None => self.inner.part_of().map(|part| Part { seen, ..part }),
        }
    }

    fn seen_within(&self, window: Window) -> Option<Window> {
        self.inner.seen_within(window)
    }

    fn observed(&self) -> Option<&[bool]> {
        Some(self.mask.known())
    }
}
