//! A running adaptation: an iterator of steps, driven by the caller.

use std::fmt;

use super::adapter::Adapter;
use super::config::{AdaptConfig, Timesteps, Trained};
use super::crops::CropSource;
use crate::models::params::Params;
use crate::models::{Denoiser, Prior};
use crate::noise::{Noise, Stream};
use crate::optim::{
    Adam, AdamConfig, Batch, Ema, Lora, LossGradients, Objective, Workers, accumulate, add, batch_loss, gradient_norm,
    loss_by_blocks, simple_losses,
};
use crate::schedule::Timestep;
use crate::tensor::{self, DType, Tensor};
use crate::{Error, Result};

/// Every n-th image is held out.
const HELD_OUT_EVERY: usize = 5;
/// Number of held-out crops that decide whether the adaptation helps.
const HELD_OUT_CROPS: usize = 48;
/// Crops drawn, and computed, at once when no gradients are needed.
const DRAWN: usize = 8;
const AT_ONCE: usize = 2;

/// Report of one step.
#[derive(Debug, Clone, Copy)]
pub struct AdaptStep {
    /// Steps taken so far.
    pub step: u32,
    /// The timestep of its first image.
    pub timestep: Timestep,
    /// l_simple.
    pub loss: f64,
    /// 2-norm of the gradients of what is trained.
    pub gradient_norm: f64,
}

/// Loss on held-out images before and after the adaptation, weighted by noise level as in training.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct HeldOut {
    /// With the base weights.
    pub before: f64,
    /// With the adapted weights.
    pub after: f64,
    /// Mean decrease over the crops, in standard errors; above 0 is better.
    pub significance: f64,
}

impl HeldOut {
    /// Whether the adaptation lowered the loss by more than its standard error: with less, restorations were as often
    /// worse as better (docs/results/adaptation.md).
    pub fn helped(&self) -> bool {
        self.significance > 1.0
    }
}

impl fmt::Display for HeldOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "held-out loss {:.5} -> {:.5}", self.before, self.after)
    }
}

/// An adaptation of one model to a few images (Eq. 6): iterate to advance it, then take its result.
#[derive(Debug)]
pub struct Adaptation {
    model: Prior,
    config: AdaptConfig,
    crops: CropSource,
    held_out: Option<CropSource>,
    trained: State,
    adam: Adam,
    ema: Ema,
    step: u32,
    noise: Noise,
    workers: Option<Workers>,
    failed: bool,
}

/// The trained weights, in f32 if the network computes in half precision, whose steps are coarser than Adam's.
#[derive(Debug)]
enum State {
    Full(Params),
    Lora(Lora),
}

impl Adaptation {
    /// An adaptation of `model` to `images` (`[1, 1 or 3, h, w]` in [-1, 1]).
    ///
    /// # Errors
    /// [`Error::Config`] for settings that do not suit the network, no images, or a network in f16, in which most
    /// gradients are zero.
    pub fn new(model: &Prior, images: Vec<Tensor<4>>, config: AdaptConfig) -> Result<Self> {
        config.check(model.info().size_multiple)?;
        if model.network().classes().is_some() || model.info().channels != 3 {
            return Err(Error::config("only networks for RGB images without classes can be adapted"));
        }
        if model.params().dtype() == DType::F16 {
            return Err(Error::config(
                "a network in f16 cannot be adapted because its gradients vanish: use bf16 or f32",
            ));
        }
        let hold = config.held_out && images.len() >= 2;
        let last =
            |i: usize| hold && (i % HELD_OUT_EVERY == HELD_OUT_EVERY - 1 || images.len() < HELD_OUT_EVERY && i == 1);
        let (mut out, mut training) = (Vec::new(), Vec::new());
        for (i, image) in images.iter().enumerate() {
            if last(i) { out.push(image.clone()) } else { training.push(image.clone()) }
        }
        let crops = CropSource::new(training, &config)?;
        let held_out = if out.is_empty() { None } else { Some(CropSource::new(out, &config)?) };
        let (trained, params) = match config.trained {
            Trained::Full => {
                let params = model.params().in_precision(precision_of_training(model.params()));
                (State::Full(params.clone()), params)
            }
            Trained::Lora { rank, alpha, layers } => {
                let lora = Lora::new(model.params(), rank, alpha, layers, config.seed)?;
                let factors = lora.factors().clone();
                (State::Lora(lora), factors)
            }
        };
        let on_cpu = tensor::is_cpu(&model.params().device());
        let in_parts = on_cpu && !config.recompute && config.micro_batch < config.batch;
        Ok(Self {
            model: model.clone(),
            adam: Adam::new(AdamConfig::default()),
            ema: Ema::new(params, config.ema),
            noise: Noise::new(config.seed, Stream::Adaptation),
            workers: if in_parts { Some(Workers::new()?) } else { None },
            config,
            crops,
            held_out,
            trained,
            step: 0,
            failed: false,
        })
    }

