//! Weights in training: what is trained, its optimiser, its average, and the best of it so far.

use super::adapter::Adapter;
use super::config::{AdaptConfig, Trained};
use super::curve::Curve;
use super::run::precision_of_training;
use crate::models::params::Params;
use crate::optim::{Adam, AdamConfig, Ema, Lora};
use crate::tensor::Tensor;
use crate::{Error, Result};

/// The trained weights, in f32 if the network computes in half precision, whose steps are coarser than Adam's.
#[derive(Debug)]
pub(crate) enum State {
    Full(Params),
    Lora(Lora),
}

/// One way to train, and how far it has come.
#[derive(Debug)]
pub(crate) struct Learner {
    pub trained: Trained,
    pub state: State,
    pub adam: Adam,
    pub ema: Ema,
    /// Steps taken.
    pub step: u32,
    /// Held-out losses.
    pub curve: Curve,
    /// The average at the lowest of them.
    pub best: Option<Params>,
}

impl Learner {
    /// One that has learnt nothing.
    ///
    /// # Errors
    /// [`Error::Config`] for [`Trained::Auto`], which is two.
    pub fn new(base: &Params, trained: Trained, config: &AdaptConfig) -> Result<Self> {
        let state = match trained {
            Trained::Full => State::Full(base.in_precision(precision_of_training(base))),
            Trained::Lora { rank, alpha, layers } => State::Lora(Lora::new(base, rank, alpha, layers, config.seed)?),
            Trained::Auto { .. } => return Err(Error::config("either low-rank factors or all weights are trained")),
        };
        let params = match &state {
            State::Full(params) => params.clone(),
            State::Lora(lora) => lora.factors().clone(),
        };
        let (adam, ema) = (Adam::new(AdamConfig::default()), Ema::new(params, config.ema));
        Ok(Self { trained, state, adam, ema, step: 0, curve: Curve::default(), best: None })
    }

    /// What is trained: all weights, or the factors.
    pub fn params(&self) -> &Params {
        match &self.state {
            State::Full(params) => params,
            State::Lora(lora) => lora.factors(),
        }
    }

    /// The weights to take gradients with.
    pub fn weights(&self, base: &Params) -> Params {
        match &self.state {
            State::Full(params) => params.clone(),
            State::Lora(lora) => lora.attached(base),
        }
    }

    /// A step of Adam.
    pub fn advance(&mut self, gradients: Vec<Option<Tensor<1>>>, config: &AdaptConfig) {
        let before = self.params().clone();
        let next = self.adam.step(&before, gradients, config.rate_at(self.step));
        self.step += 1;
        if config.ema_grows {
            let n = f64::from(self.step);
            self.ema.set_decay(config.ema.min((1.0 + n) / (10.0 + n)));
        }
        self.ema.update(&next);
        match &mut self.state {
            State::Full(params) => *params = next,
            State::Lora(lora) => *lora = lora.with_factors(next),
        }
    }

    /// Takes the held-out losses of [`Learner::average`] down.
    pub fn note(&mut self, losses: Vec<f64>) {
        self.curve.points.push((self.step, losses));
        if self.curve.best().is_some_and(|(step, _)| *step == self.step) {
            self.best = Some(self.ema.params().clone());
        }
    }

    /// The average so far, at the strength asked for.
    pub fn average(&self, base: &Params, strength: f64) -> Adapter {
        self.adapter(self.ema.params().clone(), base, strength)
    }

    /// The average at the lowest held-out loss; the average so far where none was measured.
    pub fn result(&self, base: &Params, strength: f64) -> Adapter {
        self.adapter(self.best.as_ref().unwrap_or(self.ema.params()).clone(), base, strength)
    }

    fn adapter(&self, average: Params, base: &Params, strength: f64) -> Adapter {
        match &self.state {
            // Exact to the bit, unlike the sum below.
            State::Full(_) if strength == 1.0 => Adapter::Full(average),
            State::Full(_) => {
                let base = base.in_precision(average.dtype());
                Adapter::Full(average.map(|id, value| base.flat(id) + (value - base.flat(id)) * strength))
            }
            State::Lora(lora) => Adapter::Lora(lora.with_factors(average).with_alpha(lora.alpha() * strength)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::models::params::{Init, ParamLayout, Role};
    use crate::tensor::{Compute, DType, cpu, from_f32, to_f32};

    /// Weights that went on from those with the lowest held-out loss: these are the result, not the last.
    #[test]
    fn the_weights_with_the_lowest_held_out_loss_are_kept() {
        let mut layout = ParamLayout::default();
        let id = layout.add("w", &[3], Role::Bias, Init::Ones);
        let base = Params::initial(Arc::new(layout), 0, &Compute::new(&cpu(), DType::F32)).unwrap();
        let config = AdaptConfig { learning_rate: 0.1, ..AdaptConfig::paper() };
        let mut learner = Learner::new(&base, Trained::Full, &config).unwrap();
        let mut averages = Vec::new();
        for loss in [0.9, 0.5, 0.7, 0.6] {
            learner.advance(vec![Some(from_f32(vec![1.0, -1.0, 2.0], [3], &cpu()))], &config);
            learner.note(vec![loss; 4]);
            averages.push(to_f32(&learner.ema.params().flat(id)).unwrap());
        }
        let Adapter::Full(kept) = learner.result(&base, 1.0) else { panic!("all weights") };
        let kept = to_f32(&kept.flat(id)).unwrap();
        assert!(kept == averages[1] && kept != averages[3], "{kept:?} of {averages:?}");
    }
}
