//! Boundary conditions of a blur.

use std::fmt::{Display, Formatter};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ImageShape;
use super::resample::symmetric;
use crate::{Error, Result};

/// How an image continues beyond its border. (Letters are the pixels of a line.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Boundary {
    /// `b c d | a b c d | a b c`: the image repeats itself.
    #[default]
    Circular,
    /// `c b a | a b c d | d c b`: half-sample symmetric, the edge pixel repeats (MATLAB's
    /// `symmetric`, scipy's `reflect`; not numpy's `reflect`, which does not repeat it).
    Reflect,
    /// `a a a | a b c d | d d d`: the edge pixel is repeated.
    Replicate,
    /// `0 0 0 | a b c d | 0 0 0`: zero, which is mid-grey.
    Zero,
    /// Nothing: y has only the pixels whose kernel lies wholly inside x, so x is larger than y by
    /// the kernel's sides less one. What a camera records.
    Valid,
}

impl Boundary {
    /// Every boundary, with the name it is written by.
    pub const ALL: [(Self, &'static str); 5] = [
        (Self::Circular, "circular"),
        (Self::Reflect, "reflect"),
        (Self::Replicate, "replicate"),
        (Self::Zero, "zero"),
        (Self::Valid, "valid"),
    ];

    /// Index of the pixel, out of `n`, that appears at index `i` of the extended line.
    fn source(self, i: i64, n: usize) -> Option<usize> {
        match self {
            Self::Circular => Some(i.rem_euclid(n as i64) as usize),
            Self::Reflect => Some(symmetric(i, n)),
            Self::Replicate => Some(i.clamp(0, n as i64 - 1) as usize),
            Self::Zero | Self::Valid => usize::try_from(i).ok().filter(|&i| i < n),
        }
    }
}

impl Display for Boundary {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        Self::ALL.iter().find(|(boundary, _)| boundary == self).map_or(Ok(()), |(_, name)| f.write_str(name))
    }
}

impl FromStr for Boundary {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.iter().find(|(_, name)| *name == text).map(|(boundary, _)| *boundary).ok_or_else(|| {
            Error::config(format!("unknown boundary {text:?}: expected circular, reflect, replicate, zero or valid"))
        })
    }
}

/// The linear map that extends a plane by margins: each extended pixel copies one pixel, or is zero.
#[derive(Debug, Clone)]
pub(super) struct Extension {
    rows: Vec<Option<usize>>,
    columns: Vec<Option<usize>>,
    width: usize,
}

impl Extension {
    /// Planes of `size` (height, width) extended to the size at which a kernel of `kernel` (height,
    /// width) has one wholly inner position for each pixel; for [`Boundary::Valid`], not extended.
    pub(super) fn new(domain: ImageShape, kernel: (usize, usize), boundary: Boundary) -> Self {
        let axis = |n: usize, kernel: usize| -> Vec<Option<usize>> {
            let (before, after) = match boundary {
                Boundary::Valid => (0, 0),
                _ => (kernel - 1 - kernel / 2, kernel / 2),
            };
            (-(before as i64)..(n + after) as i64).map(|i| boundary.source(i, n)).collect()
        };
        Self { rows: axis(domain.height, kernel.0), columns: axis(domain.width, kernel.1), width: domain.width }
    }

    /// Height and width of the extended plane.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.rows.len(), self.columns.len())
    }

    /// Writes the extension of the plane `x` to `extended`, which must be zero.
    pub(super) fn extend(&self, x: &[f64], extended: &mut [f64]) {
        for (row, line) in self.rows.iter().zip(extended.chunks_exact_mut(self.columns.len())) {
            let Some(row) = row else { continue };
            let source = &x[row * self.width..(row + 1) * self.width];
            for (to, column) in line.iter_mut().zip(&self.columns) {
                if let Some(column) = column {
                    *to = source[*column];
                }
            }
        }
    }

    /// The transpose of [`Extension::extend`]: adds every extended pixel to the pixel it copies.
    pub(super) fn fold(&self, extended: &[f64], x: &mut [f64]) {
        for (row, line) in self.rows.iter().zip(extended.chunks_exact(self.columns.len())) {
            let Some(row) = row else { continue };
            let target = &mut x[row * self.width..(row + 1) * self.width];
            for (from, column) in line.iter().zip(&self.columns) {
                if let Some(column) = column {
                    target[*column] += from;
                }
            }
        }
    }
}
