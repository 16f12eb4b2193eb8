//! Adapting a latent diffusion model to a few images, as the paper trains it: low-rank factors, the network's own loss,
//! one timestep for a whole batch.
//!
//! Crops are encoded once, before the network is read: examples hold latents and what stands beside them.

use burn::tensor::DType;
use serde::{Deserialize, Serialize};

use super::inpaint::{Hole, beside};
use crate::adapt::is_held_out;
use crate::models::params::Params;
use crate::models::stable_diffusion::{Latents, LowRes, Posterior};
use crate::models::{Conditioning, Conditions, Denoiser, Prior};
use crate::noise::{Noise, Stream};
use crate::operator::bicubic_resize;
use crate::optim::{Adam, AdamConfig, AdaptedLayers, Batch, Ema, Lora, Objective, accumulate, batch_loss, own_losses};
use crate::schedule::Timestep;
use crate::tensor::{self, Tensor};
use crate::{Error, Result};

/// Masks of each crop, for inpainting.
const MASKS: usize = 4;
/// Share of the masks that cover everything, as the published models were trained.
const WHOLE_MASKS: f64 = 0.25;
/// Share of the examples that are told no text.
const WITHOUT_TEXT: f64 = 0.1;
/// Timesteps at which held-out crops are denoised, as shares of all.
const MEASURED_AT: [f64; 4] = [0.1, 0.3, 0.5, 0.8];

/// How an adaptation trains.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatentTraining {
    /// Steps.
    pub iterations: u32,
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
    /// Seed of crops, masks, timesteps and noise.
    pub seed: u64,
}

impl LatentTraining {
    /// That of the paper for super-resolution (Table 4): 400 steps, rate 1e-4, average 0.95; of rank 16.
    pub fn upscaler() -> Self {
        Self {
            iterations: 400,
            rank: 16,
            layers: AdaptedLayers::Convolutions,
            rate: 1e-4,
            ema: 0.95,
            batch: 6,
            crop: 512,
            crops_per_image: 4,
            seed: 0,
        }
    }

    /// That of the paper for editing (Table 4): 1000 steps, rate 1e-6, no average.
    pub fn inpainting() -> Self {
        Self { iterations: 1000, rate: 1e-6, ema: 0.0, ..Self::upscaler() }
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
            Self { crops_per_image, .. } if !(1..=64).contains(crops_per_image) => {
                wrong(format!("{crops_per_image} crops of an image: expected 1 to 64"))
            }
            Self { crop, .. } if *crop == 0 || !crop.is_multiple_of(multiple) || *crop > 4096 => {
                wrong(format!("crops of {crop} pixels: expected a multiple of {multiple}, up to 4096"))
            }
            _ => Ok(()),
        }
    }
}

/// What stands beside the latents of a crop.
#[derive(Debug, Clone)]
enum Beside {
    /// The small image, to which noise is added anew in every step.
    Small(Box<Tensor<4>>),
    /// For each of several masks, mask and latents of what it leaves.
    Masked(Vec<Tensor<4>>),
}

/// A crop, encoded.
#[derive(Debug, Clone)]
struct Example {
    latents: Posterior,
    beside: Beside,
}

/// Crops of images, encoded: those to train with, and those held out.
#[derive(Debug, Clone)]
pub struct Examples {
    training: Vec<Example>,
    held_out: Vec<Example>,
    /// Of an upscaler: how noise is added to the small image, and its level.
    low_res: Option<(LowRes, usize)>,
}

impl Examples {
    /// Those of `images`, `[1, 1 or 3, h, w]` in [-1, 1]: for an upscaler with `low_res` and a level of noise, else for
    /// inpainting. Images are held out as by [`is_held_out`]. `done` is told after each image.
    ///
    /// # Errors
    /// [`Error::Config`] for no images; as [`Latents::posterior`], and what `done` returns.
    pub fn encode(
        images: &[Tensor<4>],
        autoencoder: &Latents,
        low_res: Option<(LowRes, usize)>,
        training: &LatentTraining,
        mut done: impl FnMut(usize) -> Result<()>,
    ) -> Result<Self> {
        if images.is_empty() {
            return Err(Error::config("no images to adapt to"));
        }
        let noise = Noise::new(training.seed, Stream::Adaptation);
        let mut examples = Self { training: Vec::new(), held_out: Vec::new(), low_res };
        for (i, image) in images.iter().enumerate() {
            let held = is_held_out(i, images.len());
            for k in 0..training.crops_per_image {
                let draw = (i * training.crops_per_image + k) as u32;
                let crop = crop_of(image, training.crop, &noise, draw)?;
                let beside = match examples.low_res {
                    Some(_) => Beside::Small(bicubic_resize(&crop, training.crop / 4, training.crop / 4)?.into()),
                    None => {
                        let of_mask = |m: usize| {
                            let mask = random_mask(training.crop, &noise, draw, m as u32);
                            beside(&Hole { image: crop.clone(), mask }, autoencoder, None)
                        };
                        Beside::Masked((0..MASKS).map(of_mask).collect::<Result<_>>()?)
                    }
                };
                let example = Example { latents: autoencoder.posterior(&crop)?, beside };
                if held { examples.held_out.push(example) } else { examples.training.push(example) }
            }
            done(i + 1)?;
        }
        Ok(examples)
    }

