//! SSIM over all channels.

use super::pixels::{check_same_shape, for_each_pair};
use super::ssim::{WINDOW, ssim};
use super::{Better, Case, Metric, Needs, single};
use crate::Result;
use crate::tensor::Tensor;

/// SSIM of the images rounded to 8 bit, the mean over the channels, no crop; 1 for equal images.
///
/// # Shapes
/// Both `[n, c, h, w]` in [-1, 1], h and w at least 11; one value for each image.
///
/// # Errors
/// [`crate::Error::Config`] when the shapes differ or a side is below 11, [`crate::Error::Numerical`] when a value is
/// not finite.
pub fn ssim_rgb(a: &Tensor<4>, b: &Tensor<4>) -> Result<Vec<f64>> {
    for_each_pair(a, b, |a, b| {
        let channels = a.iter().zip(b).map(|(a, b)| ssim(a, b)).collect::<Result<Vec<f64>>>()?;
        Ok(channels.iter().sum::<f64>() / channels.len() as f64)
    })
}

/// [`ssim_rgb()`] against the truth; from 11x11 pixels on.
#[derive(Debug, Clone, Copy, Default)]
pub struct SsimRgb;

impl Metric for SsimRgb {
    fn name(&self) -> &str {
        "ssim_rgb"
    }

    fn describe(&self) -> &str {
        "-1 to 1; structural similarity (Wang et al. 2004) with the truth, 8 bit, mean of the channels, from 11x11 pixels on"
    }

    fn better(&self) -> Better {
        Better::Higher
    }

    fn needs(&self) -> Needs {
        Needs::Truth
    }

    fn takes(&self) -> String {
        format!("images of at least {WINDOW}x{WINDOW} pixels")
    }

    fn value(&self, case: &Case<'_>) -> Result<Option<f64>> {
        let Some(truth) = case.truth else { return Ok(None) };
        check_same_shape(case.restored, truth)?;
        if case.inner(0).iter().any(|side| *side < WINDOW) {
            return Ok(None);
        }
        single(&ssim_rgb(case.restored, truth)?)
    }
}
