//! Adapting the U-Net of a latent diffusion model to the nearest images of a gallery.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::adapt::Observed;
use super::super::event::{Event, Watch, report, warn};
use super::super::open::Engine;
use super::super::record::ImageRecord;
use super::super::request::{Adapt, Target};
use super::super::sources::Source;
use super::super::training::Training;
use super::plan::LatentPlan;
use super::request::{LatentAdapt, LatentTask};
use crate::adapt::Adapter;
use crate::compute::WeightPrecision;
use crate::io::hash::{ContentHash, Hasher, sha256};
use crate::io::weights::WeightFile;
use crate::latent::{EncodedImage, Examples, LatentAdaptation, LatentAdapter, LatentOutcome, LatentTraining};
use crate::models::Prior;
use crate::models::stable_diffusion::{Latents, save_lora};
use crate::tensor::{self, Tensor};
use crate::{Error, Result};

/// What a latent adaptation was made of, and what came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LatentAdaptationRecord {
    /// The images, nearest first.
    pub images: Vec<ImageRecord>,
    /// What held-out crops say of it, where any were held out.
    pub outcome: Option<LatentOutcome>,
    /// Whether the adapted weights were used.
    pub used: bool,
    /// Training steps, where minutes were asked for: what they became.
    #[serde(default)]
    pub steps: u32,
    /// By what the adapter is kept: the hash of all that decides it.
    #[serde(default)]
    pub key: String,
    /// Whether it was in the cache.
    #[serde(default)]
    pub from_cache: bool,
    /// The file of the image encoder, where it is not the embedded one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder_file: Option<PathBuf>,
}

/// Everything that decides an adapter.
#[derive(Debug, Clone, Serialize)]
struct Provenance {
    version: u32,
    base: String,
    averaged: bool,
    autoencoder: String,
    lora: Option<ContentHash>,
    images: Vec<ContentHash>,
    noise_level: Option<usize>,
    told: ContentHash,
    weights: WeightPrecision,
    computed_in: String,
    training: LatentTraining,
}

impl Provenance {
    /// Raise it when the same settings make other factors than before.
    const VERSION: u32 = 1;

    fn key(&self) -> Result<String> {
        let text = serde_json::to_string(self).map_err(|e| Error::config(format!("a provenance: {e}")))?;
        Ok(sha256(text.as_bytes()).to_string())
    }

    /// What adapters share that differ only in how long they train: the state of a training is kept under it.
    fn key_without_budget(&self) -> Result<String> {
        let training = LatentTraining { iterations: 0, ..self.training.clone() };
        Self { training, ..self.clone() }.key()
    }
}

/// An adaptation to make, or one that the cache has.
pub(super) struct Job<'a> {
    adapt: &'a LatentAdapt,
    images: Vec<ImageRecord>,
    sources: Vec<Source>,
    told: [Tensor<3>; 2],
    provenance: Provenance,
    /// [`Provenance::key_without_budget`].
    of: String,
    /// What the number of steps is noted under that the minutes became.
    note: Option<String>,
    /// How long to train, where no number of steps is known.
    time: Option<Duration>,
    kept: Option<LatentAdapter>,
}

impl Job<'_> {
    /// Whether crops must be encoded, because nothing is kept.
    pub fn is_to_be_trained(&self) -> bool {
        self.kept.is_none()
    }
}

