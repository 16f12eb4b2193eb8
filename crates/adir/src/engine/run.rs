//! Carrying out a plan.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::deviation::Deviation;
use super::event::{Estimate, Event, Watch, report, warn};
use super::extent::Extent;
use super::open::Engine;
use super::outputs::Outputs;
use super::plan::Plan;
use super::record::{AdaptationRecord, Decibel, FileRecord, ModelRecord, Record, Seconds};
use super::report::{Findings, Judged};
use super::request::{Observation, Request};
use super::states::{self, States};
use crate::compute::Workers;
use crate::io::image::{Picture, Reading, read_image_as};
use crate::io::limits::Limits;
use crate::io::tally::counted;
use crate::models::{Denoiser, Prior, Space};
use crate::problem::{MaskSource, Sigma};
use crate::restore::RestorePlan;
use crate::retrieve::ContentHash;
use crate::tensor::{Isa, Tensor};
use crate::{Error, Result};

/// What a run made.
#[derive(Debug, Clone)]
pub struct Restored {
    /// The result: the mean of the samples.
    pub mean: Picture,
    /// The samples, where there are several.
    pub samples: Vec<Picture>,
    /// Where they differ, where there are several.
    pub deviation: Option<Deviation>,
    /// What was done.
    pub record: Record,
    restore: Arc<RestorePlan>,
    outputs: Option<Outputs>,
    overwrite: bool,
    /// The result as it was read again from its file.
    saved: Option<Tensor<4>>,
    /// The states of the samples, until the results are in their files.
    states: Option<PathBuf>,
}

impl Engine {
    /// Carries out a plan: adapts the prior if asked to, and samples. Writes no result; see [`Restored::save`].
    ///
    /// # Errors
    /// [`Error::Interrupted`] when the watcher breaks; [`Error::Numerical`] when a value is not finite; as
    /// [`Engine::prior`] and [`Engine::adapt`].
    pub fn run(&self, plan: &Plan, watch: &Watch<'_>) -> Result<Restored> {
        let started = Instant::now();
        plan.warnings().iter().try_for_each(|message| warn(watch, message))?;
        if let [first, ..] = plan.stale() {
            let (count, first) = (counted(plan.stale().len(), "sample"), first.display());
            warn(watch, format!("left alone: {count} of an earlier run, from {first} on"))?;
        }
        for map in plan.stale_maps() {
            warn(watch, format!("{}: this map of an earlier run is left as it is", map.display()))?;
        }
        let base = self.prior(watch)?;
        let (prior, adaptation) = match &plan.adapt {
            None => (base.clone(), None),
            Some(adapt) => {
                let (prior, record) = self.adapted(&base, adapt, &plan.observed(), plan, watch)?;
                (prior, Some(record))
            }
        };
        let loaded = Instant::now();
        let problem = &plan.request.problem;
        let (mask, ignore) = (mask_record(problem.mask.as_ref())?, mask_record(problem.ignore.as_ref())?);
        let masks = [&mask, &ignore].map(|mask| mask.as_ref().map(|mask| mask.sha256));
        let states = States::new(self, states::key(self, plan, &base, masks, adaptation.as_ref())?, watch);
        let (samples, mean) = self.sample(plan, &prior, &states, watch)?;
        let sampled = Instant::now();
        let agreement = plan.restore.measurement().agreement(&mean)?;
        let samples = if samples.len() > 1 { samples } else { Vec::new() };
        let deviation = match samples.len() {
            0 => None,
            _ => Some(Deviation::of(&samples, &mean, plan.depth())?),
        };
        let samples = samples.into_iter().map(|x| picture(plan, x)).collect::<Result<_>>()?;
        let (request, sampling) = (&plan.request, &plan.request.sampling);
        let measurement = plan.restore.measurement();
        let can_be_written = matches!(request.input, Observation::File(_))
            && measurement.degradation().is_some()
            && request.guidance.is_none()
            && !has_pixels(plan);
        let record = Record {
            schema: Record::SCHEMA,
            program: concat!("adir ", env!("CARGO_PKG_VERSION")).into(),
            request: can_be_written.then(|| repeatable(plan, adaptation.as_ref())),
            input: FileRecord { path: plan.file.clone(), sha256: plan.content },
            model: ModelRecord {
                name: self.model_name(),
                sha256: base.id()?.to_string(),
                config: base.config().cloned(),
            },
            device: self.placement().0.to_owned(),
            dtype: self.placement().1.to_string(),
            task: measurement.task(),
            degradation: measurement.degradation().cloned(),
            sigma: measurement.sigma_255(),
            gain: request.problem.gain,
            mask,
            ignore,
            seed: sampling.seed,
            samples: sampling.samples,
            class: sampling.class,
            settings: plan.restore.settings().clone(),
            sources: plan.restore.choices().to_vec(),
            warnings: measurement.warnings().to_vec(),
            adaptation,
            seconds: Seconds {
                load_and_adapt: (loaded - started).as_secs_f64(),
                sample: (sampled - loaded).as_secs_f64(),
            },
            agreement_psnr: Decibel(agreement),
            instructions: Some(Isa::active().to_string()),
            results: Vec::new(),
            deviation: deviation.as_ref().map(|deviation| deviation.record),
        };
        let (restore, outputs, mut states) = (plan.restore.clone(), plan.outputs.clone(), states.folder());
        let mean = picture(plan, mean)?;
        if outputs.is_none() {
            states::forget(states.take().as_deref());
        }
        let overwrite = plan.request.output.as_ref().is_some_and(|output| output.overwrite);
        Ok(Restored { mean, samples, deviation, record, restore, outputs, overwrite, saved: None, states })
    }

