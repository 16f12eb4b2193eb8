//! The one place with framework aliases and the helpers the framework lacks.

use burn::tensor::{DType, TensorData};

pub use burn::tensor::{Device, Tensor};

use crate::{Error, Result};

/// The CPU device, always available.
pub fn cpu() -> Device {
    Device::flex()
}

/// An f32 tensor from row-major values.
pub fn from_f32<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
}

/// An f64 tensor from row-major values.
pub fn from_f64<const D: usize>(values: Vec<f64>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), (device, DType::F64))
}

/// The values as f32, row-major, converted from whatever the tensor holds.
pub fn to_f32<const D: usize>(tensor: &Tensor<D>) -> Result<Vec<f32>> {
    tensor.try_to_vec_as::<f32>().map_err(|e| Error::Backend(format!("reading a tensor: {e:?}")))
}

/// The values as f64, row-major, converted from whatever the tensor holds.
pub fn to_f64<const D: usize>(tensor: &Tensor<D>) -> Result<Vec<f64>> {
    tensor.try_to_vec_as::<f64>().map_err(|e| Error::Backend(format!("reading a tensor: {e:?}")))
}

/// Errors with [`Error::Numerical`] naming `what` if any value is NaN or infinite.
pub fn check_finite<const D: usize>(tensor: &Tensor<D>, what: &str) -> Result<()> {
    let bad = to_f32(tensor)?.iter().filter(|v| !v.is_finite()).count();
    if bad == 0 {
        Ok(())
    } else {
        Err(Error::Numerical(format!("{what}: {bad} of {} values are not finite", tensor.shape().num_elements())))
    }
}
