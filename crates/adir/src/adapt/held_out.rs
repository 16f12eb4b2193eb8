//! The crops that are held out, with their timesteps and noise: the same for every measurement.

use super::config::AdaptConfig;
use super::crops::CropSource;
use super::run::precision_of_training;
use crate::models::{Denoiser, Prior};
use crate::noise::{Noise, Stream};
use crate::optim::{Batch, simple_losses};
use crate::schedule::Timestep;
use crate::{Error, Result};

/// Crops drawn, and computed, at once.
const DRAWN: usize = 8;
const AT_ONCE: usize = 2;

/// Crops of held-out images.
#[derive(Debug)]
pub(super) struct HeldOutCrops {
    source: CropSource,
    config: AdaptConfig,
}

impl HeldOutCrops {
    /// Number of crops.
    pub const COUNT: usize = 48;

    pub fn new(source: CropSource, config: &AdaptConfig) -> Self {
        Self { source, config: config.clone() }
    }

    /// Number of images.
    pub fn images(&self) -> usize {
        self.source.len()
    }

    /// The timestep of every crop, of a schedule of `all`.
    pub fn timesteps(all: usize) -> Vec<u16> {
        (0..Self::COUNT).map(|i| ((i as f64 + 0.5) / Self::COUNT as f64 * all as f64) as u16).collect()
    }

    /// The loss of every crop by `model`, weighted by noise level.
    ///
    /// # Errors
    /// [`Error::Numerical`] when one is not finite.
    pub fn losses(&self, model: &Prior) -> Result<Vec<f64>> {
        let noise = Noise::new(self.config.seed, Stream::Evaluation);
        let (device, all) = (model.params().device(), model.info().schedule.len());
        let (weight, dtype) =
            (self.config.level_weights.of(&model.info().schedule), precision_of_training(model.params()));
        let timesteps: Vec<_> = Self::timesteps(all).into_iter().map(Timestep).collect();
        let mut losses = Vec::with_capacity(Self::COUNT);
        for (k, timesteps) in timesteps.chunks(DRAWN).enumerate() {
            let x0 = model
                .space()
                .encode(&self.source.draw(&noise, k as u32, DRAWN, self.config.crop, &device)?.cast(dtype))?;
            let eps = noise.normal_tensor(k as u32, x0.dims(), &device, dtype);
            let batch = Batch { eps, x0, timesteps: timesteps.to_vec(), conditioning: Vec::new() };
            for first in (0..DRAWN).step_by(AT_ONCE) {
                losses.extend(simple_losses(model, &batch.part(first, AT_ONCE))?);
            }
        }
        for (loss, t) in losses.iter_mut().zip(timesteps) {
            *loss *= weight(t);
            if !loss.is_finite() {
                return Err(Error::Numerical(format!("the held-out loss is {loss} at t = {}", t.0)));
            }
        }
        Ok(losses)
    }
}
