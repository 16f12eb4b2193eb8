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
/// [`Error::Config`] for an unknown name, or a device this build was made without; [`Error::Backend`] where the
/// machine has no such device, or no driver for it.
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
            "this program was built without {kind}: build it again with `--features {kind}`, or use the device cpu"
        ))),
        _ => Err(Error::config(format!("unknown device {name:?}: expected cpu, cuda, vulkan, metal or rocm"))),
    }
}

/// The device, once it has added two numbers.
#[cfg(any(feature = "cuda", feature = "rocm", feature = "vulkan", feature = "metal"))]
fn answering(name: &str, device: Device) -> Result<Device> {
    let sum = catching(|| to_f32(&from_f32(vec![1.0, 2.0], [2], &device).sum()));
    let why = match sum {
        Ok(Ok(sum)) if sum == [3.0] => return Ok(device),
        Ok(Ok(sum)) => format!("1 + 2 gives {sum:?} on it"),
        Ok(Err(error)) => error.to_string(),
        Err(message) => message,
    };
    Err(Error::Backend(format!("device {name:?} cannot be used: {why}")))
}

/// What `task` returns, or the first line of the first panic on any thread meanwhile: the libraries for GPUs panic,
/// often on threads of their own, where there is no driver.
#[cfg(any(test, feature = "cuda", feature = "rocm", feature = "vulkan", feature = "metal"))]
fn catching<T>(task: impl FnOnce() -> T) -> std::result::Result<T, String> {
    use std::panic;
    use std::sync::{Arc, Mutex, PoisonError};
    let said: Arc<Mutex<Option<String>>> = Arc::default();
    let hook = panic::take_hook();
    panic::set_hook({
        let said = said.clone();
        Box::new(move |info| {
            let line = info.payload_as_str().and_then(|text| text.lines().next()).unwrap_or("it gave no reason");
            // Some list all names of all libraries that they looked for.
            let line = line.chars().take(200).collect();
            said.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(line);
        })
    });
    let result = panic::catch_unwind(panic::AssertUnwindSafe(task));
    panic::set_hook(hook);
    result.map_err(|_| said.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default())
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

#[cfg(test)]
mod tests {
    use super::catching;

    #[test]
    fn a_panic_below_becomes_the_reason_of_the_first_thread_that_failed() {
        assert_eq!(catching(|| 3), Ok(3));
        let failed = catching(|| {
            let below = std::thread::spawn(|| panic!("no adapter found\nmore"));
            below.join().expect("the device answers");
        });
        assert_eq!(failed, Err("no adapter found".into()));
    }
}
