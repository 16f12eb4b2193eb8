//! Adapting a latent diffusion model to a few images, as the paper trains it: low-rank factors or all weights, the network's
//! own loss, one timestep for a whole batch.

use std::path::Path;

use burn::tensor::DType;
use serde::{Deserialize, Serialize};

use super::examples::Examples;
use crate::adapt::learner::Learner;
use crate::adapt::{AdaptConfig, AdaptStep, Adapter, CropScale, Trained, checkpoint};
use crate::io::weights::WeightFile;
use crate::models::{Denoiser, Prior};
use crate::noise::{Noise, Stream};
use crate::optim::{AdaptedLayers, Objective, accumulate, batch_loss, gradient_norm};
use crate::schedule::Timestep;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// How an adaptation trains.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatentTraining {
    /// Steps.
    pub iterations: u32,
    /// Whether all weights are trained, and no factors.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub full: bool,
    /// Rank of the factors, whose product counts half (alpha = rank / 2).
    pub rank: usize,
    /// The layers that get factors.
    pub layers: AdaptedLayers,
    /// Learning rate.
    pub rate: f64,
    /// Decay of the moving average of the factors.
    pub ema: f64,
    /// Crops a step.
    pub batch: usize,
    /// Side of the crops in pixels.
    pub crop: usize,
    /// Crops that are drawn of each image, and encoded.
    pub crops_per_image: usize,
    /// Scale of the crops.
    #[serde(default = "native", skip_serializing_if = "is_native")]
    pub scale: CropScale,
    /// Whether every fifth image is held out, to tell whether the adaptation helps.
    #[serde(default = "yes", skip_serializing_if = "Clone::clone")]
    pub held_out: bool,
    /// Seed of crops, masks, timesteps and noise.
    pub seed: u64,
}

fn yes() -> bool {
    true
}

fn native() -> CropScale {
    CropScale::Native
}

fn is_native(scale: &CropScale) -> bool {
    *scale == CropScale::Native
}

impl LatentTraining {
    /// Most crops of an image.
    pub const MOST_CROPS: usize = 64;

    /// That of the paper for super-resolution (Table 4): 400 steps, rate 1e-4, average 0.95; of rank 16.
    pub fn upscaler() -> Self {
        Self {
            iterations: 400,
            full: false,
            rank: 16,
            layers: AdaptedLayers::Convolutions,
            rate: 1e-4,
            ema: 0.95,
            batch: 6,
            crop: 512,
            crops_per_image: 4,
            scale: CropScale::Native,
            held_out: true,
            seed: 0,
        }
    }

    /// That of the paper for editing (Table 4): 1000 steps, rate 1e-6, no average.
    pub fn inpainting() -> Self {
        Self { iterations: 1000, rate: 1e-6, ema: 0.0, ..Self::upscaler() }
    }

    /// With about as many crops of each of so many images as are drawn in training; they are encoded before it begins.
    #[must_use]
    pub fn with_crops_as_drawn(self, images: usize) -> Self {
        let drawn = (self.iterations as usize).saturating_mul(self.batch).div_ceil(images.max(1));
        Self { crops_per_image: drawn.clamp(1, Self::MOST_CROPS), ..self }
    }

    /// The settings of what is trained, as other adaptations have them.
    fn learning(&self) -> AdaptConfig {
        let trained = match self.full {
            true => Trained::Full,
            false => Trained::Lora { rank: self.rank, alpha: self.alpha(), layers: self.layers },
        };
        AdaptConfig { learning_rate: self.rate, ema: self.ema, seed: self.seed, trained, ..AdaptConfig::paper() }
    }

    /// What the product of the factors counts, times their rank.
    pub fn alpha(&self) -> f64 {
        self.rank as f64 / 2.0
    }

