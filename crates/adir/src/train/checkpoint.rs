//! The state of a training in one file, written whole or not at all.

use std::collections::BTreeMap;
use std::path::Path;

use super::config::TrainConfig;
use super::trainer::{Trainer, adam_config, weights_of};
use crate::io::weights::{Dtype, WeightFile};
use crate::models::params::{ParamSpec, Params};
use crate::models::{Prior, PriorHeader};
use crate::optim::{Adam, Ema, read_moments, read_values, save_params, save_tensors};
use crate::tensor::Compute;
use crate::{Error, Result};

/// Name prefixes of the last weights, their average and both moments.
const KINDS: [&str; 4] = ["weights.", "average.", "moment1.", "moment2."];

/// Name of the caller's text in the metadata.
const NOTE: &str = "note";

impl Trainer {
    /// Writes `model`, the average of the weights, in f16 as a model that `adir` loads, with `notes` in its metadata.
    ///
    /// # Errors
    /// As [`save_params`].
    pub fn save_model(&self, model: &Prior, path: &Path, notes: &BTreeMap<String, String>) -> Result<()> {
        let mut metadata = model.metadata();
        metadata.extend(notes.clone());
        metadata.insert("steps".into(), self.step.to_string());
        save_params(path, model.params(), Dtype::F16, &metadata)
    }

    /// Writes the complete state for [`Trainer::resume`].
    ///
    /// # Errors
    /// As [`save_params`].
    pub fn save(&self, path: &Path) -> Result<()> {
        let layout = self.params().layout();
        let mut tensors = Vec::new();
        for id in layout.ids() {
            let weights = [self.params().flat(id), self.ema.params().flat(id)];
            let moments = self.adam.moments().get(id.index()).cloned().flatten();
            for (kind, tensor) in KINDS.iter().zip(weights.into_iter().chain(moments.into_iter().flatten())) {
                tensors.push((format!("{kind}{}", layout.spec(id).name), layout.spec(id), tensor));
            }
        }
        let settings = serde_json::to_string(&self.config).map_err(|e| Error::config(format!("settings: {e}")))?;
        let mut metadata = BTreeMap::from([
            ("training".into(), settings),
            ("step".into(), self.step.to_string()),
            // As bits: a decimal number would have to be read back exactly.
            ("seconds".into(), self.seconds.to_bits().to_string()),
        ]);
        metadata.extend(self.note.clone().map(|note| (NOTE.to_owned(), note)));
        save_tensors(path, &tensors, &metadata)
    }

    /// The training of a checkpoint.
    ///
    /// # Errors
    /// [`Error::Model`] when the file is no checkpoint, or damaged.
    pub fn resume(file: &WeightFile, compute: &Compute) -> Result<Self> {
        let fault = |message: String| Error::model(file.path(), message);
        let entry = |key: &str| {
            let found = file.metadata().get(key);
            found.ok_or_else(|| fault(format!("is not a training checkpoint: its metadata lacks {key:?}")))
        };
        let config: TrainConfig =
            serde_json::from_str(entry("training")?).map_err(|e| fault(format!("invalid training settings: {e}")))?;
        config.check().map_err(|e| fault(e.to_string()))?;
        let number = |key: &str| -> Result<u64> {
            entry(key)?.parse().map_err(|_| fault(format!("metadata {key:?} is not a number")))
        };
        let step = u32::try_from(number("step")?).map_err(|_| fault("too many steps".into()))?;
        let seconds = f64::from_bits(number("seconds")?);
        if !(seconds.is_finite() && seconds >= 0.0) {
            return Err(fault(format!("invalid training time: {seconds} seconds")));
        }
        let layout = PriorHeader::new(config.network.clone())?.network().layout().clone();
        let read = |kind: &str| {
            let read = |spec: &ParamSpec| read_values(file, &format!("{kind}{}", spec.name), &spec.shape);
            Params::load(layout.clone(), &weights_of(compute), read)
        };
        let moments = read_moments(file, &layout, [KINDS[2], KINDS[3]], &compute.device)?;
        let adam = Adam::resume(adam_config(&config), step, moments);
        let ema = Ema::new(read(KINDS[1])?, 0.0);
        let mut trainer = Self::from_state(config, read(KINDS[0])?, adam, ema, (step, seconds), compute)?;
        trainer.note = file.metadata().get(NOTE).cloned();
        Ok(trainer)
    }
}
