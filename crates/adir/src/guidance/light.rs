//! Guidance by an operator that acts on light, of estimates whose values are encoded with a tone curve.

use std::sync::{Arc, OnceLock};

use super::{Correction, Guidance, StepState, Target};
use crate::io::light::Light;
use crate::operator::{Gram, ImageShape, LinearOperator};
use crate::tensor::{Tensor, to_f64};
use crate::{Error, Result};

/// W A D: how weighted light follows from a small change of encoded values, D being slopes of the tone curve.
#[derive(Debug)]
struct Linearised {
    inner: Arc<dyn LinearOperator>,
    slope: Tensor<4>,
    /// Mean square of W D: what A A^T is about multiplied by.
    scale: f64,
}

impl LinearOperator for Linearised {
    fn domain(&self) -> ImageShape {
        self.inner.domain()
    }

    fn range(&self) -> ImageShape {
        self.inner.range()
    }

    fn apply(&self, x: &Tensor<4>) -> Result<Tensor<4>> {
        self.inner.apply(&(x.clone() * self.slope.clone().to_device(&x.device()).cast(x.dtype())))
    }

    fn adjoint(&self, y: &Tensor<4>) -> Result<Tensor<4>> {
        Ok(self.inner.adjoint(y)? * self.slope.clone().to_device(&y.device()).cast(y.dtype()))
    }

    /// About.
    fn norm_squared(&self) -> f64 {
        self.gram().map_or_else(|| self.scale * self.inner.norm_squared(), |gram| gram.largest())
    }

    /// Weights fall where slopes grow, and images are smooth: what is left is about A A^T.
    fn gram(&self) -> Option<Gram> {
        Some(self.inner.gram()?.unweighted().times(self.scale).approximate())
    }

    fn observed(&self) -> Option<&[bool]> {
        self.inner.observed()
    }
}

/// Makes a guidance of an operator and an observation.
type Make = dyn Fn(Arc<dyn LinearOperator>, Tensor<4>) -> Result<Box<dyn Guidance>> + Send + Sync;

/// A guidance towards y = A L(x), L being a tone curve: at every step that of the linear operator W A D and of an observation
/// that leaves the same residual.
///
/// The slopes D are those at the estimate, or where the observation is brighter those there: with too small a slope a dark
/// estimate would be thrown far beyond what is bright.
pub struct LightGuidance {
    /// A, with weights.
    operator: Arc<dyn LinearOperator>,
    /// The light of the observation, with the same weights.
    y: Tensor<4>,
    light: Arc<Light>,
    make: Box<Make>,
    needs_gradient: bool,
    /// Slopes where the observation, spread over the image, is.
    bright: OnceLock<Tensor<4>>,
}

impl std::fmt::Debug for LightGuidance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LightGuidance").field("operator", &self.operator).finish_non_exhaustive()
    }
}

impl LightGuidance {
    /// Of the light `y` seen through `operator`, by the guidance that `make` makes.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn new(operator: Arc<dyn LinearOperator>, y: Tensor<4>, light: Arc<Light>, make: Box<Make>) -> Result<Self> {
        let needs_gradient = make(operator.clone(), y.clone())?.needs_gradient();
        Ok(Self { operator, y, light, make, needs_gradient, bright: OnceLock::new() })
    }

    fn bright(&self) -> Result<Tensor<4>> {
        if let Some(found) = self.bright.get() {
            return Ok(found.clone());
        }
        let ImageShape { channels, height, width } = self.operator.domain();
        let black = Tensor::full([1, channels, height, width], -1.0, (&self.y.device(), self.y.dtype()));
        let spread = |y: &Tensor<4>| self.operator.adjoint(y);
        // The weighted mean of what y shows above black; nothing where y shows nothing.
        let dark = self.operator.apply(&black)?;
        let (above, white) = (spread(&(self.y.clone() - dark.clone()))?, spread(&(dark * -2.0))?);
        let share =
            (above / (white.clone().clamp_min(1e-6))).clamp(0.0, 1.0).mask_fill(white.lower_equal_elem(1e-6), 0.0);
        let slope = self.light.slope(&self.light.to_encoded(&(share * 2.0 - 1.0))?)?;
        Ok(self.bright.get_or_init(|| slope).clone())
    }
}

