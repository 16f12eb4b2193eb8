//! Presets, and how a value on the command line overrides one: every setting remembers where it came from.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Hint;
use crate::guidance::{AdirConfig, Adjoint, DataStep, Residual, Strength};
use crate::sampler::EpsAfterGuidance;
use crate::schedule::Respacing;
use crate::units::NoiseLevel;
use crate::{Error, Result};

/// A named set of sampling settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Preset {
    /// Few steps of the x0 form; the default for the embedded prior.
    Fast,
    /// 100 sampling steps; adapted weights change twice as much.
    Balanced,
    /// Table 4 of the paper to the letter: 1000 ancestral steps, s = 10 (20 for x8).
    Paper,
}

/// How the reverse process is sampled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Method {
    /// Algorithm 1: ancestral sampling, guidance shifts the mean.
    Ancestral,
    /// The form for few steps: DDIM, guidance corrects the x0 estimate.
    FewStep,
}

/// Complete settings of a sampling run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Settings {
    /// Steps, in guided-diffusion's respacing words: `N`, `a,b,c` or `ddimN`.
    pub steps: String,
    /// Whether x0 estimates are limited to [-1, 1].
    pub clip_x0: bool,
    /// The sampler.
    pub sampler: SamplerSettings,
    /// The guidance.
    pub guidance: GuidanceSettings,
}

/// A sampler with its settings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SamplerSettings {
    /// [`Method::Ancestral`].
    Ancestral,
    /// [`Method::FewStep`].
    FewStep {
        /// Share of fresh noise in each step, 0 to 1.
        eta: f64,
        /// The eps that belongs to an x0 estimate that guidance has moved.
        eps_after_guidance: EpsAfterGuidance,
    },
}

/// A guidance with its settings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum GuidanceSettings {
    /// ADIR's.
    Adir(AdirConfig),
}

/// Settings given explicitly; `None` leaves the preset's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Overrides {
    /// Sampler.
    pub method: Option<Method>,
    /// See [`Settings::steps`].
    pub steps: Option<String>,
    /// s, see [`AdirConfig::strength`].
    pub strength: Option<Strength>,
    /// See [`AdirConfig::residual`].
    pub residual: Option<Residual>,
    /// See [`AdirConfig::adjoint`].
    pub adjoint: Option<Adjoint>,
    /// See [`AdirConfig::cap`].
    pub cap: Option<bool>,
    /// See [`AdirConfig::data_step`].
    pub data_step: Option<DataStep>,
    /// See [`Settings::clip_x0`].
    pub clip_x0: Option<bool>,
    /// See [`SamplerSettings::FewStep`].
    pub eta: Option<f64>,
    /// See [`SamplerSettings::FewStep`].
    pub eps_after_guidance: Option<EpsAfterGuidance>,
}

impl Overrides {
    /// Refuses values that no setting can have.
    ///
    /// # Errors
    /// [`Error::Config`] naming the setting.
    pub fn check(&self) -> Result<()> {
        if let Some(steps) = &self.steps {
            steps.parse::<Respacing>()?;
        }
        if let Some(eta) = self.eta
            && !(0.0..=1.0).contains(&eta)
        {
            return Err(Error::config(format!("eta = {eta}: expected 0 to 1")));
        }
        if let Some(Strength::Scale(s)) = self.strength
            && !(s.is_finite() && s >= 0.0)
        {
            return Err(Error::config(format!("guidance strength s = {s}: expected a finite number, 0 or more")));
        }
        Ok(())
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Given explicitly.
    Given,
    /// The preset's.
    Preset,
    /// Follows from other values by the named rule.
    Rule(Cow<'static, str>),
}

impl Source {
    /// A rule in words.
    const fn rule(words: &'static str) -> Self {
        Self::Rule(Cow::Borrowed(words))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given => f.write_str("given"),
            Self::Preset => f.write_str("preset"),
            Self::Rule(rule) => write!(f, "rule: {rule}"),
        }
    }
}

/// One setting, its value in words and its source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// Name of the setting.
    pub name: Cow<'static, str>,
    /// Its value.
    pub value: String,
    /// Where it came from.
    pub source: Source,
}

impl Choice {
    /// A value that follows from others.
    pub(crate) fn rule(name: &'static str, value: impl Into<String>, rule: &'static str) -> Self {
        Self { name: Cow::Borrowed(name), value: value.into(), source: Source::rule(rule) }
    }
}

/// Noise, in grey levels, from which on deblurring trusts y four times as much (docs/results/sampling.md).
const MUCH_NOISE: f64 = 8.0;