    /// Whether any are held out.
    pub fn has_held_out(&self) -> bool {
        !self.held_out.is_empty()
    }

    /// `count` of `examples` at `t`, with noise of the counter steps from `draw` on; `told` are the states of the text and
    /// of none.
    fn batch(
        &self,
        examples: &[Example],
        picks: &[usize],
        noise: &Noise,
        draw: u32,
        t: Timestep,
        told: &[Tensor<3>; 2],
    ) -> Result<Batch> {
        let (mut x0, mut eps, mut conditioning) = (Vec::new(), Vec::new(), Vec::new());
        for (i, &pick) in picks.iter().enumerate() {
            let Example { latents: Posterior { mean, deviation }, beside } = &examples[pick];
            let normal = |of: u32, like: &Tensor<4>| {
                noise.normal_tensor(draw + 4 * i as u32 + of, like.dims(), &tensor::cpu(), DType::F32)
            };
            let uniform = |of: u32| noise.uniform(draw + 4 * i as u32 + 3, of);
            x0.push(mean.clone() + deviation.clone() * normal(0, mean));
            eps.push(normal(1, mean));
            let (class, beside, without) = match (beside, &self.low_res) {
                (Beside::Small(small), Some((low_res, level))) => {
                    let (of_image, of_noise) = low_res.factors(*level)?;
                    let noisy = (**small).clone() * of_image + normal(2, small) * of_noise;
                    (Some(*level), noisy, false)
                }
                (Beside::Masked(masks), _) => {
                    let which = ((uniform(0) * masks.len() as f64) as usize).min(masks.len() - 1);
                    (None, masks[which].clone(), uniform(1) < WITHOUT_TEXT)
                }
                (Beside::Small(_), None) => return Err(Error::config("small images for a network that fills in")),
            };
            let text = Some(told[usize::from(without)].clone());
            conditioning.push(Conditioning::Several(Conditions { text, class, beside: Some(beside) }.into()));
        }
        let timesteps = vec![t; picks.len()];
        Ok(Batch { x0: Tensor::cat(x0, 0), eps: Tensor::cat(eps, 0), timesteps, conditioning })
    }

    /// The loss of every held-out crop at some timesteps, the same crops and noise each time.
    ///
    /// # Errors
    /// [`Error::Backend`] when the device fails.
    pub fn held_out_losses(&self, prior: &Prior, told: &[Tensor<3>; 2], seed: u64) -> Result<Vec<f64>> {
        let noise = Noise::new(seed, Stream::Evaluation);
        let steps = prior.info().schedule.len() as f64;
        let mut losses = Vec::new();
        for (i, share) in (0..self.held_out.len()).flat_map(|i| MEASURED_AT.map(|share| (i, share))) {
            let t = Timestep((share * steps) as u16);
            let draw = 8 * losses.len() as u32;
            losses.extend(own_losses(prior, &self.batch(&self.held_out, &[i], &noise, draw, t, told)?)?);
        }
        Ok(losses)
    }
}

/// A square of the image, which is enlarged if it is smaller; three channels.
fn crop_of(image: &Tensor<4>, side: usize, noise: &Noise, draw: u32) -> Result<Tensor<4>> {
    let image = image.clone().clamp(-1.0, 1.0);
    let image = if image.dims()[1] == 1 { image.repeat_dim(1, 3) } else { image };
    let [_, _, h, w] = image.dims();
    let short = h.min(w);
    let image = if short < side {
        let enlarged = |length: usize| (length * side).div_ceil(short).max(side);
        bicubic_resize(&image, enlarged(h), enlarged(w))?
    } else {
        image
    };
    let [_, _, h, w] = image.dims();
    let (top, left) = (noise.below(draw, 0, h - side + 1), noise.below(draw, 1, w - side + 1));
    Ok(image.narrow(2, top, side).narrow(3, left, side))
}

