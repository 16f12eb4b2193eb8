//! Samplers: iterators of steps, driven by the caller.
//!
//! A sampler is a [`Rule`]: how one step follows from what the network says. [`AncestralConfig`] is Algorithm 1,
//! [`DdimConfig`] its form for few steps. The surprising decision: a sampler never runs by itself. Each `next()` of a
//! [`Chain`] evaluates the network once and yields a [`Step`], so that progress, previews, checkpoints and stopping
//! belong to the caller. A [`Chain`] is resumed by [`Inputs::resume_at`] with the x_t of the last step, and [`Stages`] by
//! [`Stages::resume`] with what they had [`Reached`].

mod ancestral;
mod chain;
mod ddim;
mod dpm_solver;
mod renoise;
mod stages;

pub use ancestral::{AncestralConfig, Posterior, posterior};
pub use chain::{Chain, Evaluation, Outcome, Position, Rule, Step, eps_from_x0, predict_x0};
pub use ddim::{DdimConfig, EpsAfterGuidance};
pub use dpm_solver::DpmSolverConfig;
pub use renoise::{Mixture, RenoiseConfig};
pub use stages::{Reached, Stage, Stages, Start};

use burn::tensor::DType;

use crate::guidance::Guidance;
use crate::models::Denoiser;
use crate::noise::Noise;
use crate::schedule::Schedule;
use crate::tensor::{Device, Tensor};
use crate::{Error, Result};

/// Where a sampler's noise comes from: [`Noise`] in use, a recording in a test.
pub trait NoiseSource: Sync {
    /// Standard normal noise for loop step `step` (0 is the first, at the highest noise level), in the shape and
    /// precision and on the device of `like`.
    ///
    /// # Errors
    /// Errors of reading a recording; [`Noise`] never fails.
    fn noise(&self, step: usize, like: &Tensor<4>) -> Result<Tensor<4>>;

    /// Standard normal noise independent of all that the other methods give, for loop step `step` in the shape of `like`.
    ///
    /// # Errors
    /// As [`NoiseSource::noise`]; [`Error::Config`], the default, if the source has only the noise of steps.
    fn apart(&self, _step: usize, _like: &Tensor<4>) -> Result<Tensor<4>> {
        Err(Error::config("this source has no second noise of a step"))
    }

    /// Standard normal noise for a start after `used` noises: [`initial_noise`] for 0, else that of step `used` - 1.
    ///
    /// # Errors
    /// As [`NoiseSource::noise`]; [`Error::Config`] for 0, if the source has only the noise of steps.
    fn start(&self, used: usize, like: &Tensor<4>) -> Result<Tensor<4>> {
        match used.checked_sub(1) {
            Some(step) => self.noise(step, like),
            None => Err(Error::config("this source has no noise to start from")),
        }
    }
}

/// Loop step k takes counter step k + 1, and for the second noise the last but k; 0 is [`initial_noise`].
impl NoiseSource for Noise {
    fn noise(&self, step: usize, like: &Tensor<4>) -> Result<Tensor<4>> {
        self.start(step + 1, like)
    }

    fn apart(&self, step: usize, like: &Tensor<4>) -> Result<Tensor<4>> {
        Ok(self.normal_tensor(u32::MAX - step as u32, like.dims(), &like.device(), like.dtype()))
    }

    fn start(&self, used: usize, like: &Tensor<4>) -> Result<Tensor<4>> {
        Ok(self.normal_tensor(used as u32, like.dims(), &like.device(), like.dtype()))
    }
}

impl<F: Fn(usize, &Tensor<4>) -> Result<Tensor<4>> + Sync> NoiseSource for F {
    fn noise(&self, step: usize, like: &Tensor<4>) -> Result<Tensor<4>> {
        self(step, like)
    }
}

/// x_T ~ N(0, I), `[n, c, h, w]`: independent of the noise of every step of the same `noise`.
pub fn initial_noise(noise: &Noise, shape: [usize; 4], device: &Device, dtype: DType) -> Tensor<4> {
    noise.normal_tensor(0, shape, device, dtype)
}

/// Inputs of every sampler.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// The network.
    pub denoiser: &'a dyn Denoiser,
    /// The network's schedule, or that schedule respaced.
    pub schedule: &'a Schedule,
    /// Noise of the steps.
    pub noise: &'a dyn NoiseSource,
    /// Guidance towards an observation; none for plain sampling.
    pub guidance: Option<&'a dyn Guidance>,
    /// Label for a class-conditional network.
    pub class: Option<usize>,
    /// First loop step: 0 starts from x_T; k continues after k steps from their x_t.
    pub resume_at: usize,
    /// Noises used before the first step, by earlier [`Stages`].
    pub noises_before: usize,
}

impl<'a> Inputs<'a> {
    /// Plain sampling from the first step.
    pub fn new(denoiser: &'a dyn Denoiser, schedule: &'a Schedule, noise: &'a dyn NoiseSource) -> Self {
        Self { denoiser, schedule, noise, guidance: None, class: None, resume_at: 0, noises_before: 0 }
    }
}
