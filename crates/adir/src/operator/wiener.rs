//! The Wiener filter, the classical way to undo a blur: what a restoration is compared with.

use rustfft::num_complex::Complex64;

use super::fft::Fft2d;
use super::{ImageShape, LinearOperator};
use crate::tensor::{self, Tensor};
use crate::{Error, Result};

/// conj(H) Y / (|H|^2 + ratio f^2), plane by plane, H the transfer function of `blur` and f the frequency in tenths of
/// a cycle per pixel: the least mean squared error for images whose power falls as 1 / f^2, as that of photographs
/// does. `ratio` is the power of the noise over that of the image at f = 1.
///
/// # Shapes
/// `y` is `[n, c, h, w]`, of the range of `blur`, which must be a circular convolution and so keeps the shape.
///
/// # Errors
/// [`Error::Config`] when the shapes do not fit or the ratio is not above 0; the operator's own.
pub fn wiener(blur: &dyn LinearOperator, y: &Tensor<4>, ratio: f64) -> Result<Tensor<4>> {
    let (domain, [n, channels, height, width]) = (blur.domain(), y.dims());
    if blur.range() != domain || domain != ImageShape::of_batch(y) {
        return Err(Error::config(format!(
            "the Wiener filter is for images of {domain}, found {}",
            ImageShape::of_batch(y)
        )));
    }
    if !(ratio > 0.0 && ratio.is_finite()) {
        return Err(Error::config(format!("the ratio of the Wiener filter is {ratio}, expected more than 0")));
    }
    let fft = Fft2d::new(height, width);
    let complex = |plane: &[f64]| plane.iter().map(|v| Complex64::new(*v, 0.0)).collect::<Vec<_>>();
    let mut impulse = vec![0.0; domain.elements()];
    impulse[0] = 1.0;
    let impulse = tensor::from_f64(impulse, [1, channels, height, width], &y.device());
    let transfer = fft.forward(complex(&tensor::to_f64(&blur.apply(&impulse)?)?[..height * width]));
    let frequency = |k: usize, side: usize| k.min(side - k) as f64 / side as f64 * 10.0;
    let mut filter = transfer;
    // The spectrum is kept column by column.
    for (i, h) in filter.iter_mut().enumerate() {
        let f2 = frequency(i / height, width).powi(2) + frequency(i % height, height).powi(2);
        let power = h.norm_sqr() + ratio * f2;
        *h = if power > 0.0 { h.conj() / power } else { Complex64::ZERO };
    }
    let mut out = Vec::with_capacity(n * domain.elements());
    for plane in tensor::to_f64(y)?.chunks_exact(height * width) {
        let spectrum = fft.forward(complex(plane)).iter().zip(&filter).map(|(y, f)| y * f).collect();
        out.extend(fft.inverse(spectrum).iter().map(|v| v.re));
    }
    Ok(tensor::from_f64(out, [n, channels, height, width], &y.device()).cast(y.dtype()))
}
