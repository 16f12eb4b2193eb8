//! group_norm_conv2d against the definitions in double precision: results and all gradients.

use crate::common::{assert_close, tracked, values};
use adir_kernels::{GroupNorm, group_norm_conv2d, reference};
use burn::tensor::{DType, Tensor};

const NAMES: [&str; 8] = ["result", "x", "gamma", "beta", "weight", "bias", "scale", "shift"];

/// A convolution of a normalised image.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub x: [usize; 4],
    pub groups: usize,
    pub outputs: usize,
    pub kernel: usize,
    pub stride: usize,
    pub scaled: bool,
    pub silu: bool,
}

/// Result and gradients; in double precision by the definitions.
pub fn run(case: &Case, dtype: DType) -> Vec<Vec<f64>> {
    let Case { x: shape, groups, outputs, kernel, stride, scaled, silu } = *case;
    let [n, c, ..] = shape;
    let x = tracked(shape, 1, dtype);
    let (gamma, beta) = (tracked([c], 2, dtype), tracked([c], 3, dtype));
    let (scale, shift): (Tensor<2>, Tensor<2>) = (tracked([n, c], 4, dtype), tracked([n, c], 5, dtype));
    let weight = tracked([outputs, c, kernel, kernel], 6, dtype);
    let bias = tracked([outputs], 7, dtype);
    let norm = GroupNorm {
        groups,
        gamma: gamma.clone(),
        beta: beta.clone(),
        eps: 1e-5,
        scale_shift: scaled.then(|| (scale.clone(), shift.clone())),
        silu,
    };
    let out = if dtype == DType::F32 {
        group_norm_conv2d(x.clone(), norm, weight.clone(), bias.clone(), stride, kernel / 2)
    } else {
        let GroupNorm { gamma, beta, scale_shift, .. } = norm;
        let h = reference::group_norm(x.clone(), groups, gamma, beta, 1e-5, scale_shift, silu);
        reference::conv2d(h, weight.clone(), Some(bias.clone()), stride, kernel / 2)
    };
    let probe = tracked(out.dims(), 8, dtype).detach();
    let grads = (out.clone() * probe).sum().backward();
    let mut all = vec![values(out), values(x.grad(&grads).expect("of x"))];
    all.extend([&gamma, &beta].map(|p| values(p.grad(&grads).expect("of gamma and beta"))));
    all.push(values(weight.grad(&grads).expect("of weight")));
    all.push(values(bias.grad(&grads).expect("of bias")));
    if scaled {
        all.extend([&scale, &shift].map(|p| values(p.grad(&grads).expect("of scale and shift"))));
    }
    all
}

#[test]
fn results_and_gradients() {
    for (x, groups, outputs) in [
        ([1, 16, 1, 1], 2, 4),
        ([2, 6, 5, 7], 3, 33),
        ([1, 32, 17, 33], 32, 32),
        ([2, 40, 9, 16], 4, 6),
        ([1, 96, 8, 24], 32, 70),
    ] {
        for (kernel, stride) in [(3, 1), (1, 1), (3, 2)] {
            for (scaled, silu) in [(false, false), (false, true), (true, true)] {
                let case = Case { x, groups, outputs, kernel, stride, scaled, silu };
                let (found, expected) = (run(&case, DType::F32), run(&case, DType::F64));
                for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                    assert_close(&format!("{} of {case:?}", NAMES[i]), found, expected, 1e-5);
                }
            }
        }
    }
}

/// Without gradients, and where a double-precision parameter sends it to the definitions.
#[test]
fn untracked_and_by_the_definitions() {
    let f32 = |seed| tracked([12], seed, DType::F32).detach();
    let x: Tensor<4> = tracked([1, 12, 9, 9], 1, DType::F32).detach();
    let norm = || GroupNorm { groups: 3, gamma: f32(2), beta: f32(3), eps: 1e-5, scale_shift: None, silu: true };
    let weight: Tensor<4> = tracked([5, 12, 3, 3], 4, DType::F32).detach();
    let bias = tracked([5], 5, DType::F32).detach();
    let found = group_norm_conv2d(x.clone(), norm(), weight.clone(), bias.clone(), 1, 1);
    let expected = reference::conv2d(
        reference::group_norm(x.clone(), 3, f32(2), f32(3), 1e-5, None, true),
        weight.clone(),
        Some(bias.clone()),
        1,
        1,
    );
    assert_close("untracked", &values(found), &values(expected.clone()), 1e-5);
    let double = |t: Tensor<4>| t.cast(DType::F64);
    let norm = GroupNorm { gamma: f32(2).cast(DType::F64), beta: f32(3).cast(DType::F64), ..norm() };
    let found = group_norm_conv2d(double(x), norm, double(weight), bias.cast(DType::F64), 1, 1);
    assert_close("in f64", &values(found), &values(expected), 1e-6);
}
