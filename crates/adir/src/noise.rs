//! The only source of randomness: a counter-based generator, Philox4x32-10 (Salmon et al., "Parallel random
//! numbers: as easy as 1, 2, 3", SC 2011).
//!
//! The one surprising decision: there is no state. Every number is a pure function of (seed, stream, step,
//! index), made on the CPU in f64, so that the noise is the same on every device, for every number of threads
//! and after any interruption, and an adapted and an unadapted run of one seed see the same sampling noise.
//! Logarithm and sine come from the `libm` crate instead of the system's, whose last bits differ between
//! platforms.

use burn::tensor::{DType, TensorData};
use rayon::prelude::*;

use crate::tensor::{Device, Tensor};

/// Purpose of the random numbers. Streams never overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
#[non_exhaustive]
pub enum Stream {
    /// The initial noise and the steps of a sampler.
    Sampling = 0,
    /// Batches, crops, timesteps and noise of the adaptation to one image.
    Adaptation = 1,
    /// Measurement noise e of a synthetic observation y = A x + e.
    Degradation = 2,
    /// Timesteps and noise of a validation loss, and random test vectors.
    Evaluation = 3,
    /// Training of a prior.
    Training = 4,
    /// Initial weights.
    Initialization = 5,
}

/// Distribution; part of the counter, so that uniform and normal numbers are independent too.
#[derive(Debug, Clone, Copy)]
#[repr(u16)]
enum Kind {
    Normal = 0,
    Uniform = 1,
    Below = 2,
    Poisson = 3,
}

/// Random numbers of one seed and stream.
///
/// ```
/// use adir::noise::{Noise, Stream};
/// let noise = Noise::new(7, Stream::Sampling);
/// assert_eq!(noise.normal(3, 5), noise.normal(3, 9)[..5]); // no state: any prefix, any order
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Noise {
    seed: u64,
    stream: Stream,
}

impl Noise {
    /// The numbers of `seed` in `stream`.
    pub fn new(seed: u64, stream: Stream) -> Self {
        Self { seed, stream }
    }

    /// The noise of one of several samples. It depends on `seed` and the sample's number, not on how many there are.
    pub fn of_sample(seed: u64, sample: usize) -> Self {
        Self::new(seed.wrapping_add((sample as u64) << 32), Stream::Sampling)
    }

    /// `count` standard normal numbers of `step`: those of [`Noise::normal_f64`], rounded.
    pub fn normal(&self, step: u32, count: usize) -> Vec<f32> {
        self.normals(step, count, |z| z as f32)
    }

    /// `count` standard normal numbers of `step`, by the transform of Box and Muller on 53-bit uniforms.
    pub fn normal_f64(&self, step: u32, count: usize) -> Vec<f64> {
        self.normals(step, count, |z| z)
    }

    /// Standard normal numbers of `step`, row-major in `shape`, rounded to `dtype` (a floating-point type).
    pub fn normal_tensor<const D: usize>(
        &self,
        step: u32,
        shape: [usize; D],
        device: &Device,
        dtype: DType,
    ) -> Tensor<D> {
        let count = shape.iter().product();
        let data = match dtype {
            DType::F64 => TensorData::new(self.normal_f64(step, count), shape),
            _ => TensorData::new(self.normal(step, count), shape),
        };
        Tensor::from_data(data, (device, dtype))
    }

    /// One number, uniform in [0, 1).
    pub fn uniform(&self, step: u32, index: u32) -> f64 {
        unit(self.words(Kind::Uniform, u64::from(index), step)[0])
    }

    /// One integer, uniform in `0..n` without bias (multiply and reject: Lemire, "Fast random integer generation
    /// in an interval", 2019); 0 for `n` = 0.
    pub fn below(&self, step: u32, index: u32, n: usize) -> usize {
        let n = n as u64;
        let mut attempt = 0;
        loop {
            for word in self.words(Kind::Below, attempt << 32 | u64::from(index), step) {
                let product = u128::from(word) * u128::from(n);
                // 2^64 mod n values of the low half are reached once more than the others: refuse those.
                if n == 0 || product as u64 >= n.wrapping_neg() % n {
                    return (product >> 64) as usize;
                }
            }
            attempt += 1;
        }
    }

