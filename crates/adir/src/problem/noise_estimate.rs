//! How much noise an image has, told from the image alone.
//!
//! The patches of an image without noise do not fill their space: the covariance of a set of alike patches has
//! eigenvalues near 0, and white noise raises all of them by its variance. The least eigenvalue of the patches of weak
//! texture is therefore the variance of the noise (Liu, Tanaka and Okutomi 2013); patches are chosen by the variance that
//! was found, and it is found again. Two corrections are ours: the least eigenvalue of a sample lies below that of the
//! distribution, by a known factor (Marchenko and Pastur 1967), and noise that was cut off at black or white has less
//! variance left, by an amount that follows from the mean of the patch.
//!
//! Where all of a picture is textured, the least eigenvalue is that of the texture. Texture is nearly grey, and noise is not: the
//! same is found for the differences of colours, and counts where it is little below the other. Where it is far below, the noise
//! itself is grey, as the grain of a film is.
//!
//! The noise is taken for white and alike in all places. What is measured where: docs/results/noise.md.

use adir_kernels::products_of_columns;
use rayon::prelude::*;

use crate::Result;
use crate::operator::ImageShape;
use crate::tensor::{self, Tensor};
use crate::units::NoiseLevel;

/// Sides of the patches: the larger one where there are enough patches.
const SIDES: [usize; 2] = [7, 5];
/// Patches for each value of one, at least, that the larger side asks for.
const ENOUGH: usize = 40;
/// The same for any estimate at all.
const LEAST: usize = 4;
/// Patches that are looked at, at most.
const MOST_PATCHES: usize = 1 << 17;
/// Rounds of choosing patches.
const ROUNDS: usize = 6;
/// Change at which the rounds end.
const SETTLED: f64 = 1e-3;
/// Share of the pixels of a patch that may be black or white. Beyond it there is nothing left to see of the noise.
const MOST_CLIPPED: f64 = 0.7;
/// Normal quantile of the share of flat patches, all but a millionth, that count as flat.
const ALL_FLAT: f64 = 4.7534;
/// Bins of the means of patches.
const BINS: usize = 128;
/// Share of the noise of all channels that the noise of their differences is where both are the same.
const GREY: f64 = 0.8;
/// Noise, in grey levels, beside which texture is weak.
const STRONG: f64 = 15.0;
/// Standard deviations of the noise that a value lies off black and white where these cut nothing off.
const APART: f64 = 3.0;
/// White, in grey levels.
const WHITE: f64 = 255.0;

/// Standard deviation of the white noise in `y`, `[1, c, h, w]` in [-1, 1], its rounding included. Pixels that are not
/// `known` (row-major, the same for every channel) do not count. `None` where too few patches are left to tell.
///
/// # Errors
/// [`crate::Error::Backend`] when the tensor cannot be read.
pub fn estimate_noise(y: &Tensor<4>, known: Option<&[bool]>) -> Result<Option<NoiseLevel>> {
    let shape = ImageShape::of_batch(y);
    let levels: Vec<f64> = tensor::to_f64(y)?.into_iter().map(|v| (v + 1.0) * WHITE / 2.0).collect();
    let clip = Clip::of(&levels);
    let Some(found) = of_planes(&levels, shape, known, &clip) else { return Ok(None) };
    let of_colours =
        if shape.channels == 3 && found < STRONG { of_differences(&levels, shape, known, &clip, found) } else { None };
    let textured = of_colours.filter(|sigma| (GREY..1.0).contains(&(sigma / found)));
    Ok(Some(NoiseLevel::from_255(textured.unwrap_or(found))))
}

/// The standard deviation of the noise in these planes, in grey levels.
fn of_planes(levels: &[f64], shape: ImageShape, known: Option<&[bool]>, clip: &Clip) -> Option<f64> {
    SIDES.into_iter().find_map(|side| {
        let patches = Patches::of(levels, shape, known, clip, side);
        let enough = if side == SIDES[0] { ENOUGH } else { LEAST };
        (patches.count() >= enough * side * side).then(|| patches.noise(clip))
    })
}

