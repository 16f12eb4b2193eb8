//! attention against the definition in double precision: result and gradient.

use crate::common::{assert_close, tracked, values};
use adir_kernels::{QkvOrder, attention, cross_attention, reference};
use burn::tensor::{DType, Tensor};

type Attention = fn(Tensor<3>, usize, QkvOrder) -> Tensor<3>;

fn run(f: Attention, shape: [usize; 3], heads: usize, order: QkvOrder, spread: f64, dtype: DType) -> Vec<Vec<f64>> {
    let qkv = tracked(shape, 1, dtype);
    let out = f(qkv.clone().mul_scalar(spread), heads, order);
    let probe = tracked(out.dims(), 2, dtype).detach();
    let grads = (out.clone() * probe).sum().backward();
    vec![values(out), values(qkv.grad(&grads).expect("of qkv"))]
}

#[test]
fn results_and_gradients() {
    for (shape, heads) in
        [([1, 3, 1], 1), ([2, 30, 5], 2), ([1, 96, 64], 1), ([3, 48, 33], 4), ([1, 384, 100], 2), ([1, 12, 300], 1)]
    {
        for order in [QkvOrder::HeadsFirst, QkvOrder::QkvFirst] {
            // Spread 4 makes the softmax nearly pick one key.
            for spread in [1.0, 4.0] {
                let found = run(attention, shape, heads, order, spread, DType::F32);
                let expected = run(reference::attention, shape, heads, order, spread, DType::F64);
                for (what, (found, expected)) in ["result", "gradient"].iter().zip(found.iter().zip(&expected)) {
                    let what = format!("{what}, {shape:?}, {heads} heads, {order:?}, spread {spread}");
                    assert_close(&what, found, expected, 1e-5);
                }
            }
        }
    }
}

#[test]
fn a_transposed_view() {
    let run = |f: Attention, dtype| {
        let tokens_first = tracked([2, 21, 24], 1, dtype);
        let out = f(tokens_first.clone().swap_dims(1, 2), 2, QkvOrder::QkvFirst);
        let probe = tracked([2, 21, 8], 2, dtype).detach();
        let grads = (out.clone().swap_dims(1, 2) * probe).sum().backward();
        [values(out), values(tokens_first.grad(&grads).expect("of qkv"))]
    };
    let (found, expected) = (run(attention, DType::F32), run(reference::attention, DType::F64));
    assert_close("result", &found[0], &expected[0], 1e-5);
    assert_close("gradient", &found[1], &expected[1], 1e-5);
}

type Cross = fn(Tensor<3>, Tensor<3>, Tensor<3>, usize) -> Tensor<3>;

#[test]
fn queries_apart_from_keys() {
    let run = |f: Cross, n, c, queries, keys, heads, dtype| {
        let q = tracked([n, c, queries], 1, dtype);
        let [k, v] = [2, 3].map(|seed| tracked([n, c, keys], seed, dtype));
        let out = f(q.clone() * (16.0 / c as f64).sqrt(), k.clone(), v.clone(), heads);
        let probe = tracked(out.dims(), 4, dtype).detach();
        let grads = (out.clone() * probe).sum().backward();
        let of = |t: &Tensor<3>| values(t.grad(&grads).expect("a gradient"));
        [values(out), of(&q), of(&k), of(&v)]
    };
    for (n, c, queries, keys, heads) in
        [(1, 4, 1, 1, 1), (2, 80, 70, 77, 2), (1, 24, 33, 9, 3), (3, 40, 5, 130, 1), (1, 512, 36, 36, 1)]
    {
        let found = run(cross_attention, n, c, queries, keys, heads, DType::F32);
        let expected = run(reference::cross_attention, n, c, queries, keys, heads, DType::F64);
        for (what, (found, expected)) in ["result", "q", "k", "v"].iter().zip(found.iter().zip(&expected)) {
            assert_close(&format!("{what}, {n} x {c}, {queries} to {keys}"), found, expected, 1e-5);
        }
    }
}

/// Only what is tracked gets a gradient; the text that a network attends to is not.
#[test]
fn keys_that_are_not_tracked() {
    let q = tracked([1, 8, 20], 1, DType::F32);
    let [k, v] = [2, 3].map(|seed| tracked([1, 8, 7], seed, DType::F32).set_require_grad(false));
    let grads = cross_attention(q.clone(), k.clone(), v, 2).sum().backward();
    assert!(q.grad(&grads).is_some() && k.grad(&grads).is_none());
}
