//! What must not matter: the instruction set (beyond rounding), the number of threads (at all).

use crate::common::{assert_close, tracked, values};
use crate::norm_conv;
use adir_kernels::machine::{self, Machine};
use adir_kernels::{Isa, Kernel, QkvOrder, attention, conv2d, group_norm, reference};
use burn::tensor::{DType, Tensor};

/// On an instruction set.
fn on<T: Send>(isa: Isa, task: impl FnOnce() -> T + Send) -> T {
    machine::with(Machine { isa: Some(isa), ..Machine::default() }, task)
}

/// Results and gradients of every kind of kernel, by the kernels or by the definitions.
fn everything(by_kernels: bool, dtype: DType) -> Vec<(&'static str, Vec<f64>)> {
    let conv: fn(Tensor<4>, Tensor<4>, Option<Tensor<1>>, usize, usize) -> Tensor<4> =
        if by_kernels { conv2d } else { reference::conv2d };
    let norm = if by_kernels { group_norm } else { reference::group_norm };
    let attend = if by_kernels { attention } else { reference::attention };
    let mut all = Vec::new();
    // Winograd with few and with many groups of tiles, direct, strided, one by one.
    for (shape, outputs, kernel, stride) in [
        ([1, 40, 19, 22], 50, 3, 1),
        ([2, 16, 70, 66], 24, 3, 1),
        ([2, 6, 9, 11], 35, 3, 1),
        ([1, 20, 12, 13], 40, 3, 2),
    ] {
        let x = tracked(shape, 1, dtype);
        let weight = tracked([outputs, shape[1], kernel, kernel], 2, dtype);
        let bias = tracked([outputs], 3, dtype);
        let out = conv(x.clone(), weight.clone(), Some(bias), stride, kernel / 2);
        let probe = tracked(out.dims(), 4, dtype).detach();
        let grads = (out.clone() * probe).sum().backward();
        all.push(("conv2d", values(out)));
        all.push(("conv2d, x", values(x.grad(&grads).expect("of x"))));
        all.push(("conv2d, weight", values(weight.grad(&grads).expect("of weight"))));
    }
    let x = tracked([2, 24, 9, 15], 1, dtype);
    let (gamma, beta) = (tracked([24], 2, dtype), tracked([24], 3, dtype));
    let out = norm(x.clone(), 8, gamma.clone(), beta, 1e-5, None, true);
    let grads = (out.clone() * tracked([2, 24, 9, 15], 4, dtype).detach()).sum().backward();
    all.push(("group_norm", values(out)));
    all.push(("group_norm, x", values(x.grad(&grads).expect("of x"))));
    all.push(("group_norm, gamma", values(gamma.grad(&grads).expect("of gamma"))));
    for x in [[2, 24, 9, 15], [1, 40, 12, 20]] {
        let case = norm_conv::Case { x, groups: 8, outputs: 20, kernel: 3, stride: 1, scaled: true, silu: true };
        let found = norm_conv::run(&case, if by_kernels { dtype } else { DType::F64 });
        all.extend(found.into_iter().map(|values| ("group_norm_conv2d", values)));
    }
    let qkv: Tensor<3> = tracked([2, 3 * 44, 70], 1, dtype);
    let out = attend(qkv.clone(), 2, QkvOrder::QkvFirst);
    let grads = (out.clone() * tracked([2, 44, 70], 2, dtype).detach()).sum().backward();
    all.push(("attention", values(out)));
    all.push(("attention, qkv", values(qkv.grad(&grads).expect("of qkv"))));
    all
}

#[test]
fn every_instruction_set_agrees_with_the_definitions() {
    let expected = everything(false, DType::F64);
    let mut by_isa = Vec::new();
    for isa in Isa::available() {
        let found = on(isa, || {
            assert_eq!(Isa::active(), isa);
            everything(true, DType::F32)
        });
        for ((what, found), (_, expected)) in found.iter().zip(&expected) {
            assert_close(&format!("{isa:?}: {what}"), found, expected, 1e-5);
        }
        by_isa.push(found);
    }
    assert!(by_isa.windows(2).all(|two| two[0] != two[1]), "two instruction sets compute the same bits");
    assert!(Isa::available().contains(&Isa::Portable));
    assert_eq!(Isa::available().last(), Some(&Isa::active()), "the widest set is the one in use");
}