/// The same of an RGB image's differences of colours, where no channel comes near to where it was cut off, for noise of about
/// `sigma`.
fn of_differences(levels: &[f64], shape: ImageShape, known: Option<&[bool]>, clip: &Clip, sigma: f64) -> Option<f64> {
    let pixels = shape.pixels();
    let rgb = |i: usize| [levels[i], levels[pixels + i], levels[2 * pixels + i]];
    let margin = APART * sigma;
    let inside = |level: f64| {
        clip.low.is_none_or(|low| level > low + margin) && clip.high.is_none_or(|high| level < high - margin)
    };
    let usable: Vec<bool> =
        (0..pixels).map(|i| known.is_none_or(|known| known[i]) && rgb(i).into_iter().all(inside)).collect();
    // Of unit length, and at right angles to grey: they keep the variance.
    let first = (0..pixels).map(|i| (rgb(i)[0] - rgb(i)[1]) / 2f64.sqrt());
    let second = (0..pixels).map(|i| (rgb(i)[0] + rgb(i)[1] - 2.0 * rgb(i)[2]) / 6f64.sqrt());
    let planes: Vec<f64> = first.chain(second).collect();
    let free = Clip { low: None, high: None };
    of_planes(&planes, ImageShape { channels: 2, ..shape }, Some(&usable), &free)
}

/// Whether values end at `black` and at `white`, as those that were cut off there do.
pub(super) fn end_at(values: &[f64], [black, white]: [f64; 2]) -> [bool; 2] {
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    // 255 of 8 bits as f32 in [-1, 1] is 255 to 5 digits.
    let near = (white - black) * 1e-4 / WHITE;
    [(low - black).abs() < near, (high - white).abs() < near]
}

/// The grey levels at which values were cut off, if there are any.
struct Clip {
    low: Option<f64>,
    high: Option<f64>,
}

impl Clip {
    fn of(levels: &[f64]) -> Self {
        let [low, high] = end_at(levels, [0.0, WHITE]);
        Self { low: low.then_some(0.0), high: high.then_some(WHITE) }
    }

    fn cuts(&self, level: f64) -> bool {
        self.low.is_some_and(|low| level <= low + 1e-4) || self.high.is_some_and(|high| level >= high - 1e-4)
    }

    /// Means and variances of normal values of standard deviation `sigma`, cut off here, for means before the cut from far
    /// below black to far above white.
    fn curve(&self, sigma: f64) -> Vec<(f64, f64)> {
        const POINTS: usize = 400;
        let (low, high) = (self.low.unwrap_or(-1e6), self.high.unwrap_or(1e6));
        let (from, to) = (-3.0 * sigma, WHITE + 3.0 * sigma);
        let point = |i: usize| {
            let mean = from + (to - from) * i as f64 / (POINTS - 1) as f64;
            let (a, b) = ((low - mean) / sigma, (high - mean) / sigma);
            let (below, above) = (normal(a), normal(-b));
            let inside = 1.0 - below - above;
            let (at_a, at_b) = (density(a), density(b));
            let clipped = low * below + high * above + mean * inside + sigma * (at_a - at_b);
            let square = low * low * below
                + high * high * above
                + (mean * mean + sigma * sigma) * inside
                + 2.0 * mean * sigma * (at_a - at_b)
                + sigma * sigma * (a * at_a - b * at_b);
            (clipped, (square - clipped * clipped).max(0.0))
        };
        (0..POINTS).map(point).collect()
    }

    /// The standard deviation of the noise before the cut, of which the variance `left` is left in patches with those
    /// means, given as the number of patches in each of [`BINS`] bins.
    fn undone(&self, left: f64, means: &[usize]) -> f64 {
        if self.low.is_none() && self.high.is_none() {
            return left.sqrt();
        }
        let total = means.iter().sum::<usize>().max(1) as f64;
        let left_of = |sigma: f64| -> f64 {
            let curve = self.curve(sigma);
            let at = |(bin, count): (usize, &usize)| {
                let mean = (bin as f64 + 0.5) * WHITE / BINS as f64;
                *count as f64 / total * interpolate(&curve, mean)
            };
            means.iter().enumerate().filter(|(_, count)| **count > 0).map(at).sum()
        };
        let (mut low, mut high) = (left.sqrt(), (4.0 * left.sqrt()).max(1.0));
        for _ in 0..30 {
            let middle = 0.5 * (low + high);
            if left_of(middle) < left { low = middle } else { high = middle }
        }
        0.5 * (low + high)
    }
}

/// The variance at a mean, between the points of a curve of growing means.
fn interpolate(curve: &[(f64, f64)], mean: f64) -> f64 {
    let next = curve.partition_point(|(m, _)| *m < mean).clamp(1, curve.len() - 1);
    let ((m0, v0), (m1, v1)) = (curve[next - 1], curve[next]);
    if m1 <= m0 { v1 } else { v0 + (v1 - v0) * ((mean - m0) / (m1 - m0)).clamp(0.0, 1.0) }
}

