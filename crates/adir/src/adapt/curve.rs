//! The held-out loss along a training, and what it says: which weights to keep, when to stop, what more would give.
//!
//! Every measurement takes the same crops, timesteps and noise, so that the difference of two of them is far more precise
//! than either. A difference counts where it exceeds its standard error.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::config::Trained;
use crate::io::tally::counted;
use crate::models::EstimateErrors;

/// Steps after which the loss is measured: doubling at first, then evenly.
const FIRST: u32 = 25;
const EVERY: u32 = 400;
/// The training stops if the loss has not fallen for as many steps as it had fallen for, but within these bounds.
const LEAST_WAIT: u32 = 100;
const MOST_WAIT: u32 = 800;
/// The least fall of the loss, as a share of what it was, with which adapted weights are used: photographs on which it fell by
/// less got worse, or stayed as they were (docs/results/adaptation.md).
const LEAST_FALL: f64 = 0.02;
/// Number of ranges of timesteps that are reported.
const BANDS: usize = 5;

/// A measurement of the held-out loss.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// Steps taken.
    pub step: u32,
    /// Mean loss, weighted by noise level as in training.
    pub loss: f64,
    /// Standard error of its difference to the loss before the training.
    pub standard_error: f64,
}

/// The held-out loss in a range of timesteps, in which more is more noise.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Band {
    /// The first timestep of the range.
    pub from: u16,
    /// The first one behind it.
    pub to: u16,
    /// Mean loss with the base weights.
    pub before: f64,
    /// Mean loss with the adapted weights.
    pub after: f64,
    /// Standard error of the difference.
    pub standard_error: f64,
}

/// Why a training ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stopped {
    /// All steps were taken that it was given.
    Budget,
    /// The held-out loss had not fallen for long.
    NoGain,
}

/// How much the loss falls per doubling of the number of steps, where the training ended.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slope {
    /// Decrease of the loss per doubling.
    pub per_doubling: f64,
    /// Its standard error.
    pub standard_error: f64,
}

/// Held-out losses of a training, weighted by noise level as in training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeldOut {
    /// With the base weights.
    pub before: f64,
    /// With the adapted weights that are kept.
    pub after: f64,
    /// Mean decrease over the crops, in standard errors; above 0 is better.
    pub significance: f64,
    /// The weights that were trained; absent in what earlier versions wrote, as all that follows.
    #[serde(default)]
    pub trained: Option<Trained>,
    /// The number of steps after which the loss was lowest: those weights are kept.
    #[serde(default)]
    pub best: Option<u32>,
    /// All measurements.
    #[serde(default)]
    pub curve: Vec<Point>,
    /// Of the weights that [`Trained::Auto`] gave up: their measurements until then.
    #[serde(default)]
    pub given_up: Vec<Point>,
    /// Why it ended.
    #[serde(default)]
    pub stopped: Option<Stopped>,
    /// What more training would give.
    #[serde(default)]
    pub slope: Option<Slope>,
    /// The same losses by noise level.
    #[serde(default)]
    pub bands: Vec<Band>,
    /// The error of the adapted network's x0 estimates.
    #[serde(default)]
    pub errors: Option<EstimateErrors>,
}

impl HeldOut {
    /// Whether the adaptation lowered the loss by more than its standard error and by more than 2 %: with less, restorations
    /// were as often worse as better (docs/results/adaptation.md).
    pub fn helped(&self) -> bool {
        self.fell() && self.fall() > LEAST_FALL
    }

    /// Whether the loss fell by more than its standard error.
    pub fn fell(&self) -> bool {
        self.significance > 1.0
    }

    /// By what share of itself the loss fell; below 0 it rose.
    pub fn fall(&self) -> f64 {
        1.0 - self.after / self.before.max(f64::MIN_POSITIVE)
    }
}

impl fmt::Display for HeldOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(trained), Some(best)) = (self.trained, self.best) {
            write!(f, "{trained}, {}, ", counted(best as usize, "step"))?;
        }
        write!(f, "held-out loss {:.5} -> {:.5} ({:+.1} %)", self.before, self.after, -100.0 * self.fall())?;
        match (self.stopped, self.slope) {
            (Some(Stopped::Budget), Some(slope)) if slope.per_doubling > slope.standard_error => {
                write!(f, "; twice the steps would lower it by about {:.5}", slope.per_doubling)
            }
            (Some(Stopped::NoGain), _) => f.write_str("; more steps lowered it no further"),
            _ => Ok(()),
        }
    }
}

/// Mean of `a - b`, and its standard error.
pub(super) fn difference(a: &[f64], b: &[f64]) -> (f64, f64) {
    let n = a.len() as f64;
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    let mean = differences.iter().sum::<f64>() / n;
    let variance = differences.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean, (variance / n).sqrt())
}

pub(super) fn mean(losses: &[f64]) -> f64 {
    losses.iter().sum::<f64>() / losses.len() as f64
}

/// Whether `a` is larger than `b` by more than the standard error of the difference.
pub(super) fn exceeds(a: &[f64], b: &[f64]) -> bool {
    let (mean, error) = difference(a, b);
    mean > error
}

