//! What every command's arguments have in common: the degradation, the model, the log.

use std::path::PathBuf;

use adir::io::limits::Limits;
use adir::io::side_inputs::{read_kernel_values, read_mask};
use adir::metric::agreement;
use adir::noise::{Noise, Stream};
use adir::operator::{Boundary, Degradation, ImageShape, Kernel, KernelSpec, LinearOperator, Mask};
use adir::schedule::NoiseLevel;
use adir::task::{Preset, Task};
use adir::tensor::Tensor;
use adir::{Error, Result};
use clap::Args;

/// How y was made from x.
#[derive(Debug, Clone, Args)]
pub struct DegradationArgs {
    /// What was done to the image: sr2 to sr16 (down-sampled by that factor), deblur, inpaint, denoise, colourise
    #[arg(short = 't', long)]
    pub task: Task,
    /// Blur kernel: box:N, gaussian:N:SIGMA, motion:LENGTH:ANGLE, or a PNG or text file of weights. With srN the
    /// image was blurred first, then down-sampled
    #[arg(long, value_name = "KERNEL")]
    pub kernel: Option<String>,
    /// What the blur saw beyond the border: circular, reflect, replicate, zero, or valid (the observation is the
    /// inner part of the blur of a larger image, as in a real photograph)
    #[arg(long, default_value = "circular")]
    pub boundary: Boundary,
    /// Mask of the missing pixels (white = unknown), for inpaint
    #[arg(long, value_name = "IMAGE")]
    pub mask: Option<PathBuf>,
    /// Standard deviation of the noise, in grey levels of 0..255
    #[arg(long, default_value_t = 0.0, value_name = "LEVELS")]
    pub sigma: f64,
}

impl DegradationArgs {
    /// The degradation, with its mask where it has one.
    pub fn build(&self, limits: &Limits) -> Result<(Degradation, Option<Mask>)> {
        if !(self.sigma.is_finite() && (0.0..=1000.0).contains(&self.sigma)) {
            return Err(Error::config(format!("--sigma {}: expected 0 to 1000 grey levels", self.sigma)));
        }
        let blur = match &self.kernel {
            Some(kernel) => Some(Degradation::Blur { kernel: kernel_spec(kernel, limits)?, boundary: self.boundary }),
            None => None,
        };
        let degradation = degradation_of(self.task, blur)?;
        let mask = match (&self.mask, self.task) {
            (Some(path), Task::Inpaint) => Some(mask_from(path, limits)?),
            (None, Task::Inpaint) => return Err(Error::config("--task inpaint needs --mask (white = unknown)")),
            (Some(_), task) => return Err(Error::config(format!("--mask has no meaning for --task {task}"))),
            (None, _) => None,
        };
        Ok((degradation, mask))
    }

    /// The noise level.
    pub fn noise(&self) -> NoiseLevel {
        NoiseLevel::from_255(self.sigma)
    }
}

/// What a task does to an image, after the blur where one is given.
pub fn degradation_of(task: Task, blur: Option<Degradation>) -> Result<Degradation> {
    match (task, blur) {
        (Task::SuperResolution { factor }, None) => Ok(Degradation::SuperResolution { factor }),
        (Task::SuperResolution { factor }, Some(blur)) => {
            Ok(Degradation::Compose(vec![blur, Degradation::SuperResolution { factor }]))
        }
        (Task::Deblur, Some(blur)) => Ok(blur),
        (Task::Deblur, None) => Err(Error::config(
            "the task deblur needs a kernel, for example --kernel box:5 (among the tasks of eval: deblur:box:5)",
        )),
        (task, Some(_)) => Err(Error::config(format!("a kernel has no meaning for the task {task}"))),
        (Task::Inpaint, None) => Ok(Degradation::Inpaint),
        (Task::Denoise, None) => Ok(Degradation::Identity),
        (Task::Colourise, None) => Ok(Degradation::Grayscale),
    }
}

fn kernel_spec(text: &str, limits: &Limits) -> Result<KernelSpec> {
    let path = PathBuf::from(text);
    if !path.is_file() {
        return text.parse();
    }
    let grid = read_kernel_values(&path, limits)?;
    let kernel = Kernel::from_values(grid.height, grid.width, grid.values).map_err(|e| match e {
        Error::Config(message) => Error::input(&path, message),
        other => other,
    })?;
    Ok(KernelSpec::Values(kernel))
}

fn mask_from(path: &std::path::Path, limits: &Limits) -> Result<Mask> {
    let unknown = read_mask(path, limits)?;
    let [_, _, height, width] = unknown.dims();
    let known = adir::tensor::to_f32(&unknown)?.into_iter().map(|v| v < 0.5).collect();
    Mask::new(height, width, known)
}

/// y = A x + e, the noise drawn from `seed`.
pub fn observe(a: &dyn LinearOperator, x: &Tensor<4>, sigma: NoiseLevel, seed: u64) -> Result<Tensor<4>> {
    let y = a.apply(x)?;
    if sigma.0 == 0.0 {
        return Ok(y);
    }
    let noise = Noise::new(seed, Stream::Degradation).normal_tensor(0, y.dims(), &y.device(), y.dtype());
    Ok(y + noise * sigma.0)
}

/// PSNR of A x against y, in dB over the range of the images. Grey images of a task that keeps colours are
/// compared as they are.
pub fn agreement_psnr(degradation: &Degradation, mask: Option<&Mask>, x: &Tensor<4>, y: &Tensor<4>) -> Result<f64> {
    let operator = degradation.build(ImageShape::of(x), mask)?;
    if operator.range() != ImageShape::of(y) {
        return Err(Error::config(format!(
            "the result {} would be observed as {}, but the observation is {} (channels x height x width)",
            operator.domain(),
            operator.range(),
            ImageShape::of(y)
        )));
    }
    Ok(agreement(operator.as_ref(), x, y)?.first().copied().unwrap_or(f64::NAN))
}

/// A clap spelling of a library enum: names and values side by side.
macro_rules! names {
    ($name:ident for $of:ty { $($variant:ident => $value:expr, $doc:literal;)+ }) => {
        #[derive(Debug, Clone, Copy, ::clap::ValueEnum)]
        pub enum $name { $(#[doc = $doc] $variant,)+ }
        impl From<$name> for $of {
            fn from(name: $name) -> Self {
                match name { $($name::$variant => $value,)+ }
            }
        }
    };
}
pub(crate) use names;

names!(PresetName for Preset {
    Fast => Preset::Fast, "Few steps";
    Balanced => Preset::Balanced, "Twice as many, and twice the change of the weights where the model is adapted";
    Paper => Preset::Paper, "Table 4 of the paper: 1000 ancestral steps";
});

/// A spherical distance of Eq. 19, for clap.
pub fn distance(text: &str) -> Result<f64, String> {
    number(text, std::f64::consts::PI).ok_or_else(|| "expected 0 to pi radians".into())
}

/// A part of a whole, for clap.
pub fn share(text: &str) -> Result<f64, String> {
    number(text, 1.0).ok_or_else(|| "expected 0 to 1".into())
}

/// A number from 0 to `most`.
fn number(text: &str, most: f64) -> Option<f64> {
    text.parse().ok().filter(|value| (0.0..=most).contains(value))
}
