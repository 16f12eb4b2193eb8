//! What was measured: the degradation, the noise, and how y fits them.
//!
//! A [`Problem`] is data, as a command line or a request holds it. [`Problem::measure`] reads its side inputs, checks
//! it against the observation, and gives the [`Measurement`] that guidance works with: the operator on images that
//! the network makes, the part of them that is the result, and the noise of y.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::io::limits::Limits;
use crate::io::side_inputs::{read_kernel_values, read_mask};
use crate::operator::{
    Boundary, Compose, Degradation, Grayscale, ImageShape, InWindow, Kernel, KernelSpec, LinearOperator, Mask, Window,
    wraps_around,
};
use crate::task::{Choice, Hint, Source, Task};
use crate::tensor::{self, Tensor};
use crate::units::NoiseLevel;
use crate::{Error, Result};

mod range;

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
    /// What the blur saw beyond the border of y; by default y decides, see [`Problem::measure`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boundary: Option<Boundary>,
    /// The pixels missing in an inpainting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<MaskSource>,
    /// Standard deviation of the noise in y, in grey levels of 0..255.
    #[serde(default)]
    pub sigma: f64,
    /// Whether the result keeps the margin around y that a valid blur saw. By default it has the size of y.
    #[serde(default)]
    pub keep_margin: bool,
    /// The operator of [`Problem::with_operator`].
    #[serde(skip)]
    operator: Option<Arc<dyn LinearOperator>>,
}

/// A blur kernel: weights, or a text that names a kernel or a file of weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum KernelSource {
    /// `box:N`, `gaussian:N:SIGMA`, `motion:LENGTH:ANGLE`, or the path of an image or text file.
    Text(String),
    /// The weights themselves.
    Weights(KernelSpec),
}

/// The missing pixels of an inpainting.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum MaskSource {
    /// An image whose white pixels are unknown.
    File(#[serde(with = "crate::io::lossy::path")] PathBuf),
    /// The flags themselves.
    #[serde(skip)]
    Pixels(Mask),
}

impl From<&str> for KernelSource {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<KernelSpec> for KernelSource {
    fn from(spec: KernelSpec) -> Self {
        Self::Weights(spec)
    }
}

impl From<Mask> for MaskSource {
    fn from(mask: Mask) -> Self {
        Self::Pixels(mask)
    }
}

impl From<&Path> for MaskSource {
    fn from(path: &Path) -> Self {
        Self::File(path.to_owned())
    }
}

impl Problem {
    /// A task without noise, kernel or mask.
    pub fn new(task: Task) -> Self {
        Self { task, kernel: None, boundary: None, mask: None, sigma: 0.0, keep_margin: false, operator: None }
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
        Self { sigma, ..Self::new(Task::Denoise) }
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
        Self { sigma, ..self }
    }

    /// With that boundary of the blur.
    #[must_use]
    pub fn boundary(self, boundary: Boundary) -> Self {
        Self { boundary: Some(boundary), ..self }
    }

    /// The noise level.
    pub fn noise(&self) -> NoiseLevel {
        NoiseLevel::from_255(self.sigma)
    }

    /// Refuses what is wrong whatever y is. Opens no file.
    ///
    /// # Errors
    /// [`Error::Config`] for a noise level outside 0 to 1000, a denoising without one, a kernel or mask that is missing
    /// or has no meaning for the task.
    pub fn check(&self) -> Result<()> {
        let Self { task, sigma, .. } = self;
        if !(sigma.is_finite() && (0.0..=1000.0).contains(sigma)) {
            return Err(Error::config(format!("sigma {sigma}: expected 0 to 1000 grey levels")));
        }
        if *task == Task::Denoise && *sigma == 0.0 {
            return Err(Error::config("the task denoise needs the noise level, for example --sigma 25"));
        }
        match (task, &self.kernel) {
            (Task::Deblur, None) => {
                return Err(Error::config(
                    "the task deblur needs a kernel, for example --kernel box:5 (in eval: deblur:box:5)",
                ));
            }
            (Task::Deblur | Task::SuperResolution { .. }, _) | (_, None) => {}
            (task, Some(_)) => return Err(Error::config(format!("the task {task} takes no kernel"))),
        }
        match (task, &self.mask) {
            (Task::Inpaint, None) => {
                return Err(Error::config("the task inpaint needs a mask, for example --mask m.png (white = unknown)"));
            }
            (Task::Inpaint, _) | (_, None) => {}
            (task, Some(_)) => return Err(Error::config(format!("a mask has no meaning for the task {task}"))),
        }
        if matches!(task, Task::Custom { .. }) != self.operator.is_some() {
            return Err(Error::config("the task custom and an operator belong together"));
        }
        Ok(())
    }

