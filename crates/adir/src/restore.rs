//! One restoration: combines operator, guidance and sampler.
//!
//! [`RestorePlan::new`] checks everything against the observation and the facts of the network before any weights
//! are loaded; the plan then yields a sampler for each sample. The surprising decision: where the
//! image's sides do not suit the network, the image is sampled on a larger canvas of which only a window
//! is observed, so nothing is invented about y at its border.

use std::sync::Arc;

use burn::tensor::DType;

use crate::Result;
use crate::guidance::{AdirGuidance, GreyGuidance, Guidance};
use crate::models::{Denoiser, DenoiserInfo, Space};
use crate::noise::{Noise, Stream};
use crate::operator::{Compose, Crop, ImageShape, LinearOperator};
use crate::problem::Measurement;
use crate::sampler::{AncestralConfig, Chain, DdimConfig, Inputs, initial_noise};
use crate::schedule::{Schedule, VarianceKind};
use crate::task::{Choice, GuidanceSettings, Overrides, Preset, SamplerSettings, Settings, resolve};
use crate::tensor::{self, Tensor};

/// How to sample.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingConfig {
    /// Named settings.
    pub preset: Preset,
    /// Settings given explicitly.
    pub overrides: Overrides,
    /// Seed of all noise.
    pub seed: u64,
    /// Class of a class-conditional network.
    pub class: Option<usize>,
}

/// Makes a guidance from the operator, on images of the size that is sampled, and the observation.
pub type MakeGuidance = dyn Fn(Arc<dyn LinearOperator>, &Tensor<4>) -> Result<Box<dyn Guidance>> + Send + Sync;

/// A checked restoration of one observation.
#[derive(Debug)]
pub struct RestorePlan {
    measurement: Measurement,
    guidance: Box<dyn Guidance>,
    settings: Settings,
    choices: Vec<Choice>,
    schedule: Schedule,
    variance: VarianceKind,
    canvas: ImageShape,
    seed: u64,
    class: Option<usize>,
}

impl RestorePlan {
    /// Checks settings against a measurement and the network.
    ///
    /// # Errors
    /// [`crate::Error::Config`] when they do not fit together.
    pub fn new(measurement: Measurement, sampling: &SamplingConfig, model: &DenoiserInfo) -> Result<Self> {
        Self::guided_by(measurement, sampling, model, None)
    }

    /// The same, by a guidance of the caller's in place of ADIR's.
    ///
    /// # Errors
    /// As [`RestorePlan::new`], and those of `make`.
    pub fn guided_by(
        measurement: Measurement,
        sampling: &SamplingConfig,
        model: &DenoiserInfo,
        make: Option<&MakeGuidance>,
    ) -> Result<Self> {
        let operator = measurement.operator();
        let domain = operator.domain();
        let up = |side: usize| side.next_multiple_of(model.size_multiple.max(1));
        let canvas = ImageShape { height: up(domain.height), width: up(domain.width), ..domain };
        let on_canvas: Arc<dyn LinearOperator> = if canvas == domain {
            operator.clone()
        } else {
            Arc::new(Compose::new(vec![Arc::new(Crop::new(canvas, domain)?), operator.clone()])?)
        };
        let lambda = on_canvas.norm_squared();
        let (sigma, rounding) = (measurement.sigma(), measurement.rounding());
        let (settings, mut choices) =
            resolve(sampling.preset, measurement.hint(), sigma, rounding, lambda, &sampling.overrides)?;
        choices.splice(0..0, measurement.notes().iter().cloned());
        let schedule = model.schedule.respaced(&settings.steps.parse()?)?;
        let GuidanceSettings::Adir(config) = settings.guidance;
        let guidance: Box<dyn Guidance> = match make {
            Some(make) => make(on_canvas, measurement.y())?,
            None => Box::new(AdirGuidance::new(on_canvas, measurement.y().clone(), config)?),
        };
        Ok(Self {
            guidance: if measurement.is_grey() { Box::new(GreyGuidance::new(guidance)) } else { guidance },
            measurement,
            settings,
            choices,
            schedule,
            variance: model.variance,
            canvas,
            seed: sampling.seed,
            class: sampling.class,
        })
    }

    /// The problem that is solved.
    pub fn measurement(&self) -> &Measurement {
        &self.measurement
    }

    /// Every setting in force.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Every setting in words, with its source.
    pub fn choices(&self) -> &[Choice] {
        &self.choices
    }

    /// Network evaluations per sample.
    pub fn steps(&self) -> usize {
        self.schedule.len()
    }

    /// Shape of the sampled canvas: the result's, with sides rounded up to multiples that the network accepts.
    pub fn canvas(&self) -> ImageShape {
        self.canvas
    }

    /// The noise of one sample. It depends on seed and sample index, not on the number of samples.
    pub fn noise(&self, sample: usize) -> Noise {
        Noise::new(self.seed.wrapping_add((sample as u64) << 32), Stream::Sampling)
    }

    /// One sampler, to be driven to its end by the caller; [`RestorePlan::finish`] turns its last state
    /// into the result.
    ///
    /// # Errors
    /// As the samplers' constructors.
    pub fn sampler<'a>(&'a self, denoiser: &'a dyn Denoiser, space: &dyn Space, noise: &'a Noise) -> Result<Chain<'a>> {
        let ImageShape { channels, height, width } = space.state_shape(self.canvas);
        let x_t = initial_noise(noise, [1, channels, height, width], &tensor::cpu(), DType::F32);
        let inputs = Inputs {
            guidance: Some(self.guidance.as_ref()),
            class: self.class,
            ..Inputs::new(denoiser, &self.schedule, noise)
        };
        let clip_x0 = self.settings.clip_x0;
        match self.settings.sampler {
            SamplerSettings::Ancestral => Chain::new(inputs, AncestralConfig { variance: self.variance, clip_x0 }, x_t),
            SamplerSettings::FewStep { eta, eps_after_guidance } => {
                Chain::new(inputs, DdimConfig { eta, clip_x0, eps_after_guidance }, x_t)
            }
        }
    }

    /// The result `[1, c, h, w]` in about [-1, 1] from a sampler's last state: decoded, cut to size, grey if y is.
    ///
    /// # Errors
    /// Those of the space.
    pub fn finish(&self, space: &dyn Space, state: &Tensor<4>) -> Result<Tensor<4>> {
        let ImageShape { height, width, .. } = self.measurement.operator().domain();
        let x = space.decode(state)?;
        Ok(self.measurement.finish(&x.narrow(2, 0, height).narrow(3, 0, width)))
    }
}
