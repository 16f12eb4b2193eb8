//! An operator on a part of its images.

use std::sync::{Arc, OnceLock};

use super::{ImageShape, LinearOperator, Window, norm};
use crate::compute::get_or_make;
use crate::tensor::{self, DType, Tensor};
use crate::{Error, Result};

/// What rounding may leave of a zero in f64.
pub(super) const NOTHING: f64 = 1e-9;

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
        let ImageShape { width, .. } = inner.range();
        let mut observed = match inner.seen_within(window) {
            Some(seen) => (0..inner.range().pixels()).map(|i| seen.contains(i / width, i % width)).collect(),
            None => seen_within(inner.as_ref(), window)?,
        };
        for (observed, by_inner) in observed.iter_mut().zip(inner.observed().into_iter().flatten()) {
            *observed &= by_inner;
        }
        if !observed.contains(&true) {
            return Err(Error::config(
                "every value of the observation depends on pixels that the result does not hold: keep them with --keep-margin, \
                 or give a --boundary other than valid",
            ));
        }
        Ok(Self { inner, window, domain, observed, norm_squared: OnceLock::new() })
    }
}

/// The pixels of y that depend on nothing outside `window`, by what A makes of an image of ones there.
fn seen_within(a: &dyn LinearOperator, window: Window) -> Result<Vec<bool>> {
    let (domain, pixels) = (a.domain(), a.range().pixels());
    let inside = Tensor::zeros([1, domain.channels, window.height, window.width], (&tensor::cpu(), DType::F64));
    let outside = tensor::to_f64(&a.apply(&place(domain, window, inside, 1.0))?)?;
    Ok((0..pixels).map(|i| outside.iter().skip(i).step_by(pixels).all(|v| v.abs() < NOTHING)).collect())
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
        *get_or_make(&self.norm_squared, || {
            norm::iterated_norm_squared(self).unwrap_or_else(|_| self.inner.norm_squared())
        })
    }

    fn observed(&self) -> Option<&[bool]> {
        Some(&self.observed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::{BicubicDownsample, Blur, Boundary, Compose, Grayscale, Kernel, PixelMask};

    /// What operators say of windows is what they do with what lies around: all that is seen where kernels fill their
    /// rectangle.
    #[test]
    fn windows_of_y_depend_on_nothing_around_those_of_x() {
        let shape = ImageShape::new(3, 23, 29);
        let valid =
            |kernel| -> Arc<dyn LinearOperator> { Arc::new(Blur::new(shape, kernel, Boundary::Valid).unwrap()) };
        let boxed = valid(Kernel::boxed(5).unwrap());
        let shrunk = Arc::new(BicubicDownsample::new(boxed.range(), 2).unwrap());
        let padded: Vec<f64> = (0..35).map(|i| if i % 7 < 2 || i < 7 { 0.0 } else { 1.0 }).collect();
        let all: [(Arc<dyn LinearOperator>, bool); 6] = [
            (boxed.clone(), true),
            (valid(Kernel::from_values(5, 7, padded).unwrap()), true),
            (Arc::new(BicubicDownsample::new(shape, 3).unwrap()), true),
            (Arc::new(Compose::new(vec![boxed, shrunk]).unwrap()), true),
            (Arc::new(Grayscale::new(shape).unwrap()), true),
            (valid(Kernel::motion(7.0, 30.0).unwrap()), false),
        ];
        for (operator, exact) in all {
            for (top, left, height, width) in
                [(0, 0, 23, 29), (2, 2, 19, 25), (4, 1, 15, 20), (3, 3, 3, 3), (20, 5, 3, 9)]
            {
                let window = Window { top, left, height, width };
                let seen = operator.seen_within(window).unwrap();
                let ImageShape { height, width, .. } = operator.range();
                let found = (0..height * width).map(|i| seen.contains(i / width, i % width));
                let expected = seen_within(operator.as_ref(), window).unwrap();
                for (i, (found, expected)) in found.zip(expected).enumerate() {
                    assert!(found == expected || (!exact && expected), "{operator:?}: {window:?}, pixel {i}");
                }
            }
        }
        let mask = PixelMask::new(shape, crate::operator::Mask::new(23, 29, vec![true; 23 * 29]).unwrap()).unwrap();
        assert!(mask.seen_within(Window::whole(shape)).is_none());
    }
}
