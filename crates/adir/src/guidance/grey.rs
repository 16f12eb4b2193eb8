//! Guidance of images that are known to be grey.

use super::{Correction, Guidance, StepState};
use crate::Result;
use crate::tensor::Tensor;

/// Another guidance, after which every x0 estimate is made grey: the mean of its channels in each of them. The noise
/// of x_t keeps its colours, for which the network was trained.
#[derive(Debug)]
pub struct GreyGuidance<G> {
    inner: G,
}

impl<G: Guidance> GreyGuidance<G> {
    /// `inner`, for images that are known to be grey.
    pub fn new(inner: G) -> Self {
        Self { inner }
    }
}

impl<G: Guidance> Guidance for GreyGuidance<G> {
    /// As the inner guidance: the mean of an ancestral step contains the noise of x_t.
    fn correct_mean(&self, state: &StepState<'_>, mean: &Tensor<4>, variance: &Tensor<4>) -> Result<Correction> {
        self.inner.correct_mean(state, mean, variance)
    }

    fn correct_x0(&self, state: &StepState<'_>) -> Result<Correction> {
        let Correction { shift, residual_rms } = self.inner.correct_x0(state)?;
        let x0 = match shift {
            Some(shift) => state.x0.clone() + shift,
            None => state.x0.clone(),
        };
        let channels = x0.dims()[1];
        let grey = x0.mean_dim(1).repeat_dim(1, channels);
        Ok(Correction { shift: Some(grey - state.x0.clone()), residual_rms })
    }
}
