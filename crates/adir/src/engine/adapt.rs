//! Adapting the prior: which images, from the cache or by training, and whether the result is used.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::event::{Event, Watch, report, warn};
use super::gallery::{Found, Gallery};
use super::open::Engine;
use super::record::{AdaptationRecord, ImageRecord};
use super::request::{Adapt, Keep, Target};
use crate::adapt::{
    AdaptConfig, Adaptation, Adapter, AdapterInfo, CropScale, HeldOut, Provenance, Trained, adaptation_memory,
};
use crate::encode::Embedding;
use crate::io::folder::image_files;
use crate::io::hash::sha256;
use crate::io::image::{read_hashed, read_image};
use crate::io::weights::WeightFile;
use crate::models::{Denoiser, Prior};
use crate::optim::Workers;
use crate::retrieve::{ContentHash, Group, Neighbour, group_by_neighbours};
use crate::task::Preset;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// Steps that are timed to find how many take some minutes, after as many that are not.
const TIMED: u32 = 8;
/// How often the state of a training that can go on is written.
const STATE_EVERY: Duration = Duration::from_secs(120);
/// Memory for the images of an archive, in values.
const ARCHIVE_VALUES: usize = 1 << 28;

/// A checked adaptation, for any observation.
#[derive(Debug, Clone)]
pub struct AdaptPlan {
    request: Adapt,
    config: AdaptConfig,
    memory: u64,
}

/// An observation to adapt for.
#[derive(Debug, Clone, Copy)]
pub struct Observed<'a> {
    /// y, `[1, c, h, w]` in [-1, 1].
    pub y: &'a Tensor<4>,
    /// Its file, if it has one.
    pub file: Option<&'a Path>,
    /// SHA-256 of the file, or of sizes and values.
    pub content: ContentHash,
}

/// What a new adapter is called, and the observations it is made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Its name.
    pub name: String,
    /// SHA-256 of the observations, in hexadecimal.
    pub serves: Vec<String>,
}

/// An adapter, from the cache or new.
#[derive(Debug, Clone)]
pub struct AdapterFound {
    /// The adapter.
    pub adapter: Adapter,
    /// What it says of itself.
    pub info: AdapterInfo,
    /// Its key in the cache.
    pub key: String,
    /// Whether it was there already.
    pub from_cache: bool,
    /// The images it was made from, nearest first.
    pub images: Vec<ImageRecord>,
}

impl AdapterFound {
    /// Whether the adapted weights are used under `keep`.
    pub fn is_used(&self, keep: Keep) -> bool {
        match keep {
            Keep::Always => true,
            Keep::IfHeldOutImproves => self.info.outcome.as_ref().is_none_or(HeldOut::helped),
        }
    }
}

impl AdaptPlan {
    /// What was asked for.
    pub fn request(&self) -> &Adapt {
        &self.request
    }

    /// The settings of the training.
    pub fn config(&self) -> &AdaptConfig {
        &self.config
    }

    /// Bytes of memory it takes at most, weights included, on a CPU in f32.
    pub fn memory(&self) -> u64 {
        self.memory
    }
}

/// An image to adapt to: its place and content, and its pixels where they are at hand.
struct Source {
    path: Option<PathBuf>,
    record: ImageRecord,
    pixels: Option<Tensor<4>>,
}

impl Source {
    fn found(found: Found) -> Self {
        Self { path: Some(found.path), record: found.record, pixels: None }
    }
}

