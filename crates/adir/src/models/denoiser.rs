//! What samplers and guidance see of a network.

use std::fmt::Debug;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::EstimateErrors;
use crate::schedule::{Schedule, Timestep, VarianceKind};
use crate::tensor::{self, Device, Tensor, cpu};
use crate::{Error, Result};

/// What a network is told besides x_t and t.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum Conditioning {
    /// Nothing.
    #[default]
    None,
    /// The label of a class-conditional network, counted from 0.
    Class(usize),
    /// Several things at once.
    Several(Arc<Conditions>),
}

/// What a network in a latent space is told besides x_t and t.
#[derive(Debug, Clone, Default)]
pub struct Conditions {
    /// States of a text, `[1, tokens, width]`.
    pub text: Option<Tensor<3>>,
    /// A class label: of the x4 upscaler, the level of the noise in the small image.
    pub class: Option<usize>,
    /// What is joined with x_t behind its channels, `[1, c, h, w]`.
    pub beside: Option<Tensor<4>>,
}

impl Conditioning {
    /// The label, where there is one.
    pub fn class(&self) -> Option<usize> {
        match self {
            Self::None => None,
            Self::Class(class) => Some(*class),
            Self::Several(conditions) => conditions.class,
        }
    }

    /// The states of a text.
    pub fn text(&self) -> Option<&Tensor<3>> {
        match self {
            Self::Several(conditions) => conditions.text.as_ref(),
            _ => None,
        }
    }

    /// What is joined with x_t.
    pub fn beside(&self) -> Option<&Tensor<4>> {
        match self {
            Self::Several(conditions) => conditions.beside.as_ref(),
            _ => None,
        }
    }

    /// The same for a part of x_t: `part` takes it from what stands beside.
    #[must_use]
    pub fn of(&self, part: impl FnOnce(&Tensor<4>) -> Tensor<4>) -> Self {
        match self {
            Self::Several(conditions) if conditions.beside.is_some() => {
                let beside = conditions.beside.as_ref().map(part);
                Self::Several(Arc::new(Conditions { beside, ..Conditions::clone(conditions) }))
            }
            other => other.clone(),
        }
    }

    /// `x`, `[n, c, h, w]`, joined with what stands beside it for each of its images: what the network gets.
    ///
    /// # Panics
    /// If it stands beside some of them only, or has other sides.
    pub fn join(x: Tensor<4>, all: &[Self]) -> Tensor<4> {
        let beside: Vec<_> = all.iter().filter_map(Self::beside).cloned().collect();
        if beside.is_empty() {
            return x;
        }
        assert_eq!(beside.len(), x.dims()[0], "channels beside every image of a batch");
        let beside = Tensor::cat(beside, 0).to_device(&x.device()).cast(x.dtype());
        Tensor::cat(vec![x, beside], 1)
    }
}

impl From<Option<usize>> for Conditioning {
    fn from(class: Option<usize>) -> Self {
        class.map_or(Self::None, Self::Class)
    }
}

/// What a network was trained to predict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PredictionKind {
    /// The noise eps.
    #[default]
    Epsilon,
    /// v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x0 (Salimans and Ho 2022).
    V,
    /// The clean image x0.
    Sample,
}

impl PredictionKind {
    /// eps as the network's `output` tells it for `x_t`, by Eq. 3: x_t = sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps.
    ///
    /// # Shapes
    /// `output` and `x_t` `[n, c, h, w]`; one entry of `timesteps` (indices of the original schedule) an image.
    pub fn eps(self, output: Tensor<4>, x_t: &Tensor<4>, schedule: &Schedule, timesteps: &[Timestep]) -> Tensor<4> {
        let (device, dtype) = (output.device(), output.dtype());
        let of_image = |f: &dyn Fn(f64) -> f64| {
            let values = timesteps.iter().map(|&t| f(schedule.original_alpha_bar(t))).collect();
            tensor::from_f64(values, [timesteps.len(), 1, 1, 1], &device).cast(dtype)
        };
        match self {
            Self::Epsilon => output,
            // Eq. 3 solved for x0 in the definition of v.
            Self::V => {
                let (own, of_x_t) = (of_image(&|bar| bar.sqrt()), of_image(&|bar| (1.0 - bar).sqrt()));
                output * own + x_t.clone() * of_x_t
            }
            Self::Sample => {
                let own = of_image(&|bar| -(bar / (1.0 - bar)).sqrt());
                output * own + x_t.clone() * of_image(&|bar| (1.0 - bar).sqrt().recip())
            }
        }
    }
}

/// What must be known of a network to sample with it, known before its weights are read.
#[derive(Debug, Clone, PartialEq)]
pub struct DenoiserInfo {
    /// Channels of x_t.
    pub channels: usize,
    /// Height and width of x_t must be multiples of this.
    pub size_multiple: usize,
    /// The schedule the network was trained with.
    pub schedule: Schedule,
    /// The variance of a reverse step that suits the network; learned where it predicts one.
    pub variance: VarianceKind,
    /// What the network predicts; [`Denoiser::predict`] makes eps of it.
    pub prediction: PredictionKind,
    /// The error of its x0 estimates, where it was measured.
    pub errors: Option<EstimateErrors>,
}

