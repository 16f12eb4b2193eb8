//! Preprocessing of images for encoders.
//!
//! The surprising decision: the picture is first rounded to 8 bits, since the encoders were trained behind
//! Pillow, which works on bytes ([`pillow`](super::pillow)).

use super::pillow::{Pixels, bicubic};
use crate::io::hash::sha256;
use crate::tensor::{Tensor, from_f32, to_f32};
use crate::{Error, Result};

/// Largest ratio of the sides of a picture: shrinking the short side to the encoder's size must leave
/// something that fits in memory.
pub(crate) const MAX_ASPECT: usize = 64;

/// Shorter side to `size` by Pillow's bicubic, centre crop to a square, then `(v - mean) / std` per channel.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preprocess {
    /// Side of the square that the network takes.
    pub size: usize,
    /// Subtracted from the channels, which run from 0 to 1.
    pub mean: [f32; 3],
    /// Divides what is left.
    pub std: [f32; 3],
}

impl Preprocess {
    /// Whether an image with these sides can be embedded: it is not empty, and not too elongated.
    pub(crate) fn accepts(width: usize, height: usize) -> bool {
        let short = width.min(height);
        short > 0 && width.max(height) / short <= MAX_ASPECT
    }

    /// A name of everything that decides the result: 16 hexadecimal digits.
    pub fn hash(&self) -> String {
        let text = format!("pillow bicubic u8, crop half to even, {self:?}");
        sha256(text.as_bytes()).to_string().chars().take(16).collect()
    }

    /// The network's input `[1, 3, size, size]` for a picture `[1, c, h, w]` in [-1, 1], c = 1 or 3, on the
    /// picture's device. Values outside the range are clipped.
    ///
    /// # Errors
    /// [`Error::Config`] for another shape, or sides more than 64 times apart; [`Error::Numerical`] if a
    /// value is not finite.
    pub fn apply(&self, picture: &Tensor<4>) -> Result<Tensor<4>> {
        let pixels = self.resized(&pixels_from_picture(picture)?)?;
        let plane = pixels.len() / 3;
        let mut values = Vec::with_capacity(pixels.len());
        for channel in 0..3 {
            let (mean, std) = (self.mean[channel], self.std[channel]);
            let channel_values = pixels.iter().skip(channel).step_by(3).take(plane);
            values.extend(channel_values.map(|&v| (f32::from(v) / 255.0 - mean) / std));
        }
        Ok(from_f32(values, [1, 3, self.size, self.size], &picture.device()))
    }

    /// The square's bytes, `[size, size, 3]`.
    fn resized(&self, pixels: &Pixels) -> Result<Vec<u8>> {
        let short = pixels.width.min(pixels.height);
        if !Self::accepts(pixels.width, pixels.height) {
            let (w, h) = (pixels.width, pixels.height);
            return Err(Error::Config(format!(
                "an image of {w}x{h} is too elongated to embed; at most {MAX_ASPECT}:1 is allowed"
            )));
        }
        // torchvision's rules: the long side is rounded down, the crop's corner to the nearest, half to even.
        let scaled = |side: usize| side * self.size / short;
        let small = bicubic(pixels, scaled(pixels.width), scaled(pixels.height));
        let corner = |side: usize| ((side - self.size) as f64 / 2.0).round_ties_even() as usize;
        let (left, top) = (corner(small.width), corner(small.height));
        let rows = small.rgb.chunks_exact(small.width * 3).skip(top).take(self.size);
        Ok(rows.flat_map(|row| &row[left * 3..(left + self.size) * 3]).copied().collect())
    }
}

