//! Networks. A [`Denoiser`] is a network with the schedule it was trained for.

pub mod guided_diffusion;
pub mod params;
mod prior;

pub use prior::embedded_prior;

use crate::Result;
use crate::schedule::{Schedule, Timestep};
use crate::tensor::Tensor;

/// What a network says about x_t.
#[derive(Debug, Clone)]
pub struct Prediction {
    /// Predicted noise, the shape of x_t.
    pub eps: Tensor<4>,
    /// The learned-range variance channels v in about [-1, 1] (log Sigma interpolates between
    /// beta-tilde at -1 and beta at 1), the shape of x_t; absent for networks without learned sigma.
    pub variance: Option<Tensor<4>>,
}

/// A network and its schedule. Networks that predict x0 or v are converted to eps on this side.
pub trait Denoiser {
    /// The schedule the network was trained with.
    fn schedule(&self) -> &Schedule;
    /// Predicts the noise in `x_t` (`[n, c, h, w]`, pixel range [-1, 1] plus noise) at `t`, the
    /// index into the original schedule, the same for the whole batch. `class` is the label of a
    /// class-conditional network.
    fn predict(&self, x_t: &Tensor<4>, t: Timestep, class: Option<usize>) -> Result<Prediction>;
    /// Height and width of x must be multiples of this.
    fn size_multiple(&self) -> usize;
}
