//! Convolution with a known kernel: deblurring.
//!
//! Every boundary is the same two steps: extend the plane by the kernel's margins, then keep only
//! the sums whose kernel lies wholly inside. The transpose runs the two transposed steps backwards:
//! spread, then fold the margins back where they came from. So no boundary needs a special case, and
//! a kernel larger than the image is nothing special.

use std::convert::Infallible;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use super::boundary::Extension;
use super::convolve::{Convolution, Method};
use super::in_window;
use super::{Boundary, Gram, ImageShape, Kernel, LinearOperator, Part, Window, host, norm};
use crate::compute::get_or_make;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// y = k * x, the convolution of each channel with a [`Kernel`].
///
/// y(i) = sum over j of k(j) x(i + c - j), with c the kernel's centre; for [`Boundary::Valid`]
/// y(i) = sum over j of k(j) x(i + size - 1 - j). Large kernels are convolved by FFT. With [`Boundary::Constant`] this is
/// the linear part, whose outside is 0.
#[derive(Debug, Clone)]
pub struct Blur {
    domain: ImageShape,
    range: ImageShape,
    kernel: Kernel,
    boundary: Boundary,
    extension: Extension,
    convolution: Convolution,
    norm_squared: OnceLock<f64>,
    gram: OnceLock<Option<Gram>>,
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
        Ok(Self {
            domain,
            range,
            kernel,
            boundary,
            extension,
            convolution,
            norm_squared: OnceLock::new(),
            gram: OnceLock::new(),
        })
    }

    /// A x for planes of x, one after the other; `y` must be zero.
    fn forward(&self, x: &[f64], y: &mut [f64]) {
        if self.boundary == Boundary::Valid {
            return self.convolution.forward(x, y);
        }
        let (height, width) = self.extension.size();
        let mut extended = vec![0.0; x.len() / self.domain.pixels() * height * width];
        for (x, extended) in x.chunks(self.domain.pixels()).zip(extended.chunks_mut(height * width)) {
            self.extension.extend(x, extended);
        }
        self.convolution.forward(&extended, y);
    }

    /// A^T y for planes of y, one after the other; `x` must be zero.
    fn transpose(&self, y: &[f64], x: &mut [f64]) {
        if self.boundary == Boundary::Valid {
            return self.convolution.transpose(y, x);
        }
        let (height, width) = self.extension.size();
        let mut extended = vec![0.0; x.len() / self.domain.pixels() * height * width];
        self.convolution.transpose(y, &mut extended);
        for (x, extended) in x.chunks_mut(self.domain.pixels()).zip(extended.chunks(height * width)) {
            self.extension.fold(extended, x);
        }
    }
}

impl Blur {
    fn iterated_norm(&self) -> f64 {
        let Ok::<_, Infallible>(norm_squared) = norm::largest_eigenvalue(self.domain.pixels(), |x| {
            let (mut y, mut out) = (vec![0.0; self.range.pixels()], vec![0.0; x.len()]);
            self.forward(x, &mut y);
            self.transpose(&y, &mut out);
            Ok(out)
        });
        norm_squared
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

    fn apply_gram(&self, u: &Tensor<4>) -> Result<Tensor<4>> {
        host::map_images(u, self.range, self.range, |u, image| {
            let mut x = vec![0.0; self.domain.elements()];
            self.transpose(u, &mut x);
            self.forward(&x, image);
        })
    }

    /// In closed form where [`LinearOperator::gram`] is exact; else found by iteration on one channel. For an image of
    /// more than 128 x 128 pixels, the iteration runs on a smaller one, whose borders are as strong, and the spectrum of
    /// the kernel says how strong the rest is. Computed on the first call, then kept.
    fn norm_squared(&self) -> f64 {
        *get_or_make(&self.norm_squared, || {
            if let Some(gram) = self.exact_gram() {
                return gram.largest();
            }
            if self.domain.pixels() <= norm::MOST_ITERATED {
                return self.iterated_norm();
            }
            let plane = ImageShape { channels: 1, ..self.range };
            let inner = Gram::circular(plane, &self.kernel).largest();
            // Nothing, and one level, beyond the border add no light.
            if matches!(self.boundary, Boundary::Valid | Boundary::Constant(_)) {
                return inner;
            }
            let side = |side: usize, kernel: usize| side.min((3 * kernel).max(64));
            let small = ImageShape {
                channels: 1,
                height: side(self.domain.height, self.kernel.height()),
                width: side(self.domain.width, self.kernel.width()),
            };
            let at_borders = Self::new(small, self.kernel.clone(), self.boundary).map(|blur| blur.iterated_norm());
            at_borders.map_or(inner, |at_borders| at_borders.max(inner))
        })
    }

    /// Exact for a circular blur, and for a mirrored one by a kernel with both symmetries. Near for the others by a
    /// kernel that is small beside y: away from the border, A A^T is a convolution. Of the two bases the mirrored one is
    /// nearer, because no border of y meets the opposite one.
    fn gram(&self) -> Option<Gram> {
        let gram = || match self.boundary {
            Boundary::Circular => Some(Gram::circular(self.range, &self.kernel)),
            Boundary::Reflect if self.kernel.is_symmetric() => Some(Gram::mirrored(self.range, &self.kernel)),
            Boundary::Reflect
            | Boundary::Reflect101
            | Boundary::Replicate
            | Boundary::Constant(_)
            | Boundary::Valid => {
                let small =
                    2 * self.kernel.height() <= self.range.height && 2 * self.kernel.width() <= self.range.width;
                let near = if self.kernel.is_symmetric() { Gram::mirrored } else { Gram::circular };
                small.then(|| near(self.range, &self.kernel).approximate())
            }
        };
        get_or_make(&self.gram, gram).clone()
    }

    /// For a valid blur, by the rectangle that the kernel's weights fill.
    fn seen_within(&self, window: Window) -> Option<Window> {
        if self.boundary != Boundary::Valid {
            return None;
        }
        let [rows, columns] = self.kernel.support(in_window::NOTHING / 4.0);
        // Value i depends on lines i + size - 1 - j for the lines j of the kernel.
        let along = |first: usize, count: usize, size: usize, support: Range<usize>, most: usize| {
            let (nearest, farthest) = (size - support.end, size - 1 - support.start);
            let from = first.saturating_sub(nearest);
            let to = (first + count).saturating_sub(farthest).min(most);
            (from, to.saturating_sub(from))
        };
        let (top, height) = along(window.top, window.height, self.kernel.height(), rows, self.range.height);
        let (left, width) = along(window.left, window.width, self.kernel.width(), columns, self.range.width);
        Some(Window { top, left, height, width })
    }

    /// A valid blur keeps what a circular one makes of the inner pixels.
    fn part_of(&self) -> Option<Part> {
        if self.boundary != Boundary::Valid {
            return None;
        }
        let whole = Self::new(self.domain, self.kernel.clone(), Boundary::Circular).ok()?;
        let before = |side: usize| side - 1 - side / 2;
        let window = Window {
            top: before(self.kernel.height()),
            left: before(self.kernel.width()),
            height: self.range.height,
            width: self.range.width,
        };
        Some(Part { whole: Arc::new(whole), window, seen: None })
    }
}
