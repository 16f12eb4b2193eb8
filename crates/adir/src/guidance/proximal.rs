//! Data steps that weigh y against the estimate by what each is worth at the present noise level.
//!
//! With A = U S V^T every step here moves an x0 estimate the share h of the way to y, direction by direction:
//! V^T x0 + h (U^T y / s - V^T x0). What differs is h: the proximal step takes h = c s^2 / (1 + c s^2) with
//! c = r^2 / sigma^2, r^2 the error of the estimate; DDNM+ takes y as it is while its noise is below that of the next
//! level, and DDRM does the same from another start. The noise of y that an estimate takes over is handed on as
//! [`YNoise`], so that a sampler adds only what is missing.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Correction, Guidance, StepState, Target, check_observation, check_sigma, residual_of};
use crate::models::EstimateErrors;
use crate::operator::{LinearOperator, Solve, Spectrum, least_damping, solve};
use crate::schedule::Schedule;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Solving a blur whose borders couple.
const SOLVE: Solve = Solve { steps: 16, tolerance: 1e-3 };
/// The same where y has noise: most of what is left of the residual then is noise.
const SOLVE_NOISY: Solve = Solve { steps: 16, tolerance: 1e-2 };

/// What y is worth against an x0 estimate of noise level t.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Trust {
    /// c = `factor` r_t^2 / sigma^2, with r_t^2 the mean squared error of the network's x0 estimates, as measured
    /// ([`EstimateErrors`]) or else by [`EstimateErrors::by_formula`]. 1 is the weight for white errors; those of networks are coloured, and 8 is best.
    Calibrated {
        /// More than 0.
        factor: f64,
    },
    /// c = (1 - alpha_bar_t) / (alpha_bar_t lambda sigma^2): DiffPIR (Zhu et al. 2023, Algorithm 1).
    Annealed {
        /// DiffPIR's lambda, more than 0.
        lambda: f64,
    },
    /// c = `factor` (1 - alpha_bar') / (alpha_bar' sigma^2): y against the noise of the next level. What [`Trust::Ddnm`] is
    /// where singular values are known, for operators that are a part of one: with a factor of 1, half of y is taken where
    /// its noise is that of the level.
    NextLevel {
        /// More than 0. From 4 upwards y brings more noise than the level has.
        factor: f64,
    },
    /// DDNM+ (Wang et al. 2023, Eq. 19 in the form of its code): h = 1 where the noise of y / s is below that of the next
    /// level, else the share whose noise is sqrt(1 - eta^2) of it. Needs the singular values of A.
    Ddnm {
        /// Share of fresh noise, 0 to 1; that of the sampler.
        eta: f64,
    },
    /// DDRM (Kawar et al. 2022, Eq. 7-8): the same with h = `eta_b` where the noise of y / s is below that of the next level,
    /// and no eps in what y says, whether it has noise or not. Needs the singular values of A.
    Ddrm {
        /// Share of fresh noise, 0 to 1; that of the sampler.
        eta: f64,
        /// The paper's eta_b, 0 to 1.
        eta_b: f64,
    },
    /// c = (1 - alpha_bar) / (alpha_bar sigma^2) at the first level of a pass, as the data step that ends the pass; none
    /// before. DAPS (Zhang et al. 2024): the estimate at the end of a pass has an error of the level it began at.
    Decoupled,
}

impl Trust {
    /// Whether it needs the singular values of A, or of what A is a part of.
    pub fn needs_spectrum(self) -> bool {
        matches!(self, Self::Ddnm { .. } | Self::Ddrm { .. } | Self::NextLevel { .. })
    }
}

/// The noise of y in an x0 estimate, direction by direction of A A^T.
#[derive(Clone)]
pub struct YNoise {
    spectrum: Spectrum,
    /// From an eigenvalue to the standard deviation of y's noise in the estimate and the share h of y.
    of: Arc<dyn Fn(f64) -> (f64, f64) + Send + Sync>,
}

