//! Settings of an adaptation.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::optim::{AdaptedLayers, LevelWeights};
use crate::{Error, Result};

/// Which weights an adaptation changes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trained {
    /// All weights (the paper's first version).
    Full,
    /// Low-rank factors (its second version: of every convolution, rank 16, alpha 8).
    Lora {
        /// Rank of the factors.
        rank: usize,
        /// The product of the factors is scaled by alpha / rank.
        alpha: f64,
        /// The layers that get factors.
        #[serde(default, skip_serializing_if = "AdaptedLayers::is_default")]
        layers: AdaptedLayers,
    },
    /// All weights or low-rank factors of every convolution: what held-out images say. Both are trained for a few steps;
    /// all weights go on if their held-out loss is lower, or falls faster from what it was, by more than its standard error. Without held-out images:
    /// low-rank factors.
    Auto {
        /// Rank of the factors.
        rank: usize,
        /// See [`Trained::Lora`].
        alpha: f64,
    },
}

impl Trained {
    /// The low-rank factors of [`Trained::Auto`]; anything else is what it is.
    #[must_use]
    pub fn low_rank(self) -> Self {
        match self {
            Self::Auto { rank, alpha } => Self::Lora { rank, alpha, layers: AdaptedLayers::Convolutions },
            chosen => chosen,
        }
    }
}

impl fmt::Display for Trained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("all weights"),
            Self::Lora { rank, .. } => write!(f, "rank {rank}"),
            Self::Auto { rank, .. } => write!(f, "rank {rank} or all weights"),
        }
    }
}

/// Scale at which crops are taken from an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CropScale {
    /// Native scale; an image smaller than the crop is enlarged.
    Native,
    /// The short side is first resized to 1 to 1.25 crops, drawn anew for every crop.
    Resized,
}

/// How the timesteps of a step are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Timesteps {
    /// One timestep for all images, uniform over the original schedule (the paper).
    Shared,
    /// One timestep per image, spread evenly over the original schedule from a random offset: same mean, less variance.
    Spread,
    /// As spread, over the half of the schedule with less noise and the other half in turns. Little noise is removed by what
    /// is near, so that its steps take four times as many crops of half the side: more images in the same time. Strong noise
    /// needs the whole crop.
    Halves,
}

/// How the learning rate changes over the steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RateSchedule {
    /// Constant (the paper).
    Constant,
    /// Rises over the first tenth of the steps, then falls linearly to 0: what earlier versions did.
    Triangle,
    /// Rises over the first [`AdaptConfig::WARM_UP`] steps, then constant: what a step does not depend on how many follow.
    WarmUp,
}

/// Settings of an adaptation (Eq. 6). Settings and images determine the cache key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdaptConfig {
    /// Steps of Adam. With held-out images they are a budget: the training ends before where the held-out loss has stopped
    /// falling.
    pub iterations: u32,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// How it changes.
    pub rate_schedule: RateSchedule,
    /// How the timesteps of a step are drawn.
    pub timesteps: Timesteps,
    /// Loss weight per noise level.
    #[serde(default)]
    pub level_weights: LevelWeights,
    /// Decay of the moving average of the weights, which is used for sampling; 0 uses the last weights.
    pub ema: f64,
    /// Whether that decay grows with the number n of steps, as (1 + n) / (10 + n), until it is reached.
    #[serde(default)]
    pub ema_grows: bool,
    /// Factor on the trained change of the weights: 1 as trained, 0.5 half of it, 2 twice as much.
    #[serde(default = "as_trained")]
    pub strength: f64,
    /// Images a step.
    pub batch: usize,
    /// Images computed at once; bounds memory and changes results by rounding only.
    pub micro_batch: usize,
    /// Side of the square crops in pixels; bounded by the image when adapting to the observation itself.
    pub crop: usize,
    /// Scale of the crops.
    pub scale: CropScale,
    /// Whether half of the crops are mirrored.
    pub flip: bool,
    /// The weights trained.
    pub trained: Trained,
    /// Whether every fifth image is held out. Their loss decides how long is trained, which of the weights on the way are
    /// kept, and whether they help.
    pub held_out: bool,
    /// Whether blocks are recomputed in the backward pass instead of kept.
    pub recompute: bool,
    /// Seed of crops, timesteps and noise.
    pub seed: u64,
}

fn as_trained() -> f64 {
    1.0
}

/// Longest side of a crop.
pub const MOST_CROP: usize = 1 << 14;

