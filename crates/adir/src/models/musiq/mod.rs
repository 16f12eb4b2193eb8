//! MUSIQ, a transformer that scores the quality of a picture of any size (Ke et al., arXiv 2108.05997).
//!
//! It looks at patches of 32x32 pixels of the picture at three scales: enlarged or reduced to a longer side of 224 and of
//! 384, and as it is. The networks that learned from KonIQ, SPAQ and PaQ-2-PiQ give one number, the one that learned from AVA
//! the shares of the ten marks.

mod net;
mod patches;

use std::path::Path;

use self::net::Net;
use crate::io::weights::WeightFile;
use crate::models::load::values;
use crate::models::params::{ParamSpec, Params, Role};
use crate::tensor::{Compute, DType, Device, Tensor, to_f32};
use crate::{Error, Result};

/// Added to the standard deviation of a filter's weights.
const STANDARD_EPS: f64 = 1e-5;
/// What files put before every name.
const PREFIXES: [&str; 3] = ["", "params.", "module."];

/// A MUSIQ network with its weights.
#[derive(Debug)]
pub struct Musiq {
    net: Net,
    params: Params,
    device: Device,
    weights: String,
}

impl Musiq {
    /// The network of a weight file (safetensors, or PyTorch's) with pyiqa's names. Sizes follow from the shapes.
    ///
    /// # Errors
    /// [`Error::Model`] if the file is no MUSIQ, or a tensor is missing, misshapen, not finite, or left over.
    pub fn open(path: &Path, device: &Device) -> Result<Self> {
        Self::load(&WeightFile::open(path)?, device)
    }

    /// As [`Musiq::open`], from an open file.
    ///
    /// # Errors
    /// As [`Musiq::open`].
    pub fn load(file: &WeightFile, device: &Device) -> Result<Self> {
        let prefix = PREFIXES.into_iter().find(|prefix| file.info(&format!("{prefix}conv_root.weight")).is_some());
        let prefix = prefix.ok_or_else(|| {
            let message = "is no MUSIQ with pyiqa's names: the tensor \"conv_root.weight\" is missing";
            Error::model(file.path(), message)
        })?;
        let shape = |name: &str| {
            let name = format!("{prefix}{name}");
            let info = file.info(&name).ok_or_else(|| Error::model(file.path(), format!("has no tensor {name:?}")))?;
            Ok::<_, Error>(info.shape.clone())
        };
        let width = shape("embedding.bias")?.first().copied().unwrap_or(0);
        let blocks = (0..).take_while(|k| shape(&format!("{}.norm1.weight", net::block_name(*k))).is_ok()).count();
        let wide = shape(&format!("{}.mlp.fc1.bias", net::block_name(0)))?.first().copied().unwrap_or(0);
        // One number, or after a softmax the shares of marks.
        let of_marks = shape("head.weight").is_err();
        let head = if of_marks { "head.0" } else { "head" };
        let outputs = shape(&format!("{head}.bias"))?.first().copied().unwrap_or(0);
        if width == 0 || !width.is_multiple_of(net::HEAD) || wide == 0 || outputs == 0 {
            let message =
                format!("has {outputs} scores of tokens of {width} numbers, expected a multiple of {}", net::HEAD);
            return Err(Error::model(file.path(), message));
        }
        let net = Net::new(width, wide, blocks, head, outputs);
        let known = |name: &str| name.strip_prefix(prefix).is_some_and(|own| net.layout().find(own).is_some());
        let strange: Vec<&str> = file.names().filter(|name| !known(name)).collect();
        if let Some(first) = strange.first() {
            let message = format!("has {} tensors that MUSIQ does not have, for example {first:?}", strange.len());
            return Err(Error::model(file.path(), message));
        }
        let read = |spec: &ParamSpec| {
            let values = values(file, &format!("{prefix}{}", spec.name), &spec.shape)?;
            Ok(match spec.role {
                Role::Convolution => standardised(&values, values.len() / spec.shape[0]),
                _ => values,
            })
        };
        let params = Params::load(net.layout().clone(), &Compute::new(device, DType::F32), read)?;
        Ok(Self { net, params, device: device.clone(), weights: file.sha256()?.to_string() })
    }

    /// SHA-256 of the file.
    pub fn weights(&self) -> &str {
        &self.weights
    }

    /// Whether the network gives the shares of marks, as the one that learned from AVA does.
    pub fn gives_marks(&self) -> bool {
        self.net.outputs() > 1
    }

    /// The score of a picture `[1, 3, h, w]` in [-1, 1]: as the network gives it, or the mean of the marks, which count from
    /// 1. Higher is better; the range is that of the scores that the network learned from.
    ///
    /// # Errors
    /// [`Error::Config`] for another shape, [`Error::Backend`] if the result cannot be read back.
    pub fn score(&self, picture: &Tensor<4>) -> Result<f64> {
        let [n, channels, height, width] = picture.dims();
        if (n, channels) != (1, 3) || height == 0 || width == 0 {
            return Err(Error::config(format!("MUSIQ takes one picture of 3 channels, found {:?}", picture.dims())));
        }
        let planes = to_f32(picture)?;
        let scales = patches::scales(&planes, height, width);
        let outputs = to_f32(&self.net.forward(&self.params, &scales, &self.device)?)?;
        let outputs: Vec<f64> = outputs.into_iter().map(f64::from).collect();
        if let [score] = outputs[..] {
            return Ok(score);
        }
        let most = outputs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let shares: Vec<f64> = outputs.into_iter().map(|v| (v - most).exp()).collect();
        let marks: f64 = shares.iter().zip(1..).map(|(share, mark)| share * f64::from(mark)).sum();
        Ok(marks / shares.iter().sum::<f64>())
    }
}

/// Filters of `length` weights each, with mean 0 and standard deviation 1 (Qiao et al., arXiv 1903.10520).
fn standardised(weights: &[f32], length: usize) -> Vec<f32> {
    let filter = |weights: &[f32]| {
        let mean = weights.iter().map(|w| f64::from(*w)).sum::<f64>() / length as f64;
        let squares: f64 = weights.iter().map(|w| (f64::from(*w) - mean).powi(2)).sum();
        let deviation = (squares / (length as f64 - 1.0).max(1.0)).sqrt() + STANDARD_EPS;
        weights.iter().map(move |w| ((f64::from(*w) - mean) / deviation) as f32).collect::<Vec<_>>()
    };
    weights.chunks_exact(length).flat_map(filter).collect()
}
