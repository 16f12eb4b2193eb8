//! How well a restoration agrees with what was measured.

use super::psnr::{decibel, squared_error};
use super::{Better, Case, Metric, Needs, Over, single};
use crate::operator::{ImageShape, LinearOperator};
use crate::tensor::{self, Tensor};
use crate::{Error, Result};

/// PSNR of A x against y, the agreement of a restoration with its input. Nothing is rounded or clamped; the peak is
/// the 2 of [-1, 1]. Only pixels that A observes count ([`LinearOperator::observed`]): what a file holds where pixels
/// are missing changes nothing.
///
/// # Shapes
/// x `[n, domain]`, y `[n, range]`; one value for each image.
///
/// # Errors
/// Those of the operator, [`Error::Config`] when the shapes do not fit, and [`Error::Numerical`] when a value is not
/// finite.
pub fn agreement(a: &dyn LinearOperator, x: &Tensor<4>, y: &Tensor<4>) -> Result<Vec<f64>> {
    let ax = a.apply(x)?;
    if ax.dims() != y.dims() {
        return Err(Error::config(format!(
            "a result of {} has an observation of {}, but the observation is {} (channels x height x width)",
            ImageShape::of_batch(x),
            ImageShape::of_batch(&ax),
            ImageShape::of_batch(y)
        )));
    }
    tensor::check_finite(&ax, "A x")?;
    tensor::check_finite(y, "y")?;
    let shape = ImageShape::of_batch(y);
    let (ax, y) = (tensor::to_f64(&ax)?, tensor::to_f64(y)?);
    let images = ax.chunks(shape.elements()).zip(y.chunks(shape.elements()));
    let Some(observed) = a.observed() else {
        let size = shape.elements() as f64;
        return Ok(images.map(|(ax, y)| decibel(squared_error(ax, y) / size, 2.0)).collect());
    };
    let count = shape.channels * observed.iter().filter(|observed| **observed).count();
    if observed.len() != shape.pixels() || count == 0 {
        return Err(Error::config(format!(
            "the operator says of {} pixels whether it observes them and observes {} values; expected {} pixels and at \
             least one value",
            observed.len(),
            count,
            shape.pixels()
        )));
    }
    let flags = || std::iter::repeat_n(observed, shape.channels).flatten();
    Ok(images
        .map(|(ax, y)| {
            let seen = ax.iter().zip(y).zip(flags()).filter(|(_, observed)| **observed);
            let squares: f64 = seen.map(|((ax, y), _)| (ax - y) * (ax - y)).sum();
            decibel(squares / count as f64, 2.0)
        })
        .collect())
}

/// [`agreement()`] with the observation of the case; of several samples that of their mean.
#[derive(Debug, Clone, Copy, Default)]
pub struct Agreement;

impl Metric for Agreement {
    fn name(&self) -> &str {
        "agreement_psnr"
    }

    fn describe(&self) -> &str {
        "dB, infinite where A x = y; PSNR of A x against y over the observed pixels, not rounded, peak 2 of [-1, 1]"
    }

    fn better(&self) -> Better {
        Better::Higher
    }

    fn needs(&self) -> Needs {
        Needs::Observation
    }

    fn unit(&self) -> &str {
        "dB"
    }

    fn digits(&self) -> usize {
        1
    }

    fn over(&self) -> Over {
        Over::Mean
    }

    fn value(&self, case: &Case<'_>) -> Result<Option<f64>> {
        let Some(observed) = case.observed else { return Ok(None) };
        single(&agreement(observed.operator, case.restored, observed.y)?)
    }
}
