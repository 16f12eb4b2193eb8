//! The record of a run: every value used and where it came from, enough to repeat it.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::by_y::ByY;
use super::deviation::DeviationRecord;
use super::request::{Keep, Query, Request, Target};
use crate::adapt::{AdaptConfig, HeldOut};
use crate::encode::EncoderId;
use crate::io::results::MOST_RECORD_BYTES;
use crate::io::{atomic, open_regular, plain};
use crate::models::guided_diffusion::UNetConfig;
use crate::operator::Degradation;
use crate::retrieve::{ContentHash, Tile, TileSide};
use crate::task::{Choice, Settings, Task};
use crate::{Error, Result};

/// What was done, and how well the result agrees with what was measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Record {
    /// Version of this form, [`Record::SCHEMA`].
    pub schema: u32,
    /// Program and version.
    pub program: String,
    /// What was asked for; absent where the observation came from memory or the operator from a caller.
    #[serde(default)]
    pub request: Option<Request>,
    /// The observation.
    pub input: FileRecord,
    /// The prior.
    pub model: ModelRecord,
    /// The device that computed.
    pub device: String,
    /// The precision it computed in.
    pub dtype: String,
    /// The task.
    pub task: Task,
    /// The degradation with all of its numbers; absent for an operator of a caller.
    pub degradation: Option<Degradation>,
    /// Standard deviation of the noise in y, in grey levels of 0..255, given or estimated.
    pub sigma: f64,
    /// How the variance of the noise grows with the signal, in grey levels; absent where it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gain: Option<f64>,
    /// The file of the mask.
    pub mask: Option<FileRecord>,
    /// The file that marks pixels of y as not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignore: Option<FileRecord>,
    /// Seed of the noise of sampling.
    pub seed: u64,
    /// Number of samples.
    pub samples: usize,
    /// Class, for a class-conditional network.
    pub class: Option<usize>,
    /// Every setting of the sampling.
    pub settings: Settings,
    /// The same in words, with the source of each.
    pub sources: Vec<Choice>,
    /// What was assumed and may be wrong, and where y contradicts what was given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The adaptation, if there was one.
    pub adaptation: Option<AdaptationRecord>,
    /// Times.
    pub seconds: Seconds,
    /// PSNR of A x against y.
    pub agreement_psnr: Decibel,
    /// The widest instruction set of the processor, which the CPU computed with: others differ in the last bits. Absent
    /// in records of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    /// The pictures that were written, the result first; empty in records of earlier versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub results: Vec<FileRecord>,
    /// How far the samples differ, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deviation: Option<DeviationRecord>,
}

/// A file, by place and content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecord {
    /// Its path; absent for what came from memory.
    #[serde(with = "crate::io::lossy::option")]
    pub path: Option<PathBuf>,
    /// SHA-256 of its bytes; of what came from memory, that of sizes and values.
    pub sha256: ContentHash,
}

/// The prior of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRecord {
    /// Its file, or `embedded prior`.
    pub name: String,
    /// SHA-256 of the weights.
    pub sha256: String,
    /// Configuration of the network.
    pub config: Option<UNetConfig>,
}

/// The adaptation of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdaptationRecord {
    /// What was adapted to.
    pub target: Target,
    /// The key of the adapter that was refined, where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// What y says of that adapter against the plain prior, where it was asked. It was used if y was nearer by more than the
    /// standard error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_by_y: Option<ByY>,
    /// What the images of the gallery were to be near to.
    #[serde(default, skip_serializing_if = "Query::is_usual")]
    pub query: Query,
    /// When the adapted weights are used.
    pub keep: Keep,
    /// The folder of the gallery, or its address on a server.
    #[serde(with = "crate::io::lossy::option")]
    pub gallery: Option<PathBuf>,
    /// What told the likeness of images.
    pub encoder: Option<EncoderId>,
    /// Its file or folder, where it is not the embedded one.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::io::lossy::option")]
    pub encoder_file: Option<PathBuf>,
    /// The side that its large images were divided by, where they were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tiles: Option<TileSide>,
    /// Number of nearest images that was asked for.
    pub neighbours: Option<usize>,
    /// Images closer than this were left out, in radians.
    pub closer_than: Option<f64>,
    /// The images, nearest first.
    pub images: Vec<ImageRecord>,
    /// Settings of the training.
    pub settings: AdaptConfig,
    /// What held-out images say of it.
    pub outcome: Option<HeldOut>,
    /// What y says of the adapted weights against those that would be used without them, where it was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_y: Option<ByY>,
    /// Whether the adapted weights were used.
    pub used: bool,
    /// Whether the adapter was there already.
    pub from_cache: bool,
    /// Its key in the cache.
    pub key: String,
    /// Its name.
    pub name: String,
}

