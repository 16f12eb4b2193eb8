//! How a kernel is written in a configuration: a short name such as `gaussian:15:1.6`, or its rows.

use std::fmt::{Display, Formatter};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::Kernel;
use crate::{Error, Result};

/// The kernel of a blur, as configured: `box:N`, `gaussian:N:SIGMA`, `motion:LENGTH:ANGLE`, `delta`,
/// or explicit weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
#[non_exhaustive]
pub enum KernelSpec {
    /// [`Kernel::boxed`].
    Box {
        /// Side in pixels.
        size: usize,
    },
    /// [`Kernel::gaussian`].
    Gaussian {
        /// Side in pixels.
        size: usize,
        /// Standard deviation in pixels.
        sigma: f64,
    },
    /// [`Kernel::motion`].
    Motion {
        /// Length of the path in pixels.
        length: f64,
        /// Direction in degrees, counter-clockwise from the horizontal.
        angle: f64,
    },
    /// [`Kernel::delta`].
    Delta,
    /// Weights from a file or an array.
    Values(Kernel),
}

impl KernelSpec {
    /// The weights.
    ///
    /// # Errors
    /// [`Error::Config`] when a parameter is out of range.
    pub fn build(&self) -> Result<Kernel> {
        match self {
            Self::Box { size } => Kernel::boxed(*size),
            Self::Gaussian { size, sigma } => Kernel::gaussian(*size, *sigma),
            Self::Motion { length, angle } => Kernel::motion(*length, *angle),
            Self::Delta => Ok(Kernel::delta()),
            Self::Values(kernel) => Ok(kernel.clone()),
        }
    }

    /// The kernel of a short name: `box:N`, `gaussian:N:SIGMA`, `motion:LENGTH:ANGLE` or `delta`; `None` for any other text.
    ///
    /// # Errors
    /// [`Error::Config`] when a parameter is out of range.
    pub fn named(text: &str) -> Result<Option<Self>> {
        let parts: Vec<&str> = text.split(':').collect();
        let spec = match parts.as_slice() {
            ["box", size] => size.parse().ok().map(|size| Self::Box { size }),
            ["gaussian", size, sigma] => {
                size.parse().ok().zip(sigma.parse().ok()).map(|(size, sigma)| Self::Gaussian { size, sigma })
            }
            ["motion", length, angle] => {
                length.parse().ok().zip(angle.parse().ok()).map(|(length, angle)| Self::Motion { length, angle })
            }
            ["delta"] => Some(Self::Delta),
            _ => None,
        };
        if let Some(spec) = &spec {
            spec.build()?;
        }
        Ok(spec)
    }

    /// The error of a text that is no name of a kernel, and none of what `else_expected` adds.
    pub(crate) fn unknown(text: &str, else_expected: &str) -> Error {
        Error::config(format!(
            "unknown kernel {text:?}: expected box:N, gaussian:N:SIGMA, motion:LENGTH:ANGLE or delta{else_expected}"
        ))
    }
}

impl FromStr for KernelSpec {
    type Err = Error;

    /// Reads a short name, see [`KernelSpec::named`].
    fn from_str(text: &str) -> Result<Self> {
        Self::named(text)?.ok_or_else(|| Self::unknown(text, ""))
    }
}

impl Display for KernelSpec {
    /// The short name, which [`FromStr`] reads back; explicit weights are described, not listed.
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Box { size } => write!(f, "box:{size}"),
            Self::Gaussian { size, sigma } => write!(f, "gaussian:{size}:{sigma}"),
            Self::Motion { length, angle } => write!(f, "motion:{length}:{angle}"),
            Self::Delta => write!(f, "delta"),
            Self::Values(kernel) => write!(f, "{}x{} weights", kernel.height(), kernel.width()),
        }
    }
}

/// The two spellings in a configuration file.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Written {
    Name(String),
    Rows(Vec<Vec<f64>>),
}

impl TryFrom<Written> for KernelSpec {
    type Error = Error;

    fn try_from(written: Written) -> Result<Self> {
        match written {
            Written::Name(name) => name.parse(),
            Written::Rows(rows) => Ok(Self::Values(Kernel::try_from(rows)?)),
        }
    }
}

impl From<KernelSpec> for Written {
    fn from(spec: KernelSpec) -> Self {
        match spec {
            KernelSpec::Values(kernel) => Self::Rows(kernel.into()),
            named => Self::Name(named.to_string()),
        }
    }
}
