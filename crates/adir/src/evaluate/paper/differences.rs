//! What a table does otherwise than the paper, said beside its numbers.

use std::fmt::Display;
use std::path::Path;

use super::super::method::Method;
use super::plan::{PaperImage, PaperPlan};
use super::prepare::Preparation;
use super::requests::level;
use super::tables::Table;
use crate::Result;
use crate::engine::Engine;

/// Parameters of the paper's guided-diffusion model, 256x256_diffusion_uncond.pt.
const PARAMETERS: usize = 552_814_086;

/// A setting that is not the paper's, whose own is in brackets.
fn other<T: PartialEq + Display>(what: &str, given: Option<T>, usual: T) -> Option<String> {
    given.filter(|given| *given != usual).map(|given| format!("{what}: {given} ({usual})"))
}

impl PaperPlan {
    /// A line for each difference.
    pub(super) fn differences(&self, engine: &Engine) -> Result<Vec<String>> {
        let (config, table) = (&self.config, self.config.table);
        let adapts = |methods: &[Method]| self.steps.iter().any(|step| methods.contains(&step.method));
        let largest = |sides: &mut dyn Iterator<Item = usize>| sides.max().unwrap_or(0);
        let side = largest(&mut self.steps.iter().map(|step| step.side));
        let usual = largest(&mut table.experiments().iter().map(|experiment| experiment.side));
        let cut = config.preparation != Preparation::Centre;
        let mut found = vec![
            images(&self.images),
            other("side of the largest references", config.side.map(|_| side), usual),
            cut.then(|| format!("references: {} (not known, here {})", config.preparation, Preparation::Centre)),
            other("steps of sampling", config.steps, table.steps()),
        ];
        if table.is_latent() {
            found.push(other("noise that the x4 upscaler adds", Some(level(config)), 0));
        } else if config.model.is_some() {
            found.push(other("parameters of the model", Some(engine.header()?.parameter_count()), PARAMETERS));
        }
        if adapts(&[Method::Itself, Method::Knn, Method::Lora]) {
            let given = &config.adapt;
            let weighted = given.p2_gamma.is_some() || given.p2_k.is_some();
            found.extend([
                given.iterations.map(|steps| format!("steps of adaptation: {steps} (400, of IA 100)")),
                other("learning rate", given.learning_rate, 1e-4),
                other("crops of a step of adaptation", given.batch, 6),
                other("side of the crops", given.crop, table.adaptation_crop()),
                given.ema.map(|decay| {
                    format!("decay of the moving average: {decay} (0.8, of IA and Stable Diffusion 0.95)")
                }),
                other("strength of the adaptation", given.strength, 1.0),
                weighted.then(|| "noise levels have weights in the loss (none)".into()),
            ]);
        }
        if adapts(&[Method::Knn, Method::Lora]) {
            found.push(other("nearest images", config.neighbours, table.neighbours()));
            let encoder = engine.encoder()?;
            let name = &encoder.id().name;
            found.push((!name.to_lowercase().contains("clip")).then(|| format!("encoder: {name} (CLIP)")));
        }
        found.push(other("precision of the networks", Some(engine.placement().1.to_string()), "f32".to_owned()));
        Ok(found.into_iter().flatten().collect())
    }
}

/// Of images that are not the paper's.
fn images(images: &[PaperImage]) -> Option<String> {
    let own = |(k, image): (usize, &PaperImage)| {
        let stem = Path::new(&image.name).file_stem();
        stem.is_some_and(|stem| stem.to_string_lossy() == format!("{:04}", 801 + k))
    };
    let all = images.len() == Table::IMAGES && images.iter().enumerate().all(own);
    let names = images.first().zip(images.last());
    names.filter(|_| !all).map(|(first, last)| {
        format!("images: {}, {} to {} ({}, 0801 to 0850 of DIV2K)", images.len(), first.name, last.name, Table::IMAGES)
    })
}
