//! The methods: simple references, the unadapted prior, and its adaptations.

use std::cell::{OnceCell, RefCell};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Instant;

use crate::adapt::{AdaptConfig, HeldOut, Trained};
use crate::engine::{Adapt, Engine, Keep, Observed, Plan, Request, Target, Watch};
use crate::io::folder::image_files;
use crate::io::hash::hash_file;
use crate::io::image::{Picture, WriteOptions, write_image};
use crate::metric::Metric;
use crate::noise::{Noise, Stream};
use crate::operator::{Degradation, ImageShape, bicubic_upsample};
use crate::task::{Method as Solver, Preset, Task};
use crate::tensor::Tensor;
use crate::{Error, Result};
use serde_json::{Value, json};

use super::cell::{Cell, measure};
use super::task::EvalTask;
use super::{Truth, key};

/// A way to restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Method {
    /// The observation itself, if it has the size of the image
    Observed,
    /// Bicubic interpolation (super-resolution)
    Bicubic,
    /// A Wiener filter tuned on the same images (deblurring)
    Wiener,
    /// The unadapted prior
    None,
    /// The prior adapted to the observation itself (IA), with the preset's settings
    Itself,
    /// The prior adapted to random images, with the preset's settings
    Random,
    /// The prior adapted to the nearest images, training all weights
    Knn,
    /// The prior adapted to the nearest images, training low-rank factors
    Lora,
    /// As lora or knn, whichever the preset uses, with one adapter per group of observations with similar neighbours
    Shared,
    /// The prior adapted to the nearest images with the preset's settings, if held-out images are then denoised better
    Auto,
    /// The prior with the adapter of --adapter
    Adapter,
    /// The unadapted prior with this solver, by its own settings
    Solver(Solver),
    /// The unadapted prior with the preset paper
    Paper,
}

/// Result of a method.
pub struct Made {
    /// One or several samples.
    pub samples: Vec<Tensor<4>>,
    /// Their mean.
    pub mean: Tensor<4>,
    /// How long it took.
    pub seconds: f64,
    /// What held-out images say of the adaptation, if any were held out.
    pub held_out: Option<HeldOut>,
}

/// What all methods of an evaluation have in common.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EvalConfig {
    /// The gallery of the methods knn, lora, shared and auto: a folder, or an index.
    pub gallery: Option<PathBuf>,
    /// The folder from which the method random takes its images.
    pub random_from: Option<PathBuf>,
    /// The adapter of the method adapter.
    pub adapter: Option<PathBuf>,
    /// Samples per image.
    pub samples: usize,
    /// Sampling steps, where they are not those of the preset or solver.
    pub steps: Option<String>,
    /// Named settings.
    pub preset: Preset,
    /// The factors of the method lora.
    pub lora: Trained,
    /// Of the method shared: the share of their nearest images that observations of a group have in common.
    pub overlap: f64,
    /// Settings of all adaptations; the methods set what it is to, and what is trained.
    pub adapt: Adapt,
}

impl EvalConfig {
    /// Four samples with the preset fast, without a gallery.
    pub fn new() -> Self {
        Self {
            gallery: None,
            random_from: None,
            adapter: None,
            samples: 4,
            steps: None,
            preset: Preset::Fast,
            lora: AdaptConfig::fast().trained.low_rank(),
            overlap: 0.25,
            adapt: Adapt::to_itself(),
        }
    }

    /// What the method lacks, in the words of the command line.
    pub fn lacks(&self, method: Method) -> Option<&'static str> {
        match method {
            Method::Knn | Method::Lora | Method::Shared | Method::Auto if self.gallery.is_none() => {
                Some("--gallery FOLDER")
            }
            Method::Adapter if self.adapter.is_none() => Some("--adapter ADAPTER"),
            Method::Random if self.random_from.is_none() => Some("--random-from FOLDER"),
            _ => None,
        }
    }

    fn request(&self, target: Target, keep: Keep, trained: Option<Trained>) -> Adapt {
        let mut adapt = Adapt { target, keep, ..self.adapt.clone() };
        adapt.overrides.trained = trained;
        adapt
    }
}

impl Default for EvalConfig {
    fn default() -> Self {
        Self::new()
    }
}

