//! What metrics look at.

use crate::operator::LinearOperator;
use crate::tensor::Tensor;

/// A restored image and what it can be compared with.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Case<'a> {
    /// The restored image, `[1, c, h, w]` in about [-1, 1].
    pub restored: &'a Tensor<4>,
    /// The true image, of the same shape, where it is known.
    pub truth: Option<&'a Tensor<4>>,
    /// What was measured.
    pub observed: Option<Observed<'a>>,
    /// Pixels at each side that the luma metrics leave out: the factor, by the convention of super-resolution.
    pub border: usize,
}

/// y, and the operator that made it.
#[derive(Debug, Clone, Copy)]
pub struct Observed<'a> {
    /// A, on images of the shape of the restored one.
    pub operator: &'a dyn LinearOperator,
    /// y, `[1, range]`.
    pub y: &'a Tensor<4>,
}

impl<'a> Case<'a> {
    /// The restored image alone.
    pub fn new(restored: &'a Tensor<4>) -> Self {
        Self { restored, truth: None, observed: None, border: 0 }
    }

    /// The same with the true image.
    pub fn with_truth(self, truth: &'a Tensor<4>) -> Self {
        Self { truth: Some(truth), ..self }
    }

    /// The same with the observation `y` of `operator`.
    pub fn with_observation(self, operator: &'a dyn LinearOperator, y: &'a Tensor<4>) -> Self {
        Self { observed: Some(Observed { operator, y }), ..self }
    }

    /// The same with a border of so many pixels.
    pub fn with_border(self, border: usize) -> Self {
        Self { border, ..self }
    }

    /// Whether the luma of the image is defined: it is grey or RGB.
    pub(super) fn has_luma(&self) -> bool {
        matches!(self.restored.dims()[1], 1 | 3)
    }

    /// Height and width of the restored image without a border.
    pub(super) fn inner(&self, border: usize) -> [usize; 2] {
        let [_, _, height, width] = self.restored.dims();
        [height, width].map(|side| side.saturating_sub(border.saturating_mul(2)))
    }
}
