//! A network as a description.

use adir_kernels::join_channels;

use std::fmt::Debug;
use std::sync::Arc;

use super::Conditioning;
use super::blocks::{Block, Context};
use super::params::{ParamId, ParamLayout, ParamSpec, Params};
use crate::operator::ImageShape;
use crate::schedule::Timestep;
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// Bytes of weights in f32 that outgrow the cache of what the kernels read.
const LARGE_WEIGHTS: usize = 1 << 28;

/// What one block takes of memory for one image, in elements of maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockMemory {
    /// What enters it, joined with a saved map where it joins one.
    pub entering: usize,
    /// What a tracked forward pass keeps for the backward pass.
    pub kept: usize,
    /// What it saves for a later block.
    pub saved: usize,
}

/// Refuses a class that a network of `classes` does not have, and the lack of one that it needs.
pub(super) fn check_class(classes: Option<usize>, class: Option<usize>) -> Result<()> {
    match (classes, class) {
        (None, None) => Ok(()),
        (None, Some(_)) => Err(Error::config("this network has no classes, but a class was given")),
        (Some(count), Some(class)) if class < count => Ok(()),
        (Some(count), given) => Err(Error::config(format!(
            "this network needs a class from 0 to {count} (exclusive), {}",
            given.map_or("none was given".into(), |class| format!("not {class}"))
        ))),
    }
}

/// A network: one list of blocks that look their parameters up in the [`Params`] of its layout. Weights come with every
/// call.
pub trait Network: Debug + Send + Sync {
    /// Names, shapes and meanings of the parameters.
    fn layout(&self) -> &Arc<ParamLayout>;

    /// What is computed, in order.
    fn blocks(&self) -> &[Block];

    /// Channels of what it takes.
    fn input_channels(&self) -> usize;

    /// Number of classes of a class-conditional network.
    fn classes(&self) -> Option<usize> {
        None
    }

    /// Refuses what the network cannot be told, and the lack of what it must be: here a class, where it has some.
    ///
    /// # Errors
    /// [`Error::Config`] naming what is missing or too much.
    fn check_conditioning(&self, conditioning: &Conditioning) -> Result<()> {
        if conditioning.text().is_some() {
            return Err(Error::config("this network takes no text"));
        }
        check_class(self.classes(), conditioning.class())
    }

    /// What every block is told: an entry of `timesteps` for each of the n images of `x`, and one of `conditioning`,
    /// which is empty for a network without.
    fn context(&self, p: &Params, x: &Tensor<4>, timesteps: &[Timestep], conditioning: &[Conditioning]) -> Context;

    /// The parameters that [`Network::context`] depends on.
    fn context_parameters(&self) -> Vec<ParamId>;

    /// The network's output `[n, outputs, h, w]` for noisy images `[n, inputs, h, w]`.
    ///
    /// # Shapes
    /// As of [`Network::context`].
    fn forward(&self, p: &Params, x: Tensor<4>, timesteps: &[Timestep], conditioning: &[Conditioning]) -> Tensor<4> {
        let context = self.context(p, &x, timesteps, conditioning);
        let mut skips = Vec::new();
        self.blocks().iter().fold(x, |x, block| {
            let x = if block.joins_skip() {
                join_channels(x, skips.pop().expect("a skip saved for every one joined"))
            } else {
                x
            };
            let x = block.forward(p, x, &context);
            if block.saves_skip() {
                skips.push(x.clone());
            }
            x
        })
    }

    /// What enters each block, joined with a saved map where it joins one, for one image of that height and width.
    fn entering(&self, height: usize, width: usize) -> Vec<ImageShape> {
        let mut skips = Vec::new();
        let mut map = ImageShape { channels: self.input_channels(), height, width };
        let enter = |block: &Block| {
            if block.joins_skip() {
                map.channels += skips.pop().unwrap_or(0);
            }
            let entering = map;
            (map, _) = block.size(map);
            if block.saves_skip() {
                skips.push(map.channels);
            }
            entering
        };
        self.blocks().iter().map(enter).collect()
    }

    /// What each block takes for one image of that height and width.
    fn memory_of_blocks(&self, height: usize, width: usize) -> Vec<BlockMemory> {
        let size = |(block, map): (&Block, ImageShape)| {
            let (after, kept) = block.size(map);
            let saved = if block.saves_skip() { after.elements() } else { 0 };
            BlockMemory { entering: map.elements(), kept, saved }
        };
        self.blocks().iter().zip(self.entering(height, width)).map(size).collect()
    }

    /// Products that a pass of one image of that height and width adds up, in convolutions, linear layers and attention,
    /// counted by their definitions. What is computed once a pass, such as the embedding of a timestep, is left out.
    fn products(&self, height: usize, width: usize) -> u64 {
        let blocks = self.blocks().iter().zip(self.entering(height, width));
        blocks.map(|(block, map)| block.products(self.layout(), map)).sum()
    }