impl std::fmt::Debug for YNoise {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("YNoise").field("spectrum", &self.spectrum).finish_non_exhaustive()
    }
}

impl YNoise {
    /// Noise of standard deviation `total`, less what is there already once the estimate is scaled by `scale`: `fresh`
    /// standard normal, and `kept` of `eps` in directions that y does not decide. Where y is a part of what has a
    /// spectrum, the rest gets as much of `draw` as y has noise.
    ///
    /// # Shapes
    /// All `[n, c, h, w]`; `draw` gets its shape, another one, as an argument.
    ///
    /// # Errors
    /// Those of the operator and of the draw.
    pub fn fill(
        &self,
        scale: f64,
        total: f64,
        kept: f64,
        fresh: &Tensor<4>,
        eps: &Tensor<4>,
        draw: impl FnOnce(&Tensor<4>) -> Result<Tensor<4>>,
    ) -> Result<Tensor<4>> {
        let of = |eigenvalue: f64| {
            let (noise, share) = (self.of)(eigenvalue);
            let kept = kept * (1.0 - share);
            let fresh = (total * total - (scale * noise).powi(2) - kept * kept).max(0.0).sqrt();
            (fresh, kept)
        };
        let unobserved = (total * total - kept * kept).max(0.0).sqrt();
        let over = |eigenvalue: f64, amount: f64| if eigenvalue > 0.0 { amount / eigenvalue } else { 0.0 };
        let g_fresh = |v: f64| over(v, of(v).0 - unobserved);
        let g_eps = |v: f64| over(v, of(v).1 - kept);
        let g_rest = |v: f64| over(v.sqrt(), scale * (self.of)(v).0);
        let mut observed: Vec<(&Tensor<4>, &(dyn Fn(f64) -> f64 + Sync))> = vec![(fresh, &g_fresh)];
        let mut noise = fresh.clone().mul_scalar(unobserved);
        if kept != 0.0 {
            observed.push((eps, &g_eps));
            noise = noise + eps.clone().mul_scalar(kept);
        }
        Ok(noise + self.spectrum.back(&observed, draw, &g_rest)?)
    }
}

/// Settings of [`ProximalGuidance`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProximalConfig {
    /// The weight of y.
    pub trust: Trust,
    /// Standard deviation of the noise in y, in [-1, 1] units. At 0, A x = y is solved exactly whatever the trust.
    pub sigma: f64,
    /// Whether [`Correction::y_noise`] is given, if the eigenvalues of A A^T are known.
    pub count_noise: bool,
}

/// Guidance of x0 estimates towards y = A x + e by a proximal step.
#[derive(Debug, Clone)]
pub struct ProximalGuidance {
    operator: Arc<dyn LinearOperator>,
    y: Tensor<4>,
    config: ProximalConfig,
    spectrum: Option<Spectrum>,
    /// When a system is solved well enough for a y with noise.
    enough: Solve,
}