/// What all cells of a set, task and seed have in common.
pub struct Bench<'a> {
    /// The settings.
    pub config: &'a EvalConfig,
    /// The engine that restores.
    pub engine: &'a Engine,
    /// The task.
    pub task: &'a EvalTask,
    /// The seed of everything that is random.
    pub seed: u64,
    /// The truths.
    pub images: &'a [Truth],
    /// The metrics.
    pub metrics: &'a [Box<dyn Metric>],
    /// Takes the engine's events.
    pub watch: &'a Watch<'a>,
    /// Of every image.
    observations: Vec<Tensor<4>>,
    /// What stands for the gallery in keys.
    gallery_key: OnceCell<Value>,
    /// For every observation, the images that its group shares; found when they are needed.
    shared: RefCell<Vec<Vec<PathBuf>>>,
    /// Where the task is a blur.
    wiener_ratio: Option<f64>,
}

impl FromStr for Method {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .iter()
            .find(|(_, name)| *name == text)
            .map(|(method, _)| *method)
            .ok_or_else(|| Error::config(format!("unknown method {text:?}")))
    }
}

impl Method {
    /// All of them, in the order of the tables, with their names.
    pub const ALL: [(Self, &'static str); 21] = [
        (Self::Observed, "observed"),
        (Self::Bicubic, "bicubic"),
        (Self::Wiener, "wiener"),
        (Self::None, "none"),
        (Self::Itself, "self"),
        (Self::Random, "random"),
        (Self::Knn, "knn"),
        (Self::Lora, "lora"),
        (Self::Shared, "shared"),
        (Self::Auto, "auto"),
        (Self::Adapter, "adapter"),
        Self::of_solver(Solver::Staged),
        Self::of_solver(Solver::FewStep),
        Self::of_solver(Solver::Ancestral),
        (Self::Paper, "paper"),
        Self::of_solver(Solver::Ddnm),
        Self::of_solver(Solver::Ddrm),
        Self::of_solver(Solver::Diffpir),
        Self::of_solver(Solver::Dps),
        Self::of_solver(Solver::Pigdm),
        Self::of_solver(Solver::Daps),
    ];

    const fn of_solver(solver: Solver) -> (Self, &'static str) {
        (Self::Solver(solver), solver.name())
    }

    /// Whether it is one of those that restore with the prior as it is, by settings of its own.
    pub fn is_solver(self) -> bool {
        matches!(self, Self::Solver(_) | Self::Paper)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(method, _)| *method == self).map_or("", |(_, name)| name)
    }

    /// Whether it applies to the task.
    pub fn suits(self, task: &EvalTask) -> bool {
        match self {
            Self::Observed => matches!(task.task, Task::Deblur | Task::Denoise),
            Self::Bicubic => matches!(task.task, Task::SuperResolution { .. }),
            Self::Wiener => matches!(task.degradation, Degradation::Blur { .. }),
            _ => true,
        }
    }

    /// Whether it restores with the prior.
    fn uses_prior(self) -> bool {
        !matches!(self, Self::Observed | Self::Bicubic | Self::Wiener)
    }
}

impl<'a> Bench<'a> {
    /// The methods' common ground: degrades the images.
    ///
    /// # Errors
    /// Those of the operator.
    pub fn new(
        (config, engine): (&'a EvalConfig, &'a Engine),
        task: &'a EvalTask,
        seed: u64,
        images: &'a [Truth],
        metrics: &'a [Box<dyn Metric>],
        watch: &'a Watch<'a>,
    ) -> Result<Self> {
        let observations =
            images.iter().map(|truth| task.observe(&truth.x, truth.noise(seed))).collect::<Result<_>>()?;
        Ok(Self {
            config,
            engine,
            task,
            seed,
            images,
            metrics,
            watch,
            observations,
            gallery_key: OnceCell::new(),
            shared: RefCell::default(),
            wiener_ratio: task.tuned_wiener(images)?,
        })
    }

    /// The observation of image `i`.
    pub fn observation(&self, i: usize) -> &Tensor<4> {
        &self.observations[i]
    }

