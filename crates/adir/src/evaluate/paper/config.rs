//! What is asked for of a table.

use std::path::PathBuf;

use super::super::method::Method;
use super::prepare::Preparation;
use super::tables::{Experiment, Table};
use crate::engine::{AdaptOverrides, Shard};
use crate::{Error, Result};

/// A table to make. What is `None` is as the paper has it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PaperConfig {
    /// Which one.
    pub table: Table,
    /// The folder of the images, of which the first are taken by their names.
    pub images: PathBuf,
    /// How many.
    pub count: usize,
    /// How references are made of them.
    pub preparation: Preparation,
    /// Whether images with a short side below that of the reference are enlarged, and not refused.
    pub enlarge: bool,
    /// The rows to make; all of the table where there are none.
    pub methods: Vec<Method>,
    /// Side of the largest reference of the table; smaller ones keep their share of it.
    pub side: Option<usize>,
    /// Steps of sampling.
    pub steps: Option<usize>,
    /// Level of the noise that the x4 upscaler adds.
    pub noise_level: Option<usize>,
    /// The weights: those of the engine for guided diffusion, or a latent diffusion model.
    pub model: Option<PathBuf>,
    /// The index of the images to adapt to.
    pub gallery: Option<PathBuf>,
    /// How many of them are nearest.
    pub neighbours: Option<usize>,
    /// Settings of the adaptations.
    pub adapt: AdaptOverrides,
    /// Seed of their crops, timesteps and noise.
    pub adapt_seed: u64,
    /// Seed of the noise of the observations and of sampling, the same for every row.
    pub seed: u64,
    /// The part of the images that this process has.
    pub shard: Shard,
}

impl PaperConfig {
    /// The table as it is published, on the images of a folder.
    pub fn new(table: Table, images: impl Into<PathBuf>) -> Self {
        Self {
            table,
            images: images.into(),
            count: Table::IMAGES,
            preparation: Preparation::Centre,
            enlarge: false,
            methods: Vec::new(),
            side: None,
            steps: None,
            noise_level: None,
            model: None,
            gallery: None,
            neighbours: None,
            adapt: AdaptOverrides::default(),
            adapt_seed: 0,
            seed: 0,
            shard: Shard::WHOLE,
        }
    }

    /// The methods of the rows to make.
    pub fn rows(&self) -> Vec<Method> {
        if self.methods.is_empty() { self.table.methods() } else { self.methods.clone() }
    }

    /// The side of a task's reference.
    pub(super) fn side_of(&self, experiment: &Experiment) -> usize {
        let largest = self.table.experiments().iter().map(|experiment| experiment.side).max().unwrap_or(1);
        self.side.map_or(experiment.side, |side| side * experiment.side / largest)
    }

    pub(super) fn neighbours(&self) -> usize {
        self.neighbours.unwrap_or(self.table.neighbours())
    }

    pub(super) fn steps(&self) -> usize {
        self.steps.unwrap_or(self.table.steps())
    }

    /// Refuses what is wrong or missing whatever the files hold. Opens none.
    ///
    /// # Errors
    /// [`Error::Config`] naming it.
    pub(super) fn check(&self) -> Result<()> {
        let (table, known) = (self.table, self.table.methods());
        if let Some(other) = self.methods.iter().find(|method| !known.contains(method)) {
            let known = known.iter().map(|method| method.name()).collect::<Vec<_>>().join(", ");
            return Err(Error::config(format!("{table} has no row of the method {}: it has {known}", other.name())));
        }
        let needs = |needed: &[Method]| self.rows().iter().any(|row| needed.contains(row));
        if self.model.is_none() && needs(&[Method::None, Method::Itself, Method::Knn, Method::Lora]) {
            let what = match table.is_latent() {
                true => "--model FOLDER (Stable Diffusion's x4 upscaler)",
                false => "--model FILE (256x256_diffusion_uncond.pt of guided-diffusion)",
            };
            return Err(Error::config(format!("{table} is about a published model: give {what}")));
        }
        match &self.gallery {
            None if needs(&[Method::Knn, Method::Lora]) => {
                return Err(Error::config(format!(
                    "{table} adapts to the nearest images of a gallery: give its index (--gallery INDEX), or the rows \
                     that need none (--methods)"
                )));
            }
            Some(gallery) if gallery.is_dir() => {
                return Err(Error::config(format!(
                    "{}: is a folder without an index: make one with `adir index build`, and give that (--gallery INDEX)",
                    gallery.display()
                )));
            }
            _ => {}
        }
        if self.count == 0 || self.steps == Some(0) {
            return Err(Error::config("a table of no images, or of no sampling steps"));
        }
        if self.neighbours() == 0 {
            return Err(Error::config("an adaptation to no images"));
        }
        if self.noise_level.is_some() && !table.is_latent() {
            return Err(Error::config(format!("{table} has no noise level: that is Stable Diffusion's x4 upscaler's")));
        }
        if self.adapt.minutes.is_some() || self.adapt.trained.is_some() {
            return Err(Error::config("what the paper trains, and for how many steps, is part of its tables"));
        }
        let others = &self.adapt;
        let unknown = [
            (others.micro_batch.is_some(), "a micro-batch"),
            (others.strength.is_some(), "a strength"),
            (others.p2_gamma.is_some() || others.p2_k.is_some(), "weights by noise level"),
            (others.recompute.is_some(), "blocks that are recomputed"),
        ];
        match unknown.into_iter().find(|(given, _)| *given && table.is_latent()) {
            Some((_, what)) => Err(Error::config(format!("adapting a latent diffusion model knows no {what}"))),
            None => Ok(()),
        }
    }
}
