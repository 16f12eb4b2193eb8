//! Does a checkpoint on a device compute what the reference computes? Runs recorded inputs through the
//! network and compares with recorded outputs: forward, gradients, ten Adam steps, both samplers.
//!
//! Some gradients are zero in exact arithmetic (a bias before a normalisation, the key part of a qkv bias):
//! their recorded values are rounding noise, which Adam amplifies to full steps. Gradients recorded below
//! 1e-6 of the largest need only be as small here, and the weights that belong to them are left out.

use std::collections::BTreeSet;

use crate::io::weights::WeightFile;
use crate::models::params::{ParamId, Params};
use crate::models::{Conditioning, Denoiser, Prediction, Prior};
use crate::optim::{Adam, AdamConfig, Ema, add_noise, simple_loss};
use crate::sampler::{AncestralConfig, Chain, DdimConfig, EpsAfterGuidance, Inputs, NoiseSource, posterior};
use crate::schedule::Timestep;
use crate::tensor::{self, Device, Tensor};
use crate::{Error, Result};

/// One comparison.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Check {
    /// What was compared.
    pub name: String,
    /// How many tensors it covers; `error` is the worst of them.
    pub tensors: usize,
    /// Relative error: 2-norm of the difference over the 2-norm of what was recorded.
    pub error: f64,
    /// The largest error that counts as agreement.
    pub limit: f64,
}

impl Check {
    /// Whether the comparison holds; an error that is not a number does not.
    pub fn holds(&self) -> bool {
        self.error <= self.limit
    }
}

/// Errors allowed; they depend on the precision the network computes in.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Network outputs, gradients and weights.
    pub network: f64,
    /// Losses.
    pub loss: f64,
    /// Final images of sampling.
    pub sample: f64,
}

impl Limits {
    /// For f32 (and anything finer).
    pub const F32: Self = Self { network: 1e-4, loss: 1e-3, sample: 1e-3 };
    /// For bf16, whose rounding is 2^-8.
    pub const BF16: Self = Self { network: 2e-2, loss: 2e-2, sample: 5e-2 };
}

/// Below this share of the largest gradient norm a recorded gradient is rounding noise.
const GRADIENT_FLOOR: f64 = 1e-6;

/// Runs every recorded case, reporting each check as it is done.
///
/// # Errors
/// [`Error::Model`] when `cases` lacks a recording or holds one of the wrong shape; whatever the network
/// and the samplers return.
pub fn verify(model: &Prior, cases: &WeightFile, limits: Limits, mut report: impl FnMut(&Check)) -> Result<Vec<Check>> {
    let cases = Cases { file: cases, device: model.params().device(), dtype: model.params().dtype() };
    let labels = match cases.has("class_labels") {
        true => cases.integers("class_labels")?.into_iter().map(|l| Conditioning::Class(l.max(0) as usize)).collect(),
        false => Vec::new(),
    };
    let mut checks = Vec::new();
    let mut done = |check: Check| {
        report(&check);
        checks.push(check);
    };
    forward(model, &cases, &labels, limits, &mut done)?;
    training(model, &cases, &labels, limits, &mut done)?;
    sampling(model, &cases, labels.first().unwrap_or(&Conditioning::None), limits, &mut done)?;
    Ok(checks)
}

/// The recordings, moved to the network's device and precision on request.
struct Cases<'a> {
    file: &'a WeightFile,
    device: Device,
    dtype: burn::tensor::DType,
}

