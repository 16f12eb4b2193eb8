//! The engine: what is opened once and serves every request.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::cache::{Cache, NoCache};
use super::checks::LookedAt;
use super::event::{Event, Watch, report};
use super::gallery::Gallery;
use super::states::STATE_EVERY;
use crate::adapt::{Adapter, AdapterInfo};
use crate::compute::Precision;
use crate::encode::Encoder;
use crate::io::limits::Limits;
use crate::io::sidecar::beside;
use crate::io::weights::WeightFile;
use crate::models::clip::Clip;
use crate::models::efficientnet_lite::EfficientNetLite0;
use crate::models::guided_diffusion::UNetConfig;
use crate::models::{Prior, PriorHeader};
use crate::retrieve::{Remotes, TileSide, remote_address};
use crate::tensor::{Compute, cpu};
use crate::{Error, Result};

/// A prior, an encoder, a cache and limits, each opened when it is first needed and then kept.
///
/// An engine is shared between threads: several requests may run at the same time, and each computes what it computes
/// alone.
pub struct Engine {
    model: ModelSource,
    device: String,
    precision: Precision,
    compute: Compute,
    encoder: EncoderSource,
    pub(super) cache: Arc<dyn Cache>,
    pub(super) limits: Limits,
    pub(super) memory: Option<u64>,
    /// How often the states of what is computed are written.
    pub(super) state_every: Duration,
    remotes: Option<Arc<dyn Remotes>>,
    opened: Mutex<Opened>,
}

/// What has been opened so far.
#[derive(Default)]
pub(super) struct Opened {
    header: Option<PriorHeader>,
    prior: Option<Arc<Prior>>,
    encoder: Option<Arc<dyn Encoder>>,
    galleries: HashMap<(PathBuf, Option<TileSide>), Arc<Gallery>>,
    /// Galleries that plans have looked at.
    pub(super) looked_at: Vec<LookedAt>,
    /// The adapter that a plan has looked at last, by its file.
    pub(super) adapter: Option<(PathBuf, AdapterInfo)>,
    /// The last adapter that several observations share and no cache keeps, by its key.
    shared: Option<(String, Adapter, AdapterInfo)>,
    /// Training steps that minutes became, by what names them in the cache: without one, observations that share an
    /// adapter would each take their own time, and train for other numbers of steps.
    pub(super) steps: HashMap<String, u32>,
}

#[derive(Debug, Clone)]
enum ModelSource {
    Embedded,
    File { weights: PathBuf, config: Option<PathBuf> },
    Loaded(Arc<Prior>),
}

#[derive(Clone)]
enum EncoderSource {
    Embedded,
    File(PathBuf),
    Loaded(Arc<dyn Encoder>),
}

/// Puts an [`Engine`] together.
pub struct EngineBuilder {
    model: ModelSource,
    device: String,
    precision: Precision,
    encoder: EncoderSource,
    cache: Arc<dyn Cache>,
    limits: Limits,
    memory: Option<u64>,
    state_every: Duration,
    remotes: Option<Arc<dyn Remotes>>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("model", &self.model)
            .field("device", &self.device)
            .field("precision", &self.precision)
            .field("cache", &self.cache)
            .finish_non_exhaustive()
    }
}

impl EngineBuilder {
    /// With a prior that is loaded already, where and in what precision it is.
    #[must_use]
    pub fn prior(self, prior: impl Into<Arc<Prior>>) -> Self {
        Self { model: ModelSource::Loaded(prior.into()), ..self }
    }

    /// With the prior in a weight file, and its configuration in `config` where neither the file nor a .json file beside
    /// it holds one. By default it is the embedded prior.
    #[must_use]
    pub fn model(self, weights: impl Into<PathBuf>, config: Option<PathBuf>) -> Self {
        Self { model: ModelSource::File { weights: weights.into(), config }, ..self }
    }

    /// Computing on that device, see [`crate::tensor::device`]; by default `cpu`.
    #[must_use]
    pub fn device(self, name: impl Into<String>) -> Self {
        Self { device: name.into(), ..self }
    }

    /// Computing in that precision; by default f32.
    #[must_use]
    pub fn precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// With an encoder that is loaded already.
    #[must_use]
    pub fn encoder(self, encoder: Arc<dyn Encoder>) -> Self {
        Self { encoder: EncoderSource::Loaded(encoder), ..self }
    }

    /// With the CLIP model in a file or folder; by default it is the embedded EfficientNet-Lite0.
    #[must_use]
    pub fn clip(self, path: impl Into<PathBuf>) -> Self {
        Self { encoder: EncoderSource::File(path.into()), ..self }
    }

    /// Keeping adapters and indexes in `cache`; by default nothing is kept.
    #[must_use]
    pub fn cache(self, cache: impl Cache + 'static) -> Self {
        Self { cache: Arc::new(cache), ..self }
    }