    /// Total number of steps.
    pub fn total(&self) -> u32 {
        self.config.iterations
    }

    /// Images trained on, and held out.
    pub fn images(&self) -> (usize, usize) {
        (self.crops.len(), self.held_out.as_ref().map_or(0, CropSource::len))
    }

    /// The batch of the next step: crops, noise, timesteps.
    ///
    /// # Errors
    /// As [`CropSource::draw`].
    pub fn draw(&self) -> Result<Batch> {
        let (n, device) = (self.config.batch, self.model.params().device());
        let dtype = precision_of_training(self.model.params());
        let all = self.model.info().schedule.len();
        // The first numbers of a step are the crops'.
        let timesteps = match self.config.timesteps {
            Timesteps::Shared => vec![Timestep(self.noise.below(self.step, 3 * n as u32, all) as u16); n],
            Timesteps::Spread => {
                let offset = self.noise.uniform(self.step, 3 * n as u32);
                (0..n).map(|i| Timestep(((i as f64 + offset) / n as f64 * all as f64) as u16)).collect()
            }
        };
        let crops = self.crops.draw(&self.noise, self.step, n, &device)?.cast(dtype);
        let x0 = self.model.space().encode(&crops)?;
        Ok(Batch { eps: self.noise.normal_tensor(self.step, x0.dims(), &device, dtype), x0, timesteps })
    }

    /// One step on `batch`.
    ///
    /// # Errors
    /// [`Error::Numerical`] when the loss or a gradient is not finite; the state is then that before the step.
    pub fn advance(&mut self, batch: &Batch) -> Result<AdaptStep> {
        let LossGradients { loss, gradients } = self.gradients(batch)?;
        let gradient_norm = gradient_norm(&gradients)?;
        let rate = self.config.rate_at(self.step);
        match &mut self.trained {
            State::Full(params) => {
                *params = self.adam.step(params, gradients, rate);
                self.ema.update(params);
            }
            State::Lora(lora) => {
                let factors = self.adam.step(lora.factors(), gradients, rate);
                self.ema.update(&factors);
                *lora = lora.with_factors(factors);
            }
        }
        self.step += 1;
        let timestep = batch.timesteps.first().copied().unwrap_or(Timestep(0));
        Ok(AdaptStep { step: self.step, timestep, loss, gradient_norm })
    }

    /// Loss, and gradients of what is trained.
    fn gradients(&self, batch: &Batch) -> Result<LossGradients> {
        let (model, parts) = (&self.model, self.config.micro_batch);
        let weights = match &self.trained {
            State::Full(params) => params.clone(),
            State::Lora(lora) => lora.attached(model.params()),
        };
        let dtype = model.params().dtype();
        let objective = Objective::Simple(self.config.level_weights);
        if !self.config.recompute {
            let model = model.with_params(weights);
            return accumulate(batch.len(), parts, self.workers.as_ref(), |first, n, share| {
                batch_loss(&model, &batch.part(first, n), objective, dtype, share)
            });
        }
        let model = model.with_params(weights.in_precision(dtype));
        let trained = match &self.trained {
            State::Full(params) => params,
            State::Lora(lora) => lora.factors(),
        };
        let mut gradients = vec![None; trained.layout().specs().len()];
        let mut loss = 0.0;
        for first in (0..batch.len()).step_by(parts) {
            let n = parts.min(batch.len() - first);
            let share = n as f64 / batch.len() as f64;
            let mut take = |place: usize, g: Tensor<1>| {
                let held: &mut Option<Tensor<1>> = &mut gradients[place];
                *held = add(held.take(), Some(g.cast(trained.dtype())));
            };
            loss += loss_by_blocks(&model, &batch.part(first, n), self.config.level_weights, share, &mut take)?;
        }
        Ok(LossGradients { loss, gradients })
    }

