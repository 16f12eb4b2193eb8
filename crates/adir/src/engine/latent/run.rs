//! Carrying out a latent plan.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use super::super::event::{Event, Watch, report, warn};
use super::super::open::Engine;
use super::super::record::{Decibel, FileRecord, Seconds, write_json};
use super::super::report::{Findings, Judged};
use super::super::run::saved_again;
use super::super::states::{self, States};
use super::adapt::LatentAdaptationRecord;
use super::canvas::{cropped, like, prepared};
use super::parts::{LoadedUNet, Loader, Parts, Texts};
use super::plan::LatentPlan;
use super::record::LatentRecord;
use super::request::{LatentRequest, LatentTask, Region};
use crate::io::exact::Exact;
use crate::io::hash::ContentHash;
use crate::io::image::{BitDepth, Picture};
use crate::io::tally::counted;
use crate::latent::{Hole, LatentSampler, check_picture, inpainting, match_colours, super_resolution, upscaling};
use crate::models::stable_diffusion::Latents;
use crate::models::{Conditioning, Space, Tiled};
use crate::noise::Noise;
use crate::operator::{LinearOperator, Solve, bicubic_resize, least_damping, solve};
use crate::problem::Measurement;
use crate::sampler::{NoiseSource, initial_noise};
use crate::tensor::{self, DType, Isa, Tensor};
use crate::{Error, Result};

/// What a latent run made.
#[derive(Debug)]
pub struct LatentRestored {
    /// The results, each with noise of its own.
    pub results: Vec<Picture>,
    /// What was done.
    pub record: LatentRecord,
    states: Option<PathBuf>,
    /// The first result as its file has it.
    saved: Option<Tensor<4>>,
}

impl Engine {
    /// Carries out a plan. Writes no result; see [`LatentRestored::save`].
    ///
    /// # Errors
    /// [`Error::Interrupted`] when the watcher breaks; [`Error::Numerical`] for a value that is not finite, or a picture
    /// that is the same everywhere; [`Error::Model`] for weights that cannot be read.
    pub fn run_latent(&self, plan: &LatentPlan, watch: &Watch<'_>) -> Result<LatentRestored> {
        self.run_latent_with(plan, &mut Parts::default(), watch)
    }

    /// The same with the parts that runs of the same request for other images have left.
    pub(in super::super) fn run_latent_with(
        &self,
        plan: &LatentPlan,
        parts: &mut Parts,
        watch: &Watch<'_>,
    ) -> Result<LatentRestored> {
        let started = Instant::now();
        plan.warnings().into_iter().try_for_each(|message| warn(watch, message))?;
        if let [first, ..] = plan.stale.samples.as_slice() {
            let (count, first) = (counted(plan.stale.samples.len(), "result"), first.display());
            warn(watch, format!("left alone: {count} of an earlier run, from {first} on"))?;
        }
        let request = &plan.request;
        parts.make_room(plan);
        let mut loader = Loader { engine: self, plan, watch, parts };
        let Texts { asked, training } = loader.texts()?;
        let told = self.told(&mut loader, asked)?;
        let mut job = match request.adapt.as_ref().zip(training) {
            Some((adapt, told)) => {
                let hashes = loader.parts.hashes(&plan.files)?;
                Some(self.latent_job(plan, adapt, told, hashes, watch)?)
            }
            None => None,
        };
        let mut examples = None;
        if let Some(job) = job.as_mut().filter(|job| job.is_to_be_trained()) {
            examples = Some(self.latent_examples(plan, job, &loader.autoencoder()?, watch)?);
        }
        let LoadedUNet { prior: mut unet, id: model } = loader.unet()?;
        let adaptation = match job {
            Some(job) => {
                let (adapted, record) = self.latent_adapted(plan, job, examples.as_ref(), &unet, watch)?;
                unet = adapted.unwrap_or(unet);
                Some(record)
            }
            None => None,
        };
        drop(examples);
        let loaded = Instant::now();
        let states = States::new(self, Some(key(self, plan, &model, adaptation.as_ref())?), watch);
        let sampled: Result<Vec<Tensor<4>>> = {
            let tiled = Tiled::new(&unet, request.tile)?;
            let [with, without] = told;
            let with = with.ok_or_else(|| Error::config("nothing is told to the network"))?;
            let sampler = LatentSampler::new(&tiled, plan.files.facts(), request.sampling, with, without)?;
            (0..request.samples).map(|sample| one(plan, &sampler, sample, &states, watch)).collect()
        };
        if matches!(sampled, Err(Error::Interrupted)) {
            states.stopped()?;
        }
        drop(unet);
        let sampled = sampled?;
        let autoencoder = loader.autoencoder()?;
        let results: Vec<_> =
            sampled.iter().map(|latents| finished(self, plan, &autoencoder, latents)).collect::<Result<_>>()?;
        let done = Instant::now();
        let agreement = match (&plan.measurement, results.first()) {
            (Some(measurement), Some(first)) => Some(Decibel(measurement.agreement(&first.tensor)?)),
            _ => None,
        };
        let mut states = states.folder();
        if plan.outputs.is_none() {
            states::forget(states.take().as_deref());
        }
        let record = LatentRecord {
            schema: LatentRecord::SCHEMA,
            program: concat!("adir ", env!("CARGO_PKG_VERSION")).into(),
            latent: request.clone(),
            input: FileRecord { path: Some(request.input.clone()), sha256: plan.content },
            others: other_files(request)?,
            model,
            device: self.placement().0.to_owned(),
            dtype: self.placement().1.to_string(),
            samples: request.samples,
            seconds: Seconds {
                load_and_adapt: (loaded - started).as_secs_f64(),
                sample: (done - loaded).as_secs_f64(),
            },
            agreement_psnr: agreement,
            adaptation,
            instructions: Isa::active().to_string(),
            results: Vec::new(),
        };
        Ok(LatentRestored { results, record, states, saved: None })
    }

