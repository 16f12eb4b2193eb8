//! The denoising loss l_simple (Eq. 6), the hybrid loss that also trains the variance, and their gradients.

use std::f64::consts::LN_2;

use burn::tensor::DType;

use crate::compute::in_pool;
use crate::models::params::Tracked;
use crate::models::{Conditioning, Denoiser, PredictionKind, Prior, gradients_by_blocks};
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

/// Clean images, noise, and a timestep for each image.
#[derive(Debug, Clone)]
pub struct Batch {
    /// `[n, c, h, w]` in [-1, 1].
    pub x0: Tensor<4>,
    /// Standard normal, of the same shape.
    pub eps: Tensor<4>,
    /// n indices into the original schedule.
    pub timesteps: Vec<Timestep>,
    /// What the network is told of each image; empty for a network that is told nothing.
    pub conditioning: Vec<Conditioning>,
}

impl Batch {
    /// Its number of images.
    pub fn len(&self) -> usize {
        self.timesteps.len()
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.timesteps.is_empty()
    }

    /// `count` images from the `first` on.
    #[must_use]
    pub fn part(&self, first: usize, count: usize) -> Self {
        let part = |of: &Tensor<4>| of.clone().narrow(0, first, count);
        let timesteps = self.timesteps[first..first + count].to_vec();
        let conditioning = self.conditioning.iter().skip(first).take(count).cloned().collect();
        Self { x0: part(&self.x0), eps: part(&self.eps), timesteps, conditioning }
    }

    /// x_t of every image (Eq. 3).
    pub fn noisy(&self, schedule: &Schedule) -> Tensor<4> {
        let factors = |f: &dyn Fn(f64) -> f64| self.factors(|t| f(schedule.original_alpha_bar(t)));
        self.x0.clone() * factors(&|bar| bar.sqrt()) + self.eps.clone() * factors(&|bar| (1.0 - bar).sqrt())
    }

    /// What the network of `prior` should predict.
    fn target(&self, prior: &Prior) -> Tensor<4> {
        let schedule = &prior.info().schedule;
        match prior.info().prediction {
            PredictionKind::Epsilon => self.eps.clone(),
            PredictionKind::Sample => self.x0.clone(),
            PredictionKind::V => {
                let of_eps = self.factors(|t| schedule.original_alpha_bar(t).sqrt());
                let of_x0 = self.factors(|t| (1.0 - schedule.original_alpha_bar(t)).sqrt());
                self.eps.clone() * of_eps - self.x0.clone() * of_x0
            }
        }
    }

    /// A number for every image, `[n, 1, 1, 1]`.
    fn factors(&self, f: impl Fn(Timestep) -> f64) -> Tensor<4> {
        let values = self.timesteps.iter().map(|&t| f(t) as f32).collect();
        tensor::from_f32(values, [self.len(), 1, 1, 1], &self.x0.device()).cast(self.x0.dtype())
    }
}

/// Weight of an image's squared error by noise level: 1 / (k + SNR)^gamma with SNR = alpha_bar / (1 - alpha_bar),
/// scaled to mean 1 over the schedule (P2 weighting: Choi et al. 2022, Eq. 8).
///
/// With gamma = 0 every t counts alike, as in l_simple. Then nearly all of the loss, and of the gradient, comes from
/// the least noisy images; where the noise is strong the error stays several times what a constant picture would have.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LevelWeights {
    /// Bounds the weight of the noisiest images; at least 0.
    pub k: f64,
    /// 0 for equal weights; at most 1.
    pub gamma: f64,
}

impl Default for LevelWeights {
    fn default() -> Self {
        Self::EQUAL
    }
}

impl LevelWeights {
    /// Every timestep counts alike.
    pub const EQUAL: Self = Self { k: 0.0, gamma: 0.0 };

