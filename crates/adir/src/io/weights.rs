//! Model weights: named tensors in a safetensors file or a PyTorch checkpoint, read one at a time.

pub use adir_weights::{
    Dtype, TensorInfo, TensorSpec, TensorToWrite, WeightFile, stream_safetensors, write_safetensors,
};
