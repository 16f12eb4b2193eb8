//! Stable Diffusion (Rombach et al., arXiv 2112.10752): a U-Net that is told a text, in the latents of an autoencoder; and
//! latent diffusion's super-resolution, which is told none.
//!
//! Parameters have the names of latent diffusion's checkpoints; those of diffusers are translated.

mod autoencoder;
mod autoencoder_blocks;
mod autoencoder_config;
mod config;
mod found;
mod json;
mod lora_files;
mod model;
mod names;
mod part;
#[cfg(test)]
mod published;
mod random;
mod schedulers;
mod space;
mod text;
mod transformer;
mod unet;

pub use autoencoder::{Autoencoder, Posterior};
pub use autoencoder_config::{AutoencoderConfig, Bottleneck};
pub use config::{ConditionalConfig, Level};
pub use lora_files::{add_lora, check_lora, save_lora};
pub use model::{LatentFiles, Purpose};
pub use random::{Architecture, write_random};
pub use schedulers::{Facts, LowRes, Spacing};
pub use space::Latents;
pub use text::TextEncoder;
pub(crate) use transformer::TOKENS;
pub use unet::ConditionalUNet;

/// The name in diffusers of the autoencoder's parameter with that name in latent diffusion.
pub fn diffusers_name(config: &AutoencoderConfig, name: &str) -> Option<String> {
    names::of_autoencoder(config, name, false)
}
