//! PSNR over all channels.

use super::pixels::for_each_pair;
use super::psnr::psnr;
use super::{Better, Case, Metric, Needs, single};
use crate::Result;
use crate::tensor::Tensor;

/// PSNR over all channels of the images rounded to 8 bit, no crop.
///
/// # Shapes
/// Both `[n, c, h, w]` in [-1, 1]; one value for each image.
///
/// # Errors
/// [`crate::Error::Config`] when the shapes differ, [`crate::Error::Numerical`] when a value is not finite.
pub fn psnr_rgb(a: &Tensor<4>, b: &Tensor<4>) -> Result<Vec<f64>> {
    for_each_pair(a, b, |a, b| Ok(psnr(a, b)))
}

/// [`psnr_rgb()`] against the truth.
#[derive(Debug, Clone, Copy, Default)]
pub struct PsnrRgb;

impl Metric for PsnrRgb {
    fn name(&self) -> &str {
        "psnr_rgb"
    }

    fn describe(&self) -> &str {
        "0 dB to infinity; peak signal-to-noise ratio against the truth, 8 bit, all channels, no crop"
    }

    fn better(&self) -> Better {
        Better::Higher
    }

    fn needs(&self) -> Needs {
        Needs::Truth
    }

    fn unit(&self) -> &str {
        "dB"
    }

    fn digits(&self) -> usize {
        2
    }

    fn value(&self, case: &Case<'_>) -> Result<Option<f64>> {
        let Some(truth) = case.truth else { return Ok(None) };
        single(&psnr_rgb(case.restored, truth)?)
    }
}
