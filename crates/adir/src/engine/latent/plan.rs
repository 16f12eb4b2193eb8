//! What a latent request comes to, checked before any weights are read.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::open::Engine;
use super::super::outputs::{Outputs, Stale};
use super::super::plan::{content_of, format_of, named};
use super::super::warnings::of_reading;
use super::adapt;
use super::memory::{Needs, estimate};
use super::request::{LatentAdapt, LatentRequest, LatentTask, Region};
use crate::adapt::passes_of_crops;
use crate::compute::WeightPrecision;
use crate::io::atomic::check_outputs;
use crate::io::ending::{Written, check_ending};
use crate::io::hash::ContentHash;
use crate::io::image::{ImageFormat, Picture, check_file, read_hashed_as};
use crate::io::tally::counted;
use crate::io::weights::WeightFile;
use crate::latent::Solver;
use crate::models::stable_diffusion::{LatentFiles, Purpose, check_lora};
use crate::models::{Network, check_tile, tiles_of};
use crate::operator::ImageShape;
use crate::problem::{MaskSource, Measurement, Problem};
use crate::task::Preset;
use crate::tensor::DType;
use crate::{Error, Result};

/// A request that was checked.
#[derive(Debug)]
pub struct LatentPlan {
    pub(super) request: LatentRequest,
    pub(super) files: LatentFiles,
    pub(super) picture: Arc<Picture>,
    pub(super) content: ContentHash,
    /// Of an edit, true where the image is made anew.
    pub(super) hole: Option<Vec<bool>>,
    /// Of an upscaling, what was measured.
    pub(super) measurement: Option<Measurement>,
    pub(super) outputs: Option<Outputs>,
    pub(super) stale: Stale,
    /// Sides of the latents.
    pub(super) latents: [usize; 2],
    needs: Needs,
    /// Whether U-Net and autoencoder stay in memory for the next image.
    pub(super) keeps_parts: bool,
}

impl Engine {
    /// Checks a request for a latent diffusion model, the image and the files named in it. Reads no weights but their names
    /// and shapes.
    ///
    /// # Errors
    /// As [`Engine::plan`]; [`Error::Config`] where the model is made for something else.
    pub fn plan_latent(&self, request: &LatentRequest) -> Result<LatentPlan> {
        let (request, files) = opened(request)?;
        self.plan_latent_with(files, &request)
    }

    /// The same with the model's files opened already.
    ///
    /// # Errors
    /// As [`Engine::plan_latent`].
    pub fn plan_latent_with(&self, files: LatentFiles, request: &LatentRequest) -> Result<LatentPlan> {
        self.planned_latent(files, request, None)
    }

    /// The same for a picture from memory, which the input of the request is the name of.
    ///
    /// # Errors
    /// As [`Engine::plan_latent`].
    pub fn plan_latent_of(&self, files: LatentFiles, request: &LatentRequest, picture: Picture) -> Result<LatentPlan> {
        self.planned_latent(files, request, Some(picture))
    }

