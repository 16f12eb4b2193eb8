//! The prior that is part of the program.

use crate::Result;
use crate::io::weights::WeightFile;

static PRIOR: &[u8] = include_bytes!("../../../../assets/prior.safetensors");

/// The embedded prior's weights, a small guided-diffusion network; its model card is `assets/prior.md`.
///
/// # Errors
/// None in a program that was built whole.
pub fn embedded_prior() -> Result<WeightFile> {
    Ok(WeightFile::from_bytes("<embedded prior>", PRIOR)?)
}
