//! What is asked for, as data: the input of every face of the engine.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::adapt::{AdaptConfig, Trained};
use crate::guidance::Guidance;
use crate::io::image::{Picture, Reading};
use crate::io::results::MOST_SAMPLES;
use crate::operator::LinearOperator;
use crate::optim::LevelWeights;
use crate::problem::Problem;
use crate::restore::MakeGuidance;
use crate::retrieve::{ContentHash, TileSide};
use crate::task::{Overrides, Preset};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// One restoration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Request {
    /// The observation y.
    pub input: Observation,
    /// How its file is read where that does not say it: page, black and white.
    #[serde(default, skip_serializing_if = "Reading::is_default")]
    pub reading: Reading,
    /// What was measured.
    pub problem: Problem,
    /// How to sample.
    #[serde(default)]
    pub sampling: SamplingRequest,
    /// What to adapt the prior to, if to anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapt: Option<Adapt>,
    /// Files to write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<OutputRequest>,
    /// The guidance of [`Request::guided_by`].
    #[serde(skip)]
    pub(super) guidance: Option<GuidanceMaker>,
}

/// Makes a guidance of the caller's.
#[derive(Clone)]
pub(super) struct GuidanceMaker(pub Arc<MakeGuidance>);

impl fmt::Debug for GuidanceMaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a guidance of the caller's")
    }
}

/// Where an observation comes from.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum Observation {
    /// An image file.
    File(#[serde(with = "crate::io::lossy::path")] PathBuf),
    /// An image in memory; a request with one cannot be serialised.
    #[serde(skip)]
    Picture(Arc<Picture>),
    /// The bytes of an image file, and what messages call it; a request with them cannot be serialised.
    #[serde(skip)]
    Bytes {
        /// The name.
        name: PathBuf,
        /// The bytes.
        bytes: Arc<Vec<u8>>,
    },
}

impl From<&str> for Observation {
    fn from(path: &str) -> Self {
        Self::File(path.into())
    }
}

impl From<&Path> for Observation {
    fn from(path: &Path) -> Self {
        Self::File(path.to_owned())
    }
}

impl From<PathBuf> for Observation {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

impl From<Picture> for Observation {
    fn from(picture: Picture) -> Self {
        Self::Picture(Arc::new(picture))
    }
}

impl From<&Picture> for Observation {
    fn from(picture: &Picture) -> Self {
        Self::Picture(Arc::new(picture.clone()))
    }
}

/// How to sample.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SamplingRequest {
    /// Named settings.
    pub preset: Preset,
    /// Settings that replace those of the preset.
    pub overrides: Overrides,
    /// Seed of the noise of sampling.
    pub seed: u64,
    /// Number of samples, 1 to 1000. The result is their mean.
    pub samples: usize,
    /// Class, for a class-conditional network.
    pub class: Option<usize>,
    /// Side, at most, of the tiles in which the network sees a larger image; by default it sees all of an image up to
    /// 768x768 pixels for which the memory suffices, and tiles of a larger one. Records hold it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tile: Option<usize>,
}

impl Default for SamplingRequest {
    fn default() -> Self {
        Self { preset: Preset::Fast, overrides: Overrides::default(), seed: 0, samples: 1, class: None, tile: None }
    }
}

/// Files to write: the image, its record, and if there are several samples, these and two maps of where they differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct OutputRequest {
    /// The image; its extension names the format.
    #[serde(with = "crate::io::lossy::path")]
    pub path: PathBuf,
    /// The record; by default it is beside the image.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::io::lossy::option")]
    pub record: Option<PathBuf>,
    /// A page that the caller writes about the run. The engine only keeps it from replacing another file.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::io::lossy::option")]
    pub report: Option<PathBuf>,
    /// Whether existing files are replaced.
    #[serde(default)]
    pub overwrite: bool,
}

