//! The image as a latent diffusion model gets it, and the result as the file gets it.

use crate::Result;
use crate::io::image::Picture;
use crate::latent::pad_small;
use crate::operator::bicubic_resize;
use crate::tensor::{self, Tensor};

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
    let ([_, _, h, w], [_, _, height, width]) = (source.tensor.dims(), x.dims());
    let alpha = match &source.alpha {
        Some(alpha) if factor > 1 => {
            let plane = tensor::from_f32(alpha.clone(), [1, 1, h, w], &tensor::cpu());
            let plane = bicubic_resize(&plane, height, width)?;
            Some(tensor::to_f32(&plane)?.into_iter().map(|v| v.clamp(0.0, 1.0)).collect())
        }
        alpha => alpha.clone(),
    };
    let side = |pixels: usize| u32::try_from(pixels).unwrap_or(u32::MAX);
    let metadata = source.metadata.clone().resized([factor as f64; 2], (side(width), side(height)));
    Ok(Picture { tensor: x, alpha, metadata, warnings: Vec::new(), ..source.clone() })
}
