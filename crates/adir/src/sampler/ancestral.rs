//! Ancestral sampling (DDPM) and, with guidance, Algorithm 1 of the paper.
//!
//! Unguided it is guided-diffusion's `p_sample_loop` number by number; guidance shifts the mean, evaluated at the
//! mean itself and not at x_t, before the noise is added. The last step adds no noise.

use serde::{Deserialize, Serialize};

use super::Inputs;
use super::chain::{Evaluation, Outcome, Rule, predict_x0};
use crate::guidance::{StepState, Target};
use crate::models::Prediction;
use crate::schedule::{Schedule, VarianceKind};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Ancestral sampling (DDPM) and, with guidance, Algorithm 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AncestralConfig {
    /// Variance of a step. Default `LearnedRange`.
    pub variance: VarianceKind,
    /// Whether each x0 estimate is limited to [-1, 1] and eps made to agree with it. Default true.
    pub clip_x0: bool,
}

impl Default for AncestralConfig {
    fn default() -> Self {
        Self { variance: VarianceKind::LearnedRange, clip_x0: true }
    }
}

/// The Gaussian p(x_(t-1) | x_t) without guidance.
#[derive(Debug, Clone)]
pub struct Posterior {
    /// The estimate of x0 (Eq. 14), limited to [-1, 1] if so configured.
    pub x0: Tensor<4>,
    /// The noise that belongs to `x0`.
    pub eps: Tensor<4>,
    /// mu (Eq. 5).
    pub mean: Tensor<4>,
    /// ln Sigma: the shape of the mean where it is learned, else `[1, 1, 1, 1]`.
    pub log_variance: Tensor<4>,
}

/// Mean (Eq. 5) and variance of step `index` of `schedule` (counting down to 0), from the prediction for `x_t`, `[n, c,
/// h, w]`.
///
/// # Errors
/// [`Error::Config`] when the variance is to be the learned one and the network has none.
pub fn posterior(
    schedule: &Schedule,
    index: usize,
    x_t: &Tensor<4>,
    prediction: Prediction,
    config: AncestralConfig,
) -> Result<Posterior> {
    let log_variance = match schedule.fixed_log_variance(config.variance, index) {
        Some(log_variance) => Tensor::full([1, 1, 1, 1], log_variance, (&x_t.device(), x_t.dtype())),
        None => learned_log_variance(schedule, index, prediction.variance)?,
    };
    let (x0, eps) = predict_x0(schedule, index, x_t, prediction.eps, config.clip_x0);
    let (of_x0, of_x_t) = schedule.posterior_mean_coefficients(index);
    let mean = x0.clone().mul_scalar(of_x0) + x_t.clone().mul_scalar(of_x_t);
    Ok(Posterior { x0, eps, mean, log_variance })
}

/// Linear interpolation between ln beta-tilde at v = -1 and ln beta at v = 1, extended beyond both.
fn learned_log_variance(schedule: &Schedule, index: usize, v: Option<Tensor<4>>) -> Result<Tensor<4>> {
    let v = v.ok_or_else(|| Error::config("the network predicts no variance: use fixed_large or fixed_small"))?;
    let (low, high) = (schedule.posterior_log_variance_clipped(index), schedule.beta(index).ln());
    Ok(v.mul_scalar((high - low) / 2.0).add_scalar((high + low) / 2.0))
}

impl Rule for AncestralConfig {
    /// Lines 3-7 of Algorithm 1.
    fn update(&self, inputs: &Inputs<'_>, evaluation: Evaluation<'_>) -> Result<Outcome> {
        let Evaluation { at, x_t, prediction, back, .. } = evaluation;
        let config = *self;
        let Posterior { x0, eps, mut mean, log_variance } =
            posterior(inputs.schedule, at.index, x_t, prediction.clone(), config)?;
        let mut residual_rms = None;
        if let Some(guidance) = inputs.guidance {
            let (schedule, errors) = (inputs.schedule, inputs.denoiser.info().errors.as_ref());
            let state = StepState { schedule, index: at.index, x_t, x0: &x0, eps: &eps, back, errors };
            let correction =
                guidance.correct(&state, Target::Mean { mean: &mean, variance: &log_variance.clone().exp() })?;
            residual_rms = Some(correction.residual_rms);
            if let Some(shift) = correction.shift {
                mean = mean + shift;
            }
        }
        if at.index > 0 {
            mean = mean + inputs.noise.noise(at.step, x_t)? * log_variance.mul_scalar(0.5).exp();
        }
        Ok(Outcome { x_t: mean, x0, residual_rms })
    }
}
