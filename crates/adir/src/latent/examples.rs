//! Crops of images, encoded once, before the network is read: latents and what stands beside them.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::DType;

use super::adapt::LatentTraining;
use super::inpaint::{Hole, beside};
use crate::adapt::crops::{enlarged, of_three_channels, resized, square};
use crate::adapt::{CropScale, is_held_out};
use crate::io::weights::{Dtype, TensorSpec, WeightFile, stream_safetensors};
use crate::models::stable_diffusion::{Latents, LowRes, Posterior};
use crate::models::{Conditioning, Conditions, Denoiser, Prior};
use crate::noise::{Noise, Stream};
use crate::operator::bicubic_resize;
use crate::optim::{Batch, own_losses};
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
/// In the metadata of encoded crops, what they belong to.
const ENCODED: &str = "encoded_crops";

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

/// The crops of one image, encoded.
#[derive(Debug, Clone)]
pub struct EncodedImage(Vec<Example>);

impl EncodedImage {
    /// Those of the `i`-th image, `[1, 1 or 3, h, w]` in [-1, 1]: for an upscaler, which sees it smaller, or for inpainting.
    ///
    /// # Errors
    /// As [`Latents::posterior`]; [`Error::Config`] for an image of other channels.
    pub fn encode(
        image: &Tensor<4>,
        i: usize,
        autoencoder: &Latents,
        upscales: bool,
        training: &LatentTraining,
    ) -> Result<Self> {
        let noise = Noise::new(training.seed, Stream::Adaptation);
        let image = enlarged(of_three_channels(image.clone().clamp(-1.0, 1.0))?, training.crop)?;
        let encode = |k: usize| {
            let draw = (i * training.crops_per_image + k) as u32;
            let scaled = match training.scale {
                CropScale::Native => image.clone(),
                // Apart from the numbers that place crops and masks.
                CropScale::Resized => resized(&image, training.crop, noise.uniform(draw, 4))?.clamp(-1.0, 1.0),
            };
            let crop = square(&scaled, training.crop, &noise, draw, 0);
            let beside = if upscales {
                Beside::Small(bicubic_resize(&crop, training.crop / 4, training.crop / 4)?.into())
            } else {
                let of_mask = |m: usize| {
                    let mask = random_mask(training.crop, &noise, draw, m as u32);
                    beside(&Hole { image: crop.clone(), mask }, autoencoder, None)
                };
                Beside::Masked((0..MASKS).map(of_mask).collect::<Result<_>>()?)
            };
            Ok(Example { latents: autoencoder.posterior(&crop)?, beside })
        };
        Ok(Self((0..training.crops_per_image).map(encode).collect::<Result<_>>()?))
    }

    /// Writes them; `of` tells what they belong to.
    ///
    /// # Errors
    /// [`Error::Io`] where the system refuses.
    pub fn save(&self, path: &Path, of: &str) -> Result<()> {
        let mut tensors: Vec<(String, &Tensor<4>)> = Vec::new();
        for (k, Example { latents, beside }) in self.0.iter().enumerate() {
            tensors.push((format!("{k}.mean"), &latents.mean));
            tensors.push((format!("{k}.deviation"), &latents.deviation));
            match beside {
                Beside::Small(small) => tensors.push((format!("{k}.small"), small)),
                Beside::Masked(masks) => {
                    tensors.extend(masks.iter().enumerate().map(|(m, mask)| (format!("{k}.masked.{m}"), mask)));
                }
            }
        }
        let shapes: Vec<_> = tensors.iter().map(|(_, tensor)| tensor.dims()).collect();
        let specs = tensors.iter().zip(&shapes).map(|((name, _), shape)| TensorSpec { name, shape, dtype: Dtype::F32 });
        let metadata = BTreeMap::from([(ENCODED.to_owned(), of.to_owned())]);
        stream_safetensors(path, &specs.collect::<Vec<_>>(), &metadata, |k| tensor::to_f32(tensors[k].1))
    }

    /// Reads what [`EncodedImage::save`] has written for the same `of`.
    ///
    /// # Errors
    /// [`Error::Model`] when the file is no such thing.
    pub fn load(file: &WeightFile, of: &str, upscales: bool, training: &LatentTraining) -> Result<Self> {
        if file.metadata().get(ENCODED).is_none_or(|found| found != of) {
            return Err(Error::model(file.path(), "holds crops of other images or settings"));
        }
        let read = |name: String| -> Result<Tensor<4>> {
            let shape = file.info(&name).and_then(|info| <[usize; 4]>::try_from(info.shape.as_slice()).ok());
            let shape = shape.ok_or_else(|| Error::model(file.path(), format!("has no {name}")))?;
            Ok(tensor::from_f32(file.read_f32(&name)?, shape, &tensor::cpu()))
        };
        let example = |k: usize| {
            let latents = Posterior { mean: read(format!("{k}.mean"))?, deviation: read(format!("{k}.deviation"))? };
            let beside = match upscales {
                true => Beside::Small(read(format!("{k}.small"))?.into()),
                false => Beside::Masked((0..MASKS).map(|m| read(format!("{k}.masked.{m}"))).collect::<Result<_>>()?),
            };
            Ok(Example { latents, beside })
        };
        Ok(Self((0..training.crops_per_image).map(example).collect::<Result<_>>()?))
    }
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
    /// Those of images that are encoded already, for an upscaler with `low_res` and a level of noise, else for inpainting.
    /// Images are held out as by [`is_held_out`], if any are to be.
    ///
    /// # Errors
    /// [`Error::Config`] for no images.
    pub fn new(images: Vec<EncodedImage>, low_res: Option<(LowRes, usize)>, hold_out: bool) -> Result<Self> {
        if images.is_empty() {
            return Err(Error::config("no images to adapt to"));
        }
        let (mut examples, count) = (Self { training: Vec::new(), held_out: Vec::new(), low_res }, images.len());
        for (i, EncodedImage(crops)) in images.into_iter().enumerate() {
            if hold_out && is_held_out(i, count) {
                examples.held_out.extend(crops)
            } else {
                examples.training.extend(crops)
            }
        }
        Ok(examples)
    }

    /// The same of `images`, `[1, 1 or 3, h, w]` in [-1, 1]. `done` is told after each image.
    ///
    /// # Errors
    /// As [`Examples::new`] and [`EncodedImage::encode`], and what `done` returns.
    pub fn encode(
        images: &[Tensor<4>],
        autoencoder: &Latents,
        low_res: Option<(LowRes, usize)>,
        training: &LatentTraining,
        mut done: impl FnMut(usize) -> Result<()>,
    ) -> Result<Self> {
        let mut encoded = Vec::new();
        for (i, image) in images.iter().enumerate() {
            encoded.push(EncodedImage::encode(image, i, autoencoder, low_res.is_some(), training)?);
            done(i + 1)?;
        }
        Self::new(encoded, low_res, training.held_out)
    }

    /// Whether any are held out.
    pub fn has_held_out(&self) -> bool {
        !self.held_out.is_empty()
    }

    /// Crops to train with.
    pub(super) fn count(&self) -> usize {
        self.training.len()
    }

    /// A batch of the crops to train with, as [`Examples::batch`].
    pub(super) fn training_batch(
        &self,
        picks: &[usize],
        noise: &Noise,
        draw: u32,
        t: Timestep,
        told: &[Tensor<3>; 2],
    ) -> Result<Batch> {
        self.batch(&self.training, picks, noise, draw, t, told)
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
