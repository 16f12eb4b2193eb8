//! What was measured: the degradation, the noise, and how y fits them.
//!
//! A [`Problem`] is data, as a command line or a request holds it. [`Problem::measure`] reads its side inputs, checks
//! it against the observation, and gives the [`Measurement`] that guidance works with: the operator on images that
//! the network makes, the part of them that is the result, and the noise of y.

mod detail;
mod fit;
mod gain;
mod highlights;
mod measurement;
mod noise;
mod noise_estimate;
mod over_exposed;
mod points;
mod range;
mod saturation;
mod scene;
mod side_inputs;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use measurement::Measurement;
pub use noise::Sigma;
pub use noise_estimate::estimate_noise;
pub use saturation::{Saturated, plateaus};
pub use side_inputs::{KernelSource, MaskSource};

use crate::io::light::Light;
use crate::io::limits::Limits;
use crate::operator::{Boundary, Degradation, ImageShape, KernelCentre, KernelSpec, LinearOperator, Mask};
use crate::task::{Hint, Task};
use crate::{Error, Result};

/// A degradation by name or as an operator, and the noise after it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Problem {
    /// What was done to the image.
    pub task: Task,
    /// The blur of a deblurring, or the one before a down-sampling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<KernelSource>,
    /// The centre of a kernel with even sides; by default see [`KernelCentre::default_for`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_centre: Option<KernelCentre>,
    /// What the blur saw beyond the border of y; by default y decides, see [`Problem::measure`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boundary: Option<Boundary>,
    /// The pixels missing in an inpainting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<MaskSource>,
    /// Pixels of y that were not measured, whatever the task: dust, dead pixels, a time stamp.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignore: Option<MaskSource>,
    /// What pixels at white say; by default see [`Saturated`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saturated: Option<Saturated>,
    /// The noise in y; by default see [`Sigma`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sigma: Option<Sigma>,
    /// How the noise in y grows with the signal: its variance is `gain` * signal + sigma^2, all in grey levels of 0..255, more
    /// than 0, at most 255. The gain is the grey levels of a counted photon. By default, noise is alike everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gain: Option<f64>,
    /// Whether the operator acts on light, and y and the result are encoded with a tone curve: [`Problem::in_light`]. By default
    /// it acts on the values as they are.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub linear_light: bool,
    /// Whether the result keeps the margin around y that a valid blur saw. By default it has the size of y.
    #[serde(default)]
    pub keep_margin: bool,
    /// The operator of [`Problem::with_operator`].
    #[serde(skip)]
    operator: Option<Arc<dyn LinearOperator>>,
    /// The tone curves of y; by default those of sRGB.
    #[serde(skip)]
    light: Option<Arc<Light>>,
    /// The pixels that the file of y calls observed; by default all.
    #[serde(skip)]
    observed: Option<Mask>,
}

impl Problem {
    /// A task without kernel or mask.
    pub fn new(task: Task) -> Self {
        Self {
            task,
            kernel: None,
            kernel_centre: None,
            boundary: None,
            mask: None,
            ignore: None,
            saturated: None,
            sigma: None,
            gain: None,
            linear_light: false,
            keep_margin: false,
            operator: None,
            light: None,
            observed: None,
        }
    }

    /// Down-sampled by `factor`, 2 to 16.
    pub fn super_resolution(factor: usize) -> Self {
        Self::new(Task::SuperResolution { factor })
    }

    /// Blurred with `kernel`.
    pub fn deblur(kernel: impl Into<KernelSource>) -> Self {
        Self { kernel: Some(kernel.into()), ..Self::new(Task::Deblur) }
    }

    /// Pixels are missing.
    pub fn inpaint(mask: impl Into<MaskSource>) -> Self {
        Self { mask: Some(mask.into()), ..Self::new(Task::Inpaint) }
    }

