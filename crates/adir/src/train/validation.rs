//! The loss on photographs that the training has not seen, by noise level.

use super::photographs::Photographs;
use super::trainer::draw;
use crate::Result;
use crate::models::{Denoiser, EstimateErrors, Prior};
use crate::noise::{Noise, Stream};
use crate::optim::{Batch, simple_losses};
use crate::schedule::{Schedule, Timestep};

/// Number of timestep bins.
pub const LEVELS: usize = 10;

/// Held-out losses of a network.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Validation {
    /// l_simple, t uniform.
    pub loss: f64,
    /// l_simple for t in each tenth of the schedule, least noise first; absent where no crop fell.
    pub levels: [Option<f64>; LEVELS],
    /// Number of crops.
    pub crops: usize,
    /// Side of the crops.
    pub side: usize,
    /// The error of the network's x0 estimates; absent for fewer than 16 crops.
    pub errors: Option<EstimateErrors>,
}

impl Validation {
    /// Crops computed at once.
    const AT_ONCE: usize = 16;

    /// Measures a network on `crops` random crops of `side` pixels of held-out photographs; timesteps are spread evenly
    /// over the schedule. Crops, timesteps and noise are the same for every network, so that two networks compare more
    /// precisely than the error of each loss. Yields once every few crops.
    pub fn run<'a>(
        model: &'a Prior,
        photographs: &'a Photographs,
        crops: usize,
        side: usize,
    ) -> impl Iterator<Item = Result<Vec<(Timestep, f64)>>> + 'a {
        let noise = Noise::new(0, Stream::Evaluation);
        let (all, device) = (model.info().schedule.len(), model.params().device());
        (0..crops.div_ceil(Self::AT_ONCE)).map(move |k| {
            let first = k * Self::AT_ONCE;
            let count = Self::AT_ONCE.min(crops - first);
            let drawn = draw(&noise, k as u32, photographs, count, side, all, &device);
            // The golden ratio's multiples are spread evenly, however many of them are taken.
            let place = |i: usize| ((i as f64 + 0.5) * 0.618_033_988_749_894_9).fract();
            let timesteps = (first..first + count).map(|i| Timestep((place(i) * all as f64) as u16)).collect();
            let batch = Batch { timesteps, ..drawn };
            let losses = simple_losses(model, &batch)?;
            Ok(batch.timesteps.into_iter().zip(losses).collect())
        })
    }

    /// Sums up what [`Validation::run`] yielded, with timesteps of `schedule`.
    pub fn of(losses: &[(Timestep, f64)], side: usize, schedule: &Schedule) -> Self {
        let all = schedule.original_len();
        let mean = |some: &mut dyn Iterator<Item = f64>| {
            let (sum, count) = some.fold((0.0, 0), |(sum, count), loss| (sum + loss, count + 1));
            (count > 0).then(|| sum / f64::from(count))
        };
        let level = |t: Timestep| usize::from(t.0) * LEVELS / all.max(1);
        let of_level = |k: usize| mean(&mut losses.iter().filter(|(t, _)| level(*t) == k).map(|(_, loss)| *loss));
        Self {
            loss: mean(&mut losses.iter().map(|(_, loss)| *loss)).unwrap_or(f64::NAN),
            levels: std::array::from_fn(of_level),
            crops: losses.len(),
            side,
            errors: EstimateErrors::measured(schedule, losses),
        }
    }
}