/// A rectangle or an ellipse of random place and size, or everything.
fn random_mask(side: usize, noise: &Noise, draw: u32, k: u32) -> Vec<bool> {
    let uniform = |i: u32| noise.uniform(draw, 8 + 8 * k + i);
    if uniform(0) < WHOLE_MASKS {
        return vec![true; side * side];
    }
    let size = |u: f64| (side as f64 * (0.15 + 0.75 * u)).ceil();
    let (width, height) = (size(uniform(1)), size(uniform(2)));
    let (left, top) = ((side as f64 - width) * uniform(3), (side as f64 - height) * uniform(4));
    let round = uniform(5) < 0.5;
    let inside = |i: usize| {
        let x = ((i % side) as f64 + 0.5 - left) / width * 2.0 - 1.0;
        let y = ((i / side) as f64 + 0.5 - top) / height * 2.0 - 1.0;
        if round { x * x + y * y <= 1.0 } else { x.abs() <= 1.0 && y.abs() <= 1.0 }
    };
    (0..side * side).map(inside).collect()
}

/// A running adaptation: each [`LatentAdaptation::step`] takes one.
pub struct LatentAdaptation<'a> {
    prior: &'a Prior,
    examples: &'a Examples,
    training: &'a LatentTraining,
    told: [Tensor<3>; 2],
    lora: Lora,
    adam: Adam,
    ema: Ema,
    noise: Noise,
    step: u32,
}

impl<'a> LatentAdaptation<'a> {
    /// Of `prior` to `examples`, told the states of a text and of none.
    ///
    /// # Errors
    /// [`Error::Config`] for no examples.
    pub fn new(
        prior: &'a Prior,
        examples: &'a Examples,
        training: &'a LatentTraining,
        told: [Tensor<3>; 2],
    ) -> Result<Self> {
        if examples.training.is_empty() {
            return Err(Error::config("there is one image to adapt to, and it is held out"));
        }
        let alpha = training.rank as f64 / 2.0;
        let lora = Lora::new(prior.params(), training.rank, alpha, training.layers, training.seed)?;
        Ok(Self {
            prior,
            examples,
            training,
            told,
            adam: Adam::new(AdamConfig::default()),
            ema: Ema::new(lora.factors().clone(), training.ema),
            lora,
            noise: Noise::new(training.seed, Stream::Adaptation),
            step: 0,
        })
    }

    /// One step; returns its timestep and the loss.
    ///
    /// # Errors
    /// [`Error::Numerical`] when the loss is not finite.
    pub fn step(&mut self) -> Result<(Timestep, f64)> {
        let count = self.training.batch;
        // Crops and masks have taken the counter steps below.
        let draw = (1_u32 << 24).wrapping_add(self.step.wrapping_mul(4 * count as u32 + 4));
        let steps = self.prior.info().schedule.len();
        let t = Timestep(self.noise.below(draw, 0, steps) as u16);
        let picks: Vec<_> =
            (0..count).map(|i| self.noise.below(draw, 1 + i as u32, self.examples.training.len())).collect();
        let batch = self.examples.batch(&self.examples.training, &picks, &self.noise, draw + 4, t, &self.told)?;
        let weights = self.prior.with_params(self.lora.attached(self.prior.params()));
        // One crop after the other: what a pass keeps for its way back is large.
        let found = accumulate(count, 1, None, |first, n, share| {
            batch_loss(&weights, &batch.part(first, n), Objective::Own, DType::F32, share)
        })?;
        let factors = self.adam.step(self.lora.factors(), found.gradients, self.training.rate);
        self.ema.update(&factors);
        self.lora = self.lora.with_factors(factors);
        self.step += 1;
        Ok((t, found.loss))
    }

    /// The average of the factors so far.
    pub fn lora(&self) -> Lora {
        self.lora.with_factors(self.ema.params().clone())
    }

    /// The network with them.
    pub fn adapted(&self) -> Prior {
        self.prior.with_params(self.merged())
    }

    fn merged(&self) -> Params {
        self.lora().merged(self.prior.params())
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
