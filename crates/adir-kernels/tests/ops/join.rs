//! Sums and joined channels against the framework's own: results, gradients, and what else holds the numbers.

use crate::common::{tracked, values};
use adir_kernels::{add, join_channels};
use burn::tensor::{DType, Tensor};

type Two = fn(Tensor<4>, Tensor<4>) -> Tensor<4>;

fn run(f: Two, [a, b]: [[usize; 4]; 2]) -> [Vec<f64>; 3] {
    let [a, b] = [(a, 1), (b, 2)].map(|(shape, seed)| tracked(shape, seed, DType::F32));
    let out = f(a.clone(), b.clone());
    let probe = tracked(out.dims(), 3, DType::F32).detach();
    let grads = (out.clone() * probe).sum().backward();
    [values(out), values(a.grad(&grads).expect("of a")), values(b.grad(&grads).expect("of b"))]
}

/// To the bit: each number is one sum, or a copy.
#[test]
fn results_and_gradients() {
    let join: Two = |a, b| Tensor::cat(vec![a, b], 1);
    for shape in [[1, 1, 1, 1], [2, 3, 5, 7], [1, 9, 64, 61], [3, 2, 2, 17]] {
        assert_eq!(run(add, [shape; 2]), run(|a, b| a + b, [shape; 2]), "{shape:?}");
        let [n, c, h, w] = shape;
        let other = [n, 2 * c + 1, h, w];
        assert_eq!(run(join_channels, [shape, other]), run(join, [shape, other]), "{shape:?}");
    }
}

/// Without gradients sums are taken in place: of a tensor that is held elsewhere, or is a part of another, only a copy may be.
#[test]
fn what_else_holds_the_numbers_keeps_them() {
    let plain = |shape, seed| tracked(shape, seed, DType::F32).detach().inner();
    let (a, b) = (plain([1, 4, 6, 8], 1), plain([1, 4, 6, 8], 2));
    let (of_a, of_b) = (values(a.clone()), values(b.clone()));
    let sum: Vec<f64> = of_a.iter().zip(&of_b).map(|(a, b)| f64::from((*a as f32) + (*b as f32))).collect();
    assert_eq!(values(add(a.clone(), b.clone())), sum);
    assert_eq!([values(a.clone()), values(b.clone())], [of_a, of_b.clone()]);
    // In place of b, then of a.
    assert_eq!(values(add(a.clone(), b)), sum);
    assert_eq!(values(add(a.clone(), plain([1, 4, 6, 8], 2))), sum);
    let part = a.clone().narrow(1, 1, 2);
    let expected = values(part.clone() + a.clone().narrow(1, 0, 2));
    assert_eq!(values(add(part, a.clone().narrow(1, 0, 2))), expected);
    assert_eq!(values(add(a, plain([1, 4, 6, 8], 2))), sum);
}