    /// What the network is told.
    fn told(&self, loader: &mut Loader<'_>, texts: [Option<Tensor<3>>; 2]) -> Result<[Option<Conditioning>; 2]> {
        let plan = loader.plan;
        let multiple = plan.files.unet().config().size_multiple();
        if let LatentTask::Upscale { noise_level, .. } = &plan.request.task {
            let small = prepared(&plan.picture, multiple);
            let (Some(level), Some(low_res)) = (*noise_level, plan.files.low_res()) else {
                return Ok([Some(super_resolution(small)?), None]);
            };
            // Apart from the noise of all steps of all results.
            let noise = noise(plan, 0).apart(0, &small)?;
            return upscaling(&small, &noise, low_res, level, texts);
        }
        let autoencoder = loader.autoencoder()?;
        let factor = autoencoder.net().config().factor();
        let image = prepared(&plan.picture, multiple * factor);
        let [_, _, height, width] = image.dims();
        let [_, _, h, w] = plan.picture.tensor.dims();
        let hole = plan.hole.as_deref().unwrap_or_default();
        let inside = |i: usize| {
            let (y, x) = (i / width, i % width);
            y < h && x < w && hole[y * w + x]
        };
        let hole = Hole { image, mask: (0..height * width).map(inside).collect() };
        inpainting(&hole, &autoencoder, None, texts)
    }
}

/// The noise of one result.
fn noise(plan: &LatentPlan, sample: usize) -> Noise {
    Noise::of_sample(plan.request.seed, sample)
}

/// The files that a request names besides the image and the model: a mask, and factors.
///
/// # Errors
/// [`Error::Io`] or [`Error::Input`] for one that cannot be read.
pub(in super::super) fn other_files(request: &LatentRequest) -> Result<Vec<FileRecord>> {
    let mask = match &request.task {
        LatentTask::Edit { region: Region::Mask(path) } => Some(path),
        _ => None,
    };
    let record = |path: &PathBuf| Ok(FileRecord { path: Some(path.clone()), sha256: ContentHash::of_file(path)? });
    mask.into_iter().chain(&request.lora).map(record).collect()
}

/// By what the state of a run is found again: all that decides its bytes.
fn key(engine: &Engine, plan: &LatentPlan, model: &str, adaptation: Option<&LatentAdaptationRecord>) -> Result<String> {
    let request = LatentRequest { output: None, ..plan.request.clone() };
    let others: Vec<_> = other_files(&plan.request)?.into_iter().map(|file| file.sha256).collect();
    let adapter = adaptation.map(|done| (&done.key, done.used));
    let what = (request, plan.content, others, model, engine.placement().1.to_string(), adapter);
    let text = serde_json::to_string(&what);
    let text = text.map_err(|e| Error::config(format!("the request cannot be written: {e}")))?;
    Ok(crate::io::hash::sha256(text.as_bytes()).to_string())
}

/// The latents of one result, from where an interrupted run had come.
fn one(
    plan: &LatentPlan,
    sampler: &LatentSampler<'_>,
    sample: usize,
    states: &States<'_>,
    watch: &Watch<'_>,
) -> Result<Tensor<4>> {
    let (noise, samples, steps) = (noise(plan, sample), plan.request.samples, plan.request.sampling.steps);
    let [height, width] = plan.latents;
    let channels = plan.files.unet().config().out_channels;
    let start = initial_noise(&noise, [1, channels, height, width], &tensor::cpu(), DType::F32);
    let (chain, mut last) = match states.reached(sample)? {
        Some(reached) => {
            report(watch, &Event::Resumed { sample, samples, step: reached.done, steps })?;
            let x_t = reached.x_t.clone();
            (sampler.resumed(&noise, reached.x_t, Some((reached.done, reached.x0)))?, x_t)
        }
        None => (sampler.steps(&noise, start.clone())?, start),
    };
    for step in chain {
        let step = step?;
        states.note(sample, (&step).into())?;
        let event = Event::Sampling {
            sample,
            samples,
            step: step.index + 1,
            steps: step.total,
            timestep: step.timestep.0,
            residual_255: None,
            estimate: None,
        };
        report(watch, &event)?;
        last = step.x_t;
    }
    Ok(last)
}