    /// A number of events whose mean is `mean`, 0 or more: Poisson's, and above 500 the rounded normal number of the same
    /// mean and variance.
    pub fn poisson(&self, step: u32, index: u64, mean: f64) -> f64 {
        const MOST_COUNTED: f64 = 500.0;
        let [a, b] = self.words(Kind::Poisson, index, step);
        if mean > MOST_COUNTED {
            return (mean + mean.sqrt() * box_muller(1.0 - unit(a), unit(b))[0]).round();
        }
        // The inverse of the distribution function; the last 53-bit number is reached well before the limit.
        let (u, limit) = (unit(a), 50.0 + 3.0 * mean);
        let (mut events, mut share) = (0.0, (-mean).exp());
        let mut sum = share;
        while sum <= u && events < limit {
            events += 1.0;
            share *= mean / events;
            sum += share;
        }
        events
    }

    fn normals<T: Copy + Default + Send>(&self, step: u32, count: usize, round: impl Fn(f64) -> T + Sync) -> Vec<T> {
        const PAIRS_A_TASK: usize = 4096;
        let mut values = vec![T::default(); count];
        values.par_chunks_mut(2 * PAIRS_A_TASK).enumerate().for_each(|(task, chunk)| {
            for (pair, out) in chunk.chunks_mut(2).enumerate() {
                let [a, b] = self.words(Kind::Normal, (task * PAIRS_A_TASK + pair) as u64, step);
                for (out, z) in out.iter_mut().zip(box_muller(1.0 - unit(a), unit(b))) {
                    *out = round(z);
                }
            }
        });
        values
    }

    /// The two 64-bit words of one counter value.
    fn words(&self, kind: Kind, index: u64, step: u32) -> [u64; 2] {
        let purpose = (kind as u32) << 16 | self.stream as u32;
        let [a, b, c, d] = philox4x32_10(
            [index as u32, (index >> 32) as u32, step, purpose],
            [self.seed as u32, (self.seed >> 32) as u32],
        );
        [u64::from(b) << 32 | u64::from(a), u64::from(d) << 32 | u64::from(c)]
    }
}

/// The upper 53 bits as a number in [0, 1).
fn unit(word: u64) -> f64 {
    (word >> 11) as f64 / (1_u64 << 53) as f64
}

/// Two independent standard normal numbers from `u` in (0, 1] and `v` in [0, 1).
fn box_muller(u: f64, v: f64) -> [f64; 2] {
    let radius = (-2.0 * libm::log(u)).sqrt();
    let (sin, cos) = libm::sincos(std::f64::consts::TAU * v);
    [radius * cos, radius * sin]
}

