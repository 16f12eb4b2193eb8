//! The guided-diffusion U-Net (Dhariwal and Nichol 2021): configuration, network, checkpoints.
//!
//! A configuration is never guessed. It comes with the weights, or the weights have the structure of a published model.
//! Every name and shape must agree with it.

mod config;
mod keys;
mod net;

pub use config::{NORM_GROUPS, NoiseSchedule, UNetConfig};
pub use keys::{KeyReport, Shapes, infer, is_guided_diffusion};
pub use net::UNet;

use crate::Result;
use crate::io::weights::WeightFile;

/// The configuration in the metadata, or that of the published model of the same structure.
///
/// # Errors
/// [`crate::Error::Config`] as [`UNetConfig::from_json`] and [`infer`].
pub fn config_of(file: &WeightFile) -> Result<UNetConfig> {
    match file.metadata().get("config") {
        Some(text) => UNetConfig::from_json(text),
        None => infer(&shapes_of(file)),
    }
}

/// Names and shapes of a file's tensors.
pub fn shapes_of(file: &WeightFile) -> Shapes {
    file.names().filter_map(|name| Some((name.to_owned(), file.info(name)?.shape.clone()))).collect()
}
