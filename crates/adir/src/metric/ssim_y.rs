//! SSIM of luma.

use super::luma::luma;
use super::pixels::{check_same_shape, for_each_pair};
use super::ssim::{WINDOW, ssim};
use super::{Better, Case, Metric, Needs, single};
use crate::Result;
use crate::tensor::Tensor;

/// SSIM of the BT.601 luma (studio range) of the images rounded to 8 bit, without `border` pixels at each side. Grey
/// images are compared as they are.
///
/// # Shapes
/// Both `[n, 1 or 3, h, w]` in [-1, 1], at least 11 a side after the crop; one value for each image.
///
/// # Errors
/// As [`ssim_rgb`](super::ssim_rgb()), and [`crate::Error::Config`] when there are neither 1 nor 3 channels.
pub fn ssim_y(a: &Tensor<4>, b: &Tensor<4>, border: usize) -> Result<Vec<f64>> {
    for_each_pair(a, b, |a, b| ssim(&luma(a)?.cropped(border)?, &luma(b)?.cropped(border)?))
}

/// [`ssim_y()`] against the truth, without the border of the case; from 11x11 pixels inside it on.
#[derive(Debug, Clone, Copy, Default)]
pub struct SsimY;

impl Metric for SsimY {
    fn name(&self) -> &str {
        "ssim_y"
    }

    fn describe(&self) -> &str {
        "-1 to 1; SSIM of the luma (BT.601, studio range) of the 8-bit images, without the border, from 11x11 pixels on"
    }

    fn better(&self) -> Better {
        Better::Higher
    }

    fn needs(&self) -> Needs {
        Needs::Truth
    }

    fn takes(&self) -> String {
        format!("images of at least {WINDOW}x{WINDOW} pixels without the border")
    }

    fn value(&self, case: &Case<'_>) -> Result<Option<f64>> {
        let Some(truth) = case.truth else { return Ok(None) };
        check_same_shape(case.restored, truth)?;
        // A border that leaves nothing at all is a mistake, which `ssim_y` names.
        let inner = case.inner(case.border);
        if !case.has_luma() || !inner.contains(&0) && inner.iter().any(|side| *side < WINDOW) {
            return Ok(None);
        }
        single(&ssim_y(case.restored, truth, case.border)?)
    }
}
