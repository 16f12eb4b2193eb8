//! Networks. A [`Denoiser`] is what samplers see of one; a [`Prior`] is a network with its weights.
//!
//! The surprising decision: a [`Network`] is a description, one list of blocks that look their parameters up in a
//! [`params::Params`]. Sampling, training, recomputation by blocks and estimates of memory all walk that list.

pub mod blocks;
mod by_blocks;
mod classifier_free;
pub mod clip;
mod denoiser;
pub mod efficientnet_lite;
mod embedding;
mod estimate_errors;
pub mod guided_diffusion;
mod image_mean;
mod load;
pub mod lpips;
pub mod musiq;
mod network;
pub mod params;
mod placing;
mod prior;
mod space;
mod speed;
pub mod stable_diffusion;
mod tiled;
mod tiles;

pub use by_blocks::gradients_by_blocks;
pub use classifier_free::ClassifierFree;
pub use denoiser::{Conditioning, Conditions, Denoiser, DenoiserInfo, Prediction, PredictionKind, Pullback};
pub use estimate_errors::EstimateErrors;
pub use image_mean::ImageMean;
pub use network::{BlockMemory, Network};
pub use prior::{Prior, PriorHeader, WeightsId};
pub use space::{Pixels, Space};
pub use speed::{latent_speed, speed, speed_of};
pub use tiled::Tiled;
pub(crate) use tiles::{check_tile, tiles_of};
