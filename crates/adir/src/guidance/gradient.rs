//! Guidances by the gradient of y's likelihood through the network: DPS and PiGDM.
//!
//! Both cost a backward pass a step. The chain rule is short because A is linear and x0 follows from eps: only the
//! network's own part is asked of [`crate::models::Pullback`].

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Correction, Guidance, StepState, Target, check_observation, check_sigma, residual_of};
use crate::operator::{LinearOperator, Solve, least_damping, solve};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Norm of A x0 - y below which DPS leaves the state as it is.
const AGREES: f64 = 1e-12;

/// The gradient by x_t of `sum(by_x0 * x0)` for x0 = (x_t - sqrt(1 - alpha_bar) eps(x_t)) / sqrt(alpha_bar).
fn back_to_x_t(state: &StepState<'_>, by_x0: Tensor<4>) -> Result<Tensor<4>> {
    let back = state.back.ok_or_else(|| Error::config("this guidance needs the way back through the network"))?;
    let alpha_bar = state.schedule.alpha_bar(state.index);
    let by_eps = by_x0.clone().mul_scalar(-((1.0 - alpha_bar) / alpha_bar).sqrt());
    Ok(by_x0.div_scalar(alpha_bar.sqrt()) + back.x_t(&by_eps)?)
}

/// Settings of [`DpsGuidance`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DpsConfig {
    /// The step zeta' along the gradient of |A x0 - y|, 0 or more.
    pub step: f64,
}

/// Diffusion posterior sampling (Chung et al. 2023): the mean of an ancestral step moves by -`step` times the gradient of
/// |A x0(x_t) - y| by x_t. Where x0 was limited to [-1, 1] no gradient passes.
#[derive(Debug, Clone)]
pub struct DpsGuidance {
    operator: Arc<dyn LinearOperator>,
    y: Tensor<4>,
    config: DpsConfig,
}

impl DpsGuidance {
    /// Guidance towards `y`, the observation through `operator`.
    ///
    /// # Shapes
    /// `y`: `[1, range]` for one observation of all samples, or `[n, range]`; in the precision and on the device
    /// of the samples.
    ///
    /// # Errors
    /// [`Error::Config`] when the step is negative or not finite, or `y` is not of the operator's range.
    pub fn new(operator: Arc<dyn LinearOperator>, y: Tensor<4>, config: DpsConfig) -> Result<Self> {
        check_observation(operator.as_ref(), &y)?;
        if !(config.step.is_finite() && config.step >= 0.0) {
            return Err(Error::config(format!("a DPS step of {}: expected a finite number, 0 or more", config.step)));
        }
        Ok(Self { operator, y, config })
    }
}

impl Guidance for DpsGuidance {
    fn needs_gradient(&self) -> bool {
        true
    }

    /// # Errors
    /// [`Error::Config`] where an x0 estimate is to be corrected, and when the shapes of state and observation do not
    /// agree.
    fn correct(&self, state: &StepState<'_>, target: Target<'_>) -> Result<Correction> {
        if let Target::X0 = target {
            return Err(Error::config("DPS corrects the mean of ancestral steps: use the ancestral sampler"));
        }
        let (residual, residual_rms) = residual_of(self.operator.as_ref(), &self.y, state.x0)?;
        let norm = residual.clone().square().sum_dim(1).sum_dim(2).sum_dim(3).sqrt().clamp_min(AGREES);
        let by_x0 = self.operator.adjoint(&(residual / norm))?;
        // Limited values are exactly -1 or 1.
        let limited = state.x0.clone().abs().equal_elem(1.0);
        let gradient = back_to_x_t(state, by_x0.mask_fill(limited, 0.0))?;
        Ok(Correction::new(Some(gradient.mul_scalar(-self.config.step)), residual_rms))
    }
}

/// Settings of [`PigdmGuidance`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PigdmConfig {
    /// Standard deviation of the noise in y, in [-1, 1] units.
    pub sigma: f64,
}

/// Pseudo-inverse guided diffusion (Song et al. 2023, Algorithm 1), with r_t^2 = 1 - alpha_bar_t: x_(t-1) of a DDIM step
/// moves by sqrt(alpha_bar_t) (dx0/dx_t)^T A^T (A A^T + sigma^2 / r_t^2 I)^-1 (y - A x0).
#[derive(Debug, Clone)]
pub struct PigdmGuidance {
    operator: Arc<dyn LinearOperator>,
    y: Tensor<4>,
    config: PigdmConfig,
    least_damping: f64,
}

impl PigdmGuidance {
    /// Guidance towards `y`, the observation through `operator`.
    ///
    /// # Shapes
    /// As [`DpsGuidance::new`].
    ///
    /// # Errors
    /// [`Error::Config`] when sigma is negative or not finite, or `y` is not of the operator's range.
    pub fn new(operator: Arc<dyn LinearOperator>, y: Tensor<4>, config: PigdmConfig) -> Result<Self> {
        check_observation(operator.as_ref(), &y)?;
        check_sigma(config.sigma)?;
        let least_damping = least_damping(operator.as_ref());
        Ok(Self { operator, y, config, least_damping })
    }
}

impl Guidance for PigdmGuidance {
    fn needs_gradient(&self) -> bool {
        true
    }

    /// # Errors
    /// [`Error::Config`] where the mean of an ancestral step is to be corrected, and when the shapes of state and
    /// observation do not agree.
    fn correct(&self, state: &StepState<'_>, target: Target<'_>) -> Result<Correction> {
        if let Target::Mean { .. } = target {
            return Err(Error::config("PiGDM corrects x0 estimates: use a DDIM sampler"));
        }
        let (residual, residual_rms) = residual_of(self.operator.as_ref(), &self.y, state.x0)?;
        let (alpha_bar, next) = (state.schedule.alpha_bar(state.index), state.schedule.alpha_bar_prev(state.index));
        let damping = (self.config.sigma * self.config.sigma / (1.0 - alpha_bar)).max(self.least_damping);
        let solved = solve(self.operator.as_ref(), 1.0, damping, &residual, &Solve::default())?;
        let gradient = back_to_x_t(state, self.operator.adjoint(&solved)?)?;
        // A shift of x0 reaches x_(t-1) times sqrt(alpha_bar_(t-1)).
        Ok(Correction::new(Some(gradient.mul_scalar(-(alpha_bar / next).sqrt())), residual_rms))
    }
}