impl Engine {
    /// Checks an adaptation. Reads no weights and no image.
    ///
    /// # Errors
    /// [`Error::Config`] for settings that are wrong by themselves or do not suit the network, [`Error::Input`] for a
    /// gallery that is not there, [`Error::Limits`] when it needs more memory than the engine may take.
    pub fn plan_adaptation(&self, request: &Adapt, preset: Preset) -> Result<AdaptPlan> {
        request.check(preset)?;
        if let Some(gallery) = request.target.gallery()
            && !(gallery.is_dir() || gallery.is_file())
        {
            return Err(Error::input(gallery, "is neither a folder nor an index"));
        }
        let header = self.header()?;
        if let Target::Archive(folder) = &request.target
            && !folder.is_dir()
        {
            return Err(Error::input(folder, "is no folder"));
        }
        let mut config = request.config(preset);
        config.check(header.info().size_multiple)?;
        let need = |config: &AdaptConfig| match request.target {
            Target::Adapter(_) => 0,
            _ => adaptation_memory(header.network().as_ref(), config, Workers::available()),
        };
        let free = self.memory.unwrap_or(u64::MAX);
        if matches!(config.trained, Trained::Auto { .. }) && need(&config) > free {
            config.trained = config.trained.low_rank();
        }
        let memory = need(&config);
        self.check_memory(memory)?;
        Ok(AdaptPlan { request: request.clone(), config, memory })
    }

    /// The adapter for `observed`: from the cache, or made now and kept there.
    ///
    /// # Errors
    /// [`Error::Input`] when images are missing or damaged, [`Error::Numerical`] when the training diverges,
    /// [`Error::Interrupted`] when the watcher breaks; as [`Engine::prior`] and [`Engine::gallery`].
    pub fn adapt(&self, plan: &AdaptPlan, observed: &Observed<'_>, watch: &Watch<'_>) -> Result<AdapterFound> {
        let (prior, _) = self.started(&self.prior(watch)?, &plan.request, observed)?;
        self.adapt_from(&prior, plan, observed, watch)
    }

    /// [`Engine::adapt`] from `prior`.
    fn adapt_from(
        &self,
        prior: &Prior,
        plan: &AdaptPlan,
        observed: &Observed<'_>,
        watch: &Watch<'_>,
    ) -> Result<AdapterFound> {
        let mut config = plan.config.clone();
        let sources = match &plan.request.target {
            Target::Adapter(_) => return Err(Error::config("an adapter that is there already is not made again")),
            Target::Itself => {
                let [_, _, h, w] = observed.y.dims();
                let multiple = prior.info().size_multiple;
                config.crop = config.crop.min((h.min(w) / multiple * multiple).max(multiple));
                config.scale = CropScale::Native;
                let record =
                    ImageRecord { path: observed.file.map(Path::to_owned), sha256: observed.content, distance: None };
                vec![Source { path: None, record, pixels: Some(observed.y.clone()) }]
            }
            Target::Archive(folder) => self.archive(folder, config.seed, watch)?,
            Target::Images(files) => files.iter().map(|file| self.source(file)).collect::<Result<_>>()?,
            Target::Gallery(path) | Target::Text { gallery: path, .. } => {
                let gallery = self.gallery(path, watch)?;
                let nearest = nearest(&gallery, &plan.request, observed)?;
                gallery.describe(&nearest)?.into_iter().map(Source::found).collect()
            }
        };
        let name = observed.file.and_then(Path::file_stem).map(|stem| stem.to_string_lossy().into_owned());
        let label = Label {
            name: name.unwrap_or_else(|| format!("{:.12}", observed.content.to_string())),
            serves: vec![observed.content.to_string()],
        };
        self.train_or_find(prior, Job { sources, label, config, request: &plan.request, state: None }, watch)
    }

    /// The adapter for all images of an archive, [`Target::Archive`]: from the cache, or made now and kept there. The
    /// training writes its state to `state` every two minutes and when the watcher breaks, and goes on from there; it stays
    /// when the training ends, so that a larger budget goes on, too.
    ///
    /// # Errors
    /// As [`Engine::adapt`]; [`Error::Model`] when `state` belongs to another adaptation.
    pub fn adapt_to_archive(
        &self,
        plan: &AdaptPlan,
        name: String,
        state: Option<&Path>,
        watch: &Watch<'_>,
    ) -> Result<AdapterFound> {
        let Target::Archive(folder) = &plan.request.target else {
            return Err(Error::config("this adaptation is not to an archive"));
        };
        let prior = self.prior(watch)?;
        let sources = self.archive(folder, plan.config.seed, watch)?;
        let label = Label { name, serves: Vec::new() };
        let state = Some(state.map_or(StateFile::InCache, StateFile::At));
        self.train_or_find(
            &prior,
            Job { sources, label, config: plan.config.clone(), request: &plan.request, state },
            watch,
        )
    }

