//! Files: the only module that touches paths.
//!
//! Everything read here is untrusted. Sizes are checked against the file before memory is taken for
//! them, damage is an [`Error`](crate::Error) that names the file, and nothing in a file is executed.
//! Everything is written through [`atomic`], so that no reader meets half a file.
//!
//! * [`image`], with [`side_inputs`] for masks and kernels: pixels to tensors and back, within [`limits`].
//! * [`weights`] - named tensors, from safetensors or PyTorch checkpoints.
//! * [`hash`] - SHA-256.
//!
//! Weight files, hashes and atomic writes are those of the crate `adir-weights`.

pub use adir_weights::{hash, open_regular};

mod alpha;
pub mod atomic;
mod codec;
pub mod ending;
pub(crate) mod exact;
mod exif;
mod fits_cards;
pub mod folder;
pub mod image;
pub mod light;
pub mod limits;
pub mod lines;
pub mod lossy;
mod metadata;
pub mod plain;
mod raster;
pub(crate) mod results;
mod scale;
pub mod shards;
pub mod side_inputs;
pub mod sidecar;
pub mod stack;
pub mod tally;
mod tar;
mod turned;
pub mod weights;
