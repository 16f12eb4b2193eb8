//! Exponential moving average of weights.

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

    /// Takes in the weights after a step.
    pub fn update(&mut self, params: &Params) {
        self.average = if self.decay == 0.0 {
            params.clone()
        } else {
            self.average.map(|id, old| old * self.decay + params.flat(id) * (1.0 - self.decay))
        };
    }

    /// The average so far.
    pub fn params(&self) -> &Params {
        &self.average
    }
}