    /// With those limits of images.
    #[must_use]
    pub fn limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Refusing what needs more than that number of bytes on the CPU; by default nothing is refused.
    #[must_use]
    pub fn memory(self, bytes: Option<u64>) -> Self {
        Self { memory: bytes, ..self }
    }

    /// Writing the states of samplings and adaptations into the cache at most that often, so that an interrupted run goes on
    /// from there; by default every 5 seconds. Writing takes at most a twentieth of the time.
    #[must_use]
    pub fn state_every(self, time: Duration) -> Self {
        Self { state_every: time, ..self }
    }

    /// With galleries on servers, whose addresses are given in place of a folder; by default there are none.
    #[must_use]
    pub fn remotes(self, remotes: impl Remotes + 'static) -> Self {
        Self { remotes: Some(Arc::new(remotes)), ..self }
    }

    /// The engine. Opens no file.
    ///
    /// # Errors
    /// [`Error::Config`] for a device this build was made without, or a precision that the device lacks;
    /// [`Error::Backend`] where the machine has no such device.
    pub fn build(self) -> Result<Engine> {
        let Self { model, device, precision, encoder, cache, limits, memory, state_every, remotes } = self;
        let compute = match &model {
            ModelSource::Loaded(prior) => prior.params().compute(),
            _ => Compute::named(&device, precision)?,
        };
        let opened = Mutex::default();
        Ok(Engine { model, device, precision, compute, encoder, cache, limits, memory, state_every, remotes, opened })
    }
}

impl Engine {
    /// An engine with the embedded prior and encoder, on the CPU, that keeps nothing.
    pub fn builder() -> EngineBuilder {
        EngineBuilder {
            model: ModelSource::Embedded,
            device: "cpu".into(),
            precision: Precision::F32,
            encoder: EncoderSource::Embedded,
            cache: Arc::new(NoCache),
            limits: Limits::default(),
            memory: None,
            state_every: STATE_EVERY,
            remotes: None,
        }
    }

    /// How the prior is called in messages and records.
    pub fn model_name(&self) -> String {
        match &self.model {
            ModelSource::Embedded => "embedded prior".into(),
            ModelSource::File { weights, .. } => weights.display().to_string(),
            ModelSource::Loaded(_) => "a prior of the caller's".into(),
        }
    }

    /// The device and precision, by name.
    pub fn placement(&self) -> (&str, Precision) {
        (&self.device, self.precision)
    }

    /// Where and how networks compute.
    pub fn compute(&self) -> &Compute {
        &self.compute
    }

    /// Limits of images.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What is kept between runs.
    pub fn cache(&self) -> &dyn Cache {
        self.cache.as_ref()
    }