    fn planned_latent(
        &self,
        files: LatentFiles,
        request: &LatentRequest,
        picture: Option<Picture>,
    ) -> Result<LatentPlan> {
        request.check()?;
        let request = &resolved(&files, request)?;
        let outputs = request.output.as_ref().map(|output| Outputs::of_results(output, request.samples));
        if picture.is_none() {
            check_file(&request.input)?;
        }
        let format = request.output.as_ref().map(|output| format_of(&output.path)).transpose()?;
        let files = files.keeping(request.weights);
        self.check_weights(request.weights)?;
        let mut read = vec![request.input.clone()];
        read.extend(files.files());
        if let LatentTask::Edit { region: Region::Mask(mask) } = &request.task {
            read.push(mask.clone());
        }
        if let Some(lora) = &request.lora {
            check_lora(files.unet(), &WeightFile::open(lora)?)?;
            read.push(lora.clone());
        }
        if let Some(adapt) = &request.adapt {
            read.push(adapt.gallery.clone());
            self.check_gallery(&adapt.gallery, None, adapt.by_text.then_some(request.prompt.as_str()))?;
            adapt::check(adapt, files.autoencoder().config().factor() * files.unet().config().size_multiple())?;
            if let Some(path) = &adapt.save {
                let overwrite = request.output.as_ref().is_some_and(|output| output.overwrite);
                check_ending(path, Written::Weights)?;
                let inputs: Vec<&Path> = read.iter().map(PathBuf::as_path).collect();
                check_outputs(&inputs, &[path], overwrite)?;
            }
        }
        let stale = match (&outputs, &request.output) {
            (Some(outputs), Some(asked)) => outputs.check(&read, asked.overwrite)?,
            _ => Stale::default(),
        };
        request.sampling.check(files.facts())?;
        let (picture, content) = match picture {
            Some(picture) => {
                let content = content_of(&picture)?;
                (picture, content)
            }
            None => read_hashed_as(&request.input, &request.reading, &self.limits)?,
        };
        let picture = Arc::new(picture.whole(&request.input)?);
        request.output.as_ref().map_or(Ok(()), |output| picture.check_alpha(&output.path))?;
        let hole = match &request.task {
            LatentTask::Edit { region } => Some(self.hole(region, request, &picture)?),
            LatentTask::Upscale { .. } => None,
        };
        let measurement = match &request.task {
            LatentTask::Upscale { noise_level, .. } => {
                files.low_res().zip(*noise_level).map_or(Ok(()), |(low, level)| low.factors(level).map(drop))?;
                let problem = Problem::super_resolution(4);
                let measured = problem.measure(&picture.tensor, picture.rounding(), 3, &self.limits);
                Some(measured.map_err(|e| named(Some(&request.input), e))?)
            }
            LatentTask::Edit { .. } => None,
        };
        let factor = if hole.is_some() { 1 } else { 4 };
        let [_, channels, h, w] = picture.tensor.dims();
        if let (Some(output), Some(format)) = (&request.output, format) {
            let result = ImageShape { channels, height: factor * h, width: factor * w };
            self.check_size(&output.path, result, &picture, format)?;
        }
        let multiple = files.unet().config().size_multiple();
        let shrink = files.autoencoder().config().factor();
        let latents = [h, w].map(|side| match hole {
            Some(_) => side.next_multiple_of(multiple * shrink) / shrink,
            None => side.next_multiple_of(multiple),
        });
        let seen = match request.tile {
            Some(tile) => {
                check_tile(tile, multiple)?;
                tiles_of(tile, multiple, latents[0], latents[1]).map(|(_, side)| side)
            }
            None => latents,
        };
        let training = request.adapt.as_ref().map(|adapt| &adapt.training);
        let needs = estimate(&files, latents, seen, training)?;
        self.check_memory(needs.alone)?;
        let request = request.clone();
        Ok(LatentPlan {
            request,
            files,
            picture,
            content,
            hole,
            measurement,
            outputs,
            stale,
            latents,
            needs,
            keeps_parts: false,
        })
    }

    /// Refuses weights kept in another precision where networks do not compute in f32.
    fn check_weights(&self, weights: WeightPrecision) -> Result<()> {
        if weights.is_default() || self.compute().dtype == DType::F32 {
            return Ok(());
        }
        let precision = self.placement().1;
        Err(Error::config(format!(
            "weights in {weights} for a network that computes in {precision}: they are kept as they are computed with unless \
             that is f32"
        )))
    }

    /// Where an edit makes the image anew.
    fn hole(&self, region: &Region, request: &LatentRequest, picture: &Picture) -> Result<Vec<bool>> {
        let [_, _, h, w] = picture.tensor.dims();
        let hole: Vec<bool> = match region {
            Region::Mask(path) => {
                let mask = MaskSource::from(path.as_path()).read_for(h, w, &self.limits)?;
                mask.known().iter().map(|known| !known).collect()
            }
            Region::Box([left, top, width, height]) => {
                let inside = |at: usize, start: usize, length: usize| at >= start && at - start < length;
                let fits =
                    |start: usize, length: usize, side: usize| length > 0 && start < side && length <= side - start;
                if !fits(*left, *width, w) || !fits(*top, *height, h) {
                    return Err(Error::config(format!(
                        "a box of {width}x{height} pixels at {left},{top} is not inside an image of {w}x{h}"
                    )));
                }
                (0..h * w).map(|i| inside(i % w, *left, *width) && inside(i / w, *top, *height)).collect()
            }
            Region::Transparent => match &picture.alpha {
                Some(alpha) => alpha.iter().map(|alpha| *alpha < 0.5).collect(),
                None => {
                    return Err(Error::input(
                        &request.input,
                        "has no alpha channel: give the part to edit by --mask or --box",
                    ));
                }
            },
        };
        if hole.iter().any(|hole| *hole) {
            return Ok(hole);
        }
        Err(Error::input(&request.input, "marks nothing to edit"))
    }
}

