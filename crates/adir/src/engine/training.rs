//! A training that reports its steps, keeps its state in a file and goes on from there.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::event::{Event, Watch, report, warn};
use super::states::pause;
use crate::adapt::{AdaptStep, Adaptation};
use crate::io::weights::WeightFile;
use crate::latent::LatentAdaptation;
use crate::{Error, Result};

/// How often the state of a training that is kept for good is written.
const STATE_EVERY: Duration = Duration::from_secs(120);

/// Where a training that can go on keeps its state.
pub(super) enum StateFile<'a> {
    /// In that file, for good: a larger budget goes on from it.
    At(&'a Path),
    /// In the cache, for good.
    InCache,
    /// In the cache, until the training ends.
    WhileTraining,
}

/// What is trained step by step, and can be written and read between two steps.
pub(super) trait Run {
    /// Steps that are timed to find how many take some minutes, after as many that are not.
    const TIMED: u32;

    /// The next step, if one is left.
    fn take(&mut self) -> Option<Result<AdaptStep>>;
    /// The largest number of steps it takes.
    fn all(&self) -> u32;
    /// See [`Adaptation::set_budget`].
    fn give(&mut self, iterations: u32);
    /// See [`Adaptation::budget_within`].
    fn within(&self, steps: f64, measurement: f64) -> u32;
    /// Time of a step in that of one of the first.
    fn dearest(&self) -> f64 {
        1.0
    }
    /// Steps that may not be taken back.
    fn reached(&self) -> u32;
    /// Measures the loss before the first step.
    fn begin(&mut self) -> Result<()>;
    /// Whether the next step ends with a measurement, and says nothing of the time of others.
    fn is_measured(&self) -> bool;
    /// See [`Adaptation::is_last_before_end`].
    fn is_last(&self) -> bool;
    /// See [`Adaptation::can_go_on`].
    fn continues(&self) -> bool;
    /// See [`Adaptation::save`].
    fn write(&self, path: &Path, of: &str) -> Result<()>;
    /// See [`Adaptation::resume`].
    fn read(&mut self, file: &WeightFile, of: &str) -> Result<()>;
}

impl Run for Adaptation {
    const TIMED: u32 = 8;

    fn take(&mut self) -> Option<Result<AdaptStep>> {
        self.next()
    }
    fn all(&self) -> u32 {
        self.total()
    }
    fn give(&mut self, iterations: u32) {
        self.set_budget(iterations);
    }
    fn within(&self, steps: f64, measurement: f64) -> u32 {
        self.budget_within(steps, measurement)
    }
    fn dearest(&self) -> f64 {
        self.dearest_step()
    }
    fn reached(&self) -> u32 {
        self.budget_reached()
    }
    fn begin(&mut self) -> Result<()> {
        self.measure_before()
    }
    fn is_measured(&self) -> bool {
        self.is_measured_next()
    }
    fn is_last(&self) -> bool {
        self.is_last_before_end()
    }
    fn continues(&self) -> bool {
        self.can_go_on()
    }
    fn write(&self, path: &Path, of: &str) -> Result<()> {
        self.save(path, of)
    }
    fn read(&mut self, file: &WeightFile, of: &str) -> Result<()> {
        self.resume(file, of)
    }
}

/// Its steps take seconds to minutes, and do not depend on how many follow.
impl Run for LatentAdaptation<'_> {
    const TIMED: u32 = 2;

    fn take(&mut self) -> Option<Result<AdaptStep>> {
        (self.taken() < self.total()).then(|| self.step())
    }
    fn all(&self) -> u32 {
        self.total()
    }
    fn give(&mut self, iterations: u32) {
        self.set_budget(iterations);
    }
    fn within(&self, steps: f64, measurement: f64) -> u32 {
        self.budget_within(steps, measurement)
    }
    fn reached(&self) -> u32 {
        self.taken()
    }
    fn begin(&mut self) -> Result<()> {
        self.measure_before()
    }
    fn is_measured(&self) -> bool {
        false
    }
    fn is_last(&self) -> bool {
        false
    }
    fn continues(&self) -> bool {
        true
    }
    fn write(&self, path: &Path, of: &str) -> Result<()> {
        self.save(path, of)
    }
    fn read(&mut self, file: &WeightFile, of: &str) -> Result<()> {
        self.resume(file, of)
    }
}

