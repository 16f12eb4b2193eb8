//! Several passes down the noise levels, each starting from what the one before it found.
//!
//! A first stage may settle what y decides in few steps, and a second one start from there at a lower noise level: only
//! what is finer than that noise is then left to chance.

use serde::{Deserialize, Serialize};

use super::Inputs;
use super::chain::{Chain, Rule, Step};
use crate::guidance::Guidance;
use crate::schedule::Schedule;
use crate::tensor::{Tensor, check_finite};
use crate::{Error, Result};

/// Where a stage begins, at the first noise level of its schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// In pure noise.
    Noise,
    /// In sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) z with the x0 found so far: that of the stage before, or one that is
    /// given.
    Estimate,
    /// Where the guidance says ([`Guidance::start`]).
    Observed,
    /// In sqrt(alpha_bar) x0, for an x0 that already holds the noise of that level: an observation with nothing but noise.
    Noisy,
}

/// One pass down the noise levels.
pub struct Stage<'a> {
    /// The levels visited.
    pub schedule: &'a Schedule,
    /// The sampler.
    pub rule: Box<dyn Rule + 'a>,
    /// Guidance towards an observation.
    pub guidance: Option<&'a dyn Guidance>,
    /// Where it begins.
    pub start: Start,
}

/// Where [`Stages`] stand between two steps. With the same inputs and stages it decides all further steps to the bit: the
/// noise of a step is a function of its number.
///
/// # Shapes
/// Both tensors `[n, c, h, w]`.
#[derive(Debug, Clone)]
pub struct Reached {
    /// Steps taken, of all stages.
    pub done: usize,
    /// The state after the last of them.
    pub x_t: Tensor<4>,
    /// Its estimate of the clean image, from which a later stage may start.
    pub x0: Tensor<4>,
}

impl From<&Step> for Reached {
    fn from(step: &Step) -> Self {
        Self { done: step.index + 1, x_t: step.x_t.clone(), x0: step.x0.clone() }
    }
}

/// The steps of several stages as one iterator. After an error it yields nothing more.
pub struct Stages<'a> {
    inputs: Inputs<'a>,
    waiting: std::vec::IntoIter<Stage<'a>>,
    running: Option<Chain<'a>>,
    /// The x0 found so far; for a first stage that starts in pure noise, only its shape and precision count.
    estimate: Tensor<4>,
    done: usize,
    total: usize,
    /// Noise used so far: one for the start of each stage and one for each of its steps.
    noises: usize,
}

impl<'a> Stages<'a> {
    /// The stages in turn, from `estimate`, `[n, c, h, w]`. Of `inputs` the schedule and the guidance are those of the
    /// stages. A single stage from pure noise gets the same noise as a [`Chain`] does from
    /// [`super::initial_noise`].
    pub fn new(inputs: Inputs<'a>, stages: Vec<Stage<'a>>, estimate: Tensor<4>) -> Self {
        let total = stages.iter().map(|stage| stage.schedule.len()).sum();
        Self { inputs, waiting: stages.into_iter(), running: None, estimate, done: 0, total, noises: 0 }
    }

    /// Goes on from where other stages like these had come, before the first step is taken.
    ///
    /// # Errors
    /// [`Error::Config`] for more steps than there are, or tensors of another shape; [`Error::Numerical`] when a value is
    /// not finite.
    pub fn resume(mut self, from: Reached) -> Result<Self> {
        let Reached { done, x_t, x0 } = from;
        let shape = self.estimate.dims();
        if done > self.total || x_t.dims() != shape || x0.dims() != shape {
            return Err(Error::config(format!(
                "a state of {:?} after {done} steps cannot go on: expected {shape:?} and at most {} steps",
                x_t.dims(),
                self.total
            )));
        }
        if done == 0 {
            return Ok(self);
        }
        check_finite(&x0, "the estimate to go on from")?;
        (self.estimate, self.done) = (x0, done);
        let mut left = done;
        while left > 0
            && let Some(stage) = self.waiting.next()
        {
            let steps = stage.schedule.len();
            if left < steps {
                self.running = Some(self.pass(stage, left, x_t)?);
                break;
            }
            left -= steps;
            self.noises += steps + 1;
        }
        Ok(self)
    }

    fn begin(&mut self, stage: Stage<'a>) -> Result<Chain<'a>> {
        let Stage { schedule, guidance, start, .. } = stage;
        let alpha_bar = schedule.alpha_bar(schedule.len() - 1);
        let noise = || self.inputs.noise.start(self.noises, &self.estimate);
        let x_t = match start {
            Start::Noise => noise()?,
            Start::Estimate => {
                self.estimate.clone().mul_scalar(alpha_bar.sqrt()) + noise()?.mul_scalar((1.0 - alpha_bar).sqrt())
            }
            Start::Observed => match guidance {
                Some(guidance) => guidance.start(alpha_bar, &noise()?)?,
                None => return Err(Error::config("a start that a guidance says needs a guidance")),
            },
            Start::Noisy => self.estimate.clone().mul_scalar(alpha_bar.sqrt()),
        };
        self.pass(stage, 0, x_t)
    }

    /// A stage from `x_t`, after `resume_at` of its steps.
    fn pass(&mut self, stage: Stage<'a>, resume_at: usize, x_t: Tensor<4>) -> Result<Chain<'a>> {
        let Stage { schedule, rule, guidance, .. } = stage;
        let inputs = Inputs { schedule, guidance, resume_at, noises_before: self.noises, ..self.inputs };
        self.noises += schedule.len() + 1;
        Ok(Chain::new(inputs, rule, x_t)?.after(self.estimate.clone()))
    }

    fn step(&mut self) -> Option<Result<Step>> {
        loop {
            if let Some(chain) = &mut self.running {
                match chain.next() {
                    Some(step) => return Some(step),
                    None => self.running = None,
                }
            }
            let stage = self.waiting.next()?;
            match self.begin(stage) {
                Ok(chain) => self.running = Some(chain),
                Err(e) => return Some(Err(e)),
            }
        }
    }
}

impl Iterator for Stages<'_> {
    type Item = Result<Step>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.step()? {
            Ok(step) => {
                self.estimate = step.x0.clone();
                self.done += 1;
                Some(Ok(Step { index: self.done - 1, total: self.total, ..step }))
            }
            Err(e) => {
                self.waiting = Vec::new().into_iter();
                self.running = None;
                Some(Err(e))
            }
        }
    }
}
