//! The state of an adaptation in one file, written whole or not at all.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::config::{AdaptConfig, Trained};
use super::curve::{Curve, Point};
use super::learner::{Learner, State};
use crate::io::weights::WeightFile;
use crate::models::params::Params;
use crate::optim::{Adam, AdamConfig, Ema, read_moments, read_values, save_tensors};
use crate::tensor::{Compute, DType};
use crate::{Error, Result};

/// Name prefixes of the last weights, their average, the best average and both moments.
const KINDS: [&str; 5] = ["weights.", "average.", "best.", "moment1.", "moment2."];
const STATE: &str = "adaptation";

/// What is no tensor.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    of: String,
    learners: Vec<WrittenLearner>,
    lost: u32,
    given_up: Vec<Point>,
}

/// Losses are written as bits: a decimal number would have to be read back exactly.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenLearner {
    trained: Trained,
    step: u32,
    before: Vec<u64>,
    points: Vec<(u32, Vec<u64>)>,
}

fn bits(losses: &[f64]) -> Vec<u64> {
    losses.iter().map(|loss| loss.to_bits()).collect()
}

fn from_bits(bits: &[u64]) -> Vec<f64> {
    bits.iter().map(|&bits| f64::from_bits(bits)).collect()
}

/// Writes the state of learners, how many steps were given up, and their measurements.
///
/// # Errors
/// [`Error::Io`] where the system refuses.
pub(crate) fn save(path: &Path, of: &str, learners: &[Learner], lost: u32, given_up: &[Point]) -> Result<()> {
    let mut tensors = Vec::new();
    for (k, learner) in learners.iter().enumerate() {
        let layout = learner.params().layout();
        for id in layout.ids() {
            let spec = layout.spec(id);
            let [m1, m2] = match learner.adam.moments().get(id.index()).cloned().flatten() {
                Some([m1, m2]) => [Some(m1), Some(m2)],
                None => [None, None],
            };
            let best = learner.best.as_ref().map(|best| best.flat(id));
            let all = [Some(learner.params().flat(id)), Some(learner.ema.params().flat(id)), best, m1, m2];
            for (kind, tensor) in KINDS.iter().zip(all) {
                tensors.extend(tensor.map(|tensor| (format!("{k}.{kind}{}", spec.name), spec, tensor)));
            }
        }
    }
    let written = |learner: &Learner| WrittenLearner {
        trained: learner.trained,
        step: learner.step,
        before: bits(&learner.curve.before),
        points: learner.curve.points.iter().map(|(step, losses)| (*step, bits(losses))).collect(),
    };
    let written = Written {
        of: of.to_owned(),
        learners: learners.iter().map(written).collect(),
        lost,
        given_up: given_up.to_vec(),
    };
    let text = serde_json::to_string(&written).map_err(|e| Error::config(format!("the state of a training: {e}")))?;
    let metadata = BTreeMap::from([(STATE.to_owned(), text)]);
    save_tensors(path, &tensors, &metadata)
}

/// Learners, steps of what was given up, and its measurements.
///
/// # Errors
/// [`Error::Model`] when the file is no such state.
pub(crate) fn load(
    file: &WeightFile,
    of: &str,
    base: &Params,
    config: &AdaptConfig,
) -> Result<(Vec<Learner>, u32, Vec<Point>)> {
    let fault = |message: String| Error::model(file.path(), message);
    let text = file.metadata().get(STATE);
    let text = text.ok_or_else(|| fault("is no state of an adaptation: its metadata has none".into()))?;
    let written: Written =
        serde_json::from_str(text).map_err(|e| fault(format!("invalid state of an adaptation: {e}")))?;
    if written.of != of {
        return Err(fault("is the state of an adaptation to other images or with other settings".into()));
    }
    if !(1..=2).contains(&written.learners.len()) {
        return Err(fault(format!("holds {} sets of weights, expected 1 or 2", written.learners.len())));
    }
    let mut learners = Vec::new();
    for (k, found) in written.learners.iter().enumerate() {
        if found.trained != Trained::Full && found.trained != config.trained.low_rank() {
            return Err(fault(format!("trains {}, expected {}", found.trained, config.trained)));
        }
        learners.push(learner(file, k, found, base, config)?);
    }
    Ok((learners, written.lost, written.given_up))
}

fn learner(
    file: &WeightFile,
    k: usize,
    found: &WrittenLearner,
    base: &Params,
    config: &AdaptConfig,
) -> Result<Learner> {
    let mut learner = Learner::new(base, found.trained, config)?;
    let layout = learner.params().layout().clone();
    let compute = Compute::new(&base.device(), DType::F32);
    let params = |kind: &str| {
        Params::load(layout.clone(), &compute, |spec| {
            read_values(file, &format!("{k}.{kind}{}", spec.name), &spec.shape)
        })
    };
    let weights = params(KINDS[0])?;
    learner.state = match learner.state {
        State::Full(_) => State::Full(weights),
        State::Lora(lora) => State::Lora(lora.with_factors(weights)),
    };
    learner.ema = Ema::new(params(KINDS[1])?, config.ema);
    if !found.points.is_empty() {
        learner.best = Some(params(KINDS[2])?);
    }
    let [first, second] = [KINDS[3], KINDS[4]].map(|kind| format!("{k}.{kind}"));
    let moments = read_moments(file, &layout, [&first, &second], &compute.device)?;
    learner.adam = Adam::resume(AdamConfig::default(), found.step, moments);
    learner.step = found.step;
    learner.curve = Curve {
        before: from_bits(&found.before),
        points: found.points.iter().map(|(step, losses)| (*step, from_bits(losses))).collect(),
    };
    Ok(learner)
}