/// The number of steps at the next measurement, after `step` steps of at most `budget`.
pub(super) fn next_measurement(step: u32, budget: u32) -> u32 {
    let next = if step < FIRST {
        FIRST
    } else if step < EVERY {
        // FIRST times the next power of two.
        FIRST << ((step / FIRST).ilog2() + 1)
    } else if step < 2 * EVERY {
        2 * EVERY
    } else {
        (step / EVERY + 1) * EVERY
    };
    if step < budget { next.min(budget) } else { next }
}

/// Losses of every held-out crop along a training.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Curve {
    /// Before the first step.
    pub before: Vec<f64>,
    /// Steps taken and losses, in the order of the steps.
    pub points: Vec<(u32, Vec<f64>)>,
}

impl Curve {
    /// The measurement with the lowest mean loss, if there is one.
    pub fn best(&self) -> Option<&(u32, Vec<f64>)> {
        self.points.iter().min_by(|a, b| mean(&a.1).total_cmp(&mean(&b.1)))
    }

    /// Whether this training should go on in place of `other` after as many steps: its loss is lower, or it is lower than at the
    /// beginning and falls faster, each by more than its standard error. All weights first lose what they gain later.
    pub fn will_beat(&self, other: &Self) -> bool {
        let (Some((_, own)), Some((_, others))) = (self.best(), other.best()) else { return false };
        let fall = |curve: &Self| -> Option<Vec<f64>> {
            let [.., (_, earlier), (_, last)] = curve.points.as_slice() else { return None };
            Some(earlier.iter().zip(last).map(|(a, b)| a - b).collect())
        };
        let falls_faster = || matches!((fall(self), fall(other)), (Some(own), Some(others)) if exceeds(&own, &others));
        exceeds(others, own) || exceeds(&self.before, own) && falls_faster()
    }

    /// Whether the loss has not fallen for as long as it had.
    pub fn has_levelled(&self) -> bool {
        let (mut fallen_until, mut lowest) = (0, &self.before);
        for (step, losses) in &self.points {
            if exceeds(lowest, losses) {
                (fallen_until, lowest) = (*step, losses);
            }
        }
        let last = self.points.last().map_or(0, |(step, _)| *step);
        last - fallen_until >= fallen_until.clamp(LEAST_WAIT, MOST_WAIT)
    }

    /// All measurements, in short.
    pub fn summary(&self) -> Vec<Point> {
        let point = |(step, losses): &(u32, Vec<f64>)| Point {
            step: *step,
            loss: mean(losses),
            standard_error: difference(&self.before, losses).1,
        };
        self.points.iter().map(point).collect()
    }

    fn slope(&self) -> Option<Slope> {
        let (last, losses) = self.points.last()?;
        let (earlier, at_half) = self.points.iter().rev().find(|(step, _)| 2 * step <= *last)?;
        let doublings = (f64::from(*last) / f64::from(*earlier)).log2();
        let (mean, error) = difference(at_half, losses);
        Some(Slope { per_doubling: mean / doublings, standard_error: error / doublings })
    }

    /// The losses before and at the best measurement by ranges of `timesteps`, of `all` ones.
    fn bands(&self, after: &[f64], timesteps: &[u16], all: usize) -> Vec<Band> {
        let edge = |k: usize| (k * all / BANDS) as u16;
        let bands = (0..BANDS).filter_map(|k| {
            let inside = |losses: &[f64]| -> Vec<f64> {
                let pairs = timesteps.iter().zip(losses).filter(|(t, _)| (edge(k)..edge(k + 1)).contains(t));
                pairs.map(|(_, &loss)| loss).collect()
            };
            let (before, after) = (inside(&self.before), inside(after));
            let band = Band {
                from: edge(k),
                to: edge(k + 1),
                before: mean(&before),
                after: mean(&after),
                standard_error: difference(&before, &after).1,
            };
            (before.len() > 1).then_some(band)
        });
        bands.collect()
    }

