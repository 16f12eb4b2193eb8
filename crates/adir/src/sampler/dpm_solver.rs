//! DPM-Solver++ of second order with the estimates of two steps (Lu et al., arXiv 2211.01095, Algorithm 2): deterministic,
//! for few steps of an unguided network.

use serde::{Deserialize, Serialize};

use super::Inputs;
use super::chain::{Evaluation, Outcome, Rule};
use super::ddim::{EpsAfterGuidance, Estimate};
use crate::Result;

/// DPM-Solver++(2M), by the midpoint rule. The first step, and the last where it ends without noise, are of first order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DpmSolverConfig {
    /// Whether each x0 estimate is limited to [-1, 1]. Default false: latents have no such range.
    pub clip_x0: bool,
}

impl Rule for DpmSolverConfig {
    /// With lambda = ln(sqrt(alpha_bar) / sigma), sigma^2 = 1 - alpha_bar, h the difference of lambda over the step and h'
    /// that over the step before: x' = (sigma' / sigma) x - sqrt(alpha_bar') (e^-h - 1) (D0 + D1 / 2), D0 = x0 and
    /// D1 = (x0 - x0 of the step before) h / h'.
    fn update(&self, inputs: &Inputs<'_>, evaluation: Evaluation<'_>) -> Result<Outcome> {
        let Evaluation { at, x_t, before, .. } = evaluation;
        let Estimate { x0, residual_rms, .. } =
            Estimate::corrected(inputs, evaluation, self.clip_x0, EpsAfterGuidance::Rederive)?;
        let schedule = inputs.schedule;
        let (bar, next) = (schedule.alpha_bar(at.index), schedule.alpha_bar_prev(at.index));
        let lambda = |bar: f64| 0.5 * (bar / (1.0 - bar)).ln();
        let ratio = ((1.0 - next) / (1.0 - bar)).sqrt();
        // 1 - e^-h, which is 1 where the step ends without noise.
        let reach = if next < 1.0 { -(lambda(bar) - lambda(next)).exp_m1() } else { 1.0 };
        let mut estimate = x0.clone();
        if let Some(before) = before
            && next < 1.0
            && at.index + 1 < schedule.len()
        {
            let last = lambda(bar) - lambda(schedule.alpha_bar(at.index + 1));
            let share = 0.5 * (lambda(next) - lambda(bar)) / last;
            estimate = estimate + (x0.clone() - before.clone()) * share;
        }
        let x_t = x_t.clone() * ratio + estimate * (next.sqrt() * reach);
        Ok(Outcome { x_t, x0, residual_rms })
    }
}