    /// The images of a folder, in an order that `seed` decides, as many as fit into memory.
    fn archive(&self, folder: &Path, seed: u64, watch: &Watch<'_>) -> Result<Vec<Source>> {
        let mut names = image_files(folder)?;
        names.sort_by_cached_key(|name| sha256(format!("{seed} {name}").as_bytes()).to_string());
        let (mut sources, mut values) = (Vec::new(), 0);
        for (done, name) in names.iter().enumerate() {
            let path = folder.join(name);
            match read_hashed(&path, &self.limits) {
                Ok((picture, sha256)) => {
                    values += picture.tensor.dims().iter().product::<usize>();
                    if values > ARCHIVE_VALUES && !sources.is_empty() {
                        warn(watch, format!("{done} of {} images fit into memory and are used", names.len()))?;
                        break;
                    }
                    let record = ImageRecord { path: Some(name.into()), sha256, distance: None };
                    sources.push(Source { path: Some(path), record, pixels: Some(picture.tensor) });
                }
                Err(e) => warn(watch, format!("left out: {e}"))?,
            }
            report(watch, &Event::Indexing { done: done + 1, total: names.len(), path: name.clone() })?;
        }
        if sources.is_empty() {
            return Err(Error::input(folder, "contains no images"));
        }
        Ok(sources)
    }

    /// The prior from which an adaptation starts, and the key of the adapter that made it, if one did.
    fn started(
        &self,
        prior: &Arc<Prior>,
        request: &Adapt,
        observed: &Observed<'_>,
    ) -> Result<(Arc<Prior>, Option<String>)> {
        let Some(reference) = &request.start else { return Ok((prior.clone(), None)) };
        let found = self.kept(prior, reference, observed)?;
        Ok((Arc::new(found.adapter.adapt(prior, &found.info)?), Some(found.key)))
    }