    /// A sample of the plan with the prior as it is, by which a gallery is searched.
    pub(super) fn first_restoration(&self, plan: &Plan, prior: &Prior, watch: &Watch<'_>) -> Result<Tensor<4>> {
        let problem = &plan.request.problem;
        let masks = [mask_record(problem.mask.as_ref())?, mask_record(problem.ignore.as_ref())?];
        let masks = masks.map(|mask| mask.map(|mask| mask.sha256));
        let states = States::new(self, states::key(self, plan, prior, masks, None)?, watch);
        let denoiser = plan.extent.denoiser(prior)?;
        let (plan, space) = (&plan.restore, prior.space());
        let found = Sampling { plan, denoiser: &denoiser, space, count: 1, states: &states, watch }.sample(0);
        if matches!(found, Err(Error::Interrupted)) {
            states.stopped()?;
        }
        let found = found?;
        states::forget(states.folder().as_deref());
        Ok(found)
    }

    /// The samples and their mean, `[1, c, h, w]` in about [-1, 1].
    fn sample(
        &self,
        plan: &Plan,
        prior: &Prior,
        states: &States<'_>,
        watch: &Watch<'_>,
    ) -> Result<(Vec<Tensor<4>>, Tensor<4>)> {
        let count = plan.request.sampling.samples;
        let denoiser = plan.extent.denoiser(prior)?;
        let sampling =
            Sampling { plan: &plan.restore, denoiser: &denoiser, space: prior.space(), count, states, watch };
        let task = |sample: usize| sampling.sample(sample);
        let results = match plan.extent {
            Extent { tile: None, at_once, .. } if at_once > 1 => Workers::new()?.map(count, task),
            _ => (0..count).map(task).collect::<Result<Vec<_>>>(),
        };
        if matches!(results, Err(Error::Interrupted)) {
            states.stopped()?;
        }
        let results = results?;
        let mean = results.iter().skip(1).fold(results[0].clone(), |sum, x| sum + x.clone()) / count as f64;
        Ok((results, mean))
    }
}

/// The request with the number of training steps that its minutes became, the noise that was estimated, and the tiles.
fn repeatable(plan: &Plan, adaptation: Option<&AdaptationRecord>) -> Request {
    let mut request = plan.request.clone();
    request.problem.sigma = Some(Sigma::Levels(plan.restore.measurement().sigma_255()));
    let canvas = plan.restore.canvas();
    request.sampling.tile = Some(plan.extent.tile.unwrap_or(canvas.height.max(canvas.width)));
    if let (Some(adapt), Some(done)) = (&mut request.adapt, adaptation)
        && adapt.overrides.minutes.take().is_some()
    {
        adapt.overrides.iterations = Some(done.settings.iterations);
    }
    request
}

fn has_pixels(plan: &Plan) -> bool {
    let problem = &plan.request.problem;
    [&problem.mask, &problem.ignore].iter().any(|mask| matches!(mask, Some(MaskSource::Pixels(_))))
}

/// The file of a mask, where it is one.
fn mask_record(mask: Option<&MaskSource>) -> Result<Option<FileRecord>> {
    Ok(match mask {
        Some(MaskSource::File(path)) => {
            Some(FileRecord { path: Some(path.clone()), sha256: ContentHash::of_file(path)? })
        }
        _ => None,
    })
}

/// What the samples of a run have in common.
struct Sampling<'a> {
    plan: &'a Arc<RestorePlan>,
    denoiser: &'a dyn Denoiser,
    space: &'a Arc<dyn Space>,
    count: usize,
    states: &'a States<'a>,
    watch: &'a Watch<'a>,
}

impl Sampling<'_> {
    /// One sample, from where an interrupted run had come.
    fn sample(&self, sample: usize) -> Result<Tensor<4>> {
        let &Self { plan, denoiser, space, count: samples, states, watch } = self;
        let noise = plan.noise(sample);
        let (mut sampler, mut last) = (plan.sampler(denoiser, space.as_ref(), &noise)?, None);
        if let Some(reached) = states.reached(sample)? {
            let (step, steps) = (reached.done, plan.steps());
            last = Some(reached.x_t.clone());
            sampler = sampler.resume(reached)?;
            report(watch, &Event::Resumed { sample, samples, step, steps })?;
        }
        for step in sampler {
            let step = step?;
            states.note(sample, (&step).into())?;
            let event = Event::Sampling {
                sample,
                samples,
                step: step.index + 1,
                steps: step.total,
                timestep: step.timestep.0,
                residual_255: step.residual_rms.map(|rms| rms * 127.5),
                estimate: Some(Estimate { plan: plan.clone(), space: space.clone(), x0: step.x0 }),
            };
            report(watch, &event)?;
            last = Some(step.x_t);
        }
        let last = last.ok_or_else(|| Error::config("no sampling steps"))?;
        plan.finish(space.as_ref(), &last)
    }
}

