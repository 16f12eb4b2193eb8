//! upsample_nearest2 and avg_pool2 against their definitions: results and gradients.

use crate::common::{assert_close, tracked, values};
use adir_kernels::{avg_pool2, reference, upsample_nearest2};
use burn::tensor::{DType, Tensor};

fn run(f: fn(Tensor<4>) -> Tensor<4>, shape: [usize; 4], dtype: DType) -> [Vec<f64>; 2] {
    let x = tracked(shape, 1, dtype);
    let out = f(x.clone());
    let probe = tracked(out.dims(), 2, dtype).detach();
    let grads = (out.clone() * probe).sum().backward();
    [values(out), values(x.grad(&grads).expect("of x"))]
}

#[test]
fn results_and_gradients() {
    for shape in [[1, 1, 2, 2], [2, 3, 5, 7], [1, 33, 8, 6], [3, 2, 2, 17]] {
        let up = [run(upsample_nearest2, shape, DType::F32), run(reference::upsample_nearest2, shape, DType::F64)];
        let down = [run(avg_pool2, shape, DType::F32), run(reference::avg_pool2, shape, DType::F64)];
        for (name, [found, expected]) in [("upsample_nearest2", up), ("avg_pool2", down)] {
            for (what, (found, expected)) in ["result", "gradient"].iter().zip(found.iter().zip(&expected)) {
                assert_close(&format!("{name} of {shape:?}, {what}"), found, expected, 1e-6);
            }
        }
    }
}
