//! Bicubic resizing as MATLAB's imresize does it: the degradation of super-resolution, and the
//! interpolation that is its baseline.
//!
//! Keys' kernel with a = -1/2, widened when shrinking (anti-aliasing), symmetric extension at the
//! border. Nothing is rounded or clipped. Where the factor divides the size, up-sampling is the factor
//! squared times the transpose of down-sampling, border included.

use std::sync::OnceLock;

use super::resample::{Separable, SparseMatrix};
use super::{Gram, ImageShape, LinearOperator, Window, host};
use crate::compute::get_or_make;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Largest factor of [`BicubicDownsample`] and [`bicubic_upsample`].
pub const MAX_FACTOR: usize = 16;

/// y = x shrunk by an integer factor: super-resolution.
///
/// The sides of y are those of x divided by the factor, rounded up where it does not divide them.
#[derive(Debug, Clone)]
pub struct BicubicDownsample {
    domain: ImageShape,
    range: ImageShape,
    forward: Separable,
    transpose: Separable,
    norm_squared: OnceLock<f64>,
    /// Whether the factor divides both sides.
    divides: bool,
    gram: OnceLock<Gram>,
}

impl BicubicDownsample {
    /// Down-sampling of images of shape `domain` by `factor` (2 to [`MAX_FACTOR`]).
    ///
    /// # Errors
    /// [`Error::Config`] when the factor is out of range or the shape is empty.
    pub fn new(domain: ImageShape, factor: usize) -> Result<Self> {
        check_factor(factor)?;
        domain.check()?;
        let scale = 1.0 / factor as f64;
        let (height, width) = (domain.height.div_ceil(factor), domain.width.div_ceil(factor));
        let forward = Separable {
            vertical: SparseMatrix::bicubic(domain.height, height, scale),
            horizontal: SparseMatrix::bicubic(domain.width, width, scale),
        };
        let transpose = forward.transposed();
        let range = ImageShape { height, width, ..domain };
        let divides = domain.height.is_multiple_of(factor) && domain.width.is_multiple_of(factor);
        Ok(Self { domain, range, forward, transpose, norm_squared: OnceLock::new(), divides, gram: OnceLock::new() })
    }
}

impl LinearOperator for BicubicDownsample {
    fn domain(&self) -> ImageShape {
        self.domain
    }

    fn range(&self) -> ImageShape {
        self.range
    }

    fn apply(&self, x: &Tensor<4>) -> Result<Tensor<4>> {
        host::map_planes(x, self.domain, self.range, |x, y| self.forward.map(x, y))
    }

    fn adjoint(&self, y: &Tensor<4>) -> Result<Tensor<4>> {
        host::map_planes(y, self.range, self.domain, |y, x| self.transpose.map(y, x))
    }

    /// The product over the two axes, each found by iteration on the first call: 1 / factor^2 where
    /// the factor divides both sides, up to 3.6 times that where it does not.
    fn norm_squared(&self) -> f64 {
        *get_or_make(&self.norm_squared, || {
            self.forward.vertical.norm_squared() * self.forward.horizontal.norm_squared()
        })
    }

    fn seen_within(&self, window: Window) -> Option<Window> {
        let rows = self.forward.vertical.rows_within(window.top..window.top + window.height);
        let columns = self.forward.horizontal.rows_within(window.left..window.left + window.width);
        Some(Window { top: rows.start, left: columns.start, height: rows.len(), width: columns.len() })
    }

    /// Where the factor divides both sides, rows commute with mirroring, and cosines are the eigenvectors.
    fn gram(&self) -> Option<Gram> {
        if !self.divides {
            return None;
        }
        let (forward, transpose) = (&self.forward, &self.transpose);
        let gram = get_or_make(&self.gram, || {
            let vertical = forward.vertical.gram_column(&transpose.vertical);
            Gram::separable(self.range, &vertical, &forward.horizontal.gram_column(&transpose.horizontal))
        });
        Some(gram.clone())
    }
}

/// Enlarges by an integer factor (2 to [`MAX_FACTOR`]): the bicubic baseline of super-resolution.
///
/// # Shapes
/// `[n, c, h, w]` to `[n, c, factor h, factor w]`.
///
/// # Errors
/// [`Error::Config`] when the factor is out of range.
pub fn bicubic_upsample(y: &Tensor<4>, factor: usize) -> Result<Tensor<4>> {
    check_factor(factor)?;
    let from = ImageShape::of_batch(y);
    bicubic_resize(y, from.height.saturating_mul(factor), from.width.saturating_mul(factor))
}

/// Resizes to any size; shrinking is anti-aliased, each axis by itself.
///
/// # Shapes
/// `[n, c, h, w]` to `[n, c, height, width]`.
///
/// # Errors
/// [`Error::Config`] when the result would be empty or too large to count.
pub fn bicubic_resize(x: &Tensor<4>, height: usize, width: usize) -> Result<Tensor<4>> {
    let from = ImageShape::of_batch(x);
    let to = ImageShape { height, width, ..from };
    from.check()?;
    to.check()?;
    let map = Separable {
        vertical: SparseMatrix::bicubic(from.height, height, height as f64 / from.height as f64),
        horizontal: SparseMatrix::bicubic(from.width, width, width as f64 / from.width as f64),
    };
    host::map_planes(x, from, to, |x, y| map.map(x, y))
}

fn check_factor(factor: usize) -> Result<()> {
    if (2..=MAX_FACTOR).contains(&factor) {
        Ok(())
    } else {
        Err(Error::config(format!("the factor of super-resolution must be 2 to {MAX_FACTOR}, found {factor}")))
    }
}