/// Patches of an image, all of one side.
struct Patches<'a> {
    side: usize,
    levels: &'a [f64],
    /// Values of a line of `levels`.
    width: usize,
    /// Where each patch begins in `levels`.
    places: Vec<usize>,
    /// Strength of its texture: the sum of the squares of the central differences.
    texture: Vec<f64>,
}

impl<'a> Patches<'a> {
    fn of(levels: &'a [f64], shape: ImageShape, known: Option<&[bool]>, clip: &Clip, side: usize) -> Self {
        let mut patches = Self { side, levels, width: shape.width, places: Vec::new(), texture: Vec::new() };
        if shape.height < side || shape.width < side {
            return patches;
        }
        let (rows, columns) = (shape.height - side + 1, shape.width - side + 1);
        let all = shape.channels * rows * columns;
        // Lines are left out where there are too many patches, and columns of a very wide image.
        let step = all.div_ceil(MOST_PATCHES).min(rows);
        let across = (all / step).div_ceil(MOST_PATCHES);
        let most_clipped = (MOST_CLIPPED * (side * side) as f64) as usize;
        let usable = |place: &usize| {
            let at = place % shape.pixels();
            let unknown = |known: &[bool]| (0..side).any(|i| known[at + i * shape.width..][..side].contains(&false));
            let clipped = || patches.lines(*place).flatten().filter(|level| clip.cuts(**level)).count();
            !known.is_some_and(unknown) && clipped() <= most_clipped
        };
        let tops: Vec<usize> = (0..shape.channels)
            .flat_map(|channel| (0..rows).step_by(step).map(move |top| (channel * shape.height + top) * shape.width))
            .collect();
        let places = |top: usize| (0..columns).step_by(across).map(move |left| top + left).filter(usable);
        patches.places = tops.into_par_iter().flat_map_iter(places).collect();
        patches.texture = patches.places.par_iter().map(|place| patches.texture_at(*place)).collect();
        patches
    }

    /// The lines of the patch that begins there.
    fn lines(&self, place: usize) -> impl Iterator<Item = &'a [f64]> + use<'a> {
        let Self { side, levels, width, .. } = *self;
        (0..side).map(move |i| &levels[place + i * width..][..side])
    }

    /// The strength of the texture of the patch that begins there, by differences along rows and along columns.
    fn texture_at(&self, place: usize) -> f64 {
        let across = self.lines(place).flat_map(|line| line.iter().zip(&line[2..]));
        let down = self.lines(place).zip(self.lines(place).skip(2)).flat_map(|(a, b)| a.iter().zip(b));
        across.chain(down).map(|(a, b)| ((b - a) / 2.0).powi(2)).sum()
    }

    fn count(&self) -> usize {
        self.places.len()
    }

    /// Standard deviation of the noise in grey levels.
    fn noise(&self, clip: &Clip) -> f64 {
        let size = self.side * self.side;
        // A flat patch has a texture of sigma^2 times a gamma variable with the mean and variance of a chi-square one: four
        // patterns of period 2 have no central differences.
        let mean = (self.side * (self.side - 2)) as f64;
        let half = (size - 4) as f64 / 2.0;
        // Wilson and Hilferty's quantile.
        let flat = mean * (1.0 - 1.0 / (9.0 * half) + ALL_FLAT / (3.0 * half.sqrt())).powi(3);
        let mut chosen: Vec<usize> = (0..self.count()).collect();
        let mut sigma = f64::INFINITY;
        for _ in 0..ROUNDS {
            let (least, means) = self.least_variance(&chosen);
            let next = clip.undone(least, &means);
            let settled = (next - sigma).abs() <= SETTLED * next;
            sigma = next;
            let flatter: Vec<usize> = (0..self.count()).filter(|i| self.texture[*i] <= flat * sigma * sigma).collect();
            if settled || flatter.len() < LEAST * size {
                break;
            }
            chosen = flatter;
        }
        sigma
    }

