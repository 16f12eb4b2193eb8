//! A checked request: everything that can be refused is refused here, before any weights are read.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::adapt::{AdaptPlan, CANNOT_BE_CHECKED, Observed};
use super::extent::{Extent, Memory};
use super::open::Engine;
use super::outputs::{Outputs, Stale};
use super::request::{Keep, Observation, Request, Target};
use super::warnings::{ROUNDED, warnings};
use crate::adapt::products_of_training;
use crate::io::image::{BitDepth, ImageFormat, Metadata, Picture, check_file, read_bytes, read_hashed_as};
use crate::io::light::Light;
use crate::io::tally::counted;
use crate::models::Network;
use crate::operator::ImageShape;
use crate::problem::Sigma;
use crate::restore::{RestorePlan, SamplingConfig};
use crate::retrieve::{ContentHash, TileSide};
use crate::task::Source;
use crate::tensor::{self, Tensor, is_cpu};
use crate::{Error, Result};

/// A restoration that is ready to run.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(super) request: Request,
    pub(super) picture: Arc<Picture>,
    pub(super) file: Option<PathBuf>,
    pub(super) content: ContentHash,
    pub(super) restore: Arc<RestorePlan>,
    pub(super) adapt: Option<AdaptPlan>,
    pub(super) outputs: Option<Outputs>,
    /// What of an earlier run stays beside the new files.
    stale: Stale,
    format: Option<ImageFormat>,
    warnings: Vec<String>,
    pub(super) extent: Extent,
    memory: Memory,
    model_name: String,
    network: Arc<dyn Network>,
}

impl Engine {
    /// Checks a request, the observation and the files named in it, and settles every setting. Reads no weights but
    /// their names and shapes, unless an adapter is named, which must be one of these weights.
    ///
    /// # Errors
    /// [`Error::Config`] for settings that are wrong or do not fit together, [`Error::Input`] for a file that is
    /// missing or damaged, [`Error::Model`] for a weight file whose names and shapes do not fit, [`Error::Limits`] for
    /// more memory or larger images than allowed, [`Error::Io`] for outputs that cannot be written.
    pub fn plan(&self, request: &Request) -> Result<Plan> {
        request.check()?;
        let outputs = request.output.as_ref().map(|output| Outputs::of(output, request.sampling.samples));
        let file = match &request.input {
            Observation::Picture(_) | Observation::Bytes { .. } => None,
            Observation::File(path) => Some(path.clone()),
        };
        file.as_ref().map_or(Ok(()), |file| check_file(file))?;
        let format = request.output.as_ref().map(|output| format_of(&output.path)).transpose()?;
        // Outputs come first: whatever the picture is, it must not be written over.
        let stale = match (&outputs, &request.output) {
            (Some(outputs), Some(asked)) => outputs.check(&self.files_read(request), asked.overwrite)?,
            _ => Stale::default(),
        };
        let (content, picture) = match &request.input {
            Observation::Picture(picture) => (content_of(picture)?, picture.clone()),
            Observation::File(path) => {
                let (picture, content) = read_hashed_as(path, &request.reading, &self.limits)?;
                (content, Arc::new(picture))
            }
            Observation::Bytes { name, bytes } => {
                let (picture, content) = read_bytes(name, bytes, &request.reading, &self.limits)?;
                (content, Arc::new(picture))
            }
        };
        request.output.as_ref().map_or(Ok(()), |output| picture.check_alpha(&output.path))?;
        let sampling = &request.sampling;
        let adapt = request.adapt.as_ref().map(|adapt| self.plan_adaptation(adapt, sampling.preset)).transpose()?;
        let header = self.header()?;
        let channels = header.info().channels;
        // What the image alone makes too large is refused before its values are looked at, which takes long where there are many.
        let observed = ImageShape { channels, ..ImageShape::of_batch(&picture.tensor) };
        let shape = request.problem.result_of(observed);
        if let (Some(output), Some(format)) = (&request.output, format) {
            self.check_size(&output.path, shape, &picture, format)?;
        }
        self.check_memory(self.least_memory(shape, &header, &request.problem))?;
        let mut problem = request.problem.clone().observed_at(picture.observed.clone());
        if problem.linear_light {
            let light = Light::of(&picture.metadata, picture.tensor.dims()[1]);
            problem = problem.in_light(light.map_err(|e| named(file.as_deref(), e))?);
        }
        let measurement = problem
            .measure(&picture.tensor, picture.rounding(), channels, &self.limits)
            .map_err(|e| named(file.as_deref(), e))?;
        let settings = SamplingConfig {
            preset: sampling.preset,
            overrides: sampling.overrides.clone(),
            seed: sampling.seed,
            class: sampling.class,
            adapted: request.adapt.is_some(),
        };
        header.check_class(sampling.class)?;
        let make = request.guidance.as_ref().map(|maker| maker.0.as_ref());
        let restore = RestorePlan::guided_by(measurement, &settings, header.info(), make)?;
        if let (Some(output), Some(format)) = (&request.output, format) {
            self.check_size(&output.path, restore.measurement().result(), &picture, format)?;
        }
        let adaptation = adapt.as_ref().map(AdaptPlan::memory);
        let extent = self.extent(&restore, &header, sampling)?;
        let memory = Memory { sampling: extent.memory, adaptation };
        self.check_memory(memory.most())?;
        let observed = Observed { y: &picture.tensor, file: file.as_deref(), content };
        let adapt_to = request.adapt.as_ref();
        adapt_to.map(|adapt| self.check_besides(adapt, observed.content)).transpose()?;
        let doubts = adapt_to.map(|adapt| self.check_adapter(adapt, &observed)).transpose()?.flatten();
        let (request, restore, model_name) = (request.clone(), Arc::new(restore), self.model_name());
        let plan = Plan {
            warnings: Vec::new(),
            extent,
            request,
            picture,
            file,
            content,
            restore,
            adapt,
            outputs,
            stale,
            format,
            memory,
            model_name,
            network: header.network().clone(),
        };
        let mut all = warnings(&plan)?;
        all.extend(doubts);
        let unchecked =
            adapt_to.is_some_and(|adapt| adapt.keep == Keep::IfHeldOutImproves && self.has_one_image(adapt));
        all.extend(unchecked.then(|| CANNOT_BE_CHECKED.to_owned()));
        Ok(Plan { warnings: all, ..plan })
    }

