//! One restoration: ties operator, guidance and sampler together, and nothing else does.
//!
//! [`RestorePlan::new`] checks everything against the observation and the facts of the network before any weights
//! are loaded; the plan then yields a sampler for each sample. The surprising decision: where the
//! image's sides do not suit the network, the image is sampled on a larger canvas of which only a window
//! is observed, so nothing is invented about y at its border.

use std::sync::Arc;

use burn::tensor::DType;

use crate::Result;
use crate::guidance::{AdirConfig, AdirGuidance, GreyGuidance, Guidance};
use crate::models::Denoiser;
use crate::noise::{Noise, Stream};
use crate::operator::{Compose, Crop, ImageShape, LinearOperator};
use crate::problem::Measurement;
use crate::sampler::{Ancestral, AncestralConfig, Ddim, DdimConfig, Inputs, Step, initial_noise};
use crate::schedule::{Schedule, VarianceKind};
use crate::task::{Choice, Method, Overrides, Preset, Settings, resolve};
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

/// What a plan needs to know of a network, known before its weights are loaded.
#[derive(Debug, Clone)]
pub struct ModelFacts {
    /// Image channels.
    pub channels: usize,
    /// Sides must be multiples of this.
    pub size_multiple: usize,
    /// Schedule of the training.
    pub schedule: Schedule,
    /// Variance of a reverse step.
    pub variance: VarianceKind,
}

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
    /// [`Error::Config`] when they do not fit together.
    pub fn new(measurement: Measurement, sampling: &SamplingConfig, model: &ModelFacts) -> Result<Self> {
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
        let config = AdirConfig {
            strength: settings.strength,
            residual: settings.residual,
            adjoint: settings.adjoint,
            cap: settings.cap,
            data_step: settings.data_step,
        };
        let guidance = AdirGuidance::new(on_canvas, measurement.y().clone(), config)?;
        Ok(Self {
            guidance: if measurement.is_grey() { Box::new(GreyGuidance::new(guidance)) } else { Box::new(guidance) },
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

    /// Network evaluations a sample.
    pub fn steps(&self) -> usize {
        self.schedule.len()
    }

    /// Shape of what is sampled: the result's, with sides rounded up to what the network takes.
    pub fn canvas(&self) -> ImageShape {
        self.canvas
    }

    /// The noise of one sample; samples of one seed differ, and each is the same whatever their number.
    pub fn noise(&self, sample: usize) -> Noise {
        Noise::new(self.seed.wrapping_add((sample as u64) << 32), Stream::Sampling)
    }

    /// One sampler, to be driven to its end by the caller; [`RestorePlan::finish`] turns its last state
    /// into the result.
    ///
    /// # Errors
    /// As the samplers' constructors.
    pub fn sampler<'a>(
        &'a self,
        denoiser: &'a dyn Denoiser,
        noise: &'a Noise,
    ) -> Result<Box<dyn Iterator<Item = Result<Step>> + 'a>> {
        let ImageShape { channels, height, width } = self.canvas;
        let x_t = initial_noise(noise, [1, channels, height, width], &tensor::cpu(), DType::F32);
        let inputs = Inputs {
            guidance: Some(self.guidance.as_ref()),
            class: self.class,
            ..Inputs::new(denoiser, &self.schedule, noise)
        };
        let clip_x0 = self.settings.clip_x0;
        Ok(match self.settings.method {
            Method::Ancestral => {
                Box::new(Ancestral::new(inputs, AncestralConfig { variance: self.variance, clip_x0 }, x_t)?)
            }
            Method::FewStep => {
                let config = DdimConfig {
                    eta: self.settings.eta,
                    clip_x0,
                    eps_after_guidance: self.settings.eps_after_guidance,
                };
                Box::new(Ddim::new(inputs, config, x_t)?)
            }
        })
    }

    /// The result `[1, c, h, w]` in about [-1, 1] from a sampler's last state: cut to size, grey if y is.
    pub fn finish(&self, x: Tensor<4>) -> Tensor<4> {
        let ImageShape { height, width, .. } = self.measurement.operator().domain();
        self.measurement.finish(&x.narrow(2, 0, height).narrow(3, 0, width))
    }
}
