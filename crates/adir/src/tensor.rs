//! The one place with framework aliases and the helpers the framework lacks.

use burn::tensor::TensorData;

pub use adir_kernels::{Isa, bf16_products, keep_freed_memory, set_bf16_products};
pub use burn::tensor::{DType, Device, Tensor};

use crate::{Error, Result};

/// The CPU device, always available.
pub fn cpu() -> Device {
    Device::flex()
}

/// The device of that name: `cpu`, or `cuda`, `vulkan`, `metal`, `rocm` in builds with that feature; `:N`
/// behind a GPU's name picks the N-th (from 0).
///
/// # Errors
/// [`Error::Config`] for an unknown name, or a device this build was made without.
pub fn device(name: &str) -> Result<Device> {
    let (kind, index) = match name.split_once(':') {
        Some((kind, n)) => {
            let n = n.parse::<usize>().map_err(|_| Error::config(format!("device {name:?}: expected NAME:NUMBER")))?;
            (kind, n)
        }
        None => (name, 0),
    };
    match kind {
        "cpu" if index == 0 => Ok(cpu()),
        #[cfg(feature = "cuda")]
        "cuda" => Ok(Device::cuda(index)),
        #[cfg(feature = "rocm")]
        "rocm" => Ok(Device::rocm(index)),
        #[cfg(feature = "vulkan")]
        "vulkan" => Ok(Device::vulkan(gpu(index))),
        #[cfg(feature = "metal")]
        "metal" => Ok(Device::metal(gpu(index))),
        #[allow(unreachable_patterns)] // of what this build was made with
        "cuda" | "rocm" | "vulkan" | "metal" => Err(Error::config(format!(
            "this program was built without {kind}: build it again with `--features {kind}`, or use the device cpu"
        ))),
        _ => Err(Error::config(format!("unknown device {name:?}: expected cpu, cuda, vulkan, metal or rocm"))),
    }
}

/// The default GPU for 0, else the N-th discrete one.
#[cfg(any(feature = "vulkan", feature = "metal"))]
fn gpu(index: usize) -> burn::tensor::DeviceKind {
    if index == 0 { burn::tensor::DeviceKind::DefaultDevice } else { burn::tensor::DeviceKind::DiscreteGpu(index) }
}

/// Whether a device is the CPU.
pub fn is_cpu(device: &Device) -> bool {
    device.clone().inner() == cpu()
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
