//! The loop that samplers share: counting down, calling the network, checking its output, estimating x0.

use super::Inputs;
use crate::compute::in_pool;
use crate::models::{Prediction, Pullback};
use crate::schedule::{Schedule, Timestep};
use crate::tensor::{Tensor, check_finite};
use crate::{Error, Result};

/// One finished sampling step.
///
/// # Shapes
/// Both tensors `[n, c, h, w]`.
#[derive(Debug, Clone)]
pub struct Step {
    /// Which step of the loop this was, from 0.
    pub index: usize,
    /// Number of steps in the loop.
    pub total: usize,
    /// What the network was given.
    pub timestep: Timestep,
    /// The state after the step (the paper's x_(t-1)); after the last step, the sample.
    pub x_t: Tensor<4>,
    /// The estimate of the clean image at this step (Eq. 14), clipped if the sampler clips, after the correction
    /// where guidance corrects it.
    pub x0: Tensor<4>,
    /// Root mean square of A x0 - y before the correction, in [-1, 1] units; `None` without guidance.
    pub residual_rms: Option<f64>,
}

/// Result of one step of a sampler.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The state after the step.
    pub x_t: Tensor<4>,
    /// The estimate of the clean image, after the correction where guidance corrects it.
    pub x0: Tensor<4>,
    /// See [`Step::residual_rms`].
    pub residual_rms: Option<f64>,
}

/// A state, and what the network says about it.
#[derive(Clone, Copy)]
pub struct Evaluation<'a> {
    /// Where in the loop.
    pub at: Position,
    /// The state.
    pub x_t: &'a Tensor<4>,
    /// What the network says.
    pub prediction: &'a Prediction,
    /// The way back from its eps to x_t, where the guidance needs it.
    pub back: Option<&'a dyn Pullback>,
    /// The x0 estimate of the step before; `None` at the first step of a chain.
    pub before: Option<&'a Tensor<4>>,
}

/// A sampler: how one step follows from what the network says. [`Chain`] does the rest.
pub trait Rule: Send + Sync {
    /// Refuses settings that no step can have.
    ///
    /// # Errors
    /// [`Error::Config`] naming the setting.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// One step.
    ///
    /// # Errors
    /// Those of the guidance and of the noise.
    fn update(&self, inputs: &Inputs<'_>, evaluation: Evaluation<'_>) -> Result<Outcome>;
}

impl<R: Rule + ?Sized> Rule for Box<R> {
    fn check(&self) -> Result<()> {
        (**self).check()
    }

    fn update(&self, inputs: &Inputs<'_>, evaluation: Evaluation<'_>) -> Result<Outcome> {
        (**self).update(inputs, evaluation)
    }
}

/// A sampling loop as an iterator of steps. After an error it yields nothing more.
pub struct Chain<'a> {
    inputs: Inputs<'a>,
    rule: Box<dyn Rule + 'a>,
    x_t: Tensor<4>,
    /// The x0 estimate of the step before.
    before: Option<Tensor<4>>,
    /// The next loop step; `schedule.len()` when finished or failed.
    next: usize,
}

impl<'a> Chain<'a> {
    /// Sampling by `rule` from `x_t`, `[n, c, h, w]`: standard normal noise (or, with [`Inputs::resume_at`], where an
    /// earlier run stopped). Its precision and device are those of the whole run.
    ///
    /// # Errors
    /// [`Error::Config`] when a setting of the rule is out of range, the size does not suit the network, the schedule is
    /// not the network's, or `resume_at` is beyond the end; [`Error::Numerical`] when `x_t` is not finite.
    pub fn new(inputs: Inputs<'a>, rule: impl Rule + 'a, x_t: Tensor<4>) -> Result<Self> {
        rule.check()?;
        let [_, _, height, width] = x_t.dims();
        let multiple = inputs.denoiser.info().size_multiple.max(1);
        if height == 0 || width == 0 || height % multiple != 0 || width % multiple != 0 {
            return Err(Error::config(format!(
                "the network expects sides that are multiples of {multiple}, found {width}x{height}"
            )));
        }
        if !inputs.schedule.is_from(&inputs.denoiser.info().schedule) {
            return Err(Error::config("the sampling schedule does not belong to the network"));
        }
        if inputs.resume_at > inputs.schedule.len() {
            return Err(Error::config(format!(
                "cannot resume after {} of {} sampling steps",
                inputs.resume_at,
                inputs.schedule.len()
            )));
        }
        check_finite(&x_t, "initial noise")?;
        Ok(Self { next: inputs.resume_at, rule: Box::new(rule), inputs, x_t, before: None })
    }