    /// Refuses what does not fit the memory that the engine may take. Only that of the CPU is known.
    pub(super) fn check_memory(&self, need: u64) -> Result<()> {
        match self.memory {
            Some(free) if is_cpu(&self.compute().device) && need > free => Err(Error::short_of_memory(need, free)),
            _ => Ok(()),
        }
    }

    /// Refuses a result that its format cannot hold, or that exceeds the limits for reading it back.
    pub(super) fn check_size(
        &self,
        path: &Path,
        result: ImageShape,
        picture: &Picture,
        format: ImageFormat,
    ) -> Result<()> {
        let ImageShape { channels, height, width } = result;
        if let Some(most) = format.longest_side().filter(|most| height.max(width) > *most) {
            let message = format!("the result has {width}x{height} pixels, this format at most {most} on a side");
            return Err(Error::config(format!("{}: {message}: write .png or .tif", path.display())));
        }
        let side = |pixels: usize| u32::try_from(pixels).unwrap_or(u32::MAX);
        let samples = channels as u64 + u64::from(picture.alpha.is_some());
        let bytes = format.depth_for(picture.bit_depth).bytes();
        self.limits.check(path, (side(width), side(height)), samples * bytes).map(drop)
    }
}

/// The format that the name of an image to write asks for.
pub(super) fn format_of(output: &Path) -> Result<ImageFormat> {
    match output.is_dir() {
        true => Err(Error::config(format!("{} is a folder, expected a file name", output.display()))),
        false => ImageFormat::from_path(output),
    }
}