/// Rounds a picture to bytes; grey becomes RGB.
fn pixels_from_picture(picture: &Tensor<4>) -> Result<Pixels> {
    let [n, channels, height, width] = picture.dims();
    if n != 1 || !matches!(channels, 1 | 3) || height == 0 || width == 0 {
        let shape = [n, channels, height, width];
        return Err(Error::Config(format!("an image to embed must have shape [1, 1 or 3, h, w], found {shape:?}")));
    }
    let values = to_f32(picture)?;
    if let Some(bad) = values.iter().find(|v| !v.is_finite()) {
        return Err(Error::Numerical(format!("an image to embed has the value {bad}")));
    }
    let plane = height * width;
    let byte = |v: f32| ((v + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8;
    let mut rgb = vec![0; plane * 3];
    for (i, pixel) in rgb.chunks_exact_mut(3).enumerate() {
        for (c, out) in pixel.iter_mut().enumerate() {
            *out = byte(values[if channels == 1 { i } else { c * plane + i }]);
        }
    }
    Ok(Pixels { width, height, rgb })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::cpu;

    /// Width, height, first pixel, the one at (3, 7), sum of each channel.
    type Case = (usize, usize, [u8; 3], [u8; 3], [u32; 3]);

    const BYTES: Preprocess = Preprocess { size: 8, mean: [0.0; 3], std: [1.0; 3] };

    fn picture(width: usize, height: usize, channels: usize) -> Tensor<4> {
        let values = (0..channels).flat_map(|c| (0..width * height).map(move |i| (i * (c + 3) * 7 % 256) as f32));
        from_f32(values.map(|v| v / 127.5 - 1.0).collect(), [1, channels, height, width], &cpu())
    }

    // import numpy as np; from PIL import Image
    // for w, h in [(31, 20), (20, 33), (8, 9), (100, 93)]:
    //     i = np.arange(w * h)
    //     p = np.stack([i * (c + 3) * 7 % 256 for c in range(3)], -1).reshape(h, w, 3).astype(np.uint8)
    //     s = min(w, h)
    //     r = Image.fromarray(p).resize((int(8 * w / s), int(8 * h / s)), Image.BICUBIC)
    //     l, t = round((r.size[0] - 8) / 2), round((r.size[1] - 8) / 2)
    //     a = np.asarray(r.crop((l, t, l + 8, t + 8))).astype(int)
    //     print(w, h, a[0, 0], a[7, 3], a.sum((0, 1)))
    #[test]
    fn resizes_and_crops_as_torchvision_on_pillow() {
        let cases: [Case; 4] = [
            (31, 20, [113, 129, 124], [138, 139, 106], [8165, 8086, 8104]),
            (20, 33, [130, 90, 132], [118, 87, 155], [8184, 8054, 8180]),
            (8, 9, [0, 0, 0], [215, 116, 17], [7776, 8064, 7840]),
            (100, 93, [127, 127, 126], [128, 126, 127], [8162, 8062, 8163]),
        ];
        for (w, h, first, inside, sums) in cases {
            let found: Vec<u32> = to_f32(&BYTES.apply(&picture(w, h, 3)).unwrap())
                .unwrap()
                .iter()
                .map(|v| (v * 255.0).round() as u32)
                .collect();
            for c in 0..3 {
                let plane = &found[c * 64..][..64];
                assert_eq!(plane[0], u32::from(first[c]), "{w}x{h}");
                assert_eq!(plane[7 * 8 + 3], u32::from(inside[c]), "{w}x{h}");
                assert_eq!(plane.iter().sum::<u32>(), sums[c], "{w}x{h}");
            }
        }
    }

    #[test]
    fn grey_is_three_equal_channels_and_mean_and_std_apply_per_channel() {
        let preprocess = Preprocess { size: 8, mean: [0.1, 0.2, 0.3], std: [0.5, 0.25, 2.0] };
        let grey = to_f32(&preprocess.apply(&picture(12, 10, 1)).unwrap()).unwrap();
        let plain = to_f32(&BYTES.apply(&picture(12, 10, 1)).unwrap()).unwrap();
        for i in 0..64 {
            for c in 0..3 {
                let expected = (plain[i] - preprocess.mean[c]) / preprocess.std[c];
                assert!((grey[c * 64 + i] - expected).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn refuses_what_it_cannot_embed() {
        let device = cpu();
        assert!(matches!(BYTES.apply(&picture(5, 5, 2)), Err(Error::Config(_))));
        assert!(matches!(BYTES.apply(&picture(1000, 1, 3)), Err(Error::Config(_))));
        assert!(matches!(BYTES.apply(&from_f32(vec![], [1, 3, 0, 4], &device)), Err(Error::Config(_))));
        let nan = from_f32(vec![f32::NAN; 12], [1, 3, 2, 2], &device);
        assert!(matches!(BYTES.apply(&nan), Err(Error::Numerical(_))));
    }

    #[test]
    fn the_hash_tells_settings_apart() {
        let other = Preprocess { mean: [0.0, 0.0, 1e-7], ..BYTES };
        assert_eq!(BYTES.hash().len(), 16);
        assert_ne!(BYTES.hash(), other.hash());
        assert_ne!(BYTES.hash(), Preprocess { size: 9, ..BYTES }.hash());
    }
}
