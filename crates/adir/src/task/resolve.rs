//! From a preset, the problem and what was given to complete settings.

use std::borrow::Cow;

use serde::Serialize;

use super::method::{Choice, Method, Overrides, Preset, Source};
use super::settings::{GuidanceSettings, Settings};
use super::{Hint, paper, siblings, staged};
use crate::guidance::{ProximalConfig, Trust};
use crate::operator::LinearOperator;
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
    /// Fine detail of y in relation to that of a photograph, see [`Measurement::detail`](crate::problem::Measurement::detail).
    pub detail: Option<f64>,
    /// The same without the weights of y, where its noise differs from value to value.
    pub unweighted: &'a dyn LinearOperator,
    /// How much noise differs from value to value of y, if it does; `sigma` is then that of y after they were weighted.
    pub uneven: Option<Unevenness>,
    /// Whether the operator acts on images as they are, and not on their light.
    pub is_linear: bool,
    /// The schedule the network was trained with.
    pub schedule: &'a Schedule,
    /// Whether the network is adapted to images like the one to restore.
    pub adapted: bool,
    /// Whether the guidance is the caller's.
    pub own_guidance: bool,
    /// Whether y holds values that no image from black to white explains, which clipping would lose.
    pub beyond_range: bool,
}

/// Noise that differs from value to value.
#[derive(Debug, Clone, Copy)]
pub struct Unevenness {
    /// The largest standard deviation of the noise of a value.
    pub most: NoiseLevel,
    /// The root of the mean variance.
    pub mean: NoiseLevel,
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

    /// Whether the operator is a part of one whose singular values are known.
    pub(super) fn is_part(&self) -> bool {
        self.is_linear && self.unweighted.part_of().is_some()
    }

    /// Whether singular values are known.
    pub(super) fn has_spectrum(&self) -> bool {
        self.is_linear && self.operator.gram().is_some_and(|gram| gram.is_exact_nearby())
    }

    /// Whether estimates are clipped unless it is said, and why; `usual` is why they are where nothing speaks against it.
    pub(super) fn clip(&self, usual: Source) -> (bool, Source) {
        match self.beyond_range {
            false => (true, usual),
            true => (false, Source::rule("the observation holds values beyond black and white")),
        }
    }

    /// A proximal guidance with that trust.
    pub(super) fn proximal(&self, trust: Trust, count_noise: bool) -> GuidanceSettings {
        let sigma = match self.uneven {
            // See RestorePlan: what needs the spectrum of a blur takes noise as if it were alike everywhere.
            Some(Unevenness { mean, .. }) if trust.needs_spectrum() && self.operator.exact_gram().is_none() => mean.0,
            _ => self.solver_sigma(),
        };
        GuidanceSettings::Proximal(ProximalConfig { trust, sigma, count_noise })
    }

    /// The timestep of the network whose noise-to-signal ratio sqrt((1 - alpha_bar)/alpha_bar) is nearest to `ratio`.
    pub(super) fn timestep(&self, ratio: f64) -> u16 {
        u16::try_from(self.schedule.nearest(ratio)).unwrap_or(u16::MAX)
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
        _ => siblings::stages(method, situation, given, &mut choices)?,
    };
    let mut steps = 0;
    for stage in &stages {
        steps += stage.passes(situation.schedule)?.iter().map(|(_, levels)| levels.len()).sum::<usize>();
    }
    Ok((Settings { steps, stages }, choices.0))
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

/// A plain number of network evaluations.
pub(super) fn count(steps: &str) -> Result<usize> {
    match steps.parse::<Respacing>()? {
        Respacing::Sections(counts) if counts.len() == 1 && counts[0] > 0 => Ok(counts[0]),
        _ => Err(Error::config(format!("steps {steps:?}: this method takes a number of network evaluations"))),
    }
}