    /// The least eigenvalue of the covariance of some patches, as it would be of many more, and how many of them have
    /// their mean in each bin.
    fn least_variance(&self, chosen: &[usize]) -> (f64, Vec<usize>) {
        let size = self.side * self.side;
        let lines = |i: &usize| self.lines(self.places[*i]);
        let count = chosen.len() as f64;
        // Parts of a fixed size, summed in their order: the number of threads changes nothing.
        let parts = || chosen.par_chunks(4096);
        let sums: Vec<(Vec<f64>, Vec<usize>)> = parts()
            .map(|part| {
                let (mut sums, mut means) = (vec![0.0; size], vec![0; BINS]);
                for i in part {
                    for (sums, line) in sums.chunks_mut(self.side).zip(lines(i)) {
                        sums.iter_mut().zip(line).for_each(|(sum, v)| *sum += v);
                    }
                    let bin = lines(i).flatten().sum::<f64>() / size as f64 / WHITE * BINS as f64;
                    means[(bin.max(0.0) as usize).min(BINS - 1)] += 1;
                }
                (sums, means)
            })
            .collect();
        let (mut mean, mut means) = (vec![0.0; size], vec![0; BINS]);
        for (sums, counts) in sums {
            mean.iter_mut().zip(sums).for_each(|(mean, sum)| *mean += sum / count);
            means.iter_mut().zip(counts).for_each(|(all, count)| *all += count);
        }
        let parts: Vec<Vec<f64>> = parts()
            .map(|part| {
                let mut centred = Vec::with_capacity(part.len() * size);
                for (line, mean) in part.iter().flat_map(|i| lines(i).zip(mean.chunks(self.side))) {
                    centred.extend(line.iter().zip(mean).map(|(v, mean)| v - mean));
                }
                products_of_columns(&centred, size)
            })
            .collect();
        let mut covariance = vec![0.0; size * size];
        for part in parts {
            covariance.iter_mut().zip(part).for_each(|(sum, v)| *sum += v / (count - 1.0));
        }
        let spectrum = eigenvalues(covariance, size);
        let least = spectrum.iter().copied().fold(f64::INFINITY, f64::min).max(0.0);
        // The eigenvalues of noise alone lie within this factor of the least; texture has larger ones, and takes its
        // directions from those that the least is chosen among.
        let spread = |directions: f64| (directions / count).sqrt().min(0.9);
        let edge = |spread: f64| ((1.0 + spread) / (1.0 - spread)).powi(2);
        let most = least * edge(spread(size as f64));
        let of_noise = spectrum.iter().filter(|v| **v <= most).count();
        let shrunk = 1.0 - spread(of_noise as f64);
        (least / (shrunk * shrunk), means)
    }
}

/// Eigenvalues of a symmetric matrix of `n` x `n`, by Jacobi's rotations.
fn eigenvalues(mut a: Vec<f64>, n: usize) -> Vec<f64> {
    let total: f64 = a.iter().map(|v| v * v).sum();
    for _ in 0..30 {
        let off: f64 = (0..n * n).filter(|i| i / n != i % n).map(|i| a[i] * a[i]).sum();
        if off <= 1e-18 * total {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                let apq = a[p * n + q];
                if apq == 0.0 {
                    continue;
                }
                let theta = (a[q * n + q] - a[p * n + p]) / (2.0 * apq);
                let t = theta.signum() / (theta.abs() + theta.hypot(1.0));
                let c = 1.0 / t.hypot(1.0);
                let s = t * c;
                for k in 0..n {
                    let (kp, kq) = (a[k * n + p], a[k * n + q]);
                    (a[k * n + p], a[k * n + q]) = (c * kp - s * kq, s * kp + c * kq);
                }
                for k in 0..n {
                    let (pk, qk) = (a[p * n + k], a[q * n + k]);
                    (a[p * n + k], a[q * n + k]) = (c * pk - s * qk, s * pk + c * qk);
                }
            }
        }
    }
    (0..n).map(|i| a[i * n + i]).collect()
}

