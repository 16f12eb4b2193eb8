//! layer_norm and geglu against their definitions in double precision: results and gradients.

use crate::common::{assert_close, tracked, values};
use adir_kernels::{geglu, layer_norm, reference};
use burn::tensor::{DType, Tensor};

const SHAPES: [[usize; 3]; 5] = [[1, 10, 1], [2, 40, 7], [1, 320, 100], [3, 64, 64], [1, 6, 130]];

type LayerNorm = fn(Tensor<3>, Tensor<1>, Tensor<1>, f64) -> Tensor<3>;

#[test]
fn layer_norm_and_its_gradients() {
    let run = |f: LayerNorm, shape: [usize; 3], dtype| {
        let x = tracked(shape, 1, dtype);
        let (gamma, beta) = (tracked([shape[1]], 2, dtype), tracked([shape[1]], 3, dtype));
        let out = f(x.clone() * 3.0 + 1.0, gamma.clone(), beta.clone(), 1e-5);
        let probe = tracked(shape, 4, dtype).detach();
        let grads = (out.clone() * probe).sum().backward();
        let of = |t: &Tensor<1>| values(t.grad(&grads).expect("a gradient"));
        [values(out), values(x.grad(&grads).expect("of x")), of(&gamma), of(&beta)]
    };
    for shape in SHAPES {
        let (found, expected) = (run(layer_norm, shape, DType::F32), run(reference::layer_norm, shape, DType::F64));
        for (what, (found, expected)) in ["result", "x", "gamma", "beta"].iter().zip(found.iter().zip(&expected)) {
            assert_close(&format!("{what}, {shape:?}"), found, expected, 1e-5);
        }
    }
}

/// Frozen weights, as under an adapter, get no gradient, and x gets the same.
#[test]
fn layer_norm_with_frozen_weights() {
    let x = tracked([2, 40, 33], 1, DType::F32);
    let weights = [2, 3].map(|seed| tracked([40], seed, DType::F32));
    let run = |[gamma, beta]: [Tensor<1>; 2]| {
        let out = layer_norm(x.clone(), gamma.clone(), beta, 1e-5);
        let grads = out.clone().powi_scalar(3).sum().backward();
        (values(x.grad(&grads).expect("of x")), gamma.grad(&grads).is_some())
    };
    let (free, frozen) = (run(weights.clone()), run(weights.map(|w| w.set_require_grad(false))));
    assert_eq!((free.0, free.1, frozen.1), (frozen.0, true, false));
}

#[test]
fn geglu_and_its_gradient() {
    let run = |f: fn(Tensor<3>) -> Tensor<3>, shape: [usize; 3], dtype| {
        let x = tracked(shape, 1, dtype);
        // Up to where the tail of the normal distribution is all that is left.
        let out = f(x.clone() * 4.0);
        let probe = tracked(out.dims(), 2, dtype).detach();
        let grads = (out.clone() * probe).sum().backward();
        [values(out), values(x.grad(&grads).expect("of x"))]
    };
    for shape in SHAPES {
        let (found, expected) = (run(geglu, shape, DType::F32), run(reference::geglu, shape, DType::F64));
        assert_close(&format!("result, {shape:?}"), &found[0], &expected[0], 2e-6);
        assert_close(&format!("gradient, {shape:?}"), &found[1], &expected[1], 2e-6);
    }
}