/// The picture of latents.
fn finished(engine: &Engine, plan: &LatentPlan, autoencoder: &Latents, latents: &Tensor<4>) -> Result<Picture> {
    let decoded = autoencoder.decode(latents)?;
    check_picture(&decoded)?;
    let picture = &plan.picture;
    let (LatentTask::Upscale { agree, colours, .. }, Some(measurement)) = (&plan.request.task, &plan.measurement)
    else {
        let made = cropped(picture, decoded, 1);
        let hole = plan.hole.as_deref().unwrap_or_default();
        let mut edited = like(picture, composed(&picture.tensor, &made, hole)?, 1)?;
        if picture.bit_depth == BitDepth::Float {
            let LatentRequest { input, reading, .. } = &plan.request;
            let kept = hole.iter().map(|hole| !hole).collect();
            edited.exact = Some(Arc::new(Exact::read(input, reading, &engine.limits, kept)?));
        }
        return Ok(edited);
    };
    let mut x = cropped(picture, decoded, 4);
    if *colours {
        let [_, _, h, w] = x.dims();
        x = match_colours(&x, &bicubic_resize(&picture.tensor, h, w)?)?.clamp(-1.0, 1.0);
    }
    if *agree {
        x = agreeing(measurement, &x)?;
    }
    like(picture, x, 4)
}

/// `original` with the values of `made` in the hole: what is outside stays as it is to the bit.
fn composed(original: &Tensor<4>, made: &Tensor<4>, hole: &[bool]) -> Result<Tensor<4>> {
    let shape = original.dims();
    let (mut values, made) = (tensor::to_f32(original)?, tensor::to_f32(made)?);
    for (i, (value, made)) in values.iter_mut().zip(made).enumerate() {
        if hole[i % hole.len().max(1)] {
            *value = made;
        }
    }
    Ok(tensor::from_f32(values, shape, &tensor::cpu()))
}

/// x + A^+ (y - A x): the nearest image that agrees with y.
fn agreeing(measurement: &Measurement, x: &Tensor<4>) -> Result<Tensor<4>> {
    let operator: &dyn LinearOperator = measurement.on_result().as_ref();
    let left = measurement.y().clone() - operator.apply(x)?;
    let inverse = solve(operator, 1.0, least_damping(operator), &left, &Solve::default())?;
    Ok(x.clone() + operator.adjoint(&inverse)?.cast(x.dtype()))
}

impl LatentRestored {
    /// Writes the files that the plan was asked for. The agreement in the record is that of the first image as it is read
    /// again.
    ///
    /// # Errors
    /// [`Error::Config`] when the request named no output; [`Error::Io`] where the system refuses.
    pub fn save(&mut self, engine: &Engine, plan: &LatentPlan) -> Result<()> {
        let (Some(outputs), Some(asked)) = (&plan.outputs, &plan.request.output) else {
            return Err(Error::config("the request names no output"));
        };
        outputs.check_free(asked.overwrite)?;
        for (path, picture) in outputs.pictures().zip(&self.results) {
            picture.write(path)?;
        }
        if let (Some(measurement), Some(path), Some(first)) =
            (&plan.measurement, outputs.pictures().next(), self.results.first())
        {
            let saved = saved_again(first, path, &engine.limits)?;
            self.record.agreement_psnr = Some(Decibel(measurement.agreement(&saved)?));
            self.saved = Some(saved);
        }
        self.record.results = outputs.written()?;
        outputs.check_record()?;
        write_json(&outputs.record, &self.record)?;
        states::forget(self.states.take().as_deref());
        Ok(())
    }

    /// How far A x is from y, A being bicubic scaling: of the first result of an upscaling, as it was saved.
    ///
    /// # Errors
    /// As [`super::super::Restored::findings`].
    pub fn findings(&self, plan: &LatentPlan) -> Result<Option<Findings>> {
        let (Some(measurement), Some(first), Some(saved)) = (&plan.measurement, self.results.first(), &self.saved)
        else {
            return Ok(None);
        };
        let judged = Judged { saved, computed: &first.tensor, bounds: first.bounds(), steps: None };
        Findings::of(measurement, judged).map(Some)
    }
}
