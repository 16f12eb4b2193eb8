//! Whether a file was restored already: its record says what was asked for, of which bytes, by which weights.

use std::path::PathBuf;

use serde_json::Value;

use super::each::Each;
use super::manifest::is_in_place;
use crate::engine::event::Watch;
use crate::engine::latent::{self, LatentRecord, LatentRequest};
use crate::engine::open::Engine;
use crate::engine::outputs::Outputs;
use crate::engine::record::{FileRecord, Record};
use crate::engine::request::{Observation, Request, Target};
use crate::operator::{Boundary, Degradation};
use crate::problem::{MaskSource, Sigma};
use crate::retrieve::ContentHash;
use crate::task::Task;
use crate::{Error, Result};

/// What a request leaves open, and a record says.
#[derive(Clone, Copy)]
struct Open {
    /// The number of training steps.
    steps: bool,
    /// The noise.
    sigma: bool,
    /// The tiles.
    tile: bool,
}

/// What records must say besides the hash of the observation.
pub(super) enum Asked {
    Pixels(Box<AskedOfPixels>),
    Latents(Box<AskedOfLatents>),
}

impl Asked {
    /// What records of `each` say. Loads the prior, or hashes the weights.
    pub fn new(engine: &Engine, each: &Each, watch: &Watch<'_>) -> Result<Self> {
        match each {
            Each::Pixels(each) => AskedOfPixels::new(engine, each, watch).map(|asked| Self::Pixels(asked.into())),
            Each::Latents(each) => AskedOfLatents::new(engine, each).map(|asked| Self::Latents(asked.into())),
        }
    }

    /// Whether `outputs` are what a run of this request on an observation with that hash, or on a page of it, would write.
    pub fn is_met_by(
        &self,
        engine: &Engine,
        outputs: &Outputs,
        content: ContentHash,
        page: Option<usize>,
    ) -> Result<bool> {
        match self {
            Self::Pixels(asked) => asked.is_met_by(engine, outputs, content, page),
            Self::Latents(asked) => asked.is_met_by(outputs, content, page),
        }
    }
}

/// What records of upscalings must say.
pub(super) struct AskedOfLatents {
    request: LatentRequest,
    /// The page of every file, where one was asked for.
    page: Option<usize>,
    model: String,
    others: Vec<FileRecord>,
    placement: [String; 2],
}

impl AskedOfLatents {
    fn new(engine: &Engine, each: &LatentRequest) -> Result<Self> {
        let (request, files) = latent::opened(each)?;
        let (device, dtype) = engine.placement();
        Ok(Self {
            model: files.hash()?,
            others: latent::other_files(&request)?,
            page: request.reading.page,
            request: alike(&request),
            placement: [device.to_owned(), dtype.to_string()],
        })
    }

    fn is_met_by(&self, outputs: &Outputs, content: ContentHash, page: Option<usize>) -> Result<bool> {
        let Ok(Some(record)) = LatentRecord::read(&outputs.record) else { return Ok(false) };
        Ok(record.input.sha256 == content
            && record.latent.reading.page == page.or(self.page)
            && record.model == self.model
            && record.others == self.others
            && [&record.device, &record.dtype] == self.placement.each_ref()
            && alike(&record.latent) == self.request
            && is_in_place(outputs))
    }
}

/// A request without what differs from file to file.
fn alike(request: &LatentRequest) -> LatentRequest {
    let mut request = LatentRequest { input: PathBuf::new(), output: None, ..request.clone() };
    request.reading.page = None;
    request
}

/// What a record must say besides the hash of the observation.
pub(super) struct AskedOfPixels {
    request: Value,
    /// The page of every file, where one was asked for.
    page: Option<usize>,
    open: Open,
    /// The adapter that is there already, as asked for.
    adapter: Option<PathBuf>,
    blur: Option<Value>,
    masks: [Option<ContentHash>; 2],
    model: String,
    placement: [String; 2],
}

