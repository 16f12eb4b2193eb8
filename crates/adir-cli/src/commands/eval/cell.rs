//! One result: what was made and how good it is.

use std::path::Path;

use adir::adapt::HeldOut;
use adir::metric::{agreement, niqe, psnr_rgb, ssim_rgb};
use adir::retrieve::Encoder;
use adir::tensor::Tensor;
use adir::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::method::Made;
use super::task::EvalTask;
use crate::record;

/// A measured result.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cell {
    pub set: String,
    pub task: String,
    pub image: String,
    pub method: String,
    pub seed: u64,
    pub seconds: f64,
    pub held_out: Option<HeldOut>,
    #[serde(flatten)]
    pub measured: Measured,
    pub made_from: Value,
}

/// Its numbers. "One": the mean over the samples of the number of each.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Measured {
    /// dB, RGB, of one sample and of the mean of the samples.
    pub psnr_one: f64,
    pub psnr_mean: f64,
    pub ssim_one: f64,
    pub ssim_mean: f64,
    /// Angle between EfficientNet-Lite0 features of one sample and of the truth, in radians.
    pub features: f64,
    /// NIQE of one sample, where there is room for it.
    pub niqe: Option<f64>,
    /// PSNR of A x against y, in dB, of the mean; absent where it is perfect.
    pub agreement: Option<f64>,
}

/// Measures what was made against the truth `x` and the observation `y`.
pub fn measure(made: &Made, task: &EvalTask, x: &Tensor<4>, y: &Tensor<4>, features: &dyn Encoder) -> Result<Measured> {
    let of_truth = features.image(x)?;
    let over_samples = |f: &dyn Fn(&Tensor<4>) -> Result<f64>| -> Result<f64> {
        let values = made.samples.iter().map(f).collect::<Result<Vec<_>>>()?;
        Ok(values.iter().sum::<f64>() / values.len() as f64)
    };
    let first = |values: Vec<f64>| values.first().copied().unwrap_or(f64::NAN);
    let agreement = first(agreement(task.operator(x)?.as_ref(), &made.mean, y)?);
    Ok(Measured {
        psnr_one: over_samples(&|s| Ok(first(psnr_rgb(s, x)?)))?,
        psnr_mean: first(psnr_rgb(&made.mean, x)?),
        ssim_one: over_samples(&|s| Ok(first(ssim_rgb(s, x)?)))?,
        ssim_mean: first(ssim_rgb(&made.mean, x)?),
        features: over_samples(&|s| of_truth.distance(&features.image(&s.clone().clamp(-1.0, 1.0))?))?,
        niqe: over_samples(&|s| Ok(first(niqe(s)?))).ok(),
        agreement: Some(agreement).filter(|a| a.is_finite()),
    })
}

impl Cell {
    /// The cell kept in that file, if there is one.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        match std::fs::read_to_string(path) {
            Ok(text) => {
                let cell = serde_json::from_str(&text);
                cell.map(Some).map_err(|e| {
                    Error::input(path, format!("is no result of adir eval (delete it to measure again): {e}"))
                })
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io(path, e)),
        }
    }

    /// Keeps it.
    pub fn write(&self, path: &Path) -> Result<()> {
        record::write(path, &serde_json::to_value(self).map_err(|e| Error::config(format!("a result: {e}")))?)
    }

    /// In one line.
    pub fn line(&self) -> String {
        let m = &self.measured;
        format!(
            "{} {} {} {}: {:.2} dB, mean {:.2} dB, features {:.3}",
            self.set, self.task, self.image, self.method, m.psnr_one, m.psnr_mean, m.features
        )
    }
}
