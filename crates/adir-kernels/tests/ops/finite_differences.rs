//! The double-precision path of every operation against central differences: the ground the other tests stand on.

use crate::common::{numbers, tracked, values};
use adir_kernels::{QkvOrder, attention, avg_pool2, conv2d, group_norm, upsample_nearest2};
use burn::tensor::{DType, Device, Tensor, TensorData};

/// Step of the differences; their error is about its square.
const STEP: f64 = 1e-5;

/// Checks the gradient of `sum(f(x) probe)` at a dozen places of x.
fn check<const D: usize>(what: &str, shape: [usize; D], f: impl Fn(Tensor<D>) -> Tensor<D>) {
    let count: usize = shape.iter().product();
    let start = numbers(count, 1);
    let make = |values: Vec<f64>| {
        Tensor::<D>::from_data(TensorData::new(values, shape), (&Device::flex().autodiff(), DType::F64)).require_grad()
    };
    let loss = |x: Tensor<D>| {
        let out = f(x);
        let probe = tracked(out.dims(), 9, DType::F64).detach();
        (out * probe).sum()
    };
    let x = make(start.clone());
    let gradient = values(x.grad(&loss(x.clone()).backward()).expect("a gradient"));
    let scale = gradient.iter().fold(0.0f64, |most, v| most.max(v.abs()));
    for place in (0..count).step_by(count.div_ceil(12)) {
        let at = |shift: f64| {
            let mut moved = start.clone();
            moved[place] += shift;
            values(loss(make(moved)))[0]
        };
        let difference = (at(STEP) - at(-STEP)) / (2.0 * STEP);
        let off = (difference - gradient[place]).abs();
        assert!(off <= 1e-6 * scale, "{what}, place {place}: {} instead of {difference}", gradient[place]);
    }
}

fn fixed<const D: usize>(shape: [usize; D], seed: u64) -> Tensor<D> {
    tracked(shape, seed, DType::F64).detach()
}

#[test]
fn convolution() {
    for (stride, padding) in [(1, 1), (2, 1), (1, 0)] {
        check("x", [2, 3, 5, 6], |x| conv2d(x, fixed([4, 3, 3, 3], 2), Some(fixed([4], 3)), stride, padding));
        check("weight", [4, 3, 3, 3], |w| conv2d(fixed([2, 3, 5, 6], 2), w, None, stride, padding));
    }
    check("bias", [4], |b| {
        let out = conv2d(fixed([1, 3, 4, 4], 2), fixed([4, 3, 1, 1], 3), Some(b), 1, 0);
        (out * fixed([1, 4, 4, 4], 4)).sum_dim(3).sum_dim(2).reshape([4])
    });
}

#[test]
fn normalisation() {
    let scale_shift = || Some((fixed([2, 6], 4), fixed([2, 6], 5)));
    check("x", [2, 6, 4, 3], |x| group_norm(x, 3, fixed([6], 2), fixed([6], 3), 1e-5, scale_shift(), true));
    check("scale", [2, 6], |scale| {
        let (x, shift) = (fixed([2, 6, 4, 3], 1), fixed([2, 6], 5));
        let out = group_norm(x, 3, fixed([6], 2), fixed([6], 3), 1e-5, Some((scale, shift)), true);
        (out * fixed([2, 6, 4, 3], 6)).sum_dim(3).sum_dim(2).reshape([2, 6])
    });
}

#[test]
fn attention_and_resampling() {
    for order in [QkvOrder::HeadsFirst, QkvOrder::QkvFirst] {
        check("qkv", [2, 24, 7], |qkv| attention(qkv, 2, order));
    }
    check("up", [1, 2, 3, 4], upsample_nearest2);
    check("down", [1, 2, 5, 4], avg_pool2);
}