/// What the prior is adapted to, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Adapt {
    /// The images to adapt to.
    pub target: Target,
    /// An adapter to start from, by its file, or by what the cache knows it by: the adaptation refines it.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::io::lossy::option")]
    pub start: Option<PathBuf>,
    /// What the images of a gallery are to be near to.
    #[serde(default, skip_serializing_if = "Query::is_usual")]
    pub query: Query,
    /// When the adapted weights are used.
    #[serde(default)]
    pub keep: Keep,
    /// Number K of nearest images, 1 to 10000.
    #[serde(default = "twenty")]
    pub neighbours: usize,
    /// Images closer to the observation than this are left out, in radians (Eq. 19).
    #[serde(default)]
    pub closer_than: f64,
    /// The side that large images of the gallery are divided by: each part is an image of its own, whose content can be
    /// like the observation where the whole is not. `None` takes images whole, or as an index has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tiles: Option<TileSide>,
    /// Images of the gallery to adapt to in place of those nearest to the observation: those that it shares with
    /// observations like it, most of which have them among their nearest.
    #[serde(default, skip_serializing_if = "Vec::is_empty", with = "crate::io::lossy::list")]
    pub shared: Vec<PathBuf>,
    /// Files with this content are left out, besides the observation itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<ContentHash>,
    /// Seed of crops, timesteps and noise of the training. It is not the seed of sampling: one adaptation serves all.
    #[serde(default)]
    pub seed: u64,
    /// Settings that replace those of the preset.
    #[serde(default)]
    pub overrides: AdaptOverrides,
    /// Whether adapters in the cache are used and new ones kept there.
    #[serde(default = "yes")]
    pub use_cache: bool,
}

fn twenty() -> usize {
    20
}

fn yes() -> bool {
    true
}

/// Images to adapt to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Target {
    /// Those nearest to the observation in a folder, or in an index file.
    Gallery(#[serde(with = "crate::io::lossy::path")] PathBuf),
    /// Those nearest to a text; the encoder must know texts (CLIP).
    Text {
        /// The folder or index file.
        #[serde(with = "crate::io::lossy::path")]
        gallery: PathBuf,
        /// The text.
        prompt: String,
    },
    /// The observation itself (the paper's IA).
    Itself,
    /// These files.
    Images(#[serde(with = "crate::io::lossy::list")] Vec<PathBuf>),
    /// All images of a folder.
    Archive(#[serde(with = "crate::io::lossy::path")] PathBuf),
    /// None: an adapter that is there already, by its file, or by what the cache knows it by.
    Adapter(#[serde(with = "crate::io::lossy::path")] PathBuf),
}

impl Target {
    /// The gallery, where images come from one.
    pub fn gallery(&self) -> Option<&Path> {
        match self {
            Self::Gallery(gallery) | Self::Text { gallery, .. } => Some(gallery),
            Self::Itself | Self::Images(_) | Self::Archive(_) | Self::Adapter(_) => None,
        }
    }
}

/// What the images of a gallery are to be near to, where it is not a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Query {
    /// The observation.
    #[default]
    Observation,
    /// A first restoration of it: a sample of the prior as it is.
    Restoration,
    /// Both: the mean of their directions.
    Both,
}

impl Query {
    /// Whether it is the observation.
    pub fn is_usual(&self) -> bool {
        *self == Self::Observation
    }
}

/// When adapted weights are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// Only where they denoise held-out neighbours clearly better than the prior does ([`HeldOut::helped`](crate::adapt::HeldOut::helped)).
    #[default]
    IfHeldOutImproves,
    /// Always. Held-out images, where the preset has some, decide only how long is trained.
    Always,
}

/// Settings of an adaptation given explicitly; `None` leaves the preset's. See [`AdaptConfig`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdaptOverrides {
    /// See [`AdaptConfig::iterations`].
    pub iterations: Option<u32>,
    /// The time for the training in minutes, which becomes a number of iterations when the first steps have been timed. That
    /// number is what records, adapters and the cache know.
    pub minutes: Option<f64>,
    /// See [`AdaptConfig::learning_rate`].
    pub learning_rate: Option<f64>,
    /// See [`AdaptConfig::crop`].
    pub crop: Option<usize>,
    /// See [`AdaptConfig::batch`].
    pub batch: Option<usize>,
    /// See [`AdaptConfig::micro_batch`].
    pub micro_batch: Option<usize>,
    /// See [`AdaptConfig::ema`].
    pub ema: Option<f64>,
    /// See [`AdaptConfig::strength`].
    pub strength: Option<f64>,
    /// See [`LevelWeights::gamma`].
    pub p2_gamma: Option<f64>,
    /// See [`LevelWeights::k`].
    pub p2_k: Option<f64>,
    /// See [`AdaptConfig::trained`].
    pub trained: Option<Trained>,
    /// See [`AdaptConfig::recompute`].
    pub recompute: Option<bool>,
}

