//! Guidance: what keeps each sampling step in agreement with the observation y.
//!
//! A sampler hands its state to a [`Guidance`] and adds the shift it gets back: to the mean of the ancestral
//! step (Algorithm 1), or to the x0 estimate of a DDIM step. "No shift" is `None` instead of a tensor of zeros, so that
//! a guidance of strength zero reproduces the unguided sampler to the byte.

mod adir;
mod grey;
#[cfg(test)]
mod tests;

use std::fmt::Debug;

pub use adir::{AdirConfig, AdirGuidance, Adjoint, DataStep, Residual, Strength};
pub use grey::GreyGuidance;

use crate::Result;
use crate::models::Pullback;
use crate::schedule::Schedule;
use crate::tensor::Tensor;

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
}

impl<G: Guidance + ?Sized> Guidance for Box<G> {
    fn needs_gradient(&self) -> bool {
        (**self).needs_gradient()
    }

    fn correct(&self, state: &StepState<'_>, target: Target<'_>) -> Result<Correction> {
        (**self).correct(state, target)
    }
}
