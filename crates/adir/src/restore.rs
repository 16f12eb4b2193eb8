//! One restoration: combines operator, guidance and sampler.
//!
//! [`RestorePlan::new`] checks everything against the observation and the facts of the network before any weights
//! are loaded; the plan then yields a sampler for each sample. The surprising decision: where the
//! image's sides do not suit the network, the image is sampled on a larger canvas of which only a window
//! is observed, so nothing is invented about y at its border.

use std::sync::{Arc, OnceLock};

use burn::tensor::DType;

use crate::guidance::{
    AdirGuidance, DpsGuidance, GreyGuidance, Guidance, LightGuidance, PigdmGuidance, ProximalGuidance,
};
use crate::io::light::Light;
use crate::models::{Denoiser, DenoiserInfo, Space};
use crate::noise::Noise;
use crate::operator::{Compose, Crop, ImageShape, LinearOperator, Solve, least_damping, solve};
use crate::problem::Measurement;
use crate::sampler::{
    AncestralConfig, DdimConfig, EpsAfterGuidance, Inputs, Mixture, NoiseSource, RenoiseConfig, Rule, Stage, Stages,
    Start,
};
use crate::schedule::{Schedule, VarianceKind};
use crate::task::{
    Choice, GuidanceSettings, Overrides, Preset, SamplerSettings, Settings, Situation, StageSettings, resolve,
};
use crate::tensor::{self, Tensor};
use crate::{Error, Result};

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
    /// Whether the network will be adapted to images like the one to restore.
    pub adapted: bool,
}

/// Makes a guidance from the operator, on images of the size that is sampled, and the observation, both weighted so that
/// noise is alike everywhere: see [`Measurement::whitened`].
pub type MakeGuidance = dyn Fn(Arc<dyn LinearOperator>, &Tensor<4>) -> Result<Box<dyn Guidance>> + Send + Sync;

/// A checked restoration of one observation.
#[derive(Debug)]
pub struct RestorePlan {
    measurement: Measurement,
    stages: Vec<StagePlan>,
    settings: Settings,
    choices: Vec<Choice>,
    /// A, on images of the size that is sampled, with the weights of y where its noise differs from value to value.
    operator: Arc<dyn LinearOperator>,
    /// y, with the same weights.
    y: Tensor<4>,
    /// What y alone says, by the noise it has.
    observed: Inverse,
    /// The same as if it had none.
    noise_free: Inverse,
    canvas: ImageShape,
    seed: u64,
    class: Option<usize>,
}

/// One pass down the noise levels.
#[derive(Debug)]
struct StagePlan {
    settings: StageSettings,
    start: Start,
    schedule: Schedule,
    guidance: Option<Arc<dyn Guidance>>,
    variance: VarianceKind,
}

impl StagePlan {
    fn rule(&self) -> Box<dyn Rule> {
        let clip_x0 = self.settings.clip_x0;
        match self.settings.sampler {
            SamplerSettings::Ancestral => Box::new(AncestralConfig { variance: self.variance, clip_x0 }),
            SamplerSettings::FewStep { eta, eps_after_guidance } => {
                Box::new(DdimConfig { eta, clip_x0, eps_after_guidance })
            }
            SamplerSettings::Renoise { mixture, eps_after_guidance } => {
                Box::new(RenoiseConfig { mixture, clip_x0, eps_after_guidance })
            }
            SamplerSettings::Decoupled { .. } => {
                let (mixture, eps_after_guidance) = (Mixture::Ddim(0.0), EpsAfterGuidance::Keep);
                Box::new(RenoiseConfig { mixture, clip_x0, eps_after_guidance })
            }
        }
    }
}

/// Mean square of photographs in [-1, 1] units: what an inverse of A weighs the noise of y against.
const IMAGE_POWER: f64 = 0.25;

/// What y alone says: A^T (A A^T + sigma^2/0.25)^-1 y, the pseudo-inverse where y has no noise and the eigenvectors of
/// A A^T are known.
fn estimate(operator: &dyn LinearOperator, y: &Tensor<4>, sigma: f64) -> Result<Tensor<4>> {
    let damping = (sigma * sigma / IMAGE_POWER).max(least_damping(operator));
    operator.adjoint(&solve(operator, 1.0, damping, y, &Solve::default())?)
}