impl Engine {
    /// What is to be trained on: the nearest images; and the adapter, where the cache has it.
    pub(super) fn latent_job<'a>(
        &self,
        plan: &LatentPlan,
        adapt: &'a LatentAdapt,
        told: [Tensor<3>; 2],
        [base, autoencoder]: [String; 2],
        watch: &Watch<'_>,
    ) -> Result<Job<'a>> {
        let target = match adapt.by_text {
            true => Target::Text { gallery: adapt.gallery.clone(), prompt: plan.request.prompt.clone() },
            false => Target::Gallery(adapt.gallery.clone()),
        };
        let mut asked = Adapt::new(target);
        asked.neighbours = adapt.neighbours;
        asked.exclude.clone_from(&adapt.exclude);
        let file: Option<&Path> = Some(&plan.request.input);
        let observed = Observed { y: &plan.picture.tensor, file, content: plan.content };
        let gallery = self.gallery(&adapt.gallery, None, watch)?;
        let nearest = self.nearest(&gallery, &asked, &observed, None, watch)?;
        let sources: Vec<_> = gallery.describe(&nearest, &self.limits)?.into_iter().map(Source::found).collect();
        let mut states = Hasher::default();
        for text in &told {
            states.update(&tensor::to_f32(text)?.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<u8>>());
        }
        let mut provenance = Provenance {
            version: Provenance::VERSION,
            base,
            averaged: plan.request.averaged,
            autoencoder,
            lora: plan.request.lora.as_ref().map(|path| ContentHash::of_file(path)).transpose()?,
            images: sources.iter().map(Source::content).collect(),
            noise_level: match plan.request.task {
                LatentTask::Upscale { noise_level, .. } => noise_level,
                LatentTask::Edit { .. } => None,
            },
            told: states.finish(),
            weights: plan.request.weights,
            computed_in: self.placement().1.to_string(),
            training: adapt.training.clone(),
        };
        let of = provenance.key_without_budget()?;
        // Minutes that became a number of steps once are that number for good.
        let note = adapt.minutes.map(|minutes| sha256(format!("{of} {minutes}").as_bytes()).to_string());
        let noted = note.as_ref().and_then(|note| self.cache.steps(note));
        provenance.training.iterations = noted.unwrap_or(provenance.training.iterations);
        let time = adapt.minutes.filter(|_| noted.is_none()).map(|minutes| Duration::from_secs_f64(60.0 * minutes));
        let images = sources.iter().map(|source| source.record.clone()).collect();
        let kept = if time.is_none() { self.kept_latent_adapter(&provenance.key()?, watch)? } else { None };
        Ok(Job { adapt, images, sources, told, provenance, of, note, time, kept })
    }

    fn kept_latent_adapter(&self, key: &str, watch: &Watch<'_>) -> Result<Option<LatentAdapter>> {
        let Some(path) = self.cache.latent_adapter_path(key).filter(|path| path.is_file()) else { return Ok(None) };
        let found = WeightFile::open(&path).map_err(Error::from).and_then(|file| LatentAdapter::load(&file, key));
        match found {
            Ok(found) => Ok(Some(found)),
            Err(e) => warn(watch, format!("the adapter in the cache is made anew: {e}")).map(|()| None),
        }
    }

    /// Crops of the images, encoded by the autoencoder, or read from the cache where an interrupted run has left them.
    pub(super) fn latent_examples(
        &self,
        plan: &LatentPlan,
        job: &mut Job<'_>,
        autoencoder: &Latents,
        watch: &Watch<'_>,
    ) -> Result<Examples> {
        let low_res = plan.files.low_res().cloned().zip(job.provenance.noise_level);
        let (upscales, training) = (low_res.is_some(), &job.provenance.training);
        let sources = std::mem::take(&mut job.sources);
        let (total, mut encoded) = (sources.len(), Vec::with_capacity(sources.len()));
        let mut keeps = match self.cache.check() {
            Ok(()) => true,
            Err(e) => warn(watch, format!("the cache takes nothing, the adapter will not be kept: {e}; see --cache"))
                .map(|()| false)?,
        };
        for (i, source) in sources.into_iter().enumerate() {
            let path = self.encoded_path(&job.of, i).filter(|_| keeps);
            let read = |path: &PathBuf| {
                let file = WeightFile::open(path).ok()?;
                EncodedImage::load(&file, &job.of, upscales, training).ok()
            };
            let image = match path.as_ref().filter(|path| path.is_file()).and_then(read) {
                Some(image) => image,
                None => {
                    let image = EncodedImage::encode(&source.pixels(self)?, i, autoencoder, upscales, training)?;
                    if let Some(path) = &path
                        && let Err(e) = image.save(path, &job.of)
                    {
                        keeps = false;
                        warn(watch, format!("the encoded crops are not kept: {e}"))?;
                    }
                    image
                }
            };
            encoded.push(image);
            let reported = report(watch, &Event::Encoding { done: i + 1, total });
            if let (Err(Error::Interrupted), Some(path)) = (&reported, path.filter(|_| keeps)) {
                report(watch, &Event::Kept { path: path.to_string_lossy().into_owned() })?;
            }
            reported?;
        }
        Examples::new(encoded, low_res, training.held_out)
    }

    /// Where the encoded crops of the `i`-th image of an adaptation lie until it is made.
    fn encoded_path(&self, of: &str, i: usize) -> Option<PathBuf> {
        self.cache.state_path(&format!("{of}.{i}.running"))
    }

    /// The U-Net adapted to the crops, if that is used, and what was done.
    pub(super) fn latent_adapted(
        &self,
        plan: &LatentPlan,
        mut job: Job<'_>,
        examples: Option<&Examples>,
        unet: &Prior,
        watch: &Watch<'_>,
    ) -> Result<(Option<Prior>, LatentAdaptationRecord)> {
        let (from_cache, (adapter, outcome)) = match (job.kept.take(), examples) {
            (Some(kept), _) => {
                let outcome = kept.outcome();
                (true, (kept.adapter(unet.params(), &job.provenance.training)?, outcome))
            }
            (None, Some(examples)) => (false, self.trained_latents(&mut job, examples, unet, watch)?),
            (None, None) => return Err(Error::config("no images to adapt to")),
        };
        if let (Some(path), Adapter::Lora(lora)) = (&job.adapt.save, &adapter) {
            save_lora(path, plan.files.unet(), &lora.layers(), lora.rank(), lora.scale())?;
        }
        let used = !job.adapt.if_better || outcome.is_some_and(|outcome| outcome.helped());
        if !used {
            let why = match outcome {
                Some(LatentOutcome { before, after, error }) => {
                    format!("the loss on held-out crops went from {before:.4} to {after:.4} (+- {error:.4})")
                }
                None => "there is one image, so none could be held out".into(),
            };
            warn(watch, format!("the adaptation is not used: {why}"))?;
        }
        let (steps, key) = (job.provenance.training.iterations, job.provenance.key()?);
        let encoder_file = self.encoder_file().map(Path::to_owned);
        let record = LatentAdaptationRecord { images: job.images, outcome, used, steps, key, from_cache, encoder_file };
        let adapted = if used { Some(unet.with_params(adapter.apply(unet.params())?)) } else { None };
        Ok((adapted, record))
    }

    /// Trains, from where an interrupted run had come, and keeps the adapter.
    fn trained_latents(
        &self,
        job: &mut Job<'_>,
        examples: &Examples,
        unet: &Prior,
        watch: &Watch<'_>,
    ) -> Result<(Adapter, Option<LatentOutcome>)> {
        let usable = self.cache.check().is_ok();
        let new = |training: &LatentTraining| LatentAdaptation::new(unet, examples, training, job.told.clone());
        let state = self.cache.state_path(&format!("{}.running", job.of)).filter(|_| usable);
        let (of, every) = (job.of.clone(), self.state_every);
        let run = new(&job.provenance.training)?;
        let mut training = Training { run, of, state, state_is_cached: true, passes: true, every, watch };
        training.resume()?;
        if job.time.is_none() && training.run.taken() > training.run.total() {
            // A longer training was here before: its weights are not those of a shorter one.
            training = Training { run: new(&job.provenance.training)?, state: None, ..training };
        }
        if let Some(time) = job.time {
            let steps = training.steps_in(time)?;
            training.run.set_budget(steps);
            job.provenance.training.iterations = steps;
            if let Some(note) = &job.note
                && let Err(e) = self.cache.note_steps(note, steps)
            {
                warn(watch, format!("the number of training steps is not kept: {e}"))?;
            }
        }
        training.run.measure_before()?;
        training.finish()?;
        let adapted = training.run.adapted()?;
        let (adapter, outcome) = (training.run.adapter(), training.run.outcome(&adapted)?);
        let key = job.provenance.key()?;
        if let Some(path) = self.cache.latent_adapter_path(&key).filter(|_| usable)
            && let Err(e) = LatentAdapter::save(&path, &key, &adapter, outcome)
        {
            warn(watch, format!("the adapter is not kept: {e}"))?;
        }
        let encoded = (0..job.images.len()).filter_map(|i| self.encoded_path(&job.of, i));
        training.state.iter().cloned().chain(encoded).for_each(|path| drop(std::fs::remove_file(path)));
        Ok((adapter, outcome))
    }
}

/// Refuses an adaptation that cannot be made.
pub(super) fn check(adapt: &LatentAdapt, multiple: usize) -> Result<()> {
    if adapt.neighbours == 0 {
        return Err(Error::config("an adaptation to no images"));
    }
    if adapt.minutes.is_some_and(|minutes| !(minutes.is_finite() && minutes > 0.0 && minutes < 1e6)) {
        return Err(Error::config(format!("{:?} minutes of training: expected a number above 0", adapt.minutes)));
    }
    if adapt.training.full && adapt.save.is_some() {
        return Err(Error::config(
            "all weights are trained, and no factors that could be written: give a rank (--lora)",
        ));
    }
    adapt.training.check(multiple)
}
