//! Complete settings of a sampling run, as data: what a record holds.

use serde::{Deserialize, Serialize};

use crate::guidance::{AdirConfig, ProximalConfig};
use crate::sampler::{EpsAfterGuidance, Mixture, Start};
use crate::schedule::{Respacing, Schedule};
use crate::{Error, Result};

/// Complete settings of a sampling run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Settings {
    /// Network evaluations per sample.
    pub steps: usize,
    /// The passes down the noise levels, in turn.
    pub stages: Vec<StageSettings>,
}

/// One pass down the noise levels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct StageSettings {
    /// Where it begins. For the first stage, the estimate is what y alone says: see [`crate::restore`].
    pub start: Start,
    /// The noise levels it visits.
    pub levels: Levels,
    /// Whether x0 estimates are limited to [-1, 1].
    pub clip_x0: bool,
    /// The sampler.
    pub sampler: SamplerSettings,
    /// The guidance.
    pub guidance: GuidanceSettings,
}

/// The noise levels of a stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Levels {
    /// All of the network's range, in guided-diffusion's respacing words: `N`, `a,b,c` or `ddimN`.
    Respaced(String),
    /// `count` timesteps from 0 to `first`, spaced as powers: first (k / (count - 1))^power, dense at low noise.
    Powers {
        /// The first and noisiest timestep, an index into the network's own schedule.
        first: u16,
        /// How many; fewer where neighbouring ones would be the same.
        count: usize,
        /// The exponent, 1 for even steps.
        power: i32,
    },
}

impl Levels {
    /// The schedule that visits them.
    ///
    /// # Errors
    /// [`Error::Config`] when they do not fit the network's schedule.
    pub fn schedule(&self, trained: &Schedule) -> Result<Schedule> {
        match self {
            Self::Respaced(words) => trained.respaced(&words.parse::<Respacing>()?),
            Self::Powers { first, count: 1, .. } => trained.at(&[usize::from(*first)]),
            Self::Powers { count, .. } if *count > trained.len() => {
                Err(Error::config(format!("{count} steps: the network knows {} noise levels", trained.len())))
            }
            Self::Powers { count: 0, .. } => Err(Error::config("at least one sampling step is needed")),
            Self::Powers { first, count, power } => {
                let at = |k: usize| {
                    let share = k as f64 / (count - 1) as f64;
                    (f64::from(*first) * share.powi(*power)).round() as usize
                };
                let mut steps: Vec<usize> = (0..*count).map(at).collect();
                steps.dedup();
                trained.at(&steps)
            }
        }
    }
}

/// A sampler with its settings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SamplerSettings {
    /// Algorithm 1: ancestral sampling.
    Ancestral,
    /// DDIM with guidance of the x0 estimate.
    FewStep {
        /// Share of fresh noise in each step, 0 to 1.
        eta: f64,
        /// The eps that belongs to an x0 estimate that guidance has moved.
        eps_after_guidance: EpsAfterGuidance,
    },
    /// Estimate, correction, new noise: see [`crate::sampler::RenoiseConfig`].
    Renoise {
        /// What the noise of the next level is made of.
        mixture: Mixture,
        /// The eps that belongs to an x0 estimate that guidance has moved.
        eps_after_guidance: EpsAfterGuidance,
    },
}

/// A guidance with its settings.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum GuidanceSettings {
    /// ADIR's closed form (Eq. 16-17).
    Adir(AdirConfig),
    /// A proximal step.
    Proximal(ProximalConfig),
    /// None. The observation then counts only as the start.
    None,
}