    /// The weight of an index of the original schedule, as a function of it.
    pub fn of<'a>(&self, schedule: &'a Schedule) -> impl Fn(Timestep) -> f64 + use<'a> {
        let Self { k, gamma } = *self;
        let unscaled = move |t: Timestep| {
            let bar = schedule.original_alpha_bar(t);
            (k + bar / (1.0 - bar)).powf(-gamma)
        };
        let count = schedule.original_len();
        let mean = (0..count).map(|t| unscaled(Timestep(t as u16))).sum::<f64>() / count as f64;
        move |t| unscaled(t) / mean
    }

    /// The square root of the weight of every image, `[n, 1, 1, 1]`: a factor of its error. `None` if all count alike.
    pub(super) fn roots(&self, schedule: &Schedule, batch: &Batch) -> Option<Tensor<4>> {
        if self.gamma == 0.0 {
            return None;
        }
        let weight = self.of(schedule);
        Some(batch.factors(|t| weight(t).sqrt()))
    }

    /// Checks the ranges of k and gamma.
    ///
    /// # Errors
    /// [`Error::Config`] naming the numbers.
    pub(crate) fn check(&self) -> Result<()> {
        let Self { k, gamma } = self;
        if (0.0..=1e3).contains(k) && (0.0..=1.0).contains(gamma) {
            return Ok(());
        }
        Err(Error::Config(format!(
            "loss weights with k = {k} and gamma = {gamma}: expected k from 0 to 1000 and gamma from 0 to 1"
        )))
    }
}

/// Training objective.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Objective {
    /// l_simple (Eq. 6), weighted by noise level: the variance of a learned-sigma network takes no part.
    Simple(LevelWeights),
    /// The same + 0.001 L_vlb of improved diffusion (Nichol and Dhariwal 2021, Eq. 16), the latter for the
    /// variance channels only and estimated from one timestep an image: T times its term. As
    /// 0.001 T = 1 here, it is the mean over the batch of the divergence in bits a dimension. Its first term
    /// (t = 0) is the same Gaussian divergence, and no element counts for more than 50 bits.
    Hybrid(LevelWeights),
    /// The mean squared error of what the network itself predicts, unweighted: of v for a network that predicts v. For
    /// networks that predict eps it is l_simple. So Stable Diffusion's models were trained.
    Own,
}

impl Objective {
    fn weights(self) -> LevelWeights {
        match self {
            Self::Simple(weights) | Self::Hybrid(weights) => weights,
            Self::Own => LevelWeights::EQUAL,
        }
    }
}

/// A loss and its gradient by all that is trained: every parameter, or the factors the weights came with, in the order of
/// their layout.
#[derive(Debug)]
pub struct LossGradients {
    /// l_simple, whatever was minimised; with [`Objective::Own`] that.
    pub loss: f64,
    /// Flat gradients of what was minimised; `None` where it does not depend on the parameter.
    pub gradients: Vec<Option<Tensor<1>>>,
}

/// l_simple = mean (eps - eps_theta(x_t, t))^2 over all elements (Eq. 6), with gradients.
///
/// The variance channels of a learned-sigma network take no part, so their rows get a zero gradient.
///
/// # Shapes
/// `x_t` and `eps`: `[n, c, h, w]` with h and w multiples of the network's; `timesteps`: n; `conditioning`: n, none for a
/// network without.
///
/// # Errors
/// [`Error::Numerical`] when the loss is not finite.
pub fn simple_loss(
    prior: &Prior,
    x_t: &Tensor<4>,
    eps: &Tensor<4>,
    timesteps: &[Timestep],
    conditioning: &[Conditioning],
) -> Result<LossGradients> {
    let tracked = prior.params().tracked();
    let out = prior.network().forward(&tracked.params, x_t.clone().autodiff(), timesteps, conditioning);
    let loss = mean_square(predicted_eps(prior, out, x_t, timesteps) - eps.clone().autodiff());
    differentiate(&tracked, loss.clone(), &loss, timesteps)
}

/// The loss of `batch` with the weights of `prior` and the gradients of `objective`, both times `share`: what the batch
/// counts for within a larger one. The network computes in `dtype`, its weights and their gradients keep their own
/// precision.
///
/// # Errors
/// [`Error::Numerical`] when the loss is not finite; [`Error::Config`] when the hybrid loss is asked of a
/// network without learned sigma.
pub fn batch_loss(
    prior: &Prior,
    batch: &Batch,
    objective: Objective,
    dtype: DType,
    share: f64,
) -> Result<LossGradients> {
    in_pool(&prior.params().device(), || loss_and_gradients(prior, batch, objective, dtype, share))
}

