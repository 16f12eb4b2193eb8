//! Point-spread functions: the weights of a blur.
//!
//! A kernel always sums to one, so that a blur keeps the brightness. Its centre is the element
//! (height / 2, width / 2), rounded down and counted from zero: the middle one of an odd kernel, and
//! the one after the middle of an even kernel, as in MATLAB's conv2 and scipy's ndimage.convolve. Where another
//! convention holds, [`Kernel::centred`] makes the sides odd.

use std::ops::Range;

use super::kernel_text::{Rows, read_rows};
use crate::{Error, Result};

/// Largest side of a kernel, in pixels.
const MAX_SIDE: usize = 1025;
/// Smallest |sum| of the values over the sum of their magnitudes at which a kernel is normalised.
const MIN_RELATIVE_SUM: f64 = 1e-6;

/// The weights of a blur, row by row, of unit sum.
#[derive(Debug, Clone, PartialEq)]
pub struct Kernel {
    height: usize,
    width: usize,
    weights: Vec<f64>,
}

impl Kernel {
    /// A kernel from row-major values, which are divided by their sum.
    ///
    /// # Errors
    /// [`Error::Config`] when a side is 0 or above 1025, the number of values is not
    /// `height * width`, a value is not finite, or the sum is (nearly) zero or below zero.
    pub fn from_values(height: usize, width: usize, values: Vec<f64>) -> Result<Self> {
        if ![height, width].iter().all(|side| (1..=MAX_SIDE).contains(side)) {
            return Err(Error::config(format!(
                "a kernel must have sides of 1 to {MAX_SIDE} pixels, found {height}x{width}"
            )));
        }
        if values.len() != height * width {
            return Err(Error::config(format!(
                "a kernel of {height}x{width} needs {height} * {width} values, found {}",
                values.len()
            )));
        }
        if let Some(i) = values.iter().position(|v| !v.is_finite()) {
            let (row, column) = (i / width + 1, i % width + 1);
            return Err(Error::config(format!("row {row}, column {column} of the kernel is not a finite number")));
        }
        let sum: f64 = values.iter().sum();
        let magnitude: f64 = values.iter().map(|v| v.abs()).sum();
        if !magnitude.is_finite() || sum.abs() <= MIN_RELATIVE_SUM * magnitude {
            let sum = if magnitude.is_finite() { "nothing, or nearly so" } else { "more than a number can be" };
            return Err(Error::config(format!(
                "the weights of the kernel add up to {sum}: they cannot be scaled to a sum of 1"
            )));
        }
        if sum < 0.0 {
            return Err(Error::config(format!(
                "the weights of the kernel add up to {sum:.6}: a blur's add up to more than 0, so that white stays white; the \
                 signs seem to be reversed"
            )));
        }
        Ok(Self { height, width, weights: values.into_iter().map(|v| v / sum).collect() })
    }

    /// A kernel from text, as [`super::read_rows`] reads it.
    ///
    /// # Errors
    /// [`Error::Config`] when the text is no matrix of numbers, or [`Kernel::from_values`] refuses the values.
    pub fn from_text(text: &str) -> Result<Self> {
        let Rows { values, height, width } =
            read_rows(text).map_err(|message| Error::config(format!("the kernel: {message}")))?;
        Self::from_values(height, width, values)
    }

    /// The single weight 1: no blur.
    pub fn delta() -> Self {
        Self { height: 1, width: 1, weights: vec![1.0] }
    }

    /// `size` x `size` equal weights.
    ///
    /// # Errors
    /// [`Error::Config`] when `size` is 0 or above 1025.
    pub fn boxed(size: usize) -> Result<Self> {
        Self::tabulate(size, |_, _| 1.0)
    }

    /// `size` x `size` samples of a Gaussian of standard deviation `sigma` (pixels), centred between
    /// the corners.
    ///
    /// # Errors
    /// [`Error::Config`] when `size` is 0 or above 1025, or `sigma` is not positive and finite.
    pub fn gaussian(size: usize, sigma: f64) -> Result<Self> {
        if !(sigma.is_finite() && sigma > 0.0) {
            return Err(Error::config(format!(
                "the standard deviation of a Gaussian kernel is {sigma}: expected a finite number above 0"
            )));
        }
        let middle = (size as f64 - 1.0) / 2.0;
        // Relative to the sample nearest the centre, so that a narrow Gaussian does not underflow to zero.
        let nearest = if size.is_multiple_of(2) { 0.5 } else { 0.0 };
        Self::tabulate(size, |i, j| {
            let (y, x) = (i as f64 - middle, j as f64 - middle);
            (-(y * y + x * x - 2.0 * nearest * nearest) / (2.0 * sigma * sigma)).exp()
        })
    }

    /// Motion along a straight line of `length` pixels (at least 1) at `angle` degrees, counted
    /// counter-clockwise from the horizontal. A pixel weighs 1 minus its distance to the line's
    /// middle axis, at least 0; the kernel has the smallest odd sides that hold them all.
    ///
    /// # Errors
    /// [`Error::Config`] when `length` is not 1 to 1023 or `angle` is not finite.
    pub fn motion(length: f64, angle: f64) -> Result<Self> {
        let max_length = (MAX_SIDE - 2) as f64;
        if !(1.0..=max_length).contains(&length) || !angle.is_finite() {
            return Err(Error::config(format!(
                "a motion kernel needs a length of 1 to {max_length} and a finite angle, found {length} and {angle}"
            )));
        }
        let half = (length - 1.0) / 2.0;
        let (sin, cos) = angle.to_radians().sin_cos();
        let weight = |y: f64, x: f64| {
            let along = (x * cos - y * sin).clamp(-half, half);
            (1.0 - (x - along * cos).hypot(y + along * sin)).max(0.0)
        };
        // A pixel weighs something only nearer than 1 to the line; the 1e-9 keeps rounding from adding a row.
        let reach = |extent: f64| (half * extent.abs() + 1.0 - 1e-9).floor() as i64;
        let (rows, columns) = (reach(sin), reach(cos));
        let values = (-rows..=rows).flat_map(|y| (-columns..=columns).map(move |x| (y as f64, x as f64)));
        let values = values.map(|(y, x)| weight(y, x)).collect();
        Self::from_values(2 * rows as usize + 1, 2 * columns as usize + 1, values)
    }