impl ProximalGuidance {
    /// Guidance towards `y`, the observation through `operator`.
    ///
    /// # Shapes
    /// `y`: `[1, range]` for one observation of all samples, or `[n, range]`; in the precision and on the device
    /// of the samples.
    ///
    /// # Errors
    /// [`Error::Config`] when a number is out of its range, `y` is not of the operator's range, or DDNM+ is asked for an
    /// operator whose singular values are not known.
    pub fn new(operator: Arc<dyn LinearOperator>, y: Tensor<4>, config: ProximalConfig) -> Result<Self> {
        check_observation(operator.as_ref(), &y)?;
        let positive = |value: f64, name: &str| {
            let right = value.is_finite() && value > 0.0;
            if right { Ok(()) } else { Err(Error::config(format!("{name} {value}: expected a number above 0"))) }
        };
        let spectrum = Spectrum::of(&operator);
        match config.trust {
            Trust::Calibrated { factor } | Trust::NextLevel { factor } => positive(factor, "the trust in y")?,
            Trust::Annealed { lambda } => positive(lambda, "lambda")?,
            Trust::Ddnm { eta } | Trust::Ddrm { eta, .. } if !(0.0..=1.0).contains(&eta) => {
                return Err(Error::config(format!("eta = {eta}: expected 0 to 1")));
            }
            Trust::Ddrm { eta_b, .. } if !(0.0..=1.0).contains(&eta_b) => {
                return Err(Error::config(format!("eta_b = {eta_b}: expected 0 to 1")));
            }
            Trust::Ddnm { .. } | Trust::Ddrm { .. } if spectrum.as_ref().and_then(Spectrum::exact).is_none() => {
                return Err(Error::config(
                    "DDNM and DDRM need the singular values of the operator, which are known for masks, down-sampling and \
                     circular blurs; use another method",
                ));
            }
            Trust::Ddnm { .. } | Trust::Ddrm { .. } | Trust::Decoupled => {}
        }
        check_sigma(config.sigma)?;
        // Where weights differ, what is left is not white.
        let weighted = operator.gram().is_some_and(|gram| gram.is_weighted());
        let enough = if weighted { SOLVE } else { SOLVE_NOISY };
        Ok(Self { operator, y, config, spectrum, enough })
    }

    /// The share h of the way to y for an eigenvalue s^2 of A A^T, at step `index`.
    fn share(&self, schedule: &Schedule, index: usize, errors: Option<&EstimateErrors>) -> Share {
        let ratio = |alpha_bar: f64| (1.0 - alpha_bar) / alpha_bar;
        let (alpha_bar, next) = (schedule.alpha_bar(index), schedule.alpha_bar_prev(index));
        let sigma = self.config.sigma;
        let spectral = |eta: f64, most: f64| Share::Spectral {
            level: if sigma > 0.0 { ratio(next).sqrt() / sigma } else { f64::INFINITY },
            part: (1.0 - eta * eta).max(0.0).sqrt(),
            most,
        };
        match self.config.trust {
            Trust::Decoupled if index > 0 => Share::None,
            Trust::Ddrm { eta, eta_b } => spectral(eta, eta_b),
            _ if sigma == 0.0 => Share::All,
            Trust::Calibrated { factor } => {
                let error = errors.map_or_else(|| EstimateErrors::by_formula(alpha_bar), |table| table.at(alpha_bar));
                Share::Proximal(factor * error / (sigma * sigma))
            }
            // The last step has no next level whose noise could hide y's.
            Trust::NextLevel { .. } if index == 0 => Share::None,
            Trust::NextLevel { factor } => Share::Proximal(factor * ratio(next) / (sigma * sigma)),
            Trust::Annealed { lambda } => Share::Proximal(ratio(alpha_bar) / (lambda * sigma * sigma)),
            Trust::Ddnm { eta } => spectral(eta, 1.0),
            Trust::Decoupled => Share::Proximal(ratio(schedule.alpha_bar(schedule.len() - 1)) / (sigma * sigma)),
        }
    }

    /// A^T g(A A^T) r with g = h / s^2.
    fn step(&self, residual: &Tensor<4>, share: Share) -> Result<Tensor<4>> {
        let gram = self.spectrum.as_ref().and_then(Spectrum::exact);
        let solved = match (share, gram) {
            (Share::Proximal(c), _) => solve(self.operator.as_ref(), 1.0, 1.0 / c, residual, &self.enough)?,
            (share, Some(gram)) => gram.filter(residual, |v| if v > 0.0 { share.of(v) / v } else { 0.0 })?,
            (_, None) => {
                let damping = least_damping(self.operator.as_ref());
                solve(self.operator.as_ref(), 1.0, damping, residual, &SOLVE)?
            }
        };
        self.operator.adjoint(&solved)
    }
}