impl Cases<'_> {
    fn has(&self, name: &str) -> bool {
        self.file.info(name).is_some()
    }

    fn values(&self, name: &str) -> Result<Vec<f32>> {
        if !self.has(name) {
            return Err(self.lacks(name));
        }
        Ok(self.file.read_f32(name)?)
    }

    fn tensor(&self, name: &str) -> Result<Tensor<4>> {
        let info = self.file.info(name).ok_or_else(|| self.lacks(name))?;
        let shape: [usize; 4] = info
            .shape
            .as_slice()
            .try_into()
            .map_err(|_| self.fault(format!("{name} has shape {:?}, expected 4 dimensions", info.shape)))?;
        Ok(tensor::from_f32(self.values(name)?, shape, &self.device).cast(self.dtype))
    }

    /// Entry `index` of the recording `name`, whose `values` have one more dimension in front.
    fn entry(&self, name: &str, values: &[f32], index: usize, shape: [usize; 4]) -> Result<Tensor<4>> {
        let count: usize = shape.iter().product();
        let part = values
            .get(index * count..(index + 1) * count)
            .ok_or_else(|| self.fault(format!("{name} has fewer than {} entries of {shape:?}", index + 1)))?;
        Ok(tensor::from_f32(part.to_vec(), shape, &self.device).cast(self.dtype))
    }

    fn integers(&self, name: &str) -> Result<Vec<i64>> {
        if !self.has(name) {
            return Err(self.lacks(name));
        }
        Ok(self.file.read_i64(name)?)
    }

    fn timesteps(&self, name: &str) -> Result<Vec<Timestep>> {
        self.integers(name)?
            .into_iter()
            .map(|t| u16::try_from(t).map(Timestep).map_err(|_| self.fault(format!("{name} holds {t}"))))
            .collect()
    }

    /// Names that begin with `prefix`, and what follows it.
    fn under<'b>(&'b self, prefix: &'b str) -> impl Iterator<Item = (&'b str, &'b str)> {
        self.file.names().filter_map(move |name| Some((name, name.strip_prefix(prefix)?)))
    }

    /// Names the recording that is missing: the first of them where the file is of another kind.
    fn lacks(&self, name: &str) -> Error {
        self.fault(format!(
            "lacks the recorded case {name:?}: expected recordings of the reference (NAME.cases.safetensors)"
        ))
    }

    fn fault(&self, message: String) -> Error {
        Error::model(self.file.path(), message)
    }
}

fn forward(
    model: &Prior,
    cases: &Cases<'_>,
    labels: &[Conditioning],
    limits: Limits,
    done: &mut impl FnMut(Check),
) -> Result<()> {
    for case in ["forward", "forward_wide"] {
        let x = cases.tensor(&format!("{case}.x"))?;
        let t = cases.timesteps(&format!("{case}.t"))?;
        let out = model.network().forward(model.params(), x, &t, labels);
        let error = relative(&to_f64(&out)?, &cases.values(&format!("{case}.out"))?);
        done(Check { name: format!("network output, {case}"), tensors: 1, error, limit: limits.network });
    }
    Ok(())
}

fn training(
    model: &Prior,
    cases: &Cases<'_>,
    labels: &[Conditioning],
    limits: Limits,
    done: &mut impl FnMut(Check),
) -> Result<()> {
    let (x0, eps) = (cases.tensor("train.x0")?, cases.tensor("train.eps")?);
    let t = cases.timesteps("train.t")?;
    let x_t = cases.tensor("train.x_t")?;
    let made: Vec<f64> = t
        .iter()
        .enumerate()
        .map(|(i, &t)| {
            let one = |v: &Tensor<4>| v.clone().narrow(0, i, 1);
            to_f64(&add_noise(&model.info().schedule, &one(&x0), &one(&eps), t))
        })
        .collect::<Result<Vec<_>>>()?
        .concat();
    let error = relative(&made, &cases.values("train.x_t")?);
    done(Check { name: "noisy image (Eq. 3)".into(), tensors: 1, error, limit: limits.network });

    let out = simple_loss(model, &x_t, &eps, &t, labels)?;
    let recorded = f64::from(cases.values("train.loss")?.first().copied().unwrap_or(f32::NAN));
    let error = ((out.loss - recorded) / recorded).abs();
    done(Check { name: "loss (Eq. 6)".into(), tensors: 1, error, limit: limits.loss });

    let norms: Vec<(ParamId, f64)> = cases
        .under("train.grad_norm.")
        .map(|(name, param)| {
            let id = find(model.params(), param, cases)?;
            Ok((id, cases.file.read_f64(name)?.first().copied().unwrap_or(f64::NAN)))
        })
        .collect::<Result<_>>()?;
    let largest = norms.iter().map(|(_, norm)| *norm).fold(0.0, f64::max);
    let floor = GRADIENT_FLOOR * largest;
    let gradient = |id: ParamId| -> Result<Vec<f64>> {
        match &out.gradients[id.index()] {
            Some(g) => tensor::to_f64(g),
            None => Ok(vec![0.0; model.layout().spec(id).len()]),
        }
    };
    let rounding: BTreeSet<ParamId> = norms.iter().filter(|(_, norm)| *norm < floor).map(|(id, _)| *id).collect();
    let (mut worst, mut zeros) = (Worst::default(), Worst::default());
    for (id, norm) in &norms {
        let ours = norm2(&gradient(*id)?);
        if rounding.contains(id) {
            zeros.take(ours / largest);
        } else {
            worst.take((ours - norm).abs() / norm);
        }
    }
    done(worst.check("norm of every gradient", limits.network));
    if zeros.tensors > 0 {
        done(zeros.check("gradients that are zero up to rounding", GRADIENT_FLOOR.max(limits.network * 1e-2)));
    }
    let mut worst = Worst::default();
    for (name, param) in cases.under("train.grad.") {
        let id = find(model.params(), param, cases)?;
        if !rounding.contains(&id) {
            worst.take(relative(&gradient(id)?, &cases.values(name)?));
        }
    }
    done(worst.check("full gradients", limits.network));

    adam(model, cases, labels, &x0, &rounding, limits, done)
}

