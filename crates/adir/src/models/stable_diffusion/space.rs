//! The latents of an autoencoder as the space that a U-Net samples in.

use std::sync::Arc;

use super::autoencoder::{Autoencoder, Posterior};
use crate::models::denoiser::check_cotangent;
use crate::models::params::Params;
use crate::models::{Pullback, Space};
use crate::operator::ImageShape;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// An autoencoder with its weights.
#[derive(Debug, Clone)]
pub struct Latents {
    net: Arc<Autoencoder>,
    params: Params,
}

impl Latents {
    /// An autoencoder with values for its layout.
    ///
    /// # Panics
    /// If the values belong to another layout: a mistake of the caller.
    pub fn new(net: Arc<Autoencoder>, params: Params) -> Self {
        assert!(params.layout() == net.layout(), "the values are those of the autoencoder");
        Self { net, params }
    }

    /// What latents are multiplied by for the U-Net.
    pub fn scale(&self) -> f64 {
        self.net.config().scale.unwrap_or(1.0)
    }

    /// The autoencoder without its weights.
    pub fn net(&self) -> &Arc<Autoencoder> {
        &self.net
    }

    /// Mean and deviation of the latents of images, scaled.
    ///
    /// # Errors
    /// As [`Autoencoder::encode`].
    pub fn posterior(&self, image: &Tensor<4>) -> Result<Posterior> {
        let Posterior { mean, deviation } = self.net.encode(&self.params, image)?;
        Ok(Posterior { mean: mean * self.scale(), deviation: deviation * self.scale() })
    }
}

impl Space for Latents {
    fn state_shape(&self, image: ImageShape) -> ImageShape {
        let config = self.net.config();
        let (height, width) = (image.height.div_ceil(config.factor()), image.width.div_ceil(config.factor()));
        ImageShape { channels: config.latent_channels, height, width }
    }

    fn encode(&self, image: &Tensor<4>) -> Result<Tensor<4>> {
        Ok(self.posterior(image)?.mean)
    }

    fn decode(&self, state: &Tensor<4>) -> Result<Tensor<4>> {
        self.net.decode(&self.params, &(state.clone() / self.scale()))
    }

    fn decode_back(&self, state: &Tensor<4>) -> Result<(Tensor<4>, Box<dyn Pullback>)> {
        let state = state.clone().autodiff().require_grad();
        let image = self.net.decode(&self.params.untracked(), &(state.clone() / self.scale()))?;
        let back = DecoderPullback { state, image: image.clone() };
        Ok((image.inner(), Box::new(back)))
    }
}

/// The way back through a decoder, as often as it is asked for.
struct DecoderPullback {
    state: Tensor<4>,
    image: Tensor<4>,
}

impl Pullback for DecoderPullback {
    fn x_t(&self, cotangent: &Tensor<4>) -> Result<Tensor<4>> {
        check_cotangent(cotangent, self.image.dims())?;
        let mut gradients = (self.image.clone() * cotangent.clone().autodiff()).sum().backward();
        let found = self.state.grad_remove(&mut gradients);
        found.ok_or_else(|| Error::Backend("the image does not depend on the latents".into()))
    }
}
