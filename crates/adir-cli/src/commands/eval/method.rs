//! What is compared: simple methods, the unadapted prior, and its adaptations.

use std::cell::{OnceCell, RefCell};
use std::path::PathBuf;
use std::time::Instant;

use adir::adapt::{AdaptConfig, Adapter, HeldOut};
use adir::io::folder::image_files;
use adir::io::hash::hash_file;
use adir::metric::Metric;
use adir::models::guided_diffusion::GuidedDiffusion;
use adir::noise::{Noise, Stream};
use adir::operator::{Degradation, ImageShape, bicubic_upsample, wiener};
use adir::restore::{RestoreConfig, RestorePlan};
use adir::retrieve::{Group, group_by_neighbours};
use adir::schedule::NoiseLevel;
use adir::task::{Overrides, Preset, Task};
use adir::tensor::Tensor;
use adir::{Error, Result};
use clap::ValueEnum;
use serde_json::{Value, json};

use super::task::EvalTask;
use super::{EvalArgs, Truth, key};
use crate::adaptation::{AdaptArgs, Base, Gallery, Label, Mode, Observed, verdict_of};
use crate::log::Log;
use crate::samples::{draw, facts};

/// A way to restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Method {
    /// The observation itself, where it has the size of the image
    Observed,
    /// Bicubic interpolation (super-resolution)
    Bicubic,
    /// A Wiener filter, tuned on the images it is measured on (deblurring)
    Wiener,
    /// The prior as it is
    None,
    /// The prior adapted to the observation as the preset says (IA)
    #[value(name = "self")]
    Itself,
    /// The prior adapted to random images as the preset says
    Random,
    /// The prior adapted to the nearest images, all weights
    Knn,
    /// The prior adapted to the nearest images, low-rank factors
    Lora,
    /// The same as the preset says, one adaptation for all observations of the set that have much of their nearest images
    /// in common
    Shared,
    /// The prior adapted to the nearest images as the preset says, where held-out ones are then denoised better
    Auto,
    /// The prior with the adapter given by --adapter
    Adapter,
}

/// What a method made.
pub struct Made {
    /// One or several samples.
    pub samples: Vec<Tensor<4>>,
    /// Their mean.
    pub mean: Tensor<4>,
    pub seconds: f64,
    pub held_out: Option<HeldOut>,
}

/// What all cells of a set, task and seed have in common.
pub struct Bench<'a> {
    pub args: &'a EvalArgs,
    pub task: &'a EvalTask,
    pub seed: u64,
    pub images: &'a [Truth],
    /// Of every image.
    pub observations: Vec<Tensor<4>>,
    /// Opened when it is needed.
    pub gallery: &'a OnceCell<Gallery>,
    /// What stands for it in keys.
    pub gallery_key: &'a OnceCell<Value>,
    /// The restoration of every image, without what the model is adapted to; made when it is needed.
    pub plans: Vec<OnceCell<RestorePlan>>,
    /// Observations that share an adaptation, and their adapters so far; found when they are needed.
    pub shared: RefCell<Vec<(Group, Option<Adapter>)>>,
    pub model: &'a GuidedDiffusion,
    pub model_sha256: &'a str,
    pub preset: Preset,
    pub steps: Option<String>,
    /// The file of the method adapter, and the model with it.
    pub adapter: Option<(PathBuf, GuidedDiffusion)>,
    pub metrics: &'a [Box<dyn Metric>],
    /// Where the task is a blur.
    pub wiener_ratio: Option<f64>,
}

impl Method {
    /// All of them, in the order of the tables.
    pub const ALL: [Self; 11] = [
        Self::Observed,
        Self::Bicubic,
        Self::Wiener,
        Self::None,
        Self::Itself,
        Self::Random,
        Self::Knn,
        Self::Lora,
        Self::Shared,
        Self::Auto,
        Self::Adapter,
    ];