    fn tabulate(size: usize, value: impl Fn(usize, usize) -> f64) -> Result<Self> {
        // Past the limit the values are not computed: from_values refuses the side.
        let n = if size <= MAX_SIDE { size } else { 0 };
        Self::from_values(size, size, (0..n * n).map(|i| value(i / n, i % n)).collect())
    }

    /// The share of the weight that is a background: a level that nearly all of the border has, below a third of the peak.
    /// `None` where there is none to speak of. The border of a disc or of a Gaussian that was cut off is no such level, and a
    /// kernel of a few lines is all border.
    pub fn background(&self) -> Option<f64> {
        const LEAST_SHARE: f64 = 0.1;
        const LEAST_PEAK: f64 = 3.0;
        const LEAST_SIDE: usize = 5;
        let (height, width) = (self.height, self.width);
        if height.min(width) < LEAST_SIDE {
            return None;
        }
        let at_border = |i: &usize| {
            let (row, column) = (i / width, i % width);
            row == 0 || column == 0 || row == height - 1 || column == width - 1
        };
        let mut border: Vec<f64> = (0..self.weights.len()).filter(at_border).map(|i| self.weights[i]).collect();
        border.sort_by(f64::total_cmp);
        let quantile = |part: usize| border[part * (border.len() - 1) / 10];
        let (low, level, high) = (quantile(1), quantile(5), quantile(9));
        let peak = self.weights.iter().copied().fold(0.0, f64::max);
        // Weights add up to 1.
        let share = level * self.weights.len() as f64;
        (low > 0.0 && high <= 2.0 * low && peak >= LEAST_PEAK * high && share >= LEAST_SHARE).then_some(share)
    }

    /// Number of rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Number of columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The rows and the columns of the least rectangle that holds all weight but `nothing`, a sum of magnitudes, on each side.
    pub(super) fn support(&self, nothing: f64) -> [Range<usize>; 2] {
        let inner = |count: usize, of: fn(usize, usize) -> usize| {
            let mut sums = vec![0.0; count];
            for (i, weight) in self.weights.iter().enumerate() {
                sums[of(i, self.width)] += weight.abs();
            }
            let outer = |sums: &mut dyn Iterator<Item = &f64>| {
                let mut sum = 0.0;
                sums.take_while(|line| {
                    sum += *line;
                    sum <= nothing
                })
                .count()
            };
            outer(&mut sums.iter())..count - outer(&mut sums.iter().rev())
        };
        [inner(self.height, |i, width| i / width), inner(self.width, |i, width| i % width)]
    }

    /// Row-major weights, of unit sum.
    pub fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// Weights of rows and of columns whose products are the kernel's, if there are such.
    pub(super) fn factors(&self) -> Option<(Vec<f64>, Vec<f64>)> {
        let width = self.width;
        let largest =
            (0..self.weights.len()).max_by(|a, b| self.weights[*a].abs().total_cmp(&self.weights[*b].abs()))?;
        let peak = self.weights[largest];
        let columns: Vec<f64> = self.weights[largest / width * width..][..width].to_vec();
        let rows: Vec<f64> = self.weights.chunks(width).map(|row| row[largest % width] / peak).collect();
        let is_product =
            |(i, weight): (usize, &f64)| (rows[i / width] * columns[i % width] - weight).abs() <= 1e-15 * peak.abs();
        self.weights.iter().enumerate().all(is_product).then_some((rows, columns))
    }

    /// Whether no weight is below 0, as that of light is.
    pub fn is_non_negative(&self) -> bool {
        self.weights.iter().all(|weight| *weight >= 0.0)
    }

    /// Whether mirroring it in either axis, about a central weight, changes nothing.
    pub fn is_symmetric(&self) -> bool {
        let (height, width) = (self.height(), self.width());
        let largest = self.weights.iter().fold(0.0, |largest: f64, weight| largest.max(weight.abs()));
        let same = |a: f64, b: f64| (a - b).abs() <= 1e-12 * largest;
        height % 2 == 1
            && width % 2 == 1
            && self.weights.iter().enumerate().all(|(i, weight)| {
                let (row, column) = (i / width, i % width);
                same(*weight, self.weights[(height - 1 - row) * width + column])
                    && same(*weight, self.weights[row * width + width - 1 - column])
            })
    }
}

impl TryFrom<Vec<Vec<f64>>> for Kernel {
    type Error = Error;

    fn try_from(rows: Vec<Vec<f64>>) -> Result<Self> {
        let width = rows.first().map_or(0, Vec::len);
        if let Some(i) = rows.iter().position(|row| row.len() != width) {
            return Err(Error::config(format!(
                "row {} of the kernel has {} values, the first has {width}",
                i + 1,
                rows[i].len()
            )));
        }
        Self::from_values(rows.len(), width, rows.concat())
    }
}

impl From<Kernel> for Vec<Vec<f64>> {
    fn from(kernel: Kernel) -> Self {
        kernel.weights.chunks(kernel.width).map(<[f64]>::to_vec).collect()
    }
}
