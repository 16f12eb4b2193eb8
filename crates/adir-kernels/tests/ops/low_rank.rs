//! Convolutions with low-rank factors: results and gradients against the chain rule through the whole weight, in double
//! precision, by the definitions.

use crate::common::{assert_close, numbers, tracked, values};
use adir_kernels::machine::{self, Machine};
use adir_kernels::{GroupNorm, Isa, Kernel, LowRank, conv2d, group_norm_conv2d, reference};
use burn::tensor::{DType, Device, Tensor, TensorData};

/// A convolution with factors.
#[derive(Debug, Clone, Copy)]
struct Case {
    x: [usize; 4],
    outputs: usize,
    rank: usize,
    kernel: usize,
    stride: usize,
    padding: usize,
    /// Groups of a normalisation in front.
    groups: Option<usize>,
}

const SCALE: f64 = 0.37;
const NAMES: [&str; 8] = ["result", "x", "a", "b", "bias", "gamma", "scale", "shift"];

/// Result and gradients: by the kernels from the merged weight in single precision, or from the factors themselves.
fn run(case: &Case, by_kernels: bool) -> Vec<Vec<f64>> {
    let Case { x: shape, outputs, rank, kernel, stride, padding, groups } = *case;
    let [n, c, ..] = shape;
    let dtype = if by_kernels { DType::F32 } else { DType::F64 };
    let x: Tensor<4> = tracked(shape, 1, dtype);
    let small = |t: Tensor<4>| (t.detach() * 0.3).detach().require_grad();
    let a = small(tracked([rank, c, kernel, kernel], 2, dtype));
    let b: Tensor<2> = tracked([outputs, rank], 3, dtype);
    let base: Tensor<4> = tracked([outputs, c, kernel, kernel], 4, dtype).detach();
    let bias: Tensor<1> = tracked([outputs], 5, dtype);
    let (gamma, beta): (Tensor<1>, Tensor<1>) = (tracked([c], 6, dtype), tracked([c], 7, dtype).detach());
    let (scale, shift): (Tensor<2>, Tensor<2>) = (tracked([n, c], 8, dtype), tracked([n, c], 9, dtype));
    let change = b.clone().matmul(a.clone().reshape([rank, c * kernel * kernel])) * SCALE;
    let merged = base + change.reshape([outputs, c, kernel, kernel]);
    let norm = groups.map(|groups| GroupNorm {
        groups,
        gamma: gamma.clone(),
        beta: beta.clone(),
        eps: 1e-5,
        scale_shift: Some((scale.clone(), shift.clone())),
        silu: true,
    });
    let out = match (by_kernels, norm) {
        (true, norm) => {
            let low_rank = Some(LowRank { a: a.clone(), b: b.clone(), scale: SCALE });
            let kernel = Kernel { low_rank, ..Kernel::from(merged.detach()) };
            match norm {
                Some(norm) => group_norm_conv2d(x.clone(), norm, kernel, bias.clone(), stride, padding),
                None => conv2d(x.clone(), kernel, Some(bias.clone()), stride, padding),
            }
        }
        (false, Some(GroupNorm { groups, gamma, beta, scale_shift, .. })) => {
            let h = reference::group_norm(x.clone(), groups, gamma, beta, 1e-5, scale_shift, true);
            reference::conv2d(h, merged, Some(bias.clone()), stride, padding)
        }
        (false, None) => reference::conv2d(x.clone(), merged, Some(bias.clone()), stride, padding),
    };
    let probe = tracked(out.dims(), 10, dtype).detach();
    let grads = (out.clone() * probe).sum().backward();
    let mut all = vec![values(out), values(x.grad(&grads).expect("of x"))];
    all.push(values(a.grad(&grads).expect("of a")));
    all.push(values(b.grad(&grads).expect("of b")));
    all.push(values(bias.grad(&grads).expect("of the bias")));
    if groups.is_some() {
        all.push(values(gamma.grad(&grads).expect("of gamma")));
        all.extend([scale, shift].map(|p| values(p.grad(&grads).expect("of scale and shift"))));
    }
    all
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for (x, outputs, rank, kernel, stride, padding) in [
        // Winograd: tiles that leave the image, several chunks, ranks of more than one panel, odd channels.
        ([1, 70, 19, 22], 50, 4, 3, 1, 1),
        ([2, 130, 13, 9], 66, 16, 3, 1, 1),
        ([1, 40, 130, 134], 48, 5, 3, 1, 1),
        ([1, 96, 14, 17], 100, 20, 3, 1, 0),
        ([1, 96, 14, 17], 100, 40, 3, 1, 2),
        // Direct, by the rank and from the whole weight's gradient.
        ([2, 90, 7, 5], 200, 16, 1, 1, 0),
        ([1, 60, 12, 13], 90, 4, 3, 2, 1),
        ([1, 3, 21, 20], 40, 16, 3, 1, 1),
        ([2, 24, 9, 10], 6, 16, 3, 1, 1),
        // Winograd, from the whole weight's gradient.
        ([1, 24, 33, 20], 20, 16, 3, 1, 1),
    ] {
        for groups in [None, Some(2)] {
            let groups = if x[1] % 2 == 0 { groups } else { None };
            all.push(Case { x, outputs, rank, kernel, stride, padding, groups });
        }
    }
    all
}

