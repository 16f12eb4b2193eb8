//! The result of an adaptation, and its file.
//!
//! LoRA factors have the names diffusers gives them (`unet.LAYER.lora_A.weight`, `lora_B`); a full adaptation
//! is a model file of its own. Both carry their base weights' hash and are refused by any other.

use std::collections::BTreeMap;
use std::path::Path;

use super::config::AdaptConfig;
use super::curve::HeldOut;
use crate::io::hash::{ContentHash, Hasher, sha256};
use crate::io::weights::{Dtype, WeightFile};
use crate::models::params::{ParamSpec, Params, Role};
use crate::models::{Denoiser, Prior};
use crate::optim::{AdaptedLayers, Lora, name_of_a, save_params};
use crate::tensor::{self, Compute, DType};
use crate::{Error, Result};

/// Adapted weights: all of them, or what was added.
#[derive(Debug, Clone)]
pub enum Adapter {
    /// All weights.
    Full(Params),
    /// Factors to add to the base.
    Lora(Lora),
}

/// Description of an adapter.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterInfo {
    /// Any name.
    pub name: String,
    /// Further names that it was asked for by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<String>,
    /// Identity of the base weights, see [`crate::models::WeightsId`].
    pub base: String,
    /// What determined it.
    pub provenance: Provenance,
    /// What held-out images say of it, where any were held out.
    #[serde(default)]
    pub outcome: Option<HeldOut>,
    /// Rank and alpha of LoRA factors.
    pub lora: Option<(usize, f64)>,
    /// SHA-256 of the files of the observations it was made for, in hexadecimal.
    #[serde(default)]
    pub serves: Vec<String>,
}

/// Everything that determines an adapter: equal provenances make equal adapters, on the same device.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// [`Provenance::VERSION`] of the program that made it.
    pub version: u32,
    /// Identity of the base weights.
    pub base: String,
    /// Contents of the images, in the order of the training.
    pub images: Vec<ContentHash>,
    /// Settings of the training.
    pub settings: AdaptConfig,
    /// The precision of the network, where it is not f32 throughout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub computed_in: Option<String>,
}

impl Provenance {
    /// Version of the training. Raise it when the same settings make other weights than before.
    pub const VERSION: u32 = 3;

    /// The key under which caches keep the adapter: the SHA-256 of the JSON form, in hexadecimal.
    ///
    /// # Errors
    /// [`Error::Config`] when a number has no JSON form.
    pub fn key(&self) -> Result<String> {
        let text = serde_json::to_string(self).map_err(|e| Error::config(format!("a provenance: {e}")))?;
        Ok(sha256(text.as_bytes()).to_string())
    }

    /// The key that all adapters share which differ only in how long they may train: the state of a training is kept under
    /// it.
    ///
    /// # Errors
    /// As [`Provenance::key`].
    pub fn key_without_budget(&self) -> Result<String> {
        let settings = AdaptConfig { iterations: 0, ..self.settings.clone() };
        Self { settings, ..self.clone() }.key()
    }
}

impl AdapterInfo {
    /// Whether that is one of its names.
    pub fn is_named(&self, name: &str) -> bool {
        self.name == name || self.also.iter().any(|other| other == name)
    }
}

/// The key of [`AdapterInfo`] in the metadata.
const INFO: &str = "adir_adapter";
/// That of the SHA-256 of all values, which tells a damaged file.
const CHECKSUM: &str = "adir_sha256";

/// The SHA-256 of names and values, in the order of the parameters.
fn checksum(params: &Params) -> Result<String> {
    let (layout, mut hasher) = (params.layout(), Hasher::default());
    for (id, spec) in layout.ids().zip(layout.specs()) {
        hasher.update(spec.name.as_bytes());
        let values = tensor::to_f32(&params.flat(id))?;
        hasher.update(&values.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<u8>>());
    }
    Ok(hasher.finish().to_string())
}

impl Adapter {
    /// Rank and alpha, if it is low-rank factors.
    pub fn lora(&self) -> Option<(usize, f64)> {
        match self {
            Self::Full(_) => None,
            Self::Lora(lora) => Some((lora.rank(), lora.alpha())),
        }
    }

    /// What is trained: all weights, or the factors.
    pub(crate) fn params(&self) -> &Params {
        match self {
            Self::Full(params) => params,
            Self::Lora(lora) => lora.factors(),
        }
    }