    /// Refuses what cannot be trained with; crops must be multiples of `multiple` pixels.
    ///
    /// # Errors
    /// [`Error::Config`] naming the setting.
    pub fn check(&self, multiple: usize) -> Result<()> {
        let wrong = |what: String| Err(Error::config(what));
        match self {
            Self { iterations: 0, .. } => wrong("an adaptation of 0 steps".into()),
            Self { rank, .. } if !(1..=256).contains(rank) => wrong(format!("rank {rank}: expected 1 to 256")),
            Self { rate, .. } if !(rate.is_finite() && *rate > 0.0 && *rate <= 1.0) => {
                wrong(format!("learning rate {rate}: expected above 0, at most 1"))
            }
            Self { ema, .. } if !(0.0..1.0).contains(ema) => wrong(format!("decay {ema}: expected 0 to below 1")),
            Self { batch, .. } if !(1..=1024).contains(batch) => wrong(format!("{batch} crops a step")),
            Self { crops_per_image, .. } if !(1..=Self::MOST_CROPS).contains(crops_per_image) => {
                wrong(format!("{crops_per_image} crops of an image: expected 1 to {}", Self::MOST_CROPS))
            }
            Self { crop, .. } if *crop == 0 || !crop.is_multiple_of(multiple) || *crop > 4096 => {
                wrong(format!("crops of {crop} pixels: expected a multiple of {multiple}, up to 4096"))
            }
            _ => Ok(()),
        }
    }
}

/// A running adaptation: each [`LatentAdaptation::step`] takes one.
pub struct LatentAdaptation<'a> {
    prior: &'a Prior,
    examples: &'a Examples,
    training: LatentTraining,
    learning: AdaptConfig,
    told: [Tensor<3>; 2],
    learner: Learner,
    noise: Noise,
}

impl<'a> LatentAdaptation<'a> {
    /// Of `prior` to `examples`, told the states of a text and of none.
    ///
    /// # Errors
    /// [`Error::Config`] for no examples.
    pub fn new(
        prior: &'a Prior,
        examples: &'a Examples,
        training: &LatentTraining,
        told: [Tensor<3>; 2],
    ) -> Result<Self> {
        if examples.count() == 0 {
            return Err(Error::config("there is one image to adapt to, and it is held out"));
        }
        let learning = training.learning();
        Ok(Self {
            prior,
            examples,
            training: training.clone(),
            told,
            learner: Learner::new(prior.params(), learning.trained, &learning)?,
            learning,
            noise: Noise::new(training.seed, Stream::Adaptation),
        })
    }

    /// One step.
    ///
    /// # Errors
    /// [`Error::Numerical`] when the loss is not finite.
    pub fn step(&mut self) -> Result<AdaptStep> {
        let count = self.training.batch;
        // Crops and masks have taken the counter steps below.
        let draw = (1_u32 << 24).wrapping_add(self.learner.step.wrapping_mul(4 * count as u32 + 4));
        let steps = self.prior.info().schedule.len();
        let timestep = Timestep(self.noise.below(draw, 0, steps) as u16);
        let picks: Vec<_> = (0..count).map(|i| self.noise.below(draw, 1 + i as u32, self.examples.count())).collect();
        let batch = self.examples.training_batch(&picks, &self.noise, draw + 4, timestep, &self.told)?;
        let weights = self.prior.with_params(self.learner.weights(self.prior.params()));
        // One crop after the other: what a pass keeps for its way back is large.
        let found = accumulate(count, 1, None, |first, n, share| {
            batch_loss(&weights, &batch.part(first, n), Objective::Own, DType::F32, share)
        })?;
        let gradient_norm = gradient_norm(&found.gradients)?;
        self.learner.advance(found.gradients, &self.learning);
        Ok(AdaptStep { step: self.learner.step, timestep, loss: found.loss, gradient_norm, measured: None })
    }

    /// Steps taken so far.
    pub fn taken(&self) -> u32 {
        self.learner.step
    }

    /// How many are to be taken.
    pub fn total(&self) -> u32 {
        self.training.iterations
    }