/// The share h as a function of the eigenvalue.
#[derive(Debug, Clone, Copy)]
enum Share {
    /// 0.
    None,
    /// 1.
    All,
    /// c s^2 / (1 + c s^2).
    Proximal(f64),
    /// `most` where s `level` >= 1, else `part` s `level`.
    Spectral { level: f64, part: f64, most: f64 },
}

impl Share {
    fn of(self, eigenvalue: f64) -> f64 {
        match self {
            _ if eigenvalue <= 0.0 => 0.0,
            Self::None => 0.0,
            Self::All => 1.0,
            Self::Proximal(c) => c * eigenvalue / (1.0 + c * eigenvalue),
            Self::Spectral { level, part, most } => match eigenvalue.sqrt() * level {
                reach if reach >= 1.0 => most,
                reach => part * reach,
            },
        }
    }
}

impl Guidance for ProximalGuidance {
    /// # Errors
    /// [`Error::Config`] where the mean of an ancestral step is to be corrected, and when the shapes of state and
    /// observation do not agree.
    fn correct(&self, state: &StepState<'_>, target: Target<'_>) -> Result<Correction> {
        if let Target::Mean { .. } = target {
            return Err(Error::config("a proximal guidance corrects x0 estimates: use a sampler of few steps"));
        }
        let (residual, residual_rms) = residual_of(self.operator.as_ref(), &self.y, state.x0)?;
        // DDNM+ and DDRM leave the estimate of the last step as it is, too.
        let share = self.share(state.schedule, state.index, state.errors);
        if let Share::None = share {
            return Ok(Correction::new(None, residual_rms));
        }
        let shift = self.step(&residual, share)?.neg();
        let sigma = self.config.sigma;
        let spectral = matches!(share, Share::Spectral { .. });
        let y_noise = match &self.spectrum {
            // A near Gram matrix would not do: where it is wrongly near zero, what is missing is overrated without bound.
            Some(spectrum) if self.config.count_noise && (sigma > 0.0 || spectral) => Some(YNoise {
                spectrum: spectrum.clone(),
                of: Arc::new(move |v| {
                    let h = share.of(v);
                    // DDNM+ and DDRM keep nothing of eps wherever y says anything at all.
                    let decided = if spectral { f64::from(v > 0.0) } else { h };
                    (if v > 0.0 { h * sigma / v.sqrt() } else { 0.0 }, decided)
                }),
            }),
            _ => None,
        };
        Ok(Correction { y_noise, ..Correction::new(Some(shift), residual_rms) })
    }

    /// DDRM's (Eq. 6): y where its noise is below that of the level, with what is missing of that noise.
    ///
    /// # Errors
    /// [`Error::Config`] for any other trust.
    fn start(&self, alpha_bar: f64, noise: &Tensor<4>) -> Result<Tensor<4>> {
        let (Trust::Ddrm { .. }, Some(spectrum)) = (self.config.trust, &self.spectrum) else {
            return Err(Error::config("only DDRM starts from the observation in this way"));
        };
        let Some(gram) = spectrum.exact() else {
            return Err(Error::config("DDRM needs the singular values of the operator"));
        };
        let sigma = self.config.sigma;
        let level = ((1.0 - alpha_bar) / alpha_bar).sqrt();
        let decided = move |v: f64| v > 0.0 && sigma <= level * v.sqrt();
        let mean = gram.filter(&self.y, |v| if decided(v) { 1.0 / v } else { 0.0 })?;
        let mean = self.operator.adjoint(&mean)?.mul_scalar(alpha_bar.sqrt());
        let y_noise = YNoise {
            spectrum: spectrum.clone(),
            of: Arc::new(move |v| if decided(v) { (sigma / v.sqrt(), 1.0) } else { (0.0, 0.0) }),
        };
        // With the spectrum of A itself there is nothing to draw.
        let nothing = |like: &Tensor<4>| Ok(like.zeros_like());
        Ok(mean + y_noise.fill(alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt(), 0.0, noise, noise, nothing)?)
    }
}
