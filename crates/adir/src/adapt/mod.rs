//! Test-time adaptation: the loss of Eq. 6, the optimiser and the average of the weights.

mod accumulate;
mod adam;
mod ema;
mod loss;

pub use accumulate::{Workers, accumulate};
pub use adam::{Adam, AdamConfig, clip_gradients};
pub use ema::Ema;
pub use loss::{Batch, LossGradients, Objective, add_noise, batch_loss, simple_loss, simple_losses};
