//! What is asked of a latent diffusion model.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::super::request::OutputRequest;
use crate::compute::WeightPrecision;
use crate::io::hash::ContentHash;
use crate::io::image::Reading;
use crate::latent::{LatentPreset, LatentSettings, LatentTraining, Solver};
use crate::task::Preset;
use crate::{Error, Result};

/// What to do with an image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LatentTask {
    /// Four times the sides.
    Upscale {
        /// Level of the noise that is added to the image, and that the network is told: the higher, the more it invents. Absent
        /// for latent diffusion's super-resolution, which adds none; elsewhere 20 where it is absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        noise_level: Option<usize>,
        /// Whether the result is moved to the nearest image that agrees with the observation (x + A^+ (y - A x), A being
        /// bicubic scaling).
        agree: bool,
        /// Whether the result takes its coarse colours from the observation.
        colours: bool,
    },
    /// A part filled in anew.
    Edit {
        /// That part.
        region: Region,
    },
}

/// A part of an image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Region {
    /// What a mask image marks ([`crate::io::side_inputs::read_mask`]).
    Mask(#[serde(with = "crate::io::lossy::path")] PathBuf),
    /// A box: left, top, width and height in pixels.
    Box([usize; 4]),
    /// What is transparent in the image.
    Transparent,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct LatentRequest {
    /// The image.
    #[serde(with = "crate::io::lossy::path")]
    pub input: PathBuf,
    /// How its file is read where that does not say it: page, black and white.
    #[serde(default, skip_serializing_if = "Reading::is_default")]
    pub reading: Reading,
    /// The model: a folder of diffusers, or a single file.
    #[serde(with = "crate::io::lossy::path")]
    pub model: PathBuf,
    /// Whether the weights that were averaged during training are used, where they lie beside others in a single file.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub averaged: bool,
    /// What the weights are kept in; they are computed with in the precision of the engine.
    #[serde(default, skip_serializing_if = "WeightPrecision::is_default")]
    pub weights: WeightPrecision,
    /// What to do.
    pub task: LatentTask,
    /// What the result shows.
    #[serde(default)]
    pub prompt: String,
    /// What it does not.
    #[serde(default)]
    pub negative_prompt: String,
    /// The preset that [`LatentRequest::with_preset`] took the settings from, which may have been changed since.
    #[serde(default = "fast", skip_serializing_if = "is_fast")]
    pub preset: Preset,
    /// How to sample.
    pub sampling: LatentSettings,
    /// Seed of all noise.
    #[serde(default)]
    pub seed: u64,
    /// Number of results, each with noise of its own.
    pub samples: usize,
    /// Side of the tiles of latents that the network sees; absent where it sees all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tile: Option<usize>,
    /// What to adapt the U-Net to, if to anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapt: Option<LatentAdapt>,
    /// A file of low-rank factors to add first, of diffusers, PEFT or kohya.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::io::lossy::option")]
    pub lora: Option<PathBuf>,
    /// Files to write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<OutputRequest>,
}

fn fast() -> Preset {
    Preset::Fast
}

fn is_fast(preset: &Preset) -> bool {
    *preset == Preset::Fast
}

/// What to adapt the U-Net to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatentAdapt {
    /// Folder or index of images, of which the nearest are taken.
    #[serde(with = "crate::io::lossy::path")]
    pub gallery: PathBuf,
    /// Number of nearest images.
    pub neighbours: usize,
    /// Files with this content are left out, besides the image itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<ContentHash>,
    /// Whether they are those nearest to the prompt, not to the image.
    pub by_text: bool,
    /// Whether adapted weights are used only if held-out crops are denoised better with them.
    pub if_better: bool,
    /// How to train.
    pub training: LatentTraining,
    /// For how many minutes to train, in place of a number of steps: the steps that this becomes are noted in the cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minutes: Option<f64>,
    /// Where to write the factors, as diffusers reads them.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::io::lossy::option")]
    pub save: Option<PathBuf>,
}

impl LatentRequest {
    /// Upscaling by the published settings: 75 steps of DDIM without fresh noise, guidance scale 9, noise level 20.
    pub fn upscale(input: impl Into<PathBuf>, model: impl Into<PathBuf>) -> Self {
        let task = LatentTask::Upscale { noise_level: Some(Self::NOISE_LEVEL), agree: false, colours: false };
        Self::new(input.into(), model.into(), task)
    }

