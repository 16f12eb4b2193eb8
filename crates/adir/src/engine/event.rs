//! What a run reports while it works.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use serde::Serialize;

use super::by_y::ByY;
use super::folder::FileOutcome;
use crate::adapt::{HeldOut, Measured};
use crate::io::image::Picture;
use crate::io::tally::counted;
use crate::models::Space;
use crate::restore::RestorePlan;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Takes events, on any of the threads that compute, and answers whether to go on.
///
/// After [`ControlFlow::Break`] the run ends with [`Error::Interrupted`] as soon as its current step is done. An engine with
/// a cache keeps the state of the step first, and says so by [`Event::Kept`].
pub type Watch<'a> = dyn Fn(&Event) -> ControlFlow<()> + Sync + 'a;

/// Something that happened in a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// Weights are about to be read.
    Loading {
        /// Their file, or `embedded prior`.
        name: String,
    },
    /// A file of a gallery was looked at.
    Indexing {
        /// Files looked at so far.
        done: usize,
        /// Files in all.
        total: usize,
        /// The file's path below the gallery's folder.
        path: String,
    },
    /// The nearest images of an observation were found.
    Searching {
        /// Observations so far.
        done: usize,
        /// Observations in all.
        total: usize,
    },
    /// Crops of an image to adapt a latent diffusion model to were encoded.
    Encoding {
        /// Images so far.
        done: usize,
        /// Images in all.
        total: usize,
    },
    /// A file of a folder is about to be planned.
    Checking {
        /// Its number, from 1.
        done: usize,
        /// Files in all.
        total: usize,
        /// Its path below the folder.
        path: String,
    },
    /// A file of a folder is about to be restored.
    File {
        /// Its number among those to restore, from 1.
        number: usize,
        /// Files to restore.
        total: usize,
        /// Its path below the folder.
        path: String,
        /// The time that it and the following ones will take, by that of those before.
        seconds_left: Option<f64>,
    },
    /// A file of a folder was restored, or could not be.
    FileDone {
        /// Files looked at so far.
        done: usize,
        /// Files to restore.
        total: usize,
        /// Its path below the folder.
        path: String,
        /// What became of it.
        #[serde(flatten)]
        outcome: FileOutcome,
        /// The time that the following ones will take.
        seconds_left: f64,
    },
    /// Something was left out or done another way than asked; the run goes on.
    Warning {
        /// What, and why.
        message: String,
    },
    /// A training step of an adaptation was taken.
    Adapting {
        /// Steps taken so far.
        step: u32,
        /// Steps in all.
        total: u32,
        /// Timestep of the first image of the batch.
        timestep: u16,
        /// l_simple (Eq. 6).
        loss: f64,
    },
    /// The held-out loss of an adaptation was measured.
    Measured {
        /// What was trained, for how many steps, and the loss.
        #[serde(flatten)]
        measured: Measured,
    },
    /// An adaptation is at hand.
    Adapted {
        /// Whether it was in the cache.
        from_cache: bool,
        /// What held-out images say of it.
        outcome: Option<HeldOut>,
        /// What y says of it, where it was asked.
        by_y: Option<ByY>,
        /// Whether its weights are used.
        used: bool,
    },
    /// A sample goes on from where an interrupted run had come.
    Resumed {
        /// Which sample, counted from 0.
        sample: usize,
        /// Samples in all.
        samples: usize,
        /// Steps of this sample taken already.
        step: usize,
        /// Steps per sample.
        steps: usize,
    },
    /// The run stops, as the watcher has asked, and the same request will go on from here.
    Kept {
        /// Where its state is.
        path: String,
    },
    /// A sampling step was taken.
    Sampling {
        /// Which sample, counted from 0.
        sample: usize,
        /// Samples in all.
        samples: usize,
        /// Steps of this sample taken so far.
        step: usize,
        /// Steps per sample.
        steps: usize,
        /// What the network was given.
        timestep: u16,
        /// Root mean square of A x0 - y before the correction, in grey levels of 0..255; absent without guidance.
        residual_255: Option<f64>,
        /// What the result looks like so far; absent in latent diffusion. It is not part of the JSON form.
        #[serde(skip)]
        estimate: Option<Estimate>,
    },
}