/// A configuration error with the observation's name before it.
pub(super) fn named(file: Option<&Path>, error: Error) -> Error {
    match (file, error) {
        (Some(file), Error::Config(message)) => Error::Config(format!("{}: {message}", file.display())),
        (_, other) => other,
    }
}

/// SHA-256 of the sizes and values of an image.
pub(super) fn content_of_values(values: &Tensor<4>) -> Result<ContentHash> {
    bytes_of(values).map(|bytes| crate::io::hash::sha256(&bytes))
}

fn bytes_of(values: &Tensor<4>) -> Result<Vec<u8>> {
    let mut bytes = format!("{:?}\n", values.dims()).into_bytes();
    bytes.extend(tensor::to_f32(values)?.into_iter().flat_map(f32::to_le_bytes));
    Ok(bytes)
}

/// SHA-256 of the sizes and values of a picture from memory, and of which were observed where not all were.
pub(super) fn content_of(picture: &Picture) -> Result<ContentHash> {
    let mut bytes = bytes_of(&picture.tensor)?;
    bytes.extend(picture.observed.iter().flat_map(|mask| mask.known()).map(|known| u8::from(*known)));
    Ok(crate::io::hash::sha256(&bytes))
}

impl Plan {
    /// What was asked for.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// The observation.
    pub fn picture(&self) -> &Picture {
        &self.picture
    }

    /// The observation, as an adaptation needs it.
    pub fn observed(&self) -> Observed<'_> {
        Observed { y: &self.picture.tensor, file: self.file.as_deref(), content: self.content }
    }

    /// Operator, settings and schedule.
    pub fn restore(&self) -> &RestorePlan {
        &self.restore
    }

    /// The adaptation, if there is one.
    pub fn adaptation(&self) -> Option<&AdaptPlan> {
        self.adapt.as_ref()
    }

    /// The files to write, if any.
    pub fn outputs(&self) -> Option<&Outputs> {
        self.outputs.as_ref()
    }

    /// What the user should know before it runs: what is unusual about the observation, and what of it the output cannot
    /// hold. A run reports them as [`Event::Warning`](super::Event::Warning).
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Leaves out what [`ROUNDED`] says if it was told of another file before.
    pub(super) fn say_once(&mut self, told: &mut bool) {
        self.warnings.retain(|warning| !ROUNDED.contains(&&**warning) || !std::mem::replace(told, true));
    }

    /// Samples of an earlier run that stay, because this one has fewer.
    pub fn stale(&self) -> &[PathBuf] {
        &self.stale.samples
    }

    /// Maps of where samples differ of an earlier run that stay, because this one has one sample.
    pub fn stale_maps(&self) -> &[PathBuf] {
        &self.stale.maps
    }

    /// The tiles that the network sees, where it does not see the whole image: their number and length in pixels, down and
    /// across.
    pub fn tiles(&self) -> Option<[(usize, usize); 2]> {
        self.extent.tiles
    }

    /// Products that the network's passes add up while it samples, by which times of restorations compare.
    pub fn products(&self) -> u64 {
        self.products_of(self.request.sampling.samples)
    }

    fn products_of(&self, samples: usize) -> u64 {
        let canvas = self.restore.canvas();
        let [(down, height), (across, width)] = self.extent.tiles.unwrap_or([(1, canvas.height), (1, canvas.width)]);
        // Gradients by the input take a pass back.
        let passes = if self.restore.needs_gradient() { 2 } else { 1 };
        let passes = (down * across * self.restore.steps() * samples * passes) as u64;
        self.network.products(height, width).saturating_mul(passes)
    }

    /// Products of sampling that take as long as its adaptation, if there is one: of all steps that it may take, its measurements,
    /// and a first restoration that is searched for.
    pub fn training_products(&self) -> Option<u64> {
        let config = self.adapt.as_ref()?.config();
        let [_, _, h, w] = self.picture.tensor.dims();
        // The observation bounds the crops of an adaptation to itself.
        let itself = self.request.adapt.as_ref().is_some_and(|adapt| adapt.target == Target::Itself);
        let crop = if itself { config.crop.min(h.min(w)) } else { config.crop };
        let training = products_of_training(config, self.network.products(crop, crop));
        // The search may take a sample of its own.
        let first = self.request.adapt.as_ref().is_some_and(|adapt| !adapt.query.is_usual());
        Some(training.saturating_add(if first { self.products_of(1) } else { 0 }))
    }

    /// Minutes that its adaptation may take, where they were given.
    pub fn adaptation_minutes(&self) -> Option<f64> {
        self.request.adapt.as_ref()?.overrides.minutes
    }

    /// The gallery that its adaptation searches, if it does, and the side of tiles that large images there are divided into.
    pub fn gallery(&self) -> Option<(&Path, Option<TileSide>)> {
        let adapt = self.request.adapt.as_ref().filter(|adapt| adapt.shared.is_empty())?;
        Some((adapt.target.gallery()?, adapt.tiles))
    }

    /// What it takes of memory.
    pub fn memory(&self) -> Memory {
        self.memory
    }

    /// What the observation says of its pixels, for those of the result.
    pub(super) fn metadata(&self) -> Metadata {
        let ImageShape { height, width, .. } = self.restore.measurement().result();
        let side = |pixels: usize| u32::try_from(pixels).unwrap_or(u32::MAX);
        self.picture.metadata.clone().resized([self.scale(); 2], (side(width), side(height)))
    }

    /// How many times as large the result shows what the observation does.
    pub(super) fn scale(&self) -> f64 {
        self.restore.measurement().task().factor() as f64
    }

    /// How the result is stored: as the observation, where the format can hold it.
    pub(super) fn depth(&self) -> BitDepth {
        self.format.map_or(self.picture.bit_depth, |format| format.depth_for(self.picture.bit_depth))
    }
}

