//! How far a network's estimates of x0 are from the truth, by noise level: measured, or by a formula.

use serde::{Deserialize, Serialize};

use crate::schedule::{Schedule, Timestep};
use crate::{Error, Result};

/// Groups of crops that become one entry each.
const GROUPS: usize = 8;
/// The exponent of the formula, by which a table is continued below its first entry.
const EXPONENT: f64 = 0.45;

/// Mean squared error of a network's x0 estimates in [-1, 1] units, as a table over the noise-to-signal ratio
/// (1 - alpha_bar)/alpha_bar.
///
/// Between two entries both logarithms are interpolated. Below the first entry the error falls with the power 0.45 of the
/// ratio, above the last it stays.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<(f64, f64)>", into = "Vec<(f64, f64)>")]
pub struct EstimateErrors(Vec<(f64, f64)>);

impl EstimateErrors {
    /// The key under which weight files carry it, as JSON.
    pub const KEY: &'static str = "estimate_errors";

    /// From (ratio, error) pairs.
    ///
    /// # Errors
    /// [`Error::Config`] for no entries, numbers that are not above 0, or ratios that do not rise.
    pub fn new(entries: Vec<(f64, f64)>) -> Result<Self> {
        let positive = entries.iter().all(|&(ratio, error)| [ratio, error].iter().all(|v| v.is_finite() && *v > 0.0));
        if entries.is_empty() || !positive || !entries.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(Error::config(
                "a table of estimate errors: expected pairs of numbers above 0, noise-to-signal ratio and error, with \
                 rising ratios",
            ));
        }
        Ok(Self(entries))
    }

    /// From JSON: an array of `[ratio, error]`.
    ///
    /// # Errors
    /// [`Error::Config`] when it is no such JSON; as [`EstimateErrors::new`].
    pub fn from_json(text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(|e| Error::config(format!("{}: {e}", Self::KEY)))
    }

    /// As [`EstimateErrors::from_json`] reads it.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// From mean squared errors of eps, one per crop, at the timesteps of `schedule` they were measured at. `None` for
    /// fewer than 16 crops.
    ///
    /// By Eq. 14 the error of x0 is the ratio times that of eps. Crops of neighbouring timesteps are averaged in the
    /// logarithm, in which they scatter evenly; one factor then restores the mean.
    pub fn measured(schedule: &Schedule, losses: &[(Timestep, f64)]) -> Option<Self> {
        let mut points: Vec<(f64, f64)> = losses
            .iter()
            .filter(|(_, loss)| *loss > 0.0)
            .map(|&(t, loss)| {
                let alpha_bar = schedule.original_alpha_bar(t);
                let ratio = (1.0 - alpha_bar) / alpha_bar;
                (ratio.ln(), (ratio * loss).ln())
            })
            .collect();
        if points.len() < 2 * GROUPS {
            return None;
        }
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut entries: Vec<(f64, f64)> = (0..GROUPS)
            .map(|k| {
                let group = &points[k * points.len() / GROUPS..(k + 1) * points.len() / GROUPS];
                let mean = |f: fn(&(f64, f64)) -> f64| group.iter().map(f).sum::<f64>() / group.len() as f64;
                (mean(|p| p.0).exp(), mean(|p| p.1).exp())
            })
            .collect();
        // More noise never makes an estimate better.
        for k in 1..entries.len() {
            entries[k].1 = entries[k].1.max(entries[k - 1].1);
        }
        entries.dedup_by(|b, a| b.0 <= a.0);
        let table = Self(entries);
        let over = |&(ratio, error): &(f64, f64)| (error - table.error(ratio.exp()).ln()).exp();
        let factor = points.iter().map(over).sum::<f64>() / points.len() as f64;
        Self::new(table.0.iter().map(|&(ratio, error)| (ratio, error * factor)).collect()).ok()
    }

    /// The table's entries: noise-to-signal ratio and error.
    pub fn entries(&self) -> &[(f64, f64)] {
        &self.0
    }

    /// The table's value, whatever the error of x_t itself.
    fn error(&self, ratio: f64) -> f64 {
        let above = self.0.partition_point(|entry| entry.0 <= ratio);
        match (above.checked_sub(1).and_then(|below| self.0.get(below)), self.0.get(above)) {
            (Some(&(x0, y0)), Some(&(x1, y1))) => y0 * (y1 / y0).powf((ratio / x0).ln() / (x1 / x0).ln()),
            (None, Some(&(x1, y1))) => y1 * (ratio / x1).powf(EXPONENT),
            (Some(&(_, last)), None) => last,
            (None, None) => ratio,
        }
    }

    /// The error at noise level `alpha_bar`: at most the ratio, which is the error of x_t / sqrt(alpha_bar) itself.
    pub fn at(&self, alpha_bar: f64) -> f64 {
        let ratio = (1.0 - alpha_bar) / alpha_bar;
        self.error(ratio).min(ratio)
    }

    /// The formula for networks without a table: 0.022 of the ratio to the power 0.45, at most the ratio itself and at
    /// most 0.25.
    ///
    /// Fitted to the embedded prior on held-out photographs (docs/results/sampling.md).
    pub fn by_formula(alpha_bar: f64) -> f64 {
        let ratio = (1.0 - alpha_bar) / alpha_bar;
        (0.022 * ratio.powf(EXPONENT)).min(ratio).min(0.25)
    }
}

