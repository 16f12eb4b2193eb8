//! Peak signal-to-noise ratio, in dB: 10 log10(peak^2 / mean squared error). Infinite for equal images.

use super::pixels::Plane;

/// Of 8-bit planes, over all of their pixels.
pub(super) fn psnr(a: &[Plane], b: &[Plane]) -> f64 {
    let squares: f64 = a.iter().zip(b).map(|(a, b)| squared_error(&a.values, &b.values)).sum();
    let count: usize = a.iter().map(|plane| plane.values.len()).sum();
    decibel(squares / count as f64, 255.0)
}

pub(super) fn squared_error(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

pub(super) fn decibel(mean_squared_error: f64, peak: f64) -> f64 {
    10.0 * (peak * peak / mean_squared_error).log10()
}
