//! What y itself says of a network: how well its estimates, from y with noise added, agree with y again.
//!
//! What y alone says (its pseudo-inverse) gets noise that hides what is finer than a few levels, and the network
//! estimates x0. A network that knows such images restores more of what the noise hid, so that A x0 is nearer to y. No
//! truth is needed, and the noise of y is the same for every network. Two networks are given the same noise, and their
//! difference is taken part by part of y: it then has a standard error.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::extent::Extent;
use crate::Result;
use crate::models::{Conditioning, Denoiser, Prior};
use crate::noise::{Noise, Stream};
use crate::restore::RestorePlan;
use crate::schedule::Timestep;
use crate::tensor::{self, DType, Tensor};

/// Noise-to-signal ratios sqrt((1 - alpha_bar)/alpha_bar) of the estimates: high enough that what A has removed of the
/// image would be hidden anyway. At ratios of 0.4 to 1.6 a network for pages takes blurred pages for none.
const RATIOS: [f64; 3] = [3.2, 6.4, 12.8];
/// Parts of y along a side.
const PARTS: usize = 6;

/// How much nearer to y the estimates of one network are than those of another.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ByY {
    /// Mean decrease of |A x0 - y|^2, as a share of that of the other network: above 0 is nearer.
    pub gain: f64,
    /// Its standard error over the parts of y.
    pub standard_error: f64,
}

impl fmt::Display for ByY {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (percent, error) = (100.0 * self.gain.abs(), 100.0 * self.standard_error);
        let side = if self.gain >= 0.0 { "nearer to" } else { "farther from" };
        match self.is_better() || self.is_worse() {
            // Below what is shown, the numbers say nothing.
            _ if percent.max(error) < 0.05 => f.write_str("estimates as near to y as without it, to 0.1 %"),
            false => write!(f, "estimates as near to y as without it, to {:.1} %", percent.max(error)),
            true => write!(f, "estimates {side} y by {percent:.1} +- {error:.1} %"),
        }
    }
}

impl ByY {
    /// Whether it is nearer by more than the standard error.
    pub fn is_better(&self) -> bool {
        self.gain > self.standard_error
    }

    /// Whether it is farther by more than the standard error.
    pub fn is_worse(&self) -> bool {
        self.gain < -self.standard_error
    }

    /// From the squared residuals of both, level by level and part by part.
    fn between(other: &Misfit, this: &Misfit) -> Self {
        let parts = other.0.first().map_or(0, Vec::len);
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        // The mean of the levels, each relative to the other network's.
        let differences: Vec<f64> = (0..parts)
            .map(|part| {
                let level = |(b, a): (&Vec<f64>, &Vec<f64>)| (b[part] - a[part]) / mean(b).max(f64::MIN_POSITIVE);
                mean(&other.0.iter().zip(&this.0).map(level).collect::<Vec<_>>())
            })
            .collect();
        let gain = mean(&differences);
        let variance = differences.iter().map(|d| (d - gain).powi(2)).sum::<f64>() / (parts as f64 - 1.0).max(1.0);
        Self { gain, standard_error: (variance / parts as f64).sqrt() }
    }
}

/// Mean squares of A x0 - y, by noise level and part of y.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Misfit(Vec<Vec<f64>>);

impl Misfit {
    /// Of the estimates of `prior`, computed as `extent` says, with the noise of `seed`.
    ///
    /// # Errors
    /// Those of the network, its space and the operator.
    pub fn measure(plan: &RestorePlan, prior: &Prior, extent: Extent, seed: u64) -> Result<Self> {
        let (space, schedule) = (prior.space(), &prior.info().schedule);
        let denoiser = extent.denoiser(prior)?;
        let clean = space.encode(&plan.observed()?)?;
        let noise = Noise::new(seed, Stream::Evaluation);
        let conditioning = Conditioning::from(plan.class());
        let level = |(k, ratio): (usize, &f64)| {
            let t = schedule.nearest(*ratio);
            let (ratio, alpha_bar) = (schedule.ratio(t), schedule.alpha_bar(t));
            let fresh = noise.normal_tensor(k as u32, clean.dims(), &tensor::cpu(), DType::F32);
            let noisy = clean.clone() + fresh.to_device(&clean.device()).cast(clean.dtype()) * ratio;
            let x_t = noisy.clone() * alpha_bar.sqrt();
            let eps = denoiser.predict(&x_t, Timestep(t as u16), &conditioning)?.eps;
            let x0 = space.decode(&(noisy - eps * ratio))?.clamp(-1.0, 1.0);
            by_part(&(plan.predict(&x0)? - plan.y().clone()))
        };
        Ok(Self(RATIOS.iter().enumerate().map(level).collect::<Result<_>>()?))
    }

    /// How much nearer to y this one is.
    pub fn against(&self, other: &Self) -> ByY {
        ByY::between(other, self)
    }
}

/// Mean squares over a grid of parts of the image.
fn by_part(residual: &Tensor<4>) -> Result<Vec<f64>> {
    let [_, channels, height, width] = residual.dims();
    let values = tensor::to_f64(residual)?;
    let (rows, columns) = (PARTS.min(height), PARTS.min(width));
    let mut sums = vec![(0.0, 0.0); rows * columns];
    for (i, value) in values.iter().enumerate().take(channels * height * width) {
        let (y, x) = (i / width % height, i % width);
        let (sum, count) = &mut sums[y * rows / height * columns + x * columns / width];
        *sum += value * value;
        *count += 1.0;
    }
    Ok(sums.into_iter().map(|(sum, count)| sum / count).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Halved residuals everywhere are a gain of a half with no error; changes in two parts of 36 are within it.
    #[test]
    fn a_difference_counts_beyond_its_error_over_the_parts() {
        let before = Misfit(vec![vec![0.2; 36], vec![2.0; 36]]);
        let halved = Misfit(vec![vec![0.1; 36], vec![1.0; 36]]);
        let by_y = halved.against(&before);
        assert!((by_y.gain - 0.5).abs() < 1e-12 && by_y.standard_error < 1e-12 && by_y.is_better());
        assert!(before.against(&halved).is_worse());
        let mut one = before.clone();
        (one.0[0][3], one.0[0][20]) = (0.0, 0.25);
        let by_y = one.against(&before);
        assert!(by_y.gain > 0.0 && !by_y.is_better() && !by_y.is_worse(), "{by_y:?}");
    }

    #[test]
    fn what_is_within_the_error_is_not_called_a_difference() {
        let text = |gain: f64, standard_error: f64| ByY { gain, standard_error }.to_string();
        assert_eq!(text(0.251, 0.03), "estimates nearer to y by 25.1 +- 3.0 %");
        assert_eq!(text(-0.02, 0.01), "estimates farther from y by 2.0 +- 1.0 %");
        for equal in [text(0.0, 0.0), text(-0.0001, 0.0001), text(-0.0002, 0.0003)] {
            assert_eq!(equal, "estimates as near to y as without it, to 0.1 %");
        }
        assert_eq!(text(-0.01, 0.02), "estimates as near to y as without it, to 2.0 %");
        assert_eq!(text(-0.0004, 0.00001), "estimates as near to y as without it, to 0.1 %");
    }

    #[test]
    fn parts_cover_the_image() {
        let image = tensor::from_f32(
            (0..12 * 18).map(|i| if i < 108 { 2.0 } else { 1.0 }).collect(),
            [1, 1, 12, 18],
            &tensor::cpu(),
        );
        let parts = by_part(&image).unwrap();
        assert_eq!((parts.len(), parts[0], parts[17], parts[18], parts[35]), (36, 4.0, 4.0, 1.0, 1.0));
    }
}
