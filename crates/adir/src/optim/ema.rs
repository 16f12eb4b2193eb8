//! Exponential moving average of weights.

use adir_kernels::blend;

use crate::models::params::Params;

/// ema <- decay * ema + (1 - decay) * new, started from the first weights; decay 0 keeps the newest.
#[derive(Debug, Clone)]
pub struct Ema {
    decay: f64,
    average: Params,
}

impl Ema {
    /// Starts from `params`.
    pub fn new(params: Params, decay: f64) -> Self {
        Self { decay, average: params }
    }

    /// The decay from the next update on.
    pub fn set_decay(&mut self, decay: f64) {
        self.decay = decay;
    }

    /// Updates the average with the weights after a step.
    pub fn update(&mut self, params: &Params) {
        if self.decay == 0.0 {
            self.average = params.clone();
        } else {
            // Moved out, so that each average is updated in place.
            self.average.update(|id, old| blend(old, params.flat(id), self.decay));
        }
    }

    /// The average so far.
    pub fn params(&self) -> &Params {
        &self.average
    }
}
