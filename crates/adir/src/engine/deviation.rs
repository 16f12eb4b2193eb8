//! Where samples differ: standard deviations, as numbers, as a map, and in colour over the mean.

use serde::{Deserialize, Serialize};

use crate::io::image::{BitDepth, ImageFormat, Picture};
use crate::tensor::{self, Tensor};
use crate::{Error, Result};

/// Values of the map for a grey level of 0..255.
const PER_LEVEL: f64 = 256.0;
/// Grey levels of 0..255 from which on the overlay has its last colour.
const HEAT_AT: f64 = 32.0;
/// BT.601: what red, green and blue weigh in grey.
const LUMA: [f64; 3] = [0.299, 0.587, 0.114];
/// Colours of the overlay from no deviation to [`HEAT_AT`], evenly spaced: lightness grows all the way.
const COLOURS: [[f64; 3]; 5] =
    [[40.0, 11.0, 84.0], [120.0, 28.0, 109.0], [203.0, 65.0, 73.0], [245.0, 150.0, 40.0], [252.0, 255.0, 164.0]];

/// How far the samples of a run differ, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviationRecord {
    /// Grey levels of 0..255 for a step of the map's 65535: the map's value times this is a standard deviation.
    pub level_per_step: f64,
    /// Root mean square of the standard deviations, in grey levels of 0..255.
    pub rms_255: f64,
    /// The largest, in grey levels of 0..255.
    pub most_255: f64,
}

/// Where the samples of a run differ.
#[derive(Debug, Clone)]
pub struct Deviation {
    /// The standard deviation of each value, of the shape of a sample: 16 bits, whose value is 256 times the standard
    /// deviation in grey levels of 0..255.
    pub map: Picture,
    /// The mean of the samples in grey, and over it the root mean square of the channels' deviations in colour: none is
    /// transparent; colour and opacity grow with its square root up to 32 grey levels of 0..255.
    pub heat: Picture,
    /// The same in numbers.
    pub record: DeviationRecord,
}

impl Deviation {
    /// Of two or more samples of one shape, `[1, c, h, w]` in [-1, 1] with c = 1 or 3, and their mean. What a file of
    /// `depth` cuts off does not count.
    ///
    /// # Errors
    /// [`Error::Config`] for fewer than two samples.
    pub(super) fn of(samples: &[Tensor<4>], mean: &Tensor<4>, depth: BitDepth) -> Result<Self> {
        let deviations = standard_deviations(samples, depth != BitDepth::Float)?;
        let [_, channels, height, width] = mean.dims();
        let picture = |values: Vec<f32>, channels, bit_depth| {
            let tensor = tensor::from_f32(values, [1, channels, height, width], &tensor::cpu());
            Picture { bit_depth, format: ImageFormat::Png, ..Picture::from_tensor(tensor) }
        };
        let most = deviations.iter().fold(0.0, |most: f64, v| most.max(*v));
        let mean_square = deviations.iter().map(|v| v * v).sum::<f64>() / deviations.len().max(1) as f64;
        let record = DeviationRecord { level_per_step: 1.0 / PER_LEVEL, rms_255: mean_square.sqrt(), most_255: most };
        let map = deviations.iter().map(|v| (2.0 * v * PER_LEVEL / 65535.0 - 1.0) as f32).collect();
        let heat = overlay(&deviations, &tensor::to_f64(mean)?, height * width);
        Ok(Self { map: picture(map, channels, BitDepth::Sixteen), heat: picture(heat, 3, BitDepth::Eight), record })
    }
}

/// The standard deviation of each value over the samples (their number less one counts), in grey levels of 0..255.
fn standard_deviations(samples: &[Tensor<4>], is_cut: bool) -> Result<Vec<f64>> {
    if samples.len() < 2 {
        return Err(Error::config("a standard deviation needs two samples or more"));
    }
    let size = samples[0].shape().num_elements();
    let (mut means, mut squares) = (vec![0.0; size], vec![0.0; size]);
    // Welford's sums: one sample at a time, and no difference of large numbers.
    for (k, sample) in samples.iter().enumerate() {
        let values = tensor::to_f64(sample)?;
        for ((mean, square), value) in means.iter_mut().zip(&mut squares).zip(values) {
            let value = if is_cut { value.clamp(-1.0, 1.0) } else { value };
            let change = value - *mean;
            *mean += change / (k + 1) as f64;
            *square += change * (value - *mean);
        }
    }
    let degrees = (samples.len() - 1) as f64;
    Ok(squares.into_iter().map(|square| (square / degrees).sqrt() * 127.5).collect())
}

