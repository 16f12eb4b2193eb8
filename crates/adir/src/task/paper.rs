//! The paper's samplers: Algorithm 1, and its form for few steps.

use super::Hint;
use super::method::{Method, Overrides, Preset, Source};
use super::resolve::{Choices, Situation, word};
use super::settings::{GuidanceSettings, Levels, SamplerSettings, StageSettings};
use crate::guidance::{AdirConfig, Adjoint, DataStep, Residual, Strength};
use crate::sampler::{EpsAfterGuidance, Start};
use crate::units::NoiseLevel;
use crate::{Error, Result};

/// Noise, in grey levels, from which on deblurring trusts y four times as much (docs/results/sampling.md).
const MUCH_NOISE: f64 = 8.0;

/// The one stage of either method.
///
/// With the normalised adjoint the strength for a noise level is s = lambda / (16 sigma^2), with the strict one
/// 1 / (16 sigma^2), lambda being the largest eigenvalue of A^T A. That is a quarter of the value for a Gaussian model;
/// with the embedded prior it gains 2.6 dB in denoising. Blurs with much noise use the full value: with proximal steps,
/// s = lambda / (4 sigma^2) gains 0.2 to 1.4 dB (docs/results/sampling.md).
///
/// # Errors
/// [`Error::Config`] when a projection is asked of the ancestral form, or noise differs from pixel to pixel: the scale of A
/// with its weights is not that of the strength.
pub(super) fn stages(
    preset: Preset,
    method: Method,
    situation: &Situation<'_>,
    given: &Overrides,
    choices: &mut Choices,
) -> Result<Vec<StageSettings>> {
    if situation.uneven.is_some() && !situation.own_guidance {
        return Err(Error::config(
            "with --gain, the methods are staged, ddnm, ddrm, diffpir, pigdm and daps: few-step and ancestral need noise that \
             is alike everywhere",
        ));
    }
    let hint = situation.hint;
    let few = method == Method::FewStep;
    let steps = if preset == Preset::Paper { "1000" } else { "50" };
    let steps = choices.pick("steps", given.steps.clone(), steps.to_owned(), Source::Preset, Clone::clone);
    let adjoint = choices.pick("adjoint", given.adjoint, Adjoint::Normalized, Source::Preset, word);
    let (data_step, source) = match (preset, hint, few) {
        (Preset::Fast, Hint::Blurs, true) => {
            (DataStep::Proximal, Source::rule("better in deblurring, see docs/results/sampling.md"))
        }
        _ => (DataStep::Gradient, Source::Preset),
    };
    let data_step = choices.pick("data_step", given.data_step, data_step, source, word);
    let sigma = match data_step {
        DataStep::Gradient => situation.sigma,
        DataStep::Proximal => NoiseLevel(situation.sigma.0.hypot(situation.rounding.0)),
    };
    let (strength, source) = match preset {
        Preset::Paper => {
            let s = if hint == Hint::ShrinksBy(8) { 20.0 } else { 10.0 };
            (Strength::Scale(s), Source::Preset)
        }
        Preset::Fast if sigma.0 == 0.0 && few => {
            (Strength::Projection, Source::rule("no noise: A x = y must hold exactly"))
        }
        Preset::Fast if sigma.0 == 0.0 => {
            (Strength::Scale(10.0), Source::rule("the paper's s, because the ancestral sampler cannot project"))
        }
        Preset::Fast => {
            let lambda = situation.operator.norm_squared();
            let of_adjoint = if adjoint == Adjoint::Normalized { lambda } else { 1.0 };
            let (divisor, rule) = match (hint, data_step) {
                (Hint::Blurs, DataStep::Proximal) if sigma.to_255() >= MUCH_NOISE => {
                    (4.0, "lambda/(4 sigma^2), or 1/(4 sigma^2) with the strict adjoint")
                }
                _ => (16.0, "lambda/(16 sigma^2), or 1/(16 sigma^2) with the strict adjoint"),
            };
            (Strength::Scale(of_adjoint / (divisor * sigma.0 * sigma.0)), Source::rule(rule))
        }
    };
    let strength = choices.pick("strength", given.strength, strength, source, |s| match s {
        Strength::Projection => "projection".into(),
        Strength::Scale(s) => format!("{s}"),
    });
    let (clip, source) = situation.clip(Source::Preset);
    let clip_x0 = choices.pick("clip", given.clip_x0, clip, source, bool::to_string);
    let stage = |sampler, residual, cap| {
        let guidance = GuidanceSettings::Adir(AdirConfig { strength, residual, adjoint, cap, data_step });
        vec![StageSettings { start: Start::Noise, levels: Levels::Respaced(steps), clip_x0, sampler, guidance }]
    };
    if !few {
        if strength == Strength::Projection {
            return Err(Error::config(
                "the ancestral sampler cannot project: give a finite --scale, or use --method few-step",
            ));
        }
        let residual = if preset == Preset::Paper { Residual::Paper } else { Residual::Consistent };
        let residual = choices.pick("residual", given.residual, residual, Source::Preset, word);
        let cap = choices.pick("cap", given.cap, true, Source::Preset, bool::to_string);
        return Ok(stage(SamplerSettings::Ancestral, residual, cap));
    }
    let eta = choices.pick("eta", given.eta, 1.0, Source::Preset, f64::to_string);
    let (eps, source) = match hint {
        Hint::ShrinksBy(_) | Hint::Identity => {
            (EpsAfterGuidance::Rederive, Source::rule("better in sr and denoise, see docs/results/sampling.md"))
        }
        Hint::Blurs if data_step == DataStep::Proximal && sigma.to_255() >= 1.0 => {
            (EpsAfterGuidance::Rederive, Source::rule("better with proximal steps, see docs/results/sampling.md"))
        }
        Hint::Blurs | Hint::Hides | Hint::DropsColour | Hint::Unknown => (EpsAfterGuidance::Keep, Source::Preset),
    };
    let eps_after_guidance = choices.pick("eps_after_guidance", given.eps_after_guidance, eps, source, word);
    Ok(stage(SamplerSettings::FewStep { eta, eps_after_guidance }, Residual::Consistent, true))
}
