//! Aliases of framework types, and helpers that the framework lacks.

use burn::tensor::TensorData;

pub use adir_kernels::{Isa, OrExit, keep_freed_memory, refuse_large_files};
pub use burn::tensor::{DType, Device, Gradients, Tensor};

use crate::{Error, Result};

/// Where and how a network computes.
#[derive(Debug, Clone, PartialEq)]
pub struct Compute {
    /// Where its weights and maps lie.
    pub device: Device,
    /// Their precision.
    pub dtype: DType,
    /// Whether convolutions on the CPU that are computed as direct sums multiply bfloat16 numbers and add up in f32;
    /// weights and maps stay as they are. Faster where [`Isa::has_bf16_products`], much slower elsewhere.
    pub bf16_products: bool,
    /// f16 or bf16 where the weights of convolutions and linear layers are kept in that; they are widened to [`Compute::dtype`]
    /// when a layer runs.
    pub kept_in: Option<DType>,
}

impl Compute {
    /// On `device` in precision `dtype`, every product in that precision.
    pub fn new(device: &Device, dtype: DType) -> Self {
        Self { device: device.clone(), dtype, bf16_products: false, kept_in: None }
    }
}

/// f32 on the CPU.
impl Default for Compute {
    fn default() -> Self {
        Self::new(&cpu(), DType::F32)
    }
}

/// The CPU device, always available.
pub fn cpu() -> Device {
    Device::flex()
}

/// Opens a device by name: `cpu`, or in builds with that feature `cuda`, `vulkan`, `metal` or `rocm`. `NAME:N` is the
/// N-th GPU, counted from 0.
///
/// # Errors
/// [`Error::Config`] for an unknown name or a device missing from this build; [`Error::Backend`] when the machine has
/// no such device or driver.
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
        "cuda" => answering(name, Device::cuda(index)),
        #[cfg(feature = "rocm")]
        "rocm" => answering(name, Device::rocm(index)),
        #[cfg(feature = "vulkan")]
        "vulkan" => answering(name, Device::vulkan(gpu(index))),
        #[cfg(feature = "metal")]
        "metal" => answering(name, Device::metal(gpu(index))),
        #[allow(unreachable_patterns)] // of what this build was made with
        "cuda" | "rocm" | "vulkan" | "metal" => Err(Error::config(format!(
            "this program was built without {kind}: rebuild it with `--features {kind}`, or use --device cpu"
        ))),
        _ => Err(Error::config(format!("unknown device {name:?}: expected cpu, cuda, vulkan, metal or rocm"))),
    }
}

/// The device, after a test that it can add two numbers.
#[cfg(any(feature = "cuda", feature = "rocm", feature = "vulkan", feature = "metal"))]
fn answering(name: &str, device: Device) -> Result<Device> {
    let sum = catching(|| to_f32(&from_f32(vec![1.0, 2.0], [2], &device).sum()));
    let why = match sum {
        Ok(Ok(sum)) if sum == [3.0] => return Ok(device),
        Ok(Ok(sum)) => format!("it computes 1 + 2 = {sum:?}"),
        Ok(Err(error)) => error.to_string(),
        Err(message) => message,
    };
    Err(Error::Backend(format!("device {name:?} cannot be used: {why}")))
}

/// What `task` returns, or the first line of what it panicked with: the libraries for GPUs panic where there is no
/// driver.
#[cfg(any(test, feature = "cuda", feature = "rocm", feature = "vulkan", feature = "metal"))]
fn catching<T>(task: impl FnOnce() -> T) -> std::result::Result<T, String> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(task)).map_err(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str).or_else(|| payload.downcast_ref().copied());
        let line = text.and_then(|text| text.lines().next()).unwrap_or("no reason given");
        // Some list all names of all libraries that they looked for.
        line.chars().take(200).collect()
    })
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
    tensor.try_to_vec_as::<f32>().map_err(|e| Error::Backend(format!("cannot read a tensor: {e:?}")))
}

/// The values as f64, row-major, converted from whatever the tensor holds.
pub fn to_f64<const D: usize>(tensor: &Tensor<D>) -> Result<Vec<f64>> {
    tensor.try_to_vec_as::<f64>().map_err(|e| Error::Backend(format!("cannot read a tensor: {e:?}")))
}

/// [`to_f64`] of a tensor that is not needed any more: without a copy, where it holds f64 on the host and nothing else does.
pub fn into_f64<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f64>> {
    tensor.try_into_vec_as::<f64>().map_err(|e| Error::Backend(format!("cannot read a tensor: {e:?}")))
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

#[cfg(test)]
mod tests {
    use super::catching;

    #[test]
    fn a_panic_becomes_its_first_line() {
        assert_eq!(catching(|| 3), Ok(3));
        assert_eq!(catching(|| panic!("no adapter found\nmore")), Err::<(), _>("no adapter found".into()));
        assert_eq!(catching(|| panic!("{} adapters\nmore", 0)), Err::<(), _>("0 adapters".into()));
        assert_eq!(catching(|| std::panic::panic_any(7)), Err::<(), _>("no reason given".into()));
    }
}