#[allow(clippy::too_many_arguments)] // one recorded case, in full
fn adam(
    model: &Prior,
    cases: &Cases<'_>,
    labels: &[Conditioning],
    x0: &Tensor<4>,
    rounding: &BTreeSet<ParamId>,
    limits: Limits,
    done: &mut impl FnMut(Check),
) -> Result<()> {
    const LEARNING_RATE: f64 = 1e-4;
    const EMA_DECAY: f64 = 0.8;
    let mut params = model.params().clone();
    let mut adam = Adam::new(AdamConfig::default());
    let mut ema = Ema::new(params.clone(), EMA_DECAY);
    let noise = cases.values("adam.noise")?;
    let mut losses = Vec::new();
    for (k, t) in cases.timesteps("adam.t")?.into_iter().enumerate() {
        let eps = cases.entry("adam.noise", &noise, k, x0.dims())?;
        let x_t = add_noise(&model.info().schedule, x0, &eps, t);
        let out = simple_loss(&model.with_params(params.clone()), &x_t, &eps, &vec![t; x0.dims()[0]], labels)?;
        losses.push(out.loss);
        params = adam.step(&params, out.gradients, LEARNING_RATE);
        ema.update(&params);
    }
    let mut worst = Worst::default();
    for (ours, recorded) in losses.iter().zip(cases.values("adam.losses")?) {
        worst.take((ours / f64::from(recorded) - 1.0).abs());
    }
    done(worst.check("losses of the Adam steps", limits.loss));
    for (kind, prefix, ours) in [("weights", "adam.weight.", &params), ("averages", "adam.ema.", ema.params())] {
        let mut worst = Worst::default();
        for (name, param) in cases.under(prefix) {
            let id = find(ours, param, cases)?;
            if rounding.contains(&id) {
                continue;
            }
            let (mut found, mut expected) = (tensor::to_f64(&ours.flat(id))?, cases.values(name)?);
            if param.ends_with("qkv.bias") {
                let keys = key_bias(model, found.len())?;
                found = keys.iter().zip(found).filter(|(key, _)| !**key).map(|(_, v)| v).collect();
                expected = keys.iter().zip(expected).filter(|(key, _)| !**key).map(|(_, v)| v).collect();
            }
            worst.take(relative(&found, &expected));
        }
        done(worst.check(&format!("{kind} after the Adam steps"), limits.network));
    }
    Ok(())
}

/// Which entries of a qkv bias belong to keys.
fn key_bias(model: &Prior, len: usize) -> Result<Vec<bool>> {
    let Some(config) = model.config() else { return Ok(vec![false; len]) };
    let channels = len / 3;
    let per_head = channels / config.heads(channels)?;
    let block = if config.use_new_attention_order { channels } else { per_head };
    Ok((0..len).map(|i| (i / block) % 3 == 1).collect())
}