/// An image that was adapted to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRecord {
    /// Its file, below the gallery's folder where it comes from a gallery; absent for an image from memory.
    #[serde(with = "crate::io::lossy::option")]
    pub path: Option<PathBuf>,
    /// SHA-256 of the file, or of sizes and values.
    pub sha256: ContentHash,
    /// The part of it, where it is one of a gallery's tiles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tile: Option<Tile>,
    /// Its distance from the query in radians (Eq. 19), where it was searched for in a gallery.
    pub distance: Option<f64>,
}

/// How long a run took.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seconds {
    /// Reading weights, and adapting them.
    pub load_and_adapt: f64,
    /// Sampling.
    pub sample: f64,
}

/// A ratio in decibel. JSON has no infinity: perfect agreement is the text `inf`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decibel(pub f64);

impl fmt::Display for Decibel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(1);
        write!(f, "{:.digits$} dB", self.0)
    }
}

impl Serialize for Decibel {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        if self.0.is_finite() {
            serializer.serialize_f64(self.0)
        } else {
            serializer.serialize_str(&self.0.to_string())
        }
    }
}

impl<'de> Deserialize<'de> for Decibel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(f64),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Number(value) => Ok(Self(value)),
            Written::Text(text) => text.parse().map(Self).map_err(serde::de::Error::custom),
        }
    }
}

impl Record {
    /// The version of the form that this program writes. Raise it when a field changes its meaning or goes away.
    pub const SCHEMA: u32 = 2;

    /// Writes the JSON form to `path`, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] where the system refuses.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        write_json(path.as_ref(), self)
    }

    /// Reads the record in `path`.
    ///
    /// # Errors
    /// [`Error::Input`] when the file is missing, no record, or of another version.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = text_of(path)?;
        if is_latent(&text) {
            let message = "is the record of a run with a latent diffusion model, of which there is nothing but a repetition: \
                           adir replay";
            return Err(Error::input(path, message));
        }
        let record: Self = serde_json::from_str(&text)
            .map_err(|e| Error::input(path, format!("is no record of a restoration: {e}")))?;
        if record.schema != Self::SCHEMA {
            let message = format!("is a record of version {}, expected {}", record.schema, Self::SCHEMA);
            return Err(Error::input(path, message));
        }
        Ok(record)
    }
}

/// The text of a record's file, of whatever kind: JSON.
pub(super) fn text_of(path: &Path) -> Result<String> {
    let mut text = String::new();
    let read = open_regular(path).and_then(|file| file.take(MOST_RECORD_BYTES).read_to_string(&mut text));
    read.map_err(|e| match e.kind() {
        ErrorKind::InvalidData => Error::input(path, "is no record: that of a result x.png is x.png.json"),
        _ => Error::input(path, format!("cannot be read: {e}")),
    })?;
    match serde_json::from_str::<serde::de::IgnoredAny>(&text) {
        Ok(_) => Ok(text),
        Err(e) if e.is_eof() => Err(Error::input(path, format!("is cut off, and no whole record: {e}"))),
        Err(e) => Err(Error::input(path, format!("is no record, which would be JSON: {e}"))),
    }
}

/// Whether a text is a [`LatentRecord`](super::LatentRecord).
pub(super) fn is_latent(text: &str) -> bool {
    #[derive(Deserialize)]
    struct Kind {
        latent: Option<serde::de::IgnoredAny>,
    }
    serde_json::from_str(text).is_ok_and(|kind: Kind| kind.latent.is_some())
}

/// Writes a value as JSON, whole or not at all.
///
/// # Errors
/// [`Error::Io`] where the system refuses.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::config(format!("{}: {e}", path.display())))?;
    atomic::write(path, |file| {
        file.write_all(plain::json(&text).as_bytes())
            .and_then(|()| file.write_all(b"\n"))
            .map_err(|e| Error::io(path, e))
    })
}
