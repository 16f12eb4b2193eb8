//! One degradation after another.

use std::sync::{Arc, OnceLock};

use super::{Gram, ImageShape, LinearOperator, Part, Window, norm};
use crate::compute::get_or_make;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// A = A_k ... A_2 A_1: each stage degrades the result of the one before.
#[derive(Debug, Clone)]
pub struct Compose {
    stages: Vec<Arc<dyn LinearOperator>>,
    domain: ImageShape,
    range: ImageShape,
    norm_squared: OnceLock<f64>,
}

impl Compose {
    /// The composition of `stages`, the first of which is applied first.
    ///
    /// # Errors
    /// [`Error::Config`] when there is no stage, or the range of one is not the domain of the next.
    pub fn new(stages: Vec<Arc<dyn LinearOperator>>) -> Result<Self> {
        let (Some(first), Some(last)) = (stages.first(), stages.last()) else {
            return Err(Error::config("a composition needs at least one operator, found none"));
        };
        for (i, (a, b)) in stages.iter().zip(stages.iter().skip(1)).enumerate() {
            if a.range() != b.domain() {
                return Err(Error::config(format!(
                    "stage {} of the composition makes images of {}, but stage {} expects {} (channels x height x width)",
                    i + 1,
                    a.range(),
                    i + 2,
                    b.domain()
                )));
            }
        }
        let (domain, range) = (first.domain(), last.range());
        Ok(Self { stages, domain, range, norm_squared: OnceLock::new() })
    }
}

impl LinearOperator for Compose {
    fn domain(&self) -> ImageShape {
        self.domain
    }

    fn range(&self) -> ImageShape {
        self.range
    }

    fn apply(&self, x: &Tensor<4>) -> Result<Tensor<4>> {
        self.stages.iter().try_fold(x.clone(), |x, stage| stage.apply(&x))
    }

    fn adjoint(&self, y: &Tensor<4>) -> Result<Tensor<4>> {
        self.stages.iter().rev().try_fold(y.clone(), |y, stage| stage.adjoint(&y))
    }

    /// Without the first stages for which A_i A_i^T = c_i I.
    fn apply_gram(&self, u: &Tensor<4>) -> Result<Tensor<4>> {
        let Some((last, others)) = self.stages.split_last() else { return Ok(u.clone()) };
        let factor: Option<f64> = others.iter().map(|stage| stage.gram()?.constant()).product();
        let Some(factor) = factor else { return self.apply(&self.adjoint(u)?) };
        let image = last.apply_gram(u)?;
        Ok(if factor == 1.0 { image } else { image.mul_scalar(factor) })
    }

    /// Found by iteration on the first call, then kept. For an image of more than 128 x 128 values, and should a stage fail
    /// on a valid input, this is the product of the stages' norms, which is never too small. For a blur and a
    /// down-sampling it is that of their composition, nearly: what is even in the image comes through both.
    ///
    /// A first stage with A_1 A_1^T = c I multiplies the norm of the others by c: (B A_1)(B A_1)^T = c B B^T.
    fn norm_squared(&self) -> f64 {
        *get_or_make(&self.norm_squared, || {
            if let [first, others @ ..] = self.stages.as_slice()
                && let (Some(c), [second, ..]) = (first.gram().and_then(|gram| gram.constant()), others)
            {
                let rest = match others {
                    [_] => second.norm_squared(),
                    _ => Self::new(others.to_vec()).map_or(f64::NAN, |others| others.norm_squared()),
                };
                return c * rest;
            }
            let product = || self.stages.iter().map(|stage| stage.norm_squared()).product();
            if self.domain.elements() > norm::MOST_ITERATED {
                return product();
            }
            norm::iterated_norm_squared(self).unwrap_or_else(|_| product())
        })
    }

    /// Where every stage but the last has A_i A_i^T = c_i I, that of the last times the c_i.
    fn gram(&self) -> Option<Gram> {
        let (last, others) = self.stages.split_last()?;
        let factor: Option<f64> = others.iter().map(|stage| stage.gram()?.constant()).product();
        Some(last.gram()?.times(factor?))
    }

    /// Where the last stage is a part and every other has A_i A_i^T = c_i I.
    fn part_of(&self) -> Option<Part> {
        let (last, others) = self.stages.split_last()?;
        let part = last.part_of()?;
        let stages = others.iter().cloned().chain([part.whole.clone()]).collect();
        let whole: Arc<dyn LinearOperator> = Arc::new(Self::new(stages).ok()?);
        whole.exact_gram()?;
        Some(Part { whole, ..part })
    }

    fn seen_within(&self, window: Window) -> Option<Window> {
        self.stages.iter().try_fold(window, |window, stage| stage.seen_within(window))
    }

    /// Those of the last stage. Values that a later stage makes from pixels missing to an earlier one all count.
    fn observed(&self) -> Option<&[bool]> {
        self.stages.last().and_then(|stage| stage.observed())
    }
}
