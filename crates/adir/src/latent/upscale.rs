//! What upscalers are told. The x4 upscaler: the small image with a little noise, the level of that noise, and a text. Latent
//! diffusion's super-resolution: the small image.

use std::sync::Arc;

use crate::models::stable_diffusion::LowRes;
use crate::models::{Conditioning, Conditions};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// The small image `[1, 3, h, w]` with its last column and row repeated up to multiples of `multiple`.
pub fn pad_small(image: &Tensor<4>, multiple: usize) -> Tensor<4> {
    let [_, _, h, w] = image.dims();
    let repeat = |image: Tensor<4>, side: usize, length: usize| {
        let more = length.next_multiple_of(multiple.max(1)) - length;
        if more == 0 {
            return image;
        }
        let last = image.clone().narrow(side, length - 1, 1);
        let parts = std::iter::once(image).chain(std::iter::repeat_n(last, more)).collect();
        Tensor::cat(parts, side)
    };
    repeat(repeat(image.clone(), 2, h), 3, w)
}

/// What the network is told with a text and, where there is a guidance, without: `image` `[1, 3, h, w]` in [-1, 1] with
/// sides that the network accepts, `noise` standard normal of that shape, `level` that of the noise in the image.
///
/// The states are those of the text and of what to draw away from. The latents that are sampled have the sides of the image.
///
/// # Errors
/// [`Error::Config`] for a level that the model does not know, or an image that is not of three channels.
pub fn upscaling(
    image: &Tensor<4>,
    noise: &Tensor<4>,
    low_res: &LowRes,
    level: usize,
    text: [Option<Tensor<3>>; 2],
) -> Result<[Option<Conditioning>; 2]> {
    if image.dims()[1] != 3 || image.dims() != noise.dims() {
        return Err(Error::config(format!("an image of shape {:?} with noise of {:?}", image.dims(), noise.dims())));
    }
    let (of_image, of_noise) = low_res.factors(level)?;
    let beside = image.clone() * of_image + noise.clone() * of_noise;
    Ok(text.map(|states| {
        let text = Some(states?);
        let conditions = Conditions { text, class: Some(level), beside: Some(beside.clone()) };
        Some(Conditioning::Several(Arc::new(conditions)))
    }))
}

/// What latent diffusion's super-resolution is told: `image` `[1, 3, h, w]` in [-1, 1], with sides that the network accepts.
///
/// # Errors
/// [`Error::Config`] for an image that is not of three channels.
pub fn super_resolution(image: Tensor<4>) -> Result<Conditioning> {
    if image.dims()[1] != 3 {
        return Err(Error::config(format!("an image of shape {:?}: expected three channels", image.dims())));
    }
    Ok(Conditioning::Several(Arc::new(Conditions { text: None, class: None, beside: Some(image) })))
}