/// The files of the model that a request names, and the request with what the model decides.
///
/// # Errors
/// As [`Engine::plan_latent`], of what does not depend on an image.
pub(in super::super) fn opened(request: &LatentRequest) -> Result<(LatentRequest, LatentFiles)> {
    request.check()?;
    let open = if request.averaged { LatentFiles::open_averaged } else { LatentFiles::open };
    let files = open(&request.model)?;
    request.sampling.check(files.facts())?;
    Ok((resolved(&files, request)?, files))
}

/// The request with what the model decides, refusing a model that was made for something else, and what it cannot be told.
fn resolved(files: &LatentFiles, request: &LatentRequest) -> Result<LatentRequest> {
    let refuse = |what: &str| Err(Error::config(format!("{}: {what}", files.path().display())));
    let mut request = request.clone();
    match (files.purpose(), &mut request.task) {
        (Purpose::Inpainting, LatentTask::Edit { .. }) => {}
        (Purpose::Upscaling, LatentTask::Upscale { noise_level, .. }) => {
            noise_level.get_or_insert(LatentRequest::NOISE_LEVEL);
        }
        (Purpose::SuperResolution, LatentTask::Upscale { noise_level, .. }) => {
            if noise_level.is_some() {
                return refuse("this model sees the image as it is, and takes no noise level");
            }
            if !(request.prompt.is_empty() && request.negative_prompt.is_empty()) {
                return refuse("this model takes no prompt");
            }
            if request.adapt.is_some() || request.lora.is_some() {
                return refuse("this model is not adapted; Stable Diffusion's x4 upscaler can be");
            }
            if request.preset == Preset::Paper {
                return refuse("the paper's settings are those of Stable Diffusion's models, not of this one");
            }
        }
        (Purpose::Upscaling | Purpose::SuperResolution, LatentTask::Edit { .. }) => {
            return refuse("this model scales images up; editing needs an inpainting model");
        }
        (Purpose::Inpainting, LatentTask::Upscale { .. }) => {
            return refuse("this model fills in parts of images; it does sr4 no more than other tasks");
        }
    }
    Ok(request)
}

impl LatentPlan {
    /// What was asked for.
    pub fn request(&self) -> &LatentRequest {
        &self.request
    }

    /// See [`Plan::gallery`](crate::engine::Plan::gallery).
    pub fn gallery(&self) -> Option<&Path> {
        self.request.adapt.as_ref().map(|adapt| adapt.gallery.as_path())
    }

    /// The image.
    pub fn picture(&self) -> &Picture {
        &self.picture
    }

    /// SHA-256 of its file.
    pub fn content(&self) -> ContentHash {
        self.content
    }

    /// The model.
    pub fn files(&self) -> &LatentFiles {
        &self.files
    }

    /// The files of the results, where the request names an output.
    pub fn outputs(&self) -> Option<&Outputs> {
        self.outputs.as_ref()
    }

    /// Height and width of the latents.
    pub fn latents(&self) -> [usize; 2] {
        self.latents
    }

    /// What it takes of memory at most, in bytes.
    pub fn memory(&self) -> u64 {
        if self.keeps_parts { self.needs.kept } else { self.needs.alone }
    }

    /// The plan as that of one of several images: what is loaded is kept for the next where there is room for it.
    pub(in super::super) fn among_others(mut self, engine: &Engine) -> Self {
        self.keeps_parts = engine.check_memory(self.needs.kept).is_ok();
        self
    }

    /// Passes of the U-Net in all.
    pub fn passes(&self) -> usize {
        self.request.samples * self.request.sampling.steps * if self.request.is_guided() { 2 } else { 1 }
    }

    /// Products that the passes of U-Net and decoder add up, by which times of runs compare.
    pub fn products(&self) -> u64 {
        let [height, width] = self.latents;
        let decoder = self.files.autoencoder().products(height, width)[1];
        self.passes() as u64 * self.files.unet().products(height, width) + self.request.samples as u64 * decoder
    }

