//! Guidance: what keeps each sampling step in agreement with the observation y.
//!
//! A sampler hands its state to a [`Guidance`] and adds the shift it gets back: to the mean of the ancestral
//! step (Algorithm 1), or to the x0 estimate of a DDIM step. The surprising decision: "no shift" is `None` and
//! not a tensor of zeros, so that a guidance of strength zero leaves the unguided sampler's bytes as they are.

mod adir;
mod grey;
#[cfg(test)]
mod tests;

use std::fmt::Debug;

pub use adir::{AdirConfig, AdirGuidance, Adjoint, DataStep, Residual, Strength};
pub use grey::GreyGuidance;

use crate::Result;
use crate::schedule::Schedule;
use crate::tensor::Tensor;

/// What a sampler knows at one step, before guidance.
///
/// # Shapes
/// All tensors `[n, c, h, w]`.
#[derive(Debug, Clone, Copy)]
pub struct StepState<'a> {
    /// The schedule being sampled.
    pub schedule: &'a Schedule,
    /// The step of that schedule, counting down to 0.
    pub index: usize,
    /// The estimate of x0 (Eq. 14), clipped if the sampler clips.
    pub x0: &'a Tensor<4>,
    /// The predicted noise, that which belongs to `x0`.
    pub eps: &'a Tensor<4>,
}

/// What a guidance answers.
#[derive(Debug, Clone)]
pub struct Correction {
    /// To be added to what was corrected; `None` for nothing at all.
    pub shift: Option<Tensor<4>>,
    /// Root mean square of A x0 - y before the correction, in [-1, 1] units.
    pub residual_rms: f64,
}

/// A rule that pulls samples towards an observation.
pub trait Guidance: Debug + Send + Sync {
    /// The shift of the mean of an ancestral step, whose variance per element is `variance` (the shape of the
    /// mean, or `[1, 1, 1, 1]`).
    ///
    /// # Errors
    /// [`crate::Error::Config`] when the state does not fit the observation, or the rule has no such form.
    fn correct_mean(&self, state: &StepState<'_>, mean: &Tensor<4>, variance: &Tensor<4>) -> Result<Correction>;

    /// The shift of the x0 estimate of a DDIM step.
    ///
    /// # Errors
    /// As [`Guidance::correct_mean`].
    fn correct_x0(&self, state: &StepState<'_>) -> Result<Correction>;
}
