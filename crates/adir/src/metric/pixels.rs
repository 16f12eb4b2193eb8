//! The 8-bit pixels that metrics compare.

use crate::operator::ImageShape;
use crate::tensor::{self, Tensor};
use crate::{Error, Result};

/// A plane of samples in [0, 255].
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plane {
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) values: Vec<f64>,
}

impl Plane {
    /// The plane without `border` pixels at each side.
    pub(super) fn cropped(&self, border: usize) -> Result<Self> {
        let crop = |side: usize| side.checked_sub(border.saturating_mul(2)).filter(|&side| side > 0);
        let (Some(height), Some(width)) = (crop(self.height), crop(self.width)) else {
            return Err(Error::config(format!(
                "a border of {border} pixels leaves nothing of {}x{} (height x width)",
                self.height, self.width
            )));
        };
        let lines = self.values.chunks_exact(self.width).skip(border).take(height);
        let values = lines.flat_map(|line| line[border..border + width].iter().copied()).collect();
        Ok(Self { height, width, values })
    }
}

/// The planes of each image of a batch in [-1, 1], clamped and rounded to the 256 levels of 8 bit.
pub(super) fn eight_bit(batch: &Tensor<4>, what: &str) -> Result<Vec<Vec<Plane>>> {
    tensor::check_finite(batch, what)?;
    let shape = ImageShape::of_batch(batch);
    shape.check()?;
    let values = tensor::to_f64(batch)?;
    let plane = |values: &[f64]| Plane {
        height: shape.height,
        width: shape.width,
        values: values.iter().map(|v| ((v + 1.0) * 127.5).clamp(0.0, 255.0).round()).collect(),
    };
    Ok(values.chunks(shape.elements()).map(|image| image.chunks(shape.pixels()).map(plane).collect()).collect())
}

/// The one image of a batch as RGB in [-1, 1], of the 256 levels of 8 bit; grey is repeated.
pub(super) fn rgb(batch: &Tensor<4>, what: &str) -> Result<Tensor<4>> {
    let images = eight_bit(batch, what)?;
    let [planes] = images.as_slice() else {
        return Err(Error::config(format!("a metric takes one image at a time, found {}", images.len())));
    };
    let of_plane = |plane: usize| planes[plane % planes.len()].values.iter().map(|v| (v / 127.5 - 1.0) as f32);
    let values = (0..3).flat_map(of_plane).collect();
    Ok(tensor::from_f32(values, [1, 3, planes[0].height, planes[0].width], &tensor::cpu()))
}

/// Whether two batches can be compared.
pub(super) fn check_same_shape(a: &Tensor<4>, b: &Tensor<4>) -> Result<()> {
    if a.dims() == b.dims() {
        Ok(())
    } else {
        let [a, b] = [a, b].map(|batch| (batch.dims()[0], ImageShape::of_batch(batch)));
        let said = match (a.0, b.0) {
            (1, 1) => format!("an image of {} with one of {}", a.1, b.1),
            _ => format!("{} images of {} with {} of {}", a.0, a.1, b.0, b.1),
        };
        Err(Error::config(format!(
            "cannot compare {said} (channels x height x width): both must have the same size and the same channels"
        )))
    }
}

/// Compares two batches image by image.
pub(super) fn for_each_pair(
    a: &Tensor<4>,
    b: &Tensor<4>,
    metric: impl Fn(&[Plane], &[Plane]) -> Result<f64>,
) -> Result<Vec<f64>> {
    check_same_shape(a, b)?;
    let (a, b) = (eight_bit(a, "the first image")?, eight_bit(b, "the second image")?);
    a.iter().zip(&b).map(|(a, b)| metric(a, b)).collect()
}
