//! Guidance of images that are known to be grey.

use super::{Correction, Guidance, StepState, Target};
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
    fn needs_gradient(&self) -> bool {
        self.inner.needs_gradient()
    }

    /// As the inner guidance where the mean of an ancestral step is corrected, since that contains the noise of x_t.
    fn correct(&self, state: &StepState<'_>, target: Target<'_>) -> Result<Correction> {
        let correction = self.inner.correct(state, target)?;
        if let Target::Mean { .. } = target {
            return Ok(correction);
        }
        let Correction { shift, residual_rms, y_noise } = correction;
        let x0 = match shift {
            Some(shift) => state.x0.clone() + shift,
            None => state.x0.clone(),
        };
        let channels = x0.dims()[1];
        let grey = x0.mean_dim(1).repeat_dim(1, channels);
        Ok(Correction { shift: Some(grey - state.x0.clone()), residual_rms, y_noise })
    }

    fn start(&self, alpha_bar: f64, noise: &Tensor<4>) -> Result<Tensor<4>> {
        self.inner.start(alpha_bar, noise)
    }
}
