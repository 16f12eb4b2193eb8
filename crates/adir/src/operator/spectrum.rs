//! Operators that hold a part of what one with known singular values makes.
//!
//! A blur whose observation is a window of a larger scene has no closed form, but the circular blur of that scene has one,
//! and y is a part of its result. With what the estimate itself says for the rest, steps that need singular values apply.

use std::sync::Arc;

use super::gram::Term;
use super::{Gram, LinearOperator, Mask, Window};
use crate::Result;
use crate::tensor::{Tensor, from_f64, into_f64};

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
    /// An image of the range of B with what `draw` makes of zeros where y was not measured, and 0 elsewhere.
    ///
    /// # Shapes
    /// `draw` gets `[n, c, 1, pixels that were not measured]`, on the device and in the precision of `like`, an image of the
    /// range of B.
    ///
    /// # Errors
    /// Those of the draw.
    fn unmeasured(&self, like: &Tensor<4>, draw: impl FnOnce(&Tensor<4>) -> Result<Tensor<4>>) -> Result<Tensor<4>> {
        let ([n, c, height, width], Window { top, left, .. }) = (like.dims(), self.window);
        let measured = |pixel: &usize| {
            let (i, j) = (pixel / width, pixel % width);
            let seen = |seen: &Mask| seen.known()[(i - top) * self.window.width + j - left];
            self.window.contains(i, j) && self.seen.as_ref().is_none_or(seen)
        };
        let pixels: Vec<usize> = (0..height * width).filter(|pixel| !measured(pixel)).collect();
        if pixels.is_empty() {
            return Ok(like.zeros_like());
        }
        let drawn = draw(&Tensor::zeros([n, c, 1, pixels.len()], (&like.device(), like.dtype())))?;
        let mut planes = vec![0.0; n * c * height * width];
        for (plane, drawn) in planes.chunks_mut(height * width).zip(into_f64(drawn)?.chunks(pixels.len())) {
            pixels.iter().zip(drawn).for_each(|(pixel, v)| plane[*pixel] = *v);
        }
        Ok(from_f64(planes, like.dims(), &like.device()).cast(like.dtype()))
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

    /// B^T (g(B B^T) B x + h(B B^T) B z + k(B B^T) d) for x and z with their g and h, and a `draw` of d, where y is a part and
    /// was not measured, with its k.
    ///
    /// # Shapes
    /// x, z and the result `[n, domain]`; `draw` gets zeros `[n, c, 1, pixels that were not measured]`.
    ///
    /// # Errors
    /// Those of the operator and of the draw.
    pub(crate) fn back(
        &self,
        observed: &[Term<'_>],
        draw: impl FnOnce(&Tensor<4>) -> Result<Tensor<4>>,
        k: &(dyn Fn(f64) -> f64 + Sync),
    ) -> Result<Tensor<4>> {
        let images = observed.iter().map(|(x, _)| self.operator.apply(x)).collect::<Result<Vec<_>>>()?;
        let rest = match (&self.part, images.first()) {
            (Some(part), Some(image)) => Some(part.unmeasured(image, draw)?),
            _ => None,
        };
        let functions = observed.iter().map(|(_, g)| *g);
        let mut terms: Vec<Term<'_>> = images.iter().zip(functions).collect();
        terms.extend(rest.iter().map(|rest| (rest, k)));
        self.operator.adjoint(&self.gram.filter_sum(&terms)?)
    }
}