    /// The degradation, its blur having the boundary `boundary`, and its mask. Reads their files.
    ///
    /// # Errors
    /// As [`Problem::check`], [`Error::Input`] for a damaged kernel or mask, and [`Error::Config`] for a problem that
    /// has an operator and no degradation.
    pub fn degradation(&self, boundary: Boundary, limits: &Limits) -> Result<(Degradation, Option<Mask>)> {
        self.check()?;
        let blur = match &self.kernel {
            Some(kernel) => Some(Degradation::Blur { kernel: kernel.read(limits)?, boundary }),
            None => None,
        };
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

    /// The problem of the observation `y`, `[1, c, h, w]` in [-1, 1], whose values were rounded by `rounding` (a
    /// standard deviation), for images of `channels` channels.
    ///
    /// Without a boundary given, a blur is circular where opposite borders of y continue each other (see
    /// [`wraps_around`]), and else valid: y is a window of a larger scene. A grey y of a task that keeps colours is one
    /// measurement of three channels, also where it is stored three times.
    ///
    /// # Errors
    /// As [`Problem::degradation`]; [`Error::Config`] when y, the degradation and the channels do not fit together;
    /// [`Error::Numerical`] when y is not finite.
    pub fn measure(
        &self,
        y: &Tensor<4>,
        rounding: NoiseLevel,
        channels: usize,
        limits: &Limits,
    ) -> Result<Measurement> {
        self.check()?;
        tensor::check_finite(y, "the observation")?;
        let stored_as_rgb = self.task == Task::Colourise && y.dims()[1] == 3;
        let grey_of_rgb = stored_as_rgb.then(|| one_channel(y)).transpose()?;
        let y = grey_of_rgb.as_ref().unwrap_or(y);
        let mut notes = Vec::new();
        let (given, degradation, mask, window) = match &self.operator {
            Some(operator) => (Some(operator.clone()), None, None, Window::whole(operator.domain())),
            None => {
                let boundary = self.boundary_of(y, &mut notes)?;
                let (degradation, mask) = self.degradation(boundary, limits)?;
                let window = degradation.window_for_range(ImageShape::of_batch(y))?;
                (None, Some(degradation), mask, window)
            }
        };
        // Of one channel: the operator that the degradation is on each, or the operator as it is.
        let build = |range: ImageShape| -> Result<Arc<dyn LinearOperator>> {
            match (&given, &degradation) {
                (Some(operator), _) => Ok(operator.clone()),
                (None, Some(degradation)) => degradation.build(degradation.domain_for_range(range)?, mask.as_ref()),
                (None, None) => Err(Error::config("a problem without a degradation")),
            }
        };
        let known = mask.as_ref().map(Mask::known);
        let keeps_colours = self.operator.is_none() && self.task != Task::Colourise;
        let grey = match y.dims()[1] {
            1 if keeps_colours && channels == 3 => Some(Grey::OneChannel),
            3 if keeps_colours && channels == 3 && channels_are_equal(y, known)? => Some(Grey::EqualChannels),
            _ => None,
        };
        let (y, operator, of_grey) = match grey {
            None => (y.clone(), build(ImageShape::of_batch(y))?, None),
            Some(_) => {
                let y = y.clone().narrow(1, 0, 1);
                let of_grey = build(ImageShape::of_batch(&y))?;
                let mean = Grayscale::new(ImageShape { channels, ..of_grey.domain() })?;
                notes.push(Choice::rule("grey", "one measurement", "the observation is grey, and so is the result"));
                let operator: Arc<dyn LinearOperator> = Arc::new(Compose::new(vec![Arc::new(mean), of_grey.clone()])?);
                (y, operator, Some(of_grey))
            }
        };
        let domain = operator.domain();
        if domain.channels != channels {
            return Err(Error::config(format!(
                "the restored image would have {} channels, the network makes {channels}",
                domain.channels
            )));
        }
        if operator.range() != ImageShape::of_batch(&y) {
            return Err(Error::config(format!(
                "the operator observes images of {}, the observation is {} (channels x height x width)",
                operator.range(),
                ImageShape::of_batch(&y)
            )));
        }
        let window = if self.keep_margin { Window::whole(domain) } else { window };
        let on_stored = match (grey, of_grey) {
            (Some(Grey::OneChannel), Some(of_grey)) => of_grey,
            _ => operator.clone(),
        };
        let on_result: Arc<dyn LinearOperator> =
            if window == Window::whole(domain) { on_stored } else { Arc::new(InWindow::new(on_stored, window)?) };
        Ok(Measurement {
            y,
            operator,
            on_result,
            window,
            grey,
            hint: self.task.hint(),
            task: self.task,
            degradation,
            mask,
            sigma: self.noise(),
            rounding,
            notes,
        })
    }

    /// The boundary of the blur, where there is one.
    fn boundary_of(&self, y: &Tensor<4>, notes: &mut Vec<Choice>) -> Result<Boundary> {
        if self.kernel.is_none() {
            return Ok(Boundary::Valid);
        }
        let (boundary, source) = match self.boundary {
            Some(boundary) => (boundary, Source::Given),
            None if wraps_around(y)? => {
                (Boundary::Circular, Source::Rule("opposite borders of the observation continue each other".into()))
            }
            None => (Boundary::Valid, Source::Rule("the observation is a window of a larger scene".into())),
        };
        notes.push(Choice { name: "boundary".into(), value: boundary.to_string(), source });
        Ok(boundary)
    }
}

impl KernelSource {
    /// The kernel: from its file, where the text is the path of one, or by its name.
    ///
    /// # Errors
    /// [`Error::Input`] for a damaged file, [`Error::Config`] for a text that is neither.
    pub fn read(&self, limits: &Limits) -> Result<KernelSpec> {
        let text = match self {
            Self::Weights(spec) => return Ok(spec.clone()),
            Self::Text(text) => text,
        };
        let path = Path::new(text);
        if !path.is_file() {
            return text.parse();
        }
        let grid = read_kernel_values(path, limits)?;
        let kernel = Kernel::from_values(grid.height, grid.width, grid.values).map_err(|e| match e {
            Error::Config(message) => Error::input(path, message),
            other => other,
        })?;
        Ok(KernelSpec::Values(kernel))
    }
}

impl MaskSource {
    /// The mask.
    ///
    /// # Errors
    /// As [`read_mask`], and [`Error::Config`] when no pixel is known.
    pub fn read(&self, limits: &Limits) -> Result<Mask> {
        match self {
            Self::Pixels(mask) => Ok(mask.clone()),
            Self::File(path) => {
                let unknown = read_mask(path, limits)?;
                let [_, _, height, width] = unknown.dims();
                let known = tensor::to_f32(&unknown)?.into_iter().map(|v| v < 0.5).collect();
                Mask::new(height, width, known)
            }
        }
    }
}

/// How a grey observation was stored, and so how its result is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Grey {
    OneChannel,
    EqualChannels,
}

/// Whether the known pixels of all channels are the same.
fn channels_are_equal(y: &Tensor<4>, known: Option<&[bool]>) -> Result<bool> {
    let values = tensor::to_f32(y)?;
    let plane = ImageShape::of_batch(y).pixels();
    Ok((0..plane)
        .filter(|&i| known.is_none_or(|known| known.get(i).is_none_or(|known| *known)))
        .all(|i| values[i] == values[plane + i] && values[i] == values[2 * plane + i]))
}

/// The grey image that three channels store, up to the rounding of colours in a JPEG file: most scans are stored so.
fn one_channel(y: &Tensor<4>) -> Result<Tensor<4>> {
    if channels_are_equal(y, None)? {
        return Ok(y.clone().narrow(1, 0, 1));
    }
    let values = tensor::to_f32(y)?;
    let plane = ImageShape::of_batch(y).pixels();
    let spread = |i: usize| {
        let [r, g, b] = [0, 1, 2].map(|channel| values[channel * plane + i]);
        r.max(g).max(b) - r.min(g).min(b)
    };
    let most = (0..plane).map(spread).fold(0.0, f32::max) * 127.5;
    if most > COLOURLESS {
        return Err(Error::config(format!(
            "the task colourise starts from a grey image, but the channels of this one differ by up to {most:.0} grey \
             levels: convert it to grey first, for example with `magick IN -colorspace Gray OUT`"
        )));
    }
    Ok(y.clone().mean_dim(1))
}

/// Grey levels that the channels of a grey image may differ by: a step of the least colour that JPEG stores.
const COLOURLESS: f32 = 4.0;

/// A problem that fits its observation.
#[derive(Debug, Clone)]
pub struct Measurement {
    y: Tensor<4>,
    operator: Arc<dyn LinearOperator>,
    on_result: Arc<dyn LinearOperator>,
    window: Window,
    grey: Option<Grey>,
    hint: Hint,
    task: Task,
    degradation: Option<Degradation>,
    mask: Option<Mask>,
    sigma: NoiseLevel,
    rounding: NoiseLevel,
    notes: Vec<Choice>,
}

impl Measurement {
    /// The observation that guidance keeps to, `[1, range]`: of one channel where it is grey.
    pub fn y(&self) -> &Tensor<4> {
        &self.y
    }

