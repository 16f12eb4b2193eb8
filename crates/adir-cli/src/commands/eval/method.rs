//! What is compared: simple methods, the unadapted prior, and its adaptations.

use std::cell::{OnceCell, RefCell};
use std::path::PathBuf;
use std::time::Instant;

use adir::adapt::{HeldOut, Trained};
use adir::engine::{Adapt, Engine, Keep, Observed, Plan, Request, Target};
use adir::io::folder::image_files;
use adir::io::hash::hash_file;
use adir::io::image::Picture;
use adir::metric::Metric;
use adir::noise::{Noise, Stream};
use adir::operator::{Degradation, ImageShape, bicubic_upsample, wiener};
use adir::retrieve::ContentHash;
use adir::task::Task;
use adir::tensor::Tensor;
use adir::{Error, Result};
use clap::ValueEnum;
use serde_json::{Value, json};

use super::task::EvalTask;
use super::{EvalArgs, Truth, key};
use crate::adaptation::low_rank;
use crate::watch::Watcher;

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
    pub engine: &'a Engine,
    pub task: &'a EvalTask,
    pub seed: u64,
    pub images: &'a [Truth],
    /// Of every image.
    pub observations: Vec<Tensor<4>>,
    /// What stands for the gallery in keys.
    pub gallery_key: &'a OnceCell<Value>,
    /// For every observation, the images that its group shares; found when they are needed.
    pub shared: RefCell<Vec<Vec<PathBuf>>>,
    pub metrics: &'a [Box<dyn Metric>],
    /// Where the task is a blur.
    pub wiener_ratio: Option<f64>,
    pub watcher: &'a Watcher,
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

    /// Whether it restores with the prior.
    fn uses_prior(self) -> bool {
        !matches!(self, Self::Observed | Self::Bicubic | Self::Wiener)
    }
}

impl Bench<'_> {
    /// Everything but image, task and noise that determines what the method makes of image `i`.
    pub fn describe(&self, method: Method, i: usize) -> Result<Value> {
        let name = method.name();
        if !method.uses_prior() {
            return Ok(match method {
                Method::Wiener => json!({"name": name, "ratio": self.wiener_ratio}),
                _ => json!({"name": name}),
            });
        }
        let plan = self.plan(method, i)?;
        let (device, dtype) = self.engine.placement();
        let model = self.engine.prior(&|event| self.watcher.see(event))?.id()?.to_string();
        let mut all = json!({
            "name": name, "model": model, "settings": key::settings(plan.restore())?, "samples": self.args.samples,
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
                let settings = &self.args.settings;
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
            let gallery = self.args.gallery.clone();
            gallery.map(Target::Gallery).ok_or_else(|| Error::config("the nearest images need --gallery FOLDER"))
        };
        let (target, keep, trained) = match method {
            Method::Observed | Method::Bicubic | Method::Wiener | Method::None => return Ok(None),
            Method::Itself => (Target::Itself, Keep::Always, None),
            Method::Random => (Target::Images(self.random_images(&self.images[i])?), Keep::Always, None),
            Method::Knn => (gallery()?, Keep::Always, Some(Trained::Full)),
            Method::Lora => (gallery()?, Keep::Always, Some(low_rank(self.args.lora))),
            Method::Shared => (Target::Images(self.shared_images(i)?), Keep::Always, None),
            Method::Auto => (gallery()?, Keep::IfHeldOutImproves, None),
            Method::Adapter => {
                let adapter = self.args.adapter.clone();
                let adapter = adapter.ok_or_else(|| Error::config("the method adapter needs --adapter ADAPTER"))?;
                (Target::Adapter(adapter), Keep::Always, None)
            }
        };
        let mut adapt = self.args.settings.request(target, keep, trained);
        // Each seed repeats everything that is random.
        adapt.seed = adapt.seed.wrapping_add(self.seed);
        // The truth is not to be found in the gallery.
        adapt.exclude = vec![self.images[i].content()?];
        // A cell is kept itself; keeping tens of megabytes of weights for each would fill the disk. Groups share theirs.
        adapt.use_cache = method == Method::Shared;
        Ok(Some(adapt))
    }

    /// The checked restoration of the observation of image `i`.
    fn plan(&self, method: Method, i: usize) -> Result<Plan> {
        let (task, truth, y) = (self.task, &self.images[i], &self.observations[i]);
        let mut problem = task.problem.clone();
        problem.mask = task.mask(ImageShape::of(&truth.x))?.map(Into::into);
        let picture = Picture::from_tensor(y.clone());
        let mut request = Request::new(picture, problem).preset(self.args.preset).seed(self.seed);
        request.sampling.samples = self.args.samples;
        request.sampling.overrides.steps = self.args.steps();
        request.adapt = self.adaptation(method, i)?;
        self.engine.plan(&request)
    }

    /// Restores the observation of image `i`.
    pub fn make(&self, method: Method, i: usize) -> Result<Made> {
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
        let restored = self.engine.run(&self.plan(method, i)?, &|event| self.watcher.see(event))?;
        self.watcher.finish();
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
        let path = self.args.gallery.as_ref().ok_or_else(|| Error::config("no gallery"))?;
        let gallery = self.engine.gallery(path, &|event| self.watcher.see(event))?;
        let found = key::gallery(gallery.index())?;
        Ok(self.gallery_key.get_or_init(|| found).clone())
    }

    /// The images that the group of observation `i` shares.
    fn shared_images(&self, i: usize) -> Result<Vec<PathBuf>> {
        let mut shared = self.shared.borrow_mut();
        if shared.is_empty() {
            let gallery = self.args.gallery.clone().ok_or_else(|| Error::config("no gallery"))?;
            let request = self.args.settings.request(Target::Gallery(gallery), Keep::Always, None);
            let plan = self.engine.plan_adaptation(&request, self.args.preset)?;
            let contents = self.images.iter().map(Truth::content).collect::<Result<Vec<ContentHash>>>()?;
            let observed: Vec<_> = self
                .observations
                .iter()
                .zip(&contents)
                .map(|(y, &content)| Observed { y, file: None, content })
                .collect();
            let groups = self.engine.group(&plan, &observed, self.args.overlap, &|event| self.watcher.see(event))?;
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
        let folder = self.args.random_from.clone().unwrap_or_default();
        let mut names = image_files(&folder)?;
        let own = truth.sha256.bytes().take(4).fold(0u32, |all, byte| all << 8 | u32::from(byte));
        let noise = Noise::new(self.seed, Stream::Evaluation);
        let count = self.args.settings.neighbours.min(names.len());
        Ok((0..count).map(|k| folder.join(names.swap_remove(noise.below(own, k as u32, names.len())))).collect())
    }
}