fn sampling(
    model: &Prior,
    cases: &Cases<'_>,
    conditioning: &Conditioning,
    limits: Limits,
    done: &mut impl FnMut(Check),
) -> Result<()> {
    let x_t = cases.tensor("sample.x_T")?;
    let steps = |name: &str| -> Result<Vec<usize>> {
        let mut steps: Vec<usize> = cases.timesteps(name)?.iter().map(|t| usize::from(t.0)).collect();
        steps.sort_unstable();
        Ok(steps)
    };
    let recorded = cases.values("sample.noise")?;
    let noise = |step: usize, like: &Tensor<4>| cases.entry("sample.noise", &recorded, step, like.dims());
    let class = match conditioning {
        Conditioning::Class(class) => Some(*class),
        _ => None,
    };
    let config = AncestralConfig { variance: model.info().variance, clip_x0: true };
    let schedule = model.info().schedule.at(&steps("sample.timestep_map")?)?;
    let inputs = Inputs { class, ..Inputs::new(model, &schedule, &noise as &dyn NoiseSource) };
    let mut state = x_t.clone();
    let mut quantities = [Worst::default(), Worst::default(), Worst::default()];
    for step in Chain::new(inputs, config, x_t.clone())? {
        let step = step?;
        let name = |quantity: &str| format!("sample.step{}.{quantity}", step.index);
        if cases.has(&name("mean")) {
            let index = schedule.len() - 1 - step.index;
            let Prediction { eps, variance } = model.predict(&state, step.timestep, conditioning)?;
            let p = posterior(&schedule, index, &state, Prediction { eps, variance }, config)?;
            for (worst, (quantity, ours)) in quantities.iter_mut().zip([
                ("mean", &p.mean),
                ("log_variance", &p.log_variance.clone().expand(p.mean.shape())),
                ("pred_xstart", &p.x0),
            ]) {
                worst.take(relative(&to_f64(ours)?, &cases.values(&name(quantity))?));
            }
        }
        state = step.x_t;
    }
    for (worst, quantity) in quantities.into_iter().zip(["mean (Eq. 5)", "log variance", "x0 estimate (Eq. 14)"]) {
        done(worst.check(&format!("{quantity} within ancestral sampling"), limits.sample));
    }
    let error = relative(&to_f64(&state)?, &cases.values("sample.x_0")?);
    done(Check { name: "image of ancestral sampling".into(), tensors: 1, error, limit: limits.sample });

    let schedule = model.info().schedule.at(&steps("ddim.timestep_map")?)?;
    let config = DdimConfig { eta: 0.0, clip_x0: true, eps_after_guidance: EpsAfterGuidance::Keep };
    let inputs = Inputs { class, ..Inputs::new(model, &schedule, &noise as &dyn NoiseSource) };
    let mut state = x_t.clone();
    for step in Chain::new(inputs, config, x_t)? {
        state = step?.x_t;
    }
    let error = relative(&to_f64(&state)?, &cases.values("ddim.x_0")?);
    done(Check { name: "image of DDIM sampling".into(), tensors: 1, error, limit: limits.sample });
    Ok(())
}

fn find(params: &Params, name: &str, cases: &Cases<'_>) -> Result<ParamId> {
    params.layout().find(name).ok_or_else(|| cases.fault(format!("the network has no parameter {name}")))
}

fn to_f64(t: &Tensor<4>) -> Result<Vec<f64>> {
    tensor::to_f64(t)
}

fn norm2(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// |ours - recorded| / |recorded|; not a number where sizes differ or a value is not finite.
fn relative(ours: &[f64], recorded: &[f32]) -> f64 {
    if ours.len() != recorded.len() {
        return f64::NAN;
    }
    let recorded: Vec<f64> = recorded.iter().map(|&v| f64::from(v)).collect();
    let difference: Vec<f64> = ours.iter().zip(&recorded).map(|(a, b)| a - b).collect();
    norm2(&difference) / norm2(&recorded)
}

/// The worst of several errors; not a number if any is, or if there were none.
#[derive(Default)]
struct Worst {
    error: Option<f64>,
    tensors: usize,
}

impl Worst {
    fn take(&mut self, error: f64) {
        let worse = self.error.is_none_or(|e| error > e || error.is_nan());
        if worse && !self.error.is_some_and(f64::is_nan) {
            self.error = Some(error);
        }
        self.tensors += 1;
    }

    fn check(self, name: &str, limit: f64) -> Check {
        Check { name: name.into(), tensors: self.tensors, error: self.error.unwrap_or(f64::NAN), limit }
    }
}
