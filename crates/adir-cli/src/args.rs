//! Arguments that several commands share.

use std::ffi::OsString;
use std::path::PathBuf;

use adir::io::image::{Picture, Reading};
use adir::io::light::Light;
use adir::io::limits::Limits;
use adir::operator::{Boundary, ImageShape, KernelCentre};
use adir::problem::{Measurement, Problem, Saturated, Sigma};
use adir::task::{Preset, Task};
use adir::tensor::Tensor;
use adir::{Error, Result};
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde::de::DeserializeOwned;

/// How y was made from x.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct DegradationArgs {
    /// What happened to the image: sr2 to sr16 (scaled down by that factor), deblur, inpaint, denoise, colourise
    #[arg(short = 't', long)]
    pub task: Task,
    /// Blur kernel: box:N, gaussian:N:SIGMA, motion:LENGTH:ANGLE, delta (no blur), or an image, text or NumPy file with the
    /// weights. With srN, the image was blurred before it was scaled down
    #[arg(long, value_name = "KERNEL")]
    pub kernel: Option<OsString>,
    /// The centre of a kernel with an even side n: opencv (pixel n/2 - 1, counted from 0; also scipy.signal and
    /// uniform_filter), matlab (pixel n/2; also scipy.ndimage.convolve), or symmetric (between the two) [default:
    /// symmetric for gaussian, else matlab]
    #[arg(long, value_name = "CENTRE")]
    pub kernel_centre: Option<KernelCentre>,
    /// What the blur saw beyond the border of the observation. valid: the rest of a larger scene, of which the
    /// observation is a window, as in a real photograph; circular: the opposite border; reflect (the edge pixel repeats);
    /// reflect-101 (it does not); replicate; constant:VALUE (a grey level, constant:0 is black) [default: valid, but circular where opposite borders of the observation continue each other, and
    /// in `adir degrade`]
    #[arg(long)]
    pub boundary: Option<Boundary>,
    /// Mask of the missing pixels, for inpaint: white is unknown; in an image of two colours, the one that is not
    /// black; if all colours are alike, the opaque pixels
    #[arg(long, value_name = "IMAGE")]
    pub mask: Option<PathBuf>,
    /// Standard deviation of the noise in grey levels (0 to 255), or auto: estimated from the observation [default: auto
    /// for deblur and denoise, else 0]; `adir degrade` takes a number, which denoise needs [default: 0]
    #[arg(long, value_name = "LEVELS", value_parser = sigma)]
    pub sigma: Option<Sigma>,
    /// How the noise grows with the light: its variance is GAIN times the grey level (0 to 255) plus the square of --sigma.
    /// For a sensor, the grey levels of one photon. Right for linear data, not for the tones of a developed photograph
    #[arg(long, value_name = "GAIN", allow_negative_numbers = true)]
    pub gain: Option<f64>,
    /// The operator acts on light, as blur and scaling do in a camera: values are taken through the tone curve of the image's
    /// ICC profile, or that of sRGB. For sr and deblur; not for images that were blurred or scaled by a program, most of
    /// which work on the values as they are
    #[arg(long)]
    pub linear_light: bool,
}

/// Which pixels of the observation count.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct MeasuredArgs {
    /// Pixels of the observation that were not measured, for any task: dust, dead pixels, a time stamp. Marked as in --mask
    #[arg(long, value_name = "IMAGE")]
    ignore: Option<PathBuf>,
    /// How to treat white areas, where the light may have exceeded white: ignore (in deblurring, take white as a lower
    /// bound; else leave the areas out), or keep (take them as measured) [default: in deblurring, ignore areas whose
    /// surroundings no image up to white explains; else keep]
    #[arg(long, value_parser = words::<Saturated>(&["ignore", "keep"]))]
    saturated: Option<Saturated>,
}

impl MeasuredArgs {
    /// `problem` with them.
    pub fn of(&self, problem: Problem) -> Problem {
        let mut problem = problem;
        problem.ignore = self.ignore.as_deref().map(Into::into);
        problem.saturated = self.saturated;
        problem
    }
}

fn sigma(text: &str) -> Result<Sigma, String> {
    match text {
        "auto" => Ok(Sigma::Auto),
        _ => text.parse().map(Sigma::Levels).map_err(|_| "expected a number of grey levels, or auto".into()),
    }
}

