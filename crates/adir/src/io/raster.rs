//! Tensors as the samples of a file.

use std::path::Path;

use super::codec::{BitDepth, Raster, Samples};
use super::image::WriteOptions;
use super::scale::Scale;
use crate::tensor::{Tensor, to_f32};
use crate::{Error, Result};

/// The samples that a file stores.
pub(super) fn raster(path: &Path, tensor: &Tensor<4>, options: &WriteOptions) -> Result<Raster> {
    let [batch, color, height, width] = tensor.dims();
    let sizes = (u32::try_from(width), u32::try_from(height));
    let (Ok(raster_width), Ok(raster_height), 1, 1 | 3) = (sizes.0, sizes.1, batch, color) else {
        return Err(Error::config(format!(
            "{}: an image of shape {:?} cannot be written, expected [1, 1 or 3, h, w]",
            path.display(),
            tensor.dims()
        )));
    };
    let pixels = width * height;
    if pixels == 0 {
        return Err(Error::config(format!("{}: an image of {width}x{height} pixels", path.display())));
    }
    if let Some(alpha) = options.alpha.as_ref().filter(|alpha| alpha.len() != pixels) {
        let found = alpha.len();
        return Err(Error::config(format!("{}: {found} alpha values for {width}x{height} pixels", path.display())));
    }
    let values = to_f32(tensor)?;
    let alpha = options.alpha.as_deref().unwrap_or_default();
    let bad = values.iter().chain(alpha).filter(|value| !value.is_finite()).count();
    if bad > 0 {
        return Err(Error::Numerical(format!("{}: {bad} values to be written are not finite", path.display())));
    }
    let mut planes: Vec<&[f32]> = values.chunks_exact(pixels).collect();
    // Alpha joins the colour planes in their range, so that one rule stores them all.
    let alpha: Vec<f32> = alpha.iter().map(|unit| 2.0 * unit - 1.0).collect();
    planes.extend((!alpha.is_empty()).then_some(alpha.as_slice()));
    let channels = planes.len();
    let colours = [Store::new(options.bit_depth, options.scale), Store::new(options.bit_depth, None)];
    let store = |channel: usize| colours[usize::from(channel >= color)];
    let samples = match options.bit_depth {
        BitDepth::Eight => Samples::Eight(interleave(&planes, |c, v| store(c).whole(v) as u8)),
        BitDepth::Sixteen => Samples::Sixteen(interleave(&planes, |c, v| store(c).whole(v) as u16)),
        BitDepth::Float => Samples::Float(interleave(&planes, |c, v| store(c).float(v))),
    };
    let associated = options.associated_alpha && !alpha.is_empty();
    Ok(Raster { width: raster_width, height: raster_height, channels, samples, associated })
}

/// How a value from -1 to 1 becomes one of a file.
#[derive(Debug, Clone, Copy)]
struct Store {
    /// Largest whole number of the type.
    most: f32,
    scale: Option<[f32; 2]>,
}

impl Store {
    fn new(depth: BitDepth, scale: Option<Scale>) -> Self {
        let most = depth.scale().white as f32;
        Self { most, scale: scale.map(|scale| [scale.black as f32, scale.span() as f32]) }
    }

    fn whole(self, value: f32) -> f32 {
        match self.scale {
            None => ((value.clamp(-1.0, 1.0) + 1.0) / 2.0 * self.most).round(),
            Some(_) => self.float(value).round().clamp(0.0, self.most),
        }
    }

    fn float(self, value: f32) -> f32 {
        let unit = (value + 1.0) / 2.0;
        self.scale.map_or(unit, |[black, span]| unit * span + black)
    }
}

fn interleave<T>(planes: &[&[f32]], map: impl Fn(usize, f32) -> T) -> Vec<T> {
    let pixels = planes.first().map_or(0, |plane| plane.len());
    let mut samples = Vec::with_capacity(pixels * planes.len());
    for pixel in 0..pixels {
        samples.extend(planes.iter().enumerate().map(|(channel, plane)| map(channel, plane[pixel])));
    }
    samples
}
