//! The inner part of a convolution, and its transpose, directly or by FFT.
//!
//! From planes extended by the kernel's margins, only the sums whose kernel lies wholly inside:
//! y(i) = sum over j of k(j) x(i + size - 1 - j), in both dimensions.

use std::sync::OnceLock;

use rayon::prelude::*;
use rustfft::num_complex::Complex64;

use super::Kernel;
use super::fft::Fft2d;
use super::waves::transfer;
use crate::compute::get_or_make;

/// The direct method costs one product for each non-zero weight and pixel, the FFT a number that
/// grows with the logarithm of the pixels; above this number of weights per log2 of the pixels the
/// FFT is taken. Measured on two AVX-512 cores, the two break even between 6 (256 pixels a side) and
/// 25 (64 pixels); a 61x61 kernel on 512x512 takes 31 ms instead of 304.
const FFT_FROM_WEIGHTS_PER_LOG_PIXELS: f64 = 10.0;
/// A pass over lines and one over columns write a plane between them, which costs as much as so many weights.
const BETWEEN_PASSES: usize = 4;

/// How a convolution is computed. The results differ by rounding only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Direct,
    /// Columns, then lines: for kernels that are products of both.
    Separable,
    Fft,
}

impl Method {
    /// The cheaper of the two for planes of `size` (height, width).
    pub(super) fn cheaper(kernel: &Kernel, size: (usize, usize)) -> Self {
        let weights = kernel.weights().iter().filter(|&&weight| weight != 0.0).count();
        let in_passes = kernel.factors().map(|(rows, columns)| rows.len() + columns.len() + BETWEEN_PASSES);
        let (weights, method) = match in_passes {
            Some(fewer) if fewer < weights => (fewer, Self::Separable),
            _ => (weights, Self::Direct),
        };
        let log_pixels = ((size.0 * size.1).max(2) as f64).log2();
        if weights as f64 > FFT_FROM_WEIGHTS_PER_LOG_PIXELS * log_pixels { Self::Fft } else { method }
    }
}

/// The inner convolution from planes of one size, `outer`, to planes of `inner` = `outer` - kernel + 1.
#[derive(Debug, Clone)]
pub(super) struct Convolution {
    outer: (usize, usize),
    inner: (usize, usize),
    plan: Plan,
}

#[derive(Debug, Clone)]
enum Plan {
    Direct {
        taps: Vec<Tap>,
    },
    /// Taps along columns and along lines.
    Separable {
        down: Vec<Tap>,
        right: Vec<Tap>,
    },
    Fft {
        fft: Fft2d,
        kernel: Kernel,
        /// Made when it is asked for first: a plan does not need it.
        spectrum: OnceLock<Vec<Complex64>>,
    },
}

/// One weight: y(i) += weight x(i + offset).
#[derive(Debug, Clone, Copy)]
struct Tap {
    down: usize,
    right: usize,
    weight: f64,
}

impl Convolution {
    /// The convolution with `kernel` of planes of size `outer` (height, width), at least the kernel's.
    pub(super) fn new(outer: (usize, usize), kernel: &Kernel, method: Method) -> Self {
        let (height, width) = (kernel.height(), kernel.width());
        let inner = (outer.0 + 1 - height, outer.1 + 1 - width);
        let plan = match method {
            Method::Direct => {
                let taps = kernel.weights().iter().enumerate().filter(|(_, weight)| **weight != 0.0);
                let taps =
                    taps.map(|(i, &weight)| Tap { down: height - 1 - i / width, right: width - 1 - i % width, weight });
                Plan::Direct { taps: taps.collect() }
            }
            Method::Separable => {
                let (rows, columns) = kernel.factors().unwrap_or_default();
                let tap = |down, right, weight| Tap { down, right, weight };
                let down = rows.iter().enumerate().map(|(i, weight)| tap(height - 1 - i, 0, *weight));
                let right = columns.iter().enumerate().map(|(i, weight)| tap(0, width - 1 - i, *weight));
                let set = |tap: &Tap| tap.weight != 0.0;
                Plan::Separable { down: down.filter(set).collect(), right: right.filter(set).collect() }
            }
            Method::Fft => {
                let fft = Fft2d::at_least(outer.0, outer.1);
                Plan::Fft { fft, kernel: kernel.clone(), spectrum: OnceLock::new() }
            }
        };
        Self { outer, inner, plan }
    }

    /// Height and width of the result.
    pub(super) fn inner(&self) -> (usize, usize) {
        self.inner
    }

    /// y for each plane of x, one after the other; `y` must be zero.
    pub(super) fn forward(&self, x: &[f64], y: &mut [f64]) {
        match &self.plan {
            Plan::Direct { taps } => gather(taps, (x, self.outer), (y, self.inner)),
            Plan::Separable { down, right } => {
                let (size, mut between) = self.between(x, self.outer);
                gather(down, (x, self.outer), (&mut between, size));
                gather(right, (&between, size), (y, self.inner));
            }
            Plan::Fft { fft, kernel, spectrum } => {
                let spectrum = get_or_make(spectrum, || transfer(fft, kernel));
                self.by_pairs(fft, (x, self.outer, (0, 0)), (y, self.inner, self.margin()), |v| {
                    v.iter_mut().zip(spectrum).for_each(|(v, k)| *v *= k);
                });
            }
        }
    }

