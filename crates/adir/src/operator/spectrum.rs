//! Operators that hold a part of what one with known singular values makes.
//!
//! A blur whose observation is a window of a larger scene has no closed form, but the circular blur of that scene has one,
//! and y is a part of its result. With what the estimate itself says for the rest, steps that need singular values apply.

use std::sync::Arc;

use super::{Gram, LinearOperator, Mask, Window};
use crate::Result;
use crate::tensor::Tensor;

/// A = S B: what A keeps of B, whose A A^T is known exactly.
#[derive(Debug, Clone)]
pub struct Part {
    /// B.
    pub whole: Arc<dyn LinearOperator>,
    /// Where y lies in the range of B.
    pub window: Window,
    /// The pixels of y that were measured; `None` means all.
    pub seen: Option<Mask>,
}

impl Part {
    /// S^T y: y in its place, with 0 around it and where nothing was measured.
    ///
    /// # Shapes
    /// `[n, range of A]` to `[n, range of B]`.
    ///
    /// # Errors
    /// [`crate::Error::Config`] when y is not of the range of A.
    pub fn embed(&self, y: &Tensor<4>) -> Result<Tensor<4>> {
        let y = self.seen.as_ref().map_or_else(|| Ok(y.clone()), |seen| seen.keep(y))?;
        let [n, c, h, w] = y.dims();
        let range = self.whole.range();
        let around = Tensor::zeros([n, c, range.height, range.width], (&y.device(), y.dtype()));
        let Window { top, left, .. } = self.window;
        Ok(around.slice_assign([0..n, 0..c, top..top + h, left..left + w], y))
    }

    /// z - S^T S z: z with 0 where y was measured.
    ///
    /// # Shapes
    /// `[n, range of B]`.
    ///
    /// # Errors
    /// [`crate::Error::Config`] when z is not of the range of B.
    pub fn unmeasured(&self, z: &Tensor<4>) -> Result<Tensor<4>> {
        super::host::check_shape(z, self.whole.range())?;
        Ok(z.clone() - self.embed(&self.window.cut(z))?)
    }
}

/// The singular values of A, or those of an operator that A is a part of.
#[derive(Debug, Clone)]
pub struct Spectrum {
    operator: Arc<dyn LinearOperator>,
    gram: Gram,
    part: Option<Part>,
}

impl Spectrum {
    /// That of `operator`, where it is known, at least [nearby](Gram::is_exact_nearby).
    pub fn of(operator: &Arc<dyn LinearOperator>) -> Option<Self> {
        if let Some(gram) = operator.gram().filter(Gram::is_exact_nearby) {
            return Some(Self { operator: operator.clone(), gram, part: None });
        }
        let part = operator.part_of()?;
        let gram = part.whole.exact_gram()?;
        Some(Self { operator: part.whole.clone(), gram, part: Some(part) })
    }

    /// A A^T, where this is the exact spectrum of A itself.
    pub fn exact(&self) -> Option<&Gram> {
        (self.part.is_none() && self.gram.is_exact()).then_some(&self.gram)
    }

    /// g(B B^T) B x, for [`Spectrum::back`].
    ///
    /// # Shapes
    /// `[n, domain]` to `[n, range of B]`.
    ///
    /// # Errors
    /// Those of the operator.
    pub fn observed(&self, x: &Tensor<4>, g: impl Fn(f64) -> f64 + Sync) -> Result<Tensor<4>> {
        self.gram.filter(&self.operator.apply(x)?, g)
    }

    /// g(B B^T) (z - S^T S z) for a `draw` of z from its zeros, and nothing where y is the whole.
    ///
    /// # Shapes
    /// `[n, range of B]`, n being that of `like`.
    ///
    /// # Errors
    /// Those of the operator and of the draw.
    pub fn unmeasured(
        &self,
        like: &Tensor<4>,
        draw: impl FnOnce(&Tensor<4>) -> Result<Tensor<4>>,
        g: impl Fn(f64) -> f64 + Sync,
    ) -> Result<Option<Tensor<4>>> {
        let Some(part) = &self.part else { return Ok(None) };
        let (range, [n, ..]) = (part.whole.range(), like.dims());
        let zeros = Tensor::zeros([n, range.channels, range.height, range.width], (&like.device(), like.dtype()));
        self.gram.filter(&part.unmeasured(&draw(&zeros)?)?, g).map(Some)
    }

    /// B^T z.
    ///
    /// # Shapes
    /// `[n, range of B]` to `[n, domain]`.
    ///
    /// # Errors
    /// Those of the operator.
    pub fn back(&self, z: &Tensor<4>) -> Result<Tensor<4>> {
        self.operator.adjoint(z)
    }
}