fn loss_and_gradients(
    prior: &Prior,
    batch: &Batch,
    objective: Objective,
    dtype: DType,
    share: f64,
) -> Result<LossGradients> {
    let (params, schedule) = (prior.params(), &prior.info().schedule);
    let tracked = params.tracked();
    let computed = tracked.params.in_precision(dtype);
    let x_t = batch.noisy(schedule);
    let input = Conditioning::join(x_t.clone(), &batch.conditioning).cast(dtype).autodiff();
    let out = prior.network().forward(&computed, input, &batch.timesteps, &batch.conditioning);
    let out = out.cast(params.dtype());
    let channels = batch.eps.dims()[1];
    let eps = predicted_eps(prior, out.clone(), &x_t, &batch.timesteps);
    let error = eps.clone() - batch.eps.clone().autodiff();
    if objective == Objective::Own {
        let own = mean_square(out.narrow(1, 0, channels) - batch.target(prior).autodiff());
        return differentiate(&tracked, own.clone() * share, &(own * share), &batch.timesteps);
    }
    let simple = mean_square(error.clone());
    let weights = objective.weights();
    let weighted = match weights.roots(schedule, batch) {
        None => simple.clone(),
        Some(roots) => mean_square(error * roots.autodiff()),
    };
    let total = match objective {
        Objective::Simple(_) | Objective::Own => weighted,
        Objective::Hybrid(_) if out.dims()[1] != 2 * channels => {
            return Err(Error::config("the hybrid loss needs a network that learns sigma"));
        }
        Objective::Hybrid(_) => {
            weighted + variance_bound(schedule, batch, &x_t, &eps.inner(), out.narrow(1, channels, channels))
        }
    };
    differentiate(&tracked, total * share, &(simple * share), &batch.timesteps)
}

/// l_simple without gradients, one value per image: the mean over its elements.
///
/// # Errors
/// [`Error::Backend`] when the device fails.
pub fn simple_losses(prior: &Prior, batch: &Batch) -> Result<Vec<f64>> {
    let [n, channels, h, w] = batch.eps.dims();
    let x_t = batch.noisy(&prior.info().schedule).cast(prior.params().dtype());
    let input = Conditioning::join(x_t.clone(), &batch.conditioning);
    let out = forward(prior, batch, input);
    let error = predicted_eps(prior, out, &x_t, &batch.timesteps).cast(batch.eps.dtype()) - batch.eps.clone();
    tensor::to_f64(&(error.clone() * error).reshape([n, channels * h * w]).mean_dim(1))
}

fn forward(prior: &Prior, batch: &Batch, input: Tensor<4>) -> Tensor<4> {
    let params = prior.params();
    in_pool(&params.device(), || prior.network().forward(params, input, &batch.timesteps, &batch.conditioning))
}

/// The loss of [`Objective::Own`] without gradients, one value per image: the mean over its elements.
///
/// # Errors
/// [`Error::Backend`] when the device fails.
pub fn own_losses(prior: &Prior, batch: &Batch) -> Result<Vec<f64>> {
    let [n, channels, h, w] = batch.eps.dims();
    let input = Conditioning::join(batch.noisy(&prior.info().schedule), &batch.conditioning);
    let input = input.cast(prior.params().dtype());
    let out = forward(prior, batch, input);
    let error = out.narrow(1, 0, channels).cast(batch.eps.dtype()) - batch.target(prior);
    tensor::to_f64(&(error.clone() * error).reshape([n, channels * h * w]).mean_dim(1))
}

/// The mean over all elements of KL(q(x_(t-1) | x_t, x_0) || p(x_(t-1) | x_t)) in bits, as a function of `v`.
fn variance_bound(schedule: &Schedule, batch: &Batch, x_t: &Tensor<4>, eps: &Tensor<4>, v: Tensor<4>) -> Tensor<1> {
    let index = |t: Timestep| usize::from(t.0);
    let bar = |t: Timestep| schedule.original_alpha_bar(t);
    let x0 = (x_t.clone() - eps.clone() * batch.factors(|t| (1.0 - bar(t)).sqrt())) / batch.factors(|t| bar(t).sqrt());
    // The means differ only by the x0 they are made of.
    let of_x0 = batch.factors(|t| schedule.posterior_mean_coefficients(index(t)).0);
    let difference = (batch.x0.clone() - x0.clamp(-1.0, 1.0)) * of_x0;
    let low = batch.factors(|t| schedule.posterior_log_variance_clipped(index(t))).autodiff();
    let half_range =
        batch.factors(|t| (schedule.beta(index(t)).ln() - schedule.posterior_log_variance_clipped(index(t))) / 2.0);
    // ln of the variance of p over that of q; q has the lower end of the learned range.
    let excess = (v + 1.0) * half_range.autodiff();
    let squared = (difference.clone() * difference).autodiff() * (excess.clone() + low).neg().exp();
    let divergence = (excess.clone() - 1.0 + excess.neg().exp() + squared) * (0.5 / LN_2);
    divergence.clamp_max(50.0).mean()
}

