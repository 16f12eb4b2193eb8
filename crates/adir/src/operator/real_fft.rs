//! The Fourier transform of real planes.
//!
//! Two real lines travel as the real and the imaginary part of a complex one. Of their spectrum only the first half is
//! kept: the rest is its mirrored conjugate.

use std::fmt::{Debug, Formatter};
use std::sync::Arc;

use rayon::prelude::*;
use rustfft::num_complex::Complex;
use rustfft::{Fft, FftNum, FftPlanner};

use super::fft::{LINES_PER_TASK, lines, transposed};

/// Numbers that transforms compute with: f64, or f32 where its rounding does no harm.
pub(super) trait Real: FftNum + Default + Into<f64> {
    /// The nearest number.
    fn of(value: f64) -> Self;
}

impl Real for f32 {
    fn of(value: f64) -> Self {
        value as f32
    }
}

impl Real for f64 {
    fn of(value: f64) -> Self {
        value
    }
}

/// Transforms of real planes of one size. The spectrum is kept transposed: the columns from frequency 0 to half the width.
#[derive(Clone)]
pub(super) struct RealFft2d<T> {
    height: usize,
    width: usize,
    rows: [Arc<dyn Fft<T>>; 2],
    columns: [Arc<dyn Fft<T>>; 2],
}

impl<T> Debug for RealFft2d<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RealFft2d").field("height", &self.height).field("width", &self.width).finish_non_exhaustive()
    }
}

impl<T: Real> RealFft2d<T> {
    /// Transforms of exactly this size.
    pub(super) fn new(height: usize, width: usize) -> Self {
        let mut planner = FftPlanner::new();
        let mut both = |n| [planner.plan_fft_forward(n), planner.plan_fft_inverse(n)];
        Self { height, width, rows: both(width), columns: both(height) }
    }

    /// Rows of the planes.
    pub(super) fn height(&self) -> usize {
        self.height
    }

    /// Columns of the planes.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Columns of the spectrum.
    fn half(&self) -> usize {
        self.width / 2 + 1
    }

    /// Values of the spectrum of a plane.
    pub(super) fn values(&self) -> usize {
        self.half() * self.height
    }

    /// The spectra of planes, one after the other, not scaled.
    pub(super) fn forward(&self, planes: &[T]) -> Vec<Complex<T>> {
        let (width, half) = (self.width, self.half());
        let mut by_rows = vec![Complex::default(); planes.len() / width * half];
        let tasks = by_rows.par_chunks_mut(LINES_PER_TASK * half).zip(planes.par_chunks(LINES_PER_TASK * width));
        tasks.for_each(|(spectra, planes)| {
            let mut line = vec![Complex::default(); width];
            let share = T::of(0.5);
            for (spectra, pair) in spectra.chunks_mut(2 * half).zip(planes.chunks(2 * width)) {
                let (a, b) = pair.split_at(width);
                line.iter_mut().zip(a).for_each(|(z, a)| *z = Complex::new(*a, T::zero()));
                line.iter_mut().zip(b).for_each(|(z, b)| z.im = *b);
                self.rows[0].process(&mut line);
                let (of_a, of_b) = spectra.split_at_mut(half);
                let mirrored = |k: usize| line[if k == 0 { 0 } else { width - k }].conj();
                of_a.iter_mut().enumerate().for_each(|(k, a)| *a = (line[k] + mirrored(k)) * share);
                of_b.iter_mut().enumerate().for_each(|(k, b)| {
                    let twice = line[k] - mirrored(k);
                    *b = Complex::new(twice.im, -twice.re) * share;
                });
            }
        });
        let mut spectra = self.turned(&by_rows, half);
        lines(&self.columns[0], &mut spectra, self.height);
        spectra
    }

    /// The inverse of [`RealFft2d::forward`].
    pub(super) fn inverse(&self, mut spectra: Vec<Complex<T>>) -> Vec<T> {
        let (width, half) = (self.width, self.half());
        lines(&self.columns[1], &mut spectra, self.height);
        let by_rows = self.turned(&spectra, self.height);
        let mut planes = vec![T::zero(); by_rows.len() / half * width];
        let scale = T::of(1.0 / (self.height * width) as f64);
        let tasks = planes.par_chunks_mut(LINES_PER_TASK * width).zip(by_rows.par_chunks(LINES_PER_TASK * half));
        tasks.for_each(|(planes, spectra)| {
            let mut line = vec![Complex::default(); width];
            for (pair, spectra) in planes.chunks_mut(2 * width).zip(spectra.chunks(2 * half)) {
                let (of_a, of_b) = spectra.split_at(half);
                // a + i b, and at the mirrored frequency conj(a) + i conj(b).
                for (k, a) in of_a.iter().enumerate() {
                    let b = of_b.get(k).copied().unwrap_or_default();
                    if k > 0 {
                        line[width - k] = Complex::new(a.re + b.im, b.re - a.im);
                    }
                    line[k] = Complex::new(a.re - b.im, a.im + b.re);
                }
                self.rows[1].process(&mut line);
                let (a, b) = pair.split_at_mut(width);
                a.iter_mut().zip(&line).for_each(|(a, z)| *a = z.re * scale);
                b.iter_mut().zip(&line).for_each(|(b, z)| *b = z.im * scale);
            }
        });
        planes
    }

    /// Planes with lines of `width` values, with columns as lines.
    fn turned(&self, planes: &[Complex<T>], width: usize) -> Vec<Complex<T>> {
        transposed(planes, self.values() / width, width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::fft::Fft2d;
    use rustfft::num_complex::Complex64;

    /// Columns of the transform of complex planes up to half of the width, and back, of odd and even sizes and numbers of
    /// planes.
    #[test]
    fn it_is_half_of_the_complex_transform_and_comes_back() {
        for (planes, height, width) in [(1, 1, 1), (3, 5, 4), (2, 3, 7), (3, 6, 6), (3, 17, 9)] {
            let values: Vec<f64> = (0..planes * height * width).map(|i| (1.7 * i as f64).sin()).collect();
            let fft = RealFft2d::new(height, width);
            let spectra = fft.forward(&values);
            for (plane, spectrum) in values.chunks(height * width).zip(spectra.chunks(fft.values())) {
                let complex = plane.iter().map(|v| Complex64::new(*v, 0.0)).collect();
                let expected = Fft2d::new(height, width).forward(complex);
                for (found, expected) in spectrum.iter().zip(&expected) {
                    assert!((found - expected).norm() < 1e-11, "{planes}x{height}x{width}");
                }
            }
            let back = fft.inverse(spectra);
            assert!(values.iter().zip(&back).all(|(a, b)| (a - b).abs() < 1e-12), "{planes}x{height}x{width}");
        }
    }
}
