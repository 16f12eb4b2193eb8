//! Noise that grows with the light: photons are counted, and a sensor adds its own noise.
//!
//! y = A x + e, where e has the variance gain * signal + sigma^2, all in grey levels of 0..255: of a signal s, which is
//! s / gain photons. The signal of a pixel is not known, but its neighbourhood's mean is nearly, and that is taken: the
//! value of the pixel itself would give more weight to what noise has darkened.

use super::estimate_noise;
use super::measurement::Uneven;
use crate::io::light::Light;
use crate::operator::ImageShape;
use crate::task::Unevenness;
use crate::tensor::{self, Tensor, from_f64};
use crate::units::NoiseLevel;
use crate::{Error, Result};

/// Pixels beside a pixel, on each side, that its signal is the mean of.
const RADIUS: usize = 1;
/// White, in grey levels.
const WHITE: f64 = 255.0;
/// Least noise of a value that becomes light, in grey levels: no file is more exact, nor the network.
const LEAST: f64 = 0.05;
/// Halvings of the interval in which the noise of the sensor is looked for.
const HALVINGS: usize = 10;

/// Refuses a gain that none can have.
pub(super) fn check(gain: Option<f64>) -> Result<()> {
    match gain {
        Some(gain) if !(gain.is_finite() && gain > 0.0 && gain <= WHITE) => Err(Error::config(format!(
            "gain {gain}: expected more than 0 and at most 255 grey levels per photon; leave it out where the noise does \
             not grow with the light"
        ))),
        _ => Ok(()),
    }
}

/// Variance of the noise of each value of `y`, `[1, c, h, w]` in [-1, 1], in squared grey levels. `sigma` and `rounding`
/// are standard deviations of what does not grow with the signal. Pixels that are not `observed` say nothing of theirs.
pub(super) fn variances(
    y: &Tensor<4>,
    observed: Option<&[bool]>,
    gain: f64,
    sigma: f64,
    rounding: NoiseLevel,
) -> Result<Vec<f64>> {
    let constant = sigma * sigma + rounding.to_255().powi(2);
    // No photon among n pixels speaks for one more in all of them rather than for none.
    let of = |(signal, count): (f64, f64)| gain * (signal.max(0.0) + gain / count) + constant;
    Ok(signals(y, observed)?.into_iter().map(of).collect())
}

/// The same of the light of `y`, whose own noise is alike everywhere: it is multiplied by the slope of the tone curve.
pub(super) fn variances_of_light(
    y: &Tensor<4>,
    observed: Option<&[bool]>,
    light: &Light,
    sigma: f64,
    rounding: NoiseLevel,
) -> Result<Vec<f64>> {
    let alike = encoded(sigma, rounding).powi(2);
    let signal = signals(y, observed)?.into_iter().map(|(level, _)| 2.0 * level / WHITE - 1.0).collect();
    let slopes = light.slope(&from_f64(signal, y.dims(), &tensor::cpu()))?;
    Ok(tensor::to_f64(&slopes)?.into_iter().map(|slope| alike * slope * slope).collect())
}

/// The noise of encoded values that become light, rounding and that of `sigma`, in grey levels.
pub(super) fn encoded(sigma: f64, rounding: NoiseLevel) -> f64 {
    sigma.hypot(rounding.to_255()).max(LEAST)
}

/// The mean grey level around each value of `y`, and the number of observed pixels that it is the mean of, 1 at least.
fn signals(y: &Tensor<4>, observed: Option<&[bool]>) -> Result<Vec<(f64, f64)>> {
    let shape = ImageShape::of_batch(y);
    let levels: Vec<f64> = tensor::to_f64(y)?.into_iter().map(level).collect();
    let counted: Vec<f64> = match observed {
        Some(observed) => observed.iter().map(|observed| f64::from(u8::from(*observed))).collect(),
        None => vec![1.0; shape.pixels()],
    };
    let counts = box_sums(&counted, shape);
    let mut signals = Vec::with_capacity(levels.len());
    for plane in levels.chunks_exact(shape.pixels()) {
        let seen: Vec<f64> = plane.iter().zip(&counted).map(|(level, counted)| level * counted).collect();
        let mean = seen.iter().sum::<f64>() / counted.iter().sum::<f64>().max(1.0);
        let of = |(sum, count): (f64, &f64)| if *count > 0.5 { (sum / count, *count) } else { (mean, 1.0) };
        signals.extend(box_sums(&seen, shape).into_iter().zip(&counts).map(of));
    }
    Ok(signals)
}