    /// The adapted weights so far (their average, at the strength asked for), as something to keep.
    pub fn adapter(&self) -> Adapter {
        let (average, strength) = (self.ema.params().clone(), self.config.strength);
        match &self.trained {
            // Exact to the bit, unlike the sum below.
            State::Full(_) if strength == 1.0 => Adapter::Full(average),
            State::Full(_) => {
                let base = self.model.params().in_precision(average.dtype());
                Adapter::Full(average.map(|id, value| base.flat(id) + (value - base.flat(id)) * strength))
            }
            State::Lora(lora) => Adapter::Lora(lora.with_factors(average).with_alpha(lora.alpha() * strength)),
        }
    }

    /// Whether the adapted weights denoise the held-out images better; `None` where none were held out.
    ///
    /// # Errors
    /// [`Error::Numerical`] when a loss is not finite.
    pub fn held_out(&self) -> Result<Option<HeldOut>> {
        let Some(source) = &self.held_out else { return Ok(None) };
        let noise = Noise::new(self.config.seed, Stream::Evaluation);
        let model = &self.model;
        let (device, all) = (model.params().device(), model.info().schedule.len());
        let adapted = model.with_params(self.adapter().apply(model.params())?);
        let weight = self.config.level_weights.of(&model.info().schedule);
        let mut differences = Vec::new();
        let (mut before, mut after) = (0.0, 0.0);
        for k in 0..HELD_OUT_CROPS / DRAWN {
            let place = |i: usize| ((k * DRAWN + i) as f64 + 0.5) / HELD_OUT_CROPS as f64;
            let dtype = precision_of_training(model.params());
            let x0 = model.space().encode(&source.draw(&noise, k as u32, DRAWN, &device)?.cast(dtype))?;
            let batch = Batch {
                eps: noise.normal_tensor(k as u32, x0.dims(), &device, dtype),
                x0,
                timesteps: (0..DRAWN).map(|i| Timestep((place(i) * all as f64) as u16)).collect(),
            };
            let losses = |model: &Prior| -> Result<Vec<f64>> {
                let parts = (0..DRAWN).step_by(AT_ONCE).map(|first| batch.part(first, AT_ONCE));
                let found = parts.map(|part| simple_losses(model, &part));
                Ok(found.collect::<Result<Vec<_>>>()?.concat())
            };
            let losses = losses(model)?.into_iter().zip(losses(&adapted)?);
            for ((a, b), weight) in losses.zip(batch.timesteps.iter().map(|&t| weight(t))) {
                let (a, b) = (a * weight, b * weight);
                before += a / HELD_OUT_CROPS as f64;
                after += b / HELD_OUT_CROPS as f64;
                differences.push(a - b);
            }
        }
        if !(f64::is_finite(before) && f64::is_finite(after)) {
            return Err(Error::Numerical(format!(
                "the held-out loss is not finite: {before} before the adaptation, {after} after it"
            )));
        }
        let n = differences.len() as f64;
        let mean = differences.iter().sum::<f64>() / n;
        let variance = differences.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / (n - 1.0);
        let significance = mean / (variance / n).sqrt().max(f64::MIN_POSITIVE);
        Ok(Some(HeldOut { before, after, significance }))
    }
}

impl Iterator for Adaptation {
    type Item = Result<AdaptStep>;

    /// The next step; nothing more after the last one or an error.
    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.step >= self.config.iterations {
            return None;
        }
        let step = self.draw().and_then(|batch| self.advance(&batch));
        self.failed = step.is_err();
        Some(step)
    }
}

/// Precision of the trained weights, the batches and the loss.
fn precision_of_training(params: &Params) -> DType {
    match params.dtype() {
        DType::F64 => DType::F64,
        _ => DType::F32,
    }
}
