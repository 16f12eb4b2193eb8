//! The guided-diffusion U-Net (Dhariwal and Nichol 2021): configuration, network, checkpoints.
//!
//! The surprising decision: a configuration is never guessed. It comes with the weights, or the weights
//! have the structure of a published model; whatever it is, every name and shape must then agree.

mod by_blocks;
mod config;
mod image_mean;
mod keys;
mod net;

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::tensor::DType;

pub use config::{NORM_GROUPS, NoiseSchedule, UNetConfig};
pub use image_mean::ImageMean;
pub use keys::{KeyReport, Shapes, infer, is_guided_diffusion};
pub use net::UNet;

use super::params::{ParamLayout, Params};
use super::{Denoiser, Prediction};
use crate::io::weights::WeightFile;
use crate::schedule::{Schedule, Timestep};
use crate::tensor::{Device, Tensor};
use crate::{Error, Result};

/// A guided-diffusion network with its weights on a device.
#[derive(Debug, Clone)]
pub struct GuidedDiffusion {
    config: UNetConfig,
    net: Arc<UNet>,
    params: Params,
    schedule: Schedule,
    image_mean: Option<ImageMean>,
}

impl GuidedDiffusion {
    /// Loads a checkpoint tensor by tensor, so that no more than one tensor exists twice.
    ///
    /// `config` is the configuration where the caller has one (a file beside the weights); without it, it
    /// comes from the file's metadata, or from [`infer`]. `dtype` is what the network computes in.
    ///
    /// # Errors
    /// [`Error::Model`] when the configuration is missing or invalid, a tensor is missing, unexpected or
    /// mis-shaped (all are listed), or a value is not finite.
    pub fn load(file: &WeightFile, config: Option<UNetConfig>, device: &Device, dtype: DType) -> Result<Self> {
        let fault = |e: Error| match e {
            Error::Config(message) => Error::model(file.path(), message),
            other => other,
        };
        let config = match config {
            Some(config) => config,
            None => config_of(file).map_err(fault)?,
        };
        let (net, layout) = UNet::new(&config).map_err(fault)?;
        let report =
            KeyReport::compare(layout.specs().iter().map(|s| (s.name.as_str(), s.shape.as_slice())), &shapes_of(file));
        if !report.is_clean() {
            return Err(Error::model(file.path(), format!("the weights do not fit the network:\n{report}")));
        }
        let params =
            Params::load(Arc::new(layout), device, dtype, |spec| Ok(file.read_f32(&spec.name)?)).map_err(fault)?;
        let image_mean = file.metadata().get(ImageMean::KEY).map(|text| ImageMean::from_json(text)).transpose();
        Ok(Self::from_parts(config, net, params)?.with_image_mean(image_mean.map_err(fault)?))
    }

    /// From a configuration and values for its layout.
    ///
    /// # Errors
    /// As [`UNetConfig::schedule`].
    pub fn from_parts(config: UNetConfig, net: UNet, params: Params) -> Result<Self> {
        let schedule = config.schedule()?;
        Ok(Self { config, net: Arc::new(net), params, schedule, image_mean: None })
    }

    /// The same network with other weights (adapted, averaged).
    #[must_use]
    pub fn with_params(&self, params: Params) -> Self {
        Self { params, ..self.clone() }
    }

    /// The same network knowing the mean colours of its training images; `None` leaves them to it.
    #[must_use]
    pub fn with_image_mean(self, image_mean: Option<ImageMean>) -> Self {
        Self { image_mean, ..self }
    }

    /// What a file of its weights must tell in its metadata for [`GuidedDiffusion::load`] to make the same of them.
    pub fn metadata(&self) -> BTreeMap<String, String> {
        let mut metadata = BTreeMap::from([("config".to_owned(), self.config.to_json())]);
        if let Some(known) = self.image_mean {
            metadata.insert(ImageMean::KEY.to_owned(), known.to_json());
        }
        metadata
    }

    /// The configuration.
    pub fn config(&self) -> &UNetConfig {
        &self.config
    }

    /// The network without its weights.
    pub fn net(&self) -> &UNet {
        &self.net
    }

    /// The weights.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// The layout of the weights.
    pub fn layout(&self) -> &Arc<ParamLayout> {
        self.params.layout()
    }
}

/// The configuration in the metadata, or that of the published model of the same structure.
///
/// # Errors
/// [`Error::Config`] as [`UNetConfig::from_json`] and [`infer`].
pub fn config_of(file: &WeightFile) -> Result<UNetConfig> {
    match file.metadata().get("config") {
        Some(text) => UNetConfig::from_json(text),
        None => infer(&shapes_of(file)),
    }
}

/// Names and shapes of a file's tensors.
pub fn shapes_of(file: &WeightFile) -> Shapes {
    file.names().filter_map(|name| Some((name.to_owned(), file.info(name)?.shape.clone()))).collect()
}

impl Denoiser for GuidedDiffusion {
    fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    fn predict(&self, x_t: &Tensor<4>, t: Timestep, class: Option<usize>) -> Result<Prediction> {
        let [n, c, h, w] = x_t.dims();
        if c != self.config.in_channels {
            return Err(Error::config(format!("the network takes {} channels, not {c}", self.config.in_channels)));
        }
        let multiple = self.config.size_multiple();
        if !h.is_multiple_of(multiple) || !w.is_multiple_of(multiple) || h == 0 || w == 0 {
            return Err(Error::config(format!(
                "the network takes sides that are multiples of {multiple}, not {w}x{h}"
            )));
        }
        let classes = match (self.config.num_classes, class) {
            (None, None) => None,
            (None, Some(_)) => return Err(Error::config("this network has no classes, but one was asked for")),
            (Some(count), Some(class)) if class < count => Some(vec![class; n]),
            (Some(count), given) => {
                return Err(Error::config(format!(
                    "this network needs a class in 0..{count}, {}",
                    given.map_or("none was given".into(), |g| format!("not {g}"))
                )));
            }
        };
        // The sampler's tensors stay where and in what precision they are; the network computes in its own.
        let input = x_t.clone().to_device(&self.params.device()).cast(self.params.dtype());
        let out = self.net.forward(&self.params, input, &vec![t; n], classes.as_deref());
        let out = out.to_device(&x_t.device()).cast(x_t.dtype());
        let (eps, variance) = if self.config.learn_sigma() {
            let parts = out.chunk(2, 1);
            (parts[0].clone(), Some(parts[1].clone()))
        } else {
            (out, None)
        };
        let eps = match &self.image_mean {
            Some(known) => known.correct(&self.schedule, t, x_t, eps)?,
            None => eps,
        };
        Ok(Prediction { eps, variance })
    }

    fn size_multiple(&self) -> usize {
        self.config.size_multiple()
    }
}