/// The guidance of those settings by an operator that acts on light.
fn in_light(
    settings: &GuidanceSettings,
    operator: &Arc<dyn LinearOperator>,
    y: &Tensor<4>,
    light: &Arc<Light>,
    own: bool,
    grey: bool,
) -> Result<Option<Arc<dyn Guidance>>> {
    let guidance = match *settings {
        GuidanceSettings::None if !own => return Ok(None),
        GuidanceSettings::Proximal(config) if !own && !config.trust.needs_spectrum() => {
            let make =
                move |operator, y| Ok(Box::new(ProximalGuidance::new(operator, y, config)?) as Box<dyn Guidance>);
            LightGuidance::new(operator.clone(), y.clone(), light.clone(), Box::new(make))?
        }
        GuidanceSettings::Pigdm(config) if !own => {
            let make = move |operator, y| Ok(Box::new(PigdmGuidance::new(operator, y, config)?) as Box<dyn Guidance>);
            LightGuidance::new(operator.clone(), y.clone(), light.clone(), Box::new(make))?
        }
        _ => {
            return Err(Error::config(
                "in linear light, the methods are staged, diffpir, daps and pigdm: the others need an operator that is linear \
                 in the image",
            ));
        }
    };
    Ok(Some(if grey { Arc::new(GreyGuidance::new(guidance)) } else { Arc::new(guidance) }))
}

/// What y alone says, found when it is first needed: a plan does not wait for it.
#[derive(Debug, Default)]
struct Inverse(OnceLock<Tensor<4>>);

