//! l_simple and its gradients with the memory of one block at a time.
//!
//! The forward pass runs without gradients and keeps only what enters each block; the backward pass runs each
//! block once more, tracked, from that. One more forward pass in time, and instead of every intermediate map
//! only one a block.

use super::net::{Layer, UNet, run};
use crate::models::params::{ParamId, Params};
use crate::schedule::Timestep;
use crate::tensor::{self, Tensor};
use crate::{Error, Result};

impl UNet {
    /// `share` times l_simple (Eq. 6) of noisy images `x_t` with noise `eps`, `[n, c, h, w]`. The gradient by each
    /// parameter goes to `take` as soon as it is known, and nowhere else; every parameter comes at most once. It is
    /// that of errors times `roots`, `[n, 1, 1, 1]`, where they are given.
    ///
    /// # Errors
    /// [`Error::Numerical`] when the loss is not finite.
    #[expect(clippy::too_many_arguments)] // all of one batch
    pub fn loss_by_blocks(
        &self,
        p: &Params,
        x_t: &Tensor<4>,
        eps: &Tensor<4>,
        timesteps: &[Timestep],
        roots: Option<&Tensor<4>>,
        share: f64,
        take: &mut dyn FnMut(ParamId, Tensor<1>),
    ) -> Result<f64> {
        // Forward: what enters each block.
        let emb = self.embed(p, x_t, timesteps, None);
        let mut entered: Vec<Tensor<4>> = Vec::new();
        let mut skips = Vec::new();
        let mut h = x_t.clone();
        for layers in &self.input_blocks {
            entered.push(h.clone());
            h = run(layers, p, h, &emb);
            skips.push(h.clone());
        }
        entered.push(h.clone());
        h = run(&self.middle_block, p, h, &emb);
        let mut left = skips.len();
        for layers in &self.output_blocks {
            left -= 1;
            entered.push(h.clone());
            h = run(layers, p, Tensor::cat(vec![h, skips[left].clone()], 1), &emb);
        }

        // Backward: the loss and the last layer, then each block from what entered it.
        let tracked = p.map(|_, value| value.autodiff().require_grad());
        let channels = eps.dims()[1];
        let input = h.autodiff().require_grad();
        let out = self.finish(&tracked, input.clone());
        let error = out.narrow(1, 0, channels) - eps.clone().autodiff();
        let simple = error.clone().inner();
        let error = match roots {
            Some(roots) => error * roots.clone().autodiff(),
            None => error,
        };
        let loss = (error.clone() * error).mean() * share;
        let value = tensor::to_f64(&((simple.clone() * simple).mean() * share))?.first().copied().unwrap_or(f64::NAN);
        if !value.is_finite() {
            return Err(Error::Numerical(format!("the training loss is {value} at t = {timesteps:?}")));
        }
        let mut pass = Pass { tracked: &tracked, emb: &emb, emb_gradient: None, take };
        let mut gradients = loss.backward();
        pass.hand_over(&mut gradients);
        let mut upstream = gradient_of(&input, &mut gradients)?;
        drop(gradients);

        let mut skip_gradients: Vec<Option<Tensor<4>>> = vec![None; skips.len()];
        for (k, layers) in self.output_blocks.iter().enumerate().rev() {
            let skip = skips.len() - 1 - k;
            let entered = entered.pop().expect("one for every block");
            let inputs = vec![entered, skips[skip].clone()];
            let mut found = pass.block(layers, inputs, upstream)?;
            skip_gradients[skip] = found.pop();
            upstream = found.pop().expect("of both inputs");
        }
        let middle = entered.pop().expect("one for every block");
        upstream = pass.block(&self.middle_block, vec![middle], upstream)?.pop().expect("of the input");
        for (k, layers) in self.input_blocks.iter().enumerate().rev() {
            // What leaves an input block goes to the next one and to a skip.
            if let Some(of_skip) = skip_gradients[k].take() {
                upstream = upstream + of_skip;
            }
            skips.pop();
            let entered = entered.pop().expect("one for every block");
            upstream = pass.block(layers, vec![entered], upstream)?.pop().expect("of the input");
        }

        let emb_gradient = pass.emb_gradient.take();
        if let Some(emb_gradient) = emb_gradient {
            let emb = self.embed(&tracked, &x_t.clone().autodiff(), timesteps, None);
            let mut gradients = (emb * emb_gradient.autodiff()).sum().backward();
            pass.hand_over(&mut gradients);
        }
        Ok(value)
    }
}

/// The backward pass.
struct Pass<'a> {
    tracked: &'a Params,
    emb: &'a Tensor<2>,
    /// The embedding serves every block: the sum of what they ask of it.
    emb_gradient: Option<Tensor<2>>,
    take: &'a mut dyn FnMut(ParamId, Tensor<1>),
}

impl Pass<'_> {
    /// Gradients of a block's inputs (which it joins) from that of its output; those of its parameters are
    /// handed over.
    fn block(&mut self, layers: &[Layer], inputs: Vec<Tensor<4>>, upstream: Tensor<4>) -> Result<Vec<Tensor<4>>> {
        let inputs: Vec<_> = inputs.into_iter().map(|x| x.autodiff().require_grad()).collect();
        let emb = self.emb.clone().autodiff().require_grad();
        let joined = if inputs.len() == 1 { inputs[0].clone() } else { Tensor::cat(inputs.clone(), 1) };
        let out = run(layers, self.tracked, joined, &emb);
        let mut gradients = (out * upstream.autodiff()).sum().backward();
        self.hand_over(&mut gradients);
        if let Some(found) = emb.grad_remove(&mut gradients) {
            self.emb_gradient = Some(match self.emb_gradient.take() {
                Some(sum) => sum + found,
                None => found,
            });
        }
        inputs.iter().map(|x| gradient_of(x, &mut gradients)).collect()
    }

    fn hand_over(&mut self, gradients: &mut burn::tensor::Gradients) {
        for id in self.tracked.layout().ids() {
            if let Some(gradient) = self.tracked.flat(id).grad_remove(gradients) {
                (self.take)(id, gradient);
            }
        }
    }
}

fn gradient_of(x: &Tensor<4>, gradients: &mut burn::tensor::Gradients) -> Result<Tensor<4>> {
    x.grad_remove(gradients).ok_or_else(|| Error::Backend("a block's output does not depend on its input".into()))
}
