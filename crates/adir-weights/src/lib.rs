//! Bounded readers of untrusted weight files, and writers that never leave half a file.
//!
//! Weight files arrive from anywhere. Nothing in one is executed, no size that one declares is believed before the
//! file has been compared with it, and damage of any kind ends in an [`Error`] that names the file. No tensor
//! framework, no memory map, no `unsafe`.
//!
//! * [`WeightFile`]: named tensors of a safetensors file, a PyTorch checkpoint or NumPy's `.npz`, read one at a time, or all in one pass
//!   that also takes the file's SHA-256.
//! * [`stream_safetensors`] and [`write_safetensors`]: tensors to a safetensors file, whole or not at all.
//! * [`npy`]: NumPy's arrays of two dimensions.
//! * [`hash`] and [`atomic`]: SHA-256, and files that are written whole or not at all.
//!
//! ```
//! use std::collections::BTreeMap;
//!
//! use adir_weights::{Dtype, Error, TensorSpec, WeightFile, stream_safetensors};
//!
//! let path = std::env::temp_dir().join(format!("example-{}.safetensors", std::process::id()));
//! let specs = [
//!     TensorSpec { name: "weight", shape: &[2, 3], dtype: Dtype::F16 },
//!     TensorSpec { name: "bias", shape: &[2], dtype: Dtype::F32 },
//! ];
//! stream_safetensors(&path, &specs, &BTreeMap::new(), |index| {
//!     let count = specs[index].shape.iter().product();
//!     Ok::<_, Error>(vec![0.5; count])
//! })?;
//!
//! let file = WeightFile::open(&path)?;
//! let mut sum = 0.0;
//! let sha256 = file.stream(
//!     |name, info| name != "bias" && info.shape.len() == 2,
//!     |_, values| {
//!         sum += values.iter().sum::<f32>();
//!         Ok::<_, Error>(())
//!     },
//! )?;
//! assert_eq!(sum, 3.0);
//! assert_eq!(sha256, file.sha256()?);
//! # std::fs::remove_file(path).unwrap();
//! # Ok::<_, Error>(())
//! ```
#![forbid(unsafe_code)]
#![deny(missing_docs)]
#![cfg_attr(not(test), warn(clippy::unwrap_used))]

pub mod atomic;
mod collect;
mod error;
mod gather;
pub mod hash;
pub mod npy;
mod npz;
mod open;
mod pass;
mod pickle;
mod safetensors;
mod source;
mod torch;
mod weights;
mod writer;
mod zip;

pub use error::{Error, Result};
pub use hash::ContentHash;
pub use open::open_regular;
pub use weights::{Dtype, TensorInfo, WeightFile};
pub use writer::{TensorSpec, TensorToWrite, stream_safetensors, write_safetensors};
