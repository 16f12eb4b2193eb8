//! The training itself: one step at a time, driven by the caller.

use std::sync::Arc;
use std::time::Instant;

use super::config::{Length, TrainConfig};
use super::initial::initial;
use super::photographs::Photographs;
use crate::adapt::{Adam, AdamConfig, Batch, Ema, Objective, Workers, accumulate, batch_loss, clip_gradients};
use crate::models::guided_diffusion::{GuidedDiffusion, UNet};
use crate::models::params::Params;
use crate::noise::{Noise, Stream};
use crate::schedule::{Schedule, Timestep};
use crate::tensor::{DType, Device};
use crate::{Error, Result};

/// What one step did.
#[derive(Debug, Clone, Copy)]
pub struct StepReport {
    /// Steps taken so far.
    pub step: u32,
    /// l_simple over the batch.
    pub loss: f64,
    /// Learning rate of the step.
    pub rate: f64,
    /// 2-norm of the gradients before they were cut.
    pub gradient_norm: f64,
    /// Share of the training that is done, 0 to 1.
    pub share: f64,
}

/// A training under way.
#[derive(Debug)]
pub struct Trainer {
    pub(super) config: TrainConfig,
    pub(super) net: UNet,
    pub(super) params: Params,
    pub(super) adam: Adam,
    pub(super) ema: Ema,
    /// Steps taken.
    pub(super) step: u32,
    /// Time spent in steps.
    pub(super) seconds: f64,
    schedule: Schedule,
    device: Device,
    dtype: DType,
    workers: Option<Workers>,
}

impl Trainer {
    /// A training from new weights, or from `start` (weights of the same network). The network computes in
    /// `dtype`; its weights are kept in f32.
    ///
    /// # Errors
    /// [`Error::Config`] for settings no training can have, or weights of another network.
    pub fn new(config: TrainConfig, start: Option<Params>, device: &Device, dtype: DType) -> Result<Self> {
        config.check()?;
        let (_, layout) = UNet::new(&config.network)?;
        let params = match start {
            Some(params) if **params.layout() != layout => {
                return Err(Error::config("the weights to start from belong to another network"));
            }
            Some(params) => params,
            None => initial(Arc::new(layout), config.seed, device)?,
        };
        let adam = Adam::new(adam_config(&config));
        let ema = Ema::new(params.clone(), 0.0);
        Self::from_state(config, params, adam, ema, (0, 0.0), device, dtype)
    }

    /// From the state of a checkpoint.
    pub(super) fn from_state(
        config: TrainConfig,
        params: Params,
        adam: Adam,
        ema: Ema,
        (step, seconds): (u32, f64),
        device: &Device,
        dtype: DType,
    ) -> Result<Self> {
        let (net, _) = UNet::new(&config.network)?;
        let schedule = config.network.schedule()?;
        let on_cpu = crate::tensor::is_cpu(device);
        let workers = if on_cpu && config.micro_batch < config.batch { Some(Workers::new()?) } else { None };
        Ok(Self { config, net, params, adam, ema, step, seconds, schedule, device: device.clone(), dtype, workers })
    }

    /// The settings.
    pub fn config(&self) -> &TrainConfig {
        &self.config
    }

    /// Another length, from which the learning rate follows from now on.
    ///
    /// # Errors
    /// [`Error::Config`] for a length no training can have.
    pub fn set_length(&mut self, length: Length) -> Result<()> {
        let config = TrainConfig { length, ..self.config.clone() };
        config.check()?;
        self.config = config;
        Ok(())
    }

    /// Steps taken so far, in all runs.
    pub fn steps(&self) -> u32 {
        self.step
    }

    /// Seconds spent in steps so far, in all runs.
    pub fn seconds(&self) -> f64 {
        self.seconds
    }

    /// Share of the training that is done, 0 to 1.
    pub fn share(&self) -> f64 {
        match self.config.length {
            Length::Steps(all) => f64::from(self.step) / f64::from(all),
            Length::Seconds(all) => self.seconds / all,
        }
    }

    /// The weights of the last step.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The network with the average of the weights, which is what a training is for.
    ///
    /// # Errors
    /// None that the settings have not been checked for.
    pub fn averaged(&self) -> Result<GuidedDiffusion> {
        GuidedDiffusion::from_parts(self.config.network.clone(), self.net.clone(), self.ema.params().clone())
    }

    /// The batch of the next step: crops, timesteps (one an image, uniform) and noise, a function of seed and step.
    pub fn draw(&self, photographs: &Photographs) -> Batch {
        let noise = Noise::new(self.config.seed, Stream::Training);
        draw(&noise, self.step, photographs, self.config.batch, self.config.crop, self.schedule.len(), &self.device)
    }

    /// One step of the training on `batch`: gradients of the hybrid loss, cut to their largest norm, AdamW, average.
    ///
    /// # Errors
    /// [`Error::Numerical`] when a loss or gradient is not finite; the state is then that before the step.
    pub fn step(&mut self, batch: &Batch) -> Result<StepReport> {
        let started = Instant::now();
        let rate = self.config.rate(self.step, self.share());
        let (net, params, schedule, dtype) = (&self.net, &self.params, &self.schedule, self.dtype);
        let objective = Objective::Hybrid(self.config.level_weights);
        let mut found = accumulate(batch.len(), self.config.micro_batch, self.workers.as_ref(), |first, n, share| {
            batch_loss(net, params, schedule, &batch.part(first, n), objective, dtype, share)
        })?;
        let gradient_norm = clip_gradients(&mut found.gradients, self.config.gradient_norm)?;
        self.params = self.adam.step(&self.params, found.gradients, rate);
        self.step += 1;
        let count = f64::from(self.step);
        self.ema.set_decay(self.config.ema.min((1.0 + count) / (10.0 + count)));
        self.ema.update(&self.params);
        self.seconds += started.elapsed().as_secs_f64();
        Ok(StepReport { step: self.step, loss: found.loss, rate, gradient_norm, share: self.share() })
    }
}

/// AdamW's settings of a training.
pub(super) fn adam_config(config: &TrainConfig) -> AdamConfig {
    let [beta1, beta2] = config.betas;
    AdamConfig { beta1, beta2, weight_decay: config.weight_decay, ..AdamConfig::default() }
}

/// Crops, timesteps and noise of one step.
pub(super) fn draw(
    noise: &Noise,
    step: u32,
    photographs: &Photographs,
    count: usize,
    crop: usize,
    timesteps: usize,
    device: &Device,
) -> Batch {
    // Crops draw integers 0 .. 3 count of this step; timesteps follow.
    let timestep = |k: usize| Timestep(noise.below(step, (3 * count + k) as u32, timesteps) as u16);
    Batch {
        x0: photographs.crops(noise, step, count, crop, device),
        eps: noise.normal_tensor(step, [count, 3, crop, crop], device, DType::F32),
        timesteps: (0..count).map(timestep).collect(),
    }
}
