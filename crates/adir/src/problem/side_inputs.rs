//! Kernels and masks as they are named: by a file, by a short name, or as values.

use std::ffi::OsStr;
use std::fmt::{Display, Formatter};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::io::limits::Limits;
use crate::io::side_inputs::{read_kernel_values, read_mask};
use crate::operator::{Kernel, KernelSpec, Mask};
use crate::{Error, Result};

/// A blur kernel: weights, or a text that names a kernel or a file of weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum KernelSource {
    /// `box:N`, `gaussian:N:SIGMA`, `motion:LENGTH:ANGLE`, or the path of an image, NumPy or text file.
    Text(String),
    /// That file, whose name need not be Unicode. What is written of it is read as a text.
    File(#[serde(with = "crate::io::lossy::path")] PathBuf),
    /// The weights themselves.
    Weights(KernelSpec),
}

/// The missing pixels of an inpainting.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
#[non_exhaustive]
pub enum MaskSource {
    /// An image that marks them, see [`read_mask`].
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

impl From<&OsStr> for KernelSource {
    fn from(text: &OsStr) -> Self {
        text.to_str().map_or_else(|| Self::File(text.into()), Self::from)
    }
}

impl From<KernelSpec> for KernelSource {
    fn from(spec: KernelSpec) -> Self {
        Self::Weights(spec)
    }
}

impl Display for KernelSource {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::File(path) => path.display().fmt(f),
            Self::Weights(spec) => write!(f, "{spec}"),
        }
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

impl KernelSource {
    /// The kernel: from its file, where the text is the path of one, or by its name.
    ///
    /// # Errors
    /// [`Error::Input`] for a damaged file and for a text that can only be the path of a missing one, [`Error::Config`]
    /// for a text that is neither path nor name.
    pub fn read(&self, limits: &Limits) -> Result<KernelSpec> {
        let text = match self {
            Self::Weights(spec) => return Ok(spec.clone()),
            Self::File(path) => return from_file(path, limits),
            Self::Text(text) => text,
        };
        let path = Path::new(text);
        if !path.exists() {
            return match KernelSpec::named(text) {
                Ok(Some(spec)) => Ok(spec),
                Ok(None) | Err(_) if is_path(path) => Err(Error::input(path, "no such file")),
                Ok(None) => Err(KernelSpec::unknown(text, ", or the path of a file")),
                Err(Error::Config(message)) => Err(Error::config(format!("the kernel {text}: {message}"))),
                Err(other) => Err(other),
            };
        }
        from_file(path, limits)
    }

    /// The file that it names, if it names one.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Text(text) => Some(Path::new(text)),
            Self::File(path) => Some(path),
            Self::Weights(_) => None,
        }
    }
}

fn from_file(path: &Path, limits: &Limits) -> Result<KernelSpec> {
    let grid = read_kernel_values(path, limits)?;
    let kernel = Kernel::from_values(grid.height, grid.width, grid.values).map_err(|e| match e {
        Error::Config(message) => Error::input(path, message),
        other => other,
    })?;
    Ok(KernelSpec::Values(kernel))
}

/// Whether a text can only be a path: it has a folder or an extension in it. That of `gaussian:15:1.6` is none.
fn is_path(path: &Path) -> bool {
    let lettered = |e: &std::ffi::OsStr| e.to_string_lossy().starts_with(|c: char| c.is_ascii_alphabetic());
    path.components().count() > 1 || path.is_absolute() || path.extension().is_some_and(lettered)
}

impl MaskSource {
    /// The mask.
    ///
    /// # Errors
    /// As [`read_mask`], and [`Error::Config`] when no pixel is known, or all of them are.
    pub fn read(&self, limits: &Limits) -> Result<Mask> {
        let mask = match self {
            Self::Pixels(mask) => mask.clone(),
            Self::File(path) => read_mask(path, limits)?,
        };
        if mask.marks_nothing() {
            return Err(Error::config(format!(
                "{self}: the mask marks no pixel as unknown; unknown pixels are white, or opaque where alpha alone tells \
                 pixels apart"
            )));
        }
        Ok(mask)
    }

    /// The mask of an image of `height` x `width` pixels.
    ///
    /// # Errors
    /// As [`MaskSource::read`], and [`Error::Config`] when it has another size.
    pub fn read_for(&self, height: usize, width: usize, limits: &Limits) -> Result<Mask> {
        let mask = self.read(limits)?;
        if (mask.height(), mask.width()) != (height, width) {
            return Err(Error::config(format!(
                "{self}: the mask has {}x{} pixels, the image {height}x{width} (height x width)",
                mask.height(),
                mask.width()
            )));
        }
        Ok(mask)
    }
}

impl Display for MaskSource {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Pixels(_) => f.write_str("pixels from memory"),
        }
    }
}
