//! The training itself: one step at a time, driven by the caller.

use std::time::Instant;

use super::config::{Length, TrainConfig};
use super::photographs::Photographs;
use crate::compute::Workers;
use crate::models::params::Params;
use crate::models::{Denoiser, Prior, PriorHeader};
use crate::noise::{Noise, Stream};
use crate::optim::{Adam, AdamConfig, Batch, Ema, Objective, accumulate, batch_loss, clip_gradients};
use crate::schedule::Timestep;
use crate::tensor::{Compute, DType, Device};
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
    /// With the weights of the last step.
    prior: Prior,
    pub(super) adam: Adam,
    pub(super) ema: Ema,
    /// Steps taken.
    pub(super) step: u32,
    /// Time spent in steps.
    pub(super) seconds: f64,
    /// What the caller wants to find in checkpoints.
    pub(super) note: Option<String>,
    /// The network computes in it.
    dtype: DType,
    workers: Option<Workers>,
}

impl Trainer {
    /// A training from new weights, or from `start` (weights of the same network). The network computes where and as
    /// `compute` says; its weights are kept in f32.
    ///
    /// # Errors
    /// [`Error::Config`] for settings no training can have, or weights of another network.
    pub fn new(config: TrainConfig, start: Option<Params>, compute: &Compute) -> Result<Self> {
        config.check()?;
        let layout = PriorHeader::new(config.network.clone())?.network().layout().clone();
        let params = match start {
            Some(params) if *params.layout() != layout => {
                return Err(Error::config("the initial weights belong to another network"));
            }
            Some(params) => params,
            None => Params::initial(layout, config.seed, &weights_of(compute))?,
        };
        let adam = Adam::new(adam_config(&config));
        let ema = Ema::new(params.clone(), 0.0);
        Self::from_state(config, params, adam, ema, (0, 0.0), compute)
    }

    /// From the state of a checkpoint.
    pub(super) fn from_state(
        config: TrainConfig,
        params: Params,
        adam: Adam,
        ema: Ema,
        (step, seconds): (u32, f64),
        compute: &Compute,
    ) -> Result<Self> {
        let prior = Prior::from_config(config.network.clone(), params)?;
        let on_cpu = crate::tensor::is_cpu(&compute.device);
        let workers = if on_cpu && config.micro_batch < config.batch { Some(Workers::new()?) } else { None };
        Ok(Self { config, prior, adam, ema, step, seconds, note: None, dtype: compute.dtype, workers })
    }

    /// The settings.
    pub fn config(&self) -> &TrainConfig {
        &self.config
    }

    /// Changes the length; the learning rate follows it from now on.
    ///
    /// # Errors
    /// [`Error::Config`] for a length no training can have.
    pub fn set_length(&mut self, length: Length) -> Result<()> {
        let config = TrainConfig { length, ..self.config.clone() };
        config.check()?;
        self.config = config;
        Ok(())
    }

    /// What the caller kept in the checkpoint, or will: a text of its own, [`Trainer::keep_note`].
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// Keeps a text of the caller's in checkpoints.
    pub fn keep_note(&mut self, text: impl Into<String>) {
        self.note = Some(text.into());
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
        self.prior.params()
    }

    /// The network with the averaged weights: the result of the training.
    pub fn averaged(&self) -> Prior {
        self.prior.with_params(self.ema.params().clone())
    }

    /// The batch of the next step: crops, timesteps (one an image, uniform) and noise, a function of seed and step.
    pub fn draw(&self, photographs: &Photographs) -> Batch {
        let noise = Noise::new(self.config.seed, Stream::Training);
        let (all, device) = (self.prior.info().schedule.len(), self.params().device());
        draw(&noise, self.step, photographs, self.config.batch, self.config.crop, all, &device)
    }

    /// One step of the training on `batch`: gradients of the hybrid loss, cut to their largest norm, AdamW, average.
    ///
    /// # Errors
    /// [`Error::Numerical`] when a loss or gradient is not finite; the state is then that before the step.
    pub fn step(&mut self, batch: &Batch) -> Result<StepReport> {
        let started = Instant::now();
        let rate = self.config.rate(self.step, self.share());
        let (prior, dtype) = (&self.prior, self.dtype);
        let objective = Objective::Hybrid(self.config.level_weights);
        let mut found = accumulate(batch.len(), self.config.micro_batch, self.workers.as_ref(), |first, n, share| {
            batch_loss(prior, &batch.part(first, n), objective, dtype, share)
        })?;
        let gradient_norm = clip_gradients(&mut found.gradients, self.config.gradient_norm)?;
        self.prior = self.prior.with_params(self.adam.step(self.prior.params(), found.gradients, rate));
        self.step += 1;
        let count = f64::from(self.step);
        self.ema.set_decay(self.config.ema.min((1.0 + count) / (10.0 + count)));
        self.ema.update(self.prior.params());
        self.seconds += started.elapsed().as_secs_f64();
        Ok(StepReport { step: self.step, loss: found.loss, rate, gradient_norm, share: self.share() })
    }
}

/// Where the weights of a training lie: in f32, whatever the network computes in.
pub(super) fn weights_of(compute: &Compute) -> Compute {
    Compute { dtype: DType::F32, ..compute.clone() }
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
        conditioning: Vec::new(),
    }
}