    /// Products of sampling that take as long as its adaptation, if there is one.
    pub fn training_products(&self) -> Option<u64> {
        let adapt = self.request.adapt.as_ref()?;
        let (training, unet, autoencoder) = (&adapt.training, self.files.unet(), self.files.autoencoder());
        let side = training.crop / autoencoder.config().factor();
        let crops = u64::from(training.iterations) * training.batch as u64;
        let encoded = (adapt.neighbours * training.crops_per_image) as u64;
        let passes = passes_of_crops(crops, training.full, false);
        Some(passes * unet.products(side, side) + encoded * autoencoder.products(side, side)[0])
    }

    /// Minutes that its adaptation may take, where they were given.
    pub fn adaptation_minutes(&self) -> Option<f64> {
        self.request.adapt.as_ref()?.minutes
    }

    /// What was assumed and may be wrong.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings: Vec<String> = match &self.request.task {
            LatentTask::Upscale { .. } => of_reading(&self.picture).collect(),
            LatentTask::Edit { .. } => self.picture.warnings.clone(),
        };
        if self.picture.tensor.dims()[1] == 1 {
            warnings
                .push("the image is grey: the network sees three equal channels, and the result is made grey".into());
        }
        let format = self.outputs.as_ref().and_then(|outputs| ImageFormat::from_path(&outputs.image).ok());
        if matches!(self.request.task, LatentTask::Edit { .. }) && format == Some(ImageFormat::Jpeg) {
            warnings.push("JPEG changes all pixels, not only the marked ones: .png keeps the others to the bit".into());
        }
        let usual = self.request.usual_scale();
        if self.request.sampling.scale > 1.0 && self.request.sampling.scale != usual && !self.request.is_guided() {
            warnings.push("without a prompt the guidance scale has no effect".into());
        }
        warnings
    }
}

impl fmt::Display for LatentPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LatentRequest { sampling, task, samples, seed, tile, .. } = &self.request;
        let [_, _, h, w] = self.picture.tensor.dims();
        writeln!(f, "model                {}", self.files.path().display())?;
        match task {
            LatentTask::Upscale { noise_level, agree, colours } => {
                let noise = noise_level.map_or_else(String::new, |level| format!(", noise level {level}"));
                writeln!(f, "task                 {w}x{h} to {}x{}{noise}", 4 * w, 4 * h)?;
                writeln!(f, "agree                {agree}")?;
                writeln!(f, "colours              {}", if *colours { "of the observation" } else { "of the model" })?;
            }
            LatentTask::Edit { .. } => {
                let hole = self.hole.as_ref().map_or(0, |hole| hole.iter().filter(|hole| **hole).count());
                writeln!(f, "task                 {hole} of {} pixels of {w}x{h} made anew", w * h)?;
            }
        }
        if self.files.purpose() != Purpose::SuperResolution {
            let (preset, given) = (self.request.settings(), self.request.given());
            let name = match self.request.preset {
                Preset::Fast => "fast",
                Preset::Paper => "paper",
            };
            let given = if given.is_empty() { String::new() } else { format!("; given: {}", given.join(", ")) };
            writeln!(f, "preset               {name}: {}{given}", preset.origin)?;
        }
        let solver = match sampling.solver {
            Solver::Ddim { eta } => format!("DDIM, eta {eta}"),
            Solver::Dpm => "DPM-Solver++(2M)".into(),
        };
        writeln!(
            f,
            "sampler              {solver}, {}, guidance scale {}",
            counted(sampling.steps, "step"),
            sampling.scale
        )?;
        writeln!(f, "network evaluations  {}", self.passes())?;
        writeln!(f, "results              {samples}, seed {seed}")?;
        if let Some(LatentAdapt { training, neighbours, gallery, minutes, .. }) = &self.request.adapt {
            let steps = match minutes {
                Some(minutes) => format!("{minutes} min"),
                None => counted(training.iterations as usize, "step"),
            };
            writeln!(
                f,
                "adaptation           {} of {}, {steps} of {} of {}x{}, {}",
                counted(*neighbours, "image"),
                gallery.display(),
                counted(training.batch, "crop"),
                training.crop,
                training.crop,
                if training.full { "all weights".into() } else { format!("rank {}", training.rank) }
            )?;
        }
        let [height, width] = self.latents;
        match tile {
            Some(tile) => writeln!(f, "latents              {width}x{height}, in tiles of {tile}")?,
            None => writeln!(f, "latents              {width}x{height}")?,
        }
        if !self.request.weights.is_default() {
            writeln!(f, "weights              kept in {}, computed with in f32", self.request.weights)?;
        }
        write!(f, "memory               about {:.2} GB", self.memory() as f64 / 1e9)
    }
}