impl fmt::Display for Plan {
    /// Every setting with its source, and the memory: a line each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (plan, sampling) = (&self.restore, &self.request.sampling);
        let (canvas, result) = (plan.canvas(), plan.measurement().result());
        writeln!(f, "task                 {}", plan.measurement().task())?;
        writeln!(f, "model                {}", self.model_name)?;
        writeln!(f, "observation          {} (channels x height x width)", ImageShape::of_batch(&self.picture.tensor))?;
        writeln!(f, "result               {result}")?;
        if (canvas.height, canvas.width) != (result.height, result.width) {
            writeln!(f, "sampled as {canvas}, then cropped to the result")?;
        }
        writeln!(f, "network evaluations  {} x {}", plan.steps(), counted(sampling.samples, "sample"))?;
        if let Some([(down, height), (across, width)]) = self.extent.tiles {
            let how = "overlapping and blended at every step";
            writeln!(f, "tiles                {across}x{down} of at most {width}x{height} pixels, {how}")?;
        }
        writeln!(f, "memory               about {:.2} GB", self.memory.sampling as f64 / 1e9)?;
        write!(f, "seed                 {}", sampling.seed)?;
        // An estimate is among the choices.
        let sigma = match self.request.problem.sigma {
            Some(Sigma::Levels(levels)) => Some((levels, Source::Given)),
            None if !plan.choices().iter().any(|choice| choice.name == "sigma") => Some((0.0, Source::Preset)),
            _ => None,
        };
        if let Some((levels, source)) = sigma {
            write!(f, "\n{:<20} {:<28} {source}", "sigma", levels)?;
        }
        for choice in plan.choices() {
            write!(f, "\n{:<20} {:<28} {}", choice.name, choice.value, choice.source)?;
        }
        if let Some(adapt) = &self.adapt {
            write!(f, "\nadaptation memory    at most about {:.2} GB", adapt.memory() as f64 / 1e9)?;
            write!(f, "\nmemory in all        at most about {:.2} GB", self.memory.most() as f64 / 1e9)?;
            let settings = serde_json::to_string(adapt.config()).map_err(|_| fmt::Error)?;
            write!(f, "\nadaptation           {settings}")?;
        }
        Ok(())
    }
}
