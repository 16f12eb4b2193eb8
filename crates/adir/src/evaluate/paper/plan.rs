//! A table that is ready to be made: everything that can be refused was.

use std::path::Path;

use serde_json::{Value, json};

use super::super::EvalTask;
use super::super::key;
use super::super::method::Method;
use super::config::PaperConfig;
use super::cost::Cost;
use super::prepare::Preparation;
use super::requests::{of_latents, of_pixels};
use super::tables::Experiment;
use crate::engine::{Engine, Event, Watch};
use crate::io::folder::image_files;
use crate::io::hash::{ContentHash, hash_file};
use crate::io::image::{Picture, read_hashed};
use crate::io::tally::counted;
use crate::models::stable_diffusion::{LatentFiles, Purpose};
use crate::operator::bicubic_upsample;
use crate::task::Task;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Raise it when the same recipe comes to make other pictures, beside that of other evaluations.
const BEHAVIOUR: u32 = 1;

/// A checked table.
#[derive(Debug)]
pub struct PaperPlan {
    pub(super) config: PaperConfig,
    pub(super) images: Vec<PaperImage>,
    /// In the order of the table.
    pub(super) steps: Vec<PaperStep>,
    /// What tells its weights from others.
    pub(super) model: String,
    /// What tells its gallery from others.
    pub(super) gallery: Option<String>,
    differences: Vec<String>,
}

/// An image of the set.
#[derive(Debug, Clone)]
pub struct PaperImage {
    /// Its name below the folder.
    pub name: String,
    /// SHA-256 of its file.
    pub content: ContentHash,
}

/// A row of a task: one restoration for each image.
#[derive(Debug, Clone)]
pub struct PaperStep {
    /// The place of the task in the table.
    pub experiment: usize,
    /// Side of the reference.
    pub side: usize,
    /// The method.
    pub method: Method,
    /// What one image takes.
    pub cost: Cost,
    /// Everything but the image that determines the result.
    pub(super) recipe: Value,
}

impl PaperPlan {
    /// Looks at the images, the model and the gallery, and plans every row for the first image.
    ///
    /// # Errors
    /// [`Error::Config`] for settings, or for a model that is not of the kind of the table; [`Error::Input`] for images that
    /// are missing, damaged, or too small for the references; as [`Engine::plan`] and [`Engine::plan_latent`].
    pub fn new(engine: &Engine, config: PaperConfig, watch: &Watch<'_>) -> Result<Self> {
        config.check()?;
        let experiments = config.table.experiments();
        let multiple = checked_model(engine, &config)?;
        let mut sides = Vec::new();
        for experiment in experiments {
            let (task, side): (EvalTask, usize) = (experiment.task.parse()?, config.side_of(experiment));
            let unit = if config.table.is_latent() { 4 * multiple } else { task.unit(multiple) };
            if side == 0 || !side.is_multiple_of(unit) {
                return Err(Error::config(format!(
                    "a reference of {side}x{side} pixels for {}: model and task need a multiple of {unit}",
                    task.text
                )));
            }
            sides.push(side);
        }
        let (images, first) = images(engine, &config, sides.iter().copied().max().unwrap_or(1), watch)?;
        let (model, gallery) = (String::new(), None);
        let mut plan = Self { differences: Vec::new(), config, images, steps: Vec::new(), model, gallery };
        for (k, (experiment, side)) in experiments.iter().zip(sides).enumerate() {
            let seen = Observation::of(&plan.config, experiment, side, &first, &plan.images[0])?;
            for row in experiment.rows.iter().filter(|row| plan.config.rows().contains(&row.method)) {
                let step = plan.step(engine, k, side, row.method, &seen)?;
                plan.steps.push(step);
            }
        }
        plan.differences = plan.differences(engine)?;
        // Large files are read when nothing is refused any more.
        let config = &plan.config;
        plan.model = match (&config.model, config.table.is_latent()) {
            (None, _) => String::new(),
            (Some(_), true) => key::contents(&latent_files(config)?.files())?.join(" "),
            (Some(_), false) => engine.weights()?.0.sha256()?.to_string(),
        };
        let searches = plan.steps.iter().any(|step| matches!(step.method, Method::Knn | Method::Lora));
        let index = config.gallery.as_deref().filter(|_| searches);
        plan.gallery = index.map(gallery_content).transpose()?;
        Ok(plan)
    }

