//! Random crops of the few images a model is adapted to.

use super::config::{AdaptConfig, CropScale};
use crate::noise::Noise;
use crate::operator::bicubic_resize;
use crate::tensor::{self, Device, Tensor};
use crate::{Error, Result};

/// Images in memory, `[1, 3, h, w]` each in [-1, 1] on the CPU.
#[derive(Debug, Clone)]
pub struct CropSource {
    images: Vec<Tensor<4>>,
    crop: usize,
    scale: CropScale,
    flip: bool,
}

impl CropSource {
    /// Crops as `config` says; images are grey or RGB. An image too small for its crop is enlarged.
    ///
    /// # Errors
    /// [`Error::Config`] for no images, or others than grey and RGB.
    pub fn new(images: Vec<Tensor<4>>, config: &AdaptConfig) -> Result<Self> {
        if images.is_empty() {
            return Err(Error::config("no images to adapt to"));
        }
        let images =
            images.into_iter().map(|image| enlarged(of_three_channels(image)?, config.crop)).collect::<Result<_>>()?;
        Ok(Self { images, crop: config.crop, scale: config.scale, flip: config.flip })
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// Whether there are no images; never true.
    pub fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// `count` crops `[count, 3, side, side]`, a function of `noise` and `step`; `side` is at most that of the settings.
    ///
    /// # Errors
    /// As [`bicubic_resize`].
    pub fn draw(&self, noise: &Noise, step: u32, count: usize, side: usize, device: &Device) -> Result<Tensor<4>> {
        let crops = (0..count as u32).map(|k| {
            let image = &self.images[noise.below(step, 3 * k, self.images.len())];
            let image = match self.scale {
                CropScale::Native => image.clone(),
                CropScale::Resized => resized(image, self.crop, noise.uniform(step, 2 * k))?,
            };
            let crop = square(&image, side, noise, step, 3 * k + 1);
            Ok(if self.flip && noise.uniform(step, 2 * k + 1) < 0.5 { crop.flip([3]) } else { crop })
        });
        Ok(Tensor::cat(crops.collect::<Result<Vec<_>>>()?, 0).to_device(device))
    }
}

/// What is left of an image whose crops are all of [`resized`] ones: halved as often as every one of them is.
pub(crate) fn reduced(image: Tensor<4>, crop: usize) -> Tensor<4> {
    halved(image, (1.25 * crop as f64).round() as usize)
}

/// The image with a short side of 1 to 1.25 crops, by a number from 0 to 1.
///
/// # Errors
/// As [`bicubic_resize`].
pub(crate) fn resized(image: &Tensor<4>, crop: usize, drawn: f64) -> Result<Tensor<4>> {
    let short = (crop as f64 * (1.0 + 0.25 * drawn)).round() as usize;
    with_short_side(&halved(image.clone(), short), short)
}

/// The image, halved while its short side stays at least `short`.
fn halved(mut image: Tensor<4>, short: usize) -> Tensor<4> {
    while image.dims()[2].min(image.dims()[3]) >= 2 * short {
        image = adir_kernels::avg_pool2(image);
    }
    image
}

/// A grey or RGB image as RGB.
///
/// # Errors
/// [`Error::Config`] for others.
pub(crate) fn of_three_channels(image: Tensor<4>) -> Result<Tensor<4>> {
    match image.dims() {
        [1, 3, ..] => Ok(image),
        [1, 1, ..] => Ok(image.repeat_dim(1, 3)),
        shape => Err(Error::config(format!("cannot adapt to an image of shape {shape:?}, expected [1, 1 or 3, h, w]"))),
    }
}

/// A square of `image`, which is at least as large, where the numbers `first` and `first + 1` of a step put it.
pub(crate) fn square(image: &Tensor<4>, side: usize, noise: &Noise, step: u32, first: u32) -> Tensor<4> {
    let [_, _, h, w] = image.dims();
    let (top, left) = (noise.below(step, first, h - side + 1), noise.below(step, first + 1, w - side + 1));
    image.clone().narrow(2, top, side).narrow(3, left, side)
}

/// The image itself, or enlarged until a crop fits.
///
/// # Errors
/// As [`bicubic_resize`].
pub(crate) fn enlarged(image: Tensor<4>, crop: usize) -> Result<Tensor<4>> {
    let [_, _, h, w] = image.dims();
    if h.min(w) < crop { with_short_side(&image, crop) } else { Ok(image) }
}

fn with_short_side(image: &Tensor<4>, short: usize) -> Result<Tensor<4>> {
    let [_, _, h, w] = image.dims();
    let factor = short as f64 / h.min(w) as f64;
    let side = |length: usize| ((length as f64 * factor).round() as usize).max(short);
    let resized = bicubic_resize(image, side(h), side(w))?;
    tensor::check_finite(&resized, "an image to adapt to")?;
    Ok(resized)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{cpu, from_f32, to_f32};

    /// A large image is held as small as all crops of it make it first: they stay the same to the bit.
    #[test]
    fn crops_of_a_reduced_image_are_those_of_the_whole() {
        let (height, width) = (203, 331);
        let values = (0..3 * height * width).map(|i| (0.37 * i as f32).sin()).collect();
        let image = from_f32(values, [1, 3, height, width], &cpu());
        let held = reduced(image.clone(), 16);
        assert_eq!(held.dims(), [1, 3, 25, 41]);
        for drawn in [0.0, 0.3, 0.999] {
            let [whole, held] = [&image, &held].map(|image| to_f32(&resized(image, 16, drawn).unwrap()).unwrap());
            assert_eq!(whole, held, "{drawn}");
        }
        assert_eq!(reduced(image.clone(), 90).dims(), image.dims());
    }
}
