//! Test-time adaptation: which crops of which images, in which steps, and what is kept.
//!
//! [`Adaptation`] is an iterator of training steps on a few images; its result is an [`Adapter`], all weights or
//! LoRA factors, to sample with and to keep. An adaptation does not know the operator A: it depends on the images and
//! its settings alone, and serves every task. How long it trains, and whether low-rank factors or all weights, follows the
//! loss on images that it holds out.

mod adapter;
pub(crate) mod checkpoint;
mod config;
pub(crate) mod crops;
mod curve;
mod held_out;
pub(crate) mod learner;
mod memory;
mod run;

pub use adapter::{Adapter, AdapterInfo, Provenance};
pub use config::{AdaptConfig, CropScale, MOST_CROP, RateSchedule, Timesteps, Trained};
pub use crops::CropSource;
pub(crate) use crops::reduced;
pub use curve::{Band, HeldOut, Point, Slope, Stopped};
pub use memory::adaptation_memory;
pub(crate) use run::passes_of_crops;
pub use run::{AdaptStep, Adaptation, Measured, is_held_out, products_of_training};