impl AskedOfPixels {
    /// What records of `each` say. Loads the prior.
    pub fn new(engine: &Engine, each: &Request, watch: &Watch<'_>) -> Result<Self> {
        let text = serde_json::to_string(each).map_err(|e| Error::config(format!("the request: {e}")))?;
        let adapter = each.adapt.as_ref().and_then(|adapt| match &adapt.target {
            Target::Adapter(reference) => Some(reference.clone()),
            _ => adapt.start.clone(),
        });
        let (degradation, _) = each.problem.degradation(Boundary::default(), engine.limits())?;
        let hash = |mask: &Option<MaskSource>| match mask {
            Some(MaskSource::File(path)) => ContentHash::of_file(path).map(Some),
            _ => Ok(None),
        };
        let masks = [hash(&each.problem.mask)?, hash(&each.problem.ignore)?];
        let open = Open {
            steps: each.adapt.as_ref().is_some_and(|adapt| adapt.overrides.minutes.is_some()),
            sigma: match each.problem.sigma {
                Some(sigma) => sigma == Sigma::Auto,
                None => matches!(each.problem.task, Task::Deblur | Task::Denoise),
            },
            tile: each.sampling.tile.is_none(),
        };
        let (device, dtype) = engine.placement();
        Ok(Self {
            // By way of its text, as a record has it.
            request: comparable(&Request::from_json(&text)?, open)?,
            page: each.reading.page,
            open,
            adapter,
            blur: kernel(&degradation),
            masks,
            model: engine.prior(watch)?.id()?.to_string(),
            placement: [device.to_owned(), dtype.to_string()],
        })
    }

    fn is_met_by(&self, engine: &Engine, outputs: &Outputs, content: ContentHash, page: Option<usize>) -> Result<bool> {
        let Ok(record) = Record::read(&outputs.record) else { return Ok(false) };
        let Some(request) = &record.request else { return Ok(false) };
        let same = record.input.sha256 == content
            && request.reading.page == page.or(self.page)
            && record.model.sha256 == self.model
            && [&record.device, &record.dtype] == self.placement.each_ref()
            && [&record.mask, &record.ignore].map(|mask| mask.as_ref().map(|mask| mask.sha256)) == self.masks
            && record.sources.iter().any(|choice| choice.name == "sigma") == self.open.sigma
            && record.degradation.as_ref().and_then(kernel) == self.blur
            && comparable(request, self.open)? == self.request;
        if !same || !is_in_place(outputs) {
            return Ok(false);
        }
        let Some(reference) = &self.adapter else { return Ok(true) };
        let key = engine.adapter_key(reference, content)?;
        Ok(record.adaptation.is_some_and(|done| match &done.target {
            Target::Adapter(_) => done.key == key,
            _ => done.start.as_ref() == Some(&key),
        }))
    }
}

/// A request without what it leaves open and what differs from file to file.
fn comparable(request: &Request, open: Open) -> Result<Value> {
    let mut request = request.clone();
    request.input = Observation::File("".into());
    request.output = None;
    request.reading.page = None;
    // A record holds the noise that was found, and 0 where none was said.
    request.problem.sigma = match request.problem.sigma {
        _ if open.sigma => None,
        sigma => Some(sigma.unwrap_or(Sigma::Levels(0.0))),
    };
    if open.tile {
        request.sampling.tile = None;
    }
    if let Some(adapt) = &mut request.adapt {
        adapt.shared.clear();
        if open.steps {
            // A record holds the number of steps that they became.
            (adapt.overrides.minutes, adapt.overrides.iterations) = (None, None);
        }
    }
    serde_json::to_value(&request).map_err(|e| Error::config(format!("the request: {e}")))
}

/// The kernel of the blur, if there is one.
fn kernel(degradation: &Degradation) -> Option<Value> {
    match degradation {
        Degradation::Blur { kernel, .. } => {
            let text = serde_json::to_string(kernel).ok()?;
            serde_json::from_str(&text).ok()
        }
        Degradation::Compose(parts) => parts.iter().find_map(kernel),
        _ => None,
    }
}
