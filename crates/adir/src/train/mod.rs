//! Training of a prior from one's own photographs.
//!
//! The recipe is that of improved diffusion at a small scale: hybrid loss, AdamW with warm-up and cosine
//! decay, gradients cut at norm 1, an average of the weights. The surprising decision: a training can be
//! bounded by time as well as by steps, since what a user has is an evening, not a number of steps; with a
//! bound in steps the result is a function of the settings, the images and the machine alone.

mod checkpoint;
mod config;
mod photographs;
mod trainer;
mod validation;

pub use config::{Length, TrainConfig};
pub use photographs::{Collection, Photographs};
pub use trainer::{StepReport, Trainer};
pub use validation::{LEVELS, Validation};