/// The x0 of a sampling step (Eq. 14). It is made a picture only where somebody asks for it.
#[derive(Clone)]
pub struct Estimate {
    pub(super) plan: Arc<RestorePlan>,
    pub(super) space: Arc<dyn Space>,
    pub(super) x0: Tensor<4>,
}

impl Estimate {
    /// The picture, of the result's size, as 8 bits.
    ///
    /// # Errors
    /// As [`RestorePlan::finish`].
    pub fn picture(&self) -> Result<Picture> {
        self.plan.finish(self.space.as_ref(), &self.x0).map(Picture::from_tensor)
    }
}

impl fmt::Debug for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an estimate of {:?}", self.x0.dims())
    }
}

/// Of steps that are alike otherwise, estimates are alike: a step is a function of its number.
impl PartialEq for Estimate {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.plan, &other.plan)
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loading { name } => write!(f, "loading {name}"),
            Self::Indexing { done, total, path } => write!(f, "indexing {done}/{total}: {path}"),
            Self::Encoding { done, total } => write!(f, "encoding crops {done}/{total}"),
            Self::Searching { done, total } => write!(f, "finding neighbours {done}/{total}"),
            Self::Checking { done, total, path } => write!(f, "checking {done}/{total}: {path}"),
            Self::File { number, total, path, .. } => write!(f, "file {number}/{total}: {path}"),
            Self::FileDone { done, total, path, outcome, .. } => {
                write!(f, "{done}/{total}: {path}: ")?;
                match outcome {
                    FileOutcome::Restored { output, seconds, agreement_psnr, .. } => {
                        write!(f, "{output}: {seconds:.1} s, agrees with the observation to {agreement_psnr}")
                    }
                    FileOutcome::Finished => f.write_str("finished already"),
                    FileOutcome::Failed { error } => write!(f, "failed: {error}"),
                }
            }
            Self::Warning { message } => write!(f, "warning: {message}"),
            Self::Adapting { step, total, loss, .. } => write!(f, "adapting {step}/{total}: loss {loss:.4}"),
            Self::Measured { measured: Measured { trained, point, before } } => {
                let change = 100.0 * (point.loss / before - 1.0);
                let steps = counted(point.step as usize, "step");
                write!(f, "adapting {trained}, {steps}: held-out loss {:.5}, {change:+.1} %", point.loss)
            }
            Self::Adapted { from_cache, outcome, by_y, used } => {
                f.write_str("adaptation: ")?;
                if *from_cache {
                    f.write_str("found in the cache, nothing was trained: ")?;
                }
                if let Some(outcome) = outcome {
                    write!(f, "{outcome}: ")?;
                }
                if let Some(by_y) = by_y {
                    write!(f, "{by_y}: ")?;
                }
                f.write_str(if *used { "used" } else { "not used" })
            }
            Self::Resumed { sample, samples, step, steps } => {
                write!(f, "sample {}/{samples} goes on after step {step}/{steps}", sample + 1)
            }
            Self::Kept { path } => write!(f, "the state is kept in {path}"),
            Self::Sampling { sample, samples, step, steps, residual_255, .. } => {
                write!(f, "sample {}/{samples}, step {step}/{steps}", sample + 1)?;
                residual_255.map_or(Ok(()), |residual| write!(f, ": residual {residual:.2}"))
            }
        }
    }
}

/// Reports an event.
///
/// # Errors
/// [`Error::Interrupted`] when the watcher breaks.
pub(super) fn report(watch: &Watch<'_>, event: &Event) -> Result<()> {
    match watch(event) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Interrupted),
    }
}

/// Reports a warning.
pub(super) fn warn(watch: &Watch<'_>, message: impl Into<String>) -> Result<()> {
    report(watch, &Event::Warning { message: message.into() })
}
