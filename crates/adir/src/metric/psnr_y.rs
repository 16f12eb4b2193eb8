//! PSNR of luma.

use super::luma::luma;
use super::pixels::{check_same_shape, for_each_pair};
use super::psnr::psnr;
use super::{Better, Case, Metric, Needs, single};
use crate::Result;
use crate::tensor::Tensor;

/// PSNR of the BT.601 luma (studio range) of the images rounded to 8 bit, without `border` pixels at each side: the
/// factor, by the convention of super-resolution. Grey images are compared as they are.
///
/// # Shapes
/// Both `[n, 1 or 3, h, w]` in [-1, 1]; one value for each image.
///
/// # Errors
/// As [`psnr_rgb`](super::psnr_rgb()), and [`crate::Error::Config`] when there are neither 1 nor 3 channels or the
/// crop leaves nothing.
pub fn psnr_y(a: &Tensor<4>, b: &Tensor<4>, border: usize) -> Result<Vec<f64>> {
    for_each_pair(a, b, |a, b| Ok(psnr(&[luma(a)?.cropped(border)?], &[luma(b)?.cropped(border)?])))
}

/// [`psnr_y()`] against the truth, without the border of the case.
#[derive(Debug, Clone, Copy, Default)]
pub struct PsnrY;

impl Metric for PsnrY {
    fn name(&self) -> &str {
        "psnr_y"
    }

    fn describe(&self) -> &str {
        "0 dB to infinity; PSNR of the luma (BT.601, studio range) of the 8-bit images, without the border"
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
        check_same_shape(case.restored, truth)?;
        if !case.has_luma() {
            return Ok(None);
        }
        single(&psnr_y(case.restored, truth, case.border)?)
    }
}
