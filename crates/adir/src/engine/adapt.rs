//! Adapting the prior: which images, from the cache or by training, and whether the result is used.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::event::{Event, Watch, report, warn};
use super::gallery::{Found, Gallery};
use super::open::Engine;
use super::record::{AdaptationRecord, ImageRecord};
use super::request::{Adapt, Keep, Target};
use crate::adapt::{AdaptConfig, Adaptation, Adapter, AdapterInfo, CropScale, Provenance, adaptation_memory};
use crate::encode::Embedding;
use crate::io::image::read_image;
use crate::io::weights::WeightFile;
use crate::models::{Denoiser, Prior};
use crate::optim::Workers;
use crate::retrieve::{ContentHash, Group, Neighbour, group_by_neighbours};
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
            Keep::IfHeldOutImproves => self.info.outcome.is_none_or(|outcome| outcome.helped()),
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
        let config = request.config(preset);
        config.check(header.info().size_multiple)?;
        let memory = match request.target {
            Target::Adapter(_) => 0,
            _ => adaptation_memory(header.network().as_ref(), &config, Workers::available()),
        };
        self.check_memory(memory)?;
        Ok(AdaptPlan { request: request.clone(), config, memory })
    }

    /// The adapter for `observed`: from the cache, or made now and kept there.
    ///
    /// # Errors
    /// [`Error::Input`] when images are missing or damaged, [`Error::Numerical`] when the training diverges,
    /// [`Error::Interrupted`] when the watcher breaks; as [`Engine::prior`] and [`Engine::gallery`].
    pub fn adapt(&self, plan: &AdaptPlan, observed: &Observed<'_>, watch: &Watch<'_>) -> Result<AdapterFound> {
        let prior = self.prior(watch)?;
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
        self.train_or_find(&prior, sources, label, config, plan.request.use_cache, watch)
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
        self.train_or_find(&prior, sources, label, plan.config.clone(), plan.request.use_cache, watch)
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
        let found = match &request.target {
            Target::Adapter(reference) => self.kept(prior, reference, observed)?,
            _ => self.adapt(plan, observed, watch)?,
        };
        let used = found.is_used(request.keep);
        let given = matches!(request.target, Target::Adapter(_));
        if !given {
            report(watch, &Event::Adapted { from_cache: found.from_cache, outcome: found.info.outcome, used })?;
        }
        let from_gallery = request.target.gallery().map(|path| self.gallery(path, watch)).transpose()?;
        let record = AdaptationRecord {
            target: request.target.clone(),
            keep: request.keep,
            gallery: from_gallery.as_ref().map(|gallery| gallery.index().root().to_owned()),
            encoder: from_gallery.as_ref().map(|gallery| (**gallery.encoder().id()).clone()),
            neighbours: from_gallery.as_ref().map(|_| request.neighbours),
            closer_than: from_gallery.as_ref().map(|_| request.closer_than),
            images: found.images.clone(),
            settings: found.info.provenance.settings.clone(),
            outcome: found.info.outcome,
            used,
            from_cache: found.from_cache,
            key: found.key.clone(),
            name: found.info.name.clone(),
        };
        let prior =
            if used { Arc::new(prior.with_params(found.adapter.apply(prior.params())?)) } else { prior.clone() };
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

    fn train_or_find(
        &self,
        prior: &Prior,
        sources: Vec<Source>,
        label: Label,
        config: AdaptConfig,
        use_cache: bool,
        watch: &Watch<'_>,
    ) -> Result<AdapterFound> {
        config.check(prior.info().size_multiple)?;
        let compute = prior.params().compute();
        let in_full = compute.dtype == DType::F32 && !compute.bf16_products;
        let provenance = Provenance {
            version: Provenance::VERSION,
            base: prior.id()?.to_string(),
            images: sources.iter().map(|source| source.record.sha256).collect(),
            settings: config.clone(),
            computed_in: (!in_full).then(|| format!("{:?}, bf16 products: {}", compute.dtype, compute.bf16_products)),
        };
        let key = provenance.key()?;
        let images: Vec<_> = sources.iter().map(|source| source.record.clone()).collect();
        if use_cache {
            match self.cache.adapter(&key, prior) {
                Ok(Some((adapter, info))) => return Ok(AdapterFound { adapter, info, key, from_cache: true, images }),
                Ok(None) => {}
                Err(e) => warn(watch, format!("the kept adapter is made anew: {e}"))?,
            }
        }
        let pixels = |source: Source| match (source.pixels, source.path) {
            (Some(pixels), _) => Ok(pixels),
            (None, Some(path)) => Ok(read_image(&path, &self.limits)?.tensor),
            (None, None) => Err(Error::config("an image without pixels and file")),
        };
        let pictures = sources.into_iter().map(pixels).collect::<Result<Vec<_>>>()?;
        let mut run = Adaptation::new(prior, pictures, config)?;
        let total = run.total();
        for step in run.by_ref() {
            let step = step?;
            let (timestep, loss) = (step.timestep.0, step.loss);
            report(watch, &Event::Adapting { step: step.step, total, timestep, loss })?;
        }
        let outcome = run.held_out()?;
        let adapter = run.adapter();
        let Label { name, serves } = label;
        let (base, lora) = (provenance.base.clone(), adapter.lora());
        let info = AdapterInfo { name, base, provenance, outcome, lora, serves };
        if use_cache && let Err(e) = self.cache.keep_adapter(&key, &adapter, &info, prior) {
            // What took minutes to make is worth using, whatever the disk says.
            warn(watch, format!("the adapter is not kept: {e}"))?;
        }
        Ok(AdapterFound { adapter, info, key, from_cache: false, images })
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
