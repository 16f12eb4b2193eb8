//! Boundary conditions of a blur.

use std::fmt::{Display, Formatter};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::ImageShape;
use super::resample::symmetric;
use crate::{Error, Result};

/// How an image continues beyond its border. (Letters are the pixels of a line.)
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum Boundary {
    /// `b c d | a b c d | a b c`: the image repeats itself.
    #[default]
    Circular,
    /// `c b a | a b c d | d c b`: half-sample symmetric, the edge pixel repeats (MATLAB's `symmetric`, OpenCV's and
    /// scipy's `reflect`).
    Reflect,
    /// `d c b | a b c d | c b a`: whole-sample symmetric, the edge pixel does not repeat (OpenCV's `REFLECT_101` and
    /// default, numpy's `reflect`, scipy's `mirror`). Written `reflect-101`.
    Reflect101,
    /// `a a a | a b c d | d d d`: the edge pixel is repeated (MATLAB's `replicate`, numpy's `edge`, scipy's `nearest`).
    Replicate,
    /// `v v v | a b c d | v v v`: one grey level, 0 (black) to 255 (white). Written `constant:VALUE`.
    ///
    /// The blur is then affine: an operator is its linear part, whose outside is 0, mid-grey; what the outside adds to
    /// it is [`super::Degradation::offset`].
    Constant(f64),
    /// Nothing: y has only the pixels whose kernel lies wholly inside x, so x is larger than y by
    /// the kernel's sides less one. What a camera records.
    Valid,
}

impl Boundary {
    /// A boundary of every kind, with the name it is written by.
    pub const ALL: [(Self, &'static str); 6] = [
        (Self::Circular, "circular"),
        (Self::Reflect, "reflect"),
        (Self::Reflect101, "reflect-101"),
        (Self::Replicate, "replicate"),
        (Self::Constant(0.0), "constant:0"),
        (Self::Valid, "valid"),
    ];

    /// Index of the pixel, out of `n`, that appears at index `i` of the extended line.
    fn source(self, i: i64, n: usize) -> Option<usize> {
        match self {
            Self::Circular => Some(i.rem_euclid(n as i64) as usize),
            Self::Reflect => Some(symmetric(i, n)),
            Self::Reflect101 => Some(whole_symmetric(i, n)),
            Self::Replicate => Some(i.clamp(0, n as i64 - 1) as usize),
            Self::Constant(_) | Self::Valid => usize::try_from(i).ok().filter(|&i| i < n),
        }
    }

    /// The value outside, in [-1, 1], where it is one.
    pub(super) fn outside(self) -> Option<f64> {
        match self {
            Self::Constant(level) => Some(level / 127.5 - 1.0),
            _ => None,
        }
    }
}

/// The pixel, out of `n`, at index `i` of a line mirrored about its first and its last pixel.
fn whole_symmetric(i: i64, n: usize) -> usize {
    let last = n as i64 - 1;
    if last == 0 {
        return 0;
    }
    let i = i.rem_euclid(2 * last);
    i.min(2 * last - i) as usize
}

impl Display for Boundary {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Constant(level) => write!(f, "constant:{level}"),
            _ => Self::ALL.iter().find(|(boundary, _)| boundary == self).map_or(Ok(()), |(_, name)| f.write_str(name)),
        }
    }
}

impl FromStr for Boundary {
    type Err = Error;

    /// Reads its name. `zero` is black, as in other programs.
    fn from_str(text: &str) -> Result<Self> {
        if let Some(level) = text.strip_prefix("constant:") {
            let level = level.parse().ok().filter(|level| (0.0..=255.0).contains(level)).ok_or_else(|| {
                Error::config(format!("boundary {text:?}: expected a grey level from 0 (black) to 255 (white)"))
            })?;
            return Ok(Self::Constant(level));
        }
        if text == "zero" {
            return Ok(Self::Constant(0.0));
        }
        Self::ALL.iter().find(|(_, name)| *name == text).map(|(boundary, _)| *boundary).ok_or_else(|| {
            Error::config(format!(
                "unknown boundary {text:?}: expected circular, reflect, reflect-101, replicate, constant:VALUE or valid"
            ))
        })
    }
}

impl TryFrom<String> for Boundary {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        name.parse()
    }
}

impl From<Boundary> for String {
    fn from(boundary: Boundary) -> Self {
        boundary.to_string()
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
