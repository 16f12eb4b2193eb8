//! Classifier-free guidance (Ho and Salimans, arXiv 2207.12598).

use super::{Conditioning, Denoiser, DenoiserInfo, Prediction};
use crate::schedule::Timestep;
use crate::tensor::{Device, Tensor};
use crate::{Error, Result};

/// A denoiser that is always told the same, and drawn away from what it says when it is told less.
///
/// eps = eps_without + scale (eps_with - eps_without). As the noise is linear in whatever the network predicts, this is the
/// same for predictions of eps, v and x0.
pub struct ClassifierFree<'a> {
    inner: &'a dyn Denoiser,
    with: Conditioning,
    without: Option<Conditioning>,
    scale: f64,
}

impl<'a> ClassifierFree<'a> {
    /// `inner` told `with`, and `without` where that counts for something: with a scale of 1 it does not, and one pass of
    /// the network suffices.
    ///
    /// # Errors
    /// [`Error::Config`] for a scale that is not from 1 to 100.
    pub fn new(inner: &'a dyn Denoiser, with: Conditioning, without: Option<Conditioning>, scale: f64) -> Result<Self> {
        if !(1.0..=100.0).contains(&scale) {
            return Err(Error::config(format!("guidance scale {scale}: expected 1 to 100")));
        }
        Ok(Self { inner, with, without: without.filter(|_| scale > 1.0), scale })
    }

    /// Passes of the network a prediction.
    pub fn passes(&self) -> usize {
        1 + usize::from(self.without.is_some())
    }
}

impl Denoiser for ClassifierFree<'_> {
    fn info(&self) -> &DenoiserInfo {
        self.inner.info()
    }

    fn device(&self) -> Device {
        self.inner.device()
    }

    /// What is given as `conditioning` does not count.
    fn predict(&self, x_t: &Tensor<4>, t: Timestep, _conditioning: &Conditioning) -> Result<Prediction> {
        let with = self.inner.predict(x_t, t, &self.with)?;
        let Some(without) = &self.without else { return Ok(with) };
        let without = self.inner.predict(x_t, t, without)?;
        let eps = without.eps.clone() + (with.eps - without.eps) * self.scale;
        Ok(Prediction { eps, variance: with.variance })
    }
}
