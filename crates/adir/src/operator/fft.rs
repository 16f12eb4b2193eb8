//! Circular convolution of planes by the fast Fourier transform.
//!
//! Two real planes travel as the real and the imaginary part of one complex plane: the kernels are
//! real, so the two never mix.

use std::fmt::{Debug, Formatter};
use std::sync::Arc;

use rayon::prelude::*;
use rustfft::num_complex::{Complex, Complex64};
use rustfft::{Fft, FftNum, FftPlanner};

/// Lines that one task transforms.
pub(super) const LINES_PER_TASK: usize = 16;

/// Transforms of complex planes of one size. The spectrum is kept transposed (column by column).
#[derive(Clone)]
pub(super) struct Fft2d {
    pub(super) height: usize,
    pub(super) width: usize,
    rows: [Arc<dyn Fft<f64>>; 2],
    columns: [Arc<dyn Fft<f64>>; 2],
}

impl Fft2d {
    /// Transforms of exactly this size.
    pub(super) fn new(height: usize, width: usize) -> Self {
        let mut planner = FftPlanner::new();
        let mut both = |n| [planner.plan_fft_forward(n), planner.plan_fft_inverse(n)];
        Self { height, width, rows: both(width), columns: both(height) }
    }

    /// Transforms of the nearest size, at least this one, that is fast.
    pub(super) fn at_least(height: usize, width: usize) -> Self {
        Self::new(fast_size(height), fast_size(width))
    }

    /// The transform of `plane`, not scaled.
    pub(super) fn forward(&self, mut plane: Vec<Complex64>) -> Vec<Complex64> {
        lines(&self.rows[0], &mut plane, self.width);
        let mut spectrum = transposed(&plane, self.height, self.width);
        lines(&self.columns[0], &mut spectrum, self.height);
        spectrum
    }

    /// The inverse of [`Fft2d::forward`].
    pub(super) fn inverse(&self, mut spectrum: Vec<Complex64>) -> Vec<Complex64> {
        lines(&self.columns[1], &mut spectrum, self.height);
        let mut plane = transposed(&spectrum, self.width, self.height);
        lines(&self.rows[1], &mut plane, self.width);
        let scale = 1.0 / (self.height * self.width) as f64;
        plane.iter_mut().for_each(|v| *v *= scale);
        plane
    }
}

impl Debug for Fft2d {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fft2d").field("height", &self.height).field("width", &self.width).finish_non_exhaustive()
    }
}

/// Transforms lines of `width` values.
pub(super) fn lines<T: FftNum>(fft: &Arc<dyn Fft<T>>, planes: &mut [Complex<T>], width: usize) {
    planes.par_chunks_mut(LINES_PER_TASK * width).for_each(|lines| fft.process(lines));
}

/// Planes of this size with columns as rows.
pub(super) fn transposed<V: Copy + Default + Send + Sync>(planes: &[V], height: usize, width: usize) -> Vec<V> {
    let mut out = vec![V::default(); planes.len()];
    for (plane, out) in planes.chunks_exact(height * width).zip(out.chunks_exact_mut(height * width)) {
        out.par_chunks_mut(LINES_PER_TASK * height).enumerate().for_each(|(task, columns)| {
            let first = task * LINES_PER_TASK;
            for (i, line) in plane.chunks_exact(width).enumerate() {
                for (column, v) in columns.chunks_exact_mut(height).zip(&line[first..]) {
                    column[i] = *v;
                }
            }
        });
    }
    out
}

/// The smallest number from `n` up with no prime factor above 5.
fn fast_size(n: usize) -> usize {
    (n..)
        .find(|&candidate| {
            let mut rest = candidate;
            for prime in [2, 3, 5] {
                while rest % prime == 0 {
                    rest /= prime;
                }
            }
            rest == 1
        })
        .unwrap_or(n)
}
