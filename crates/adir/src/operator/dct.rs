//! The discrete cosine transform of planes, which is the Fourier transform of planes that continue mirrored (half-sample
//! symmetric), without their copies.
//!
//! A line of n values takes one Fourier transform of n, over its even places followed by its odd ones backwards (Makhoul 1980,
//! "A fast cosine transform in one and two dimensions"). All of it is linear, so that two lines travel as the real and the
//! imaginary part of a complex one.

use std::f64::consts::PI;
use std::fmt::{Debug, Formatter};
use std::sync::Arc;

use rayon::prelude::*;
use rustfft::num_complex::{Complex, Complex64};
use rustfft::{Fft, FftPlanner};

use super::fft::{LINES_PER_TASK, transposed};
use super::real_fft::Real;

/// Transforms of planes of one size. The spectrum is kept transposed (column by column).
#[derive(Debug, Clone)]
pub(super) struct Dct2d<T> {
    rows: Line<T>,
    columns: Line<T>,
}

/// Transforms of lines of one length.
#[derive(Clone)]
struct Line<T> {
    forward: Arc<dyn Fft<T>>,
    inverse: Arc<dyn Fft<T>>,
    /// exp(-i pi k / 2 n).
    turns: Vec<Complex<T>>,
}

impl<T> Debug for Line<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line").field("length", &self.turns.len()).finish_non_exhaustive()
    }
}

impl<T: Real> Dct2d<T> {
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

    /// sum over i, j of plane(i, j) cos(pi k (i + 1/2) / height) cos(pi l (j + 1/2) / width), not scaled, of each plane.
    pub(super) fn forward(&self, mut planes: Vec<T>) -> Vec<T> {
        self.rows.each(&mut planes, Line::cosines);
        let mut spectra = transposed(&planes, self.height(), self.width());
        self.columns.each(&mut spectra, Line::cosines);
        spectra
    }

    /// The inverse of [`Dct2d::forward`].
    pub(super) fn inverse(&self, mut spectra: Vec<T>) -> Vec<T> {
        self.columns.each(&mut spectra, Line::values);
        let mut planes = transposed(&spectra, self.width(), self.height());
        self.rows.each(&mut planes, Line::values);
        planes
    }
}

impl<T: Real> Line<T> {
    fn new(n: usize) -> Self {
        let mut planner = FftPlanner::new();
        let turns = (0..n).map(|k| {
            let turn = Complex64::from_polar(1.0, -PI * k as f64 / (2 * n) as f64);
            Complex::new(T::of(turn.re), T::of(turn.im))
        });
        Self { forward: planner.plan_fft_forward(n), inverse: planner.plan_fft_inverse(n), turns: turns.collect() }
    }

    /// Transforms every line by `transform`, two at a time.
    fn each(&self, planes: &mut [T], transform: fn(&Self, &mut [T], &mut [T], &mut Room<T>)) {
        let n = self.turns.len();
        let scratch = self.forward.get_inplace_scratch_len().max(self.inverse.get_inplace_scratch_len());
        planes.par_chunks_mut(LINES_PER_TASK * n).for_each(|lines| {
            let mut room = Room { line: vec![Complex::default(); n], scratch: vec![Complex::default(); scratch] };
            for pair in lines.chunks_mut(2 * n) {
                let (a, b) = pair.split_at_mut(n);
                transform(self, a, b, &mut room);
            }
        });
    }

    fn cosines(&self, a: &mut [T], b: &mut [T], room: &mut Room<T>) {
        let n = a.len();
        let folded = &mut room.line;
        for (i, a) in a.iter().enumerate() {
            folded[place(n, i)] = Complex::new(*a, T::zero());
        }
        for (i, b) in b.iter().enumerate() {
            folded[place(n, i)].im = *b;
        }
        self.forward.process_with_scratch(folded, &mut room.scratch);
        let half = T::of(0.5);
        let of = |k: usize| (self.turns[k] * folded[k] + self.turns[k].conj() * folded[(n - k) % n]) * half;
        for (k, a) in a.iter_mut().enumerate() {
            let both = of(k);
            *a = both.re;
            if let Some(b) = b.get_mut(k) {
                *b = both.im;
            }
        }
    }

    fn values(&self, a: &mut [T], b: &mut [T], room: &mut Room<T>) {
        let n = a.len();
        let folded = &mut room.line;
        let both = |k: usize| Complex::new(a[k], b.get(k).copied().unwrap_or(T::zero()));
        let scale = T::of(1.0 / n as f64);
        for (k, (out, turn)) in folded.iter_mut().zip(&self.turns).enumerate() {
            let mirrored = if k == 0 { Complex::default() } else { both(n - k) };
            *out = turn.conj() * (both(k) - Complex::<T>::i() * mirrored) * scale;
        }
        self.inverse.process_with_scratch(folded, &mut room.scratch);
        for (i, a) in a.iter_mut().enumerate() {
            *a = folded[place(n, i)].re;
        }
        for (i, b) in b.iter_mut().enumerate() {
            *b = folded[place(n, i)].im;
        }
    }
}

/// A line, and what its Fourier transform needs.
struct Room<T> {
    line: Vec<Complex<T>>,
    scratch: Vec<Complex<T>>,
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
        for (planes, height, width) in [(1, 1, 1), (1, 1, 4), (2, 5, 3), (3, 6, 8), (3, 5, 7)] {
            let values: Vec<f64> = (0..planes * height * width).map(|i| (1.7 * i as f64).sin()).collect();
            let dct = Dct2d::new(height, width);
            let spectra = dct.forward(values.clone());
            let cosine = |n: usize, k: usize, i: usize| (PI * k as f64 * (i as f64 + 0.5) / n as f64).cos();
            for (plane, spectrum) in values.chunks(height * width).zip(spectra.chunks(height * width)) {
                for k in 0..height {
                    for l in 0..width {
                        let sum: f64 = (0..height * width)
                            .map(|at| plane[at] * cosine(height, k, at / width) * cosine(width, l, at % width))
                            .sum();
                        assert!((spectrum[l * height + k] - sum).abs() < 1e-12, "{height}x{width}: {k} {l}");
                    }
                }
            }
            let back = dct.inverse(spectra);
            assert!(values.iter().zip(&back).all(|(a, b)| (a - b).abs() < 1e-12), "{height}x{width}");
        }
    }
}