    /// What the curve says after the training of `trained`; `None` without a measurement.
    pub fn outcome(&self, trained: Trained, stopped: Stopped, timesteps: &[u16], all: usize) -> Option<HeldOut> {
        let (step, losses) = self.best()?;
        let (gain, error) = difference(&self.before, losses);
        Some(HeldOut {
            before: mean(&self.before),
            after: mean(losses),
            significance: gain / error.max(f64::MIN_POSITIVE),
            trained: Some(trained),
            best: Some(*step),
            curve: self.summary(),
            given_up: Vec::new(),
            stopped: Some(stopped),
            slope: self.slope(),
            bands: self.bands(losses, timesteps, all),
            errors: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Losses around `level`, the same scatter in every measurement but for `jitter`.
    fn losses(level: f64, jitter: f64) -> Vec<f64> {
        (0..16).map(|i| level * (1.0 + 0.5 * f64::from(i % 4)) + jitter * f64::from(i % 2 * 2 - 1)).collect()
    }

    fn curve(levels: &[(u32, f64)]) -> Curve {
        let points = levels.iter().map(|&(step, level)| (step, losses(level, 1e-4))).collect();
        Curve { before: losses(1.0, 0.0), points }
    }

    #[test]
    fn measurements_double_then_go_on_evenly_and_end_with_the_budget() {
        let all = |budget: u32| -> Vec<u32> {
            let next = |step: &u32| (*step < budget).then(|| next_measurement(*step, budget));
            std::iter::successors(Some(0), next).skip(1).collect()
        };
        assert_eq!(all(1700), [25, 50, 100, 200, 400, 800, 1200, 1600, 1700]);
        assert_eq!(all(100), [25, 50, 100]);
        assert_eq!(all(3), [3]);
        // A budget that was raised: the grid is the same as without the earlier end.
        assert_eq!(next_measurement(300, 5000), 400);
        assert_eq!(next_measurement(650, 5000), 800);
        assert_eq!(next_measurement(1700, 5000), 2000);
    }

    #[test]
    fn a_training_goes_on_while_the_loss_falls() {
        let falling = [(25, 0.9), (50, 0.8), (100, 0.7), (200, 0.65), (400, 0.6), (800, 0.58), (1200, 0.57)];
        for n in 1..falling.len() {
            assert!(!curve(&falling[..n]).has_levelled(), "{n}");
        }
    }

    #[test]
    fn of_two_trainings_the_one_that_is_or_will_be_better_goes_on() {
        let factors = curve(&[(25, 0.97), (50, 0.95)]);
        let goes_on = |levels: [f64; 2]| curve(&[(25, levels[0]), (50, levels[1])]).will_beat(&factors);
        assert!(goes_on([0.96, 0.9]), "lower");
        assert!(goes_on([1.01, 0.97]), "higher, but falling faster");
        assert!(!goes_on([1.1, 1.02]), "falling faster, but worse than at the beginning");
        assert!(!goes_on([0.98, 0.965]), "higher and falling no faster");
        assert!(!factors.will_beat(&factors) && !curve(&[]).will_beat(&factors));
        assert!(curve(&[(3, 0.9)]).will_beat(&curve(&[(3, 0.95)])), "one measurement");
    }

    /// Not fallen for as long as it had, and for at least 100 steps; a change within the standard error is none.
    #[test]
    fn a_training_stops_when_the_loss_has_not_fallen_for_long() {
        let flat = |at: u32, level: f64| curve(&[(25, 0.9), (50, 0.8), (100, 0.7), (200, 0.6), (at, level)]);
        assert!(flat(400, 0.6).has_levelled());
        assert!(flat(400, 0.7).has_levelled(), "a loss that rises");
        assert!(!flat(400, 0.59).has_levelled());
        let mut within = flat(400, 0.6);
        for (i, loss) in within.points[4].1.iter_mut().enumerate() {
            *loss += if i < 8 { 0.3 } else { -0.301 };
        }
        assert!(within.has_levelled(), "lower by less than its standard error");
        assert!(!curve(&[(25, 1.0)]).has_levelled() && !curve(&[(25, 1.0), (50, 1.1)]).has_levelled());
        assert!(curve(&[(25, 1.0), (50, 1.1), (100, 1.2)]).has_levelled(), "never fallen");
        let late = [(25, 0.9), (800, 0.6), (1200, 0.6), (1600, 0.6)];
        assert!(!curve(&late[..3]).has_levelled());
        assert!(curve(&late).has_levelled());
    }

    #[test]
    fn the_best_measurement_and_the_slope_are_told() {
        let curve = curve(&[(25, 0.9), (50, 0.8), (100, 0.6), (200, 0.64)]);
        let timesteps: Vec<u16> = (0..16).map(|i| i * 60 + 20).collect();
        let outcome = curve.outcome(Trained::Full, Stopped::Budget, &timesteps, 1000).unwrap();
        assert_eq!((outcome.best, outcome.curve.len()), (Some(100), 4));
        let scatter = 1.75;
        assert!((outcome.before - scatter).abs() < 1e-12 && (outcome.after - 0.6 * scatter).abs() < 1e-12);
        assert!(outcome.helped());
        for (share, helped) in [(0.985, false), (0.975, true), (1.025, false)] {
            let outcome = HeldOut { after: share * outcome.before, significance: 3.0, ..outcome.clone() };
            assert_eq!(outcome.helped(), helped, "a loss of {share} of what it was");
        }
        assert!(!HeldOut { significance: 0.9, ..outcome.clone() }.helped(), "within its standard error");
        let slope = outcome.slope.unwrap();
        assert!((slope.per_doubling + 0.04 * scatter).abs() < 1e-12, "a rise: {slope:?}");
        assert_eq!(outcome.bands.len(), 5);
        assert_eq!((outcome.bands[4].from, outcome.bands[4].to), (800, 1000));
        // Crops 13 to 15 have t = 800 and more.
        let of = |level: f64| level * (1.5 + 2.0 + 2.5) / 3.0;
        let last = outcome.bands[4];
        assert!((last.before - of(1.0)).abs() < 1e-12 && (last.after - of(0.6)).abs() < 1e-3, "{last:?}");
    }
}
