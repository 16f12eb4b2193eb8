//! Convolution with a known kernel: deblurring.
//!
//! Every boundary is the same two steps: extend the plane by the kernel's margins, then keep only
//! the sums whose kernel lies wholly inside. The transpose runs the two transposed steps backwards:
//! spread, then fold the margins back where they came from. So no boundary needs a special case, and
//! a kernel larger than the image is nothing special.

use std::convert::Infallible;
use std::sync::OnceLock;

use rustfft::num_complex::Complex64;

use super::boundary::Extension;
use super::convolve::{Convolution, Method};
use super::fft::Fft2d;
use super::{Boundary, ImageShape, Kernel, LinearOperator, host, norm};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// y = k * x, the convolution of each channel with a [`Kernel`].
///
/// y(i) = sum over j of k(j) x(i + c - j), with c the kernel's centre; for [`Boundary::Valid`]
/// y(i) = sum over j of k(j) x(i + size - 1 - j). Large kernels are convolved by FFT.
#[derive(Debug, Clone)]
pub struct Blur {
    domain: ImageShape,
    range: ImageShape,
    kernel: Kernel,
    boundary: Boundary,
    extension: Extension,
    convolution: Convolution,
    norm_squared: OnceLock<f64>,
}

impl Blur {
    /// The blur of images of shape `domain`.
    ///
    /// # Errors
    /// [`Error::Config`] when the shape is empty, or the boundary is valid and the kernel does not
    /// fit into the image.
    pub fn new(domain: ImageShape, kernel: Kernel, boundary: Boundary) -> Result<Self> {
        let method = Method::cheaper(&kernel, (domain.height, domain.width));
        Self::with_method(domain, kernel, boundary, method)
    }

    /// [`Blur::new`] by a given method.
    pub(super) fn with_method(domain: ImageShape, kernel: Kernel, boundary: Boundary, method: Method) -> Result<Self> {
        domain.check()?;
        let extension = Extension::new(domain, (kernel.height(), kernel.width()), boundary);
        let outer = extension.size();
        if outer.0 < kernel.height() || outer.1 < kernel.width() {
            return Err(Error::config(format!(
                "with the boundary valid, a kernel of {}x{} does not fit into an image of {}x{} (height x width)",
                kernel.height(),
                kernel.width(),
                domain.height,
                domain.width
            )));
        }
        let convolution = Convolution::new(outer, &kernel, method);
        let (height, width) = convolution.inner();
        let range = ImageShape { height, width, ..domain };
        Ok(Self { domain, range, kernel, boundary, extension, convolution, norm_squared: OnceLock::new() })
    }

    /// A x for planes of x, one after the other; `y` must be zero.
    fn forward(&self, x: &[f64], y: &mut [f64]) {
        let (height, width) = self.extension.size();
        let mut extended = vec![0.0; x.len() / self.domain.pixels() * height * width];
        for (x, extended) in x.chunks(self.domain.pixels()).zip(extended.chunks_mut(height * width)) {
            self.extension.extend(x, extended);
        }
        self.convolution.forward(&extended, y);
    }

    /// A^T y for planes of y, one after the other; `x` must be zero.
    fn transpose(&self, y: &[f64], x: &mut [f64]) {
        let (height, width) = self.extension.size();
        let mut extended = vec![0.0; x.len() / self.domain.pixels() * height * width];
        self.convolution.transpose(y, &mut extended);
        for (x, extended) in x.chunks_mut(self.domain.pixels()).zip(extended.chunks(height * width)) {
            self.extension.fold(extended, x);
        }
    }

    /// The norm of a circular blur, in closed form: max |FFT(k)|^2, with k wrapped onto the image.
    fn circular_norm_squared(&self) -> f64 {
        let ImageShape { height, width, .. } = self.domain;
        let mut wrapped = vec![Complex64::ZERO; height * width];
        for (i, weight) in self.kernel.weights().iter().enumerate() {
            let (row, column) = (i / self.kernel.width(), i % self.kernel.width());
            wrapped[row % height * width + column % width] += weight;
        }
        Fft2d::new(height, width).forward(wrapped).iter().map(Complex64::norm_sqr).fold(0.0, f64::max)
    }
}

impl LinearOperator for Blur {
    fn domain(&self) -> ImageShape {
        self.domain
    }

    fn range(&self) -> ImageShape {
        self.range
    }

    fn apply(&self, x: &Tensor<4>) -> Result<Tensor<4>> {
        host::map_images(x, self.domain, self.range, |x, y| self.forward(x, y))
    }

    fn adjoint(&self, y: &Tensor<4>) -> Result<Tensor<4>> {
        host::map_images(y, self.range, self.domain, |y, x| self.transpose(y, x))
    }

    /// In closed form for a circular blur; else found by iteration on one channel. Computed on the
    /// first call, then kept.
    fn norm_squared(&self) -> f64 {
        *self.norm_squared.get_or_init(|| {
            if self.boundary == Boundary::Circular {
                return self.circular_norm_squared();
            }
            let Ok::<_, Infallible>(norm_squared) = norm::largest_eigenvalue(self.domain.pixels(), |x| {
                let (mut y, mut out) = (vec![0.0; self.range.pixels()], vec![0.0; x.len()]);
                self.forward(x, &mut y);
                self.transpose(&y, &mut out);
                Ok(out)
            });
            norm_squared
        })
    }
}
