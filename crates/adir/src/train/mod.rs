//! Trains a prior on a folder of photographs.
//!
//! The recipe is that of improved diffusion at a small scale: hybrid loss, AdamW with warm-up and cosine
//! decay, gradients clipped at norm 1, a moving average of the weights. A training is bounded by time or by steps. With
//! a number of steps, the result depends only on settings, images and machine.

mod checkpoint;
mod config;
mod photographs;
mod split;
mod trainer;
mod validation;

pub use config::{Length, TrainConfig};
pub use photographs::{Collection, Photographs};
pub use split::Tiles;
pub use trainer::{StepReport, Trainer};
pub use validation::{LEVELS, Validation};