/// The standard normal density.
fn density(x: f64) -> f64 {
    (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

/// The standard normal distribution, to 1e-7 (Abramowitz and Stegun 26.2.17).
fn normal(x: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * x.abs());
    let sum = [1.330_274_429, -1.821_255_978, 1.781_477_937, -0.356_563_782, 0.319_381_530];
    let tail = density(x) * t * sum.iter().fold(0.0, |sum, c| sum * t + c);
    if x > 0.0 { 1.0 - tail } else { tail }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::{Noise, Stream};
    use crate::tensor::{DType, cpu, from_f32};

    /// Grey levels `level` of the place, and noise of `sigma`, as a file of 8 bits has them.
    fn noisy(shape: ImageShape, level: impl Fn(usize, usize) -> f64, sigma: f64) -> Tensor<4> {
        let ImageShape { channels, height, width } = shape;
        let dims = [1, channels, height, width];
        let noise = Noise::new(3, Stream::Degradation).normal_tensor(0, dims, &cpu(), DType::F32);
        let noise = tensor::to_f64(&noise).unwrap();
        let pixel = |(i, noise): (usize, f64)| {
            let at = i % shape.pixels();
            let value = level(at / width, at % width) + sigma * noise;
            (value.round().clamp(0.0, 255.0) / 127.5 - 1.0) as f32
        };
        from_f32(noise.into_iter().enumerate().map(pixel).collect(), dims, &cpu())
    }

    fn found(y: &Tensor<4>, known: Option<&[bool]>) -> f64 {
        estimate_noise(y, known).unwrap().unwrap().to_255()
    }

    /// Stripes and blobs: half of it is busy.
    fn scene(row: usize, column: usize) -> f64 {
        let (y, x) = (row as f64, column as f64);
        128.0 + 40.0 * (x / 17.0).sin() * (y / 23.0).cos() + if column > 60 { 50.0 * (x * y / 9.0).sin() } else { 0.0 }
    }

    #[test]
    fn noise_is_told_from_texture() {
        for sigma in [1.0, 2.0, 5.0, 15.0] {
            for channels in [1, 3] {
                let estimate = found(&noisy(ImageShape::new(channels, 120, 120), scene, sigma), None);
                let expected = (sigma * sigma + 1.0 / 12.0f64).sqrt();
                assert!(
                    (estimate / expected - 1.0).abs() < 0.08,
                    "{estimate:.2} of {expected:.2}, {channels} channels"
                );
            }
        }
    }

    #[test]
    fn an_image_without_noise_shows_its_rounding() {
        let smooth = |row: usize, column: usize| 128.0 + 60.0 * (row as f64 / 31.0).sin() + 0.37 * column as f64;
        let estimate = found(&noisy(ImageShape::new(3, 96, 96), smooth, 0.0), None);
        assert!(estimate < 0.35, "{estimate}");
    }

    /// Half of the noise of a black sky is cut off, and nearly half of that of white paper.
    #[test]
    fn noise_that_was_cut_off_is_made_up_for() {
        for (level, sigma) in [(0.0, 10.0), (6.0, 20.0), (255.0, 5.0), (250.0, 30.0)] {
            let estimate = found(&noisy(ImageShape::new(1, 128, 128), |_, _| level, sigma), None);
            assert!((estimate / sigma - 1.0).abs() < 0.08, "level {level}: {estimate:.2} of {sigma}");
        }
    }

    #[test]
    fn small_images_are_not_underrated() {
        for side in [16, 24, 40] {
            let estimate = found(&noisy(ImageShape::new(3, side, side), |_, _| 100.0, 10.0), None);
            assert!((estimate / 10.0 - 1.0).abs() < 0.12, "{side}: {estimate:.2}");
        }
        assert!(estimate_noise(&noisy(ImageShape::new(1, 9, 9), scene, 5.0), None).unwrap().is_none());
        assert!(estimate_noise(&noisy(ImageShape::new(1, 3, 90), scene, 5.0), None).unwrap().is_none());
    }

    #[test]
    fn unknown_pixels_and_plateaus_do_not_count() {
        let shape = ImageShape::new(1, 96, 96);
        // A hole filled with one level, and a white plateau.
        let y = noisy(shape, |row, _| if row < 32 { 400.0 } else { 128.0 }, 8.0);
        let estimate = found(&y, None);
        assert!((estimate / 8.0 - 1.0).abs() < 0.1, "{estimate:.2}");
        let hole = |i: usize| i / 96 >= 70;
        let values = tensor::to_f32(&y).unwrap();
        let values = values.into_iter().enumerate().map(|(i, v)| if hole(i) { 0.25 } else { v }).collect();
        let y = from_f32(values, [1, 1, 96, 96], &cpu());
        let known: Vec<bool> = (0..shape.pixels()).map(|i| !hole(i)).collect();
        let estimate = found(&y, Some(&known));
        assert!((estimate / 8.0 - 1.0).abs() < 0.1, "{estimate:.2}");
    }

    #[test]
    fn eigenvalues_are_those_of_the_matrix() {
        let mut found = eigenvalues(vec![2.0, -1.0, 0.0, -1.0, 2.0, -1.0, 0.0, -1.0, 2.0], 3);
        found.sort_by(f64::total_cmp);
        let root = 2.0f64.sqrt();
        for (found, expected) in found.into_iter().zip([2.0 - root, 2.0, 2.0 + root]) {
            assert!((found - expected).abs() < 1e-12, "{found}");
        }
        assert!((normal(1.0) - 0.841_344_746).abs() < 1e-7 && (normal(-2.0) - 0.022_750_132).abs() < 1e-7);
    }
}