    /// Gives it another budget of steps.
    pub fn set_budget(&mut self, iterations: u32) {
        self.training.iterations = iterations;
    }

    /// The largest budget with which training and two measurements of the held-out loss take at most as long as `steps`
    /// steps, if a measurement takes as long as `measurement` of them: at least a step, from 25 on a multiple of 25.
    pub fn budget_within(&self, steps: f64, measurement: f64) -> u32 {
        let measured = if self.examples.has_held_out() { 2.0 * measurement } else { 0.0 };
        match (steps - measured).clamp(1.0, f64::from(1 << 24)) as u32 {
            few @ ..25 => few,
            many => many / 25 * 25,
        }
    }

    /// Measures the loss of held-out crops with the base weights, where there are some.
    ///
    /// # Errors
    /// [`Error::Backend`] when the device fails.
    pub fn measure_before(&mut self) -> Result<()> {
        if self.examples.has_held_out() && self.learner.curve.before.is_empty() {
            self.learner.curve.before = self.examples.held_out_losses(self.prior, &self.told, self.training.seed)?;
        }
        Ok(())
    }

    /// What held-out crops say of `adapted`, where there are some.
    ///
    /// # Errors
    /// [`Error::Backend`] when the device fails.
    pub fn outcome(&mut self, adapted: &Prior) -> Result<Option<LatentOutcome>> {
        self.measure_before()?;
        if !self.examples.has_held_out() {
            return Ok(None);
        }
        let after = self.examples.held_out_losses(adapted, &self.told, self.training.seed)?;
        Ok(Some(LatentOutcome::new(&self.learner.curve.before, &after)))
    }

    /// The average so far of what is trained.
    pub fn adapter(&self) -> Adapter {
        self.learner.average(self.prior.params(), 1.0)
    }

    /// The network with it.
    ///
    /// # Errors
    /// None is expected.
    pub fn adapted(&self) -> Result<Prior> {
        Ok(self.prior.with_params(self.adapter().apply(self.prior.params())?))
    }

    /// Writes the complete state for [`LatentAdaptation::resume`]; `of` tells what it belongs to.
    ///
    /// # Errors
    /// [`Error::Io`] where the system refuses.
    pub fn save(&self, path: &Path, of: &str) -> Result<()> {
        checkpoint::save(path, of, std::slice::from_ref(&self.learner), 0, &[])
    }

    /// Goes on from a state that an adaptation to the same images with the same settings but for the budget wrote: what
    /// follows is what would have followed there, to the bit. `of` must be as it was then.
    ///
    /// # Errors
    /// [`Error::Model`] when the file is no such state.
    pub fn resume(&mut self, file: &WeightFile, of: &str) -> Result<()> {
        let (mut learners, ..) = checkpoint::load(file, of, self.prior.params(), &self.learning)?;
        match (learners.pop(), learners.is_empty()) {
            (Some(learner), true) => self.learner = learner,
            _ => return Err(Error::model(file.path(), "is no state of a latent adaptation")),
        }
        Ok(())
    }
}

/// What held-out crops say of an adaptation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LatentOutcome {
    /// Mean loss before.
    pub before: f64,
    /// Mean loss after.
    pub after: f64,
    /// Standard error of the difference.
    pub error: f64,
}

impl LatentOutcome {
    /// Of the losses of the same crops before and after.
    pub fn new(before: &[f64], after: &[f64]) -> Self {
        let n = before.len().max(1) as f64;
        let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / n;
        let difference = mean(&mut after.iter().zip(before).map(|(a, b)| a - b));
        let variance = mean(&mut after.iter().zip(before).map(|(a, b)| (a - b - difference).powi(2)));
        let error = (variance / (n - 1.0).max(1.0)).sqrt();
        Self { before: mean(&mut before.iter().copied()), after: mean(&mut after.iter().copied()), error }
    }

    /// Whether the loss fell by more than its standard error.
    pub fn helped(&self) -> bool {
        self.before - self.after > self.error
    }
}
