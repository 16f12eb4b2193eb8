//! Complete settings of a sampling run, as data: what a record holds.

use serde::{Deserialize, Serialize};

use crate::guidance::{AdirConfig, DpsConfig, PigdmConfig, ProximalConfig};
use crate::sampler::{EpsAfterGuidance, Mixture, Start};
use crate::schedule::{Respacing, Schedule};
use crate::{Error, Result};

/// Noise-to-signal ratio at the end of a pass of [`SamplerSettings::Decoupled`], and the degree of its spacing, as in
/// DAPS's code.
const PASS_END: f64 = 0.01;
const PASS_POWER: i32 = 7;

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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Levels {
    /// All of the network's range, in guided-diffusion's respacing words: `N`, `a,b,c` or `ddimN`.
    Respaced(String),
    /// `count` timesteps from `last` to `first`, spaced as powers: last + (first - last) (k / (count - 1))^power, dense at
    /// low noise.
    Powers {
        /// The first and noisiest timestep, an index into the network's own schedule.
        first: u16,
        /// The last one.
        #[serde(default, skip_serializing_if = "is_zero")]
        last: u16,
        /// How many; fewer where neighbouring ones would be the same.
        count: usize,
        /// The exponent, 1 for even steps.
        power: i32,
    },
    /// `count` timesteps from the last to 0 at 1 - sqrt(k / (count - 1)) of the whole, dense at low noise: DiffPIR's.
    Roots {
        /// How many; fewer where neighbouring ones would be the same.
        count: usize,
    },
    /// The timesteps whose noise-to-signal ratios sqrt((1 - alpha_bar)/alpha_bar) are nearest to `count` from `first` down
    /// to `last`, even steps in their root of degree `power`: those of Karras et al. (2022).
    Ratios {
        /// The highest.
        first: f64,
        /// The lowest.
        last: f64,
        /// How many; fewer where neighbouring ones would be the same.
        count: usize,
        /// The degree.
        power: i32,
    },
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(t: &u16) -> bool {
    *t == 0
}

impl Levels {
    /// The schedule that visits them.
    ///
    /// # Errors
    /// [`Error::Config`] when they do not fit the network's schedule.
    pub fn schedule(&self, trained: &Schedule) -> Result<Schedule> {
        let count = match self {
            Self::Respaced(words) => return trained.respaced(&words.parse::<Respacing>()?),
            Self::Powers { first, count: 1, .. } => return trained.at(&[usize::from(*first)]),
            Self::Powers { count, .. } | Self::Roots { count } | Self::Ratios { count, .. } => *count,
        };
        if count > trained.len() {
            return Err(Error::config(format!("{count} steps: the network knows {} noise levels", trained.len())));
        }
        if count == 0 {
            return Err(Error::config("at least one sampling step is needed"));
        }
        let share = |k: usize| k as f64 / (count - 1).max(1) as f64;
        let mut steps: Vec<usize> = match self {
            Self::Respaced(_) => Vec::new(),
            Self::Powers { first, last, power, .. } => {
                let [first, last] = [first, last].map(|t| f64::from(*t));
                (0..count).map(|k| (last + (first - last) * share(k).powi(*power)).round() as usize).collect()
            }
            Self::Roots { .. } => {
                let last = trained.len() - 1;
                let down = |k: usize| (trained.len() as f64 * share(k).sqrt()) as usize;
                (0..count).rev().map(|k| last - down(k).min(last)).collect()
            }
            Self::Ratios { first, last, power, .. } => {
                let [first, last] = [first, last].map(|ratio| ratio.powf(1.0 / f64::from(*power)));
                (0..count).rev().map(|k| trained.nearest((first + share(k) * (last - first)).powi(*power))).collect()
            }
        };
        steps.dedup();
        trained.at(&steps)
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
    /// Every level of the stage is a pass of its own, which starts in fresh noise around the estimate of the one before:
    /// deterministic steps down to an estimate, and guidance at its end (DAPS, Zhang et al. 2024).
    Decoupled {
        /// Steps of a pass.
        steps: usize,
    },
}

impl StageSettings {
    /// The passes down the noise levels that it consists of, with their starts: one, but for
    /// [`SamplerSettings::Decoupled`].
    ///
    /// # Errors
    /// As [`Levels::schedule`].
    pub fn passes(&self, trained: &Schedule) -> Result<Vec<(Start, Schedule)>> {
        let levels = self.levels.schedule(trained)?;
        let SamplerSettings::Decoupled { steps } = self.sampler else { return Ok(vec![(self.start, levels)]) };
        let pass = |i: usize| {
            let start = if i + 1 == levels.len() { self.start } else { Start::Estimate };
            let pass = Levels::Ratios { first: levels.ratio(i), last: PASS_END, count: steps, power: PASS_POWER };
            Ok((start, pass.schedule(trained)?))
        };
        (0..levels.len()).rev().map(pass).collect()
    }
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
    /// A gradient through the network: DPS.
    Dps(DpsConfig),
    /// A gradient through the network: PiGDM.
    Pigdm(PigdmConfig),
    /// None. The observation then counts only as the start.
    None,
}