impl DenoiserInfo {
    /// Refuses an x_t that the network cannot take.
    ///
    /// # Errors
    /// [`Error::Config`] naming channels or sides.
    pub fn check(&self, x_t: &Tensor<4>) -> Result<()> {
        let ([_, c, h, w], multiple) = (x_t.dims(), self.size_multiple.max(1));
        if c != self.channels {
            return Err(Error::config(format!("the network expects {} channels, found {c}", self.channels)));
        }
        if !h.is_multiple_of(multiple) || !w.is_multiple_of(multiple) || h == 0 || w == 0 {
            return Err(Error::config(format!(
                "the network expects sides that are multiples of {multiple}, found {w}x{h}"
            )));
        }
        Ok(())
    }
}

/// Prediction of a network for x_t.
#[derive(Debug, Clone)]
pub struct Prediction {
    /// Predicted noise, the shape of x_t.
    pub eps: Tensor<4>,
    /// The learned-range variance channels v in about [-1, 1] (log Sigma interpolates between
    /// beta-tilde at -1 and beta at 1), the shape of x_t; absent for networks without learned sigma.
    pub variance: Option<Tensor<4>>,
}

/// The way back through a function of a state, at the state it was computed for.
pub trait Pullback: Send {
    /// The product of `cotangent` (of the function's result: eps of [`Denoiser::predict_back`], or the image of
    /// [`super::Space::decode_back`]) with the Jacobian: the gradient of `sum(cotangent * result)` by the state.
    ///
    /// # Shapes
    /// The cotangent has the shape of the result, what is returned that of the state.
    ///
    /// # Errors
    /// [`Error::Config`] for a cotangent of another shape; [`Error::Backend`] when the device fails.
    fn x_t(&self, cotangent: &Tensor<4>) -> Result<Tensor<4>>;
}

/// Refuses a cotangent of another shape than the result has.
pub(super) fn check_cotangent(cotangent: &Tensor<4>, result: [usize; 4]) -> Result<()> {
    if cotangent.dims() == result {
        return Ok(());
    }
    Err(Error::config(format!("a cotangent of shape {:?} for a result of {result:?}", cotangent.dims())))
}

/// A network and its schedule. Networks that predict x0 or v are converted to eps on this side.
pub trait Denoiser: Send + Sync {
    /// What is known of it.
    fn info(&self) -> &DenoiserInfo;

    /// Where it computes: on the CPU by default. States are on the CPU whatever this is.
    fn device(&self) -> Device {
        cpu()
    }

    /// Predicts the noise in `x_t` (`[n, c, h, w]`, pixel range [-1, 1] plus noise) at `t`, the index into the original
    /// schedule, the same for the whole batch, as is `conditioning`.
    ///
    /// # Errors
    /// [`Error::Config`] for an x_t or a conditioning that the network cannot take.
    fn predict(&self, x_t: &Tensor<4>, t: Timestep, conditioning: &Conditioning) -> Result<Prediction>;

    /// As [`Denoiser::predict`], with the way back from eps to x_t. The variance has none.
    ///
    /// # Errors
    /// As [`Denoiser::predict`]; [`Error::Config`] where the denoiser has no way back, as by default.
    fn predict_back(
        &self,
        x_t: &Tensor<4>,
        t: Timestep,
        conditioning: &Conditioning,
    ) -> Result<(Prediction, Box<dyn Pullback + '_>)> {
        let _ = (x_t, t, conditioning);
        Err(Error::config("this denoiser has no gradient of its prediction with respect to x_t"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::BetaSchedule;
    use crate::tensor::{cpu, from_f64, to_f64};
    use crate::testing::assert_close;

    /// Every kind leads to the same eps, from outputs made of x0 and eps by their definitions, one t an image.
    #[test]
    fn outputs_of_every_kind_lead_to_the_same_eps() {
        let schedule = Schedule::new(BetaSchedule::Cosine, 1000).unwrap();
        let timesteps = [Timestep(3), Timestep(400), Timestep(990)];
        let bars = timesteps.map(|t| schedule.original_alpha_bar(t));
        let (x0, eps) = ([0.3, -0.8, 0.5], [1.2, 0.4, -0.7]);
        let tensor = |f: &dyn Fn(usize) -> f64| from_f64((0..3).map(f).collect(), [3, 1, 1, 1], &cpu());
        let x_t = tensor(&|i| bars[i].sqrt() * x0[i] + (1.0 - bars[i]).sqrt() * eps[i]);
        let outputs = [
            (PredictionKind::Epsilon, tensor(&|i| eps[i])),
            (PredictionKind::V, tensor(&|i| bars[i].sqrt() * eps[i] - (1.0 - bars[i]).sqrt() * x0[i])),
            (PredictionKind::Sample, tensor(&|i| x0[i])),
        ];
        for (kind, output) in outputs {
            assert_close(&to_f64(&kind.eps(output, &x_t, &schedule, &timesteps)).unwrap(), &eps, 1e-12);
        }
    }
}
