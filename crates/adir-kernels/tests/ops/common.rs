//! Numbers to test with, and comparisons.

use burn::tensor::{DType, Device, Tensor, TensorData};

/// Deterministic numbers of mean 0 and about unit variance, different for every `seed`.
pub fn numbers(count: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x1234_5678);
    let mut uniform = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    };
    // Rounded to single precision, so that both precisions see the same numbers.
    (0..count).map(|_| f64::from(((uniform() + uniform() + uniform() + uniform() - 2.0) * 1.7) as f32)).collect()
}

/// A tensor of [`numbers`] in the given precision, on the CPU device with autodiff, tracked.
pub fn tracked<const D: usize>(shape: [usize; D], seed: u64, dtype: DType) -> Tensor<D> {
    let data = TensorData::new(numbers(shape.iter().product(), seed), shape);
    Tensor::from_data(data, (&Device::flex().autodiff(), dtype)).require_grad()
}

/// The tensor's numbers.
pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.try_to_vec_as::<f64>().expect("readable numbers")
}

/// Fails unless `found` is finite, as long as `expected`, and within `bound` in relative L2.
#[track_caller]
pub fn assert_close(what: &str, found: &[f64], expected: &[f64], bound: f64) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    assert!(found.iter().all(|v| v.is_finite()), "{what}: not finite");
    let square = |v: f64| v * v;
    let off: f64 = found.iter().zip(expected).map(|(a, b)| square(a - b)).sum();
    let norm: f64 = expected.iter().map(|&b| square(b)).sum();
    let relative = (off / norm.max(f64::MIN_POSITIVE)).sqrt();
    assert!(off == 0.0 || relative <= bound, "{what}: relative L2 distance {relative:.2e} over {bound:.0e}");
}