impl Guidance for LightGuidance {
    fn needs_gradient(&self) -> bool {
        self.needs_gradient
    }

    /// # Errors
    /// [`Error::Config`] where the mean of an ancestral step is to be corrected; those of the guidance inside.
    fn correct(&self, state: &StepState<'_>, target: Target<'_>) -> Result<Correction> {
        if let Target::Mean { .. } = target {
            return Err(Error::config("an operator on light corrects x0 estimates: use a sampler of few steps"));
        }
        let slope =
            self.light.slope(state.x0)?.max_pair(self.bright()?.to_device(&state.x0.device()).cast(state.x0.dtype()));
        let scale = match self.operator.gram().map(|gram| gram.unweighted().largest()) {
            Some(largest) if largest > 0.0 => {
                to_f64(&self.operator.apply(&slope)?.square().mean())?.iter().sum::<f64>() / largest
            }
            _ => 1.0,
        };
        let residual = self.operator.apply(&self.light.to_light(state.x0)?)? - self.y.clone();
        let near: Arc<dyn LinearOperator> = Arc::new(Linearised { inner: self.operator.clone(), slope, scale });
        let y = near.apply(state.x0)? - residual;
        (self.make)(near, y)?.correct(state, target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guidance::{ProximalConfig, ProximalGuidance, Trust};
    use crate::operator::{Blur, Boundary, Kernel};
    use crate::schedule::{BetaSchedule, Schedule};
    use crate::tensor::{DType, cpu, from_f64};

    /// A checkerboard from nearly black to nearly white, its light blurred: steps from black, from white and from y itself
    /// end where A L(x) = y, and at once from there.
    #[test]
    fn steps_end_where_the_light_agrees() {
        let shape = ImageShape::new(1, 16, 16);
        let level = |i: usize| if (i / 4 + i / 64).is_multiple_of(2) { -0.95 } else { 0.9 } + 0.04 * (i as f64).sin();
        let x = from_f64((0..256).map(level).collect(), [1, 1, 16, 16], &cpu());
        let light = Arc::new(Light::default());
        let blur: Arc<dyn LinearOperator> =
            Arc::new(Blur::new(shape, Kernel::gaussian(5, 0.8).unwrap(), Boundary::Replicate).unwrap());
        let y = blur.apply(&light.to_light(&x).unwrap()).unwrap();
        let config = ProximalConfig { trust: Trust::Calibrated { factor: 1.0 }, sigma: 1e-4, count_noise: true };
        let make = move |operator, y| Ok(Box::new(ProximalGuidance::new(operator, y, config)?) as Box<dyn Guidance>);
        let guidance = LightGuidance::new(blur.clone(), y.clone(), light.clone(), Box::new(make)).unwrap();
        let schedule = Schedule::new(BetaSchedule::Linear, 1000).unwrap();
        let misfit = |x: &Tensor<4>| {
            let residual = blur.apply(&light.to_light(x).unwrap()).unwrap() - y.clone();
            to_f64(&residual.square().mean()).unwrap()[0].sqrt()
        };
        let step = |x0: &Tensor<4>| {
            let state = StepState { schedule: &schedule, index: 300, x_t: x0, x0, eps: x0, back: None, errors: None };
            guidance.correct(&state, Target::X0).unwrap().shift.unwrap()
        };
        for start in [-1.0, 0.0, 1.0] {
            let mut found = Tensor::full([1, 1, 16, 16], start, (&cpu(), DType::F64));
            let before = misfit(&found);
            for _ in 0..12 {
                found = (found.clone() + step(&found)).clamp(-1.0, 1.0);
            }
            let (misfit, worst) = (misfit(&found), to_f64(&(found - x.clone()).abs().max()).unwrap()[0]);
            assert!(misfit < 0.02 * before && worst < 0.5, "from {start}: {misfit} of {before}, {worst}");
        }
        let most = |x: &Tensor<4>| to_f64(&x.clone().abs().max()).unwrap()[0];
        assert!(most(&step(&x)) < 1e-6);
        // Black is not thrown far beyond white, though a line along the slope there reaches it only 26 units on.
        let black = Tensor::full([1, 1, 16, 16], -1.0, (&cpu(), DType::F64));
        let first = most(&step(&black));
        assert!((1.0..6.0).contains(&first), "{first}");
    }
}
