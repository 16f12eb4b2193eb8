//! Model weights: named tensors in a safetensors file or a PyTorch checkpoint, read one at a time.

pub use adir_weights::{Dtype, TensorInfo, TensorToWrite, WeightFile, write_safetensors};