/// Ten rounds of Philox on a 128-bit counter under a 64-bit key, both as 32-bit words, lowest first.
fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    const MULTIPLIERS: [u64; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    for _ in 0..10 {
        let p = MULTIPLIERS[0] * u64::from(counter[0]);
        let q = MULTIPLIERS[1] * u64::from(counter[2]);
        counter = [(q >> 32) as u32 ^ counter[1] ^ key[0], q as u32, (p >> 32) as u32 ^ counter[3] ^ key[1], p as u32];
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `philox4x32 10` of kat_vectors in the Random123 distribution.
    #[test]
    fn philox_matches_the_published_vectors() {
        assert_eq!(philox4x32_10([0; 4], [0; 2]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(philox4x32_10([!0; 4], [!0; 2]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
        assert_eq!(
            philox4x32_10([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
    }

    /// Values from 50-digit arithmetic: tests/fixtures/noise.py.
    #[test]
    fn normals_are_pinned() {
        let noise = Noise::new(0x0123_4567_89ab_cdef, Stream::Sampling);
        let expected = [-0.9523822336158543, 0.6056955611148166, -0.5944612022722587, -0.6474915446841338];
        for (got, want) in noise.normal_f64(5, 4).iter().zip(expected) {
            assert!((got - want).abs() <= 1e-15 * want.abs(), "{got:e} is not {want:e}");
        }
        assert_eq!(noise.normal(5, 4), expected.map(|z| z as f32));
    }

    /// Mean and variance of Poisson's numbers are both the mean, on either side of where they become normal ones.
    #[test]
    fn events_have_the_mean_and_the_variance_of_poisson() {
        let noise = Noise::new(3, Stream::Degradation);
        for mean in [0.0, 0.3, 4.0, 120.0, 499.0, 501.0, 9e4] {
            let events: Vec<f64> = (0..20_000).map(|i| noise.poisson(0, i, mean)).collect();
            assert!(events.iter().all(|n| *n >= 0.0 && n.fract() == 0.0));
            let found = events.iter().sum::<f64>() / events.len() as f64;
            let variance = events.iter().map(|n| (n - found).powi(2)).sum::<f64>() / events.len() as f64;
            assert!((found - mean).abs() <= 5.0 * (mean / 20_000.0).sqrt(), "{mean}: {found}");
            assert!((variance - mean).abs() <= 0.06 * mean, "{mean}: {variance}");
        }
        let none = noise.normal(0, 1)[0] as f64;
        assert_ne!(noise.poisson(0, 0, 1e6), (1e6 + 1e3 * none).round(), "numbers of its own");
    }

    #[test]
    fn every_coordinate_of_the_counter_matters() {
        let base = Noise::new(1, Stream::Sampling).normal(0, 64);
        assert_ne!(base, Noise::new(2, Stream::Sampling).normal(0, 64));
        assert_ne!(base, Noise::new(1 << 32 | 1, Stream::Sampling).normal(0, 64));
        assert_ne!(base, Noise::new(1, Stream::Adaptation).normal(0, 64));
        assert_ne!(base, Noise::new(1, Stream::Sampling).normal(1, 64));
        let mut sorted = base.clone();
        sorted.sort_by(f32::total_cmp);
        sorted.dedup();
        assert_eq!(sorted.len(), base.len(), "indices repeat");
    }

    #[test]
    fn the_same_bytes_for_any_number_of_threads_and_any_prefix() {
        let noise = Noise::new(3, Stream::Evaluation);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
            pool.install(|| noise.normal(9, 50_001))
        };
        let one = run(1);
        assert_eq!(one, run(2));
        assert_eq!(one, run(5));
        assert_eq!(one[..20_000], noise.normal(9, 20_000));
    }

    #[test]
    fn normals_have_the_moments_of_a_normal() {
        let n = 200_000;
        let z = Noise::new(11, Stream::Degradation).normal_f64(0, n);
        let moment = |k| z.iter().map(|v: &f64| v.powi(k)).sum::<f64>() / n as f64;
        let lag = z.windows(2).map(|w| w[0] * w[1]).sum::<f64>() / n as f64;
        // Standard errors of the first four moments of N(0, 1) and of the lag-one product: sqrt of 1, 2, 15, 96, 1 over n.
        for (got, want, variance) in [
            (moment(1), 0.0, 1.0),
            (moment(2), 1.0, 2.0),
            (moment(3), 0.0, 15.0),
            (moment(4), 3.0, 96.0),
            (lag, 0.0, 1.0),
        ] {
            assert!((got - want).abs() < 4.0 * f64::sqrt(variance / n as f64), "{got} is not {want}");
        }
    }

    #[test]
    fn uniforms_and_integers_cover_their_range_evenly() {
        let noise = Noise::new(4, Stream::Training);
        let n = 70_000;
        let mut counts = [0_u32; 7];
        let mut mean = 0.0;
        for i in 0..n {
            counts[noise.below(2, i, 7)] += 1;
            let u = noise.uniform(2, i);
            assert!((0.0..1.0).contains(&u));
            mean += u / f64::from(n);
        }
        let expected = f64::from(n) / 7.0;
        let chi_squared: f64 = counts.iter().map(|&c| (f64::from(c) - expected).powi(2) / expected).sum();
        assert!(chi_squared < 22.5, "{counts:?}"); // 0.1 % point of chi squared with 6 degrees of freedom
        assert!((mean - 0.5).abs() < 4.0 / f64::from(12 * n).sqrt());
        assert_eq!(noise.below(0, 0, 1), 0);
        assert_eq!(noise.below(0, 0, 0), 0);
        // n = 3/4 of 2^64: without the rejection every third value would come twice as often.
        let wide = (1_usize << 63) + (1 << 62);
        let mut thirds = [0_u32; 3];
        (0..3000).for_each(|i| thirds[noise.below(1, i, wide) % 3] += 1);
        assert!(thirds.iter().all(|c| c.abs_diff(1000) < 110), "{thirds:?}");
    }

    #[test]
    fn tensors_hold_the_numbers_in_order_and_precision() {
        let noise = Noise::new(5, Stream::Sampling);
        let device = crate::tensor::cpu();
        let double = noise.normal_tensor(2, [1, 2, 3, 4], &device, DType::F64);
        assert_eq!(double.dtype(), DType::F64);
        assert_eq!(crate::tensor::to_f64(&double).expect("readable"), noise.normal_f64(2, 24));
        let single = noise.normal_tensor(2, [24], &device, DType::F32);
        assert_eq!(crate::tensor::to_f32(&single).expect("readable"), noise.normal(2, 24));
    }
}
