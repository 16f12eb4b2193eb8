//! The image as a latent diffusion model gets it, and the result as the file gets it.

use crate::Result;
use crate::io::image::Picture;
use crate::latent::pad_small;
use crate::tensor::Tensor;

/// Three channels in [-1, 1], with sides that are multiples of `multiple`: the last column and row repeated.
pub(super) fn prepared(picture: &Picture, multiple: usize) -> Tensor<4> {
    let x = picture.tensor.clone().clamp(-1.0, 1.0);
    let x = if x.dims()[1] == 1 { x.repeat_dim(1, 3) } else { x };
    pad_small(&x, multiple)
}

/// The upper left part of a decoded image, within black and white; grey where the picture is.
pub(super) fn cropped(picture: &Picture, decoded: Tensor<4>, factor: usize) -> Tensor<4> {
    let [_, channels, h, w] = picture.tensor.dims();
    let x = decoded.narrow(2, 0, factor * h).narrow(3, 0, factor * w).clamp(-1.0, 1.0);
    if channels == 1 { x.mean_dim(1) } else { x }
}

/// `x` as a picture like `source`, `factor` times as large: with its metadata and alpha, as deep as it.
pub(super) fn like(source: &Picture, x: Tensor<4>, factor: usize) -> Result<Picture> {
    let [_, _, height, width] = x.dims();
    let alpha = source.alpha_for(height, width, factor as f64)?;
    let side = |pixels: usize| u32::try_from(pixels).unwrap_or(u32::MAX);
    let metadata = source.metadata.clone().resized([factor as f64; 2], (side(width), side(height)));
    Ok(Picture { tensor: x, alpha, metadata, pages: 1, warnings: Vec::new(), ..source.clone() })
}
