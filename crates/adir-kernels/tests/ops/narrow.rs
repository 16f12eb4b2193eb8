//! Weights kept in f16 and bf16: the same bits as with the same weights in f32.

use crate::common::{tracked, values};
use adir_kernels::{GroupNorm, conv2d, group_norm_conv2d, widen};
use burn::tensor::{DType, Tensor};

/// Result and gradient of x for a weight as it is kept and for the same in f32.
fn both(x: [usize; 4], weight: [usize; 4], stride: usize, padding: usize, kept_in: DType, normal: bool) {
    let image = tracked(x, 1, DType::F32);
    let narrow = tracked(weight, 2, DType::F32).detach().inner().cast(kept_in);
    let wide = narrow.clone().cast(DType::F32);
    let bias: Tensor<1> = tracked([weight[0]], 3, DType::F32);
    let run = |weight: Tensor<4>| {
        let weight = weight.autodiff();
        let out = if normal {
            let [gamma, beta] = [4, 5].map(|seed| tracked([x[1]], seed, DType::F32));
            let norm = GroupNorm { groups: 1, gamma, beta, eps: 1e-5, scale_shift: None, silu: true };
            group_norm_conv2d(image.clone(), norm, weight, bias.clone(), stride, padding)
        } else {
            conv2d(image.clone(), weight, Some(bias.clone()), stride, padding)
        };
        let probe = tracked(out.dims(), 6, DType::F32).detach();
        let gradients = (out.clone() * probe).sum().backward();
        [values(out), values(image.grad(&gradients).expect("a gradient of x"))]
    };
    let what = format!("x {x:?}, weight {weight:?}, stride {stride}, padding {padding}, {kept_in:?}, normal {normal}");
    assert!(run(narrow) == run(wide), "{what}");
}

#[test]
fn weights_of_half_as_many_bits_give_the_bits_of_the_same_weights_in_f32() {
    for kept_in in [DType::F16, DType::BF16] {
        for normal in [false, true] {
            // Winograd's algorithm, with a whole panel and without; direct sums; one tap, more than is turned at once.
            both([1, 32, 24, 24], [64, 32, 3, 3], 1, 1, kept_in, normal);
            both([1, 33, 17, 19], [45, 33, 3, 3], 1, 1, kept_in, normal);
            both([1, 16, 9, 8], [40, 16, 3, 3], 2, 1, kept_in, normal);
            both([2, 3, 5, 7], [6, 3, 3, 3], 1, 1, kept_in, normal);
            both([1, 300, 6, 5], [70, 300, 1, 1], 1, 0, kept_in, normal);
        }
    }
}

#[test]
fn widening_is_exact() {
    for kept_in in [DType::F16, DType::BF16] {
        let narrow = tracked([40_000], 7, DType::F32).inner().cast(kept_in);
        assert_eq!(values(widen(narrow.clone())), values(narrow.cast(DType::F32)));
    }
}
