//! The hot operations of diffusion U-Nets.
//!
//! Every operation here has a definition in stock framework operations ([`reference`]), which is what
//! runs on devices without a kernel of ours and what the fast paths are tested against.

pub mod reference;

pub use reference::{attention, avg_pool2, conv2d, group_norm, upsample_nearest2};

/// Channel order of the fused query-key-value projection, `[batch, 3 * channels, tokens]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkvOrder {
    /// head, then query/key/value, then the head's channels (guided-diffusion's default, "legacy").
    HeadsFirst,
    /// query/key/value, then head, then the head's channels (guided-diffusion's "new attention order").
    QkvFirst,
}
