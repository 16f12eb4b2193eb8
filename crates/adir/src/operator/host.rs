//! Runs operators on the host: from tensors to slices and back.
//!
//! Planes (or whole images) are independent, so they are spread over threads; each is computed by
//! one closure in a fixed order, so the result does not depend on the number of threads.

use burn::tensor::TensorData;
use rayon::prelude::*;

use super::ImageShape;
use crate::tensor::{self, Tensor};
use crate::{Error, Result};

/// The batch size of `batch`, whose images must have the shape `expected`.
pub(super) fn check_shape(batch: &Tensor<4>, expected: ImageShape) -> Result<usize> {
    let found = ImageShape::of_batch(batch);
    if found == expected {
        Ok(batch.dims()[0])
    } else {
        Err(Error::config(format!(
            "the operator expects an image of {expected}, found {found} (channels x height x width)"
        )))
    }
}

/// Maps every image of a batch: `map` reads the `from.elements()` values of one image and writes
/// the `to.elements()` values of its result, which it finds zeroed.
pub(super) fn map_images(
    batch: &Tensor<4>,
    from: ImageShape,
    to: ImageShape,
    map: impl Fn(&[f64], &mut [f64]) + Sync,
) -> Result<Tensor<4>> {
    let n = check_shape(batch, from)?;
    map_blocks(batch, [n, to.channels, to.height, to.width], from.elements(), to.elements(), map)
}

/// Maps the images of several batches of one shape to one image each: `map` reads one image of every batch and writes
/// its result, which it finds zeroed.
pub(super) fn sum_images(
    batches: &[&Tensor<4>],
    shape: ImageShape,
    map: impl Fn(&[&[f64]], &mut [f64]) + Sync,
) -> Result<Tensor<4>> {
    let Some(first) = batches.first() else { return Err(Error::config("a sum of no images")) };
    let n = check_shape(first, shape)?;
    for batch in batches {
        if check_shape(batch, shape)? != n {
            return Err(Error::config(format!("a sum of {n} and of {} images", batch.dims()[0])));
        }
    }
    let values = batches.iter().map(|batch| tensor::to_f64(batch)).collect::<Result<Vec<_>>>()?;
    let mut out = vec![0.0; n * shape.elements()];
    out.par_chunks_mut(shape.elements()).enumerate().for_each(|(i, out)| {
        let images: Vec<&[f64]> =
            values.iter().map(|values| &values[i * shape.elements()..][..shape.elements()]).collect();
        map(&images, out);
    });
    Ok(Tensor::from_data(TensorData::new(out, first.dims()), (&first.device(), first.dtype())))
}

/// Maps every plane of a batch, for operators that treat the channels alike: `from` and `to` have
/// the same number of channels.
pub(super) fn map_planes(
    batch: &Tensor<4>,
    from: ImageShape,
    to: ImageShape,
    map: impl Fn(&[f64], &mut [f64]) + Sync,
) -> Result<Tensor<4>> {
    let n = check_shape(batch, from)?;
    map_blocks(batch, [n, to.channels, to.height, to.width], from.pixels(), to.pixels(), map)
}

fn map_blocks(
    batch: &Tensor<4>,
    shape: [usize; 4],
    from_len: usize,
    to_len: usize,
    map: impl Fn(&[f64], &mut [f64]) + Sync,
) -> Result<Tensor<4>> {
    let values = tensor::to_f64(batch)?;
    let mut out = vec![0.0; shape.iter().product()];
    out.par_chunks_mut(to_len).zip(values.par_chunks(from_len)).for_each(|(to, from)| map(from, to));
    Ok(Tensor::from_data(TensorData::new(out, shape), (&batch.device(), batch.dtype())))
}
