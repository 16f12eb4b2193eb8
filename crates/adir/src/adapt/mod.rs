//! Test-time adaptation: the loss of Eq. 6, the optimiser and the average of the weights.

mod adam;
mod ema;
mod loss;

pub use adam::{Adam, AdamConfig};
pub use ema::Ema;
pub use loss::{LossGradients, add_noise, simple_loss};
