//! Between what is sampled and what is observed.

use std::fmt::Debug;

use super::Pullback;
use super::denoiser::check_cotangent;
use crate::Result;
use crate::operator::ImageShape;
use crate::tensor::Tensor;

/// The space in which a network samples: pixels themselves, or an autoencoder's latents.
pub trait Space: Debug + Send + Sync {
    /// Shape of the state that is sampled for an image of that shape.
    fn state_shape(&self, image: ImageShape) -> ImageShape;

    /// The state of images in [-1, 1], `[n, c, h, w]` both.
    ///
    /// # Errors
    /// [`crate::Error::Config`] for images that the space cannot hold.
    fn encode(&self, image: &Tensor<4>) -> Result<Tensor<4>>;

    /// The images of a state, `[n, c, h, w]` both.
    ///
    /// # Errors
    /// [`crate::Error::Config`] for a state that the space does not have.
    fn decode(&self, state: &Tensor<4>) -> Result<Tensor<4>>;

    /// As [`Space::decode`], with the way back from the image to the state.
    ///
    /// # Errors
    /// As [`Space::decode`].
    fn decode_back(&self, state: &Tensor<4>) -> Result<(Tensor<4>, Box<dyn Pullback>)>;
}

/// The space of images themselves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pixels;

impl Space for Pixels {
    fn state_shape(&self, image: ImageShape) -> ImageShape {
        image
    }

    fn encode(&self, image: &Tensor<4>) -> Result<Tensor<4>> {
        Ok(image.clone())
    }

    fn decode(&self, state: &Tensor<4>) -> Result<Tensor<4>> {
        Ok(state.clone())
    }

    fn decode_back(&self, state: &Tensor<4>) -> Result<(Tensor<4>, Box<dyn Pullback>)> {
        Ok((state.clone(), Box::new(Unchanged(state.dims()))))
    }
}

/// The way back through the identity on tensors of a shape.
struct Unchanged([usize; 4]);

impl Pullback for Unchanged {
    fn x_t(&self, cotangent: &Tensor<4>) -> Result<Tensor<4>> {
        check_cotangent(cotangent, self.0)?;
        Ok(cotangent.clone())
    }
}
