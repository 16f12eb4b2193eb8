//! Noise schedules and the posterior coefficients of Eq. 3-5, all in f64.
//!
//! A [`Schedule`] is either the one a network was trained with, or that one respaced to fewer steps;
//! in both cases [`Schedule::timestep`] is the original index that the network receives. Steps count 0..len; the
//! network sees 0..1000.

use crate::{Error, Result};

/// 0-based index into the original schedule. The paper's t is this index plus 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestep(pub u16);

/// Families of beta schedules.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum BetaSchedule {
    /// Linear from 1e-4 to 0.02 at 1000 steps, scaled by 1000/T (guided-diffusion's `linear`).
    Linear,
    /// alpha_bar(t) = cos^2((t + 0.008)/1.008 pi/2), betas at most 0.999 (improved diffusion).
    Cosine,
    /// Linear in sqrt(beta) between the two ends (latent diffusion's `linear`, diffusers' `scaled_linear`).
    ScaledLinear {
        /// First beta.
        start: f64,
        /// Last beta.
        end: f64,
    },
}

impl BetaSchedule {
    /// The betas of `steps` steps.
    pub fn betas(self, steps: usize) -> Vec<f64> {
        let linspace = |start: f64, end: f64| {
            let step = if steps > 1 { (end - start) / (steps - 1) as f64 } else { 0.0 };
            (0..steps).map(move |i| if i + 1 == steps && steps > 1 { end } else { start + step * i as f64 })
        };
        match self {
            Self::Linear => {
                let scale = 1000.0 / steps as f64;
                linspace(scale * 1e-4, scale * 0.02).collect()
            }
            Self::Cosine => {
                let alpha_bar = |t: f64| ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
                let n = steps as f64;
                (0..steps).map(|i| (1.0 - alpha_bar((i + 1) as f64 / n) / alpha_bar(i as f64 / n)).min(0.999)).collect()
            }
            Self::ScaledLinear { start, end } => linspace(start.sqrt(), end.sqrt()).map(|b| b * b).collect(),
        }
    }
}

/// Which steps of the original schedule a sampler visits (guided-diffusion's `timestep_respacing`).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Respacing {
    /// Every step.
    All,
    /// `"a,b,c"`: the schedule cut into equal sections with that many steps each; `"N"` is one section,
    /// with the first step 0 and the last T-1.
    Sections(Vec<usize>),
    /// `"ddimN"`: a constant integer stride from 0 (the last step is then before T-1).
    Stride(usize),
}

impl std::str::FromStr for Respacing {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = |s: &str| {
            s.trim()
                .parse::<usize>()
                .map_err(|_| Error::config(format!("steps {text:?}: expected \"N\", \"a,b,c\" or \"ddimN\"")))
        };
        match text.strip_prefix("ddim") {
            Some(n) => Ok(Self::Stride(number(n)?)),
            None if text.is_empty() => Ok(Self::All),
            None => Ok(Self::Sections(text.split(',').map(number).collect::<Result<_>>()?)),
        }
    }
}

impl Respacing {
    /// The original indices kept, ascending.
    ///
    /// # Errors
    /// [`Error::Config`] when the schedule of `total` steps cannot be divided that way.
    pub fn indices(&self, total: usize) -> Result<Vec<usize>> {
        let kept = match self {
            Self::All => (0..total).collect(),
            Self::Stride(count) => (1..total.max(2))
                .map(|stride| (0..total).step_by(stride).collect::<Vec<_>>())
                .find(|kept| kept.len() == *count)
                .ok_or_else(|| Error::config(format!("no integer stride visits {count} of {total} steps")))?,
            Self::Sections(counts) => {
                let sections = counts.len().max(1);
                let (size_per, extra) = (total / sections, total % sections);
                let mut kept = Vec::new();
                let mut start = 0;
                for (i, &count) in counts.iter().enumerate() {
                    let size = size_per + usize::from(i < extra);
                    if size < count {
                        return Err(Error::config(format!("a section of {size} steps has no {count} steps to visit")));
                    }
                    let stride = if count <= 1 { 1.0 } else { (size - 1) as f64 / (count - 1) as f64 };
                    let mut position = 0.0_f64;
                    for _ in 0..count {
                        kept.push(start + position.round_ties_even() as usize);
                        position += stride;
                    }
                    start += size;
                }
                kept.dedup();
                kept
            }
        };
        if kept.is_empty() {
            return Err(Error::config("at least one sampling step is needed"));
        }
        Ok(kept)
    }
}

