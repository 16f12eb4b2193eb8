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
            let mut room = Room {
                line: vec![Complex::default(); n],
                scratch: vec![Complex::default(); scratch],
                nothing: vec![T::zero(); n],
            };
            for pair in lines.chunks_mut(2 * n) {
                let (a, b) = pair.split_at_mut(n);
                transform(self, a, b, &mut room);
            }
        });
    }

    fn cosines(&self, a: &mut [T], b: &mut [T], room: &mut Room<T>) {
        let folded = &mut room.line;
        in_order(folded, a, |z, a| *z = Complex::new(*a, T::zero()));
        in_order(folded, b, |z, b| z.im = *b);
        self.forward.process_with_scratch(folded, &mut room.scratch);
        let half = T::of(0.5);
        let of = |(turn, (z, mirrored)): (&Complex<T>, (&Complex<T>, &Complex<T>))| {
            (*turn * z + turn.conj() * mirrored) * half
        };
        // Frequency 0 is its own mirror image.
        let mirrored = folded[..1].iter().chain(folded[1..].iter().rev());
        let both = self.turns.iter().zip(folded.iter().zip(mirrored)).map(of);
        if b.is_empty() {
            a.iter_mut().zip(both).for_each(|(a, both)| *a = both.re);
        } else {
            a.iter_mut().zip(b).zip(both).for_each(|((a, b), both)| (*a, *b) = (both.re, both.im));
        }
    }

    fn values(&self, a: &mut [T], b: &mut [T], room: &mut Room<T>) {
        let Room { line: folded, scratch, nothing } = room;
        let of_b: &[T] = if b.is_empty() { nothing } else { b };
        let scale = T::of(1.0 / a.len() as f64);
        folded[0] = self.turns[0].conj() * Complex::new(a[0], of_b[0]) * scale;
        let both = a[1..].iter().zip(&of_b[1..]);
        let mirrored = a[1..].iter().rev().zip(of_b[1..].iter().rev());
        let turned = folded[1..].iter_mut().zip(&self.turns[1..]);
        for ((out, turn), ((a, b), (mirrored_a, mirrored_b))) in turned.zip(both.zip(mirrored)) {
            // a + i b, less i times the mirrored.
            *out = turn.conj() * Complex::new(*a + *mirrored_b, *b - *mirrored_a) * scale;
        }
        self.inverse.process_with_scratch(folded, scratch);
        in_order(folded, a, |z, a| *a = z.re);
        in_order(folded, b, |z, b| *b = z.im);
    }
}

/// A line, and what its Fourier transform needs.
struct Room<T> {
    line: Vec<Complex<T>>,
    scratch: Vec<Complex<T>>,
    /// A line of zeros.
    nothing: Vec<T>,
}

/// Each value of a line with its place in the folded line: even ones first, then the odd ones backwards.
fn in_order<T>(folded: &mut [Complex<T>], line: &mut [T], mut each: impl FnMut(&mut Complex<T>, &mut T)) {
    let (of_even, of_odd) = folded.split_at_mut(folded.len().div_ceil(2));
    let mut of_odd = of_odd.iter_mut().rev();
    for (of_even, pair) in of_even.iter_mut().zip(line.chunks_mut(2)) {
        each(of_even, &mut pair[0]);
        if let ([_, odd], Some(of_odd)) = (pair, of_odd.next()) {
            each(of_odd, odd);
        }
    }
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