    /// The result of one cell, that of image `i` of `set`, and the picture of its first sample: as kept in the folder
    /// `cells`, or made now and kept.
    ///
    /// # Errors
    /// Those of the method and of the metrics.
    pub fn kept_or_measured(&self, cells: &Path, set: &str, method: Method, i: usize) -> Result<(Cell, PathBuf)> {
        let (task, seed, truth) = (self.task, self.seed, &self.images[i]);
        let (shape, of_method) = (ImageShape::of_batch(&truth.x), self.describe(method, i)?);
        let made_from =
            key::made_from(&truth.content.to_string(), shape, task, truth.noise(seed), self.metrics, of_method)?;
        let key = key::name(&made_from);
        let (file, shown) = (cells.join(format!("{key}.json")), cells.join(format!("{key}.png")));
        if let Some(cell) = Cell::read(&file)?.filter(|_| shown.is_file()) {
            // The key knows contents only: set, image and method may have had other names.
            let method = method.name().to_owned();
            return Ok((Cell { set: set.to_owned(), image: truth.name.clone(), method, ..cell }, shown));
        }
        let made = self.make(method, i)?;
        let cell = Cell {
            set: set.to_owned(),
            task: task.text.clone(),
            image: truth.name.clone(),
            method: method.name().to_owned(),
            seed,
            seconds: made.seconds,
            held_out: made.held_out.clone(),
            measured: measure(self.metrics, &made, task, &truth.x, &self.observations[i])?,
            made_from,
        };
        write_image(&shown, &made.samples[0], &WriteOptions::default())?;
        cell.write(&file)?;
        Ok((cell, shown))
    }

    /// Why a solver is not for this task, if it is not.
    pub fn refusal(&self, method: Method) -> Option<String> {
        match self.plan(method, 0) {
            Err(Error::Config(reason)) if method.is_solver() => Some(reason.to_string()),
            _ => None,
        }
    }

    /// Everything but image, task and noise that determines what the method makes of image `i`.
    fn describe(&self, method: Method, i: usize) -> Result<Value> {
        // A solver is its settings: those of the preset are not computed twice.
        let name = if method.is_solver() { Method::None.name() } else { method.name() };
        if !method.uses_prior() {
            return Ok(match method {
                Method::Wiener => json!({"name": name, "ratio": self.wiener_ratio}),
                _ => json!({"name": name}),
            });
        }
        let plan = self.plan(method, i)?;
        let (device, dtype) = self.engine.placement();
        let model = self.engine.prior(self.watch)?.id()?.to_string();
        let mut all = json!({
            "name": name, "model": model, "settings": key::settings(plan.restore())?, "samples": self.config.samples,
            "seed": self.seed, "device": device, "dtype": dtype,
        });
        let Some(adapt) = plan.adaptation() else { return Ok(all) };
        match &adapt.request().target {
            Target::Adapter(reference) => {
                all["adapter"] = json!(hash_file(&self.engine.cache().find_adapter(reference, None)?)?.1);
                return Ok(all);
            }
            Target::Images(files) => all["images"] = json!(key::contents(files)?),
            Target::Itself => {}
            _ => {
                let settings = &self.config.adapt;
                all["gallery"] = self.gallery_key()?;
                all["nearest"] = json!({"neighbours": settings.neighbours, "closer_than": settings.closer_than});
            }
        }
        all["adaptation"] = json!(adapt.config());
        Ok(all)
    }

    /// What the prior is adapted to for image `i`.
    fn adaptation(&self, method: Method, i: usize) -> Result<Option<Adapt>> {
        let gallery = || {
            let gallery = self.config.gallery.clone();
            gallery.map(Target::Gallery).ok_or_else(|| Error::config("this method needs --gallery FOLDER"))
        };
        let (target, keep, trained) = match method {
            Method::Observed | Method::Bicubic | Method::Wiener => return Ok(None),
            Method::None | Method::Solver(_) | Method::Paper => return Ok(None),
            Method::Itself => (Target::Itself, Keep::Always, None),
            Method::Random => (Target::Images(self.random_images(&self.images[i])?), Keep::Always, None),
            Method::Knn => (gallery()?, Keep::Always, Some(Trained::Full)),
            Method::Lora => (gallery()?, Keep::Always, Some(self.config.lora)),
            Method::Shared => (Target::Images(self.shared_images(i)?), Keep::Always, None),
            Method::Auto => (gallery()?, Keep::IfHeldOutImproves, None),
            Method::Adapter => {
                let adapter = self.config.adapter.clone();
                let adapter = adapter.ok_or_else(|| Error::config("the method adapter needs --adapter ADAPTER"))?;
                (Target::Adapter(adapter), Keep::Always, None)
            }
        };
        let mut adapt = self.config.request(target, keep, trained);
        // Each seed repeats everything that is random.
        adapt.seed = adapt.seed.wrapping_add(self.seed);
        // The truth is not to be found in the gallery.
        adapt.exclude = vec![self.images[i].content];
        // The cell itself is kept; tens of megabytes of weights per cell would fill the disk. Groups share theirs.
        adapt.use_cache = method == Method::Shared;
        Ok(Some(adapt))
    }

