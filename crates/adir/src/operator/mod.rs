//! Degradations: a linear operator A and its exact transpose.
//!
//! An operator maps images to images and knows no diffusion. Operators compute on the host in f64, whatever the
//! tensor's precision and device, and round once at the end. An image is small beside a network pass, each operator is
//! written once, the tests of the
//! transpose are exact, and results depend on no device and no thread count. The price: a result
//! carries no gradient. If a gradient through A is needed, the transpose gives it in closed form.
//!
//! [`Degradation`] is the data from which operators are built, [`dot_test`] checks that a transpose
//! is one, and [`normalized_adjoint`] is the A* of the guidance.

mod blur;
mod boundary;
mod compose;
mod convolve;
mod crop;
mod dct;
mod degradation;
mod detail;
mod dot_test;
mod fft;
mod gram;
mod grayscale;
mod host;
mod identity;
mod in_window;
mod kernel;
mod kernel_centre;
mod kernel_spec;
mod kernel_text;
mod mask;
mod masked;
mod norm;
mod real_fft;
mod resample;
mod resize;
mod solve;
mod spectrum;
#[cfg(test)]
mod tests;
mod waves;
mod weighted;
mod wiener;
mod wraps;

use std::fmt::{Debug, Display, Formatter};

pub use blur::Blur;
pub use boundary::Boundary;
pub use compose::Compose;
pub use crop::Crop;
pub use degradation::Degradation;
pub(crate) use detail::detail_left;
pub use dot_test::{dot_test, dot_test_f32};
pub use gram::Gram;
pub use grayscale::Grayscale;
pub use identity::Identity;
pub use in_window::InWindow;
pub use kernel::Kernel;
pub use kernel_centre::KernelCentre;
pub use kernel_spec::KernelSpec;
pub use kernel_text::{Rows, read_rows};
pub use mask::{Mask, PixelMask};
pub use masked::Masked;
pub use norm::{iterated_norm_squared, normalized_adjoint};
pub use resize::{BicubicDownsample, MAX_FACTOR, bicubic_resize, bicubic_upsample};
pub use solve::{Solve, least_damping, solve};
pub use spectrum::{Part, Spectrum};
pub use weighted::Weighted;
pub use wiener::wiener;
pub use wraps::wraps_around;

use crate::tensor::Tensor;
use crate::{Error, Result};

/// Size of an image without its batch dimension: channels, height, width.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ImageShape {
    /// Number of colour channels.
    pub channels: usize,
    /// Height in pixels.
    pub height: usize,
    /// Width in pixels.
    pub width: usize,
}

impl ImageShape {
    /// The shape of `channels` planes of `height` x `width` pixels.
    pub const fn new(channels: usize, height: usize, width: usize) -> Self {
        Self { channels, height, width }
    }

    /// Shape of the images in a batch `[n, c, h, w]`.
    pub fn of_batch(batch: &Tensor<4>) -> Self {
        let [_, channels, height, width] = batch.dims();
        Self { channels, height, width }
    }

    /// Pixels of one plane.
    pub const fn pixels(&self) -> usize {
        self.height * self.width
    }

    /// Values of one image: pixels times channels.
    pub const fn elements(&self) -> usize {
        self.channels * self.pixels()
    }

    /// Checks that every side is at least 1 and that the number of values fits into a `usize`.
    ///
    /// # Errors
    /// [`Error::Config`] otherwise. Every operator's constructor asks this of its domain.
    pub fn check(&self) -> Result<()> {
        let elements = self.channels.checked_mul(self.height).and_then(|n| n.checked_mul(self.width));
        match elements {
            None => Err(Error::config(format!("an image of {self} is too large"))),
            Some(0) => Err(Error::config(format!("an image of {self} is empty: every side must be at least 1"))),
            Some(_) => Ok(()),
        }
    }
}

impl Display for ImageShape {
    /// `3x256x320`: channels, height, width.
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}x{}", self.channels, self.height, self.width)
    }
}

/// y = A x (Eq. 1): a linear degradation.
///
/// Takes batches of any size; results have the device and precision of the argument.
pub trait LinearOperator: Debug + Send + Sync {
    /// Shape of x.
    fn domain(&self) -> ImageShape;
    /// Shape of y.
    fn range(&self) -> ImageShape;
    /// A x: `[n, domain]` to `[n, range]`.
    ///
    /// # Errors
    /// [`crate::Error::Config`] when the shape of `x` is not the domain's.
    fn apply(&self, x: &Tensor<4>) -> Result<Tensor<4>>;
    /// A^T y, the exact transpose (not a pseudo-inverse, not an up-sampler): `[n, range]` to `[n, domain]`.
    ///
    /// # Errors
    /// [`crate::Error::Config`] when the shape of `y` is not the range's.
    fn adjoint(&self, y: &Tensor<4>) -> Result<Tensor<4>>;
    /// A A^T u: `[n, range]` to itself. The default takes one after the other.
    ///
    /// # Errors
    /// [`crate::Error::Config`] when the shape of `u` is not the range's.
    fn apply_gram(&self, u: &Tensor<4>) -> Result<Tensor<4>> {
        self.apply(&self.adjoint(u)?)
    }
    /// Largest eigenvalue of A^T A.
    fn norm_squared(&self) -> f64;
    /// A A^T by its eigenvalues, where its eigenvectors are known, exactly or nearly. `None`, the default, leaves
    /// systems of A to conjugate gradients, and the noise of a step without regard to that of y.
    fn gram(&self) -> Option<Gram> {
        None
    }
    /// [`LinearOperator::gram`], where it is exact.
    fn exact_gram(&self) -> Option<Gram> {
        self.gram().filter(Gram::is_exact)
    }
    /// The operator, with an exact [`LinearOperator::exact_gram`], of whose values this one keeps a part. `None`, the
    /// default, where there is none or A's own A A^T is exact.
    fn part_of(&self) -> Option<Part> {
        None
    }
    /// The pixels of y that depend on no pixel of x outside `window`, where they are known to be a window of their own. `None`,
    /// the default, leaves it to be found by applying A. A window without rows or columns says that there are none.
    fn seen_within(&self, _window: Window) -> Option<Window> {
        None
    }
    /// Which pixels of y carry information: row-major flags, one for each pixel of the range, the same for every
    /// channel. `None`, the default, means all of them. Where a flag is false the row of A is zero, and what y holds
    /// there was not measured.
    fn observed(&self) -> Option<&[bool]> {
        None
    }
}

/// A rectangle of an image, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// First row.
    pub top: usize,
    /// First column.
    pub left: usize,
    /// Number of rows.
    pub height: usize,
    /// Number of columns.
    pub width: usize,
}

impl Window {
    /// All of an image.
    pub const fn whole(shape: ImageShape) -> Self {
        Self { top: 0, left: 0, height: shape.height, width: shape.width }
    }

    /// Whether a pixel lies in it.
    pub const fn contains(&self, row: usize, column: usize) -> bool {
        row >= self.top && row - self.top < self.height && column >= self.left && column - self.left < self.width
    }

    /// That part of every image of a batch, `[n, c, height, width]`.
    ///
    /// # Panics
    /// If the images are smaller than the window reaches.
    pub fn cut(&self, images: &Tensor<4>) -> Tensor<4> {
        images.clone().narrow(2, self.top, self.height).narrow(3, self.left, self.width)
    }
}
