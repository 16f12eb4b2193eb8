//! Structural similarity of Wang et al. (2004): luminance, contrast and structure in a Gaussian
//! window of 11x11 (standard deviation 1.5), only where the window lies wholly inside.

use super::pixels::Plane;
use crate::{Error, Result};

/// Side of the window, and so the smallest side of an image.
pub(super) const WINDOW: usize = 11;
const SIGMA: f64 = 1.5;
/// (K1 L)^2 and (K2 L)^2 with K1 = 0.01, K2 = 0.03 and the range L = 255.
const C1: f64 = 6.5025;
const C2: f64 = 58.5225;

/// Weights of the scales of MS-SSIM, finest first.
const SCALES: [f64; 5] = [0.0448, 0.2856, 0.3001, 0.2363, 0.1333];
/// The smallest side of an image for MS-SSIM: its last scale holds a window.
pub(super) const MULTISCALE: usize = ((WINDOW - 1) << (SCALES.len() - 1)) + 1;

/// Mean over all positions of the window of
/// (2 ma mb + C1) (2 cov + C2) / ((ma^2 + mb^2 + C1) (va + vb + C2)).
pub(super) fn ssim(a: &Plane, b: &Plane) -> Result<f64> {
    means(a, b).map(|[ssim, _]| ssim)
}

/// SSIM over five scales (Wang et al. 2003): contrast and structure of each, and luminance of the last. A mean below 0 counts
/// as 0.
pub(super) fn multiscale(a: &Plane, b: &Plane) -> Result<f64> {
    let (mut product, mut planes) = (1.0, [a.clone(), b.clone()]);
    for (scale, weight) in (1..).zip(SCALES) {
        let [ssim, structure] = means(&planes[0], &planes[1])?;
        let last = scale == SCALES.len();
        product *= (if last { ssim } else { structure }).max(0.0).powf(weight);
        planes = planes.map(|plane| if last { plane } else { halved(&plane) });
    }
    Ok(product)
}

/// Means of 2x2 pixels; of an odd side, the last line counts twice.
fn halved(plane: &Plane) -> Plane {
    let (height, width) = (plane.height.div_ceil(2), plane.width.div_ceil(2));
    let at =
        |row: usize, column: usize| plane.values[row.min(plane.height - 1) * plane.width + column.min(plane.width - 1)];
    let mean = |k: usize| {
        let (row, column) = (k / width * 2, k % width * 2);
        (at(row, column) + at(row + 1, column) + at(row, column + 1) + at(row + 1, column + 1)) / 4.0
    };
    Plane { height, width, values: (0..height * width).map(mean).collect() }
}

/// Means over all positions of the window of SSIM, and of its part of contrast and structure.
fn means(a: &Plane, b: &Plane) -> Result<[f64; 2]> {
    if a.height < WINDOW || a.width < WINDOW {
        return Err(Error::config(format!(
            "SSIM needs images of at least {WINDOW}x{WINDOW} pixels, found {}x{} (height x width)",
            a.height, a.width
        )));
    }
    let product = |a: &Plane, b: &Plane| -> Vec<f64> { a.values.iter().zip(&b.values).map(|(a, b)| a * b).collect() };
    let planes = [a.values.clone(), b.values.clone(), product(a, a), product(b, b), product(a, b)];
    let [ma, mb, aa, bb, ab] = planes.map(|plane| windowed(&plane, a.width));
    let mut sums = [0.0; 2];
    for i in 0..ma.len() {
        let (ma, mb) = (ma[i], mb[i]);
        let (va, vb, cov) = (aa[i] - ma * ma, bb[i] - mb * mb, ab[i] - ma * mb);
        sums[0] += (2.0 * ma * mb + C1) * (2.0 * cov + C2) / ((ma * ma + mb * mb + C1) * (va + vb + C2));
        sums[1] += (2.0 * cov + C2) / (va + vb + C2);
    }
    Ok(sums.map(|sum| sum / ma.len() as f64))
}

/// The Gaussian mean in each window that lies wholly inside the plane, along the lines and then down.
fn windowed(plane: &[f64], width: usize) -> Vec<f64> {
    let weights = window();
    let inner = width + 1 - WINDOW;
    let mut lines = vec![0.0; plane.len() / width * inner];
    for (line, out) in plane.chunks_exact(width).zip(lines.chunks_exact_mut(inner)) {
        for (shift, weight) in weights.iter().enumerate() {
            add_scaled(out, *weight, &line[shift..]);
        }
    }
    let mut out = vec![0.0; lines.len() - (WINDOW - 1) * inner];
    for (i, out) in out.chunks_exact_mut(inner).enumerate() {
        for (shift, weight) in weights.iter().enumerate() {
            add_scaled(out, *weight, &lines[(i + shift) * inner..]);
        }
    }
    out
}

fn add_scaled(out: &mut [f64], weight: f64, values: &[f64]) {
    for (out, value) in out.iter_mut().zip(values) {
        *out += weight * value;
    }
}

fn window() -> [f64; WINDOW] {
    let mut weights = [0.0; WINDOW];
    for (i, weight) in weights.iter_mut().enumerate() {
        let x = i as f64 - (WINDOW / 2) as f64;
        *weight = (-x * x / (2.0 * SIGMA * SIGMA)).exp();
    }
    let sum: f64 = weights.iter().sum();
    weights.map(|weight| weight / sum)
}