    /// The checked restoration of the observation of image `i`.
    fn plan(&self, method: Method, i: usize) -> Result<Plan> {
        let (task, truth, y) = (self.task, &self.images[i], &self.observations[i]);
        let mut problem = task.problem.clone();
        problem.mask = task.mask(ImageShape::of_batch(&truth.x))?.map(Into::into);
        let picture = Picture::from_tensor(y.clone());
        let mut request = Request::new(picture, problem).preset(self.config.preset).seed(self.seed);
        request.sampling.samples = self.config.samples;
        request.sampling.overrides.steps = self.config.steps.clone();
        match method {
            Method::Solver(solver) => request.sampling.overrides.method = Some(solver),
            Method::Paper => request.sampling.preset = Preset::Paper,
            _ => {}
        }
        request.adapt = self.adaptation(method, i)?;
        self.engine.plan(&request)
    }

    /// Restores the observation of image `i`.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn make(&self, method: Method, i: usize) -> Result<Made> {
        let (task, truth, y) = (self.task, &self.images[i], &self.observations[i]);
        let start = Instant::now();
        let single = |x: Tensor<4>| Made {
            mean: x.clone(),
            samples: vec![x],
            seconds: start.elapsed().as_secs_f64(),
            held_out: None,
        };
        match (method, task.task, self.wiener_ratio) {
            (Method::Bicubic, Task::SuperResolution { factor }, _) => return Ok(single(bicubic_upsample(y, factor)?)),
            (Method::Wiener, _, Some(ratio)) => {
                return Ok(single(task.filtered(task.operator(&truth.x)?.as_ref(), y, ratio)?));
            }
            (Method::Observed, ..) => return Ok(single(y.clone())),
            _ if method.uses_prior() => {}
            _ => return Err(Error::config(format!("the method {} is not for the task {}", method.name(), task.text))),
        }
        let restored = self.engine.run(&self.plan(method, i)?, self.watch)?;
        let mean = restored.mean.tensor;
        let samples: Vec<_> = restored.samples.into_iter().map(|picture| picture.tensor).collect();
        let samples = if samples.is_empty() { vec![mean.clone()] } else { samples };
        let held_out = restored.record.adaptation.and_then(|adaptation| adaptation.outcome);
        Ok(Made { samples, mean, seconds: start.elapsed().as_secs_f64(), held_out })
    }

    /// What stands for the gallery in keys.
    fn gallery_key(&self) -> Result<Value> {
        if let Some(known) = self.gallery_key.get() {
            return Ok(known.clone());
        }
        let path = self.config.gallery.as_ref().ok_or_else(|| Error::config("no gallery"))?;
        let gallery = self.engine.gallery(path, self.config.adapt.tiles, self.watch)?;
        let found = key::gallery(gallery.index()?)?;
        Ok(self.gallery_key.get_or_init(|| found).clone())
    }

    /// The images that the group of observation `i` shares.
    fn shared_images(&self, i: usize) -> Result<Vec<PathBuf>> {
        let mut shared = self.shared.borrow_mut();
        if shared.is_empty() {
            let gallery = self.config.gallery.clone().ok_or_else(|| Error::config("no gallery"))?;
            let request = self.config.request(Target::Gallery(gallery), Keep::Always, None);
            let plan = self.engine.plan_adaptation(&request, self.config.preset)?;
            let observed = self.observations.iter().zip(self.images);
            let observed: Vec<_> =
                observed.map(|(y, truth)| Observed { y, file: None, content: truth.content }).collect();
            let groups = self.engine.group(&plan, &observed, self.config.overlap, self.watch)?;
            *shared = vec![Vec::new(); self.images.len()];
            for (group, files) in groups {
                for member in group.members {
                    shared[member].clone_from(&files);
                }
            }
        }
        Ok(shared[i].clone())
    }

    fn random_images(&self, truth: &Truth) -> Result<Vec<PathBuf>> {
        let folder = self.config.random_from.clone().unwrap_or_default();
        let mut names = image_files(&folder)?.files;
        let own = truth.content.to_string().bytes().take(4).fold(0u32, |all, byte| all << 8 | u32::from(byte));
        let noise = Noise::new(self.seed, Stream::Evaluation);
        let count = self.config.adapt.neighbours.min(names.len());
        Ok((0..count).map(|k| folder.join(names.swap_remove(noise.below(own, k as u32, names.len())))).collect())
    }
}
