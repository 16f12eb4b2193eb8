//! conv2d against the definition in double precision: results and all gradients.

use crate::common::{assert_close, numbers, tracked, values};
use adir_kernels::machine::{self, Machine};
use adir_kernels::{Isa, conv2d, reference};
use burn::tensor::{DType, Tensor};

type Conv = fn(Tensor<4>, Tensor<4>, Option<Tensor<1>>, usize, usize) -> Tensor<4>;

struct Case {
    x: [usize; 4],
    outputs: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
}

/// Result, then the gradients of x, weight and bias for a fixed weighting of the result.
fn run(conv: Conv, case: &Case, dtype: DType) -> Vec<Vec<f64>> {
    let x = tracked(case.x, 1, dtype);
    let weight = tracked([case.outputs, case.x[1], case.kernel, case.kernel], 2, dtype);
    let bias = tracked([case.outputs], 3, dtype);
    let out = conv(x.clone(), weight.clone(), Some(bias.clone()), case.stride, case.padding);
    let probe = tracked(out.dims(), 4, dtype).detach();
    let grads = (out.clone() * probe).sum().backward();
    let gradients = [
        values(x.grad(&grads).expect("a gradient of x")),
        values(weight.grad(&grads).expect("a gradient of weight")),
        values(bias.grad(&grads).expect("a gradient of bias")),
    ];
    [vec![values(out)], gradients.to_vec()].concat()
}

fn check(case: &Case) {
    let found = run(conv2d, case, DType::F32);
    let expected = run(reference::conv2d, case, DType::F64);
    for (i, what) in ["result", "gradient of x", "gradient of weight", "gradient of bias"].iter().enumerate() {
        let Case { x, outputs, kernel, stride, padding } = case;
        let what = format!("{what}, x {x:?}, {outputs} outputs, kernel {kernel}, stride {stride}, padding {padding}");
        assert_close(&what, &found[i], &expected[i], 1e-5);
    }
}

fn sweep(kernel: usize, stride: usize, padding: usize) {
    let images = [[1, 1, 3, 3], [1, 3, 5, 7], [2, 32, 9, 6], [1, 96, 8, 8], [3, 33, 16, 17], [1, 40, 23, 19]];
    for x in images {
        for outputs in [6, 32, 70] {
            check(&Case { x, outputs, kernel, stride, padding });
        }
    }
}

#[test]
fn three_by_three() {
    sweep(3, 1, 1);
    check(&Case { x: [2, 5, 1, 1], outputs: 4, kernel: 3, stride: 1, padding: 1 });
}

/// One, two or three rows or columns of results behind the last whole tile, on every instruction set.
#[test]
fn three_by_three_with_tiles_cut_by_the_border() {
    let isas = Isa::available();
    for height in 32..36 {
        for width in 32..36 {
            let case = Case { x: [2, 16, height, width], outputs: 18, kernel: 3, stride: 1, padding: 1 };
            for &isa in &isas {
                machine::with(Machine { isa: Some(isa), ..Machine::default() }, || check(&case));
            }
        }
    }
}

#[test]
fn three_by_three_without_padding() {
    sweep(3, 1, 0);
}

#[test]
fn three_by_three_stride_two() {
    sweep(3, 2, 1);
    check(&Case { x: [2, 5, 1, 1], outputs: 4, kernel: 3, stride: 2, padding: 1 });
}

#[test]
fn one_by_one() {
    sweep(1, 1, 0);
    check(&Case { x: [2, 5, 1, 1], outputs: 4, kernel: 1, stride: 1, padding: 0 });
}

#[test]
fn one_by_one_stride_two() {
    sweep(1, 2, 0);
}

#[test]
fn unusual_kernels() {
    sweep(2, 2, 0);
    check(&Case { x: [1, 3, 20, 21], outputs: 9, kernel: 5, stride: 3, padding: 4 });
}

#[test]
fn a_transposed_view() {
    let case = Case { x: [2, 8, 6, 9], outputs: 5, kernel: 3, stride: 1, padding: 1 };
    let run = |conv: Conv, dtype| {
        let x = tracked([2, 8, 9, 6], 1, dtype);
        let weight = tracked([8, 5, 3, 3], 2, dtype);
        let out = conv(x.clone().swap_dims(2, 3), weight.clone().swap_dims(0, 1), None, case.stride, case.padding);
        // A weighting that makes the incoming gradient a view as well.
        let probe = tracked([2, 5, 9, 6], 4, dtype).detach();
        let grads = (out.clone().swap_dims(2, 3) * probe).sum().backward();
        let gradients = [values(x.grad(&grads).expect("of x")), values(weight.grad(&grads).expect("of weight"))];
        [vec![values(out)], gradients.to_vec()].concat()
    };
    let (found, expected) = (run(conv2d, DType::F32), run(reference::conv2d, DType::F64));
    for (i, what) in ["result", "gradient of x", "gradient of weight"].iter().enumerate() {
        assert_close(what, &found[i], &expected[i], 1e-5);
    }
}

/// Packed weights are kept between calls: a weight changed in place must not meet its old packed form.
#[test]
fn a_changed_weight_is_packed_again() {
    let device = burn::tensor::Device::flex();
    let make = |values: Vec<f64>, shape: [usize; 4]| {
        Tensor::<4>::from_data(burn::tensor::TensorData::new(values, shape), (&device, DType::F32))
    };
    let x = make(numbers(8 * 6 * 6, 1), [1, 8, 6, 6]);
    let mut weight = make(numbers(4 * 8 * 9, 2), [4, 8, 3, 3]);
    for round in 0..4 {
        let found = conv2d(x.clone(), weight.clone(), None, 1, 1);
        let expected = reference::conv2d(x.clone(), weight.clone(), None, 1, 1);
        assert_close(&format!("round {round}"), &values(found), &values(expected), 1e-5);
        weight = if round % 2 == 0 { weight.mul_scalar(1.5) } else { weight.slice_fill([0..1, 0..1], 0.25) };
    }
}