    /// Nothing but noise of `sigma` grey levels.
    pub fn denoise(sigma: f64) -> Self {
        Self::new(Task::Denoise).sigma(sigma)
    }

    /// The colours are lost.
    pub fn colourise() -> Self {
        Self::new(Task::Colourise)
    }

    /// Degraded by an operator of the caller's. `hint` tells the presets what kind of operator it is.
    pub fn with_operator(operator: Arc<dyn LinearOperator>, hint: Hint) -> Self {
        Self { operator: Some(operator), ..Self::new(Task::Custom { hint }) }
    }

    /// With noise of that standard deviation, in grey levels of 0..255.
    #[must_use]
    pub fn sigma(self, sigma: f64) -> Self {
        Self { sigma: Some(Sigma::Levels(sigma)), ..self }
    }

    /// With noise whose variance grows with the signal, see [`Problem::gain`].
    #[must_use]
    pub fn gain(self, gain: f64) -> Self {
        Self { gain: Some(gain), ..self }
    }

    /// Whose operator acts on light, y having those tone curves.
    #[must_use]
    pub fn in_light(self, light: Light) -> Self {
        Self { linear_light: true, light: Some(Arc::new(light)), ..self }
    }

    /// Of y only those pixels were observed, as its file says; see [`Picture::observed`](crate::io::image::Picture::observed).
    /// They add to those of [`Problem::ignore`].
    #[must_use]
    pub fn observed_at(self, observed: Option<Mask>) -> Self {
        Self { observed, ..self }
    }

    /// The tone curves of y, where the operator acts on light.
    pub fn light(&self) -> Option<Arc<Light>> {
        self.linear_light.then(|| self.light.clone().unwrap_or_default())
    }

    /// With that boundary of the blur.
    #[must_use]
    pub fn boundary(self, boundary: Boundary) -> Self {
        Self { boundary: Some(boundary), ..self }
    }

    /// With pixels of y that were not measured.
    #[must_use]
    pub fn ignore(self, mask: impl Into<MaskSource>) -> Self {
        Self { ignore: Some(mask.into()), ..self }
    }

    /// Refuses what is wrong whatever y is. Opens no file.
    ///
    /// # Errors
    /// [`Error::Config`] for a noise level outside 0 to 1000, a gain that is not above 0, a denoising of no noise, a kernel or mask that is missing
    /// or has no meaning for the task.
    pub fn check(&self) -> Result<()> {
        let Self { task, .. } = self;
        gain::check(self.gain)?;
        noise::check(*task, self.sigma, self.gain)?;
        match (task, &self.kernel) {
            (Task::Deblur, None) => {
                return Err(Error::config(
                    "the task deblur needs a kernel, for example --kernel box:5 (in eval: deblur:box:5)",
                ));
            }
            (Task::Deblur | Task::SuperResolution { .. }, _) | (_, None) => {}
            (task, Some(_)) => return Err(Error::config(format!("the task {task} takes no kernel"))),
        }
        if self.kernel.is_none() && self.kernel_centre.is_some() {
            return Err(Error::config("the centre of a kernel has no meaning without a kernel"));
        }
        match (task, &self.mask) {
            (Task::Inpaint, None) => {
                return Err(Error::config("the task inpaint needs a mask, for example --mask m.png (white = unknown)"));
            }
            (Task::Inpaint, _) | (_, None) => {}
            (task, Some(_)) => {
                return Err(Error::config(format!(
                    "a mask has no meaning for the task {task}; pixels that were not measured are left out with --ignore"
                )));
            }
        }
        self.check_light()?;
        if matches!(task, Task::Custom { .. }) != self.operator.is_some() {
            return Err(Error::config("the task custom and an operator belong together"));
        }
        Ok(())
    }