    /// The transpose of [`Convolution::forward`]; `x` must be zero.
    pub(super) fn transpose(&self, y: &[f64], x: &mut [f64]) {
        match &self.plan {
            Plan::Direct { taps } => spread(taps, (y, self.inner), (x, self.outer)),
            Plan::Separable { down, right } => {
                let (size, mut between) = self.between(y, self.inner);
                spread(right, (y, self.inner), (&mut between, size));
                spread(down, (&between, size), (x, self.outer));
            }
            Plan::Fft { fft, kernel, spectrum } => {
                let spectrum = get_or_make(spectrum, || transfer(fft, kernel));
                self.by_pairs(fft, (y, self.inner, self.margin()), (x, self.outer, (0, 0)), |v| {
                    v.iter_mut().zip(spectrum).for_each(|(v, k)| *v *= k.conj());
                });
            }
        }
    }

    /// The planes between the passes over columns and over lines, all 0, for planes of `size`.
    fn between(&self, planes: &[f64], size: (usize, usize)) -> ((usize, usize), Vec<f64>) {
        let between = (self.inner.0, self.outer.1);
        (between, vec![0.0; planes.len() / (size.0 * size.1) * between.0 * between.1])
    }

    /// Where the inner plane starts in the circular product of the outer plane and the kernel.
    fn margin(&self) -> (usize, usize) {
        (self.outer.0 - self.inner.0, self.outer.1 - self.inner.1)
    }

    /// Carries planes through the spectrum, two at a time. Source and target are each given as the
    /// planes, their size, and where in the transform they start.
    fn by_pairs(
        &self,
        fft: &Fft2d,
        (source, source_size, source_at): (&[f64], (usize, usize), (usize, usize)),
        (target, target_size, target_at): (&mut [f64], (usize, usize), (usize, usize)),
        multiply: impl Fn(&mut [Complex64]),
    ) {
        let pair = |(height, width): (usize, usize)| 2 * height * width;
        for (source, target) in source.chunks(pair(source_size)).zip(target.chunks_mut(pair(target_size))) {
            let mut spectrum = fft.forward(packed(fft, source, source_size, source_at));
            multiply(&mut spectrum);
            unpack(fft, &fft.inverse(spectrum), target, target_size, target_at);
        }
    }
}

/// The sums of taps at every place of the inner planes.
fn gather(
    taps: &[Tap],
    (outer, outer_size): (&[f64], (usize, usize)),
    (inner, inner_size): (&mut [f64], (usize, usize)),
) {
    by_lines(outer, outer_size, inner, inner_size, |outer, i, line| {
        for tap in taps {
            let start = (i + tap.down) * outer_size.1 + tap.right;
            add_scaled(line, tap.weight, &outer[start..start + inner_size.1]);
        }
    });
}

/// The transpose of [`gather`].
fn spread(
    taps: &[Tap],
    (inner, inner_size): (&[f64], (usize, usize)),
    (outer, outer_size): (&mut [f64], (usize, usize)),
) {
    by_lines(inner, inner_size, outer, outer_size, |inner, i, line| {
        for tap in taps {
            let Some(row) = i.checked_sub(tap.down).filter(|&row| row < inner_size.0) else { continue };
            let start = row * inner_size.1;
            let target = &mut line[tap.right..tap.right + inner_size.1];
            add_scaled(target, tap.weight, &inner[start..start + inner_size.1]);
        }
    });
}

/// Computes every line of every target plane from its source plane, in parallel.
fn by_lines(
    source: &[f64],
    source_size: (usize, usize),
    target: &mut [f64],
    target_size: (usize, usize),
    line: impl Fn(&[f64], usize, &mut [f64]) + Sync,
) {
    let planes = source.par_chunks(source_size.0 * source_size.1);
    planes.zip(target.par_chunks_mut(target_size.0 * target_size.1)).for_each(|(source, target)| {
        target.par_chunks_mut(target_size.1).enumerate().for_each(|(i, target)| line(source, i, target));
    });
}

fn add_scaled(target: &mut [f64], weight: f64, source: &[f64]) {
    for (target, source) in target.iter_mut().zip(source) {
        *target += weight * source;
    }
}

/// One or two real planes as the real and imaginary part of a zero plane of the transform's size.
fn packed(fft: &Fft2d, planes: &[f64], (height, width): (usize, usize), at: (usize, usize)) -> Vec<Complex64> {
    let mut out = vec![Complex64::ZERO; fft.height * fft.width];
    for (i, plane) in planes.chunks(height * width).enumerate() {
        for (to, from) in out.chunks_mut(fft.width).skip(at.0).zip(plane.chunks(width)) {
            for (to, from) in to[at.1..].iter_mut().zip(from) {
                if i == 0 { to.re = *from } else { to.im = *from }
            }
        }
    }
    out
}

/// The reverse of [`packed`].
fn unpack(fft: &Fft2d, packed: &[Complex64], planes: &mut [f64], (height, width): (usize, usize), at: (usize, usize)) {
    for (i, plane) in planes.chunks_mut(height * width).enumerate() {
        for (from, to) in packed.chunks(fft.width).skip(at.0).zip(plane.chunks_mut(width)) {
            for (from, to) in from[at.1..].iter().zip(to) {
                *to = if i == 0 { from.re } else { from.im };
            }
        }
    }
}
