//! Timesteps drawn where the loss is.

use super::config::AdaptConfig;
use super::crops::CropSource;
use super::run::precision_of_training;
use super::{Batch, simple_losses};
use crate::Result;
use crate::models::Denoiser;
use crate::models::guided_diffusion::GuidedDiffusion;
use crate::noise::{Noise, Stream};
use crate::schedule::Timestep;

/// Stretches of the schedule within which all timesteps are drawn alike.
const STRETCHES: usize = 20;
/// Crops that tell the loss of a stretch.
const CROPS: usize = 4;
/// The share that is drawn uniformly, so that no image counts for more than the inverse of it.
const UNIFORM: f64 = 0.5;
/// Where the random numbers of this begin within their stream.
const FIRST_STEP: u32 = 1000;

/// How often timesteps are drawn, and what an image drawn there counts.
///
/// The loss of the least noisy tenth of the schedule is more than half of the whole, and so is its gradient; drawn
/// uniformly, one image in ten makes most of a step. Here half of the images are drawn uniformly and half in
/// proportion to the loss, and each counts for the inverse of how often it is drawn: the same mean (Eq. 6), with less
/// variance (importance sampling, Nichol and Dhariwal 2021, section 3.3, with a profile measured once).
#[derive(Debug)]
pub(super) struct Importance {
    /// Of each stretch; they sum to 1.
    shares: Vec<f64>,
    /// Length of the schedule.
    all: usize,
}

impl Importance {
    /// From the loss of the model as it is.
    ///
    /// # Errors
    /// As [`CropSource::draw`] and [`simple_losses`].
    pub(super) fn measure(model: &GuidedDiffusion, crops: &CropSource, config: &AdaptConfig) -> Result<Self> {
        let all = model.schedule().len();
        let noise = Noise::new(config.seed, Stream::Evaluation);
        let (device, side, dtype) = (model.params().device(), config.crop, precision_of_training(model));
        let loss = |stretch: usize| -> Result<f64> {
            let step = FIRST_STEP + stretch as u32;
            let place = |i: usize| (stretch as f64 + (i as f64 + 0.5) / CROPS as f64) / STRETCHES as f64;
            let batch = Batch {
                x0: crops.draw(&noise, step, CROPS, &device)?.cast(dtype),
                eps: noise.normal_tensor(step, [CROPS, 3, side, side], &device, dtype),
                timesteps: (0..CROPS).map(|i| Timestep((place(i) * all as f64) as u16)).collect(),
                importance: None,
            };
            Ok(simple_losses(model.net(), model.params(), model.schedule(), &batch)?.iter().sum())
        };
        Ok(Self::from_losses(&(0..STRETCHES).map(loss).collect::<Result<Vec<_>>>()?, all))
    }

    fn from_losses(losses: &[f64], all: usize) -> Self {
        let (count, sum) = (losses.len() as f64, losses.iter().sum::<f64>());
        let share = |loss: f64| if sum > 0.0 { UNIFORM / count + (1.0 - UNIFORM) * loss / sum } else { 1.0 / count };
        Self { shares: losses.iter().map(|&loss| share(loss)).collect(), all }
    }

    /// The timestep below which a share `u` (0 to 1) of all is drawn.
    pub(super) fn at(&self, u: f64) -> Timestep {
        let last = self.shares.len() - 1;
        let (mut stretch, mut below) = (0, 0.0);
        while stretch < last && u >= below + self.shares[stretch] {
            below += self.shares[stretch];
            stretch += 1;
        }
        let within = (u - below) / self.shares[stretch];
        let place = (stretch as f64 + within) / self.shares.len() as f64 * self.all as f64;
        Timestep((place as usize).min(self.all - 1) as u16)
    }

    /// What an image drawn at `t` counts.
    pub(super) fn weight(&self, t: Timestep) -> f64 {
        let stretches = self.shares.len();
        let stretch = usize::from(t.0) * stretches / self.all;
        1.0 / (self.shares[stretch.min(stretches - 1)] * stretches as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The weighted mean of any function of t is its uniform mean, and no weight exceeds 2.
    #[test]
    fn the_mean_stays_that_of_uniform_timesteps() {
        let losses = [0.22, 0.056, 0.032, 0.02, 0.0128, 0.0062, 0.003, 0.0012, 0.0004, 0.0002];
        let shares = Importance::from_losses(&losses, 1000);
        let draws = 200_000;
        for f in [|_| 1.0, |t: f64| t, |t: f64| (-t / 50.0).exp()] as [fn(f64) -> f64; 3] {
            let drawn = (0..draws).map(|i| shares.at((f64::from(i) + 0.5) / f64::from(draws)));
            let mean = drawn.map(|t| shares.weight(t) * f(f64::from(t.0))).sum::<f64>() / f64::from(draws);
            let uniform = (0..1000).map(|t| f(f64::from(t))).sum::<f64>() / 1000.0;
            assert!((mean / uniform - 1.0).abs() < 2e-3, "{mean} instead of {uniform}");
        }
        let weights: Vec<f64> = (0..1000).map(|t| shares.weight(Timestep(t))).collect();
        assert!(weights.iter().all(|w| (0.1..=2.0).contains(w)), "{weights:?}");
        let first = (0..1000).filter(|i| shares.at((f64::from(*i) + 0.5) / 1000.0).0 < 100).count();
        assert!((350..450).contains(&first), "{first} of 1000 below t = 100, where two thirds of the loss are");
    }

    #[test]
    fn no_loss_at_all_is_drawn_uniformly() {
        let shares = Importance::from_losses(&[0.0; 4], 1000);
        assert_eq!([0.0, 0.25, 0.999, 1.0].map(|u| shares.at(u).0), [0, 250, 999, 999]);
        assert_eq!(shares.weight(Timestep(999)), 1.0);
    }
}
