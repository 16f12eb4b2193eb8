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

/// Mean over all positions of the window of
/// (2 ma mb + C1) (2 cov + C2) / ((ma^2 + mb^2 + C1) (va + vb + C2)).
pub(super) fn ssim(a: &Plane, b: &Plane) -> Result<f64> {
    if a.height < WINDOW || a.width < WINDOW {
        return Err(Error::config(format!(
            "SSIM needs images of at least {WINDOW}x{WINDOW} pixels, found {}x{} (height x width)",
            a.height, a.width
        )));
    }
    let product = |a: &Plane, b: &Plane| -> Vec<f64> { a.values.iter().zip(&b.values).map(|(a, b)| a * b).collect() };
    let planes = [a.values.clone(), b.values.clone(), product(a, a), product(b, b), product(a, b)];
    let [ma, mb, aa, bb, ab] = planes.map(|plane| windowed(&plane, a.width));
    let sum: f64 = (0..ma.len())
        .map(|i| {
            let (ma, mb) = (ma[i], mb[i]);
            let (va, vb, cov) = (aa[i] - ma * ma, bb[i] - mb * mb, ab[i] - ma * mb);
            (2.0 * ma * mb + C1) * (2.0 * cov + C2) / ((ma * ma + mb * mb + C1) * (va + vb + C2))
        })
        .sum();
    Ok(sum / ma.len() as f64)
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