/// What is changed for a test is changed on its threads and nowhere else.
#[test]
fn another_machine_stays_on_its_own_threads() {
    let plain = everything(true, DType::F32);
    let (meanwhile, other) = std::thread::scope(|scope| {
        let other = scope.spawn(|| on(Isa::Portable, || everything(true, DType::F32)));
        (everything(true, DType::F32), other.join().expect("a result"))
    });
    assert!(plain == meanwhile, "another thread's instruction set has changed the result");
    assert!(Isa::active() == Isa::Portable || plain != other);
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool of threads");
        pool.install(|| everything(true, DType::F32))
    };
    let one = on(1);
    for threads in [2, 3] {
        for ((what, expected), (_, found)) in one.iter().zip(on(threads)) {
            assert!(*expected == found, "{what} differs between 1 and {threads} threads");
        }
    }
}

/// Winograd's algorithm rounds more than the direct sum, but no more than promised, and can be turned off.
#[test]
fn winograd_rounds_little_and_can_be_turned_off() {
    let run = |conv: fn(Tensor<4>, Tensor<4>, Option<Tensor<1>>, usize, usize) -> Tensor<4>, dtype| {
        let x = tracked([1, 256, 16, 16], 1, dtype);
        let weight = tracked([64, 256, 3, 3], 2, dtype);
        let out = conv(x.clone(), weight.clone(), None, 1, 1);
        let grads = (out.clone() * tracked(out.dims(), 3, dtype).detach()).sum().backward();
        [values(out), values(x.grad(&grads).expect("of x")), values(weight.grad(&grads).expect("of weight"))]
    };
    let expected = run(reference::conv2d, DType::F64);
    let fast = run(conv2d, DType::F32);
    let direct = machine::with(Machine { winograd: false, ..Machine::default() }, || run(conv2d, DType::F32));
    for (i, what) in ["result", "gradient of x", "gradient of weight"].iter().enumerate() {
        assert_close(&format!("{what}, Winograd"), &fast[i], &expected[i], 5e-6);
        assert_close(&format!("{what}, direct"), &direct[i], &expected[i], 1e-6);
        assert!(fast[i] != direct[i], "{what}: the switch changes nothing");
    }
}

/// Numbers rounded to bfloat16, by a library.
fn rounded<const D: usize>(tensor: &Tensor<D>) -> Tensor<D> {
    let numbers =
        values(tensor.clone()).into_iter().map(|v| half::bf16::from_f32(v as f32).to_f64()).collect::<Vec<_>>();
    let data = burn::tensor::TensorData::new(numbers, tensor.dims());
    Tensor::from_data(data, (&tensor.device(), DType::F64))
}

/// With bfloat16 products both factors are rounded and nothing else: the direct sums are those of rounded numbers;
/// Winograd's and gradients of weights stay as they are. On every instruction set.
#[test]
fn bf16_products_round_the_factors_and_nothing_else() {
    fn with_bf16(x: Tensor<4>, w: Tensor<4>, bias: Option<Tensor<1>>, stride: usize, padding: usize) -> Tensor<4> {
        conv2d(x, Kernel { bf16_products: true, ..Kernel::from(w) }, bias, stride, padding)
    }
    for isa in Isa::available() {
        for (shape, outputs, kernel, stride, direct) in [
            ([1, 40, 19, 22], 50, 3, 1, false),
            ([2, 6, 9, 11], 36, 3, 1, true),
            ([1, 20, 12, 13], 40, 3, 2, true),
            ([2, 130, 5, 7], 34, 1, 1, true),
        ] {
            let what = format!("{isa:?}: {shape:?} to {outputs}, {kernel}x{kernel} by {stride}");
            let run = |conv: fn(Tensor<4>, Tensor<4>, Option<Tensor<1>>, usize, usize) -> Tensor<4>, dtype, round| {
                let given = |t: Tensor<4>| if round { rounded(&t.detach()).require_grad() } else { t };
                let x = given(tracked(shape, 1, dtype));
                let weight = given(tracked([outputs, shape[1], kernel, kernel], 2, dtype));
                let bias = tracked([outputs], 3, dtype);
                let out = conv(x.clone(), weight.clone(), Some(bias), stride, kernel / 2);
                let probe = given(tracked(out.dims(), 4, dtype)).detach();
                let grads = (out.clone() * probe).sum().backward();
                [values(out), values(x.grad(&grads).expect("of x")), values(weight.grad(&grads).expect("of weight"))]
            };
            let single = on(isa, || run(conv2d, DType::F32, false));
            let found = on(isa, || run(with_bf16, DType::F32, false));
            let expected = run(reference::conv2d, DType::F64, direct);
            assert_close(&what, &found[0], &expected[0], 5e-6);
            assert_close(&format!("{what}, x"), &found[1], &expected[1], 5e-6);
            assert!((found[0] != single[0]) == direct && (found[1] != single[1]) == direct, "{what}: the switch");
            assert!(found[2] == single[2], "{what}: the gradient of the weight has changed");
        }
    }
}
