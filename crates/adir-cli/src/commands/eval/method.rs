//! What is compared: simple methods, the unadapted prior, and its adaptations.

use std::path::PathBuf;
use std::time::Instant;

use adir::Result;
use adir::adapt::HeldOut;
use adir::io::folder::image_files;
use adir::io::hash::hash_file;
use adir::models::guided_diffusion::GuidedDiffusion;
use adir::noise::{Noise, Stream};
use adir::operator::{Degradation, ImageShape, bicubic_upsample, wiener};
use adir::restore::RestoreConfig;
use adir::retrieve::Encoder;
use adir::schedule::NoiseLevel;
use adir::task::{Overrides, Preset, Task};
use adir::tensor::Tensor;
use clap::ValueEnum;
use serde_json::{Value, json};

use super::task::EvalTask;
use super::{EvalArgs, Truth};
use crate::adaptation::{AdaptArgs, Base, Mode, Observed, verdict_of};
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

/// What all cells of a task have in common.
pub struct Bench<'a> {
    pub args: &'a EvalArgs,
    pub model: &'a GuidedDiffusion,
    pub model_sha256: &'a str,
    pub preset: Preset,
    pub steps: Option<String>,
    /// The file of the method adapter, and the model with it.
    pub adapter: Option<(PathBuf, GuidedDiffusion)>,
    /// What the distance of features is measured with.
    pub features: &'a dyn Encoder,
    /// Where the task is a blur.
    pub wiener_ratio: Option<f64>,
}

impl Method {
    /// All of them, in the order of the tables.
    pub const ALL: [Self; 10] = [
        Self::Observed,
        Self::Bicubic,
        Self::Wiener,
        Self::None,
        Self::Itself,
        Self::Random,
        Self::Knn,
        Self::Lora,
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
            Self::Random | Self::Knn | Self::Lora => Some(Mode::Gallery),
            Self::Auto => Some(Mode::Auto),
        }
    }
}

impl Bench<'_> {
    /// Everything but image and task that determines what the method makes.
    pub fn describe(&self, method: Method, seed: u64) -> Result<Value> {
        let name = method.name();
        let Some(mode) = method.mode() else {
            return Ok(match method {
                Method::Wiener => json!({"name": name, "ratio": self.wiener_ratio}),
                _ => json!({"name": name}),
            });
        };
        let mut all = json!({
            "name": name, "model": self.model_sha256, "preset": format!("{:?}", self.preset), "steps": self.steps,
            "samples": self.args.samples, "seed": seed, "device": self.args.model.device, "dtype": self.args.model.dtype.name(),
        });
        if let (Method::Adapter, Some((path, _))) = (method, &self.adapter) {
            all["adapter"] = json!(hash_file(path)?.1.to_string());
        }
        if mode != Mode::None {
            all["adaptation"] = json!(self.adaptation(method, seed).1);
        }
        if let Mode::Gallery | Mode::Auto = mode {
            let folder = if method == Method::Random { &self.args.random_from } else { &self.args.gallery };
            let settings = &self.args.settings;
            all["gallery"] = json!({
                "folder": folder, "neighbours": settings.neighbours, "closer_than": settings.closer_than,
                "encoder": settings.encoder,
            });
        }
        Ok(all)
    }

    fn adaptation(&self, method: Method, seed: u64) -> (AdaptArgs, adir::adapt::AdaptConfig) {
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
        let config = args.config(mode, self.preset, seed);
        (args, config)
    }

    /// Restores one observation.
    pub fn make(
        &self,
        method: Method,
        task: &EvalTask,
        truth: &Truth,
        y: &Tensor<4>,
        seed: u64,
        log: &Log,
    ) -> Result<Made> {
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
        let (args, config) = self.adaptation(method, seed);
        let base = Base { model: self.model, sha256: self.model_sha256 };
        let mut held_out = None;
        let model = match method.mode() {
            Some(Mode::None) if method == Method::Adapter => {
                self.adapter.as_ref().map_or_else(|| self.model.clone(), |(_, model)| model.clone())
            }
            None | Some(Mode::None) => self.model.clone(),
            Some(mode) => {
                let found = if method == Method::Random {
                    args.adapted_to(&base, &self.random_images(seed, truth)?, truth.name.clone(), config, log)?
                } else {
                    // The truth is not to be found in the gallery: its file is known by its content.
                    args.find(&base, &Observed { file: &truth.path, y }, mode, config, log)?
                };
                held_out = verdict_of(&found.info);
                match held_out {
                    Some(verdict) if !verdict.helped() => self.model.clone(),
                    _ => base.with(&found.adapter)?,
                }
            }
        };
        let request = RestoreConfig {
            task: task.task,
            degradation: task.degradation.clone(),
            mask: task.mask(ImageShape::of(&truth.x))?,
            sigma: task.sigma,
            rounding: NoiseLevel(0.0),
            preset: self.preset,
            overrides: Overrides { steps: self.steps.clone(), ..Overrides::default() },
            seed,
            class: None,
        };
        let plan = request.plan(y.clone(), &facts(self.model.config())?)?;
        let (samples, mean) = draw(&plan, &model, usize::from(self.args.samples), log)?;
        Ok(Made { samples, mean, seconds: start.elapsed().as_secs_f64(), held_out })
    }

    /// As many random images as there would be neighbours, others for every image and seed.
    fn random_images(&self, seed: u64, truth: &Truth) -> Result<Vec<PathBuf>> {
        let folder = self.args.random_from.clone().unwrap_or_default();
        let mut names = image_files(&folder)?;
        let own = truth.sha256.bytes().take(4).fold(0u32, |all, byte| all << 8 | u32::from(byte));
        let noise = Noise::new(seed, Stream::Evaluation);
        let count = usize::from(self.args.settings.neighbours).min(names.len());
        Ok((0..count).map(|k| folder.join(names.swap_remove(noise.below(own, k as u32, names.len())))).collect())
    }
}