    /// A, from images of the network's channels to [`Measurement::y`].
    pub fn operator(&self) -> &Arc<dyn LinearOperator> {
        &self.operator
    }

    /// The part of A's domain that is the result.
    pub fn window(&self) -> Window {
        self.window
    }

    /// Shape of the result.
    pub fn result(&self) -> ImageShape {
        let channels = match self.grey {
            Some(Grey::OneChannel) => 1,
            Some(Grey::EqualChannels) | None => self.operator.domain().channels,
        };
        ImageShape { channels, height: self.window.height, width: self.window.width }
    }

    /// Whether y is grey, and with it the result.
    pub fn is_grey(&self) -> bool {
        self.grey.is_some()
    }

    /// The kind of operator, for presets.
    pub fn hint(&self) -> Hint {
        self.hint
    }

    /// The task.
    pub fn task(&self) -> Task {
        self.task
    }

    /// The degradation by name, if it has one.
    pub fn degradation(&self) -> Option<&Degradation> {
        self.degradation.as_ref()
    }

    /// The missing pixels of an inpainting.
    pub fn mask(&self) -> Option<&Mask> {
        self.mask.as_ref()
    }

    /// Standard deviation of the noise in y.
    pub fn sigma(&self) -> NoiseLevel {
        self.sigma
    }

