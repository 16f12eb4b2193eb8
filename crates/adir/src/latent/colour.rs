//! The colours of a result from those of what it was made of.

use crate::tensor::{self, Tensor};
use crate::{Error, Result};

/// Levels of the wavelet decomposition: what is coarser than 2^5 pixels comes from the reference.
const LEVELS: u32 = 5;

/// The fine detail of `image` on the coarse colours of `reference`, `[1, c, h, w]` both: `image` less its low frequencies
/// plus those of `reference`. Low frequencies are what an undecimated wavelet transform with the filter (1, 2, 1)/4 leaves
/// after five levels; borders are repeated.
///
/// # Errors
/// [`Error::Config`] for different shapes; [`Error::Backend`] when the device fails.
pub fn match_colours(image: &Tensor<4>, reference: &Tensor<4>) -> Result<Tensor<4>> {
    if image.dims() != reference.dims() {
        let (a, b) = (image.dims(), reference.dims());
        return Err(Error::config(format!("colours of an image of shape {b:?} for one of {a:?}")));
    }
    let difference = reference.clone() - image.clone();
    Ok(image.clone() + low_frequencies(&difference)?)
}

fn low_frequencies(image: &Tensor<4>) -> Result<Tensor<4>> {
    let [n, c, h, w] = image.dims();
    let mut values = tensor::to_f64(image)?;
    for level in 0..LEVELS {
        let reach = 1 << level;
        for plane in values.chunks_exact_mut((h * w).max(1)) {
            smooth(plane, h, w, reach);
        }
    }
    Ok(tensor::from_f64(values, [n, c, h, w], &image.device()).cast(image.dtype()))
}

/// (1, 2, 1)/4 with so many pixels between its taps, along rows and columns.
fn smooth(plane: &mut [f64], h: usize, w: usize, reach: usize) {
    let filtered = |line: &[f64]| -> Vec<f64> {
        let at =
            |i: usize| 0.25 * (line[i.saturating_sub(reach)] + line[(i + reach).min(line.len() - 1)]) + 0.5 * line[i];
        (0..line.len()).map(at).collect()
    };
    for row in plane.chunks_exact_mut(w) {
        row.copy_from_slice(&filtered(row));
    }
    for x in 0..w {
        let column: Vec<f64> = (0..h).map(|y| plane[y * w + x]).collect();
        filtered(&column).into_iter().enumerate().for_each(|(y, v)| plane[y * w + x] = v);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{cpu, from_f64, to_f64};

    /// A shift of colours comes over whole, a chequerboard stays.
    #[test]
    fn coarse_colours_come_over_and_detail_stays() {
        let (h, w) = (48, 40);
        let plane = |f: &dyn Fn(usize, usize) -> f64| {
            from_f64((0..h * w).map(|i| f(i / w, i % w)).collect(), [1, 1, h, w], &cpu())
        };
        let board = |y: usize, x: usize| if (x + y).is_multiple_of(2) { 0.3 } else { -0.3 };
        let image = plane(&|y, x| board(y, x) + 0.1);
        let reference = plane(&|_, _| 0.25);
        let expected = plane(&|y, x| board(y, x) + 0.25);
        let found = to_f64(&match_colours(&image, &reference).unwrap()).unwrap();
        let expected = to_f64(&expected).unwrap();
        // Repeated borders break the board there.
        let inner = |values: &[f64]| -> Vec<f64> {
            (1..h - 1).flat_map(|y| values[y * w + 1..(y + 1) * w - 1].to_vec()).collect()
        };
        let worst = inner(&found).iter().zip(inner(&expected)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(worst < 0.02, "{worst}");
        assert!(match_colours(&image, &reference.narrow(3, 0, 8)).is_err());
    }
}