    /// Refuses linear light where it changes nothing or has no meaning yet.
    pub(crate) fn check_light(&self) -> Result<()> {
        match (self.linear_light, self.task, self.boundary) {
            (false, ..) => Ok(()),
            (_, task @ (Task::Inpaint | Task::Denoise | Task::Colourise), _) => Err(Error::config(format!(
                "linear light is for operators that mix pixels, which {task} does not: leave it out"
            ))),
            _ if self.gain.is_some() => Err(Error::config(
                "a gain is for values that are linear already, linear light for those that are not: give one of them",
            )),
            (_, _, Some(Boundary::Constant(level))) if level != 0.0 && level != 255.0 => {
                Err(Error::config("in linear light, the boundary constant takes black (0) or white (255)"))
            }
            _ => Ok(()),
        }
    }

    /// The degradation, its blur having the boundary `boundary`, and its mask. Reads their files.
    ///
    /// # Errors
    /// As [`Problem::check`], [`Error::Input`] for a damaged kernel or mask, and [`Error::Config`] for a problem that
    /// has an operator and no degradation.
    pub fn degradation(&self, boundary: Boundary, limits: &Limits) -> Result<(Degradation, Option<Mask>)> {
        self.degradation_with_warnings(boundary, limits, &mut Vec::new())
    }

    /// [`Problem::degradation`], adding to `warnings` what to tell of its kernel.
    ///
    /// # Errors
    /// As [`Problem::degradation`].
    pub fn degradation_with_warnings(
        &self,
        boundary: Boundary,
        limits: &Limits,
        warnings: &mut Vec<String>,
    ) -> Result<(Degradation, Option<Mask>)> {
        self.check()?;
        let blur = self.kernel(limits, warnings)?.map(|kernel| Degradation::Blur { kernel, boundary });
        let degradation = match (self.task, blur) {
            (Task::SuperResolution { factor }, None) => Degradation::SuperResolution { factor },
            (Task::SuperResolution { factor }, Some(blur)) => {
                Degradation::Compose(vec![blur, Degradation::SuperResolution { factor }])
            }
            (Task::Deblur, Some(blur)) => blur,
            (Task::Inpaint, _) => Degradation::Inpaint,
            (Task::Colourise, _) => Degradation::Grayscale,
            (Task::Denoise, _) => Degradation::Identity,
            (Task::Deblur, None) | (Task::Custom { .. }, _) => {
                return Err(Error::config("this problem has no degradation by name"));
            }
        };
        let mask = self.mask.as_ref().map(|mask| mask.read(limits)).transpose()?;
        Ok((degradation, mask))
    }

    /// The shape of a result without margins, by that of an observation with the result's channels.
    pub(crate) fn result_of(&self, observed: ImageShape) -> ImageShape {
        let larger = |side: usize| side.saturating_mul(self.task.factor());
        let enlarged = ImageShape { height: larger(observed.height), width: larger(observed.width), ..observed };
        self.operator.as_ref().map_or(enlarged, |operator| operator.domain())
    }

    /// The kernel with its centre in the middle. Warns where its centre is a guess, and where it has a background.
    fn kernel(&self, limits: &Limits, warnings: &mut Vec<String>) -> Result<Option<KernelSpec>> {
        let Some(source) = &self.kernel else { return Ok(None) };
        let spec = source.read(limits)?;
        let kernel = spec.build()?;
        let guess = KernelCentre::default_for(&spec);
        if self.kernel_centre.is_none() && kernel.has_even_side() {
            warnings.push(format!(
                "the kernel {source} has an even side and so no middle pixel: {guess} is assumed. If the result is shifted \
                 by half a pixel or one, give --kernel-centre opencv (also scipy.signal), matlab (also \
                 scipy.ndimage.convolve) or symmetric"
            ));
        }
        if let Some(share) = kernel.background() {
            warnings.push(format!(
                "the border of the kernel {source} is not black: {:.0} % of its weight is a background that spreads over all of \
                 it. Subtract it, unless the light does spread so far",
                100.0 * share
            ));
        }
        spec.centred(self.kernel_centre.unwrap_or(guess)).map(Some)
    }
}
