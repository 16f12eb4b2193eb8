//! Latent diffusion models behind the engine: the x4 upscaler, and editing by a text.
//!
//! As with other restorations a [`LatentRequest`] is data, [`Engine::plan_latent`] checks all of it before any weights are
//! read, and [`Engine::run_latent`] carries the plan out. Text encoder, U-Net and autoencoder are in memory one after the
//! other; of a folder, what has room is kept for the next image.
//!
//! [`Engine::plan_latent`]: super::Engine::plan_latent
//! [`Engine::run_latent`]: super::Engine::run_latent

mod adapt;
mod canvas;
mod memory;
mod parts;
mod plan;
mod record;
mod request;
mod run;

pub use adapt::LatentAdaptationRecord;
pub use plan::LatentPlan;
pub use record::LatentRecord;
pub use request::{LatentAdapt, LatentRequest, LatentTask, Region};
pub use run::LatentRestored;

pub(super) use parts::Parts;
pub(super) use plan::opened;
pub(super) use run::other_files;
