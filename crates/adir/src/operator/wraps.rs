//! Whether an image continues across its border, as one blurred circularly does.

use super::ImageShape;
use crate::Result;
use crate::tensor::{self, Tensor};

/// The first and the last line of a circular blur are neighbours. They may differ by this much more than the most
/// different inner neighbours do, in mean squares.
const AS_NEIGHBOURS: f64 = 1.5;
/// Lines half an image apart must differ by this much more than neighbours do. Where noise or a flat image makes
/// all lines alike, the border says nothing.
const AS_STRANGERS: f64 = 4.0;

/// Whether opposite borders of `y`, `[1, c, h, w]`, continue each other in both directions. Circular blurs, and with
/// them most synthetic experiments, leave such images; what a camera records is a window of a larger scene, and its
/// opposite borders have nothing to do with each other.
///
/// # Errors
/// [`crate::Error::Backend`] when the tensor cannot be read.
pub fn wraps_around(y: &Tensor<4>) -> Result<bool> {
    let ImageShape { channels, height, width } = ImageShape::of_batch(y);
    if height < 8 || width < 8 {
        return Ok(false);
    }
    let values = tensor::to_f64(y)?;
    // Images of `lines` lines of `length` pixels, whose starts are `step` and whose pixels are `stride` apart.
    let continues = |lines: usize, step: usize, length: usize, stride: usize| {
        let pixel = |line: usize, k: usize| k / length * height * width + line * step + k % length * stride;
        let between = |a: usize, b: usize| -> f64 {
            (0..channels * length).map(|k| (values[pixel(a, k)] - values[pixel(b, k)]).powi(2)).sum()
        };
        let neighbours: Vec<f64> = (1..lines).map(|line| between(line - 1, line)).collect();
        let strangers = (0..lines).map(|line| between(line, (line + lines / 2) % lines)).sum::<f64>() / lines as f64;
        let usual = neighbours.iter().sum::<f64>() / neighbours.len() as f64;
        let most = neighbours.iter().copied().fold(0.0, f64::max);
        between(lines - 1, 0) <= AS_NEIGHBOURS * most && strangers > AS_STRANGERS * usual
    };
    Ok(continues(height, width, width, 1) && continues(width, 1, height, width))
}
