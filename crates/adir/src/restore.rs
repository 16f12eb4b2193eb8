//! One restoration: ties operator, guidance and sampler together, and nothing else does.
//!
//! [`RestoreConfig::plan`] checks everything against the observation and the facts of the network before
//! any weights are loaded; the plan then yields one sampler a sample. The surprising decision: where the
//! image's sides do not suit the network, the image is sampled on a larger canvas of which only a window
//! is observed, so nothing is invented about y at its border.

use std::sync::Arc;

use burn::tensor::DType;

use crate::guidance::{AdirConfig, AdirGuidance, Guidance};
use crate::models::Denoiser;
use crate::noise::{Noise, Stream};
use crate::operator::{Compose, Crop, Degradation, ImageShape, LinearOperator, Mask};
use crate::sampler::{Ancestral, AncestralConfig, Ddim, DdimConfig, Inputs, Step, initial_noise};
use crate::schedule::{NoiseLevel, Schedule, VarianceKind};
use crate::task::{Choice, Method, Overrides, Preset, Settings, Task, resolve};
use crate::tensor::{self, Tensor};
use crate::{Error, Result};

/// What is asked for.
#[derive(Debug, Clone)]
pub struct RestoreConfig {
    /// The task, for the presets.
    pub task: Task,
    /// The degradation that made y.
    pub degradation: Degradation,
    /// The mask of its missing pixels, if it has any.
    pub mask: Option<Mask>,
    /// Standard deviation of the noise in y.
    pub sigma: NoiseLevel,
    /// Standard deviation of what y was rounded by, as [`crate::io::image::BitDepth::rounding`] tells for a file.
    pub rounding: NoiseLevel,
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
    operator: Arc<dyn LinearOperator>,
    guidance: AdirGuidance,
    settings: Settings,
    choices: Vec<Choice>,
    schedule: Schedule,
    variance: VarianceKind,
    canvas: ImageShape,
    grey: bool,
    seed: u64,
    class: Option<usize>,
}

impl RestoreConfig {
    /// Checks the request against the observation `y`, `[1, c, h, w]` in [-1, 1], and the network.
    ///
    /// A grey y of a task that keeps colours is restored as three equal channels and made grey again.
    ///
    /// # Errors
    /// [`Error::Config`] when y, the degradation, the settings and the network do not fit together;
    /// [`Error::Numerical`] when y is not finite.
    pub fn plan(self, y: Tensor<4>, model: &ModelFacts) -> Result<RestorePlan> {
        tensor::check_finite(&y, "the observation")?;
        let made_grey = self.degradation.domain_for_range(ImageShape::of(&y)).map(|d| d.channels);
        let grey = ImageShape::of(&y).channels == 1 && made_grey.as_ref().is_ok_and(|c| *c == 1) && model.channels == 3;
        let y = if grey { y.repeat_dim(1, 3) } else { y };
        let domain = self.degradation.domain_for_range(ImageShape::of(&y))?;
        if domain.channels != model.channels {
            return Err(Error::config(format!(
                "the restored image would have {} channels, the network makes {}",
                domain.channels, model.channels
            )));
        }
        let operator = self.degradation.build(domain, self.mask.as_ref())?;
        let up = |side: usize| side.next_multiple_of(model.size_multiple.max(1));
        let canvas = ImageShape { height: up(domain.height), width: up(domain.width), ..domain };
        let on_canvas: Arc<dyn LinearOperator> = if canvas == domain {
            operator.clone()
        } else {
            Arc::new(Compose::new(vec![Arc::new(Crop::new(canvas, domain)?), operator.clone()])?)
        };
        let lambda = on_canvas.norm_squared();
        let (settings, choices) = resolve(self.preset, self.task, self.sigma, self.rounding, lambda, &self.overrides)?;
        let schedule = model.schedule.respaced(&settings.steps.parse()?)?;
        let config = AdirConfig {
            strength: settings.strength,
            residual: settings.residual,
            adjoint: settings.adjoint,
            cap: settings.cap,
            data_step: settings.data_step,
        };
        Ok(RestorePlan {
            guidance: AdirGuidance::new(on_canvas, y, config)?,
            operator,
            settings,
            choices,
            schedule,
            variance: model.variance,
            canvas,
            grey,
            seed: self.seed,
            class: self.class,
        })
    }
}

impl RestorePlan {
    /// Every setting in force.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Every setting in words, with its source.
    pub fn choices(&self) -> &[Choice] {
        &self.choices
    }

    /// A, on images of the result's size.
    pub fn operator(&self) -> &Arc<dyn LinearOperator> {
        &self.operator
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
            guidance: Some(&self.guidance as &dyn Guidance),
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

    /// The result `[1, c, h, w]` in about [-1, 1] from a sampler's last state: cut to size, grey again if y was.
    pub fn finish(&self, x: Tensor<4>) -> Tensor<4> {
        let ImageShape { height, width, .. } = self.operator.domain();
        let x = x.narrow(2, 0, height).narrow(3, 0, width);
        if self.grey { x.mean_dim(1) } else { x }
    }
}