/// A result as a picture: stored like the observation, with its metadata, and its alpha brought to size.
fn picture(plan: &Plan, x: Tensor<4>) -> Result<Picture> {
    let source = &plan.picture;
    let [_, _, height, width] = x.dims();
    let mut alpha = source.alpha_for(height, width, plan.scale())?;
    // A hole may have been cut out of alpha, too.
    if let (Some(alpha), Some(mask)) = (&mut alpha, plan.restore.measurement().mask())
        && mask.known().len() == alpha.len()
    {
        Picture::alpha_from_known(alpha, mask.known(), width);
    }
    let metadata = plan.metadata();
    let bit_depth = plan.depth();
    let scale = source.scale.filter(|_| bit_depth == source.bit_depth);
    let (associated_alpha, format) = (source.associated_alpha, source.format);
    let (observed, pages, warnings) = (None, 1, Vec::new());
    Ok(Picture {
        tensor: x,
        alpha,
        associated_alpha,
        observed,
        metadata,
        bit_depth,
        scale,
        format,
        pages,
        warnings,
        exact: None,
    })
}

impl Restored {
    /// The files to write, if any.
    pub fn outputs(&self) -> Option<&Outputs> {
        self.outputs.as_ref()
    }

    /// Writes the files that the request asked for. What was saved is what is judged: the agreement in the record is that
    /// of the image as it is read again.
    ///
    /// # Errors
    /// [`Error::Config`] when the request named no output; [`Error::Io`] where the system refuses.
    pub fn save(&mut self, engine: &Engine) -> Result<()> {
        let Some(outputs) = self.outputs.clone() else {
            return Err(Error::config("the request names no output"));
        };
        outputs.check_free(self.overwrite)?;
        let mut new = Vec::new();
        let saved = self.save_as(&outputs, engine, &mut new);
        if saved.is_err() {
            // The same command goes on once there is space again.
            new.iter().for_each(|path| drop(std::fs::remove_file(path)));
        }
        saved
    }

    /// Lists the pictures that it has written and that replace nothing in `new`.
    fn save_as(&mut self, outputs: &Outputs, engine: &Engine, new: &mut Vec<PathBuf>) -> Result<()> {
        let mut write = |picture: &Picture, path: &Path| -> Result<()> {
            let replaces = path.symlink_metadata().is_ok();
            picture.write(path)?;
            new.extend((!replaces).then(|| path.to_owned()));
            Ok(())
        };
        for (path, sample) in outputs.samples.iter().zip(&self.samples) {
            write(sample, path)?;
        }
        if let (Some(files), Some(deviation)) = (&outputs.deviation, &self.deviation) {
            write(&deviation.map, &files.map)?;
            write(&deviation.heat, &files.heat)?;
        }
        write(&self.mean, &outputs.image)?;
        self.judge(&outputs.image, engine)?;
        self.record.results = outputs.written()?;
        outputs.check_record()?;
        self.record.write(&outputs.record)?;
        states::forget(self.states.take().as_deref());
        Ok(())
    }

    fn judge(&mut self, image: &Path, engine: &Engine) -> Result<()> {
        let saved = saved_again(&self.mean, image, engine.limits())?;
        self.record.agreement_psnr = Decibel(self.restore.measurement().agreement(&saved)?);
        self.saved = Some(saved);
        Ok(())
    }

    /// What the numbers say of the result: as it was saved, if it was, else as it was computed.
    ///
    /// # Errors
    /// [`Error::Numerical`] when a value is not finite; those of the operator.
    pub fn findings(&self) -> Result<Findings> {
        let (computed, steps) = (&self.mean.tensor, Some(self.restore.steps()));
        let judged = match &self.saved {
            Some(saved) => Judged { saved, computed, bounds: self.mean.bounds(), steps },
            None => Judged { saved: computed, computed, bounds: None, steps },
        };
        Findings::of(self.restore.measurement(), judged)
    }
}

/// The values of a picture as they are read from the file that it was written to.
pub(super) fn saved_again(picture: &Picture, file: &Path, limits: &Limits) -> Result<Tensor<4>> {
    let reading = Reading::scaled(picture.scale.unwrap_or(picture.bit_depth.scale()));
    let saved = read_image_as(file, &reading, limits)?.tensor;
    // A format without grey stores it in each channel.
    let channels = picture.tensor.dims()[1].min(saved.dims()[1]);
    Ok(saved.narrow(1, 0, channels))
}