/// The settings of `preset` for an operator of that kind and measurement noise `sigma`, overridden by what was given.
///
/// `rounding` is the standard deviation of y's quantisation error. It matters in proximal steps, which would amplify
/// it.
///
/// `lambda` is the largest eigenvalue of A^T A: with the normalised adjoint the strength for a noise level is
/// s = lambda / (16 sigma^2), with the strict one 1 / (16 sigma^2). That is a quarter of the value for a Gaussian
/// model; with the embedded prior it gains 2.6 dB in denoising. Blurs with much noise use the full value: with proximal
/// steps, s = lambda / (4 sigma^2) gains 0.2 to 1.4 dB (docs/results/sampling.md).
///
/// # Errors
/// [`Error::Config`] when a projection is asked of the ancestral form, or a number is out of range.
pub fn resolve(
    preset: Preset,
    hint: Hint,
    sigma: NoiseLevel,
    rounding: NoiseLevel,
    lambda: f64,
    given: &Overrides,
) -> Result<(Settings, Vec<Choice>)> {
    let mut choices = Vec::new();
    let method = pick(
        &mut choices,
        "method",
        given.method,
        match preset {
            Preset::Fast | Preset::Balanced => Method::FewStep,
            Preset::Paper => Method::Ancestral,
        },
        Source::Preset,
        word,
    );
    let steps = match preset {
        Preset::Fast => "50",
        Preset::Balanced => "100",
        Preset::Paper => "1000",
    };
    let steps = pick(&mut choices, "steps", given.steps.clone(), steps.to_owned(), Source::Preset, Clone::clone);
    let adjoint = pick(&mut choices, "adjoint", given.adjoint, Adjoint::Normalized, Source::Preset, word);
    let (data_step, source) = match (preset, hint, method) {
        (Preset::Fast | Preset::Balanced, Hint::Blurs, Method::FewStep) => {
            (DataStep::Proximal, Source::rule("better in deblurring, see docs/results/sampling.md"))
        }
        _ => (DataStep::Gradient, Source::Preset),
    };
    let data_step = pick(&mut choices, "data_step", given.data_step, data_step, source, word);
    let sigma = match data_step {
        DataStep::Gradient => sigma,
        DataStep::Proximal => NoiseLevel(sigma.0.hypot(rounding.0)),
    };
    let (strength, source) = match preset {
        Preset::Paper => {
            let s = if hint == Hint::ShrinksBy(8) { 20.0 } else { 10.0 };
            (Strength::Scale(s), Source::Preset)
        }
        Preset::Fast | Preset::Balanced if sigma.0 == 0.0 => match method {
            Method::FewStep => (Strength::Projection, Source::rule("no noise: A x = y must hold exactly")),
            Method::Ancestral => {
                (Strength::Scale(10.0), Source::rule("the paper's s, because the ancestral sampler cannot project"))
            }
        },
        Preset::Fast | Preset::Balanced => {
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
    let strength = pick(&mut choices, "strength", given.strength, strength, source, |s| match s {
        Strength::Projection => "projection".into(),
        Strength::Scale(s) => format!("{s}"),
    });
    let residual = match preset {
        Preset::Paper => Residual::Paper,
        Preset::Fast | Preset::Balanced => Residual::Consistent,
    };
    let residual = pick(&mut choices, "residual", given.residual, residual, Source::Preset, word);
    let cap = pick(&mut choices, "cap", given.cap, true, Source::Preset, bool::to_string);
    let clip_x0 = pick(&mut choices, "clip", given.clip_x0, true, Source::Preset, bool::to_string);
    let eta = pick(&mut choices, "eta", given.eta, 1.0, Source::Preset, f64::to_string);
    let (eps, source) = match hint {
        Hint::ShrinksBy(_) | Hint::Identity => {
            (EpsAfterGuidance::Rederive, Source::rule("better in sr and denoise, see docs/results/sampling.md"))
        }
        Hint::Blurs if data_step == DataStep::Proximal && sigma.to_255() >= 1.0 => {
            (EpsAfterGuidance::Rederive, Source::rule("better with proximal steps, see docs/results/sampling.md"))
        }
        Hint::Blurs | Hint::Hides | Hint::DropsColour | Hint::Unknown => (EpsAfterGuidance::Keep, Source::Preset),
    };
    let eps_after_guidance = pick(&mut choices, "eps_after_guidance", given.eps_after_guidance, eps, source, word);
    if method == Method::Ancestral && strength == Strength::Projection {
        return Err(Error::config(
            "the ancestral sampler cannot project: give a finite --scale, or use --method few-step",
        ));
    }
    let sampler = match method {
        Method::Ancestral => SamplerSettings::Ancestral,
        Method::FewStep => SamplerSettings::FewStep { eta, eps_after_guidance },
    };
    let guidance = GuidanceSettings::Adir(AdirConfig { strength, residual, adjoint, cap, data_step });
    Ok((Settings { steps, clip_x0, sampler, guidance }, choices))
}

/// The given value or the default, recorded with its source.
fn pick<T>(
    choices: &mut Vec<Choice>,
    name: &'static str,
    given: Option<T>,
    default: T,
    source: Source,
    text: impl Fn(&T) -> String,
) -> T {
    let (value, source) = match given {
        Some(value) => (value, Source::Given),
        None => (default, source),
    };
    choices.push(Choice { name: Cow::Borrowed(name), value: text(&value), source });
    value
}

/// An enum's name as it is written in records.
fn word<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        Ok(other) => other.to_string(),
        Err(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Task;
    use super::*;

    /// What the tests below look at.
    #[derive(Debug)]
    struct Resolved {
        data_step: DataStep,
        strength: Strength,
        eps_after_guidance: EpsAfterGuidance,
    }

    fn settings(task: Task, levels: f64, rounding: f64, given: &Overrides) -> Resolved {
        let (sigma, rounding) = (NoiseLevel::from_255(levels), NoiseLevel::from_255(rounding));
        let settings = resolve(Preset::Fast, task.hint(), sigma, rounding, 1.0, given).unwrap().0;
        let GuidanceSettings::Adir(AdirConfig { data_step, strength, .. }) = settings.guidance;
        let SamplerSettings::FewStep { eps_after_guidance, .. } = settings.sampler else { panic!("{settings:?}") };
        Resolved { data_step, strength, eps_after_guidance }
    }

    /// Rounding to 8 bits is noise of 1/sqrt(12) levels to a solver, and nothing to a gradient step.
    #[test]
    fn blurs_with_little_noise_are_solved_for_as_far_as_rounding_allows() {
        let eight_bit = 1.0 / 12.0_f64.sqrt();
        let none = Overrides::default();
        let exact = settings(Task::Deblur, 0.0, 0.0, &none);
        assert_eq!((exact.data_step, exact.strength), (DataStep::Proximal, Strength::Projection));
        let rounded = settings(Task::Deblur, 0.0, eight_bit, &none);
        let Strength::Scale(s) = rounded.strength else { panic!("{rounded:?}") };
        // 127.5^2 * 12 / 16
        assert!((s - 12_192.187_5).abs() < 1e-6, "{s}");
        assert_eq!(rounded.eps_after_guidance, EpsAfterGuidance::Keep);
        let little = settings(Task::Deblur, 2.55, eight_bit, &none);
        assert_eq!((little.data_step, little.eps_after_guidance), (DataStep::Proximal, EpsAfterGuidance::Rederive));
        let Strength::Scale(s) = little.strength else { panic!("{little:?}") };
        assert!((s - 127.5 * 127.5 / (16.0 * (2.55 * 2.55 + 1.0 / 12.0))).abs() < 1e-6, "{s}");
        let sr = settings(Task::SuperResolution { factor: 4 }, 0.0, eight_bit, &none);
        assert_eq!((sr.data_step, sr.strength), (DataStep::Gradient, Strength::Projection));
        let given = Overrides { data_step: Some(DataStep::Gradient), ..none };
        assert_eq!(settings(Task::Deblur, 0.0, eight_bit, &given).strength, Strength::Projection);
    }

    /// 127.5^2 / (4 sigma^2): what suits a Gaussian model. A gradient step asked for keeps its own strength.
    #[test]
    fn blurs_with_much_noise_are_solved_for_and_trusted_as_in_a_gaussian_model() {
        let much = settings(Task::Deblur, 10.0, 0.0, &Overrides::default());
        assert_eq!((much.data_step, much.eps_after_guidance), (DataStep::Proximal, EpsAfterGuidance::Rederive));
        let Strength::Scale(s) = much.strength else { panic!("{much:?}") };
        assert!((s - 40.640_625).abs() < 1e-9, "{s}");
        let given = Overrides { data_step: Some(DataStep::Gradient), ..Overrides::default() };
        let gradient = settings(Task::Deblur, 10.0, 0.0, &given);
        let Strength::Scale(s) = gradient.strength else { panic!("{gradient:?}") };
        assert!((s - 10.160_156_25).abs() < 1e-9, "{s}");
        let denoise = settings(Task::Denoise, 10.0, 0.0, &Overrides::default());
        assert_eq!((denoise.data_step, denoise.strength), (DataStep::Gradient, gradient.strength));
    }
}
