//! A checked request: everything that can be refused is refused here, before any weights are read.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::adapt::{AdaptPlan, Observed};
use super::open::Engine;
use super::request::{Observation, Request, Target};
use crate::io::atomic::{check_writable, refuse_inputs, refuse_overwrite};
use crate::io::image::{BitDepth, ImageFormat, Picture, read_hashed};
use crate::operator::ImageShape;
use crate::optim::Workers;
use crate::problem::{KernelSource, MaskSource};
use crate::restore::{RestorePlan, SamplingConfig};
use crate::retrieve::ContentHash;
use crate::tensor::{self, is_cpu};
use crate::{Error, Result};

/// Longest name of a file, in bytes, on the file systems in use.
const LONGEST_NAME: usize = 255;

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
    format: Option<ImageFormat>,
    memory: Memory,
    model_name: String,
}

/// What a run takes of memory at most, in bytes, weights included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Sampling.
    pub sampling: u64,
    /// The adaptation before it, if there is one.
    pub adaptation: Option<u64>,
}

impl Memory {
    /// The larger of the two: they do not overlap.
    pub fn most(&self) -> u64 {
        self.sampling.max(self.adaptation.unwrap_or(0))
    }
}

/// The files of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outputs {
    /// The image.
    pub image: PathBuf,
    /// The samples, where there are several.
    pub samples: Vec<PathBuf>,
    /// The record.
    pub record: PathBuf,
}

impl Outputs {
    /// `x.png`, `x.1.png`, `x.2.png` ... and `x.json`.
    pub fn new(image: &Path, samples: usize) -> Self {
        let extension = image.extension().unwrap_or_default().to_os_string();
        let numbered = |k: usize| {
            let mut end = std::ffi::OsString::from(format!("{k}."));
            end.push(&extension);
            image.with_extension(end)
        };
        Self {
            image: image.to_owned(),
            samples: if samples > 1 { (1..=samples).map(numbered).collect() } else { Vec::new() },
            record: image.with_extension("json"),
        }
    }

    /// All of them, the image first.
    pub fn all(&self) -> impl Iterator<Item = &Path> {
        [&self.image, &self.record].into_iter().chain(&self.samples).map(PathBuf::as_path)
    }
}

impl Engine {
    /// Checks a request, the observation and the files named in it, and settles every setting. Reads no weights but
    /// their names and shapes.
    ///
    /// # Errors
    /// [`Error::Config`] for settings that are wrong or do not fit together, [`Error::Input`] for a file that is
    /// missing or damaged, [`Error::Model`] for a weight file whose names and shapes do not fit, [`Error::Limits`] for
    /// more memory or larger images than allowed, [`Error::Io`] for outputs that cannot be written.
    pub fn plan(&self, request: &Request) -> Result<Plan> {
        request.check()?;
        let outputs = request.output.as_ref().map(|output| Outputs::new(&output.path, request.sampling.samples));
        let format = request.output.as_ref().map(|output| ImageFormat::from_path(&output.path)).transpose()?;
        let file = match &request.input {
            Observation::Picture(_) => None,
            Observation::File(path) => Some(path.clone()),
        };
        // Outputs come first: whatever the picture is, it must not be written over.
        self.check_outputs(file.as_deref().unwrap_or(Path::new("")), request, outputs.as_ref())?;
        let (content, picture) = match &request.input {
            Observation::Picture(picture) => (content_of(picture)?, picture.clone()),
            Observation::File(path) => {
                let (picture, content) = read_hashed(path, &self.limits)?;
                (content, Arc::new(picture))
            }
        };
        if let (Some(output), Some(format)) = (&request.output, format)
            && picture.alpha.is_some()
            && !format.holds_alpha()
        {
            let message = "the observation has an alpha channel, which this format cannot hold";
            return Err(Error::config(format!("{}: {message}: write .png, .webp or .tif", output.path.display())));
        }
        let sampling = &request.sampling;
        let adapt = request.adapt.as_ref().map(|adapt| self.plan_adaptation(adapt, sampling.preset)).transpose()?;
        let header = self.header()?;
        let channels = header.info().channels;
        let measurement =
            request.problem.measure(&picture.tensor, picture.bit_depth.rounding(), channels, &self.limits)?;
        let settings = SamplingConfig {
            preset: sampling.preset,
            overrides: sampling.overrides.clone(),
            seed: sampling.seed,
            class: sampling.class,
        };
        header.check_class(sampling.class)?;
        let make = request.guidance.as_ref().map(|maker| maker.0.as_ref());
        let restore = RestorePlan::guided_by(measurement, &settings, header.info(), make)?;
        if let (Some(output), Some(format)) = (&request.output, format) {
            self.check_size(&output.path, &restore, &picture, format)?;
        }
        let canvas = restore.canvas();
        let at_once = self.samples_at_once(sampling.samples);
        let memory = Memory {
            sampling: header.network().forward_memory(canvas.height, canvas.width, at_once),
            adaptation: adapt.as_ref().map(AdaptPlan::memory),
        };
        self.check_memory(memory.most())?;
        let (request, restore, model_name) = (request.clone(), Arc::new(restore), self.model_name());
        Ok(Plan { request, picture, file, content, restore, adapt, outputs, format, memory, model_name })
    }