    /// Upscaling by latent diffusion's super-resolution with the published settings: 100 steps of DDIM without fresh noise.
    pub fn super_resolution(input: impl Into<PathBuf>, model: impl Into<PathBuf>) -> Self {
        let task = LatentTask::Upscale { noise_level: None, agree: false, colours: false };
        let mut request = Self::new(input.into(), model.into(), task);
        request.sampling.steps = 100;
        request
    }

    /// Editing by the published settings: 50 steps of DDIM without fresh noise, guidance scale 7.5.
    pub fn edit(input: impl Into<PathBuf>, model: impl Into<PathBuf>, region: Region) -> Self {
        Self::new(input.into(), model.into(), LatentTask::Edit { region })
    }

    /// The published level of the noise that the x4 upscaler adds.
    pub(super) const NOISE_LEVEL: usize = 20;

    /// The published guidance scale.
    pub(super) fn usual_scale(&self) -> f64 {
        match self.task {
            LatentTask::Upscale { noise_level: None, .. } => 1.0,
            LatentTask::Upscale { .. } => 9.0,
            LatentTask::Edit { .. } => 7.5,
        }
    }

    fn new(input: PathBuf, model: PathBuf, task: LatentTask) -> Self {
        let sampling = LatentSettings { solver: Solver::Ddim { eta: 0.0 }, steps: 0, scale: 1.0 };
        let mut request = Self {
            input,
            reading: Reading::default(),
            model,
            averaged: false,
            weights: WeightPrecision::F32,
            task,
            prompt: String::new(),
            negative_prompt: String::new(),
            preset: Preset::Fast,
            sampling,
            seed: 0,
            samples: 1,
            tile: None,
            adapt: None,
            lora: None,
            output: None,
        };
        request.sampling.scale = request.usual_scale();
        request.sampling.steps = request.settings().steps;
        request
    }

    /// With the number of steps of a preset, before others are set. An adaptation is made of [`LatentRequest::settings`].
    #[must_use]
    pub fn with_preset(mut self, preset: Preset) -> Self {
        if self.preset != preset {
            self.preset = preset;
            self.sampling.steps = self.settings().steps;
        }
        self
    }

    /// The settings of its preset.
    pub fn settings(&self) -> LatentPreset {
        match self.task {
            LatentTask::Upscale { .. } => LatentPreset::upscaling(self.preset),
            LatentTask::Edit { .. } => LatentPreset::editing(self.preset),
        }
    }

    /// The settings that are not those of its preset, by name. There are no presets for latent diffusion's super-resolution.
    pub(super) fn given(&self) -> Vec<&'static str> {
        let (preset, sampling) = (self.settings(), &self.sampling);
        let mut given = vec![
            (
                matches!(self.task, LatentTask::Upscale { noise_level: Some(level), .. } if level != Self::NOISE_LEVEL),
                "noise level",
            ),
            (sampling.steps != preset.steps, "steps"),
            (sampling.solver != Solver::Ddim { eta: 0.0 }, "sampler"),
            (sampling.scale != self.usual_scale(), "guidance scale"),
        ];
        if let Some(LatentAdapt { neighbours, if_better, training, minutes, .. }) = &self.adapt {
            let own = &preset.training;
            given.extend([
                (*neighbours != preset.neighbours, "neighbours"),
                (*if_better != preset.if_better, "use of the adaptation"),
                (minutes.is_some(), "minutes"),
                (training.iterations != own.iterations, "training steps"),
                (training.full != own.full, "weights trained"),
                (!training.full && (training.rank, training.layers) != (own.rank, own.layers), "factors"),
                (training.rate != own.rate, "learning rate"),
                (training.ema != own.ema, "average"),
                (training.batch != own.batch, "batch"),
                (training.crop != own.crop, "crops"),
            ]);
        }
        given.into_iter().filter_map(|(given, name)| given.then_some(name)).collect()
    }

    /// Whether two different texts are asked for, so that the network is run twice a step.
    pub fn is_guided(&self) -> bool {
        self.sampling.scale > 1.0 && self.prompt != self.negative_prompt
    }

    pub(super) fn check(&self) -> Result<()> {
        if !(1..=1000).contains(&self.samples) {
            return Err(Error::config(format!("{} results: expected 1 to 1000", self.samples)));
        }
        if let Some(c) = (self.prompt.chars().chain(self.negative_prompt.chars())).find(|c| *c == '\0') {
            return Err(Error::config(format!("a prompt holds the character {c:?}")));
        }
        Ok(())
    }
}