/// The overlay as three planes in [-1, 1], from planes of deviations in grey levels and of the mean.
fn overlay(deviations: &[f64], mean: &[f64], pixels: usize) -> Vec<f32> {
    let planes = |values: &[f64], i: usize| -> Vec<f64> { values.iter().skip(i).step_by(pixels).copied().collect() };
    let mut heat = vec![0.0; 3 * pixels];
    for i in 0..pixels {
        let (deviation, colour) = (planes(deviations, i), planes(mean, i));
        let rms = (deviation.iter().map(|v| v * v).sum::<f64>() / deviation.len().max(1) as f64).sqrt();
        let grey = match colour[..] {
            [r, g, b] => LUMA.iter().zip([r, g, b]).map(|(weight, v)| weight * v).sum(),
            _ => colour[0],
        };
        let share = (rms / HEAT_AT).clamp(0.0, 1.0).sqrt();
        for (channel, hue) in colour_at(share).into_iter().enumerate() {
            heat[channel * pixels + i] = (grey.clamp(-1.0, 1.0) * (1.0 - share) + (hue / 127.5 - 1.0) * share) as f32;
        }
    }
    heat
}

/// The colour at a share of the scale, in 0..255.
fn colour_at(share: f64) -> [f64; 3] {
    let at = share.clamp(0.0, 1.0) * (COLOURS.len() - 1) as f64;
    let below = (at as usize).min(COLOURS.len() - 2);
    let part = at - below as f64;
    std::array::from_fn(|c| COLOURS[below][c] * (1.0 - part) + COLOURS[below + 1][c] * part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(values: &[f32], channels: usize) -> Tensor<4> {
        let width = values.len() / channels;
        tensor::from_f32(values.to_vec(), [1, channels, 1, width], &tensor::cpu())
    }

    /// Samples of 100, 110 and 120 grey levels have a standard deviation of 10; those beyond white are white.
    #[test]
    fn the_map_holds_256_steps_for_a_grey_level() {
        let unit = |level: f32| level / 127.5 - 1.0;
        let samples: Vec<_> =
            [[100.0, 7.0, 260.0], [110.0, 7.0, 280.0], [120.0, 7.0, 300.0]].map(|v| image(&v.map(unit), 1)).into();
        let mean = image(&[110.0, 7.0, 280.0].map(unit), 1);
        let found = Deviation::of(&samples, &mean, BitDepth::Eight).unwrap();
        let folder = std::env::temp_dir().join(format!("adir-deviation-{}", std::process::id()));
        let path = folder.join("x.std.png");
        found.map.write(&path).unwrap();
        let saved = Picture::read(&path).unwrap();
        assert_eq!(saved.bit_depth, BitDepth::Sixteen);
        let steps: Vec<f32> =
            tensor::to_f32(&saved.tensor).unwrap().iter().map(|v| ((v + 1.0) / 2.0 * 65535.0).round()).collect();
        assert_eq!(steps, [2560.0, 0.0, 0.0]);
        assert!((found.record.most_255 - 10.0).abs() < 1e-4, "{:?}", found.record);
        assert!((found.record.rms_255 - 10.0 / 3.0_f64.sqrt()).abs() < 1e-4);
        // As floats nothing is cut off.
        let floats = Deviation::of(&samples, &mean, BitDepth::Float).unwrap();
        assert!((floats.record.most_255 - 20.0).abs() < 1e-4);
        assert!(Deviation::of(&samples[..1], &mean, BitDepth::Eight).is_err());
        std::fs::remove_dir_all(folder).unwrap();
    }

    /// Without deviation the overlay is the mean in grey; with much of it, the last colour.
    #[test]
    fn the_overlay_is_grey_where_samples_agree() {
        let samples = [image(&[0.2, -0.9, 0.2, -0.9, 0.2, -0.9], 3), image(&[0.2, 0.9, 0.2, 0.9, 0.2, 0.9], 3)];
        let mean = image(&[0.2, 0.0, 0.2, 0.0, 0.2, 0.0], 3);
        let heat = tensor::to_f32(&Deviation::of(&samples, &mean, BitDepth::Eight).unwrap().heat.tensor).unwrap();
        let pixel = |i: usize| [heat[i], heat[2 + i], heat[4 + i]];
        assert!(pixel(0).iter().all(|v| (v - 0.2).abs() < 1e-6), "{heat:?}");
        let last = COLOURS[4].map(|v| (v / 127.5 - 1.0) as f32);
        assert!(pixel(1).iter().zip(last).all(|(v, hue)| (v - hue).abs() < 1e-6), "{heat:?}");
    }
}