impl Inverse {
    fn get(&self, find: impl FnOnce() -> Result<Tensor<4>>) -> Result<Tensor<4>> {
        if let Some(found) = self.0.get() {
            return Ok(found.clone());
        }
        let found = find()?;
        Ok(self.0.get_or_init(|| found).clone())
    }
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
        let (operator, y) = measurement.whitened()?;
        let domain = operator.domain();
        let up = |side: usize| side.next_multiple_of(model.size_multiple.max(1));
        let canvas = ImageShape { height: up(domain.height), width: up(domain.width), ..domain };
        let place = |operator: &Arc<dyn LinearOperator>| -> Result<Arc<dyn LinearOperator>> {
            Ok(match canvas == domain {
                true => operator.clone(),
                false => Arc::new(Compose::new(vec![Arc::new(Crop::new(canvas, domain)?), operator.clone()])?),
            })
        };
        let on_canvas = place(&operator)?;
        // What needs the singular values of A does without the weights, where there are none of the weighted A.
        let spectral = match measurement.weights() {
            Some(_) if measurement.light().is_none() && on_canvas.exact_gram().is_none() => {
                Some((place(measurement.operator())?, measurement.y().clone()))
            }
            _ => None,
        };
        let situation = Situation {
            hint: measurement.hint(),
            operator: on_canvas.as_ref(),
            unweighted: spectral.as_ref().map_or(on_canvas.as_ref(), |(operator, _)| operator.as_ref()),
            sigma: measurement.sigma(),
            rounding: measurement.rounding(),
            detail: measurement.detail()?,
            uneven: measurement.unevenness(),
            is_linear: measurement.light().is_none(),
            schedule: &model.schedule,
            adapted: sampling.adapted,
            own_guidance: make.is_some(),
            beyond_range: measurement.beyond_range()?.is_some(),
        };
        let (settings, mut choices) = resolve(sampling.preset, &situation, &sampling.overrides)?;
        choices.splice(0..0, measurement.notes().iter().cloned());
        let guidance = |settings: &GuidanceSettings| -> Result<Option<Arc<dyn Guidance>>> {
            if let Some(light) = measurement.light() {
                return in_light(settings, &on_canvas, &y, light, make.is_some(), measurement.is_grey());
            }
            let guidance: Box<dyn Guidance> = match (make, *settings) {
                (Some(make), _) => make(on_canvas.clone(), &y)?,
                (None, GuidanceSettings::Adir(config)) => {
                    Box::new(AdirGuidance::new(on_canvas.clone(), y.clone(), config)?)
                }
                (None, GuidanceSettings::Proximal(config)) => {
                    let (operator, y) = match &spectral {
                        Some(spectral) if config.trust.needs_spectrum() => spectral,
                        _ => &(on_canvas.clone(), y.clone()),
                    };
                    Box::new(ProximalGuidance::new(operator.clone(), y.clone(), config)?)
                }
                (None, GuidanceSettings::Dps(config)) => {
                    Box::new(DpsGuidance::new(on_canvas.clone(), y.clone(), config)?)
                }
                (None, GuidanceSettings::Pigdm(config)) => {
                    Box::new(PigdmGuidance::new(on_canvas.clone(), y.clone(), config)?)
                }
                (None, GuidanceSettings::None) => return Ok(None),
            };
            Ok(Some(if measurement.is_grey() { Arc::new(GreyGuidance::new(guidance)) } else { guidance.into() }))
        };
        let mut stages = Vec::new();
        for settings in &settings.stages {
            let guidance = guidance(&settings.guidance)?;
            let plan = |(start, schedule)| StagePlan {
                start,
                schedule,
                guidance: guidance.clone(),
                variance: model.variance,
                settings: settings.clone(),
            };
            stages.extend(settings.passes(&model.schedule)?.into_iter().map(plan));
        }
        Ok(Self {
            stages,
            operator: on_canvas.clone(),
            y,
            observed: Inverse::default(),
            noise_free: Inverse::default(),
            measurement,
            settings,
            choices,
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
        self.settings.steps
    }

    /// A, on images of the size that is sampled, with the weights of [`Measurement::whitened`].
    pub fn operator(&self) -> &Arc<dyn LinearOperator> {
        &self.operator
    }

    /// The observation with the same weights, `[1, range]`.
    pub fn y(&self) -> &Tensor<4> {
        &self.y
    }

    /// What y alone says of x, `[1, c, h, w]` of the size that is sampled.
    ///
    /// # Errors
    /// Those of the operator.
    pub fn observed(&self) -> Result<Tensor<4>> {
        let sigma = self.measurement.sigma().0;
        self.observed.get(|| {
            let found = estimate(self.operator.as_ref(), &self.y, sigma)?;
            match self.measurement.light() {
                None => Ok(found),
                Some(light) => light.to_encoded(&found.clamp(-1.0, 1.0)),
            }
        })
    }

    /// What A makes of images of the size that is sampled, or of their light, to be compared with [`RestorePlan::y`].
    ///
    /// # Errors
    /// Those of the operator.
    pub fn predict(&self, x: &Tensor<4>) -> Result<Tensor<4>> {
        self.operator.apply(&self.measurement.acted_on(x)?)
    }

    /// The class that is sampled, for a class-conditional network.
    pub fn class(&self) -> Option<usize> {
        self.class
    }

    /// Whether the network is differentiated by its input in some step.
    pub fn needs_gradient(&self) -> bool {
        self.stages.iter().filter_map(|stage| stage.guidance.as_ref()).any(|guidance| guidance.needs_gradient())
    }

    /// Shape of the sampled canvas: the result's, with sides rounded up to multiples that the network accepts.
    pub fn canvas(&self) -> ImageShape {
        self.canvas
    }

    /// The noise of one sample. It depends on seed and sample index, not on the number of samples.
    pub fn noise(&self, sample: usize) -> Noise {
        Noise::of_sample(self.seed, sample)
    }

    /// One sampler, to be driven to its end by the caller; [`RestorePlan::finish`] turns its last state
    /// into the result.
    ///
    /// # Errors
    /// As the samplers' constructors.
    pub fn sampler<'a>(
        &'a self,
        denoiser: &'a dyn Denoiser,
        space: &dyn Space,
        noise: &'a dyn NoiseSource,
    ) -> Result<Stages<'a>> {
        let ImageShape { channels, height, width } = space.state_shape(self.canvas);
        let estimate = match self.settings.stages.first().map(|stage| stage.start) {
            Some(Start::Estimate) => space.encode(&self.observed()?)?,
            Some(Start::Noisy) => {
                let found = || estimate(self.operator.as_ref(), &self.y, 0.0);
                space.encode(&self.noise_free.get(found)?)?
            }
            None | Some(Start::Noise | Start::Observed) => {
                Tensor::zeros([1, channels, height, width], (&tensor::cpu(), DType::F32))
            }
        };
        let stage = |stage: &'a StagePlan| Stage {
            schedule: &stage.schedule,
            rule: stage.rule(),
            guidance: stage.guidance.as_deref(),
            start: stage.start,
        };
        let inputs = Inputs { class: self.class, ..Inputs::new(denoiser, &self.stages[0].schedule, noise) };
        Ok(Stages::new(inputs, self.stages.iter().map(stage).collect(), estimate))
    }

    /// The result `[1, c, h, w]` in about [-1, 1] from a sampler's last state: decoded, cut to size, grey if y
    /// is, with the points brighter than white that y shows.
    ///
    /// # Errors
    /// Those of the space.
    pub fn finish(&self, space: &dyn Space, state: &Tensor<4>) -> Result<Tensor<4>> {
        let ImageShape { height, width, .. } = self.measurement.operator().domain();
        let x = space.decode(state)?;
        self.measurement.finish(&x.narrow(2, 0, height).narrow(3, 0, width))
    }
}
