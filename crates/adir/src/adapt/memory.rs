//! Memory estimate of an adaptation.

use super::config::{AdaptConfig, Trained};
use crate::models::Network;
use crate::tensor::DType;

/// The program, its embedded weights, the images and the threads' scratch space.
const PROGRAM: usize = 155 << 20;
/// Convolution weights as the kernels read them (forward and backward, of several steps), over the weights, and their bound:
/// that of the cache, and what is packed anew while others are in use.
const PACKED: usize = 8;
const MOST_PACKED: usize = 340 << 20;
/// Copies of the weights kept besides the gradients of parts, when training all weights or factors.
const FULL_COPIES: usize = 7;
const LORA_COPIES: usize = 2;
/// Measured share of the counted memory that is alive at the same time, in percent.
const SHARE: usize = 85;
/// Temporary maps alive at the same time (gradients and copies), in units of the largest map.
const IN_PASSING: usize = 6;

/// In f64: bytes of a value of the state, of one of the maps, whose operations keep more for the backward pass than the
/// kernels of f32 do, and of a weight of attention, which f32 does not keep. Fitted to measured peaks.
const IN_F64: [usize; 3] = [8, 21, 24];

/// Bytes that a program adapting that network on the CPU in f32 or f64 takes at most, weights included, with so many
/// `threads`: an upper estimate from what is alive at once, fitted to measured peaks (docs/results/memory.md).
pub fn adaptation_memory(network: &dyn Network, config: &AdaptConfig, threads: usize, dtype: DType) -> u64 {
    let layout = network.layout();
    let weights = layout.element_count();
    let blocks = network.memory_of_blocks(config.crop, config.crop);
    let largest = network.largest_map(config.crop, config.crop);
    let packed = (PACKED * 4 * weights).min(MOST_PACKED);
    let part = config.micro_batch.min(config.batch);
    // Parts of a batch are computed at the same time, each on a thread.
    let parts = config.batch.div_ceil(part).max(1);
    let at_once = if config.recompute { 1 } else { threads.clamp(1, parts) };
    let trained = match config.trained.low_rank() {
        Trained::Lora { rank, layers, .. } => layout
            .specs()
            .iter()
            .filter(|s| layers.include(s.role))
            .map(|s| rank * (s.shape[0] + s.shape[1..].iter().product::<usize>()))
            .sum(),
        _ => 0,
    };
    let full = !matches!(config.trained, Trained::Lora { .. });
    let parts_summed = if config.recompute || parts == 1 { 0 } else { at_once + 1 };
    // With all weights, the base, the weights and their average before and after a step, Adam's two moments, summed gradients,
    // some of them in part; the gradients of each part. With factors, the base and the sum with their product; the factors
    // have their own seven, gradients included.
    let copies = if full { FULL_COPIES + parts_summed } else { LORA_COPIES };
    let state = copies * weights + 7 * trained;
    let activations = if config.recompute {
        let entering: usize = blocks.iter().map(|b| b.entering).sum();
        2 * entering + blocks.iter().map(|b| b.kept).max().unwrap_or(0)
    } else {
        blocks.iter().map(|b| b.kept).sum()
    };
    let maps = (part * at_once) as u128 * (activations + IN_PASSING * largest) as u128 / 100 * SHARE as u128;
    let [of_state, of_maps, of_attention] = if dtype == DType::F64 { IN_F64 } else { [4, 4, 0] };
    let attention: usize = network.attention_weights(config.crop, config.crop).into_iter().sum();
    let attention = (part * at_once * attention) as u128;
    let bytes = (PROGRAM + packed) as u128
        + of_state as u128 * state as u128
        + of_maps as u128 * maps
        + of_attention as u128 * attention;
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
