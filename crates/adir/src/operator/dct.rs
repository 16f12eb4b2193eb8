//! The discrete cosine transform of planes, which is the Fourier transform of planes that continue mirrored (half-sample
//! symmetric), without their copies.
//!
//! A line of n values takes one Fourier transform of n, over its even places followed by its odd ones backwards (Makhoul 1980,
//! "A fast cosine transform in one and two dimensions"). All of it is linear, so that two real planes travel as the real
//! and the imaginary part of a complex one.

use std::f64::consts::PI;
use std::fmt::{Debug, Formatter};
use std::sync::Arc;

use rayon::prelude::*;
use rustfft::num_complex::Complex64;
use rustfft::{Fft, FftPlanner};

use super::fft::{LINES_PER_TASK, transposed};

/// Transforms of complex planes of one size. The spectrum is kept transposed (column by column).
#[derive(Debug, Clone)]
pub(super) struct Dct2d {
    rows: Line,
    columns: Line,
}

/// Transforms of lines of one length.
#[derive(Clone)]
struct Line {
    forward: Arc<dyn Fft<f64>>,
    inverse: Arc<dyn Fft<f64>>,
    /// exp(-i pi k / 2 n).
    turns: Vec<Complex64>,
}

impl Debug for Line {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line").field("length", &self.turns.len()).finish_non_exhaustive()
    }
}

impl Dct2d {
    /// Transforms of that size.
    pub(super) fn new(height: usize, width: usize) -> Self {
        Self { rows: Line::new(width), columns: Line::new(height) }
    }

    /// Rows of the planes.
    pub(super) fn height(&self) -> usize {
        self.columns.turns.len()
    }

    /// Columns of the planes.
    pub(super) fn width(&self) -> usize {
        self.rows.turns.len()
    }

    /// sum over i, j of plane(i, j) cos(pi k (i + 1/2) / height) cos(pi l (j + 1/2) / width), not scaled.
    pub(super) fn forward(&self, mut plane: Vec<Complex64>) -> Vec<Complex64> {
        self.rows.each(&mut plane, Line::cosines);
        let mut spectrum = transposed(&plane, self.width());
        self.columns.each(&mut spectrum, Line::cosines);
        spectrum
    }

    /// The inverse of [`Dct2d::forward`].
    pub(super) fn inverse(&self, mut spectrum: Vec<Complex64>) -> Vec<Complex64> {
        self.columns.each(&mut spectrum, Line::values);
        let mut plane = transposed(&spectrum, self.height());
        self.rows.each(&mut plane, Line::values);
        plane
    }
}

impl Line {
    fn new(n: usize) -> Self {
        let mut planner = FftPlanner::new();
        let turns = (0..n).map(|k| Complex64::from_polar(1.0, -PI * k as f64 / (2 * n) as f64)).collect();
        Self { forward: planner.plan_fft_forward(n), inverse: planner.plan_fft_inverse(n), turns }
    }

    /// Transforms every line of a plane by `transform`, which gets room for a line and for the Fourier transform.
    fn each(&self, plane: &mut [Complex64], transform: fn(&Self, &mut [Complex64], &mut Room)) {
        let n = self.turns.len();
        let scratch = self.forward.get_inplace_scratch_len().max(self.inverse.get_inplace_scratch_len());
        plane.par_chunks_mut(LINES_PER_TASK * n).for_each(|lines| {
            let mut room = Room { line: vec![Complex64::ZERO; n], scratch: vec![Complex64::ZERO; scratch] };
            lines.chunks_exact_mut(n).for_each(|line| transform(self, line, &mut room));
        });
    }

    fn cosines(&self, line: &mut [Complex64], room: &mut Room) {
        let n = line.len();
        let folded = &mut room.line;
        for (i, v) in line.iter().enumerate() {
            folded[place(n, i)] = *v;
        }
        self.forward.process_with_scratch(folded, &mut room.scratch);
        for (k, (out, turn)) in line.iter_mut().zip(&self.turns).enumerate() {
            *out = (turn * folded[k] + turn.conj() * folded[(n - k) % n]) * 0.5;
        }
    }

    fn values(&self, line: &mut [Complex64], room: &mut Room) {
        let n = line.len();
        let folded = &mut room.line;
        for (k, (out, turn)) in folded.iter_mut().zip(&self.turns).enumerate() {
            let mirrored = if k == 0 { Complex64::ZERO } else { line[n - k] };
            *out = turn.conj() * (line[k] - Complex64::I * mirrored) / n as f64;
        }
        self.inverse.process_with_scratch(folded, &mut room.scratch);
        for (i, out) in line.iter_mut().enumerate() {
            *out = folded[place(n, i)];
        }
    }
}

/// A line, and what its Fourier transform needs.
struct Room {
    line: Vec<Complex64>,
    scratch: Vec<Complex64>,
}

/// Where value i of n goes: even places first, then the odd ones backwards.
fn place(n: usize, i: usize) -> usize {
    if i.is_multiple_of(2) { i / 2 } else { n - 1 - i / 2 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_sum_over_cosines_and_comes_back() {
        for (height, width) in [(1, 1), (1, 4), (5, 3), (6, 8)] {
            let plane: Vec<Complex64> =
                (0..height * width).map(|i| Complex64::new((1.7 * i as f64).sin(), (0.3 * i as f64).cos())).collect();
            let dct = Dct2d::new(height, width);
            let spectrum = dct.forward(plane.clone());
            let cosine = |n: usize, k: usize, i: usize| (PI * k as f64 * (i as f64 + 0.5) / n as f64).cos();
            for k in 0..height {
                for l in 0..width {
                    let sum: Complex64 = (0..height * width)
                        .map(|at| plane[at] * cosine(height, k, at / width) * cosine(width, l, at % width))
                        .sum();
                    assert!((spectrum[l * height + k] - sum).norm() < 1e-12, "{height}x{width}: {k} {l}");
                }
            }
            let back = dct.inverse(spectrum);
            assert!(plane.iter().zip(&back).all(|(a, b)| (a - b).norm() < 1e-12), "{height}x{width}");
        }
    }
}
