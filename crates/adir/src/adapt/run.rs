//! A running adaptation: an iterator of steps, driven by the caller.

use std::path::Path;

use super::adapter::Adapter;
use super::checkpoint;
use super::config::{AdaptConfig, Timesteps, Trained};
use super::crops::CropSource;
use super::curve::{HeldOut, Point, Stopped, mean, next_measurement};
use super::held_out::HeldOutCrops;
use super::learner::Learner;
use crate::compute::Workers;
use crate::io::weights::WeightFile;
use crate::models::params::Params;
use crate::models::{Denoiser, EstimateErrors, Prior};
use crate::noise::{Noise, Stream};
use crate::optim::{Batch, LossGradients, Objective, accumulate, add, batch_loss, gradient_norm, loss_by_blocks};
use crate::schedule::Timestep;
use crate::tensor::{self, DType, Tensor};
use crate::{Error, Result};

/// Whether the `i`-th of `count` images is held out: every fifth, of fewer the second, a single one not.
pub fn is_held_out(i: usize, count: usize) -> bool {
    const EVERY: usize = 5;
    count >= 2 && (i % EVERY == EVERY - 1 || count < EVERY && i == 1)
}

/// Steps that low-rank factors and all weights take before one of them goes on alone.
const RACE: u32 = 50;

/// The steps that an adaptation with this budget takes at most, those of weights that are given up included, and how often it
/// measures the held-out loss where images are held out.
fn steps_and_measurements(config: &AdaptConfig, budget: u32, held_out: bool) -> (u32, usize) {
    let race = if matches!(config.trained, Trained::Auto { .. }) && held_out { RACE.min(budget) } else { 0 };
    let next = |step: &u32| (*step < budget).then(|| next_measurement(*step, budget));
    let measurements = std::iter::successors(Some(0), next).count() + if race > 0 { 2 } else { 0 };
    (budget + race, if held_out { measurements } else { 0 })
}

/// Time of a product in training, in percent of that of one in sampling.
const TIME_OF_PRODUCTS: u64 = 120;

/// Products of sampling that take as long as an adaptation at most, its measurements included, if a pass of a crop adds up `pass`.
pub fn products_of_training(config: &AdaptConfig, pass: u64) -> u64 {
    let (steps, measurements) = steps_and_measurements(config, config.iterations, config.held_out);
    let full = !matches!(config.trained, Trained::Lora { .. });
    let crops = u64::from(steps).saturating_mul(config.batch as u64);
    let passes = passes_of_crops(crops, full, config.recompute);
    pass.saturating_mul(passes.saturating_add((measurements * HeldOutCrops::COUNT) as u64))
}

/// Passes of sampling that take as long as training with so many crops: the pass itself, and the gradients by maps and, where all
/// weights are trained, by weights. Those of factors are small.
pub(crate) fn passes_of_crops(crops: u64, full: bool, recompute: bool) -> u64 {
    let each = 2 + u64::from(full) + u64::from(recompute);
    crops.saturating_mul(each).saturating_mul(TIME_OF_PRODUCTS) / 100
}

/// Report of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdaptStep {
    /// Steps taken so far, those of weights that were given up included.
    pub step: u32,
    /// The timestep of its first image.
    pub timestep: Timestep,
    /// l_simple.
    pub loss: f64,
    /// 2-norm of the gradients of what is trained.
    pub gradient_norm: f64,
    /// The held-out loss after the step, where it was measured.
    pub measured: Option<Measured>,
}

/// A measurement of the held-out loss.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Measured {
    /// What was trained.
    pub trained: Trained,
    /// Steps of it, and the loss.
    pub point: Point,
    /// The loss before the first step.
    pub before: f64,
}