    /// Groups of observations that have much of their nearest images in common (see [`group_by_neighbours`]), with the
    /// images that each group shares.
    ///
    /// # Errors
    /// [`Error::Config`] when the plan has no gallery; as [`Engine::adapt`].
    pub fn group(
        &self,
        plan: &AdaptPlan,
        observations: &[Observed<'_>],
        overlap: f64,
        watch: &Watch<'_>,
    ) -> Result<Vec<(Group, Vec<PathBuf>)>> {
        let path = plan.request.target.gallery();
        let path = path.ok_or_else(|| Error::config("only adaptations to a gallery are shared: give --gallery"))?;
        let gallery = self.gallery(path, watch)?;
        let mut all = Vec::with_capacity(observations.len());
        for observed in observations {
            all.push(nearest(&gallery, &plan.request, observed)?);
            report(watch, &Event::Searching { done: all.len(), total: observations.len() })?;
        }
        let groups = group_by_neighbours(&all, overlap);
        let files = |group: &Group| group.neighbours.iter().filter_map(|n| gallery.index().file(n.id)).collect();
        Ok(groups
            .into_iter()
            .map(|group| {
                let files = files(&group);
                (group, files)
            })
            .collect())
    }

    /// The adapter for the images in `files`, from the cache or newly trained.
    ///
    /// # Errors
    /// As [`Engine::adapt`].
    pub fn adapt_to_files(
        &self,
        plan: &AdaptPlan,
        files: &[PathBuf],
        label: Label,
        watch: &Watch<'_>,
    ) -> Result<AdapterFound> {
        let prior = self.prior(watch)?;
        let sources = files.iter().map(|file| self.source(file)).collect::<Result<_>>()?;
        let job = Job { sources, label, config: plan.config.clone(), request: &plan.request, state: None };
        self.train_or_find(&prior, job, watch)
    }

    /// Gives an adapter another name and adds the observations it serves, in the cache too if `keep`.
    ///
    /// # Errors
    /// As [`super::Cache::keep_adapter`].
    pub fn relabel(&self, found: &mut AdapterFound, label: Label, keep: bool, watch: &Watch<'_>) -> Result<()> {
        let mut info = AdapterInfo { name: label.name, ..found.info.clone() };
        info.serves.extend(label.serves);
        info.serves.sort();
        info.serves.dedup();
        if info != found.info {
            found.info = info;
            if keep {
                let prior = self.prior(watch)?;
                self.cache.keep_adapter(&found.key, &found.adapter, &found.info, &prior)?;
            }
        }
        Ok(())
    }

    /// The prior to sample `observed` with, and the record of its adaptation.
    pub(super) fn adapted(
        &self,
        prior: &Arc<Prior>,
        plan: &AdaptPlan,
        observed: &Observed<'_>,
        watch: &Watch<'_>,
    ) -> Result<(Arc<Prior>, AdaptationRecord)> {
        let request = &plan.request;
        let (prior, start) = self.started(prior, request, observed)?;
        let found = match &request.target {
            Target::Adapter(reference) => self.kept(&prior, reference, observed)?,
            _ => self.adapt_from(&prior, plan, observed, watch)?,
        };
        let used = found.is_used(request.keep);
        let given = matches!(request.target, Target::Adapter(_));
        if !given {
            let outcome = found.info.outcome.clone();
            report(watch, &Event::Adapted { from_cache: found.from_cache, outcome, used })?;
        }
        let from_gallery = request.target.gallery().map(|path| self.gallery(path, watch)).transpose()?;
        let record = AdaptationRecord {
            target: request.target.clone(),
            start,
            keep: request.keep,
            gallery: from_gallery.as_ref().map(|gallery| gallery.index().root().to_owned()),
            encoder: from_gallery.as_ref().map(|gallery| (**gallery.encoder().id()).clone()),
            neighbours: from_gallery.as_ref().map(|_| request.neighbours),
            closer_than: from_gallery.as_ref().map(|_| request.closer_than),
            images: found.images.clone(),
            settings: found.info.provenance.settings.clone(),
            outcome: found.info.outcome.clone(),
            used,
            from_cache: found.from_cache,
            key: found.key.clone(),
            name: found.info.name.clone(),
        };
        let prior = if used { Arc::new(found.adapter.adapt(&prior, &found.info)?) } else { prior };
        Ok((prior, record))
    }

    /// An adapter that is there already.
    fn kept(&self, prior: &Prior, reference: &Path, observed: &Observed<'_>) -> Result<AdapterFound> {
        let path = self.cache.find_adapter(reference, Some(&observed.content.to_string()))?;
        let file = WeightFile::open(&path)?;
        let (adapter, info) = (Adapter::load(&file, prior)?, Adapter::info(&file)?);
        let images = info.provenance.images.iter();
        let images = images.map(|&sha256| ImageRecord { path: None, sha256, distance: None }).collect();
        Ok(AdapterFound { adapter, key: info.provenance.key()?, info, from_cache: true, images })
    }

    fn source(&self, file: &Path) -> Result<Source> {
        let record = ImageRecord { path: Some(file.to_owned()), sha256: ContentHash::of_file(file)?, distance: None };
        Ok(Source { path: Some(file.to_owned()), record, pixels: None })
    }

    fn train_or_find(&self, prior: &Prior, job: Job<'_>, watch: &Watch<'_>) -> Result<AdapterFound> {
        let Job { sources, label, config, request, state } = job;
        config.check(prior.info().size_multiple)?;
        let compute = prior.params().compute();
        let in_full = compute.dtype == DType::F32 && !compute.bf16_products;
        let mut provenance = Provenance {
            version: Provenance::VERSION,
            base: prior.id()?.to_string(),
            images: sources.iter().map(|source| source.record.sha256).collect(),
            settings: config,
            computed_in: (!in_full).then(|| format!("{:?}, bf16 products: {}", compute.dtype, compute.bf16_products)),
        };
        let images: Vec<_> = sources.iter().map(|source| source.record.clone()).collect();
        let of = provenance.key_without_budget()?;
        // Minutes that became a number of steps once are that number for good.
        let note = request.overrides.minutes.map(|minutes| sha256(format!("{of} {minutes}").as_bytes()).to_string());
        let noted = note.as_ref().filter(|_| request.use_cache).and_then(|note| self.cache.steps(note));
        provenance.settings.iterations = noted.unwrap_or(provenance.settings.iterations);
        let to_time = request.overrides.minutes.filter(|_| noted.is_none());
        let kept = |provenance: &Provenance| -> Result<Option<AdapterFound>> {
            let key = provenance.key()?;
            if !request.use_cache {
                return Ok(None);
            }
            match self.cache.adapter(&key, prior) {
                Ok(Some((adapter, info))) => {
                    Ok(Some(AdapterFound { adapter, info, key, from_cache: true, images: images.clone() }))
                }
                Ok(None) => Ok(None),
                Err(e) => warn(watch, format!("the kept adapter is made anew: {e}")).map(|()| None),
            }
        };
        if to_time.is_none()
            && let Some(found) = kept(&provenance)?
        {
            return Ok(found);
        }
        let pixels = |source: Source| match (source.pixels, source.path) {
            (Some(pixels), _) => Ok(pixels),
            (None, Some(path)) => Ok(read_image(&path, &self.limits)?.tensor),
            (None, None) => Err(Error::config("an image without pixels and file")),
        };
        let pictures = sources.into_iter().map(pixels).collect::<Result<Vec<_>>>()?;
        let state = match state {
            None => None,
            Some(StateFile::At(path)) => Some(path.to_owned()),
            Some(StateFile::InCache) => self.cache.state_path(&of).filter(|_| request.use_cache),
        };
        if let Some(folder) = state.as_ref().and_then(|path| path.parent()).filter(|f| !f.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        }
        let new = || Adaptation::new(prior, pictures.clone(), provenance.settings.clone());
        let mut training = Training { run: new()?, of, state, watch };
        training.resume()?;
        if to_time.is_none() && training.run.is_beyond_budget() {
            // A longer training was here before: its weights are not those of a shorter one.
            training = Training { run: new()?, state: None, ..training };
        }
        if let Some(minutes) = to_time {
            let steps = training.steps_in(Duration::from_secs_f64(60.0 * minutes))?;
            training.run.set_budget(steps);
            provenance.settings.iterations = steps;
            if let Some(note) = note.filter(|_| request.use_cache)
                && let Err(e) = self.cache.note_steps(&note, steps)
            {
                warn(watch, format!("the number of training steps is not kept: {e}"))?;
            }
            if let Some(found) = kept(&provenance)? {
                return Ok(found);
            }
        }
        training.finish()?;
        let run = training.run;
        let (key, outcome, adapter) = (provenance.key()?, run.held_out(), run.adapter());
        let Label { name, serves } = label;
        let (base, lora) = (provenance.base.clone(), adapter.lora());
        let info = AdapterInfo { name, base, provenance, outcome, lora, serves };
        if request.use_cache
            && let Err(e) = self.cache.keep_adapter(&key, &adapter, &info, prior)
        {
            // What took minutes to make is worth using, whatever the disk says.
            warn(watch, format!("the adapter is not kept: {e}"))?;
        }
        Ok(AdapterFound { adapter, info, key, from_cache: false, images })
    }
}

/// An adapter to find or to make.
struct Job<'a> {
    sources: Vec<Source>,
    label: Label,
    config: AdaptConfig,
    request: &'a Adapt,
    state: Option<StateFile<'a>>,
}

