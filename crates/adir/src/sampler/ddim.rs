//! DDIM sampling, and ADIR in few steps: guidance corrects the x0 estimate instead of the mean.
//!
//! The surprising decision is [`EpsAfterGuidance::Keep`] as the default: the corrected x0 is brought back to the
//! next noise level with the eps from before the correction. That pulls harder than Algorithm 1 at equal s, and came
//! nearer to the ideal posterior in a Gaussian model (rms error 0.112 instead of 0.133 at 50 steps, ideal 0.110).

use serde::{Deserialize, Serialize};

use super::Inputs;
use super::chain::{Evaluation, Outcome, Rule, eps_from_x0, predict_x0};
use crate::guidance::{StepState, Target, YNoise};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// The eps used with an x0 that guidance has corrected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EpsAfterGuidance {
    /// The eps from before the correction.
    Keep,
    /// The one that leads from the moved x0 to x_t: the guidance of Algorithm 1, carried over exactly.
    Rederive,
}

/// DDIM sampling with guidance of the x0 estimate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DdimConfig {
    /// Share of fresh noise in each step, 0 (none: the sample is a function of x_T) to 1 (as much as ancestral
    /// sampling). Default 1.
    pub eta: f64,
    /// Whether each x0 estimate is limited to [-1, 1] before guidance, and eps made to agree with it. Default true.
    pub clip_x0: bool,
    /// Default `Keep`.
    pub eps_after_guidance: EpsAfterGuidance,
}

impl Default for DdimConfig {
    fn default() -> Self {
        Self { eta: 1.0, clip_x0: true, eps_after_guidance: EpsAfterGuidance::Keep }
    }
}

/// An x0 estimate after guidance, and the eps that belongs to it.
pub(super) struct Estimate {
    pub x0: Tensor<4>,
    pub eps: Tensor<4>,
    /// See [`Outcome::residual_rms`].
    pub residual_rms: Option<f64>,
    /// See [`crate::guidance::Correction::y_noise`].
    pub y_noise: Option<YNoise>,
}

impl Estimate {
    /// The estimate from what the network says, corrected by the guidance if there is one.
    ///
    /// # Errors
    /// Those of the guidance.
    pub fn corrected(
        inputs: &Inputs<'_>,
        evaluation: Evaluation<'_>,
        clip_x0: bool,
        eps_after_guidance: EpsAfterGuidance,
    ) -> Result<Self> {
        let Evaluation { at, x_t, prediction, back, .. } = evaluation;
        let (schedule, index) = (inputs.schedule, at.index);
        let (mut x0, mut eps) = predict_x0(schedule, index, x_t, prediction.eps.clone(), clip_x0);
        let Some(guidance) = inputs.guidance else { return Ok(Self { x0, eps, residual_rms: None, y_noise: None }) };
        let errors = inputs.denoiser.info().errors.as_ref();
        let state = StepState { schedule, index, x_t, x0: &x0, eps: &eps, back, errors };
        let correction = guidance.correct(&state, Target::X0)?;
        if let Some(shift) = correction.shift {
            x0 = x0 + shift;
            if eps_after_guidance == EpsAfterGuidance::Rederive {
                eps = eps_from_x0(schedule, index, x_t, &x0);
            }
        }
        Ok(Self { x0, eps, residual_rms: Some(correction.residual_rms), y_noise: correction.y_noise })
    }
}

impl Rule for DdimConfig {
    fn check(&self) -> Result<()> {
        if (0.0..=1.0).contains(&self.eta) {
            Ok(())
        } else {
            Err(Error::config(format!("eta = {}: expected 0 to 1", self.eta)))
        }
    }

    /// x_(t-1) = sqrt(alpha_bar') x0 + sqrt(1 - alpha_bar' - sigma^2) eps + sigma z, alpha_bar' being that of the step
    /// before and sigma = eta sqrt((1 - alpha_bar')/(1 - alpha_bar)) sqrt(1 - alpha_bar/alpha_bar').
    fn update(&self, inputs: &Inputs<'_>, evaluation: Evaluation<'_>) -> Result<Outcome> {
        let Evaluation { at, x_t, .. } = evaluation;
        let config = *self;
        let schedule = inputs.schedule;
        let Estimate { x0, eps, residual_rms, .. } =
            Estimate::corrected(inputs, evaluation, config.clip_x0, config.eps_after_guidance)?;
        let (alpha_bar, next_alpha_bar) = (schedule.alpha_bar(at.index), schedule.alpha_bar_prev(at.index));
        let variance =
            config.eta * config.eta * (1.0 - next_alpha_bar) / (1.0 - alpha_bar) * (1.0 - alpha_bar / next_alpha_bar);
        let kept = (1.0 - next_alpha_bar - variance).max(0.0).sqrt();
        let mut next = x0.clone().mul_scalar(next_alpha_bar.sqrt()) + eps.mul_scalar(kept);
        if variance > 0.0 {
            next = next + inputs.noise.noise(at.step, x_t)?.mul_scalar(variance.sqrt());
        }
        Ok(Outcome { x_t: next, x0, residual_rms })
    }
}
