//! Multi-scale SSIM of luma.

use super::luma::luma;
use super::pixels::{check_same_shape, for_each_pair};
use super::ssim::{MULTISCALE, multiscale};
use super::{Better, Case, Metric, Needs, single};
use crate::Result;
use crate::tensor::Tensor;

/// MS-SSIM (Wang et al. 2003, five scales) of the BT.601 luma (studio range) of the images rounded to 8 bit, without
/// `border` pixels at each side. Grey images are compared as they are.
///
/// # Shapes
/// Both `[n, 1 or 3, h, w]` in [-1, 1], at least 161 a side after the crop; one value for each image.
///
/// # Errors
/// As [`ssim_y`](super::ssim_y()).
pub fn ms_ssim_y(a: &Tensor<4>, b: &Tensor<4>, border: usize) -> Result<Vec<f64>> {
    for_each_pair(a, b, |a, b| multiscale(&luma(a)?.cropped(border)?, &luma(b)?.cropped(border)?))
}

/// [`ms_ssim_y()`] against the truth, without the border of the case; from 161x161 pixels inside it on.
#[derive(Debug, Clone, Copy, Default)]
pub struct MsSsimY;

impl Metric for MsSsimY {
    fn name(&self) -> &str {
        "ms_ssim_y"
    }

    fn describe(&self) -> &str {
        "0 to 1; MS-SSIM (Wang et al. 2003) of the luma (BT.601, studio range) of the 8-bit images, without the border, from 161x161 pixels on"
    }

    fn better(&self) -> Better {
        Better::Higher
    }

    fn needs(&self) -> Needs {
        Needs::Truth
    }

    fn takes(&self) -> String {
        format!("images of at least {MULTISCALE}x{MULTISCALE} pixels without the border")
    }

    fn value(&self, case: &Case<'_>) -> Result<Option<f64>> {
        let Some(truth) = case.truth else { return Ok(None) };
        check_same_shape(case.restored, truth)?;
        let inner = case.inner(case.border);
        if !case.has_luma() || !inner.contains(&0) && inner.iter().any(|side| *side < MULTISCALE) {
            return Ok(None);
        }
        single(&ms_ssim_y(case.restored, truth, case.border)?)
    }
}