/// A training, what is reported of it, and its state in a file.
pub(super) struct Training<'a, R = Adaptation> {
    pub run: R,
    /// What the state belongs to.
    pub of: String,
    pub state: Option<PathBuf>,
    /// Whether the file is one of the cache, which the training can do without.
    pub state_is_cached: bool,
    /// Whether it is removed when the training ends.
    pub passes: bool,
    /// How often one that is removed is written.
    pub every: Duration,
    pub watch: &'a Watch<'a>,
}

impl<R: Run> Training<'_, R> {
    /// Goes on from the state, if there is one.
    pub fn resume(&mut self) -> Result<()> {
        let Some(path) = self.state.as_ref().filter(|path| path.is_file()) else { return Ok(()) };
        let resumed = WeightFile::open(path).map_err(Error::from).and_then(|file| self.run.read(&file, &self.of));
        match resumed {
            Err(e) if self.state_is_cached => warn(self.watch, format!("the training begins anew: {e}")),
            resumed => resumed,
        }
    }

    /// Writes the state, if it is written anywhere. A cache that refuses costs no training.
    fn save(&mut self) -> Result<()> {
        let Some(path) = &self.state else { return Ok(()) };
        match self.run.write(path, &self.of) {
            Err(e) if self.state_is_cached => {
                self.state = None;
                warn(self.watch, format!("the state of the training is not kept: {e}"))
            }
            saved => saved,
        }
    }

    /// A step, reported; `total` is that of the report.
    fn step(&mut self, total: u32) -> Result<bool> {
        let Some(step) = self.run.take() else { return Ok(false) };
        let step = step?;
        let (timestep, loss) = (step.timestep.0, step.loss);
        report(self.watch, &Event::Adapting { step: step.step, total, timestep, loss })?;
        if let Some(measured) = step.measured {
            report(self.watch, &Event::Measured { measured })?;
        }
        Ok(true)
    }

    /// How many steps take that long, from the time of the next few.
    pub fn steps_in(&mut self, time: Duration) -> Result<u32> {
        let whole_budget = self.run.within(f64::MAX, 1.0);
        self.run.give(whole_budget);
        let started = Instant::now();
        self.run.begin()?;
        let measurement = started.elapsed().as_secs_f64();
        let mut steps = Vec::new();
        for _ in 0..2 * R::TIMED {
            let started = Instant::now();
            let measured_next = self.run.is_measured();
            if !self.step(2 * R::TIMED)? {
                break;
            }
            // A step with a measurement says nothing.
            if !measured_next {
                steps.push(started.elapsed().as_secs_f64());
            }
        }
        // The first steps allocate what the later ones reuse.
        let timed = &steps[steps.len() / 2..];
        let step = self.run.dearest() * timed.iter().sum::<f64>() / timed.len().max(1) as f64;
        let budget = self.run.within(time.as_secs_f64() / step.max(1e-6), measurement / step.max(1e-6));
        // What an earlier run has done already is not taken back.
        Ok(budget.max(self.run.reached()))
    }

    /// All steps that are left.
    pub fn finish(&mut self) -> Result<()> {
        let (mut saved, mut every) = (Instant::now(), if self.passes { self.every } else { STATE_EVERY });
        loop {
            let total = self.run.all();
            if self.run.is_last() && !self.passes {
                self.save()?;
            }
            let more = self.step(total);
            let stopped = matches!(more, Err(Error::Interrupted));
            let last = matches!(more, Ok(false)) && !self.passes;
            if (stopped || last || saved.elapsed() > every) && self.run.continues() {
                let started = Instant::now();
                self.save()?;
                saved = Instant::now();
                if self.passes {
                    every = pause(self.every, saved - started);
                }
                if stopped && let Some(path) = &self.state {
                    report(self.watch, &Event::Kept { path: path.to_string_lossy().into_owned() })?;
                }
            }
            if !more? {
                return Ok(());
            }
        }
    }
}