/// How image files are read where they do not say it.
#[derive(Debug, Clone, Args)]
pub struct ReadArgs {
    /// File value that is white, where it is not 255, 65535, or 1 for floats: 4095 for 12-bit data in 16 bits, 255 for
    /// floats of 0 to 255. Results of the same bit depth are written in these values again
    #[arg(long, value_name = "VALUE", allow_hyphen_values = true)]
    pub white: Option<f64>,
    /// File value that is black [default: 0]
    #[arg(long, value_name = "VALUE", allow_hyphen_values = true)]
    pub black: Option<f64>,
}

impl ReadArgs {
    /// What they ask for, of that page.
    pub fn reading(&self, page: Option<usize>) -> Result<Reading> {
        let mut reading = Reading::default();
        (reading.page, reading.black, reading.white) = (page, self.black, self.white);
        reading.check()?;
        Ok(reading)
    }
}

impl DegradationArgs {
    /// What was measured.
    pub fn problem(&self) -> Result<Problem> {
        let mut problem = Problem::new(self.task);
        problem.sigma = self.sigma;
        problem.gain = self.gain;
        problem.linear_light = self.linear_light;
        problem.kernel = self.kernel.as_deref().map(Into::into);
        problem.kernel_centre = self.kernel_centre;
        problem.mask = self.mask.as_deref().map(Into::into);
        problem.boundary = self.boundary;
        if self.kernel.is_none() && self.boundary.is_some() {
            return Err(Error::config("--boundary has no effect without --kernel: it is that of a blur"));
        }
        problem.check()?;
        Ok(problem)
    }
}

/// The problem of y for a result of the shape of `x`. Where a blur saw more than y shows, x may have the size of y or that
/// of all that the blur saw.
pub fn measure_for(problem: &Problem, x: &Tensor<4>, y: &Picture, limits: &Limits) -> Result<Measurement> {
    let found = ImageShape::of_batch(x);
    let measure = |keep_margin: bool| -> Result<Measurement> {
        let mut problem = problem.clone().observed_at(y.observed.clone());
        problem.keep_margin = keep_margin;
        if problem.linear_light {
            problem = problem.in_light(Light::of(&y.metadata, y.tensor.dims()[1])?);
        }
        match problem.gain {
            None => problem.fit(&y.tensor, found.channels, limits),
            // Values count by the variance of their noise.
            Some(_) => problem.measure(&y.tensor, y.rounding(), found.channels, limits),
        }
    };
    let cut = measure(false)?;
    if cut.result() == found {
        return Ok(cut);
    }
    let whole = measure(true)?;
    if whole.result() == found {
        return Ok(whole);
    }
    Err(Error::config(format!(
        "an observation of {} belongs to a result of {}, not of {found} (channels x height x width)",
        ImageShape::of_batch(&y.tensor),
        cut.result()
    )))
}

/// Words for a library enum, for clap: its names in records, with hyphens.
pub fn words<T: Clone + Send + Sync + DeserializeOwned + 'static>(
    names: impl Into<PossibleValuesParser>,
) -> impl TypedValueParser<Value = T> {
    names.into().try_map(|name: String| serde_json::from_value::<T>(serde_json::Value::String(name.replace('-', "_"))))
}

/// A preset, for clap.
pub fn preset() -> impl TypedValueParser<Value = Preset> {
    words(&["fast", "paper"])
}

/// A spherical distance of Eq. 19, for clap.
pub fn distance(text: &str) -> Result<f64, String> {
    number(text, std::f64::consts::PI).ok_or_else(|| "expected 0 to pi radians".into())
}

/// A number of things, at least one, for clap.
pub fn at_least_one<T: std::str::FromStr + PartialOrd + From<u8>>(text: &str) -> Result<T, String> {
    text.parse().ok().filter(|count| *count >= T::from(1)).ok_or_else(|| "expected a whole number from 1 on".into())
}

/// A finite number above 0, for clap.
pub fn above_zero(text: &str) -> Result<f64, String> {
    number(text, f64::MAX).filter(|value| *value > 0.0).ok_or_else(|| "expected a number above 0".into())
}

/// A part of a whole, for clap.
pub fn share(text: &str) -> Result<f64, String> {
    number(text, 1.0).ok_or_else(|| "expected 0 to 1".into())
}

/// A number from 0 to `most`.
fn number(text: &str, most: f64) -> Option<f64> {
    text.parse().ok().filter(|value| (0.0..=most).contains(value))
}