#[test]
fn gradients_of_factors_are_those_of_the_chain_rule() {
    for case in cases() {
        let (found, expected) = (run(&case, true), run(&case, false));
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_close(&format!("{} of {case:?}", NAMES[i]), found, expected, 2e-5);
        }
    }
}

/// On every instruction set, with and without Winograd's algorithm; the number of threads changes nothing.
#[test]
fn gradients_of_factors_on_every_machine() {
    let case = Case { x: [1, 70, 41, 70], outputs: 50, rank: 7, kernel: 3, stride: 1, padding: 1, groups: Some(2) };
    let expected = run(&case, false);
    for isa in Isa::available() {
        for winograd in [true, false] {
            let found = machine::with(Machine { isa: Some(isa), winograd }, || run(&case, true));
            for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                assert_close(&format!("{isa:?}, Winograd {winograd}, {}", NAMES[i]), found, expected, 2e-5);
            }
        }
    }
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool of threads");
        pool.install(|| run(&Case { x: [1, 40, 130, 134], ..case }, true))
    };
    assert!(on(1) == on(3), "gradients differ between 1 and 3 threads");
}

/// The definition in double precision, which stands in on devices without a kernel, against central differences.
#[test]
fn definition_with_factors_is_differentiated_right() {
    const STEP: f64 = 1e-5;
    let fixed = |shape: [usize; 4], seed| -> Tensor<4> { tracked(shape, seed, DType::F64).detach() };
    let shapes = ([2, 3, 5, 6], [2, 3, 3, 3], [4, 2]);
    let make = |values: Vec<f64>| {
        Tensor::<1>::from_data(TensorData::from(&values[..]), (&Device::flex().autodiff(), DType::F64))
    };
    let loss = |all: &Tensor<1>, merged_from: &Tensor<1>| {
        let parts = |t: &Tensor<1>| {
            let a = t.clone().narrow(0, 0, 54).reshape(shapes.1);
            (a, t.clone().narrow(0, 54, 8).reshape(shapes.2))
        };
        let ((a, b), (a0, b0)) = (parts(all), parts(merged_from));
        let merged = fixed([4, 3, 3, 3], 4) + (b0.matmul(a0.reshape([2, 27])) * SCALE).reshape([4, 3, 3, 3]);
        let kernel = Kernel { low_rank: Some(LowRank { a, b, scale: SCALE }), ..Kernel::from(merged.detach()) };
        let out = conv2d(fixed(shapes.0, 1), kernel, None, 1, 1);
        let probe = fixed([2, 4, 5, 6], 9);
        (out.clone() * out * probe).sum()
    };
    let start = numbers(62, 2);
    let at = make(start.clone()).require_grad();
    let gradient = values(at.grad(&loss(&at, &at.clone().detach()).backward()).expect("a gradient"));
    for place in (0..62).step_by(5) {
        let moved = |shift: f64| {
            let mut all = start.clone();
            all[place] += shift;
            let all = make(all);
            values(loss(&all, &all))[0]
        };
        let difference = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
        assert!((difference - gradient[place]).abs() < 1e-5 * difference.abs().max(1.0), "place {place}");
    }
}
