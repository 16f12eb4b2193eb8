//! Known and unknown pixels: inpainting.
//!
//! y keeps the size of x and is zero (mid-grey) where nothing is known, so the operator is a
//! diagonal of zeros and ones and its own transpose.

use super::{Gram, ImageShape, LinearOperator, host};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Which pixels of an image are known; the same for every channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    height: usize,
    width: usize,
    known: Vec<bool>,
}

impl Mask {
    /// A mask from row-major flags, true where the pixel is known.
    ///
    /// # Errors
    /// [`Error::Config`] when the number of flags is not `height * width`, or when no pixel is known.
    pub fn new(height: usize, width: usize, known: Vec<bool>) -> Result<Self> {
        if height.checked_mul(width) != Some(known.len()) {
            return Err(Error::config(format!(
                "a mask of {height}x{width} pixels needs {height} * {width} values, found {}",
                known.len()
            )));
        }
        if !known.contains(&true) {
            return Err(Error::config(format!("the mask marks all {height}x{width} pixels as unknown")));
        }
        Ok(Self { height, width, known })
    }

    /// Height in pixels.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Width in pixels.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Whether every pixel is known.
    pub fn marks_nothing(&self) -> bool {
        self.known.iter().all(|known| *known)
    }

    /// The pixels that are known by both masks.
    ///
    /// # Errors
    /// [`Error::Config`] when the sizes differ, or no pixel is known by both.
    pub fn and(&self, other: &Self) -> Result<Self> {
        if (self.height, self.width) != (other.height, other.width) {
            return Err(Error::config(format!(
                "a mask has {}x{} pixels, another {}x{} (height x width)",
                self.height, self.width, other.height, other.width
            )));
        }
        let known = self.known.iter().zip(&other.known).map(|(a, b)| *a && *b).collect();
        Self::new(self.height, self.width, known)
    }

    /// Row-major flags, true where the pixel is known.
    pub fn known(&self) -> &[bool] {
        &self.known
    }
}

impl Mask {
    /// The images, `[n, c, h, w]` of its size, with 0 where a pixel is not known.
    ///
    /// # Errors
    /// [`Error::Config`] when they have another size.
    pub fn keep(&self, images: &Tensor<4>) -> Result<Tensor<4>> {
        let shape = ImageShape::of_batch(images);
        if (shape.height, shape.width) != (self.height, self.width) {
            return Err(Error::config(format!(
                "a mask of {}x{} pixels does not fit images of {}x{} (height x width)",
                self.height, self.width, shape.height, shape.width
            )));
        }
        host::map_planes(images, shape, shape, |from, to| {
            for ((to, from), known) in to.iter_mut().zip(from).zip(&self.known) {
                if *known {
                    *to = *from;
                }
            }
        })
    }
}

/// y = m * x, pixel by pixel, with m = 1 where the mask says that the pixel is known and else 0.
#[derive(Debug, Clone)]
pub struct PixelMask {
    domain: ImageShape,
    mask: Mask,
}

impl PixelMask {
    /// The mask as an operator on images of shape `domain`.
    ///
    /// # Errors
    /// [`Error::Config`] when the shape is empty or the mask has another size.
    pub fn new(domain: ImageShape, mask: Mask) -> Result<Self> {
        domain.check()?;
        if (mask.height, mask.width) != (domain.height, domain.width) {
            return Err(Error::config(format!(
                "the mask has {}x{} pixels, the image {}x{} (height x width)",
                mask.height, mask.width, domain.height, domain.width
            )));
        }
        Ok(Self { domain, mask })
    }
}

impl LinearOperator for PixelMask {
    fn domain(&self) -> ImageShape {
        self.domain
    }

    fn range(&self) -> ImageShape {
        self.domain
    }

    fn apply(&self, x: &Tensor<4>) -> Result<Tensor<4>> {
        host::check_shape(x, self.domain)?;
        self.mask.keep(x)
    }

    fn adjoint(&self, y: &Tensor<4>) -> Result<Tensor<4>> {
        self.apply(y)
    }

    fn norm_squared(&self) -> f64 {
        1.0
    }

    fn gram(&self) -> Option<Gram> {
        Some(Gram::pixels(self.domain, &self.mask.known))
    }

    fn observed(&self) -> Option<&[bool]> {
        Some(&self.mask.known)
    }
}