    /// The weights to sample with, in the precision of `base`.
    ///
    /// # Errors
    /// [`Error::Config`] when the adapter belongs to another network.
    pub fn apply(&self, base: &Params) -> Result<Params> {
        match self {
            Self::Full(params) if params.layout() == base.layout() => Ok(params.like(base)),
            Self::Full(_) => Err(Error::config("the adapter belongs to another network")),
            Self::Lora(lora) => Ok(lora.merged(base)),
        }
    }

    /// `base` with the adapted weights, and with the error of its estimates that `info` tells; where nothing was held out,
    /// that of `base`.
    ///
    /// # Errors
    /// As [`Adapter::apply`].
    pub fn adapt(&self, base: &Prior, info: &AdapterInfo) -> Result<Prior> {
        let measured = info.outcome.as_ref().and_then(|outcome| outcome.errors.clone());
        let errors = measured.or_else(|| base.info().errors.clone());
        Ok(base.with_params(self.apply(base.params())?).with_errors(errors))
    }

    /// Writes the adapter as safetensors in f32, with `info` in the metadata. A full adaptation also gets the network's
    /// configuration, so that it loads as a model.
    ///
    /// # Errors
    /// As [`save_params`].
    pub fn save(&self, path: &Path, info: &AdapterInfo, model: &Prior) -> Result<()> {
        let (params, lora) = (self.params(), self.lora());
        let info = AdapterInfo { lora, ..info.clone() };
        let text =
            serde_json::to_string(&info).map_err(|e| Error::config(format!("invalid adapter description: {e}")))?;
        let mut metadata = BTreeMap::from([(INFO.to_owned(), text), (CHECKSUM.to_owned(), checksum(params)?)]);
        match lora {
            None => metadata.extend(self.adapt(model, &info)?.metadata()),
            // Keys that diffusers' tools expect.
            Some((rank, alpha)) => {
                metadata.extend([("rank".into(), rank.to_string()), ("alpha".into(), alpha.to_string())]);
            }
        }
        save_params(path, params, Dtype::F32, &metadata)
    }

    /// The description in `file`.
    ///
    /// # Errors
    /// [`Error::Model`] when it is no adapter.
    pub fn info(file: &WeightFile) -> Result<AdapterInfo> {
        let text = file.metadata().get(INFO);
        let text = text.ok_or_else(|| {
            Error::model(file.path(), "is not an adapter made by adir: its metadata has no adapter description")
        })?;
        serde_json::from_str(text).map_err(|e| Error::model(file.path(), format!("invalid adapter description: {e}")))
    }

    /// Reads an adapter for `model`.
    ///
    /// # Errors
    /// [`Error::Model`] when the file is damaged, no adapter, or made for other weights.
    pub fn load(file: &WeightFile, model: &Prior) -> Result<Self> {
        let info = Self::info(file)?;
        let base = model.id()?.as_str();
        if info.base != base {
            let message = format!("was made for the weights {:.12}..., but the model has {base:.12}...", info.base);
            return Err(Error::model(file.path(), message));
        }
        let mut used = 0;
        let mut read = |spec: &ParamSpec| {
            used += 1;
            match file.info(&spec.name) {
                Some(found) if found.shape == spec.shape => Ok(file.read_f32(&spec.name)?),
                Some(found) => {
                    let message = format!("{} is {:?}, expected {:?}", spec.name, found.shape, spec.shape);
                    Err(Error::model(file.path(), message))
                }
                None => Err(Error::model(file.path(), format!("has no {}", spec.name))),
            }
        };
        let params = model.params();
        let loaded = match info.lora {
            Some((rank, alpha)) if (1..=1 << 12).contains(&rank) && f64::is_finite(alpha) => {
                let mut specs = params.layout().specs().iter().filter(|spec| spec.role == Role::Linear);
                let linear = specs.any(|spec| file.info(&name_of_a(spec)).is_some());
                let layers = if linear { AdaptedLayers::ConvolutionsAndLinear } else { AdaptedLayers::Convolutions };
                Self::Lora(Lora::read(params, rank, alpha, layers, &mut read)?)
            }
            Some((rank, alpha)) => {
                return Err(Error::model(file.path(), format!("invalid LoRA rank {rank} or alpha {alpha}")));
            }
            None => Self::Full(Params::load(
                params.layout().clone(),
                &Compute::new(&params.device(), DType::F32),
                &mut read,
            )?),
        };
        let held = file.names().count();
        if held != used {
            return Err(Error::model(file.path(), format!("has {held} tensors, expected {used}")));
        }
        if file.metadata().get(CHECKSUM).is_some_and(|stored| checksum(loaded.params()).is_ok_and(|sum| sum != *stored))
        {
            return Err(Error::model(file.path(), "is damaged: its values are not those that were written"));
        }
        Ok(loaded)
    }
}
