//! Guidance: what keeps each sampling step in agreement with the observation y.
//!
//! A sampler hands its state to a [`Guidance`] and adds the shift it gets back: to the mean of the ancestral
//! step (Algorithm 1), or to the x0 estimate of a DDIM step. "No shift" is `None` instead of a tensor of zeros, so that
//! a guidance of strength zero reproduces the unguided sampler to the byte.

mod adir;
mod gradient;
mod grey;
mod light;
mod proximal;
#[cfg(test)]
mod tests;

use std::fmt::Debug;

pub use adir::{AdirConfig, AdirGuidance, Adjoint, DataStep, Residual, Strength};
pub use gradient::{DpsConfig, DpsGuidance, PigdmConfig, PigdmGuidance};
pub use grey::GreyGuidance;
pub use light::LightGuidance;
pub use proximal::{ProximalConfig, ProximalGuidance, Trust, YNoise};

use crate::models::{EstimateErrors, Pullback};
use crate::operator::{ImageShape, LinearOperator};
use crate::schedule::Schedule;
use crate::tensor::{Tensor, to_f64};
use crate::{Error, Result};

/// State of a sampler at one step, before guidance.
///
/// # Shapes
/// All tensors `[n, c, h, w]`.
#[derive(Clone, Copy)]
pub struct StepState<'a> {
    /// The schedule being sampled.
    pub schedule: &'a Schedule,
    /// The step of that schedule, counting down to 0.
    pub index: usize,
    /// The state the network was given.
    pub x_t: &'a Tensor<4>,
    /// The estimate of x0 (Eq. 14), clipped if the sampler clips.
    pub x0: &'a Tensor<4>,
    /// The predicted noise that belongs to `x0`.
    pub eps: &'a Tensor<4>,
    /// The way back from the network's eps to x_t, for a guidance that [needs it](Guidance::needs_gradient).
    pub back: Option<&'a dyn Pullback>,
    /// The error of the network's x0 estimates, where it was measured.
    pub errors: Option<&'a EstimateErrors>,
}

/// What a sampler lets a guidance correct.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Target<'a> {
    /// The x0 estimate of a DDIM step.
    X0,
    /// The mean of an ancestral step.
    Mean {
        /// The mean mu (Eq. 5), `[n, c, h, w]`.
        mean: &'a Tensor<4>,
        /// The variance of the step per element, the shape of the mean or `[1, 1, 1, 1]`.
        variance: &'a Tensor<4>,
    },
}

/// Result of a guidance.
#[derive(Debug, Clone)]
pub struct Correction {
    /// To be added to the corrected quantity; `None` for no change.
    pub shift: Option<Tensor<4>>,
    /// Root mean square of A x0 - y before the correction, in [-1, 1] units.
    pub residual_rms: f64,
    /// The noise of y in the corrected x0, where it is known: a sampler may then add only what is missing.
    pub y_noise: Option<YNoise>,
}

impl Correction {
    /// A correction that says nothing of y's noise.
    pub fn new(shift: Option<Tensor<4>>, residual_rms: f64) -> Self {
        Self { shift, residual_rms, y_noise: None }
    }
}

/// A x0 - y and its root mean square.
fn residual_of(operator: &dyn LinearOperator, y: &Tensor<4>, x0: &Tensor<4>) -> Result<(Tensor<4>, f64)> {
    let (samples, observations) = (x0.dims()[0], y.dims()[0]);
    if observations != 1 && observations != samples {
        return Err(Error::config(format!(
            "{observations} observations cannot guide {samples} samples: expected 1 observation or one per sample"
        )));
    }
    let residual = operator.apply(x0)? - y.clone();
    let mean_square = to_f64(&residual.clone().square().mean())?.iter().sum::<f64>();
    Ok((residual, mean_square.sqrt()))
}

/// Refuses a noise level of y, in [-1, 1] units, that none can have.
fn check_sigma(sigma: f64) -> Result<()> {
    if sigma.is_finite() && sigma >= 0.0 {
        return Ok(());
    }
    Err(Error::config(format!("a noise level of {sigma}: expected 0 or more")))
}

/// Refuses an observation that is not of the operator's range.
fn check_observation(operator: &dyn LinearOperator, y: &Tensor<4>) -> Result<()> {
    let (range, found) = (operator.range(), ImageShape::of_batch(y));
    if found == range {
        return Ok(());
    }
    Err(Error::config(format!(
        "the observation is {found}, but the operator yields {range} (channels x height x width)"
    )))
}

/// A rule that pulls samples towards an observation.
pub trait Guidance: Debug + Send + Sync {
    /// Whether [`StepState::back`] is needed. It costs a backward pass through the network.
    fn needs_gradient(&self) -> bool {
        false
    }

    /// The shift of `target`.
    ///
    /// # Errors
    /// [`crate::Error::Config`] when the state does not fit the observation, or the rule cannot correct such a target.
    fn correct(&self, state: &StepState<'_>, target: Target<'_>) -> Result<Correction>;

    /// The first state, of noise level `alpha_bar`, where the observation has its part in it
    /// ([`crate::sampler::Start::Observed`]); `noise` is standard normal.
    ///
    /// # Errors
    /// [`crate::Error::Config`] where the guidance knows none, as by default.
    fn start(&self, alpha_bar: f64, noise: &Tensor<4>) -> Result<Tensor<4>> {
        let _ = (alpha_bar, noise);
        Err(Error::config("this guidance does not say where sampling starts"))
    }
}

impl<G: Guidance + ?Sized> Guidance for Box<G> {
    fn needs_gradient(&self) -> bool {
        (**self).needs_gradient()
    }

    fn correct(&self, state: &StepState<'_>, target: Target<'_>) -> Result<Correction> {
        (**self).correct(state, target)
    }

    fn start(&self, alpha_bar: f64, noise: &Tensor<4>) -> Result<Tensor<4>> {
        (**self).start(alpha_bar, noise)
    }
}
