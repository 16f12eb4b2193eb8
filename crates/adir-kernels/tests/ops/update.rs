//! The optimiser's passes against their definitions in double precision, also where a value is still held elsewhere.

use crate::common::{assert_close, numbers, values};
use adir_kernels::{AdamStep, adam_step, blend, reference};
use burn::tensor::{DType, Device, Tensor, TensorData};

fn plain(count: usize, seed: u64, dtype: DType) -> Tensor<1> {
    Tensor::from_data(TensorData::new(numbers(count, seed), [count]), (&Device::flex(), dtype))
}

#[test]
fn adam_and_averages() {
    let step = AdamStep {
        rate: 0.01,
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-8,
        weight_decay: 0.1,
        correction1: 0.271,
        correction2: 0.0297,
    };
    for count in [1, 7, 70_001] {
        let inputs = |dtype| {
            let squares = plain(count, 4, dtype);
            [plain(count, 1, dtype), plain(count, 2, dtype), plain(count, 3, dtype), squares.clone() * squares + 0.01]
        };
        let [w, g, m, v] = inputs(DType::F64);
        let (weight, [first, second]) = reference::adam_step(w.clone(), g.clone(), [m.clone(), v.clone()], &step);
        let average = reference::blend(w.clone(), m.clone(), 0.8);
        for shared in [false, true] {
            let [w32, g32, m32, v32] = inputs(DType::F32);
            let held = shared.then(|| [w32.clone(), m32.clone(), v32.clone()]);
            let blended = blend(w32.clone(), m32.clone(), 0.8);
            let (found, [found1, found2]) = adam_step(w32, g32, [m32, v32], &step);
            for (what, found, expected) in [
                ("weight", found, &weight),
                ("first moment", found1, &first),
                ("second moment", found2, &second),
                ("average", blended, &average),
            ] {
                assert_close(&format!("{what} of {count}"), &values(found), &values(expected.clone()), 1e-6);
            }
            for (held, original) in held.into_iter().flatten().zip([&w, &m, &v]) {
                assert_close("a value held elsewhere", &values(held), &values(original.clone()), 1e-7);
            }
        }
    }
}