impl Adapt {
    /// To `target`, with the preset's settings.
    pub fn new(target: Target) -> Self {
        let keep = match &target {
            Target::Gallery(_) | Target::Archive(_) => Keep::IfHeldOutImproves,
            _ => Keep::Always,
        };
        Self {
            target,
            start: None,
            query: Query::default(),
            keep,
            neighbours: twenty(),
            closer_than: 0.0,
            tiles: None,
            shared: Vec::new(),
            exclude: Vec::new(),
            seed: 0,
            overrides: AdaptOverrides::default(),
            use_cache: true,
        }
    }

    /// To the images of a folder, or of an index file, that are nearest to the observation.
    pub fn to_gallery(gallery: impl Into<PathBuf>) -> Self {
        Self::new(Target::Gallery(gallery.into()))
    }

    /// To the images of a gallery that are nearest to a text.
    pub fn to_text(gallery: impl Into<PathBuf>, prompt: impl Into<String>) -> Self {
        Self::new(Target::Text { gallery: gallery.into(), prompt: prompt.into() })
    }

    /// To the observation itself.
    pub fn to_itself() -> Self {
        Self::new(Target::Itself)
    }

    /// With that number of nearest images.
    #[must_use]
    pub fn neighbours(self, neighbours: usize) -> Self {
        Self { neighbours, ..self }
    }

    /// With that number of training steps.
    #[must_use]
    pub fn iterations(mut self, iterations: u32) -> Self {
        self.overrides.iterations = Some(iterations);
        self
    }

    /// Using the adapted weights when `keep` says.
    #[must_use]
    pub fn keep(self, keep: Keep) -> Self {
        Self { keep, ..self }
    }

    /// With that seed of the training.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Low-rank factors of that rank, as the preset trains them.
    pub fn factors(rank: usize, preset: Preset) -> Trained {
        match preset {
            Preset::Fast => AdaptConfig::fast().factors(rank),
            Preset::Paper => AdaptConfig::paper().factors(rank),
        }
    }

    /// The preset's settings, overridden by what was given.
    pub fn config(&self, preset: Preset) -> AdaptConfig {
        let base = match (preset, &self.target) {
            (Preset::Paper, Target::Itself) => AdaptConfig::paper_itself(),
            (Preset::Paper, _) => AdaptConfig::paper(),
            (_, Target::Itself) => AdaptConfig::fast_itself(),
            (Preset::Fast, _) => AdaptConfig::fast(),
        };
        let given = &self.overrides;
        AdaptConfig {
            iterations: given.iterations.unwrap_or(base.iterations),
            learning_rate: given.learning_rate.unwrap_or(base.learning_rate),
            crop: given.crop.unwrap_or(base.crop),
            batch: given.batch.unwrap_or(base.batch),
            micro_batch: given.micro_batch.unwrap_or(base.micro_batch),
            ema: given.ema.unwrap_or(base.ema),
            strength: given.strength.unwrap_or(base.strength),
            level_weights: LevelWeights {
                k: given.p2_k.unwrap_or(base.level_weights.k),
                gamma: given.p2_gamma.unwrap_or(base.level_weights.gamma),
            },
            trained: given.trained.unwrap_or(base.trained),
            recompute: given.recompute.unwrap_or(base.recompute),
            held_out: base.held_out || self.keep == Keep::IfHeldOutImproves,
            seed: self.seed,
            ..base
        }
    }

