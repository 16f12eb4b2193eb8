//! Tasks and presets: names for an operator with the settings that suit it. They are data; nothing here
//! computes.

mod method;
mod paper;
mod resolve;
mod settings;
mod siblings;
mod staged;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use method::{Choice, Method, Overrides, Preset, Source};
pub use resolve::{Situation, Unevenness, resolve};
pub use settings::{GuidanceSettings, Levels, SamplerSettings, Settings, StageSettings};

use crate::{Error, Result};

/// The degradation to undo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum Task {
    /// Bicubic down-sampling by a factor of 2 to 16: `sr2` ... `sr16`.
    SuperResolution {
        /// The factor.
        factor: usize,
    },
    /// A blur with a known kernel.
    Deblur,
    /// Missing pixels.
    Inpaint,
    /// Noise only.
    Denoise,
    /// Lost colour: grey is the mean of the channels.
    Colourise,
    /// An operator of the caller's, see [`crate::problem::Problem::with_operator`]. It has no name.
    Custom {
        /// What kind of operator it is.
        hint: Hint,
    },
}

/// What presets know of an operator, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hint {
    /// It makes images smaller by this factor.
    ShrinksBy(usize),
    /// It weakens details and keeps the size.
    Blurs,
    /// It hides pixels.
    Hides,
    /// It mixes the channels into one.
    DropsColour,
    /// It changes nothing.
    Identity,
    /// Nothing is known of it.
    Unknown,
}

impl Task {
    /// The kind of its operator.
    pub fn hint(self) -> Hint {
        match self {
            Self::SuperResolution { factor } => Hint::ShrinksBy(factor),
            Self::Deblur => Hint::Blurs,
            Self::Inpaint => Hint::Hides,
            Self::Denoise => Hint::Identity,
            Self::Colourise => Hint::DropsColour,
            Self::Custom { hint } => hint,
        }
    }

    /// How many times as long the sides of a restored image are as those of its observation.
    pub fn factor(self) -> usize {
        match self {
            Self::SuperResolution { factor } => factor,
            _ => 1,
        }
    }
}

impl FromStr for Task {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "deblur" => Ok(Self::Deblur),
            "inpaint" => Ok(Self::Inpaint),
            "denoise" => Ok(Self::Denoise),
            "colourise" | "colorize" => Ok(Self::Colourise),
            _ => match name.strip_prefix("sr").and_then(|f| f.parse().ok()) {
                Some(factor @ 2..=16) => Ok(Self::SuperResolution { factor }),
                _ => Err(Error::config(format!(
                    "unknown task {name:?}: expected sr2 to sr16, deblur, inpaint, denoise or colourise"
                ))),
            },
        }
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SuperResolution { factor } => write!(f, "sr{factor}"),
            Self::Deblur => f.write_str("deblur"),
            Self::Inpaint => f.write_str("inpaint"),
            Self::Denoise => f.write_str("denoise"),
            Self::Colourise => f.write_str("colourise"),
            Self::Custom { .. } => f.write_str("custom"),
        }
    }
}

impl TryFrom<String> for Task {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        name.parse()
    }
}

impl From<Task> for String {
    fn from(task: Task) -> Self {
        task.to_string()
    }
}