/// As [`batch_loss`], with the memory of one block at a time. The gradient by each of what is trained goes to `take` with its
/// place as soon as it is known, and nowhere else. Returns `share` times the loss as [`LossGradients::loss`] has it.
///
/// # Errors
/// [`Error::Numerical`] when the loss is not finite; [`Error::Config`] for the hybrid loss.
pub fn loss_by_blocks(
    prior: &Prior,
    batch: &Batch,
    objective: Objective,
    share: f64,
    take: &mut dyn FnMut(usize, Tensor<1>),
) -> Result<f64> {
    if matches!(objective, Objective::Hybrid(_)) {
        return Err(Error::config("the hybrid loss is not computed block by block"));
    }
    let (params, schedule, timesteps) = (prior.params(), &prior.info().schedule, &batch.timesteps);
    let dtype = params.dtype();
    let x_t = batch.noisy(schedule).cast(dtype);
    let eps = batch.eps.clone().cast(dtype);
    let target = (objective == Objective::Own).then(|| batch.target(prior).cast(dtype));
    let roots = objective.weights().roots(schedule, batch).map(|roots| roots.cast(dtype));
    let mut loss = |out: Tensor<4>| {
        let error = match &target {
            Some(target) => out.narrow(1, 0, prior.info().channels) - target.clone().autodiff(),
            None => predicted_eps(prior, out, &x_t, timesteps) - eps.clone().autodiff(),
        };
        let simple = error.clone().inner();
        let error = match &roots {
            Some(roots) => error * roots.clone().autodiff(),
            None => error,
        };
        let reported = mean_square(simple) * share;
        let value = tensor::to_f64(&reported)?.first().copied().unwrap_or(f64::NAN);
        if !value.is_finite() {
            return Err(Error::Numerical(format!("the training loss is {value} at t = {timesteps:?}")));
        }
        Ok((mean_square(error) * share, value))
    };
    let input = Conditioning::join(x_t.clone(), &batch.conditioning);
    gradients_by_blocks(prior.network().as_ref(), params, &input, timesteps, &batch.conditioning, &mut loss, take)
}

/// eps as the network's output `out` tells it, `[n, c, h, w]`; `out` is tracked where `x_t` need not be.
fn predicted_eps(prior: &Prior, out: Tensor<4>, x_t: &Tensor<4>, timesteps: &[Timestep]) -> Tensor<4> {
    let info = prior.info();
    let out = out.narrow(1, 0, info.channels);
    if info.prediction == PredictionKind::Epsilon {
        return out;
    }
    let like = if out.device() == x_t.device() { x_t.clone() } else { x_t.clone().autodiff() };
    let like = like.cast(out.dtype());
    info.prediction.eps(out, &like, &info.schedule, timesteps)
}

fn mean_square(error: Tensor<4>) -> Tensor<1> {
    (error.clone() * error).mean()
}

/// Gradients of `total` by every parameter, and the value of `reported`.
fn differentiate(
    tracked: &Tracked,
    total: Tensor<1>,
    reported: &Tensor<1>,
    timesteps: &[Timestep],
) -> Result<LossGradients> {
    let value = |of: &Tensor<1>| -> Result<f64> {
        let value = tensor::to_f64(&of.clone().inner())?.first().copied().unwrap_or(f64::NAN);
        if value.is_finite() {
            Ok(value)
        } else {
            Err(Error::Numerical(format!("the training loss is {value} at t = {timesteps:?}")))
        }
    };
    value(&total)?;
    let loss = value(reported)?;
    let mut gradients = total.backward();
    let gradients = tracked.leaves.iter().map(|leaf| leaf.grad_remove(&mut gradients)).collect();
    Ok(LossGradients { loss, gradients })
}
