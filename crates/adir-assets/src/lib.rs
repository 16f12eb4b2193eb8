//! Weights embedded in `adir`, as bytes. Each has a card with data, licences, recipe and limits beside it in `assets/`.
#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![cfg_attr(not(test), warn(clippy::unwrap_used))]

/// The embedded prior: guided-diffusion's U-Net in 8 bits, safetensors (`assets/prior.md`).
pub static PRIOR: &[u8] = include_bytes!("../assets/prior.safetensors");

/// EfficientNet-Lite0 without its classifier, safetensors (`assets/efficientnet_lite0.md`, Apache-2.0).
pub static EFFICIENTNET_LITE0: &[u8] = include_bytes!("../assets/efficientnet_lite0.safetensors");

/// The merges of CLIP's byte-pair encoding, a pair per line (`assets/clip_merges.md`, MIT).
pub static CLIP_MERGES: &str = include_str!("../assets/clip_merges.txt");

/// NIQE's pristine mean and covariance, little-endian f64 (`assets/niqe_pristine.md`, Apache-2.0): 36 means, then the
/// upper triangle of the 36 x 36 covariance, row by row.
pub static NIQE_PRISTINE: &[u8; (36 + 36 * 37 / 2) * 8] = include_bytes!("../assets/niqe_pristine.bin");
