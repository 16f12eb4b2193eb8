//! An adapter of a latent diffusion model in a cache: factors or all weights, under what key, and what held-out crops said.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::adapt::{LatentOutcome, LatentTraining};
use crate::adapt::Adapter;
use crate::io::hash::{ContentHash, Hasher};
use crate::io::weights::{Dtype, WeightFile};
use crate::models::params::{ParamSpec, Params};
use crate::optim::{Lora, save_params};
use crate::tensor::{Compute, DType};
use crate::{Error, Result};

const ABOUT: &str = "adir_latent_adapter";

/// What is no tensor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    key: String,
    outcome: Option<LatentOutcome>,
    /// SHA-256 of names and values, by names.
    sha256: ContentHash,
}

/// The values of an adapter, read before its network, and what held-out crops say of it.
#[derive(Debug)]
pub struct LatentAdapter {
    values: BTreeMap<String, Vec<f32>>,
    outcome: Option<LatentOutcome>,
}

impl LatentAdapter {
    /// Writes what was trained.
    ///
    /// # Errors
    /// As [`save_params`].
    pub fn save(path: &Path, key: &str, adapter: &Adapter, outcome: Option<LatentOutcome>) -> Result<()> {
        let trained = adapter.params();
        let layout = trained.layout();
        let values =
            layout.ids().map(|id| Ok((layout.spec(id).name.clone(), crate::tensor::to_f32(&trained.flat(id))?)));
        let sha256 = checksum(&values.collect::<Result<_>>()?);
        let about = About { key: key.to_owned(), outcome, sha256 };
        let text = serde_json::to_string(&about).map_err(|e| Error::config(format!("an adapter: {e}")))?;
        save_params(path, trained, Dtype::F32, &BTreeMap::from([(ABOUT.to_owned(), text)]))
    }

    /// Reads the adapter of that key.
    ///
    /// # Errors
    /// [`Error::Model`] when it is damaged, or another one.
    pub fn load(file: &WeightFile, key: &str) -> Result<Self> {
        let fault = |message: &str| Error::model(file.path(), message);
        let about = file.metadata().get(ABOUT).ok_or_else(|| fault("is no adapter of a latent diffusion model"))?;
        let about: About = serde_json::from_str(about).map_err(|e| fault(&format!("invalid description: {e}")))?;
        if about.key != key {
            return Err(fault("is another adapter than its name says"));
        }
        let values = |name: &str| Ok((name.to_owned(), file.read_f32(name)?));
        let values: BTreeMap<_, _> = file.names().map(values).collect::<Result<_>>()?;
        if checksum(&values) != about.sha256 {
            return Err(fault("is damaged: its values are not those that were written"));
        }
        Ok(Self { values, outcome: about.outcome })
    }

    /// What held-out crops say of it, where any were held out.
    pub fn outcome(&self) -> Option<LatentOutcome> {
        self.outcome
    }

    /// The adapter, for a network with those parameters.
    ///
    /// # Errors
    /// [`Error::Config`] when it belongs to another network, or to other settings.
    pub fn adapter(mut self, base: &Params, training: &LatentTraining) -> Result<Adapter> {
        let read = |spec: &ParamSpec| {
            let values = self.values.remove(&spec.name);
            values.ok_or_else(|| Error::config(format!("the adapter in the cache has no {}", spec.name)))
        };
        if training.full {
            let compute = Compute::new(&base.device(), DType::F32);
            return Params::load(base.layout().clone(), &compute, read).map(Adapter::Full);
        }
        Lora::read(base, training.rank, training.alpha(), training.layers, read).map(Adapter::Lora)
    }
}

fn checksum(values: &BTreeMap<String, Vec<f32>>) -> ContentHash {
    let mut hasher = Hasher::default();
    for (name, values) in values {
        hasher.update(name.as_bytes());
        hasher.update(&values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>());
    }
    hasher.finish()
}
