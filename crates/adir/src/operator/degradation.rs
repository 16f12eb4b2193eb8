//! Degradations as data: what a configuration file or a command line says, before the image's size
//! is known.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    BicubicDownsample, Blur, Boundary, Compose, Grayscale, Identity, ImageShape, KernelSpec, LinearOperator, Mask,
    PixelMask, Window,
};
use crate::tensor::{DType, Tensor, cpu};
use crate::{Error, Result};

/// A degradation. Builds the operator for an image of any size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Degradation {
    /// Noise alone: [`Identity`].
    Identity,
    /// Shrunk by an integer factor: [`BicubicDownsample`].
    SuperResolution {
        /// The factor, 2 to 16.
        factor: usize,
    },
    /// Convolved: [`Blur`].
    Blur {
        /// The point-spread function.
        kernel: KernelSpec,
        /// What lies beyond the border; circular by default.
        #[serde(default)]
        boundary: Boundary,
    },
    /// Some pixels are missing: [`PixelMask`]. The mask, which is an image, is given apart.
    Inpaint,
    /// The colours are lost: [`Grayscale`].
    Grayscale,
    /// One degradation after another, the first of the list first: [`super::Compose`].
    Compose(Vec<Degradation>),
}

impl Degradation {
    /// The operator on images of shape `domain`. `mask` is the mask of the [`Degradation::Inpaint`]
    /// in it, if there is one.
    ///
    /// # Errors
    /// [`Error::Config`] when a parameter is out of range or does not fit the image, a mask is
    /// missing, or a mask is given but not needed.
    pub fn build(&self, domain: ImageShape, mask: Option<&Mask>) -> Result<Arc<dyn LinearOperator>> {
        if mask.is_some() && !self.needs_mask() {
            return Err(Error::config("this degradation takes no mask"));
        }
        self.build_stage(domain, mask)
    }

    fn build_stage(&self, domain: ImageShape, mask: Option<&Mask>) -> Result<Arc<dyn LinearOperator>> {
        Ok(match self {
            Self::Identity => Arc::new(Identity::new(domain)?),
            Self::SuperResolution { factor } => Arc::new(BicubicDownsample::new(domain, *factor)?),
            Self::Blur { kernel, boundary } => Arc::new(Blur::new(domain, kernel.build()?, *boundary)?),
            Self::Inpaint => {
                let mask = mask.ok_or_else(|| Error::config("inpainting needs a mask"))?;
                Arc::new(PixelMask::new(domain, mask.clone())?)
            }
            Self::Grayscale => Arc::new(Grayscale::new(domain)?),
            Self::Compose(stages) => {
                let mut operators: Vec<Arc<dyn LinearOperator>> = Vec::with_capacity(stages.len());
                for stage in stages {
                    let domain = operators.last().map_or(domain, |before| before.range());
                    operators.push(stage.build_stage(domain, mask)?);
                }
                Arc::new(Compose::new(operators)?)
            }
        })
    }

    /// What y has besides A x, `[1, range]` for images of shape `domain`: what a blur sees of a boundary of one grey level.
    /// `None` where it is nothing.
    ///
    /// # Errors
    /// As [`Degradation::build`], and those of the operators.
    pub fn offset(&self, domain: ImageShape, mask: Option<&Mask>) -> Result<Option<Tensor<4>>> {
        match self {
            Self::Blur { boundary, .. } => {
                let Some(outside) = boundary.outside().filter(|outside| *outside != 0.0) else { return Ok(None) };
                let ImageShape { channels, height, width } = domain;
                let ones = Tensor::ones([1, channels, height, width], (&cpu(), DType::F64));
                // Weights sum to one: what does not fall inside falls outside.
                let inside = self.build_stage(domain, mask)?.apply(&ones)?;
                Ok(Some((ones - inside).mul_scalar(outside)))
            }
            Self::Compose(stages) => {
                let (mut domain, mut offset) = (domain, None::<Tensor<4>>);
                for stage in stages {
                    let operator = stage.build_stage(domain, mask)?;
                    let before = offset.map(|offset| operator.apply(&offset)).transpose()?;
                    offset = match (before, stage.offset(domain, mask)?) {
                        (Some(a), Some(b)) => Some(a + b),
                        (a, b) => a.or(b),
                    };
                    domain = operator.range();
                }
                Ok(offset)
            }
            Self::Identity | Self::SuperResolution { .. } | Self::Inpaint | Self::Grayscale => Ok(None),
        }
    }

    /// Whether [`Degradation::build`] needs a mask.
    pub fn needs_mask(&self) -> bool {
        match self {
            Self::Inpaint => true,
            Self::Compose(stages) => stages.iter().any(Self::needs_mask),
            _ => false,
        }
    }

    /// The part of the restored image that a degraded image of shape `range` shows: all of it, but for the margin
    /// that a valid blur sees beyond the border of y.
    ///
    /// # Errors
    /// As [`Degradation::domain_for_range`].
    pub fn window_for_range(&self, range: ImageShape) -> Result<Window> {
        self.domain_for_range(range)?;
        self.window(range, Window::whole(range))
    }

    /// The window of this degradation's domain that becomes `shown` of its range.
    fn window(&self, range: ImageShape, shown: Window) -> Result<Window> {
        Ok(match self {
            Self::SuperResolution { factor } => Window {
                top: shown.top * factor,
                left: shown.left * factor,
                height: shown.height * factor,
                width: shown.width * factor,
            },
            Self::Blur { kernel, boundary: Boundary::Valid } => {
                let kernel = kernel.build()?;
                // Where the kernel's centre lies for the first value of y.
                let before = |side: usize| side - 1 - side / 2;
                Window { top: shown.top + before(kernel.height()), left: shown.left + before(kernel.width()), ..shown }
            }
            Self::Compose(stages) => {
                let (mut range, mut shown) = (range, shown);
                for stage in stages.iter().rev() {
                    shown = stage.window(range, shown)?;
                    range = stage.domain_for_range(range)?;
                }
                shown
            }
            Self::Blur { .. } | Self::Identity | Self::Inpaint | Self::Grayscale => shown,
        })
    }

    /// Shape of the image x to restore from a degraded image y of shape `range`: larger by the
    /// factor, by the kernel's margins (valid boundary), or by the colour channels (3 from 1).
    ///
    /// Among the sizes that shrink to the same y, this is the multiple of the factor.
    ///
    /// # Errors
    /// [`Error::Config`] when no x has such a y, or a parameter is out of range.
    pub fn domain_for_range(&self, range: ImageShape) -> Result<ImageShape> {
        range.check()?;
        let domain = match self {
            Self::Identity | Self::Inpaint => range,
            Self::SuperResolution { factor } => ImageShape {
                height: range.height.saturating_mul(*factor),
                width: range.width.saturating_mul(*factor),
                ..range
            },
            Self::Blur { kernel, boundary: Boundary::Valid } => {
                let kernel = kernel.build()?;
                ImageShape {
                    height: range.height.saturating_add(kernel.height() - 1),
                    width: range.width.saturating_add(kernel.width() - 1),
                    ..range
                }
            }
            Self::Blur { .. } => range,
            Self::Grayscale if range.channels == 1 => ImageShape { channels: 3, ..range },
            Self::Grayscale => {
                return Err(Error::config(format!(
                    "colourise needs a grey image with 1 channel, found {} channels",
                    range.channels
                )));
            }
            Self::Compose(stages) => {
                stages.iter().rev().try_fold(range, |range, stage| stage.domain_for_range(range))?
            }
        };
        domain.check()?;
        Ok(domain)
    }
}
