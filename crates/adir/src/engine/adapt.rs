//! Adapting the prior: which images, from the cache or by training, and whether the result is used.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::choice::Choice;
use super::event::{Event, Watch, report, warn};
use super::open::Engine;
use super::plan::Plan;
use super::record::{AdaptationRecord, ImageRecord};
use super::request::{Adapt, Keep, Target};
use super::sources::{HELD_VALUES, Source, held};
use super::training::{StateFile, Training};
use crate::adapt::{AdaptConfig, Adaptation, Adapter, AdapterInfo, HeldOut, Provenance, Trained, adaptation_memory};
use crate::compute::Workers;
use crate::io::hash::sha256;
use crate::io::weights::WeightFile;
use crate::models::{Denoiser, Prior};
use crate::retrieve::{ContentHash, Group, group_by_neighbours};
use crate::task::Preset;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// A checked adaptation, for any observation.
#[derive(Debug, Clone)]
pub struct AdaptPlan {
    request: Adapt,
    config: AdaptConfig,
    memory: u64,
}

/// Said instead of adapting where a check is asked for.
pub(super) const CANNOT_BE_CHECKED: &str = "there is one image to adapt to, so none can be held out to check an adaptation by: nothing \
                                 is adapted, the prior is used as it is (`--adapt gallery` adapts unchecked)";

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

impl Observed<'_> {
    /// What an adapter for it is called by default: the name of its file, or the first digits of its hash.
    fn name(&self) -> String {
        let name = self.file.and_then(Path::file_stem).map(|stem| stem.to_string_lossy().into_owned());
        name.unwrap_or_else(|| format!("{:.12}", self.content.to_string()))
    }
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
    /// Whether it is in the cache now.
    pub kept: bool,
    /// The images it was made from, nearest first.
    pub images: Vec<ImageRecord>,
}

