//! Adam (Kingma and Ba 2015) with decoupled weight decay (AdamW), as PyTorch computes it.

use crate::models::params::Params;
use crate::tensor::Tensor;

/// Settings of [`Adam`]; the defaults are PyTorch's, and the paper's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamConfig {
    /// Decay of the mean of the gradient.
    pub beta1: f64,
    /// Decay of the mean of its square.
    pub beta2: f64,
    /// Added to the root of the second mean.
    pub eps: f64,
    /// Decoupled weight decay: every step multiplies the weights by 1 - lr * this.
    pub weight_decay: f64,
}

impl Default for AdamConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 }
    }
}

/// The optimiser's state: first and second moments of every parameter that ever had a gradient.
#[derive(Debug, Clone)]
pub struct Adam {
    config: AdamConfig,
    step: u32,
    moments: Vec<Option<[Tensor<1>; 2]>>,
}

impl Adam {
    /// No step taken yet.
    pub fn new(config: AdamConfig) -> Self {
        Self { config, step: 0, moments: Vec::new() }
    }

    /// One step at learning rate `lr`: `gradients[i]` belongs to parameter i; a parameter without a
    /// gradient keeps its value.
    ///
    /// m <- b1 m + (1-b1) g, v <- b2 v + (1-b2) g^2, w <- w - lr m / (1-b1^k) / (sqrt(v / (1-b2^k)) + eps).
    #[must_use]
    pub fn step(&mut self, params: &Params, gradients: Vec<Option<Tensor<1>>>, lr: f64) -> Params {
        let AdamConfig { beta1, beta2, eps, weight_decay } = self.config;
        self.step += 1;
        self.moments.resize(gradients.len(), None);
        let power = i32::try_from(self.step).unwrap_or(i32::MAX);
        let (correction1, correction2) = (1.0 - beta1.powi(power), 1.0 - beta2.powi(power));
        let mut gradients = gradients;
        params.map(|id, value| {
            let Some(g) = gradients.get_mut(id.index()).and_then(Option::take) else { return value };
            let (m, v) = match self.moments[id.index()].take() {
                Some([m, v]) => (m * beta1 + g.clone() * (1.0 - beta1), v * beta2 + g.clone() * g * (1.0 - beta2)),
                None => (g.clone() * (1.0 - beta1), g.clone() * g * (1.0 - beta2)),
            };
            let denominator = v.clone().sqrt() / correction2.sqrt() + eps;
            let update = m.clone() / denominator * (lr / correction1);
            self.moments[id.index()] = Some([m, v]);
            let value = if weight_decay == 0.0 { value } else { value * (1.0 - lr * weight_decay) };
            value - update
        })
    }
}
