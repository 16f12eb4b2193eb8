//! Test-time adaptation: the loss of Eq. 6, the optimiser, the average of the weights, and what is kept.
//!
//! [`Adaptation`] is an iterator of training steps on a few images; its result is an [`Adapter`], all weights or
//! LoRA factors, to sample with and to keep. An adaptation does not know the operator A: it depends on the images and
//! its settings alone, and serves every task.

mod accumulate;
mod adam;
mod adapter;
mod config;
mod crops;
mod ema;
mod lora;
mod loss;
mod memory;
mod run;

pub use accumulate::{Workers, accumulate};
pub use adam::{Adam, AdamConfig, clip_gradients, gradient_norm};
pub use adapter::{Adapter, AdapterInfo, Provenance, save_params};
pub use config::{AdaptConfig, CropScale, RateSchedule, Timesteps, Trained};
pub use crops::CropSource;
pub use ema::Ema;
pub use lora::{AdaptedLayers, Lora};
pub use loss::{
    Batch, LevelWeights, LossGradients, Objective, add_noise, batch_loss, loss_by_blocks, simple_loss, simple_losses,
};
pub use memory::adaptation_memory;
pub use run::{AdaptStep, Adaptation, HeldOut};
