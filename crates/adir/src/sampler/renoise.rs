//! Few-step sampling as estimate, correction, new noise: what the solvers of DDNM, DiffPIR and this project share.
//!
//! Each step estimates x0, lets guidance correct it, and brings the result to the next noise level with a mixture of
//! fresh noise and the predicted eps. The surprising decision is [`Mixture::Opposed`]: with eps subtracted instead of
//! added, the network's errors of one step are taken back in the next instead of piling up. A single run then has the
//! error of the mean of many samples, and their smoothness (Garber and Tirer 2025, CM4IR).

use serde::{Deserialize, Serialize};

use super::Inputs;
use super::chain::{Evaluation, Outcome, Rule};
use super::ddim::{EpsAfterGuidance, Estimate};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// What the noise of the next level is made of. All shares are of its standard deviation, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Mixture {
    /// The fresh share of DDIM's eta: eta sqrt((1 - alpha_bar')/(1 - alpha_bar)) sqrt(1 - alpha_bar/alpha_bar') of
    /// noise, the rest eps.
    Ddim(f64),
    /// That share is fresh, the rest is eps: DDNM's eta; sqrt(zeta) of DiffPIR.
    Fresh(f64),
    /// That share is fresh, the rest is -eps.
    Opposed(f64),
}

impl Mixture {
    /// Fresh part and signed part of eps, for noise of total standard deviation sqrt(1 - alpha_bar').
    fn parts(self, alpha_bar: f64, next: f64) -> (f64, f64) {
        let total = (1.0 - next).max(0.0).sqrt();
        let rest = |fresh: f64| (total * total - fresh * fresh).max(0.0).sqrt();
        match self {
            Self::Ddim(eta) => {
                let fresh = eta * ((1.0 - next) / (1.0 - alpha_bar) * (1.0 - alpha_bar / next)).max(0.0).sqrt();
                (fresh, rest(fresh))
            }
            Self::Fresh(share) => (share * total, rest(share * total)),
            Self::Opposed(share) => (share * total, -rest(share * total)),
        }
    }
}

/// A sampler of few steps.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenoiseConfig {
    /// The noise of the next level. Where guidance says how much noise of y an estimate holds, only what is missing is
    /// added, and no eps where y decides.
    pub mixture: Mixture,
    /// Whether each x0 estimate is limited to [-1, 1] before guidance, and eps made to agree with it.
    pub clip_x0: bool,
    /// The eps after a correction.
    pub eps_after_guidance: EpsAfterGuidance,
}

impl Rule for RenoiseConfig {
    fn check(&self) -> Result<()> {
        let (Mixture::Ddim(share) | Mixture::Fresh(share) | Mixture::Opposed(share)) = self.mixture;
        if (0.0..=1.0).contains(&share) {
            Ok(())
        } else {
            Err(Error::config(format!("a share of fresh noise of {share}: expected 0 to 1")))
        }
    }

    /// x' = sqrt(alpha_bar') x0 + fresh z + rest eps; x0 after the last step.
    fn update(&self, inputs: &Inputs<'_>, evaluation: Evaluation<'_>) -> Result<Outcome> {
        let Evaluation { at, x_t, .. } = evaluation;
        let schedule = inputs.schedule;
        let Estimate { x0, eps, residual_rms, y_noise } =
            Estimate::corrected(inputs, evaluation, self.clip_x0, self.eps_after_guidance)?;
        if at.index == 0 {
            return Ok(Outcome { x_t: x0.clone(), x0, residual_rms });
        }
        let (alpha_bar, next) = (schedule.alpha_bar(at.index), schedule.alpha_bar_prev(at.index));
        let (fresh, kept) = self.mixture.parts(alpha_bar, next);
        let scaled = x0.clone().mul_scalar(next.sqrt());
        let x_t = match y_noise {
            Some(y_noise) => {
                let z = inputs.noise.noise(at.step, x_t)?;
                let apart = |like: &Tensor<4>| inputs.noise.apart(at.step, like);
                scaled + y_noise.fill(next.sqrt(), (1.0 - next).sqrt(), kept, &z, &eps, apart)?
            }
            None if fresh > 0.0 => scaled + eps.mul_scalar(kept) + inputs.noise.noise(at.step, x_t)?.mul_scalar(fresh),
            None => scaled + eps.mul_scalar(kept),
        };
        Ok(Outcome { x_t, x0, residual_rms })
    }
}
