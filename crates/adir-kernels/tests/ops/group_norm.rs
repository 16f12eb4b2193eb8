//! group_norm against the definition in double precision: results and all gradients.

use crate::common::{assert_close, tracked, values};
use adir_kernels::{group_norm, reference};
use burn::tensor::{DType, Tensor};

type Norm = fn(Tensor<4>, usize, Tensor<1>, Tensor<1>, f64, Option<(Tensor<2>, Tensor<2>)>, bool) -> Tensor<4>;

const NAMES: [&str; 6] =
    ["result", "gradient of x", "gradient of gamma", "gradient of beta", "gradient of scale", "gradient of shift"];

/// Result and gradients, x being `spread` times unit numbers plus `offset`.
fn run(
    norm: Norm,
    shape: [usize; 4],
    groups: usize,
    scaled: bool,
    silu: bool,
    (spread, offset): (f64, f64),
    dtype: DType,
) -> Vec<Vec<f64>> {
    let [n, c, ..] = shape;
    let x = tracked(shape, 1, dtype);
    let (gamma, beta) = (tracked([c], 2, dtype), tracked([c], 3, dtype));
    let (scale, shift) = (tracked([n, c], 4, dtype), tracked([n, c], 5, dtype));
    let scale_shift = scaled.then(|| (scale.clone(), shift.clone()));
    let input = x.clone().mul_scalar(spread).add_scalar(offset);
    let out = norm(input, groups, gamma.clone(), beta.clone(), 1e-5, scale_shift, silu);
    let probe = tracked(shape, 6, dtype).detach();
    let grads = (out.clone() * probe).sum().backward();
    let mut all = vec![values(out), values(x.grad(&grads).expect("of x"))];
    all.extend([&gamma, &beta].map(|p| values(p.grad(&grads).expect("of gamma and beta"))));
    if scaled {
        all.extend([&scale, &shift].map(|p| values(p.grad(&grads).expect("of scale and shift"))));
    }
    all
}

#[test]
fn results_and_gradients() {
    for (shape, groups) in [
        ([1, 16, 1, 1], 2),
        ([2, 6, 5, 7], 3),
        ([1, 32, 8, 8], 32),
        ([3, 96, 3, 5], 32),
        ([1, 32, 33, 31], 4),
        ([1, 8, 70, 70], 2),
    ] {
        for (scaled, silu) in [(false, false), (false, true), (true, false), (true, true)] {
            let found = run(group_norm, shape, groups, scaled, silu, (1.0, 0.0), DType::F32);
            let expected = run(reference::group_norm, shape, groups, scaled, silu, (1.0, 0.0), DType::F64);
            for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let what = format!("{}, {shape:?}, {groups} groups, scaled {scaled}, SiLU {silu}", NAMES[i]);
                assert_close(&what, found, expected, 5e-6);
            }
        }
    }
}

/// A mean far from zero must not spoil the variance; 1e-4 of it is what single precision leaves of x.
#[test]
fn a_large_mean() {
    let shape = [1, 8, 40, 40];
    for (spread, offset) in [(1.0, 100.0), (0.01, -3.0)] {
        let found = run(group_norm, shape, 2, false, false, (spread, offset), DType::F32);
        let expected = run(reference::group_norm, shape, 2, false, false, (spread, offset), DType::F64);
        assert_close("result", &found[0], &expected[0], 5e-5);
    }
}

#[test]
fn a_sequence() {
    let x = tracked([2, 8, 5], 1, DType::F32);
    let (gamma, beta) = (tracked([8], 2, DType::F32), tracked([8], 3, DType::F32));
    let found = group_norm(x.clone(), 4, gamma.clone(), beta.clone(), 1e-6, None, true);
    let expected = reference::group_norm(x, 4, gamma, beta, 1e-6, None, true);
    assert_close("result", &values(found), &values(expected), 1e-6);
}
