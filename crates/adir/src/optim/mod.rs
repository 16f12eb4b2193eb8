//! What trains weights, whatever for: losses and their gradients, in parts or by blocks; Adam; averages; low-rank
//! factors; files of weights.
//!
//! Adaptation, training and verification stand on it. It knows no images but as tensors, and no file but those of
//! weights. A loss takes the gradients of whatever the weights say is trained ([`Params::tracked`]), all of them or
//! low-rank factors, and need not know which.
//!
//! [`Params::tracked`]: crate::models::params::Params::tracked

mod accumulate;
mod adam;
mod ema;
mod lora;
mod loss;
mod save;

pub use accumulate::accumulate;
pub(crate) use accumulate::add;
pub use adam::{Adam, AdamConfig, clip_gradients, gradient_norm};
pub use ema::Ema;
pub(crate) use lora::name_of_a;
pub use lora::{AdaptedLayers, Lora};
pub use loss::{
    Batch, LevelWeights, LossGradients, Objective, add_noise, batch_loss, loss_by_blocks, own_losses, simple_loss,
    simple_losses,
};
pub use save::save_params;
pub(crate) use save::{read_moments, read_values, save_tensors};