impl AdapterFound {
    /// Whether the adapted weights are used under `keep`, if the observation does not speak against them. The observation
    /// must speak for those of an adapter that was `named`, so that its held-out images have to say less, or nothing where
    /// there were none.
    pub fn is_used(&self, keep: Keep, named: bool) -> bool {
        let good = if named { HeldOut::fell } else { HeldOut::helped };
        match keep {
            Keep::Always => true,
            Keep::IfHeldOutImproves => self.info.outcome.as_ref().map_or(named, good),
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

    /// Adapts to `images` of the gallery in place of those nearest to the observation.
    pub(super) fn share(&mut self, images: &[PathBuf]) {
        self.request.shared = images.to_vec();
    }

    /// Bytes of memory it takes at most, weights included, on a CPU in f32.
    pub fn memory(&self) -> u64 {
        self.memory
    }
}

impl Engine {
    /// Checks an adaptation. Reads images of a gallery or an archive until it has found two, and weights only of an encoder.
    ///
    /// # Errors
    /// [`Error::Config`] for settings that are wrong by themselves or do not suit the network, [`Error::Input`] for a
    /// gallery or an archive that is not there or holds no image that can be read, [`Error::Model`] for an encoder that is not there,
    /// [`Error::Limits`] when it needs more memory than the engine may take.
    pub fn plan_adaptation(&self, request: &Adapt, preset: Preset) -> Result<AdaptPlan> {
        request.check(preset)?;
        self.check_target(request)?;
        let header = self.header()?;
        let mut config = request.config(preset);
        config.check(header.info().size_multiple)?;
        let images = match request.target {
            Target::Gallery(_) | Target::Text { .. } | Target::Images(_) => 4 * HELD_VALUES as u64,
            Target::Itself | Target::Archive(_) | Target::Adapter(_) => 0,
        };
        let network = header.network().as_ref();
        let need = |config: &AdaptConfig| match request.target {
            Target::Adapter(_) => 0,
            _ => images + adaptation_memory(network, config, Workers::available(), self.compute().dtype),
        };
        let free = self.memory.unwrap_or(u64::MAX);
        if matches!(config.trained, Trained::Auto { .. }) && need(&config) > free {
            config.trained = config.trained.low_rank();
        }
        let memory = need(&config);
        self.check_memory(memory)?;
        Ok(AdaptPlan { request: request.clone(), config, memory })
    }

    /// The adapter for `observed`: from the cache, or made now and kept there. A training that is interrupted leaves its
    /// state in the cache, and the next one for the same images goes on from there, to the same weights.
    ///
    /// # Errors
    /// [`Error::Input`] when images are missing or damaged, [`Error::Numerical`] when the training diverges,
    /// [`Error::Interrupted`] when the watcher breaks; as [`Engine::prior`] and [`Engine::gallery`].
    pub fn adapt(&self, plan: &AdaptPlan, observed: &Observed<'_>, watch: &Watch<'_>) -> Result<AdapterFound> {
        let (prior, _) = self.started(&self.prior(watch)?, &plan.request, observed)?;
        let sources = self.sources(&prior, plan, observed, None, watch)?;
        self.adapt_from(&prior, plan, observed, sources, watch)
    }

    /// The adapter of `observed` for `sources`, from `prior`.
    fn adapt_from(
        &self,
        prior: &Prior,
        plan: &AdaptPlan,
        observed: &Observed<'_>,
        (sources, config): (Vec<Source>, AdaptConfig),
        watch: &Watch<'_>,
    ) -> Result<AdapterFound> {
        let label = Label { name: observed.name(), serves: vec![observed.content.to_string()] };
        let job = Job { sources, label, config, request: &plan.request, state: StateFile::WhileTraining };
        self.train_or_find(prior, job, watch)
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
        let sources = self.archive(folder, plan, watch)?;
        let label = Label { name, serves: Vec::new() };
        let state = state.map_or(StateFile::InCache, StateFile::At);
        self.train_or_find(
            &prior,
            Job { sources, label, config: plan.config.clone(), request: &plan.request, state },
            watch,
        )
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
        if plan.request.tiles.is_some() {
            return Err(Error::config(
                "adapters that observations share are made from whole images: leave out the tiles, or make an adapter for \
                 each observation",
            ));
        }
        let gallery = self.gallery(path, None, watch)?;
        if gallery.tiles().is_some() {
            return Err(Error::input(
                path,
                "is an index of tiles; adapters that observations share need one of whole images",
            ));
        }
        let mut all = Vec::with_capacity(observations.len());
        for observed in observations {
            all.push(self.nearest(&gallery, &plan.request, observed, None, watch)?);
            report(watch, &Event::Searching { done: all.len(), total: observations.len() })?;
        }
        let groups = group_by_neighbours(&all, overlap);
        let with_files = |group: Group| {
            let files = group.neighbours.iter().map(|n| gallery.file(n.id)).collect::<Result<_>>()?;
            Ok((group, files))
        };
        groups.into_iter().map(with_files).collect()
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
        let sources = self.files(files)?;
        let job = Job {
            sources,
            label,
            config: plan.config.clone(),
            request: &plan.request,
            state: StateFile::WhileTraining,
        };
        self.train_or_find(&prior, job, watch)
    }

    /// Gives an adapter a name and adds the observations it serves, in the cache too if `keep`. One that was in the cache
    /// keeps the name it has there and gets a further one. If the cache refuses, a warning says so.
    ///
    /// # Errors
    /// As [`Engine::prior`]; [`Error::Interrupted`] when the watcher breaks.
    pub fn relabel(&self, found: &mut AdapterFound, label: Label, keep: bool, watch: &Watch<'_>) -> Result<()> {
        let mut info = found.info.clone();
        match found.from_cache {
            true if info.is_named(&label.name) => {}
            true => info.also.push(label.name),
            false => info.name = label.name,
        }
        info.serves.extend(label.serves);
        info.serves.sort();
        info.serves.dedup();
        if info != found.info {
            found.info = info;
            if keep {
                let prior = self.prior(watch)?;
                if let Err(e) = self.cache.keep_adapter(&found.key, &found.adapter, &found.info, &prior) {
                    warn(watch, format!("the name of the adapter is not kept: {e}"))?;
                }
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
        run: &Plan,
        watch: &Watch<'_>,
    ) -> Result<(Arc<Prior>, AdaptationRecord)> {
        let request = &plan.request;
        let base = prior;
        let (prior, start) = self.started(prior, request, observed)?;
        let (images, found) = match &request.target {
            Target::Adapter(reference) => {
                let found = self.kept(&prior, reference, observed)?;
                (found.images.clone(), Ok(found))
            }
            _ => {
                let first = match request.query.is_usual() || !request.shared.is_empty() {
                    true => None,
                    false => Some(self.first_restoration(run, base, watch)?),
                };
                let (sources, config) = self.sources(&prior, plan, observed, first.as_ref(), watch)?;
                let images = sources.iter().map(|source| source.record.clone()).collect();
                let cannot_be_checked = sources.len() < 2 && request.keep == Keep::IfHeldOutImproves;
                let found = if cannot_be_checked {
                    // A plan has said so.
                    if !self.has_one_image(request) {
                        warn(watch, CANNOT_BE_CHECKED)?;
                    }
                    Err(provenance(&prior, &sources, config)?)
                } else {
                    Ok(self.adapt_from(&prior, plan, observed, (sources, config), watch)?)
                };
                (images, found)
            }
        };
        let named = matches!(request.target, Target::Adapter(_));
        let adapted = match &found {
            Ok(found) if found.is_used(request.keep, named) => {
                Some(Arc::new(found.adapter.adapt(&prior, &found.info)?))
            }
            _ => None,
        };
        let mut choice = Choice {
            restore: &run.restore,
            extent: run.extent,
            seed: request.seed,
            sampled: base.clone(),
            start_by_y: None,
            by_y: None,
        };
        let used = match request.keep {
            Keep::Always => {
                match (adapted, &found, &request.target) {
                    (Some(adapted), Ok(_), Target::Adapter(name)) => {
                        let by_y = choice.adapted_as_named(adapted)?;
                        if by_y.is_worse() {
                            let message = format!(
                                "the adapter {} is no better for the observation than the prior: {by_y}. It is used, as \
                                 --adapter names it; --adapt auto takes it only if the observation agrees",
                                name.display()
                            );
                            warn(watch, message)?;
                        }
                    }
                    (adapted, ..) => choice.sampled = adapted.unwrap_or(prior),
                }
                true
            }
            Keep::IfHeldOutImproves => choice.between(start.is_some().then_some(prior), adapted, !named)?,
        };
        let Choice { sampled, start_by_y, by_y, .. } = choice;
        let from_cache = found.as_ref().is_ok_and(|found| found.from_cache);
        let outcome = found.as_ref().ok().and_then(|found| found.info.outcome.clone());
        let name = found.as_ref().map_or_else(|_| observed.name(), |found| found.info.name.clone());
        let provenance = found.as_ref().map_or_else(|untrained| untrained, |found| &found.info.provenance);
        if !(named && request.keep == Keep::Always) {
            report(watch, &Event::Adapted { from_cache, outcome: outcome.clone(), by_y, used })?;
        }
        let from_gallery = request.target.gallery().map(|path| self.gallery(path, request.tiles, watch)).transpose()?;
        let record = AdaptationRecord {
            target: request.target.clone(),
            start,
            start_by_y,
            query: request.query,
            keep: request.keep,
            gallery: from_gallery.as_ref().map(|gallery| gallery.root().to_owned()),
            encoder: from_gallery.as_ref().map(|gallery| (**gallery.encoder().id()).clone()),
            encoder_file: from_gallery.as_ref().and_then(|_| self.encoder_file().map(Path::to_owned)),
            tiles: from_gallery.as_ref().and_then(|gallery| gallery.tiles()),
            neighbours: from_gallery.as_ref().map(|_| request.neighbours),
            closer_than: from_gallery.as_ref().map(|_| request.closer_than),
            images,
            settings: provenance.settings.clone(),
            outcome,
            by_y,
            used,
            from_cache,
            key: provenance.key()?,
            name,
        };
        Ok((sampled, record))
    }

    /// An adapter that is there already.
    pub(super) fn kept(&self, prior: &Prior, reference: &Path, observed: &Observed<'_>) -> Result<AdapterFound> {
        let path = self.cache.find_adapter(reference, Some(&observed.content.to_string()))?;
        let file = WeightFile::open(&path)?;
        let (adapter, info) = (Adapter::load(&file, prior)?, Adapter::info(&file)?);
        let images = info.provenance.images.iter();
        let images = images.map(|&sha256| ImageRecord { path: None, sha256, tile: None, distance: None }).collect();
        Ok(AdapterFound { adapter, key: info.provenance.key()?, info, from_cache: true, kept: true, images })
    }

    /// The key of an adapter that is there already, for an observation with that hash.
    pub(super) fn adapter_key(&self, reference: &Path, content: ContentHash) -> Result<String> {
        let path = self.cache.find_adapter(reference, Some(&content.to_string()))?;
        Adapter::info(&WeightFile::open(&path)?)?.provenance.key()
    }

    fn train_or_find(&self, prior: &Prior, job: Job<'_>, watch: &Watch<'_>) -> Result<AdapterFound> {
        let Job { sources, label, config, request, state } = job;
        config.check(prior.info().size_multiple)?;
        let mut provenance = provenance(prior, &sources, config)?;
        let images: Vec<_> = sources.iter().map(|source| source.record.clone()).collect();
        let of = provenance.key_without_budget()?;
        // Minutes that became a number of steps once are that number for good.
        let note = request.overrides.minutes.map(|minutes| sha256(format!("{of} {minutes}").as_bytes()).to_string());
        let noted = note.as_ref().and_then(|note| {
            let known = self.lock().steps.get(note).copied();
            known.or_else(|| self.cache.steps(note).filter(|_| request.use_cache))
        });
        provenance.settings.iterations = noted.unwrap_or(provenance.settings.iterations);
        let to_time = request.overrides.minutes.filter(|_| noted.is_none());
        let kept = |provenance: &Provenance| -> Result<Option<AdapterFound>> {
            let key = provenance.key()?;
            if !request.shared.is_empty()
                && let Some((adapter, info)) = self.shared_adapter(&key)
            {
                let images = images.clone();
                return Ok(Some(AdapterFound { adapter, info, key, from_cache: true, kept: false, images }));
            }
            if !request.use_cache {
                return Ok(None);
            }
            match self.cache.adapter(&key, prior) {
                Ok(Some((adapter, info))) => {
                    Ok(Some(AdapterFound { adapter, info, key, from_cache: true, kept: true, images: images.clone() }))
                }
                Ok(None) => Ok(None),
                Err(e) => warn(watch, format!("the adapter in the cache is made anew: {e}")).map(|()| None),
            }
        };
        let passing = self.cache.state_path(&format!("{of}.running"));
        if to_time.is_none()
            && let Some(found) = kept(&provenance)?
        {
            if found.kept {
                // Another process was faster than the one that left it.
                passing.iter().for_each(|path| drop(std::fs::remove_file(path)));
            }
            return Ok(found);
        }
        let usable = if request.use_cache { self.cache.check() } else { Ok(()) };
        if let Err(e) = &usable {
            warn(watch, format!("the cache takes nothing, the adapter will not be kept: {e}; see --cache"))?;
        }
        let pictures = held(sources, &provenance.settings, self)?;
        let state_is_cached = !matches!(state, StateFile::At(_));
        let passes = matches!(state, StateFile::WhileTraining);
        let cached = |path: Option<PathBuf>| path.filter(|_| request.use_cache && usable.is_ok());
        let state = match state {
            StateFile::At(path) => Some(path.to_owned()),
            StateFile::InCache => cached(self.cache.state_path(&of)),
            StateFile::WhileTraining => cached(passing),
        };
        let new = || Adaptation::new(prior, pictures.clone(), provenance.settings.clone());
        let every = self.state_every;
        let mut training = Training { run: new()?, of, state, state_is_cached, passes, every, watch };
        training.resume()?;
        if to_time.is_none() && training.run.is_beyond_budget() {
            // A longer training was here before: its weights are not those of a shorter one.
            training = Training { run: new()?, state: None, ..training };
        }
        if let Some(minutes) = to_time {
            let steps = training.steps_in(Duration::from_secs_f64(60.0 * minutes))?;
            training.run.set_budget(steps);
            provenance.settings.iterations = steps;
            if let Some(note) = note {
                if request.use_cache
                    && let Err(e) = self.cache.note_steps(&note, steps)
                {
                    warn(watch, format!("the number of training steps is not kept: {e}"))?;
                }
                self.lock().steps.insert(note, steps);
            }
            if let Some(found) = kept(&provenance)? {
                return Ok(found);
            }
        }
        training.finish()?;
        let (run, passed) = (training.run, training.state.filter(|_| passes));
        let (key, outcome, adapter) = (provenance.key()?, run.held_out(), run.adapter());
        let Label { name, serves } = label;
        let (base, lora) = (provenance.base.clone(), adapter.lora());
        let info = AdapterInfo { name, also: Vec::new(), base, provenance, outcome, lora, serves };
        let kept = match request.use_cache && usable.is_ok() {
            false => false,
            // What took minutes to make is worth using, whatever the disk says.
            true => match self.cache.keep_adapter(&key, &adapter, &info, prior) {
                Ok(()) => true,
                Err(e) => warn(watch, format!("the adapter is not kept: {e}")).map(|()| false)?,
            },
        };
        passed.iter().for_each(|path| drop(std::fs::remove_file(path)));
        if !kept && !request.shared.is_empty() {
            self.share_adapter(&key, &adapter, &info);
        }
        Ok(AdapterFound { adapter, info, key, from_cache: false, kept, images })
    }
}

/// What determines the adapter for these images.
fn provenance(prior: &Prior, sources: &[Source], settings: AdaptConfig) -> Result<Provenance> {
    let compute = prior.params().compute();
    let in_full = compute.dtype == DType::F32 && !compute.bf16_products;
    Ok(Provenance {
        version: Provenance::VERSION,
        base: prior.id()?.to_string(),
        images: sources.iter().map(Source::content).collect(),
        settings,
        computed_in: (!in_full).then(|| format!("{:?}, bf16 products: {}", compute.dtype, compute.bf16_products)),
    })
}

/// An adapter to find or to make.
struct Job<'a> {
    sources: Vec<Source>,
    label: Label,
    config: AdaptConfig,
    request: &'a Adapt,
    state: StateFile<'a>,
}