    /// What was asked for.
    pub fn config(&self) -> &PaperConfig {
        &self.config
    }

    /// The images of all shards.
    pub fn images(&self) -> &[PaperImage] {
        &self.images
    }

    /// The rows of all tasks.
    pub fn steps(&self) -> &[PaperStep] {
        &self.steps
    }

    /// Bytes of memory that its rows take at most.
    pub fn memory(&self) -> u64 {
        self.steps.iter().map(|step| step.cost.memory).max().unwrap_or(0)
    }

    /// In what it is not the paper's, a line each.
    pub fn differs(&self) -> &[String] {
        &self.differences
    }

    /// The images of this shard.
    pub(super) fn own_images(&self) -> &[PaperImage] {
        &self.images[self.config.shard.range(self.images.len())]
    }

    /// The task of a step.
    pub(super) fn experiment(&self, step: &PaperStep) -> &'static Experiment {
        &self.config.table.experiments()[step.experiment]
    }

    /// The row of a method, planned for the first image.
    fn step(
        &self,
        engine: &Engine,
        experiment: usize,
        side: usize,
        method: Method,
        seen: &Observation,
    ) -> Result<PaperStep> {
        let config = &self.config;
        let (mut cost, mut described) = (Cost::default(), json!({"name": method.name()}));
        if !matches!(method, Method::Observed | Method::Bicubic) {
            let (device, dtype) = engine.placement();
            described["seed"] = json!(config.seed);
            described["placement"] = json!([device, dtype.to_string()]);
            if config.table.is_latent() {
                let files = latent_files(config)?;
                let request = of_latents(config, &files, method, Vec::new())?;
                let plan = engine.plan_latent_of(files, &request, Picture::from_tensor(seen.y.clone()))?;
                let products = plan.products() + plan.training_products().unwrap_or(0);
                cost = Cost { products, memory: plan.memory() };
                let (task, sampling) = (&plan.request().task, &plan.request().sampling);
                let training = plan.request().adapt.as_ref().map(|adapt| &adapt.training);
                described["settings"] = json!({"task": task, "sampling": sampling, "adaptation": training});
            } else {
                let request = of_pixels(config, &seen.task, method, &seen.y, Vec::new())?;
                let plan = engine.plan(&request)?;
                let adapt = plan.adaptation().map(|adapt| adapt.config());
                let products = plan.products() + plan.training_products().unwrap_or(0);
                cost = Cost { products, memory: plan.memory().most() };
                described["settings"] = json!({"sampling": plan.restore().settings(), "adaptation": adapt});
            }
        }
        let recipe = json!({
            "behaviour": [key::BEHAVIOUR, BEHAVIOUR], "reference": {"how": config.preparation, "side": side},
            "task": seen.task.text, "degradation": seen.task.degradation, "sigma": seen.task.sigma.0,
            "method": described,
        });
        Ok(PaperStep { experiment, side, method, cost, recipe })
    }
}

/// The reference of a task and what is seen of it.
pub(super) struct Observation {
    pub task: EvalTask,
    /// The reference.
    pub x: Tensor<4>,
    /// The observation, in full precision.
    pub y: Tensor<4>,
}

impl Observation {
    /// Of a task with references of `side` pixels, of the photograph `image`.
    pub fn of(
        config: &PaperConfig,
        experiment: &Experiment,
        side: usize,
        photograph: &Tensor<4>,
        image: &PaperImage,
    ) -> Result<Self> {
        let task: EvalTask = experiment.task.parse()?;
        let x = config.preparation.apply(photograph, side)?;
        let y = task.observe(&x, image.noise(config.seed))?;
        Ok(Self { task, x, y })
    }

    /// y as a picture of the size of x, without a network.
    pub fn plain(&self, method: Method) -> Result<Option<Tensor<4>>> {
        Ok(match (method, self.task.task) {
            (Method::Observed, _) => Some(self.y.clone()),
            (Method::Bicubic, Task::SuperResolution { factor }) => Some(bicubic_upsample(&self.y, factor)?),
            _ => None,
        })
    }
}

