//! The hot operations of diffusion U-Nets.
//!
//! Every operation here has a definition in stock framework operations ([`mod@reference`]), which is what
//! runs on devices without a kernel of ours and what the fast paths are tested against.
//!
//! The kernels run single-precision tensors of the CPU device; see `ops` for how they meet the framework,
//! `simd` for how one binary serves all processors and `tile` for the inner loops.

#![deny(missing_docs)]
#![cfg_attr(not(test), warn(clippy::unwrap_used))]

mod attention;
mod checksum;
mod conv;
mod layout;
mod limits;
#[doc(hidden)]
pub mod machine;
mod memory;
mod norm;
mod numbers;
mod ops;
mod parallel;
mod products;
pub mod reference;
mod resample;
pub mod scan;
mod scratch;
mod simd;
mod tile;
mod tokens;

pub use checksum::checksum;
pub use limits::{OrExit, refuse_large_files};
pub use memory::keep_freed_memory;
pub use ops::{
    AdamStep, GroupNorm, Kernel, LowRank, adam_step, add, attention, avg_pool2, blend, conv2d, cross_attention, geglu,
    group_norm, group_norm_conv2d, join_channels, layer_norm, upsample_nearest2, widen,
};
pub use products::products_of_columns;
pub use simd::Isa;

/// Channel order of the fused query-key-value projection, `[batch, 3 * channels, tokens]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkvOrder {
    /// head, then query/key/value, then the head's channels (guided-diffusion's default, "legacy").
    HeadsFirst,
    /// query/key/value, then head, then the head's channels (guided-diffusion's "new attention order").
    QkvFirst,
}
