//! Gradients with the memory of one block at a time, of any network.
//!
//! The forward pass runs without gradients and keeps only the input of each block; the backward pass recomputes each
//! block from its input with gradients. This costs one more forward pass in time and keeps one map per block.

use adir_kernels::join_channels;

use super::blocks::{Block, Context};
use super::params::{Params, Tracked};
use super::{Conditioning, Network};
use crate::schedule::Timestep;
use crate::tensor::{self, Tensor};
use crate::{Error, Result};

/// The value that `loss` reports, and the gradients of what it returns to be differentiated, for the output of the network
/// for `x_t`, `[n, c, h, w]`. `loss` gets the output tracked. The gradient by each of what is trained ([`Tracked::leaves`],
/// by its place there) goes to `take` as soon as it is known, and nowhere else; each comes at most once.
///
/// # Errors
/// What `loss` returns; [`Error::Backend`] when a block's output does not depend on its input.
pub fn gradients_by_blocks(
    net: &dyn Network,
    p: &Params,
    x_t: &Tensor<4>,
    timesteps: &[Timestep],
    conditioning: &[Conditioning],
    loss: &mut dyn FnMut(Tensor<4>) -> Result<(Tensor<1>, f64)>,
    take: &mut dyn FnMut(usize, Tensor<1>),
) -> Result<f64> {
    let Some((last, before)) = net.blocks().split_last() else {
        return Err(Error::config("a network without blocks"));
    };
    // Forward: what enters each block, and what it is joined with.
    let context = net.context(p, x_t, timesteps, conditioning);
    let mut entered: Vec<Vec<Tensor<4>>> = Vec::new();
    let mut skips = Vec::new();
    let mut h = x_t.clone();
    for block in before {
        let inputs = inputs_of(block, h, &mut skips);
        h = block.forward(p, joined(&inputs), &context);
        entered.push(inputs);
        if block.saves_skip() {
            skips.push(h.clone());
        }
    }
    let inputs = inputs_of(last, h, &mut skips);

    // Backward: the loss and the last block, then each block from what entered it.
    let tracked = p.tracked();
    let trains_context = net.context_parameters().iter().any(|&id| p.is_trained(id));
    let mut pass =
        Pass { tracked: &tracked, context: &context, trains_context, embedding: None, take, skips: Vec::new() };
    let mut value = f64::NAN;
    let mut upstream = pass.block(last, inputs, !before.is_empty(), |out| {
        let (differentiated, reported) = loss(out)?;
        value = reported;
        Ok(differentiated)
    })?;
    for (k, block) in before.iter().enumerate().rev() {
        let Some(mut gradient) = upstream else { break };
        // What leaves a block goes to the next one and to a skip.
        if block.saves_skip()
            && let Some(of_skip) = pass.skips.pop()
        {
            gradient = gradient + of_skip;
        }
        let inputs = entered.pop().expect("one for every block");
        // Nobody asks for the gradient of x_t.
        upstream = pass.block(block, inputs, k > 0, |out| Ok((out * gradient.autodiff()).sum()))?;
    }

    if let Some(gradient) = pass.embedding.take() {
        let context = net.context(&tracked.params, &x_t.clone().autodiff(), timesteps, conditioning);
        let mut gradients = (context.embedding * gradient.autodiff()).sum().backward();
        pass.hand_over(&mut gradients);
    }
    Ok(value)
}

/// What a block is computed from: the map, and the skip it joins.
fn inputs_of(block: &Block, h: Tensor<4>, skips: &mut Vec<Tensor<4>>) -> Vec<Tensor<4>> {
    let skip = if block.joins_skip() { skips.pop() } else { None };
    std::iter::once(h).chain(skip).collect()
}

fn joined(inputs: &[Tensor<4>]) -> Tensor<4> {
    match inputs {
        [a, b] => join_channels(a.clone(), b.clone()),
        [one] => one.clone(),
        all => Tensor::cat(all.to_vec(), 1),
    }
}

/// The backward pass.
struct Pass<'a> {
    tracked: &'a Tracked,
    context: &'a Context,
    /// Whether gradients of the context are of use.
    trains_context: bool,
    /// Gradient of the embedding, summed over all blocks.
    embedding: Option<Tensor<2>>,
    /// Gradients of skips, that of the block that saves next to be visited last.
    skips: Vec<Tensor<4>>,
    take: &'a mut dyn FnMut(usize, Tensor<1>),
}

impl Pass<'_> {
    /// The gradient of a block's map, where it is wanted, from that of what `differentiated` makes of its result; those of
    /// its parameters are handed over, that of a skip is kept.
    fn block(
        &mut self,
        block: &Block,
        inputs: Vec<Tensor<4>>,
        wanted: bool,
        differentiated: impl FnOnce(Tensor<4>) -> Result<Tensor<1>>,
    ) -> Result<Option<Tensor<4>>> {
        let input = |x: Tensor<4>| if wanted { x.autodiff().require_grad() } else { x.autodiff() };
        let inputs: Vec<_> = inputs.into_iter().map(input).collect();
        let embedding = self.context.embedding.clone().autodiff();
        let embedding = if self.trains_context { embedding.require_grad() } else { embedding };
        let text = self.context.text.clone().map(Tensor::autodiff);
        let context = Context { embedding: embedding.clone(), text };
        let out = block.forward(&self.tracked.params, joined(&inputs), &context);
        let mut gradients = differentiated(out)?.backward();
        self.hand_over(&mut gradients);
        if self.trains_context
            && let Some(found) = embedding.grad_remove(&mut gradients)
        {
            self.embedding = Some(match self.embedding.take() {
                Some(sum) => sum + found,
                None => found,
            });
        }
        if !wanted {
            return Ok(None);
        }
        let mut found = inputs.iter().map(|x| gradient_of(x, &mut gradients));
        let map = found.next().unwrap_or_else(|| Err(Error::Backend("a block without an input".into())))?;
        for skip in found {
            self.skips.push(skip?);
        }
        Ok(Some(map))
    }

    fn hand_over(&mut self, gradients: &mut tensor::Gradients) {
        for (place, leaf) in self.tracked.leaves.iter().enumerate() {
            if let Some(gradient) = leaf.grad_remove(gradients) {
                (self.take)(place, gradient);
            }
        }
    }
}

fn gradient_of(x: &Tensor<4>, gradients: &mut tensor::Gradients) -> Result<Tensor<4>> {
    x.grad_remove(gradients).ok_or_else(|| Error::Backend("a block's output does not depend on its input".into()))
}
