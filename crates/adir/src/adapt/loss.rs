//! The denoising loss l_simple (Eq. 6) and its gradients.

use crate::models::guided_diffusion::UNet;
use crate::models::params::Params;
use crate::schedule::{Schedule, Timestep};
use crate::tensor::{self, Tensor};
use crate::{Error, Result};

/// x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps (Eq. 3), one t for the whole batch.
///
/// `t` is an index of the original schedule.
pub fn add_noise(schedule: &Schedule, x0: &Tensor<4>, eps: &Tensor<4>, t: Timestep) -> Tensor<4> {
    let alpha_bar = schedule.original_alpha_bar(t);
    x0.clone() * alpha_bar.sqrt() + eps.clone() * (1.0 - alpha_bar).sqrt()
}

/// A loss and its gradient by every parameter, in the layout's order.
#[derive(Debug)]
pub struct LossGradients {
    /// The loss.
    pub loss: f64,
    /// Flat gradients; `None` where the loss does not depend on the parameter.
    pub gradients: Vec<Option<Tensor<1>>>,
}

/// l_simple = mean (eps - eps_theta(x_t, t))^2 over all elements (Eq. 6), with gradients.
///
/// The variance channels of a learned-sigma network take no part, so their rows get a zero gradient.
///
/// # Shapes
/// `x_t` and `eps`: `[n, c, h, w]` with h and w multiples of the network's; `timesteps`: n.
///
/// # Errors
/// [`Error::Numerical`] when the loss is not finite.
pub fn simple_loss(
    net: &UNet,
    params: &Params,
    x_t: &Tensor<4>,
    eps: &Tensor<4>,
    timesteps: &[Timestep],
    classes: Option<&[usize]>,
) -> Result<LossGradients> {
    let channels = eps.dims()[1];
    let tracked = params.map(|_, value| value.autodiff().require_grad());
    let out = net.forward(&tracked, x_t.clone().autodiff(), timesteps, classes);
    let error = out.narrow(1, 0, channels) - eps.clone().autodiff();
    let loss = (error.clone() * error).mean();
    let value = tensor::to_f64(&loss.clone().inner())?.first().copied().unwrap_or(f64::NAN);
    if !value.is_finite() {
        return Err(Error::Numerical(format!("the training loss is {value} at t = {timesteps:?}")));
    }
    let mut gradients = loss.backward();
    let gradients = params.layout().ids().map(|id| tracked.flat(id).grad_remove(&mut gradients)).collect();
    Ok(LossGradients { loss: value, gradients })
}
