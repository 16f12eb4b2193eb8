//! Bounded readers of untrusted weight files, and writers that never leave half a file.
//!
//! Weight files arrive from anywhere. Nothing in one is executed, no size that one declares is believed before the
//! file has been compared with it, and damage of any kind ends in an [`Error`] that names the file. No tensor
//! framework, no memory map, no `unsafe`.
//!
//! * [`WeightFile`]: named tensors of a safetensors file or a PyTorch checkpoint, read one at a time.
//! * [`write_safetensors`]: tensors to a safetensors file, whole or not at all.
//! * [`npy`]: NumPy's arrays of two dimensions.
//! * [`hash`] and [`atomic`]: SHA-256, and files that are written whole or not at all.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod atomic;
mod error;
pub mod hash;
pub mod npy;
mod pickle;
mod safetensors;
mod source;
mod torch;
mod weights;
mod zip;

pub use error::{Error, Result};
pub use safetensors::{TensorToWrite, write_safetensors};
pub use weights::{Dtype, TensorInfo, WeightFile};
