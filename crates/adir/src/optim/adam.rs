//! Adam (Kingma and Ba 2015) with decoupled weight decay (AdamW), as PyTorch computes it.

use adir_kernels::{AdamStep, adam_step};

use crate::models::params::Params;
use crate::tensor::{self, Tensor};
use crate::{Error, Result};

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

    /// Goes on from an earlier run: `step` steps were taken, and `moments` belong to the parameters in order.
    pub fn resume(config: AdamConfig, step: u32, moments: Vec<Option<[Tensor<1>; 2]>>) -> Self {
        Self { config, step, moments }
    }

    /// First and second moments of every parameter that ever had a gradient, in the parameters' order.
    pub fn moments(&self) -> &[Option<[Tensor<1>; 2]>] {
        &self.moments
    }

    /// Steps taken.
    pub fn steps(&self) -> u32 {
        self.step
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
        let step = AdamStep { rate: lr, beta1, beta2, eps, weight_decay, correction1, correction2 };
        let mut gradients = gradients;
        params.map(|id, value| {
            let Some(gradient) = gradients.get_mut(id.index()).and_then(Option::take) else { return value };
            let moments = self.moments[id.index()].take().unwrap_or_else(|| {
                let zeros = || gradient.zeros_like();
                [zeros(), zeros()]
            });
            let (value, moments) = adam_step(value, gradient, moments, &step);
            self.moments[id.index()] = Some(moments);
            value
        })
    }
}

/// The common 2-norm of all gradients.
///
/// # Errors
/// [`Error::Numerical`] when it is not finite.
pub fn gradient_norm(gradients: &[Option<Tensor<1>>]) -> Result<f64> {
    let sums: Vec<_> = gradients.iter().flatten().map(|g| (g.clone() * g.clone()).sum()).collect();
    // Read together: on a GPU every reading waits for the device.
    let squares = if sums.is_empty() { Vec::new() } else { tensor::to_f64(&Tensor::cat(sums, 0))? };
    let norm = squares.iter().sum::<f64>().sqrt();
    if !norm.is_finite() {
        return Err(Error::Numerical(format!("the norm of the gradients is {norm}")));
    }
    Ok(norm)
}

/// Scales all gradients by `largest` / their common 2-norm where that norm is larger, as PyTorch's
/// `clip_grad_norm_` does; the norm before is returned.
///
/// # Errors
/// As [`gradient_norm`].
pub fn clip_gradients(gradients: &mut [Option<Tensor<1>>], largest: f64) -> Result<f64> {
    let norm = gradient_norm(gradients)?;
    let factor = largest / (norm + 1e-6);
    if factor < 1.0 {
        for g in gradients.iter_mut().flatten() {
            *g = g.clone() * factor;
        }
    }
    Ok(norm)
}