    /// The files that the prior and the encoder come from.
    pub(super) fn model_files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        if let ModelSource::File { weights, config } = &self.model {
            files.extend(beside(weights));
            files.push(weights.clone());
            files.extend(config.clone());
        }
        files.extend(self.encoder_file().map(Path::to_owned));
        files
    }

    /// The file or folder that the encoder comes from, if it comes from one.
    pub(super) fn encoder_file(&self) -> Option<&Path> {
        match &self.encoder {
            EncoderSource::File(path) => Some(path),
            EncoderSource::Embedded | EncoderSource::Loaded(_) => None,
        }
    }

    /// The weight file of the prior and its configuration, opened but not read.
    ///
    /// # Errors
    /// [`Error::Model`] when the file or its configuration is missing or malformed; [`Error::Config`] when the prior
    /// comes from no file.
    pub fn weights(&self) -> Result<(WeightFile, Option<UNetConfig>)> {
        match &self.model {
            ModelSource::Loaded(_) => Err(Error::config("the prior of this engine comes from no file")),
            ModelSource::Embedded => Ok((Prior::embedded_file()?, None)),
            ModelSource::File { weights, config } => Prior::open_weights(weights, config.as_deref()),
        }
    }

    /// What is known of the prior before its weights are read; the file is opened at the first call.
    ///
    /// # Errors
    /// As [`Prior::describe`].
    pub fn header(&self) -> Result<PriorHeader> {
        if let ModelSource::Loaded(prior) = &self.model {
            return Ok(prior.header());
        }
        let mut opened = self.lock();
        if let Some(header) = &opened.header {
            return Ok(header.clone());
        }
        let (file, config) = self.weights()?;
        let header = Prior::describe(&file, config)?;
        opened.header = Some(header.clone());
        Ok(header)
    }

    /// The prior, loaded at the first call.
    ///
    /// # Errors
    /// As [`Prior::load`].
    pub fn prior(&self, watch: &Watch<'_>) -> Result<Arc<Prior>> {
        if let ModelSource::Loaded(prior) = &self.model {
            return Ok(prior.clone());
        }
        let mut opened = self.lock();
        if let Some(prior) = &opened.prior {
            return Ok(prior.clone());
        }
        report(watch, &Event::Loading { name: self.model_name() })?;
        let (file, config) = self.weights()?;
        let prior = Arc::new(Prior::load(&file, config, &self.compute)?);
        opened.prior = Some(prior.clone());
        Ok(prior)
    }

    /// How many products a second networks like its prior add up here, see [`speed`](crate::models::speed).
    ///
    /// # Errors
    /// As [`Engine::header`] and [`speed`](crate::models::speed).
    pub fn speed(&self) -> Result<f64> {
        crate::models::speed(self.compute(), &self.header()?)
    }

    /// The encoder, loaded at the first call.
    ///
    /// # Errors
    /// [`Error::Model`] when its files are missing or malformed.
    pub fn encoder(&self) -> Result<Arc<dyn Encoder>> {
        let path = match &self.encoder {
            EncoderSource::Loaded(encoder) => return Ok(encoder.clone()),
            EncoderSource::Embedded => None,
            EncoderSource::File(path) => Some(path.as_path()),
        };
        let mut opened = self.lock();
        if let Some(encoder) = &opened.encoder {
            return Ok(encoder.clone());
        }
        let encoder = open_encoder(path)?;
        opened.encoder = Some(encoder.clone());
        Ok(encoder)
    }

    /// The gallery of a folder or index file, with large images in `tiles`, brought up to date at the first call; or that of
    /// an index on a server.
    ///
    /// # Errors
    /// As [`Gallery::open`] and [`Remotes::open`]; [`Error::Config`] where there are no galleries on servers.
    pub fn gallery(&self, path: &Path, tiles: Option<TileSide>, watch: &Watch<'_>) -> Result<Arc<Gallery>> {
        let key = (path.to_owned(), tiles);
        if let Some(gallery) = self.lock().galleries.get(&key) {
            return Ok(gallery.clone());
        }
        let encoder = self.encoder()?;
        let gallery = match remote_address(path) {
            Some(address) => self.remote_gallery(address, tiles, encoder)?,
            None => Gallery::open(path, tiles, encoder, self.cache.as_ref(), &self.limits, watch)?,
        };
        let gallery = Arc::new(gallery);
        self.lock().galleries.insert(key, gallery.clone());
        Ok(gallery)
    }

    /// How many images of a folder a run that adapts to it has to index first, and about how long that takes here; `None`
    /// where the gallery is no folder. Reads and embeds a few of them.
    ///
    /// # Errors
    /// As [`Engine::gallery`].
    pub fn left_to_index(&self, gallery: &Path, tiles: Option<TileSide>) -> Result<Option<(usize, Duration)>> {
        if !gallery.is_dir() {
            return Ok(None);
        }
        let encoder = self.encoder()?;
        Gallery::left_to_index(gallery, tiles, encoder.as_ref(), self.cache.as_ref(), &self.limits).map(Some)
    }

    fn remote_gallery(&self, address: &str, tiles: Option<TileSide>, encoder: Arc<dyn Encoder>) -> Result<Gallery> {
        let Some(remotes) = &self.remotes else {
            return Err(Error::config(format!("{address}: galleries on servers are not available here")));
        };
        if tiles.is_some() {
            return Err(Error::config(format!("{address}: images on a server are not divided into tiles")));
        }
        Gallery::remote(remotes.open(address, encoder.id())?, encoder)
    }

    /// The adapter that [`Engine::share_adapter`] was given last, if it is that one.
    pub(super) fn shared_adapter(&self, key: &str) -> Option<(Adapter, AdapterInfo)> {
        let opened = self.lock();
        let (_, adapter, info) = opened.shared.as_ref().filter(|(of, ..)| of == key)?;
        Some((adapter.clone(), info.clone()))
    }

    /// Holds an adapter in memory for the next observation that shares it.
    pub(super) fn share_adapter(&self, key: &str, adapter: &Adapter, info: &AdapterInfo) {
        self.lock().shared = Some((key.to_owned(), adapter.clone(), info.clone()));
    }

    pub(super) fn lock(&self) -> std::sync::MutexGuard<'_, Opened> {
        // Every change is one assignment: a panic elsewhere leaves nothing half done.
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// CLIP from a file or folder, or the embedded encoder.
///
/// # Errors
/// [`Error::Model`] when its files are missing or malformed.
pub fn open_encoder(path: Option<&Path>) -> Result<Arc<dyn Encoder>> {
    Ok(match path {
        Some(path) => Arc::new(Clip::open(path, None, &cpu())?),
        None => Arc::new(EfficientNetLite0::embedded(&cpu())?),
    })
}
