//! Pillow's antialiased bicubic resampling of 8-bit pictures, to the last bit.
//!
//! Encoders were trained on pictures that Pillow made smaller, and what Pillow computes is integer
//! arithmetic: weights rounded to multiples of 2^-22, and pixels rounded to 8 bits between the horizontal
//! and the vertical pass. Doing it more precisely would be doing it differently.

use crate::resample::cubic;

/// Fractional bits of a weight: 32 bits hold 8 bits of pixel, 2 of overshoot and these.
const WEIGHT_BITS: u32 = 22;

/// An 8-bit picture, three channels interleaved, rows from the top.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pixels {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `[height, width, 3]`.
    pub rgb: Vec<u8>,
}

/// Resizes to `width` x `height` with the cubic of a = -1/2, widened by the scale when shrinking.
pub(super) fn bicubic(source: &Pixels, width: usize, height: usize) -> Pixels {
    let across = weights(source.width, width);
    let mut wide = Vec::with_capacity(width * source.height * 3);
    for row in source.rgb.chunks_exact(source.width * 3) {
        for taps in &across {
            let pixels = row[taps.start * 3..].chunks_exact(3);
            wide.extend(weighted(&taps.weights, pixels));
        }
    }
    let mut rgb = Vec::with_capacity(width * height * 3);
    for taps in weights(source.height, height) {
        for x in 0..width {
            let pixels = wide[(taps.start * width + x) * 3..].chunks(width * 3).map(|rest| &rest[..3]);
            rgb.extend(weighted(&taps.weights, pixels));
        }
    }
    Pixels { width, height, rgb }
}

/// The weighted sum of `pixels`, rounded to 8 bits.
fn weighted<'a>(weights: &[i32], pixels: impl Iterator<Item = &'a [u8]>) -> [u8; 3] {
    let mut sums = [1i32 << (WEIGHT_BITS - 1); 3];
    for (&weight, pixel) in weights.iter().zip(pixels) {
        for (sum, &value) in sums.iter_mut().zip(pixel) {
            *sum += weight * i32::from(value);
        }
    }
    sums.map(|sum| (sum >> WEIGHT_BITS).clamp(0, 255) as u8)
}

/// The source pixels of one output pixel, and how much each counts, in units of 2^-22.
struct Taps {
    start: usize,
    weights: Vec<i32>,
}

/// The taps of every output pixel along one axis.
fn weights(from: usize, to: usize) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    let widening = scale.max(1.0);
    let support = 2.0 * widening;
    (0..to)
        .map(|i| {
            let centre = (i as f64 + 0.5) * scale;
            let start = (centre - support + 0.5).max(0.0) as usize;
            let end = ((centre + support + 0.5) as usize).min(from);
            let cubics: Vec<f64> = (start..end).map(|j| cubic((j as f64 - centre + 0.5) / widening)).collect();
            let total: f64 = cubics.iter().sum();
            let one = f64::from(1u32 << WEIGHT_BITS);
            Taps { start, weights: cubics.iter().map(|w| (w / total * one).round() as i32).collect() }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pattern with edges and gradients; the same formula in the script below.
    fn pattern(width: usize, height: usize) -> Pixels {
        let mut rgb = Vec::new();
        for y in 0..height {
            for x in 0..width {
                let checks = if (x / 5 + y / 3) % 2 == 0 { 200 } else { 0 };
                rgb.push(((x * 7 + y * 13) % 256) as u8);
                rgb.push((checks + x % 50) as u8);
                rgb.push(((x * x + 3 * y * y) / 11 % 256) as u8);
            }
        }
        Pixels { width, height, rgb }
    }

    /// FNV-1a, 64 bits.
    fn fnv(bytes: &[u8]) -> u64 {
        bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
    }

    // from PIL import Image; import numpy as np
    // def pattern(w, h):
    //     y, x = np.mgrid[:h, :w]
    //     checks = np.where((x // 5 + y // 3) % 2 == 0, 200, 0)
    //     p = np.stack([(x*7 + y*13) % 256, checks + x % 50, (x*x + 3*y*y) // 11 % 256], -1)
    //     return Image.fromarray(p.astype(np.uint8))
    // for w, h, W, H in CASES:
    //     b = pattern(w, h).resize((W, H), Image.BICUBIC).tobytes()
    //     f = 0xcbf29ce484222325
    //     for v in b: f = (f ^ v) * 0x100000001b3 % 2**64
    //     print(f"({w}, {h}, {W}, {H}, {hex(f)}),")   # Pillow 13.0.0
    #[test]
    fn equals_pillow_bit_for_bit() {
        let cases: [(usize, usize, usize, usize, u64); 8] = [
            (64, 48, 16, 12, 0xc614b57ca27a216a),
            (61, 47, 29, 20, 0x57e1ea093160e9c),
            (33, 20, 100, 71, 0x4d400cb3826b6f59),
            (300, 200, 224, 149, 0x1491d64e64bed36c),
            (97, 1, 40, 1, 0xa44bafce4c8db294),
            (1, 9, 3, 4, 0x685b6088da63589c),
            (50, 50, 50, 20, 0xb1855a737db9503),
            (7, 5, 1, 1, 0xeded1117e6510b2f),
        ];
        for (w, h, to_w, to_h, expected) in cases {
            let found = bicubic(&pattern(w, h), to_w, to_h);
            assert_eq!(fnv(&found.rgb), expected, "{w}x{h} to {to_w}x{to_h}");
        }
    }
}