/// Where a training that can go on keeps its state.
enum StateFile<'a> {
    At(&'a Path),
    InCache,
}

/// A training, what is reported of it, and its state in a file.
struct Training<'a> {
    run: Adaptation,
    /// What the state belongs to.
    of: String,
    state: Option<PathBuf>,
    watch: &'a Watch<'a>,
}

impl Training<'_> {
    /// Goes on from the state, if there is one.
    fn resume(&mut self) -> Result<()> {
        if let Some(path) = self.state.as_ref().filter(|path| path.is_file()) {
            self.run.resume(&WeightFile::open(path)?, &self.of)?;
        }
        Ok(())
    }

    /// A step, reported; `total` is that of the report.
    fn step(&mut self, total: u32) -> Result<bool> {
        let Some(step) = self.run.next() else { return Ok(false) };
        let step = step?;
        let (timestep, loss) = (step.timestep.0, step.loss);
        report(self.watch, &Event::Adapting { step: step.step, total, timestep, loss })?;
        if let Some(measured) = step.measured {
            report(self.watch, &Event::Measured { measured })?;
        }
        Ok(true)
    }

    /// How many steps take that long, from the time of the next few.
    fn steps_in(&mut self, time: Duration) -> Result<u32> {
        let whole_budget = self.run.budget_within(f64::MAX, 1.0);
        self.run.set_budget(whole_budget);
        let started = Instant::now();
        self.run.measure_before()?;
        let measurement = started.elapsed().as_secs_f64();
        let mut steps = Vec::new();
        for _ in 0..2 * TIMED {
            let started = Instant::now();
            let measured_next = self.run.is_measured_next();
            if !self.step(2 * TIMED)? {
                break;
            }
            // A step with a measurement says nothing.
            if !measured_next {
                steps.push(started.elapsed().as_secs_f64());
            }
        }
        // The first steps allocate what the later ones reuse.
        let timed = &steps[steps.len() / 2..];
        let step = timed.iter().sum::<f64>() / timed.len().max(1) as f64;
        let budget = self.run.budget_within(time.as_secs_f64() / step.max(1e-6), measurement / step.max(1e-6));
        // What an earlier run has done already is not taken back.
        Ok(budget.max(self.run.budget_reached()))
    }

    /// All steps that are left.
    fn finish(&mut self) -> Result<()> {
        let mut saved = Instant::now();
        loop {
            let total = self.run.total();
            if let Some(path) = self.state.as_ref().filter(|_| self.run.is_last_before_end()) {
                self.run.save(path, &self.of)?;
            }
            let more = self.step(total);
            let stopped = matches!(more, Err(Error::Interrupted));
            let last = matches!(more, Ok(false));
            if let Some(path) = self.state.as_ref().filter(|_| stopped || last || saved.elapsed() > STATE_EVERY)
                && self.run.can_go_on()
            {
                self.run.save(path, &self.of)?;
                saved = Instant::now();
            }
            if !more? {
                return Ok(());
            }
        }
    }
}

/// The images of a gallery that are nearest to `observed`, or to the prompt, nearest first.
fn nearest(gallery: &Gallery, request: &Adapt, observed: &Observed<'_>) -> Result<Vec<Neighbour>> {
    let query: Embedding = match &request.target {
        Target::Text { prompt, .. } => gallery.encoder().text(prompt)?,
        _ => gallery.encoder().image(observed.y)?,
    };
    let exclude: Vec<_> = std::iter::once(observed.content).chain(request.exclude.iter().copied()).collect();
    gallery.nearest(&query, request.neighbours, request.closer_than, &exclude)
}