    /// As on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned())
    }

    /// Whether it has a meaning for that task.
    pub fn suits(self, task: &EvalTask) -> bool {
        match self {
            Self::Observed => matches!(task.task, Task::Deblur | Task::Denoise),
            Self::Bicubic => matches!(task.task, Task::SuperResolution { .. }),
            Self::Wiener => matches!(task.degradation, Degradation::Blur { .. }),
            _ => true,
        }
    }

    /// How the prior is adapted; `None` for methods without it.
    fn mode(self) -> Option<Mode> {
        match self {
            Self::Observed | Self::Bicubic | Self::Wiener => None,
            Self::None | Self::Adapter => Some(Mode::None),
            Self::Itself => Some(Mode::Itself),
            Self::Random | Self::Knn | Self::Lora | Self::Shared => Some(Mode::Gallery),
            Self::Auto => Some(Mode::Auto),
        }
    }
}

impl Bench<'_> {
    /// Everything but image, task and noise that determines what the method makes of image `i`.
    pub fn describe(&self, method: Method, i: usize, log: &Log) -> Result<Value> {
        let name = method.name();
        let Some(mode) = method.mode() else {
            return Ok(match method {
                Method::Wiener => json!({"name": name, "ratio": self.wiener_ratio}),
                _ => json!({"name": name}),
            });
        };
        let mut all = json!({
            "name": name, "model": self.model_sha256, "settings": key::settings(self.plan(i)?)?, "samples": self.args.samples,
            "seed": self.seed, "device": self.args.model.device, "dtype": self.args.model.dtype.name(),
        });
        if let (Method::Adapter, Some((path, _))) = (method, &self.adapter) {
            all["adapter"] = json!(hash_file(path)?.1.to_string());
        }
        if mode != Mode::None {
            all["adaptation"] = json!(self.adaptation(method).1);
        }
        if method == Method::Random {
            all["images"] = json!(key::contents(&self.random_images(&self.images[i])?)?);
        } else if let Mode::Gallery | Mode::Auto = mode {
            let settings = &self.args.settings;
            all["gallery"] = self.gallery_key(&self.adaptation(method).0, log)?;
            all["nearest"] = json!({"neighbours": settings.neighbours, "closer_than": settings.closer_than});
        }
        if method == Method::Shared {
            let images: Vec<_> = self.images.iter().map(|truth| &truth.sha256).collect();
            all["together"] = json!({"images": images, "overlap": self.args.overlap});
        }
        Ok(all)
    }

    fn adaptation(&self, method: Method) -> (AdaptArgs, AdaptConfig) {
        let mode = method.mode().unwrap_or(Mode::None);
        let args = AdaptArgs {
            gallery: self.args.gallery.clone(),
            adapt: Some(mode),
            prompt: None,
            settings: self.args.settings.clone(),
            lora: (method == Method::Lora).then_some(self.args.lora),
            full: method == Method::Knn,
            store: self.args.store.clone(),
            // A cell is kept itself; keeping tens of megabytes of weights for each would fill the disk.
            no_cache: true,
        };
        let config = args.config(mode, self.preset, self.seed);
        (args, config)
    }

    /// Restores the observation of image `i`.
    pub fn make(&self, method: Method, i: usize, log: &Log) -> Result<Made> {
        let (task, truth, y) = (self.task, &self.images[i], &self.observations[i]);
        let start = Instant::now();
        let single = |x: Tensor<4>| Made {
            mean: x.clone(),
            samples: vec![x],
            seconds: start.elapsed().as_secs_f64(),
            held_out: None,
        };
        match (method, &task.degradation, self.wiener_ratio) {
            (Method::Bicubic, Degradation::SuperResolution { factor }, _) => {
                return Ok(single(bicubic_upsample(y, *factor)?));
            }
            (Method::Wiener, _, Some(ratio)) => {
                return Ok(single(wiener(task.operator(&truth.x)?.as_ref(), y, ratio)?));
            }
            (Method::Observed, ..) => return Ok(single(y.clone())),
            _ => {}
        }
        let (args, config) = self.adaptation(method);
        let base = Base { model: self.model, sha256: self.model_sha256 };
        let mut held_out = None;
        let model = match (method, &self.adapter) {
            (Method::Adapter, Some((_, model))) => model.clone(),
            (Method::Random, _) => {
                let label = Label { name: truth.name.clone(), serves: Vec::new() };
                let found = args.adapted_to(&base, &self.random_images(truth)?, label, config, log)?;
                base.with(&found.adapter)?
            }
            (Method::Shared, _) => base.with(&self.shared_adapter(i, &base, &args, config, log)?)?,
            _ => match method.mode() {
                None | Some(Mode::None) => self.model.clone(),
                Some(mode) => {
                    // The truth is not to be found in the gallery: its file is known by its content.
                    let observed = Observed { file: &truth.path, y };
                    let gallery = if mode == Mode::Itself { None } else { Some(self.gallery(&args, log)?) };
                    let found = args.find(&base, gallery, &observed, config, log)?;
                    held_out = verdict_of(&found.info);
                    match held_out {
                        Some(verdict) if !verdict.helped() => self.model.clone(),
                        _ => base.with(&found.adapter)?,
                    }
                }
            },
        };
        let (samples, mean) = draw(self.plan(i)?, &model, usize::from(self.args.samples), log)?;
        Ok(Made { samples, mean, seconds: start.elapsed().as_secs_f64(), held_out })
    }

    /// The checked restoration of the observation of image `i`.
    fn plan(&self, i: usize) -> Result<&RestorePlan> {
        if let Some(plan) = self.plans[i].get() {
            return Ok(plan);
        }
        let (task, truth) = (self.task, &self.images[i]);
        let request = RestoreConfig {
            task: task.task,
            degradation: task.degradation.clone(),
            mask: task.mask(ImageShape::of(&truth.x))?,
            sigma: task.sigma,
            rounding: NoiseLevel(0.0),
            preset: self.preset,
            overrides: Overrides { steps: self.steps.clone(), ..Overrides::default() },
            seed: self.seed,
            class: None,
        };
        let plan = request.plan(self.observations[i].clone(), &facts(self.model.config())?)?;
        Ok(self.plans[i].get_or_init(|| plan))
    }

    /// What stands for the gallery in keys.
    fn gallery_key(&self, args: &AdaptArgs, log: &Log) -> Result<Value> {
        if let Some(known) = self.gallery_key.get() {
            return Ok(known.clone());
        }
        let found = key::gallery(self.gallery(args, log)?.index())?;
        Ok(self.gallery_key.get_or_init(|| found).clone())
    }

    fn gallery(&self, args: &AdaptArgs, log: &Log) -> Result<&Gallery> {
        if self.gallery.get().is_none() {
            let opened = args.open_gallery(Mode::Gallery, log)?;
            let opened = opened.ok_or_else(|| Error::config("the nearest images need --gallery FOLDER"))?;
            let _ = self.gallery.set(opened);
        }
        self.gallery.get().ok_or_else(|| Error::config("no gallery"))
    }

    /// The adapter of the group that observation `i` belongs to.
    fn shared_adapter(
        &self,
        i: usize,
        base: &Base,
        args: &AdaptArgs,
        config: AdaptConfig,
        log: &Log,
    ) -> Result<Adapter> {
        let gallery = self.gallery(args, log)?;
        let mut shared = self.shared.borrow_mut();
        if shared.is_empty() {
            let nearest = self
                .images
                .iter()
                .zip(&self.observations)
                .map(|(truth, y)| gallery.nearest(&Observed { file: &truth.path, y }, args));
            let groups = group_by_neighbours(&nearest.collect::<Result<Vec<_>>>()?, self.args.overlap);
            log.info(&format!("{} observations in {} groups", self.images.len(), groups.len()));
            shared.extend(groups.into_iter().map(|group| (group, None)));
        }
        let own = shared.iter_mut().find(|(group, _)| group.members.contains(&i));
        let (group, adapter) = own.ok_or_else(|| Error::config("an observation is in no group"))?;
        if let Some(adapter) = adapter {
            return Ok(adapter.clone());
        }
        let label = Label { name: "group".into(), serves: Vec::new() };
        let found = args.adapted_to(base, &gallery.files(&group.neighbours), label, config, log)?;
        Ok(adapter.insert(found.adapter).clone())
    }

    /// As many random images as there would be neighbours, others for every image and seed.
    fn random_images(&self, truth: &Truth) -> Result<Vec<PathBuf>> {
        let folder = self.args.random_from.clone().unwrap_or_default();
        let mut names = image_files(&folder)?;
        let own = truth.sha256.bytes().take(4).fold(0u32, |all, byte| all << 8 | u32::from(byte));
        let noise = Noise::new(self.seed, Stream::Evaluation);
        let count = usize::from(self.args.settings.neighbours).min(names.len());
        Ok((0..count).map(|k| folder.join(names.swap_remove(noise.below(own, k as u32, names.len())))).collect())
    }
}