/// Sums over the square around each pixel.
fn box_sums(plane: &[f64], shape: ImageShape) -> Vec<f64> {
    let ImageShape { height, width, .. } = shape;
    let around = |i: usize, side: usize| i.saturating_sub(RADIUS)..(i + RADIUS + 1).min(side);
    let rows: Vec<f64> = (0..height * width)
        .map(|i| around(i % width, width).map(|column| plane[i / width * width + column]).sum())
        .collect();
    (0..height * width).map(|i| around(i / width, height).map(|row| rows[row * width + i % width]).sum()).collect()
}

/// Weights that make the noise alike, of standard deviation `level`: their squares are inverse to the variances, and without
/// a level given 1 on average over the observed pixels.
pub(super) fn weights(variances: &[f64], observed: Option<&[bool]>, level: Option<f64>) -> Uneven {
    let seen = |i: usize| observed.is_none_or(|observed| observed[i % observed.len()]);
    let (mut count, mut inverse, mut sum, mut most) = (0.0, 0.0, 0.0, 0.0_f64);
    for (_, variance) in variances.iter().enumerate().filter(|(i, _)| seen(*i)) {
        count += 1.0;
        inverse += 1.0 / variance;
        sum += variance;
        most = most.max(*variance);
    }
    let level = level.unwrap_or((count / inverse).sqrt());
    let [most, mean] = [most, sum / count].map(|variance| NoiseLevel::from_255(variance.sqrt()));
    let weights = variances.iter().map(|variance| level / variance.sqrt()).collect();
    Uneven { weights, level, noise: Unevenness { most, mean } }
}

/// From [-1, 1] to a grey level.
fn level(v: f64) -> f64 {
    (v + 1.0) * WHITE / 2.0
}

/// Standard deviation of `y`'s noise as a multiple of what `gain` and `sigma` say, told from y: 1 where they are right.
/// `None` where too little is known.
///
/// y is transformed so that its noise is alike everywhere (Anscombe's transform, generalised by Murtagh et al. 1995).
pub(super) fn excess(y: &Tensor<4>, known: Option<&[bool]>, gain: f64, sigma: f64) -> Result<Option<f64>> {
    let ImageShape { channels, height, width } = ImageShape::of_batch(y);
    let stable = |level: f64| 2.0 / gain * (gain * level + 0.375 * gain * gain + sigma * sigma).max(0.0).sqrt();
    let (black, white) = (stable(0.0), stable(WHITE));
    // A gain too small to stabilise anything with says nothing.
    if !(white - black).is_normal() {
        return Ok(None);
    }
    let values = tensor::to_f64(y)?.into_iter().map(|v| 2.0 * (stable(level(v)) - black) / (white - black) - 1.0);
    let stabilised = from_f64(values.collect(), [1, channels, height, width], &tensor::cpu());
    Ok(estimate_noise(&stabilised, known)?.map(|found| found.0 * (white - black) / 2.0))
}

