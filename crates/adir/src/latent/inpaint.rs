//! What an inpainting model is told: the mask, the latents of what it leaves, and a text.

use std::sync::Arc;

use crate::models::stable_diffusion::{Latents, Posterior};
use crate::models::{Conditioning, Conditions};
use crate::tensor::{self, Tensor};
use crate::{Error, Result};

/// A photograph and what is to be filled in of it.
#[derive(Debug, Clone)]
pub struct Hole {
    /// `[1, 3, h, w]` in [-1, 1], with sides that autoencoder and network accept.
    pub image: Tensor<4>,
    /// `h w` values by rows: true where the hole is.
    pub mask: Vec<bool>,
}

impl Hole {
    /// The image with grey, 0, in the hole.
    fn masked(&self) -> Tensor<4> {
        let [_, _, h, w] = self.image.dims();
        let kept = self.mask.iter().map(|hole| if *hole { 0.0 } else { 1.0 }).collect();
        self.image.clone() * tensor::from_f32(kept, [1, 1, h, w], &self.image.device()).cast(self.image.dtype())
    }

    /// The mask at the size of the latents: each cell has the value of its first pixel, as the networks were trained.
    fn small(&self, factor: usize) -> Tensor<4> {
        let [_, _, h, w] = self.image.dims();
        let at = |y: usize, x: usize| if self.mask[y * factor * w + x * factor] { 1.0 } else { 0.0 };
        let (rows, columns) = (h / factor, w / factor);
        let values = (0..rows).flat_map(|y| (0..columns).map(move |x| (y, x))).map(|(y, x)| at(y, x)).collect();
        tensor::from_f32(values, [1, 1, rows, columns], &self.image.device()).cast(self.image.dtype())
    }
}

/// What stands beside the latents: the mask at their size, and the latents of what it leaves. `noise`, standard normal of the
/// shape of the latents, chooses from what the encoder says of the image; without it its mean is taken.
///
/// # Errors
/// [`Error::Config`] for a mask of another size, and as [`Latents::posterior`].
pub(super) fn beside(hole: &Hole, latents: &Latents, noise: Option<&Tensor<4>>) -> Result<Tensor<4>> {
    let [_, _, h, w] = hole.image.dims();
    if hole.mask.len() != h * w {
        return Err(Error::config(format!("a mask of {} pixels for an image of {w}x{h}", hole.mask.len())));
    }
    let Posterior { mean, deviation } = latents.posterior(&hole.masked())?;
    let kept = match noise {
        Some(noise) => mean + deviation * noise.clone(),
        None => mean,
    };
    Ok(Tensor::cat(vec![hole.small(latents.net().config().factor()), kept], 1))
}

/// What the network is told with a text and, where there is a guidance, without; `noise` as the diffusers pipeline draws it
/// for the masked image, or none for the mean of what the encoder says.
///
/// # Errors
/// [`Error::Config`] for a mask of another size, and as [`Latents::posterior`].
pub fn inpainting(
    hole: &Hole,
    latents: &Latents,
    noise: Option<&Tensor<4>>,
    text: [Option<Tensor<3>>; 2],
) -> Result<[Option<Conditioning>; 2]> {
    let beside = beside(hole, latents, noise)?;
    Ok(text.map(|states| {
        let conditions = Conditions { text: Some(states?), class: None, beside: Some(beside.clone()) };
        Some(Conditioning::Several(Arc::new(conditions)))
    }))
}
