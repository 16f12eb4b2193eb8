//! An operator on a part of its images.

use std::sync::{Arc, OnceLock};

use super::{ImageShape, LinearOperator, Window, norm};
use crate::tensor::{self, DType, Tensor};
use crate::{Error, Result};

/// What rounding may leave of a zero in f64.
const NOTHING: f64 = 1e-9;

/// y = A x, where x is only a window of A's domain and zero around it. Values of y that depend on what lies around the
/// window are not [observed](LinearOperator::observed), nor are those that A does not observe.
///
/// This is how a result that was cut to the size of y is compared with y after a valid blur.
#[derive(Debug, Clone)]
pub struct InWindow {
    inner: Arc<dyn LinearOperator>,
    window: Window,
    domain: ImageShape,
    observed: Vec<bool>,
    norm_squared: OnceLock<f64>,
}

impl InWindow {
    /// `inner` on the part `window` of its domain.
    ///
    /// # Errors
    /// [`Error::Config`] when the window is empty or reaches beyond the domain, or every value of y depends on what lies
    /// around it; those of `inner`.
    pub fn new(inner: Arc<dyn LinearOperator>, window: Window) -> Result<Self> {
        let whole = inner.domain();
        let domain = ImageShape { height: window.height, width: window.width, ..whole };
        domain.check()?;
        if window.top + window.height > whole.height || window.left + window.width > whole.width {
            return Err(Error::config(format!("an image of {whole} has no window {window:?}")));
        }
        let inside = Tensor::zeros([1, whole.channels, window.height, window.width], (&tensor::cpu(), DType::F64));
        let outside = tensor::to_f64(&inner.apply(&place(whole, window, inside, 1.0))?)?;
        let pixels = inner.range().pixels();
        let by_inner = inner.observed();
        let observed: Vec<bool> = (0..pixels)
            .map(|i| {
                by_inner.is_none_or(|observed| observed[i])
                    && outside.iter().skip(i).step_by(pixels).all(|v| v.abs() < NOTHING)
            })
            .collect();
        if !observed.contains(&true) {
            return Err(Error::config(
                "every value of the observation depends on pixels that the result does not hold",
            ));
        }
        Ok(Self { inner, window, domain, observed, norm_squared: OnceLock::new() })
    }
}

/// `inside` as the window of images of shape `whole`, with `around` in the rest.
fn place(whole: ImageShape, window: Window, inside: Tensor<4>, around: f64) -> Tensor<4> {
    let [n, c, h, w] = inside.dims();
    let image = Tensor::full([n, c, whole.height, whole.width], around, (&inside.device(), inside.dtype()));
    image.slice_assign([0..n, 0..c, window.top..window.top + h, window.left..window.left + w], inside)
}

impl LinearOperator for InWindow {
    fn domain(&self) -> ImageShape {
        self.domain
    }

    fn range(&self) -> ImageShape {
        self.inner.range()
    }

    fn apply(&self, x: &Tensor<4>) -> Result<Tensor<4>> {
        super::host::check_shape(x, self.domain)?;
        self.inner.apply(&place(self.inner.domain(), self.window, x.clone(), 0.0))
    }

    fn adjoint(&self, y: &Tensor<4>) -> Result<Tensor<4>> {
        Ok(self.window.cut(&self.inner.adjoint(y)?))
    }

    /// Found by iteration on the first call, then kept. Should A fail on a valid input, this is its norm, which is never
    /// too small.
    fn norm_squared(&self) -> f64 {
        *self
            .norm_squared
            .get_or_init(|| norm::iterated_norm_squared(self).unwrap_or_else(|_| self.inner.norm_squared()))
    }

    fn observed(&self) -> Option<&[bool]> {
        Some(&self.observed)
    }
}
