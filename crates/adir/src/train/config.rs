//! Settings of a training.

use serde::{Deserialize, Serialize};

use crate::adapt::{AdaptConfig, MOST_CROP, Trained, adaptation_memory};
use crate::models::PriorHeader;
use crate::models::guided_diffusion::UNetConfig;
use crate::optim::LevelWeights;
use crate::tensor::DType;
use crate::{Error, Result};

/// Length of a training.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Length {
    /// Total number of steps.
    Steps(u32),
    /// Total seconds of training, over all runs.
    Seconds(f64),
}

/// Settings of a training; they are kept in its checkpoints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// The network; it must have learned sigma.
    pub network: UNetConfig,
    /// Length of the whole schedule.
    pub length: Length,
    /// Side of the square crops, in pixels.
    pub crop: usize,
    /// Images a step.
    pub batch: usize,
    /// Images of a step that are computed at once; the gradients of the parts are added up.
    pub micro_batch: usize,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Steps of linear warm-up, on top of the cosine decay to 2 % of the highest rate.
    pub warm_up: u32,
    /// AdamW's decoupled weight decay.
    pub weight_decay: f64,
    /// AdamW's decays of both moments.
    pub betas: [f64; 2],
    /// Gradients of a larger 2-norm are scaled down to it.
    pub gradient_norm: f64,
    /// Decay of the average of the weights; in the first steps it is (1 + k) / (10 + k) if that is less.
    pub ema: f64,
    /// How much l_simple counts at each noise level.
    #[serde(default)]
    pub level_weights: LevelWeights,
    /// Seed of the initial weights, crops, timesteps and noise.
    pub seed: u64,
}

impl TrainConfig {
    /// The recipe of the embedded prior for a network and a length.
    pub fn new(network: UNetConfig, length: Length) -> Self {
        Self {
            network,
            length,
            crop: 64,
            batch: 32,
            micro_batch: 4,
            learning_rate: 4e-4,
            warm_up: 500,
            weight_decay: 1e-3,
            betas: [0.9, 0.99],
            gradient_norm: 1.0,
            ema: 0.9995,
            level_weights: LevelWeights::EQUAL,
            seed: 0,
        }
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// [`Error::Config`] naming the setting.
    pub fn check(&self) -> Result<()> {
        self.network.check()?;
        let fail = |message: String| Err(Error::Config(format!("training: {message}")));
        let multiple = self.network.size_multiple();
        if !self.network.learn_sigma() {
            return fail("the network must learn sigma (out_channels = 2 * in_channels)".into());
        }
        if self.network.in_channels != 3 {
            return fail(format!("the network must have 3 channels, found {}", self.network.in_channels));
        }
        if self.network.num_classes.is_some() {
            return fail("the network must have no classes".into());
        }
        if self.crop == 0 || self.crop > MOST_CROP || !self.crop.is_multiple_of(multiple) {
            return fail(format!("crop {}: expected a multiple of {multiple}, at most {MOST_CROP}", self.crop));
        }
        if [self.batch, self.micro_batch].iter().any(|count| !(1..=1 << 16).contains(count)) {
            return fail(format!("batch {}, micro-batch {}: expected 1 to 65536", self.batch, self.micro_batch));
        }
        let unit = |v: f64| (0.0..1.0).contains(&v);
        if !(self.learning_rate > 0.0 && self.learning_rate <= 1.0) {
            return fail(format!("learning rate {}: expected more than 0 and at most 1", self.learning_rate));
        }
        if !(unit(self.betas[0]) && unit(self.betas[1]) && unit(self.ema)) {
            return fail(format!("decays {:?} and {}: expected at least 0 and less than 1", self.betas, self.ema));
        }
        if !(unit(self.weight_decay) && self.gradient_norm > 0.0) {
            return fail(format!("invalid weight decay {} or gradient norm {}", self.weight_decay, self.gradient_norm));
        }
        self.level_weights.check()?;
        match self.length {
            Length::Steps(0) => fail("0 steps".into()),
            Length::Seconds(s) if !(s.is_finite() && s > 0.0) => fail(format!("{s} seconds")),
            _ => Ok(()),
        }
    }

    /// Bytes of memory that a program training so on the CPU in f32 takes at most, besides its photographs, with so many
    /// `threads`: as an adaptation of all weights, which holds the weights before it, too.
    ///
    /// # Errors
    /// As [`TrainConfig::check`].
    pub fn memory(&self, threads: usize) -> Result<u64> {
        self.check()?;
        let header = PriorHeader::new(self.network.clone())?;
        let Self { crop, batch, micro_batch, .. } = *self;
        let trained = Trained::Full;
        let as_adaptation = AdaptConfig { crop, batch, micro_batch, trained, recompute: false, ..AdaptConfig::paper() };
        Ok(adaptation_memory(header.network().as_ref(), &as_adaptation, threads, DType::F32))
    }

    /// The learning rate of step `step` (from 0), a `share` of 0 to 1 of the way to the end.
    pub fn rate(&self, step: u32, share: f64) -> f64 {
        let warm = (f64::from(step) + 1.0) / f64::from(self.warm_up.max(1));
        let decay = 0.5 * (1.0 + (std::f64::consts::PI * share.clamp(0.0, 1.0)).cos());
        self.learning_rate * warm.min(1.0) * (0.98 * decay + 0.02)
    }
}
