//! How good a restoration is: against the truth (PSNR, SSIM, the angle of features), against what was measured
//! ([`agreement`]), and against nothing ([`niqe()`]).
//!
//! Two conventions stand side by side because both are published. `*_rgb`: the images rounded to 8 bit, all channels,
//! no crop. `*_y`: luma of the 8-bit images with a border cropped, the convention of super-resolution.
//!
//! Every metric is a [`Metric`]: it looks at one [`Case`] and returns one number. Tables, files and commands iterate
//! over a list of them ([`standard`], [`evaluation`], [`all`]) and know none by name, so a metric from outside this
//! crate joins by being pushed onto the list (`examples/own_metric.rs`). The functions behind them take whole batches
//! and return one value for each image.
//!
//! # Several samples of one observation
//!
//! A posterior sampler makes several images x_1 ... x_n from one y, and two numbers can be told of them:
//!
//! * **one**: the mean over the samples of the number of each, what one sample is worth;
//! * **mean**: the number of the image (x_1 + ... + x_n) / n, which estimates the posterior mean.
//!
//! The second is at least as good in squared error, and smoother than any sample. [`Metric::over`] says which of the
//! two a metric reports: both where the error is the point (PSNR, SSIM); of one sample where the look is (features,
//! NIQE: an average of samples looks like none of them); of the mean for the agreement with y. Numbers in dB are
//! averaged as they are, in dB.

mod agreement;
mod case;
mod clip_iqa;
mod feature_angle;
mod lpips;
mod luma;
mod ms_ssim_y;
mod musiq;
mod niqe;
mod pixels;
mod psnr;
mod psnr_rgb;
mod psnr_y;
mod ssim;
mod ssim_rgb;
mod ssim_y;
#[cfg(test)]
mod tests;

use std::fmt::Debug;

pub use agreement::{Agreement, agreement};
pub use case::{Case, Observed};
pub use clip_iqa::ClipIqa;
pub use feature_angle::FeatureAngle;
pub use lpips::Lpips;
pub use ms_ssim_y::{MsSsimY, ms_ssim_y};
pub use musiq::Musiq;
pub use niqe::{Niqe, niqe};
pub use psnr_rgb::{PsnrRgb, psnr_rgb};
pub use psnr_y::{PsnrY, psnr_y};
pub use ssim_rgb::{SsimRgb, ssim_rgb};
pub use ssim_y::{SsimY, ssim_y};

use crate::{Error, Result};

/// One number about a restored image.
pub trait Metric: Debug + Send + Sync {
    /// Its name in tables and files, as `psnr_rgb`: lower case, digits and underscores.
    fn name(&self) -> &str;

    /// What tells its values from those of others: the name, and for a network from a file that file's SHA-256.
    fn identity(&self) -> String {
        self.name().to_owned()
    }

    /// Range and source, in a line.
    fn describe(&self) -> &str;

    /// Which values are good.
    fn better(&self) -> Better;

    /// What it compares the restored image with.
    fn needs(&self) -> Needs;

    /// Unit of the values, as `dB`; empty for plain numbers.
    fn unit(&self) -> &str {
        ""
    }

    /// Digits behind the point that are worth printing in a table.
    fn digits(&self) -> usize {
        3
    }

    /// Bytes that it holds at most for a pixel of an image, with the images themselves.
    fn bytes_per_pixel(&self) -> u64 {
        200
    }

    /// What is reported of several samples (see the [module](self)).
    fn over(&self) -> Over {
        Over::Both
    }

    /// The images that it applies to, where it does not apply to all: `images of at least 11x11 pixels`. So a message says
    /// why one was left out.
    fn takes(&self) -> String {
        String::new()
    }

    /// The value for `case`, infinite where a perfect score is; `None` where the metric does not apply: what it
    /// needs is not given, or the image is too small for it or has other channels.
    ///
    /// # Errors
    /// [`Error::Config`] when the images of the case do not belong together, [`Error::Numerical`] when one is not
    /// finite.
    fn value(&self, case: &Case<'_>) -> Result<Option<f64>>;
}

/// Which of two values of a metric is the better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// The higher one.
    Higher,
    /// The lower one.
    Lower,
}

impl Better {
    /// Whether `a` is better than `b`; false for equal values and for NaN.
    pub fn prefers(self, a: f64, b: f64) -> bool {
        match self {
            Self::Higher => a > b,
            Self::Lower => a < b,
        }
    }
}

impl std::fmt::Display for Better {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Higher => "higher",
            Self::Lower => "lower",
        })
    }
}

/// What a metric compares the restored image with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Needs {
    /// Nothing: it judges the image alone.
    Nothing,
    /// The true image.
    Truth,
    /// The operator and the observation y.
    Observation,
}

/// What a metric reports of several samples of one observation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// The mean over the samples of the value of each.
    Samples,
    /// The value of the mean of the samples.
    Mean,
    /// Both.
    Both,
}

impl Over {
    /// Whether the samples are measured one by one.
    pub fn samples(self) -> bool {
        self != Self::Mean
    }

    /// Whether the mean of the samples is measured.
    pub fn mean(self) -> bool {
        self != Self::Samples
    }
}

/// The names of the metrics of this crate, in the order of [`all`].
pub const NAMES: [&str; 8] =
    ["psnr_rgb", "psnr_y", "ssim_rgb", "ssim_y", "ms_ssim_y", "agreement_psnr", "niqe", "feature_angle"];

/// The metric of that name, one of [`NAMES`].
///
/// # Errors
/// [`Error::Config`] listing the names when there is none of that name.
pub fn named(name: &str) -> Result<Box<dyn Metric>> {
    Ok(match name {
        "psnr_rgb" => Box::new(PsnrRgb),
        "psnr_y" => Box::new(PsnrY),
        "ssim_rgb" => Box::new(SsimRgb),
        "ssim_y" => Box::new(SsimY),
        "ms_ssim_y" => Box::new(MsSsimY),
        "agreement_psnr" => Box::new(Agreement),
        "niqe" => Box::new(Niqe),
        "feature_angle" => Box::new(FeatureAngle::embedded()?),
        _ => return Err(Error::config(format!("no metric {name:?}: expected one of {}", NAMES.join(", ")))),
    })
}

/// Every metric of this crate.
///
/// # Errors
/// Those of [`FeatureAngle::embedded`].
pub fn all() -> Result<Vec<Box<dyn Metric>>> {
    NAMES.into_iter().map(named).collect()
}

/// What one result is compared by: PSNR and SSIM in both conventions, and the agreement with y.
pub fn standard() -> Vec<Box<dyn Metric>> {
    vec![Box::new(PsnrRgb), Box::new(PsnrY), Box::new(SsimRgb), Box::new(SsimY), Box::new(Agreement)]
}

/// What methods are compared by on many images: PSNR and SSIM on RGB, features, NIQE, and the agreement with y.
///
/// # Errors
/// Those of [`FeatureAngle::embedded`].
pub fn evaluation() -> Result<Vec<Box<dyn Metric>>> {
    Ok(vec![
        Box::new(PsnrRgb),
        Box::new(SsimRgb),
        Box::new(FeatureAngle::embedded()?),
        Box::new(Niqe),
        Box::new(Agreement),
    ])
}

/// The value for the one image of a case.
fn single(values: &[f64]) -> Result<Option<f64>> {
    match values {
        [value] => Ok(Some(*value)),
        _ => Err(Error::config(format!("a metric takes one image at a time, found {}", values.len()))),
    }
}
