//! The restorations behind the rows, as the paper sets them (its Table 4).

use super::super::EvalTask;
use super::super::method::Method;
use super::config::PaperConfig;
use crate::adapt::Trained;
use crate::engine::{Adapt, Keep, LatentAdapt, LatentRequest, LatentTask, Request, Target};
use crate::io::hash::ContentHash;
use crate::io::image::Picture;
use crate::latent::{LatentPreset, LatentTraining};
use crate::models::stable_diffusion::{LatentFiles, Purpose};
use crate::optim::AdaptedLayers;
use crate::task::Preset;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Rank and alpha of the second version.
const FACTORS: Trained = Trained::Lora { rank: 16, alpha: 8.0, layers: AdaptedLayers::Convolutions };
/// The small image of the table is scaled down exactly: the x4 upscaler gets it without noise.
const NO_NOISE: usize = 0;
/// Tiles no smaller than any image: the network sees it as a whole, whatever memory is free.
const WHOLE: usize = usize::MAX;
/// What a latent request calls an observation that no file holds.
const NAME: &str = "observation";

/// The request of a row of guided diffusion for `y`. Images of the gallery with the contents `exclude` are left out.
pub(super) fn of_pixels(
    config: &PaperConfig,
    task: &EvalTask,
    method: Method,
    y: &Tensor<4>,
    exclude: Vec<ContentHash>,
) -> Result<Request> {
    let picture = Picture::from_tensor(y.clone());
    let mut request = Request::new(picture, task.problem.clone()).preset(Preset::Paper).seed(config.seed);
    request.sampling.overrides.steps = config.steps.map(|steps| steps.to_string());
    request.sampling.tile = Some(WHOLE);
    let (target, trained) = match method {
        Method::Itself => (Target::Itself, Trained::Full),
        Method::Knn => (gallery(config)?, Trained::Full),
        Method::Lora => (gallery(config)?, FACTORS),
        _ => return Ok(request),
    };
    let mut adapt = Adapt::new(target).keep(Keep::Always).seed(config.adapt_seed).neighbours(config.neighbours());
    adapt.overrides = config.adapt.clone();
    adapt.overrides.trained = Some(trained);
    adapt.exclude = exclude;
    Ok(request.adapt(adapt))
}

/// The request of a row for the latent diffusion model in `files`.
pub(super) fn of_latents(
    config: &PaperConfig,
    files: &LatentFiles,
    method: Method,
    exclude: Vec<ContentHash>,
) -> Result<LatentRequest> {
    let mut request = LatentRequest::upscale(NAME, files.path());
    let noise_level = (files.purpose() == Purpose::Upscaling).then(|| level(config));
    request.task = LatentTask::Upscale { noise_level, agree: false, colours: false };
    (request.sampling.steps, request.sampling.scale) = (config.steps(), 1.0);
    request.seed = config.seed;
    let full = match method {
        Method::Knn => true,
        Method::Lora => false,
        _ => return Ok(request),
    };
    let Target::Gallery(gallery) = gallery(config)? else { return Ok(request) };
    request.adapt = Some(LatentAdapt {
        gallery,
        neighbours: config.neighbours(),
        exclude,
        by_text: false,
        if_better: false,
        training: training(config, full),
        minutes: None,
        save: None,
    });
    Ok(request)
}

/// The level of the noise in the small image.
pub(super) fn level(config: &PaperConfig) -> usize {
    config.noise_level.unwrap_or(NO_NOISE)
}

fn gallery(config: &PaperConfig) -> Result<Target> {
    let gallery = config.gallery.clone().ok_or_else(|| Error::config("this row needs --gallery INDEX"))?;
    Ok(Target::Gallery(gallery))
}

/// Stable Diffusion's training.
fn training(config: &PaperConfig, full: bool) -> LatentTraining {
    let (given, base) = (&config.adapt, LatentPreset::upscaling(Preset::Paper).training);
    let training = LatentTraining {
        iterations: given.iterations.unwrap_or(base.iterations),
        full,
        rate: given.learning_rate.unwrap_or(base.rate),
        ema: given.ema.unwrap_or(base.ema),
        batch: given.batch.unwrap_or(base.batch),
        crop: given.crop.unwrap_or(base.crop),
        seed: config.adapt_seed,
        ..base
    };
    training.with_crops_as_drawn(config.neighbours())
}
