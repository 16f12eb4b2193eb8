//! Where the centre of a kernel with even sides lies.
//!
//! An odd side has a middle pixel, an even one has none, and programs differ. [`Kernel::centred`] makes both sides odd,
//! with the centre in the middle.

use std::fmt::{Display, Formatter};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Kernel, KernelSpec};
use crate::{Error, Result};

/// The centre of a kernel along an even side of n pixels: the pixel of the kernel that shows where a point was. Along odd
/// sides it is the middle, whatever the convention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum KernelCentre {
    /// Pixel n/2 - 1, counted from 0: a blur moves the image half a pixel down and to the right. OpenCV's `blur`,
    /// `boxFilter` and `filter2D`, scipy's `signal.convolve2d`, `signal.fftconvolve` and `ndimage.uniform_filter`.
    OpenCv,
    /// Pixel n/2: a blur moves the image half a pixel up and to the left. MATLAB's `conv2` and scipy's
    /// `ndimage.convolve`.
    Matlab,
    /// Between the two: a blur moves nothing.
    Symmetric,
}

impl KernelCentre {
    /// Every convention, with its name.
    pub const ALL: [(Self, &'static str); 3] =
        [(Self::OpenCv, "opencv"), (Self::Matlab, "matlab"), (Self::Symmetric, "symmetric")];

    /// The convention where none is named: a Gaussian is symmetric by its formula, the weights of other kernels are
    /// taken as MATLAB does.
    pub fn default_for(spec: &KernelSpec) -> Self {
        match spec {
            KernelSpec::Gaussian { .. } => Self::Symmetric,
            _ => Self::Matlab,
        }
    }
}

impl Display for KernelCentre {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        Self::ALL.iter().find(|(centre, _)| centre == self).map_or(Ok(()), |(_, name)| f.pad(name))
    }
}

impl FromStr for KernelCentre {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.iter().find(|(_, name)| *name == text).map(|(centre, _)| *centre).ok_or_else(|| {
            Error::config(format!("unknown centre of a kernel {text:?}: expected opencv, matlab or symmetric"))
        })
    }
}

impl Kernel {
    /// Whether a side is even, so that its centre is a matter of convention.
    pub fn has_even_side(&self) -> bool {
        self.height().is_multiple_of(2) || self.width().is_multiple_of(2)
    }

    /// The same blur by a kernel whose even sides have one pixel more and their centre in the middle. With
    /// [`KernelCentre::Symmetric`] each weight is shared by the two pixels it lies between.
    ///
    /// # Errors
    /// [`Error::Config`] when a side becomes longer than 1025.
    pub fn centred(&self, centre: KernelCentre) -> Result<Self> {
        // The shares of a weight that go to its own place and to the next one.
        let shares = match centre {
            KernelCentre::OpenCv => [0.0, 1.0],
            KernelCentre::Matlab => [1.0, 0.0],
            KernelCentre::Symmetric => [0.5, 0.5],
        };
        let along = |side: usize| if side.is_multiple_of(2) { (side + 1, shares) } else { (side, [1.0, 0.0]) };
        let ((height, down), (width, right)) = (along(self.height()), along(self.width()));
        let mut values = vec![0.0; height * width];
        for (i, weight) in self.weights().iter().enumerate() {
            let (row, column) = (i / self.width(), i % self.width());
            for (r, down) in down.iter().enumerate().filter(|(_, share)| **share > 0.0) {
                for (c, right) in right.iter().enumerate().filter(|(_, share)| **share > 0.0) {
                    values[(row + r) * width + column + c] += weight * down * right;
                }
            }
        }
        Self::from_values(height, width, values)
    }
}

impl KernelSpec {
    /// The same kernel with that centre of even sides; as it is where there is none. A Gaussian that is to be symmetric
    /// gets another row and column of samples.
    ///
    /// # Errors
    /// As [`KernelSpec::build`] and [`Kernel::centred`].
    pub fn centred(&self, centre: KernelCentre) -> Result<Self> {
        let kernel = self.build()?;
        Ok(match (self, centre) {
            // By definition of a kernel's centre.
            (_, KernelCentre::Matlab) => self.clone(),
            _ if !kernel.has_even_side() => self.clone(),
            (Self::Gaussian { size, sigma }, KernelCentre::Symmetric) => {
                let spec = Self::Gaussian { size: size + 1, sigma: *sigma };
                spec.build()?;
                spec
            }
            _ => Self::Values(kernel.centred(centre)?),
        })
    }
}