impl PaperImage {
    /// The seed of the noise of its observations.
    pub(super) fn noise(&self, seed: u64) -> u64 {
        super::super::noise_of(&self.content, seed)
    }
}

/// Refuses a model that is not of the kind of the table. What sides of the network's images must be multiples of.
fn checked_model(engine: &Engine, config: &PaperConfig) -> Result<usize> {
    let (table, Some(path)) = (config.table, &config.model) else { return Ok(1) };
    let found = LatentFiles::recognised(path, false)?;
    let refuse = |message: &str| Err(Error::config(format!("{}: {message}", path.display())));
    match (table.is_latent(), found) {
        (false, Some(_)) => refuse(&format!(
            "is a latent diffusion model, but {table} is about guided diffusion (256x256_diffusion_uncond.pt)"
        )),
        (false, None) => {
            let header = engine.header()?;
            header.check_class(None)?;
            if header.info().channels != 3 {
                return refuse(&format!("is no network for RGB images, which {table} is about"));
            }
            Ok(header.info().size_multiple.max(1))
        }
        (true, None) => refuse("is no latent diffusion model, and table2 is about Stable Diffusion's x4 upscaler"),
        (true, Some(files)) => match files.purpose() {
            Purpose::Upscaling => Ok(files.unet().config().size_multiple().max(1)),
            Purpose::SuperResolution if config.rows().iter().all(|m| matches!(m, Method::Bicubic | Method::None)) => {
                Ok(files.unet().config().size_multiple().max(1))
            }
            Purpose::SuperResolution => refuse(
                "is latent diffusion's own super-resolution, which is not adapted here: give the rows that need no \
                 adaptation (--methods bicubic,none), or Stable Diffusion's x4 upscaler",
            ),
            Purpose::Inpainting => refuse("fills in parts of images, and table2 is about the x4 upscaler"),
        },
    }
}

/// The first images of the folder, and the pixels of the first; references of up to `side` pixels must fit.
fn images(
    engine: &Engine,
    config: &PaperConfig,
    side: usize,
    watch: &Watch<'_>,
) -> Result<(Vec<PaperImage>, Tensor<4>)> {
    let listing = image_files(&config.images)?;
    if listing.files.is_empty() {
        return Err(Error::input(&config.images, listing.no_images()));
    }
    let (there, count) = (listing.files.len(), config.count);
    if there < count {
        return Err(Error::input(
            &config.images,
            format!(
                "holds {}, and the table takes {count}: give --count {there}, or the whole set",
                counted(there, "image")
            ),
        ));
    }
    let (mut images, mut first, mut small) = (Vec::new(), None, Vec::new());
    for (done, name) in (1..).zip(listing.files.into_iter().take(count)) {
        let event = Event::Checking { done, total: count, path: name.clone() };
        if watch(&event).is_break() {
            return Err(Error::Interrupted);
        }
        let path = config.images.join(&name);
        let (picture, content) = read_hashed(&path, engine.limits())?;
        let [_, _, h, w] = picture.tensor.dims();
        if h.min(w) < side && !(config.enlarge && config.preparation == Preparation::Centre) {
            small.push((path, [w, h]));
        }
        first.get_or_insert(picture.tensor);
        images.push(PaperImage { name, content });
    }
    if let [(path, [w, h]), more @ ..] = small.as_slice() {
        let others = if more.is_empty() { String::new() } else { format!(" (and {} more)", more.len()) };
        let way = match config.preparation {
            Preparation::Centre => "; --enlarge takes such images all the same",
            Preparation::Crop => "",
        };
        return Err(Error::input(
            path,
            format!("has {w}x{h} pixels{others}, and references of {side}x{side} are made of no smaller image{way}"),
        ));
    }
    let first = first.ok_or_else(|| Error::config("a table of no images"))?;
    Ok((images, first))
}

/// The latent diffusion model that was given.
pub(super) fn latent_files(config: &PaperConfig) -> Result<LatentFiles> {
    LatentFiles::open(config.model.as_deref().ok_or_else(|| Error::config("no model"))?)
}

/// What stands for a gallery in keys: its index.
fn gallery_content(index: &Path) -> Result<String> {
    match index.is_file() {
        true => Ok(hash_file(index)?.1.to_string()),
        // What is no file is known by its name.
        false => Ok(index.to_string_lossy().into_owned()),
    }
}