/// An adaptation of one model to a few images (Eq. 6): iterate to advance it, then take its result.
///
/// With held-out images their loss is measured again and again, at intervals that double; the training ends when it has
/// not fallen for long, and the weights at its lowest are the result.
#[derive(Debug)]
pub struct Adaptation {
    model: Prior,
    config: AdaptConfig,
    crops: CropSource,
    held_out: Option<HeldOutCrops>,
    /// What is trained: two while it is open which of them goes on.
    learners: Vec<Learner>,
    /// Measurements of what was given up.
    given_up: Vec<Point>,
    /// Steps of what was given up.
    lost: u32,
    noise: Noise,
    workers: Option<Workers>,
    failed: bool,
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
        let (mut out, mut training) = (Vec::new(), Vec::new());
        for (i, image) in images.iter().enumerate() {
            if config.held_out && is_held_out(i, images.len()) {
                out.push(image.clone())
            } else {
                training.push(image.clone())
            }
        }
        let crops = CropSource::new(training, &config)?;
        let held_out = match out.is_empty() {
            true => None,
            false => Some(HeldOutCrops::new(CropSource::new(out, &config)?, &config)),
        };
        let ways = match (config.trained, &held_out) {
            (Trained::Auto { .. }, Some(_)) => vec![config.trained.low_rank(), Trained::Full],
            (trained, _) => vec![trained.low_rank()],
        };
        let learners = ways.into_iter().map(|trained| Learner::new(model.params(), trained, &config));
        let learners = learners.collect::<Result<_>>()?;
        let on_cpu = tensor::is_cpu(&model.params().device());
        let in_parts = on_cpu && !config.recompute && config.micro_batch < config.batch;
        Ok(Self {
            model: model.clone(),
            noise: Noise::new(config.seed, Stream::Adaptation),
            workers: if in_parts { Some(Workers::new()?) } else { None },
            config,
            crops,
            held_out,
            learners,
            given_up: Vec::new(),
            lost: 0,
            failed: false,
        })
    }

    /// The largest number of steps it takes, those of weights that are given up included.
    pub fn total(&self) -> u32 {
        let race = RACE.min(self.config.iterations);
        self.config.iterations + if self.learners.len() > 1 { race } else { self.lost }
    }

    /// Steps taken so far, those of weights that were given up included.
    pub fn taken(&self) -> u32 {
        self.lost + self.learners.iter().map(|learner| learner.step).sum::<u32>()
    }

    /// Gives it another budget of steps, also a smaller one than was used.
    pub fn set_budget(&mut self, iterations: u32) {
        self.config.iterations = iterations;
    }

    /// The largest budget with which training and measurements together take at most as long as `steps` steps, if a
    /// measurement takes as long as `measurement` of them. It is a round number: a multiple of 25, and of 400 from there on.
    pub fn budget_within(&self, steps: f64, measurement: f64) -> u32 {
        let held_out = self.held_out.is_some();
        let cost = |budget: u32| {
            let (steps, measurements) = steps_and_measurements(&self.config, budget, held_out);
            f64::from(steps) + measurements as f64 * measurement
        };
        let next = |budget: u32| budget + if budget < 400 { 25 } else { 400 };
        let mut budget = 25;
        while budget < 1 << 24 && cost(next(budget)) <= steps {
            budget = next(budget);
        }
        budget
    }

    /// Time of a step of all weights in that of the next one: gradients by weights are a third of it, and those of factors are
    /// small.
    pub fn dearest_step(&self) -> f64 {
        if self.learners.len() > 1 && self.turn().0 == 0 { 1.5 } else { 1.0 }
    }

    /// Whether more steps were taken than the budget has.
    pub fn is_beyond_budget(&self) -> bool {
        self.learners.iter().any(|learner| learner.step > self.config.iterations)
    }

    /// The number of steps at which the latest measurement was due, or the next one is.
    pub fn budget_reached(&self) -> u32 {
        let steps = self.learners.iter().map(|learner| learner.step).max().unwrap_or(0);
        if steps == 0 { 0 } else { next_measurement(steps - 1, u32::MAX) }
    }

    /// Whether the step `after` more steps from now is measured only because the budget ends with it: an adaptation with a
    /// larger one would not be.
    fn ends_between_measurements(&self, after: u32) -> bool {
        let end = self.learners[0].step + after;
        end > 0
            && self.learners.len() == 1
            && end == self.config.iterations
            && next_measurement(end - 1, u32::MAX) != end
    }

    /// Whether the state should be saved before the next step, for a larger budget to go on from.
    pub fn is_last_before_end(&self) -> bool {
        self.ends_between_measurements(1)
    }

    /// Whether the state is one that a larger budget would have led to as well.
    pub fn can_go_on(&self) -> bool {
        !self.ends_between_measurements(0)
    }

    /// Images trained on, and held out.
    pub fn images(&self) -> (usize, usize) {
        (self.crops.len(), self.held_out.as_ref().map_or(0, HeldOutCrops::images))
    }

    /// The one whose turn it is, and until which step.
    fn turn(&self) -> (usize, u32) {
        let race = RACE.min(self.config.iterations);
        match self.learners.as_slice() {
            [first, _] if first.step < race => (0, race),
            [_, _] => (1, race),
            _ => (0, self.config.iterations),
        }
    }

    /// The batch of the next step: crops, noise, timesteps.
    ///
    /// # Errors
    /// As [`CropSource::draw`].
    pub fn draw(&self) -> Result<Batch> {
        let step = self.learners[self.turn().0].step;
        let (mut n, mut side, device) = (self.config.batch, self.config.crop, self.model.params().device());
        let dtype = precision_of_training(self.model.params());
        let all = self.model.info().schedule.len();
        let mut range = 0..all;
        if self.config.timesteps == Timesteps::Halves {
            range = if step.is_multiple_of(2) { 0..all / 2 } else { all / 2..all };
            if range.start == 0 {
                (n, side) = (4 * n, side / 2);
            }
        }
        // The first numbers of a step are the crops'.
        let timesteps = match self.config.timesteps {
            Timesteps::Shared => vec![Timestep(self.noise.below(step, 3 * n as u32, all) as u16); n],
            Timesteps::Spread | Timesteps::Halves => {
                let offset = self.noise.uniform(step, 3 * n as u32);
                let place = |i: usize| ((i as f64 + offset) / n as f64 * range.len() as f64) as usize;
                (0..n).map(|i| Timestep((range.start + place(i)) as u16)).collect()
            }
        };
        let crops = self.crops.draw(&self.noise, step, n, side, &device)?.cast(dtype);
        let x0 = self.model.space().encode(&crops)?;
        let eps = self.noise.normal_tensor(step, x0.dims(), &device, dtype);
        Ok(Batch { eps, x0, timesteps, conditioning: Vec::new() })
    }

    /// One step on `batch`.
    ///
    /// # Errors
    /// [`Error::Numerical`] when the loss or a gradient is not finite; the state is then that before the step.
    pub fn advance(&mut self, batch: &Batch) -> Result<AdaptStep> {
        let turn = self.turn().0;
        let LossGradients { loss, gradients } = self.gradients(&self.learners[turn], batch)?;
        let gradient_norm = gradient_norm(&gradients)?;
        self.learners[turn].advance(gradients, &self.config);
        let timestep = batch.timesteps.first().copied().unwrap_or(Timestep(0));
        Ok(AdaptStep { step: self.taken(), timestep, loss, gradient_norm, measured: None })
    }

    /// Loss, and gradients of what is trained.
    fn gradients(&self, learner: &Learner, batch: &Batch) -> Result<LossGradients> {
        // Smaller crops are computed together: as many pixels at once.
        let (model, parts) = (&self.model, (self.config.micro_batch * batch.len() / self.config.batch).max(1));
        let weights = learner.weights(model.params());
        let dtype = model.params().dtype();
        let objective = Objective::Simple(self.config.level_weights);
        if !self.config.recompute {
            let model = model.with_params(weights);
            return accumulate(batch.len(), parts, self.workers.as_ref(), |first, n, share| {
                batch_loss(&model, &batch.part(first, n), objective, dtype, share)
            });
        }
        let model = model.with_params(weights.in_precision(dtype));
        let trained = learner.params();
        let mut gradients = vec![None; trained.layout().specs().len()];
        let mut loss = 0.0;
        for first in (0..batch.len()).step_by(parts) {
            let n = parts.min(batch.len() - first);
            let share = n as f64 / batch.len() as f64;
            let mut take = |place: usize, g: Tensor<1>| {
                let held: &mut Option<Tensor<1>> = &mut gradients[place];
                *held = add(held.take(), Some(g.cast(trained.dtype())));
            };
            loss += loss_by_blocks(&model, &batch.part(first, n), objective, share, &mut take)?;
        }
        Ok(LossGradients { loss, gradients })
    }

    /// The adapted weights (their average, at the strength asked for): those with the lowest held-out loss, or the latest
    /// where none was measured.
    pub fn adapter(&self) -> Adapter {
        self.learners[0].result(self.model.params(), self.config.strength)
    }

    /// What the held-out images say; `None` where none were held out, or nothing was measured.
    pub fn held_out(&self) -> Option<HeldOut> {
        let learner = &self.learners[0];
        let stopped = if learner.step < self.config.iterations { Stopped::NoGain } else { Stopped::Budget };
        let all = self.model.info().schedule.len();
        let outcome = learner.curve.outcome(learner.trained, stopped, &HeldOutCrops::timesteps(all), all)?;
        let (schedule, weights) = (&self.model.info().schedule, self.config.level_weights);
        let (weight, (_, losses)) = (weights.of(schedule), learner.curve.best()?);
        let unweighted = HeldOutCrops::timesteps(all).into_iter().map(Timestep).zip(losses);
        let unweighted: Vec<_> = unweighted.map(|(t, loss)| (t, loss / weight(t))).collect();
        let errors = EstimateErrors::measured(schedule, &unweighted);
        Some(HeldOut { given_up: self.given_up.clone(), errors, ..outcome })
    }

    /// Measures the loss with the base weights, where images are held out.
    ///
    /// # Errors
    /// [`Error::Numerical`] when a loss is not finite.
    pub fn measure_before(&mut self) -> Result<()> {
        let Some(crops) = &self.held_out else { return Ok(()) };
        let before = crops.losses(&self.model)?;
        self.learners.iter_mut().for_each(|learner| learner.curve.before.clone_from(&before));
        Ok(())
    }

    /// Measures the held-out loss after the latest step of a learner, and lets the better of two go on.
    fn measure(&mut self, turn: usize) -> Result<Option<Measured>> {
        let Some(crops) = &self.held_out else { return Ok(None) };
        let (learner, base) = (&self.learners[turn], self.model.params());
        let adapted = learner.average(base, self.config.strength).apply(base)?;
        let losses = crops.losses(&self.model.with_params(adapted))?;
        let learner = &mut self.learners[turn];
        learner.note(losses);
        let before = mean(&learner.curve.before);
        let (trained, latest) = (learner.trained, learner.curve.summary().pop());
        if let [low_rank, full] = self.learners.as_slice()
            && full.step >= RACE.min(self.config.iterations)
        {
            let loser = usize::from(!full.curve.will_beat(&low_rank.curve));
            let loser = self.learners.remove(loser);
            self.lost = loser.step;
            self.given_up = loser.curve.summary();
        }
        Ok(latest.map(|point| Measured { trained, point, before }))
    }

    /// The next step, and the measurement after it.
    fn go_on(&mut self) -> Result<AdaptStep> {
        if self.learners.iter().any(|learner| learner.curve.before.is_empty()) {
            self.measure_before()?;
        }
        let (turn, end) = self.turn();
        let due = next_measurement(self.learners[turn].step, end);
        let step = self.advance(&self.draw()?)?;
        let measured = if self.learners[turn].step == due { self.measure(turn)? } else { None };
        Ok(AdaptStep { measured, ..step })
    }

    /// Whether the next step ends with a measurement.
    pub fn is_measured_next(&self) -> bool {
        let (turn, end) = self.turn();
        let step = self.learners[turn].step;
        self.held_out.is_some() && next_measurement(step, end) == step + 1
    }

    /// Whether there is nothing left to do.
    pub fn is_finished(&self) -> bool {
        let (turn, end) = self.turn();
        let alone = self.learners.len() == 1;
        self.failed || self.learners[turn].step >= end || alone && self.learners[0].curve.has_levelled()
    }

    /// Writes the complete state for [`Adaptation::resume`]; `of` tells what it belongs to.
    ///
    /// # Errors
    /// [`Error::Io`] where the system refuses.
    pub fn save(&self, path: &Path, of: &str) -> Result<()> {
        checkpoint::save(path, of, &self.learners, self.lost, &self.given_up)
    }

    /// Goes on from a state that an adaptation to the same images with the same settings but for the budget wrote: what
    /// follows is what would have followed there, to the bit. `of` must be as it was then.
    ///
    /// # Errors
    /// [`Error::Model`] when the file is no such state.
    pub fn resume(&mut self, file: &WeightFile, of: &str) -> Result<()> {
        (self.learners, self.lost, self.given_up) = checkpoint::load(file, of, self.model.params(), &self.config)?;
        Ok(())
    }
}

impl Iterator for Adaptation {
    type Item = Result<AdaptStep>;

    /// The next step; nothing more after the last one or an error.
    fn next(&mut self) -> Option<Self::Item> {
        if self.is_finished() {
            return None;
        }
        let step = self.go_on();
        self.failed = step.is_err();
        Some(step)
    }
}

/// Precision of the trained weights, the batches and the loss.
pub(super) fn precision_of_training(params: &Params) -> DType {
    match params.dtype() {
        DType::F64 => DType::F64,
        _ => DType::F32,
    }
}