impl AdaptConfig {
    /// Table 4 of the paper for guided diffusion: all weights, 400 steps of 6 crops, average with decay 0.8.
    pub fn paper() -> Self {
        Self {
            iterations: 400,
            learning_rate: 1e-4,
            rate_schedule: RateSchedule::Constant,
            timesteps: Timesteps::Shared,
            level_weights: LevelWeights::EQUAL,
            ema: 0.8,
            ema_grows: false,
            strength: as_trained(),
            batch: 6,
            micro_batch: 6,
            crop: 256,
            scale: CropScale::Resized,
            flip: false,
            trained: Trained::Full,
            held_out: false,
            recompute: false,
            seed: 0,
        }
    }

    /// For the embedded prior: 2 to 4 minutes on two AVX-512 cores, or less where the held-out loss stops falling. Crops are as large as those the prior was last trained on: with smaller ones it unlearns the high noise
    /// levels of larger images (docs/results/adaptation.md).
    pub fn fast() -> Self {
        Self {
            iterations: 200,
            learning_rate: 4e-4,
            rate_schedule: RateSchedule::WarmUp,
            timesteps: Timesteps::Halves,
            ema: 0.99,
            ema_grows: true,
            batch: 2,
            micro_batch: 1,
            crop: 128,
            scale: CropScale::Native,
            flip: true,
            trained: Trained::Auto { rank: 16, alpha: 16.0 },
            held_out: true,
            ..Self::paper()
        }
    }

    /// [`AdaptConfig::fast`] for a single image, which leaves nothing to hold out: few steps on low-rank factors.
    pub fn fast_itself() -> Self {
        Self { iterations: 150, held_out: false, timesteps: Timesteps::Spread, ..Self::fast() }
    }

    /// Table 4's adaptation to the observation itself (IA): 100 steps, decay 0.95.
    pub fn paper_itself() -> Self {
        Self { iterations: 100, ema: 0.95, scale: CropScale::Native, ..Self::paper() }
    }

    /// Steps of [`RateSchedule::WarmUp`].
    pub const WARM_UP: u32 = 20;

    /// The learning rate at `step`, counted from 0.
    pub fn rate_at(&self, step: u32) -> f64 {
        let share = match self.rate_schedule {
            RateSchedule::Constant => 1.0,
            RateSchedule::Triangle => {
                let (step, all) = (f64::from(step), f64::from(self.iterations.max(1)));
                ((step + 1.0) / (all / 10.0).max(1.0)).min(1.0) * ((all - step) / all)
            }
            RateSchedule::WarmUp => (f64::from(step) + 1.0).min(f64::from(Self::WARM_UP)) / f64::from(Self::WARM_UP),
        };
        self.learning_rate * share
    }

    /// Low-rank factors of every convolution, with the alpha that goes with this learning rate. With the paper's it is half the
    /// rank (its second version).
    pub fn factors(&self, rank: usize) -> Trained {
        let share = match self.trained {
            Trained::Lora { rank, alpha, .. } | Trained::Auto { rank, alpha } => alpha / rank as f64,
            Trained::Full => 0.5,
        };
        Trained::Lora { rank, alpha: share * rank as f64, layers: AdaptedLayers::Convolutions }
    }

    /// Checks the settings, for a network whose sides are multiples of `multiple`.
    ///
    /// # Errors
    /// [`Error::Config`] naming the setting.
    pub fn check(&self, multiple: usize) -> Result<()> {
        let fail = |message: String| Err(Error::Config(format!("adaptation: {message}")));
        if !(self.learning_rate > 0.0 && self.learning_rate <= 1.0) {
            return fail(format!("learning rate {}: expected more than 0 and at most 1", self.learning_rate));
        }
        self.level_weights.check()?;
        if !(0.0..1.0).contains(&self.ema) {
            return fail(format!("decay of the moving average {}: expected at least 0 and less than 1", self.ema));
        }
        if !(0.0..=100.0).contains(&self.strength) {
            return fail(format!("strength {}: expected 0 to 100", self.strength));
        }
        if [self.batch, self.micro_batch].iter().any(|count| !(1..=1 << 16).contains(count)) {
            return fail(format!(
                "batch {}, micro-batch {}: expected 1 or more, and at most 65536",
                self.batch, self.micro_batch
            ));
        }
        if self.crop == 0 || self.crop > MOST_CROP || !self.crop.is_multiple_of(multiple) {
            return fail(format!(
                "crop {}: expected a positive multiple of {multiple}, at most {MOST_CROP}",
                self.crop
            ));
        }
        if self.timesteps == Timesteps::Halves && !self.crop.is_multiple_of(2 * multiple) {
            return fail(format!("crop {}: halves need a positive multiple of {}", self.crop, 2 * multiple));
        }
        if let Trained::Lora { rank, alpha, .. } = self.trained.low_rank()
            && (rank == 0 || rank > 1 << 12 || !alpha.is_finite())
        {
            return fail(format!("LoRA rank {rank}, alpha {alpha}: expected a rank of 1 to 4096 and a finite alpha"));
        }
        Ok(())
    }
}