    /// Standard deviation of the error of y's quantisation.
    pub fn rounding(&self) -> NoiseLevel {
        self.rounding
    }

    /// What was decided by looking at y, with the reasons.
    pub fn notes(&self) -> &[Choice] {
        &self.notes
    }

    /// The result from an image of A's domain: cut to the window, grey where y is.
    pub fn finish(&self, x: &Tensor<4>) -> Tensor<4> {
        let x = self.window.cut(x);
        match self.grey {
            None => x,
            Some(Grey::OneChannel) => x.mean_dim(1),
            Some(Grey::EqualChannels) => {
                let channels = x.dims()[1];
                x.mean_dim(1).repeat_dim(1, channels)
            }
        }
    }

    /// A on results, with the values of y that depend on nothing else as those that it observes.
    pub fn on_result(&self) -> &Arc<dyn LinearOperator> {
        &self.on_result
    }

    /// PSNR of A x against y in dB over the range of the images, x being a result `[1, c, h, w]`. Values of y that
    /// depend on what was cut off around the window do not count, nor do those of missing pixels.
    ///
    /// # Errors
    /// [`Error::Config`] when x has another shape than the result; those of the operator.
    pub fn agreement(&self, x: &Tensor<4>) -> Result<f64> {
        Ok(crate::metric::agreement(self.on_result.as_ref(), x, &self.y)?.first().copied().unwrap_or(f64::NAN))
    }
}