/// How the variance of a reverse step is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VarianceKind {
    /// The network interpolates between beta-tilde and beta in the logarithm (learned sigma).
    LearnedRange,
    /// beta, with the first entry replaced by beta-tilde of the second.
    FixedLarge,
    /// beta-tilde.
    FixedSmall,
}

/// A schedule: betas and the coefficients of Eq. 3-5.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    timesteps: Vec<Timestep>,
    beta: Vec<f64>,
    alpha_bar: Vec<f64>,
    original_alpha_bar: Vec<f64>,
    /// alpha_bar where the last step ends.
    end: f64,
}

impl Schedule {
    /// The schedule a network was trained with.
    ///
    /// # Errors
    /// [`Error::Config`] for no steps, more than 65,536, or a beta outside (0, 1).
    pub fn new(kind: BetaSchedule, steps: usize) -> Result<Self> {
        Self::from_betas(kind.betas(steps))
    }

    /// From explicit betas, each in (0, 1).
    ///
    /// # Errors
    /// As [`Schedule::new`].
    pub fn from_betas(beta: Vec<f64>) -> Result<Self> {
        if beta.is_empty() || beta.len() > 1 << 16 {
            return Err(Error::config(format!("a schedule must have 1 to 65536 steps, found {}", beta.len())));
        }
        if let Some(b) = beta.iter().find(|b| !(**b > 0.0 && **b < 1.0)) {
            return Err(Error::config(format!("beta {b} is not between 0 and 1")));
        }
        let alpha_bar = cumulative_alpha(&beta);
        Ok(Self {
            timesteps: (0..beta.len()).map(|i| Timestep(i as u16)).collect(),
            original_alpha_bar: alpha_bar.clone(),
            alpha_bar,
            beta,
            end: 1.0,
        })
    }

    /// The same process visited at fewer steps: beta_k = 1 - alpha_bar_k / alpha_bar_(k-1) over the kept ones.
    ///
    /// # Errors
    /// [`Error::Config`] when `respacing` does not fit the number of steps.
    pub fn respaced(&self, respacing: &Respacing) -> Result<Self> {
        self.at(&respacing.indices(self.len())?)
    }

    /// The same process visited at the given ascending steps of this schedule.
    ///
    /// # Errors
    /// [`Error::Config`] when `steps` is empty, not ascending, or beyond the end.
    pub fn at(&self, steps: &[usize]) -> Result<Self> {
        if steps.is_empty() || steps.windows(2).any(|w| w[0] >= w[1]) || steps[steps.len() - 1] >= self.len() {
            return Err(Error::config(format!("steps must be ascending and below {}", self.len())));
        }
        let mut previous = 1.0;
        let beta: Vec<f64> = steps
            .iter()
            .map(|&i| {
                let b = 1.0 - self.alpha_bar[i] / previous;
                previous = self.alpha_bar[i];
                b
            })
            .collect();
        Ok(Self {
            timesteps: steps.iter().map(|&i| self.timesteps[i]).collect(),
            alpha_bar: cumulative_alpha(&beta),
            original_alpha_bar: self.original_alpha_bar.clone(),
            beta,
            end: 1.0,
        })
    }

    /// The same schedule whose last step ends at the alpha_bar of the first step of training instead of at 1, as latent
    /// diffusion's samplers do (diffusers' `set_alpha_to_one: false`). Only [`Schedule::alpha_bar_prev`] and
    /// what is made of it know of that; betas stay.
    #[must_use]
    pub fn ending_at_first(self) -> Self {
        Self { end: self.original_alpha_bar[0], ..self }
    }

    /// Number of steps.
    #[allow(clippy::len_without_is_empty)] // never empty by construction
    pub fn len(&self) -> usize {
        self.beta.len()
    }

    /// Whether steps of the original schedule are left out.
    pub fn is_respaced(&self) -> bool {
        self.len() != self.original_alpha_bar.len()
    }

