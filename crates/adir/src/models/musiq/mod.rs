//! MUSIQ, a transformer that scores the quality of a picture of any size (Ke et al., arXiv 2108.05997).
//!
//! It looks at patches of 32x32 pixels of the picture at three scales: enlarged or reduced to a longer side of 224 and of
//! 384, and as it is. The networks that learned from KonIQ, SPAQ and PaQ-2-PiQ give one number, the one that learned from AVA
//! the shares of the ten marks.

mod names;
mod net;
mod patches;

use std::collections::HashSet;
use std::path::Path;

use self::names::Names;
use self::net::Net;
use crate::compute::in_pool;
use crate::io::weights::WeightFile;
use crate::models::params::{ParamSpec, Params, Role};
use crate::tensor::{Compute, DType, Device, Tensor, to_f32};
use crate::{Error, Result};

/// Added to the standard deviation of a filter's weights.
const STANDARD_EPS: f64 = 1e-5;

/// A MUSIQ network with its weights.
#[derive(Debug)]
pub struct Musiq {
    net: Net,
    params: Params,
    device: Device,
    weights: String,
    form: Form,
}

/// How a network is computed. The two give different scores for the same weights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Form {
    /// As pyiqa does: bicubic reduction without a filter, exact GELU.
    #[default]
    Pyiqa,
    /// As the authors' code does: Gaussian reduction (TensorFlow's, without antialiasing), GELU by tanh.
    Authors,
}

impl Musiq {
    /// The network of a weight file: safetensors or PyTorch's with pyiqa's names, or the `.npz` of the authors. Sizes follow
    /// from the shapes, and so does whether the picture itself is all that it looks at (one scale instead of three).
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
        let names = Names::of(file)?;
        let extent = |name: &str| Ok::<_, Error>(names.shape(file, name, 1)?.iter().product::<usize>());
        let width = extent("embedding.bias")?;
        let blocks = (0..).take_while(|k| extent(&format!("{}.norm1.weight", net::block_name(*k))).is_ok()).count();
        let wide = extent(&format!("{}.mlp.fc1.bias", net::block_name(0)))?;
        // One number, or after a softmax the shares of marks.
        let head = if extent("head.bias").is_ok_and(|outputs| outputs == 1) { "head" } else { "head.0" };
        let head = if extent(&format!("{head}.bias")).is_ok() { head } else { "head" };
        let outputs = extent(&format!("{head}.bias"))?;
        let scale_numbers = names.shape(file, "transformer_encoder.scaleembed_input.scale_emb", 2)?;
        let scales = scale_numbers.iter().product::<usize>() / width.max(1);
        if width == 0 || !width.is_multiple_of(net::HEAD) || wide == 0 || outputs == 0 {
            let message =
                format!("has {outputs} scores of tokens of {width} numbers, expected a multiple of {}", net::HEAD);
            return Err(Error::model(file.path(), message));
        }
        if !matches!(scales, 1 | patches::SCALES) {
            return Err(Error::model(file.path(), format!("has {scales} scales, expected 1 or {}", patches::SCALES)));
        }
        let net = Net::new(width, wide, blocks, head, [outputs, scales]);
        let known: HashSet<String> =
            net.layout().specs().iter().map(|spec| names.in_file(&spec.name, spec.shape.len())).collect();
        let strange: Vec<&str> = file.names().filter(|name| !known.contains(*name) && !names.is_beside(name)).collect();
        if let Some(first) = strange.first() {
            let message = format!("has {} tensors that MUSIQ does not have, for example {first:?}", strange.len());
            return Err(Error::model(file.path(), message));
        }
        let read = |spec: &ParamSpec| {
            let values = names.read(file, &spec.name, &spec.shape)?;
            Ok(match spec.role {
                Role::Convolution => standardised(&values, values.len() / spec.shape[0]),
                _ => values,
            })
        };
        let params = Params::load(net.layout().clone(), &Compute::new(device, DType::F32), read)?;
        let form = Form::default();
        Ok(Self { net, params, device: device.clone(), weights: file.sha256()?.to_string(), form })
    }

    /// Computed in another form.
    #[must_use]
    pub fn computed_as(self, form: Form) -> Self {
        Self { form, ..self }
    }

    /// How it is computed.
    pub fn form(&self) -> Form {
        self.form
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
        let scales = patches::scales(&planes, height, width, self.net.scales(), self.form);
        let forward = || to_f32(&self.net.forward(&self.params, &scales, self.form, &self.device)?);
        let outputs = in_pool(&self.device, forward)?;
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