    /// Number of samples computed at once: one per CPU thread. This is faster than all threads on one sample and gives
    /// the same numbers.
    pub(super) fn samples_at_once(&self, samples: usize) -> usize {
        if is_cpu(&self.compute().device) { samples.min(Workers::available()) } else { 1 }
    }

    /// Refuses what does not fit the memory that the engine may take. Only that of the CPU is known.
    pub(super) fn check_memory(&self, need: u64) -> Result<()> {
        match self.memory {
            Some(free) if is_cpu(&self.compute().device) && need > free => Err(Error::Limits(format!(
                "this needs about {:.1} GB of memory, but only {:.1} GB are free",
                need as f64 / 1e9,
                free as f64 / 1e9
            ))),
            _ => Ok(()),
        }
    }

    /// Refuses outputs that cannot be written, that exist, or that would destroy what is read.
    fn check_outputs(&self, input: &Path, request: &Request, outputs: Option<&Outputs>) -> Result<()> {
        let others = self.files_read(request);
        let (Some(outputs), Some(request)) = (outputs, request.output.as_ref()) else { return Ok(()) };
        for path in outputs.all() {
            let length = path.file_name().map_or(0, |name| name.as_encoded_bytes().len());
            if length > LONGEST_NAME {
                return Err(Error::config(format!(
                    "the name of an output, {length} bytes, is longer than the {LONGEST_NAME} that file systems take: \
                     {}",
                    path.display()
                )));
            }
            refuse_overwrite(input, path, request.overwrite)?;
            refuse_inputs(others.iter().map(PathBuf::as_path), path)?;
            check_writable(path)?;
        }
        Ok(())
    }

    /// Files besides the observation that the request or the engine reads.
    fn files_read(&self, request: &Request) -> Vec<PathBuf> {
        let mut files = self.model_files();
        if let Some(KernelSource::Text(text)) = &request.problem.kernel {
            files.push(text.into());
        }
        for mask in [&request.problem.mask, &request.problem.ignore] {
            if let Some(MaskSource::File(mask)) = mask {
                files.push(mask.clone());
            }
        }
        match request.adapt.as_ref().map(|adapt| &adapt.target) {
            Some(
                Target::Gallery(path)
                | Target::Text { gallery: path, .. }
                | Target::Adapter(path)
                | Target::Archive(path),
            ) => files.push(path.clone()),
            Some(Target::Images(images)) => files.extend(images.iter().cloned()),
            Some(Target::Itself) | None => {}
        }
        files.extend(request.adapt.as_ref().and_then(|adapt| adapt.start.clone()));
        files
    }

    /// Refuses a result that exceeds the limits for reading it back.
    fn check_size(&self, path: &Path, plan: &RestorePlan, picture: &Picture, format: ImageFormat) -> Result<()> {
        let ImageShape { channels, height, width } = plan.measurement().result();
        let side = |pixels: usize| u32::try_from(pixels).unwrap_or(u32::MAX);
        let samples = channels as u64 + u64::from(picture.alpha.is_some());
        let bytes = format.depth_for(picture.bit_depth).bytes();
        self.limits.check(path, (side(width), side(height)), samples * bytes).map(drop)
    }
}

/// SHA-256 of the sizes and values of a picture from memory.
fn content_of(picture: &Picture) -> Result<ContentHash> {
    let mut bytes = format!("{:?}\n", picture.tensor.dims()).into_bytes();
    for value in tensor::to_f32(&picture.tensor)? {
        bytes.extend(value.to_le_bytes());
    }
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

    /// What was assumed and may be wrong, and where the observation contradicts what was given.
    pub fn warnings(&self) -> &[String] {
        self.restore.measurement().warnings()
    }

    /// What it takes of memory.
    pub fn memory(&self) -> Memory {
        self.memory
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
        writeln!(f, "network evaluations  {} x {} samples", plan.steps(), sampling.samples)?;
        writeln!(f, "memory               about {:.1} GB", self.memory.sampling as f64 / 1e9)?;
        write!(f, "seed                 {}", sampling.seed)?;
        for choice in plan.choices() {
            write!(f, "\n{:<20} {:<28} {}", choice.name, choice.value, choice.source)?;
        }
        if let Some(adapt) = &self.adapt {
            write!(f, "\nadaptation memory    at most about {:.2} GB", adapt.memory() as f64 / 1e9)?;
            let settings = serde_json::to_string(adapt.config()).map_err(|_| fmt::Error)?;
            write!(f, "\nadaptation           {settings}")?;
        }
        Ok(())
    }
}
