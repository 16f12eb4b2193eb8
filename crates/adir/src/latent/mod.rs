//! Sampling in the latents of an autoencoder: super-resolution by 4, and editing by a text.
//!
//! [`upscaling`] and [`inpainting`] prepare what a network is told, [`LatentSampler`] samples with it. Loading and writing
//! belong to the caller, so that the text encoder can be dropped before the network is read, and the network before the
//! autoencoder.

mod adapt;
mod adapter_file;
mod colour;
mod examples;
mod inpaint;
mod preset;
mod upscale;

pub use adapt::{LatentAdaptation, LatentOutcome, LatentTraining};
pub use adapter_file::LatentAdapter;
pub use colour::match_colours;
pub use examples::{EncodedImage, Examples};
pub use inpaint::{Hole, inpainting};
pub use preset::LatentPreset;
pub use upscale::{pad_small, super_resolution, upscaling};

use serde::{Deserialize, Serialize};

use crate::models::stable_diffusion::{Facts, Spacing};
use crate::models::{ClassifierFree, Conditioning, Denoiser};
use crate::sampler::{Chain, DdimConfig, DpmSolverConfig, EpsAfterGuidance, Inputs, NoiseSource, Rule};
use crate::schedule::Schedule;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// How a chain goes down the noise levels.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Solver {
    /// DDIM with a share of fresh noise from 0 to 1.
    Ddim {
        /// The share.
        eta: f64,
    },
    /// DPM-Solver++(2M): as good in fewer steps.
    Dpm,
}

/// How to sample.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LatentSettings {
    /// The sampler.
    pub solver: Solver,
    /// Its steps.
    pub steps: usize,
    /// Scale of classifier-free guidance, 1 for none.
    pub scale: f64,
}

impl LatentSettings {
    /// Refuses what cannot be sampled with.
    ///
    /// # Errors
    /// [`Error::Config`] naming the setting.
    pub fn check(&self, facts: &Facts) -> Result<()> {
        self.schedule(facts)?;
        if !(1.0..=100.0).contains(&self.scale) {
            return Err(Error::config(format!("guidance scale {}: expected 1 to 100", self.scale)));
        }
        match self.solver {
            Solver::Ddim { eta } if !(0.0..=1.0).contains(&eta) => {
                Err(Error::config(format!("eta = {eta}: expected 0 to 1")))
            }
            _ => Ok(()),
        }
    }

    /// The timesteps visited, as diffusers' scheduler of that name chooses them.
    ///
    /// # Errors
    /// [`Error::Config`] for no steps, or more than there are.
    pub fn schedule(&self, facts: &Facts) -> Result<Schedule> {
        let (spacing, ends_clean) = match self.solver {
            Solver::Ddim { .. } => (facts.spacing.unwrap_or(Spacing::Leading), facts.ends_clean),
            Solver::Dpm => (facts.spacing.unwrap_or(Spacing::Linspace), true),
        };
        let timesteps = match self.solver {
            Solver::Ddim { .. } => facts.timesteps(spacing, self.steps)?,
            // One more, of which the last, without noise, is no step.
            Solver::Dpm => facts.timesteps_above_none(spacing, self.steps)?,
        };
        let ascending: Vec<_> = timesteps.iter().rev().map(|t| usize::from(t.0)).collect();
        let schedule = facts.schedule()?.at(&ascending)?;
        Ok(if ends_clean { schedule } else { schedule.ending_at_first() })
    }

    fn rule(&self) -> Box<dyn Rule> {
        match self.solver {
            Solver::Ddim { eta } => {
                Box::new(DdimConfig { eta, clip_x0: false, eps_after_guidance: EpsAfterGuidance::Keep })
            }
            Solver::Dpm => Box::new(DpmSolverConfig { clip_x0: false }),
        }
    }
}

/// A network with what it is told, ready to sample.
pub struct LatentSampler<'a> {
    denoiser: ClassifierFree<'a>,
    schedule: Schedule,
    settings: LatentSettings,
}

impl<'a> LatentSampler<'a> {
    /// Of a U-Net told `with`, and `without` where the guidance scale makes that count.
    ///
    /// # Errors
    /// As [`LatentSettings::check`].
    pub fn new(
        unet: &'a dyn Denoiser,
        facts: &Facts,
        settings: LatentSettings,
        with: Conditioning,
        without: Option<Conditioning>,
    ) -> Result<Self> {
        settings.check(facts)?;
        let denoiser = ClassifierFree::new(unet, with, without, settings.scale)?;
        Ok(Self { denoiser, schedule: settings.schedule(facts)?, settings })
    }

    /// Passes of the network a step.
    pub fn passes(&self) -> usize {
        self.denoiser.passes()
    }

    /// The steps from `start`, standard normal noise of the shape of the latents.
    ///
    /// # Errors
    /// As [`Chain::new`].
    pub fn steps<'s>(&'s self, noise: &'s dyn NoiseSource, start: Tensor<4>) -> Result<Chain<'s>> {
        self.resumed(noise, start, None)
    }

    /// The steps that are left after `done`, from their x_t and x0.
    ///
    /// # Errors
    /// As [`Chain::new`].
    pub fn resumed<'s>(
        &'s self,
        noise: &'s dyn NoiseSource,
        x_t: Tensor<4>,
        done: Option<(usize, Tensor<4>)>,
    ) -> Result<Chain<'s>> {
        let resume_at = done.as_ref().map_or(0, |(steps, _)| *steps);
        let inputs = Inputs { resume_at, ..Inputs::new(&self.denoiser, &self.schedule, noise) };
        let chain = Chain::new(inputs, self.settings.rule(), x_t)?;
        Ok(match done {
            Some((_, x0)) => chain.after(x0),
            None => chain,
        })
    }
}

/// Where a finished sample is not a picture: not finite everywhere, or the same everywhere.
///
/// # Errors
/// [`Error::Numerical`] saying which.
pub fn check_picture(image: &Tensor<4>) -> Result<()> {
    crate::tensor::check_finite(image, "the decoded image")?;
    let values = crate::tensor::to_f32(image)?;
    let (low, high) = values.iter().fold((f32::MAX, f32::MIN), |(low, high), v| (low.min(*v), high.max(*v)));
    if high - low < 1e-6 {
        return Err(Error::Numerical(format!(
            "the decoded image is {low} everywhere: the weights are no trained model's"
        )));
    }
    Ok(())
}
