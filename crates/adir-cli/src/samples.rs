//! The samples of one restoration, several at once where that is faster.

use adir::adapt::Workers;
use adir::models::{DenoiserInfo, Prior};
use adir::restore::{ModelFacts, RestorePlan};
use adir::tensor::{Device, Tensor, is_cpu};
use adir::{Error, Result};
use serde_json::json;

use crate::log::{Log, Progress};
use crate::stop;

/// What a plan must know of a network.
pub fn facts(info: &DenoiserInfo) -> ModelFacts {
    ModelFacts {
        channels: info.channels,
        size_multiple: info.size_multiple,
        schedule: info.schedule.clone(),
        variance: info.variance,
    }
}

/// How many of `samples` are computed at the same time: one on each thread of a CPU, which is faster than all
/// threads on one sample and gives the same numbers.
pub fn at_once(samples: usize, device: &Device) -> usize {
    if is_cpu(device) { samples.min(Workers::available()) } else { 1 }
}

/// `count` samples and their mean, `[1, c, h, w]` in about [-1, 1].
pub fn draw(plan: &RestorePlan, model: &Prior, count: usize, log: &Log) -> Result<(Vec<Tensor<4>>, Tensor<4>)> {
    let what = if count == 1 { "restoring".into() } else { format!("{count} samples") };
    let progress = log.progress(&what, count * plan.steps());
    let one = |sample: usize| one(plan, model, sample, &progress);
    let results = match at_once(count, &model.params().device()) {
        0 | 1 => (0..count).map(one).collect::<Result<Vec<_>>>()?,
        _ => Workers::new()?.map(count, one)?,
    };
    let mean = results.iter().skip(1).fold(results[0].clone(), |sum, x| sum + x.clone()) / count as f64;
    Ok((results, mean))
}

fn one(plan: &RestorePlan, model: &Prior, sample: usize, progress: &Progress) -> Result<Tensor<4>> {
    let noise = plan.noise(sample);
    let mut last = None;
    for step in plan.sampler(model, &noise)? {
        let step = step?;
        let residual = step.residual_rms.unwrap_or(f64::NAN) * 127.5;
        let detail = json!({"sample": sample + 1, "t": step.timestep.0, "residual_255": residual});
        progress.step(&format!("residual {residual:.2}"), detail);
        last = Some(step.x_t);
        stop::check()?;
    }
    last.map(|x| plan.finish(x)).ok_or_else(|| Error::config("no sampling steps"))
}