    /// [`Layer::attention_weights`](super::blocks::Layer::attention_weights) of each block, for one image of that height and
    /// width.
    fn attention_weights(&self, height: usize, width: usize) -> Vec<usize> {
        let blocks = self.blocks().iter().zip(self.entering(height, width));
        blocks.map(|(block, map)| block.attention_weights(map)).collect()
    }

    /// Bytes that f64 takes beyond f32: the weights of the largest attention, twice.
    fn beyond_f32(&self, height: usize, width: usize, n: usize, dtype: DType) -> u64 {
        if dtype != DType::F64 {
            return 0;
        }
        let most = self.attention_weights(height, width).into_iter().max().unwrap_or(0);
        16 * n as u64 * most as u64
    }

    /// Elements of the largest map that enters a block: a decoder's, joined with its skip.
    fn largest_map(&self, height: usize, width: usize) -> usize {
        self.memory_of_blocks(height, width).iter().map(|block| block.entering).max().unwrap_or(0)
    }

    /// Bytes of memory that a program sampling `[n, c, height, width]` on the CPU in f32 or f64 takes, weights included: an
    /// upper estimate, from the sizes of what is alive at once, fitted to measured peaks (docs/results/memory.md).
    fn forward_memory(&self, height: usize, width: usize, n: usize, dtype: DType) -> u64 {
        /// The program and the threads' scratch space.
        const PROGRAM: u64 = 32 << 20;
        /// The widest map itself, its normalisation, its transformed copy, the layer's output and what is in passing.
        const MAPS_ALIVE: usize = 7;
        /// Those of them that are there as a whole where convolutions work in bands, in tenths, and what bands take.
        const WHOLE_TENTHS: usize = 23;
        const BANDS: usize = 420_000_000;
        let skips: usize = self.memory_of_blocks(height, width).iter().map(|block| block.saved).sum();
        let weights = 4 * self.layout().element_count();
        let widest = 4 * self.largest_map(height, width);
        // Several images are computed a thread each, and large networks were not measured with bands.
        let maps = match n == 1 && weights <= LARGE_WEIGHTS {
            true => (MAPS_ALIVE * widest).min(WHOLE_TENTHS * widest / 10 + BANDS),
            false => MAPS_ALIVE * widest,
        };
        let beyond = self.beyond_f32(height, width, n, dtype);
        PROGRAM + self.weights_memory() + (n * (4 * skips + maps)) as u64 + beyond
    }

    /// Bytes of [`Network::forward_memory`] that the weights take: in f32, and as the kernels read them.
    fn weights_memory(&self) -> u64 {
        /// Convolution weights are also kept as the kernels read them. That takes their size times this, in tenths, up to
        /// the bound of the cache and what is in passing.
        const KEPT_TENTHS: usize = 42;
        const MOST_KEPT: usize = 320 << 20;
        /// What is kept of scratch space, at most, and the packed form of a layer over its weights.
        const MOST_SCRATCH: usize = 512 << 20;
        const PACKED: usize = 8;
        let weights = 4 * self.layout().element_count();
        // Weights beyond that are packed in every call, and such networks have layers whose scratch space is all in use.
        let largest = self.layout().specs().iter().map(ParamSpec::len).max().unwrap_or(0);
        let packing =
            if weights > LARGE_WEIGHTS { 2 * 4 * largest + (PACKED * 4 * largest).min(MOST_SCRATCH) } else { 0 };
        let kept = (KEPT_TENTHS * weights / 10).min(MOST_KEPT);
        (weights + kept + packing) as u64
    }

    /// The same where every evaluation is differentiated by its input (see [`super::Denoiser::predict_back`]): the maps of
    /// all blocks are alive at once. Fitted to peaks measured at 128x128 to 512x512 pixels.
    fn gradient_memory(&self, height: usize, width: usize, n: usize, dtype: DType) -> u64 {
        /// Scratch space of the backward pass, a thread.
        const BACKWARD: u64 = 80 << 20;
        /// The widest map with what is in passing, forward and backward.
        const MAPS_ALIVE: usize = 11;
        /// Share of the counted maps that is alive at the same time, in percent.
        const SHARE: u64 = 61;
        let blocks = self.memory_of_blocks(height, width);
        let maps: usize = blocks.iter().map(|block| block.kept + block.saved).sum();
        let maps = 4 * n * (maps + MAPS_ALIVE * self.largest_map(height, width));
        let beyond = self.beyond_f32(height, width, n, dtype);
        self.forward_memory(0, 0, 0, DType::F32) + BACKWARD * n as u64 + maps as u64 * SHARE / 100 + beyond
    }
}