    /// Refuses what is wrong whatever the images and the network are. Opens no file.
    ///
    /// # Errors
    /// [`Error::Config`] naming the setting.
    pub fn check(&self, preset: Preset) -> Result<()> {
        if !(1..=10_000).contains(&self.neighbours) {
            return Err(Error::config(format!("{} nearest images: expected 1 to 10000", self.neighbours)));
        }
        if !(0.0..=std::f64::consts::PI).contains(&self.closer_than) {
            return Err(Error::config(format!("a distance of {}: expected 0 to pi radians", self.closer_than)));
        }
        if let Target::Images(images) = &self.target
            && images.is_empty()
        {
            return Err(Error::config("no images to adapt to"));
        }
        if !self.shared.is_empty() && self.target.gallery().is_none() {
            return Err(Error::config("shared images come from a gallery, and this adaptation has none"));
        }
        let is_searched = matches!(self.target, Target::Gallery(_)) && self.shared.is_empty();
        if !is_searched && !self.query.is_usual() {
            return Err(Error::config("only the images of a gallery are searched for by a first restoration"));
        }
        if self.tiles.is_some() && self.target.gallery().is_none() {
            return Err(Error::config("tiles are those of a gallery's images, and this adaptation has no gallery"));
        }
        if self.tiles.is_some() && !self.shared.is_empty() {
            return Err(Error::config("images that observations share are whole ones, not tiles"));
        }
        if let Some(minutes) = self.overrides.minutes {
            if !(minutes > 0.0 && minutes <= 1e5) {
                return Err(Error::config(format!(
                    "{minutes} minutes of training: expected more than 0, at most 100000"
                )));
            }
            if self.overrides.iterations.is_some() {
                return Err(Error::config("adaptation: give a number of training steps or of minutes, not both"));
            }
        }
        let config = self.config(preset);
        if config.iterations == 0 {
            return Err(Error::config("adaptation: 0 training steps: expected 1 or more"));
        }
        config.check(1)
    }
}

impl Request {
    /// A restoration of `input` with the default settings, that writes no file.
    pub fn new(input: impl Into<Observation>, problem: Problem) -> Self {
        Self {
            input: input.into(),
            reading: Reading::default(),
            problem,
            sampling: SamplingRequest::default(),
            adapt: None,
            output: None,
            guidance: None,
        }
    }

    /// Adapting the prior first.
    #[must_use]
    pub fn adapt(self, adapt: Adapt) -> Self {
        Self { adapt: Some(adapt), ..self }
    }

    /// With those named settings.
    #[must_use]
    pub fn preset(mut self, preset: Preset) -> Self {
        self.sampling.preset = preset;
        self
    }

    /// With that number of sampling steps.
    #[must_use]
    pub fn steps(mut self, steps: usize) -> Self {
        self.sampling.overrides.steps = Some(steps.to_string());
        self
    }

    /// With that number of samples.
    #[must_use]
    pub fn samples(mut self, samples: usize) -> Self {
        self.sampling.samples = samples;
        self
    }

    /// With that seed of the noise of sampling.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.sampling.seed = seed;
        self
    }

    /// Writing the result to `path` and its record beside it.
    #[must_use]
    pub fn output(self, path: impl Into<PathBuf>) -> Self {
        Self { output: Some(OutputRequest::new(path, false)), ..self }
    }

    /// By a guidance of the caller's in place of ADIR's: `make` gets the operator, on images of the size that is
    /// sampled, and the observation. Settings of ADIR's guidance then have no effect.
    #[must_use]
    pub fn guided_by(
        self,
        make: impl Fn(Arc<dyn LinearOperator>, &Tensor<4>) -> Result<Box<dyn Guidance>> + Send + Sync + 'static,
    ) -> Self {
        Self { guidance: Some(GuidanceMaker(Arc::new(make))), ..self }
    }

    /// Reads the JSON form.
    ///
    /// # Errors
    /// [`Error::Config`] for unknown or missing keys, and values of another kind.
    pub fn from_json(text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(|e| Error::config(format!("the request: {e}")))
    }

    /// Refuses what is wrong whatever the files hold. Opens none.
    ///
    /// # Errors
    /// [`Error::Config`] naming the setting.
    pub fn check(&self) -> Result<()> {
        self.problem.check()?;
        self.reading.check()?;
        if matches!(self.input, Observation::Picture(_)) && !self.reading.is_default() {
            return Err(Error::config("page, black and white say how a file is read; this observation is in memory"));
        }
        let SamplingRequest { preset, overrides, samples, .. } = &self.sampling;
        if !(1..=MOST_SAMPLES).contains(samples) {
            return Err(Error::config(format!("{samples} samples: expected 1 to {MOST_SAMPLES}")));
        }
        overrides.check()?;
        self.adapt.as_ref().map_or(Ok(()), |adapt| adapt.check(*preset))
    }
}

impl OutputRequest {
    /// To `path`, replacing existing files if `overwrite`.
    pub fn new(path: impl Into<PathBuf>, overwrite: bool) -> Self {
        Self { path: path.into(), record: None, report: None, overwrite }
    }
}