    /// Whether this is `trained`, or `trained` visited at fewer steps.
    pub fn is_from(&self, trained: &Self) -> bool {
        self.original_alpha_bar == trained.alpha_bar
    }

    /// The index into the original schedule that the network receives at step `i`.
    pub fn timestep(&self, i: usize) -> Timestep {
        self.timesteps[i]
    }

    /// Number of steps of the original schedule.
    pub fn original_len(&self) -> usize {
        self.original_alpha_bar.len()
    }

    /// alpha_bar of the original schedule at `t`.
    pub fn original_alpha_bar(&self, t: Timestep) -> f64 {
        self.original_alpha_bar[usize::from(t.0)]
    }

    /// The step whose noise-to-signal ratio sqrt((1 - alpha_bar)/alpha_bar) is nearest to `ratio`, in the logarithm.
    pub fn nearest(&self, ratio: f64) -> usize {
        let distance = |i: usize| (self.ratio(i) / ratio).ln().abs();
        (0..self.len()).min_by(|a, b| distance(*a).total_cmp(&distance(*b))).unwrap_or(0)
    }

    /// The noise-to-signal ratio sqrt((1 - alpha_bar_i)/alpha_bar_i).
    pub fn ratio(&self, i: usize) -> f64 {
        ((1.0 - self.alpha_bar[i]) / self.alpha_bar[i]).sqrt()
    }

    /// beta_i.
    pub fn beta(&self, i: usize) -> f64 {
        self.beta[i]
    }

    /// alpha_i = 1 - beta_i.
    pub fn alpha(&self, i: usize) -> f64 {
        1.0 - self.beta[i]
    }

    /// alpha_bar_i, the product of alpha up to and including i.
    pub fn alpha_bar(&self, i: usize) -> f64 {
        self.alpha_bar[i]
    }

    /// alpha_bar of the step before i; before the first 1, unless it ends elsewhere ([`Schedule::ending_at_first`]).
    pub fn alpha_bar_prev(&self, i: usize) -> f64 {
        if i == 0 { self.end } else { self.alpha_bar[i - 1] }
    }

    /// beta-tilde_i = beta_i (1 - alpha_bar_(i-1)) / (1 - alpha_bar_i), the variance of q(x_(i-1) | x_i, x_0); 0 at i = 0.
    pub fn posterior_variance(&self, i: usize) -> f64 {
        self.beta[i] * (1.0 - self.alpha_bar_prev(i)) / (1.0 - self.alpha_bar[i])
    }

    /// ln beta-tilde_i, with entry 0 (which would be ln 0) replaced by entry 1.
    pub fn posterior_log_variance_clipped(&self, i: usize) -> f64 {
        if self.len() == 1 {
            // One step only: no second entry to borrow; the step adds no noise, so the value is never used.
            return self.beta[0].ln();
        }
        self.posterior_variance(i.max(1)).ln()
    }

    /// Coefficients (of x0, of x_i) in the mean of q(x_(i-1) | x_i, x_0): the posterior mean of Eq. 5.
    pub fn posterior_mean_coefficients(&self, i: usize) -> (f64, f64) {
        let (prev, bar) = (self.alpha_bar_prev(i), self.alpha_bar[i]);
        (self.beta[i] * prev.sqrt() / (1.0 - bar), (1.0 - prev) * self.alpha(i).sqrt() / (1.0 - bar))
    }

    /// ln of the fixed variance at step i; `None` for [`VarianceKind::LearnedRange`], which needs the network.
    pub fn fixed_log_variance(&self, kind: VarianceKind, i: usize) -> Option<f64> {
        match kind {
            VarianceKind::LearnedRange => None,
            VarianceKind::FixedLarge if i == 0 => Some(self.posterior_log_variance_clipped(0)),
            VarianceKind::FixedLarge => Some(self.beta[i].ln()),
            VarianceKind::FixedSmall => Some(self.posterior_log_variance_clipped(i)),
        }
    }
}

fn cumulative_alpha(beta: &[f64]) -> Vec<f64> {
    beta.iter()
        .scan(1.0, |product, b| {
            *product *= 1.0 - b;
            Some(*product)
        })
        .collect()
}

#[cfg(test)]
mod tests;
