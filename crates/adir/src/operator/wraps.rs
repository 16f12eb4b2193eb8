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
    let ImageShape { height, width, .. } = ImageShape::of_batch(y);
    if height < 8 || width < 8 {
        return Ok(false);
    }
    let values = tensor::to_f32(y)?;
    let mut rows = Differences::of(height);
    let mut columns = Differences::of(width);
    for plane in values.chunks_exact(height * width) {
        let row = |i: usize| &plane[i * width..(i + 1) * width];
        for i in 0..height {
            rows.neighbours[i] += difference(row(i), row((i + 1) % height));
            rows.strangers[i] += difference(row(i), row((i + height / 2) % height));
            for (j, v) in row(i).iter().enumerate() {
                let squared = |other: usize| (f64::from(*v) - f64::from(row(i)[other])).powi(2);
                columns.neighbours[j] += squared((j + 1) % width);
                columns.strangers[j] += squared((j + width / 2) % width);
            }
        }
    }
    Ok(rows.continue_at_the_border() && columns.continue_at_the_border())
}

/// Squared differences of lines, summed over their pixels.
struct Differences {
    /// Of each line and the next; of the last one and the first.
    neighbours: Vec<f64>,
    /// Of each line and the one half an image on.
    strangers: Vec<f64>,
}

impl Differences {
    fn of(lines: usize) -> Self {
        Self { neighbours: vec![0.0; lines], strangers: vec![0.0; lines] }
    }

    fn continue_at_the_border(&self) -> bool {
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let Some((border, inner)) = self.neighbours.split_last() else { return false };
        let most = inner.iter().copied().fold(0.0, f64::max);
        *border <= AS_NEIGHBOURS * most && mean(&self.strangers) > AS_STRANGERS * mean(inner)
    }
}

fn difference(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum()
}