    /// The same, going on from a step whose estimate was `x0`: rules of several steps need it.
    #[must_use]
    pub fn after(self, x0: Tensor<4>) -> Self {
        Self { before: (self.next > 0).then_some(x0), ..self }
    }

    fn step(&self) -> Result<Step> {
        let Inputs { denoiser, schedule, class, .. } = self.inputs;
        let total = schedule.len();
        let position = Position { step: self.inputs.noises_before + self.next, index: total - 1 - self.next };
        let timestep = schedule.timestep(position.index);
        let name = |what: &str| format!("sampling step {} of {total} (t = {}): {what}", self.next + 1, timestep.0);

        let (prediction, back) = match self.inputs.guidance {
            Some(guidance) if guidance.needs_gradient() => {
                let (prediction, back) = denoiser.predict_back(&self.x_t, timestep, &class.into())?;
                (prediction, Some(back))
            }
            _ => (denoiser.predict(&self.x_t, timestep, &class.into())?, None),
        };
        // Checked at every step, because clipping could turn a NaN into a number.
        for (tensor, what) in
            [(Some(&prediction.eps), "predicted noise"), (prediction.variance.as_ref(), "predicted variance")]
        {
            let Some(tensor) = tensor else { continue };
            if tensor.dims() != self.x_t.dims() {
                return Err(Error::config(name(&format!(
                    "{what} of shape {:?} for x_t of shape {:?}",
                    tensor.dims(),
                    self.x_t.dims()
                ))));
            }
            check_finite(tensor, &name(what))?;
        }
        let evaluation = Evaluation {
            at: position,
            x_t: &self.x_t,
            prediction: &prediction,
            back: back.as_deref(),
            before: self.before.as_ref(),
        };
        let Outcome { x_t, x0, residual_rms } = self.rule.update(&self.inputs, evaluation)?;
        check_finite(&x_t, &name("x_(t-1)"))?;
        Ok(Step { index: self.next, total, timestep, x_t, x0, residual_rms })
    }
}

impl Iterator for Chain<'_> {
    type Item = Result<Step>;

    fn next(&mut self) -> Option<Self::Item> {
        let total = self.inputs.schedule.len();
        if self.next >= total {
            return None;
        }
        let step = in_pool(&self.inputs.denoiser.device(), || self.step());
        match &step {
            Ok(done) => {
                self.x_t = done.x_t.clone();
                self.before = Some(done.x0.clone());
                self.next += 1;
            }
            Err(_) => self.next = total,
        }
        Some(step)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let remaining = self.inputs.schedule.len() - self.next;
        (usize::from(remaining > 0), Some(remaining))
    }
}

/// A step, counted upwards and downwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Upwards from 0, or from the noises of earlier stages: the index of its noise.
    pub step: usize,
    /// Downwards to 0: its index in the schedule.
    pub index: usize,
}

/// x0 = (x_t - sqrt(1 - alpha_bar) eps) / sqrt(alpha_bar) (Eq. 14) at step `index` of `schedule`. With `clip`, x0 is
/// limited to [-1, 1] and eps is that which leads from the limited x0 to x_t. Returns (x0, eps).
///
/// # Shapes
/// All `[n, c, h, w]`.
pub fn predict_x0(
    schedule: &Schedule,
    index: usize,
    x_t: &Tensor<4>,
    eps: Tensor<4>,
    clip: bool,
) -> (Tensor<4>, Tensor<4>) {
    let (scale, spread) = x0_coefficients(schedule, index);
    let x0 = x_t.clone().mul_scalar(scale) - eps.clone().mul_scalar(spread);
    if !clip {
        return (x0, eps);
    }
    let x0 = x0.clamp(-1.0, 1.0);
    let eps = eps_from_x0(schedule, index, x_t, &x0);
    (x0, eps)
}

/// The eps that leads from `x0` to `x_t`: Eq. 3 solved for it.
pub fn eps_from_x0(schedule: &Schedule, index: usize, x_t: &Tensor<4>, x0: &Tensor<4>) -> Tensor<4> {
    let (scale, spread) = x0_coefficients(schedule, index);
    (x_t.clone().mul_scalar(scale) - x0.clone()).div_scalar(spread)
}

/// 1/sqrt(alpha_bar) and sqrt(1/alpha_bar - 1).
fn x0_coefficients(schedule: &Schedule, index: usize) -> (f64, f64) {
    let inverse = 1.0 / schedule.alpha_bar(index);
    (inverse.sqrt(), (inverse - 1.0).sqrt())
}