/// The noise that the sensor adds to that of the photons, in grey levels, told from `y`. `None` where too little is known.
pub(super) fn read_noise(y: &Tensor<4>, known: Option<&[bool]>, gain: f64) -> Result<Option<f64>> {
    let Some(all) = estimate_noise(y, known)?.map(NoiseLevel::to_255) else { return Ok(None) };
    let (mut low, mut high) = (0.0, 2.0 * all);
    for _ in 0..HALVINGS {
        let middle = 0.5 * (low + high);
        match excess(y, known, gain, middle)? {
            None => return Ok(None),
            Some(excess) if excess > 1.0 => low = middle,
            Some(_) => high = middle,
        }
    }
    // What is found below the first step is none.
    Ok(Some(if low == 0.0 { 0.0 } else { 0.5 * (low + high) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::observe;
    use crate::operator::Identity;
    use crate::tensor::cpu;

    const SIDE: usize = 160;

    /// Four areas of one grey level each, seen with that gain and noise.
    fn observed(gain: f64, sigma: f64) -> Tensor<4> {
        let level = |i: usize| [12.0, 60.0, 120.0, 200.0][i % SIDE * 4 / SIDE] / 127.5 - 1.0;
        let x = from_f64((0..SIDE * SIDE).map(level).collect(), [1, 1, SIDE, SIDE], &cpu());
        let a = Identity::new(ImageShape::of_batch(&x)).unwrap();
        observe(&a, &x, NoiseLevel::from_255(sigma), Some(gain), 4).unwrap()
    }

    #[test]
    fn variances_are_those_of_the_signal() {
        let y = observed(2.0, 3.0);
        let found = variances(&y, None, 2.0, 3.0, NoiseLevel(0.0)).unwrap();
        for (column, signal) in [(20, 12.0), (60, 60.0), (100, 120.0), (140, 200.0)] {
            let mean = (0..SIDE).map(|row| found[row * SIDE + column]).sum::<f64>() / SIDE as f64;
            assert!((mean / (2.0 * signal + 9.0) - 1.0).abs() < 0.06, "{signal}: {mean}");
        }
        let uneven = weights(&found, None, None);
        let square = uneven.weights.iter().map(|w| w * w).sum::<f64>() / uneven.weights.len() as f64;
        assert!((square - 1.0).abs() < 1e-9, "{square}");
        for (variance, weight) in found.iter().zip(uneven.weights.iter()) {
            assert!((variance.sqrt() * weight / uneven.level - 1.0).abs() < 1e-9);
        }
        let noise = uneven.noise;
        assert!(noise.most.to_255() > 20.0 && uneven.level < noise.mean.to_255());
    }

    /// Black is dark, not free of noise; what is not observed says nothing of its neighbours.
    #[test]
    fn black_and_holes_have_a_variance_above_0() {
        let y = from_f64([vec![-1.0; 30], vec![1.0; 6]].concat(), [1, 1, 6, 6], &cpu());
        let found = variances(&y, None, 0.5, 0.0, NoiseLevel(0.0)).unwrap();
        assert!((found[0] - 0.25 / 4.0).abs() < 1e-9, "{}", found[0]);
        let seen: Vec<bool> = (0..36).map(|i| i < 30).collect();
        let found = variances(&y, Some(&seen), 0.5, 0.0, NoiseLevel(0.0)).unwrap();
        assert!(found[..30].iter().all(|v| *v < 0.2) && found.iter().all(|v| *v > 0.0), "{found:?}");
    }

    /// The noise of light is that of the encoded value times the slope of the tone curve there.
    #[test]
    fn light_has_the_noise_of_its_tones() {
        let light = Light::default();
        let of =
            |v: f64| tensor::to_f64(&light.to_light(&from_f64(vec![v], [1, 1, 1, 1], &cpu())).unwrap()).unwrap()[0];
        for level in [5.0, 40.0, 128.0, 250.0] {
            let v = level / 127.5 - 1.0;
            let y = from_f64(vec![v; 36], [1, 1, 6, 6], &cpu());
            let slope = (of(v + 1e-3) - of(v - 1e-3)) / 2e-3;
            let found = variances_of_light(&y, None, &light, 2.0, NoiseLevel(0.0)).unwrap();
            assert!(found.iter().all(|v| (v.sqrt() / (2.0 * slope) - 1.0).abs() < 0.02), "{level}: {found:?}");
        }
    }

    #[test]
    fn the_noise_of_the_sensor_is_found_beside_that_of_the_photons() {
        for (gain, sigma) in [(1.0, 8.0), (0.2, 2.0), (3.0, 0.0)] {
            let y = observed(gain, sigma);
            let found = read_noise(&y, None, gain).unwrap().unwrap();
            assert!((found - sigma).abs() < 0.15 * sigma + 0.7 * gain.sqrt(), "{gain} {sigma}: {found}");
            let excess = |gain: f64, sigma: f64| excess(&y, None, gain, sigma).unwrap().unwrap();
            assert!((excess(gain, sigma) - 1.0).abs() < 0.15);
            assert!(excess(gain / 16.0, sigma / 4.0) > 3.0 && excess(16.0 * gain, 4.0 * sigma) < 0.35);
        }
    }
}
