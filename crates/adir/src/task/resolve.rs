//! From a preset, the problem and what was given to complete settings.

use std::borrow::Cow;

use serde::Serialize;

use super::method::{Choice, Method, Overrides, Preset, Source};
use super::settings::{GuidanceSettings, Levels, SamplerSettings, Settings, StageSettings};
use super::{Hint, paper, staged};
use crate::guidance::{ProximalConfig, Trust};
use crate::operator::LinearOperator;
use crate::sampler::{EpsAfterGuidance, Mixture, Start};
use crate::schedule::{Respacing, Schedule};
use crate::units::NoiseLevel;
use crate::{Error, Result};

/// What settings depend on.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// The kind of the operator.
    pub hint: Hint,
    /// The operator, on images of the size that is sampled.
    pub operator: &'a dyn LinearOperator,
    /// Standard deviation of the noise in y.
    pub sigma: NoiseLevel,
    /// Standard deviation of y's quantisation error. It matters where a blur is solved for, which would amplify it.
    pub rounding: NoiseLevel,
    /// The schedule the network was trained with.
    pub schedule: &'a Schedule,
    /// Whether the guidance is the caller's.
    pub own_guidance: bool,
}

/// Least noise, in grey levels, that a blur is solved with: what the network's own rounding amounts to.
const LEAST_BLUR_NOISE: f64 = 0.05;

impl Situation<'_> {
    /// The noise that a solver has to reckon with.
    pub(super) fn solver_sigma(&self) -> f64 {
        match self.hint {
            Hint::Blurs | Hint::Unknown => {
                self.sigma.0.hypot(self.rounding.0).max(NoiseLevel::from_255(LEAST_BLUR_NOISE).0)
            }
            _ => self.sigma.0,
        }
    }

    /// Whether singular values are known.
    pub(super) fn has_spectrum(&self) -> bool {
        self.operator.gram().is_some_and(|gram| gram.is_exact())
    }

    /// A proximal guidance with that trust.
    pub(super) fn proximal(&self, trust: Trust, count_noise: bool) -> GuidanceSettings {
        GuidanceSettings::Proximal(ProximalConfig { trust, sigma: self.solver_sigma(), count_noise })
    }

    /// The timestep of the network whose noise-to-signal ratio sqrt((1 - alpha_bar)/alpha_bar) is nearest to `ratio`.
    pub(super) fn timestep(&self, ratio: f64) -> u16 {
        let distance = |t: usize| {
            let alpha_bar = self.schedule.alpha_bar(t);
            (((1.0 - alpha_bar) / alpha_bar).sqrt() / ratio).ln().abs()
        };
        let nearest = (0..self.schedule.len()).min_by(|a, b| distance(*a).total_cmp(&distance(*b)));
        nearest.and_then(|t| u16::try_from(t).ok()).unwrap_or(0)
    }

    /// The network's last timestep.
    pub(super) fn last_timestep(&self) -> u16 {
        u16::try_from(self.schedule.len() - 1).unwrap_or(u16::MAX)
    }
}

/// The settings of `preset` in a situation, overridden by what was given, and each of them in words with its source.
///
/// # Errors
/// [`Error::Config`] when a number is out of range, a setting has no effect with the method, or the method is not for
/// such an operator.
pub fn resolve(preset: Preset, situation: &Situation<'_>, given: &Overrides) -> Result<(Settings, Vec<Choice>)> {
    given.check()?;
    let mut choices = Choices::default();
    let (method, source) = match preset {
        Preset::Paper => (Method::Ancestral, Source::Preset),
        Preset::Fast if situation.own_guidance => {
            (Method::FewStep, Source::rule("a guidance of the caller's corrects the x0 of each step"))
        }
        Preset::Fast => (Method::Staged, Source::Preset),
    };
    let method = choices.pick("method", given.method, method, source, Method::to_string);
    given.check_for(method)?;
    let stages = match method {
        Method::Staged => staged::stages(situation, given, &mut choices)?,
        Method::Ancestral | Method::FewStep => paper::stages(preset, method, situation, given, &mut choices)?,
        Method::Ddnm => ddnm(situation, given, &mut choices),
        Method::Diffpir => diffpir(situation, given, &mut choices),
    };
    let lengths = stages.iter().map(|stage| Ok(stage.levels.schedule(situation.schedule)?.len()));
    let steps = lengths.sum::<Result<usize>>()?;
    Ok((Settings { steps, stages }, choices.0))
}

/// DDNM(+) as published: 100 uniform steps, eta 0.85.
fn ddnm(situation: &Situation<'_>, given: &Overrides, choices: &mut Choices) -> Vec<StageSettings> {
    let eta = choices.pick("eta", given.eta, 0.85, Source::Preset, f64::to_string);
    let guidance = situation.proximal(Trust::Ddnm { eta }, true);
    vec![one_stage(Mixture::Fresh(eta), EpsAfterGuidance::Keep, guidance, given, choices)]
}

/// DiffPIR: 100 uniform steps, lambda 7, zeta 0.1 (the defaults of its authors' code as found in deepinv).
fn diffpir(situation: &Situation<'_>, given: &Overrides, choices: &mut Choices) -> Vec<StageSettings> {
    let zeta = choices.pick("zeta", given.zeta, 0.1, Source::Preset, f64::to_string);
    let guidance = situation.proximal(Trust::Annealed { lambda: 7.0 }, false);
    vec![one_stage(Mixture::Fresh(zeta.sqrt()), EpsAfterGuidance::Rederive, guidance, given, choices)]
}

fn one_stage(
    mixture: Mixture,
    eps_after_guidance: EpsAfterGuidance,
    guidance: GuidanceSettings,
    given: &Overrides,
    choices: &mut Choices,
) -> StageSettings {
    let steps = choices.pick("steps", given.steps.clone(), "100".to_owned(), Source::Preset, Clone::clone);
    let clip_x0 = choices.pick("clip", given.clip_x0, true, Source::Preset, bool::to_string);
    StageSettings {
        start: Start::Noise,
        levels: Levels::Respaced(steps),
        clip_x0,
        sampler: SamplerSettings::Renoise { mixture, eps_after_guidance },
        guidance,
    }
}

/// Settings in words, in the order they were made.
#[derive(Debug, Default)]
pub(super) struct Choices(Vec<Choice>);

impl Choices {
    /// The given value or the default, noted with its source.
    pub(super) fn pick<T>(
        &mut self,
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
        self.note(name, text(&value), source);
        value
    }

    /// Notes a value.
    pub(super) fn note(&mut self, name: &'static str, value: String, source: Source) {
        self.0.push(Choice { name: Cow::Borrowed(name), value, source });
    }
}

/// An enum's name as it is written in records.
pub(super) fn word<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        Ok(other) => other.to_string(),
        Err(_) => String::new(),
    }
}

/// A plain number of steps.
pub(super) fn count(steps: &str) -> Result<usize> {
    match steps.parse::<Respacing>()? {
        Respacing::Sections(counts) if counts.len() == 1 && counts[0] > 0 => Ok(counts[0]),
        _ => Err(Error::config(format!("steps {steps:?}: the method staged takes a number of network evaluations"))),
    }
}