impl TryFrom<Vec<(f64, f64)>> for EstimateErrors {
    type Error = Error;

    fn try_from(entries: Vec<(f64, f64)>) -> Result<Self> {
        Self::new(entries)
    }
}

impl From<EstimateErrors> for Vec<(f64, f64)> {
    fn from(table: EstimateErrors) -> Self {
        table.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::BetaSchedule;

    fn schedule() -> Schedule {
        Schedule::new(BetaSchedule::Linear, 1000).unwrap()
    }

    /// Errors that follow a power of the ratio, scattered by e^(+-0.7), are recovered with their mean.
    #[test]
    fn a_power_law_is_recovered() {
        let schedule = schedule();
        let law = |ratio: f64| 0.05 * ratio.powf(0.6);
        let losses: Vec<_> = (0..400_u16)
            .map(|i| {
                let t = Timestep((u32::from(i) * 997 % 1000) as u16);
                let bar = schedule.original_alpha_bar(t);
                let ratio = (1.0 - bar) / bar;
                let scatter = if i.is_multiple_of(2) { 0.7_f64 } else { -0.7 };
                (t, law(ratio) / ratio * scatter.exp())
            })
            .collect();
        let table = EstimateErrors::measured(&schedule, &losses).unwrap();
        for ratio in [0.02_f64, 0.5, 5.0, 100.0] {
            let (found, wanted) = (table.at(1.0 / (1.0 + ratio)), law(ratio) * 0.7_f64.cosh());
            assert!((found / wanted).ln().abs() < 0.12, "{ratio}: {found} for {wanted}");
        }
        assert!(EstimateErrors::measured(&schedule, &losses[..15]).is_none());
    }

    #[test]
    fn values_between_below_and_beyond_the_entries() {
        let table = EstimateErrors::new(vec![(0.01, 0.001), (1.0, 0.1)]).unwrap();
        let at = |ratio: f64| table.at(1.0 / (1.0 + ratio));
        assert!((at(0.1) - 0.01).abs() < 1e-12);
        assert!((at(1e-2 / 16.0) - 1e-3 / 16_f64.powf(0.45)).abs() < 1e-12);
        assert!((at(50.0) - 0.1).abs() < 1e-12);
        assert!((at(1e-6) - 1e-6).abs() < 1e-12, "never above the noise itself");
        assert_eq!(EstimateErrors::from_json(&table.to_json()).unwrap(), table);
    }

    #[test]
    fn tables_that_are_none_are_refused() {
        for text in ["[]", "[[1.0,0.0]]", "[[1.0,0.1],[1.0,0.2]]", "[[-1.0,0.1]]", "[[1.0]]", "{}"] {
            assert!(EstimateErrors::from_json(text).is_err(), "{text}");
        }
    }
}
