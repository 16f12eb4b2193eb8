//! [`widen`] on the framework's tensors.

use burn::backend::DispatchDevice;
use burn::tensor::{DType, Tensor};

use super::update::{flex, from_flex};
use super::{numbers, tensor};
use crate::numbers::widened;

/// f16 or bf16 numbers in f32: on all threads on the CPU device, by a cast elsewhere.
pub fn widen(narrow: Tensor<1>) -> Tensor<1> {
    let on_cpu = matches!(narrow.device().as_dispatch(), DispatchDevice::Flex(_));
    match narrow.dtype() {
        DType::F16 | DType::BF16 if on_cpu => {
            let len = narrow.dims()[0];
            from_flex(tensor(widened(numbers(&flex(narrow))), [len]))
        }
        _ => narrow.cast(DType::F32),
    }
}
