//! Adapting the U-Net of a latent diffusion model to the nearest images of a gallery.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::super::adapt::Observed;
use super::super::event::{Event, Watch, report, warn};
use super::super::open::Engine;
use super::super::record::ImageRecord;
use super::super::request::{Adapt, Target};
use super::super::sources::Source;
use super::plan::LatentPlan;
use super::request::{LatentAdapt, LatentTask};
use crate::latent::{Examples, LatentAdaptation, LatentOutcome};
use crate::models::Prior;
use crate::models::stable_diffusion::{Latents, save_lora};
use crate::tensor::Tensor;
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
}

/// Crops of the nearest images, encoded, and their record.
pub(super) struct Prepared {
    pub examples: Examples,
    pub images: Vec<ImageRecord>,
}

impl Engine {
    /// The nearest images, as crops that the autoencoder has encoded.
    pub(super) fn latent_examples(
        &self,
        plan: &LatentPlan,
        adapt: &LatentAdapt,
        autoencoder: &Latents,
        watch: &Watch<'_>,
    ) -> Result<Prepared> {
        let target = match adapt.by_text {
            true => Target::Text { gallery: adapt.gallery.clone(), prompt: plan.request.prompt.clone() },
            false => Target::Gallery(adapt.gallery.clone()),
        };
        let mut asked = Adapt::new(target);
        asked.neighbours = adapt.neighbours;
        let file: Option<&Path> = Some(&plan.request.input);
        let observed = Observed { y: &plan.picture.tensor, file, content: plan.content };
        let gallery = self.gallery(&adapt.gallery, None, watch)?;
        let nearest = self.nearest(&gallery, &asked, &observed, watch)?;
        let sources: Vec<_> = gallery.describe(&nearest)?.into_iter().map(Source::found).collect();
        let images = sources.iter().map(|source| source.record.clone()).collect();
        let pixels = sources.into_iter().map(|source| source.pixels(self)).collect::<Result<Vec<_>>>()?;
        let low_res = match (&plan.request.task, plan.files.low_res()) {
            (LatentTask::Upscale { noise_level: Some(level), .. }, Some(low_res)) => Some((low_res.clone(), *level)),
            _ => None,
        };
        let total = pixels.len();
        let examples = Examples::encode(&pixels, autoencoder, low_res, &adapt.training, |done| {
            report(watch, &Event::Encoding { done, total })
        })?;
        Ok(Prepared { examples, images })
    }

    /// The U-Net adapted to the crops, if that is used, and what was done.
    pub(super) fn latent_adapted(
        &self,
        plan: &LatentPlan,
        adapt: &LatentAdapt,
        prepared: &Prepared,
        unet: &Prior,
        told: [Tensor<3>; 2],
        watch: &Watch<'_>,
    ) -> Result<(Option<Prior>, LatentAdaptationRecord)> {
        let training = &adapt.training;
        let held = |prior: &Prior| -> Result<Option<Vec<f64>>> {
            let asked = prepared.examples.has_held_out();
            asked.then(|| prepared.examples.held_out_losses(prior, &told, training.seed)).transpose()
        };
        let before = held(unet)?;
        let mut running = LatentAdaptation::new(unet, &prepared.examples, training, told.clone())?;
        for step in 0..training.iterations {
            let (timestep, loss) = running.step()?;
            let total = training.iterations;
            report(watch, &Event::Adapting { step: step + 1, total, timestep: timestep.0, loss })?;
        }
        let adapted = running.adapted();
        let outcome = match (before, held(&adapted)?) {
            (Some(before), Some(after)) => Some(LatentOutcome::new(&before, &after)),
            _ => None,
        };
        if let Some(path) = &adapt.save {
            let lora = running.lora();
            save_lora(path, plan.files.unet(), &lora.layers(), lora.rank(), lora.scale())?;
        }
        let used = !adapt.if_better || outcome.is_some_and(|outcome| outcome.helped());
        if !used {
            let why = match outcome {
                Some(LatentOutcome { before, after, error }) => {
                    format!("the loss on held-out crops went from {before:.4} to {after:.4} (+- {error:.4})")
                }
                None => "there is one image, so none could be held out".into(),
            };
            warn(watch, format!("the adaptation is not used: {why}"))?;
        }
        Ok((used.then_some(adapted), LatentAdaptationRecord { images: prepared.images.clone(), outcome, used }))
    }
}

/// Refuses an adaptation that cannot be made.
pub(super) fn check(adapt: &LatentAdapt, multiple: usize) -> Result<()> {
    if !(adapt.gallery.is_dir() || adapt.gallery.is_file()) {
        return Err(Error::input(&adapt.gallery, "is neither a folder nor an index"));
    }
    if adapt.neighbours == 0 {
        return Err(Error::config("an adaptation to no images"));
    }
    adapt.training.check(multiple)
}
