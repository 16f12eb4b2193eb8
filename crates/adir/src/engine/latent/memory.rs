//! What a latent diffusion model takes of memory: its parts are there one after the other, so the largest counts.

use crate::Result;
use crate::models::Network;
use crate::models::stable_diffusion::LatentFiles;

/// The program, and the threads' scratch space.
const PROGRAM: u64 = 96 << 20;

/// Bytes at most, for latents of `height` by `width`, of which the U-Net sees `seen` at once, and an adaptation to crops whose
/// latents have sides of `training`.
pub(super) fn estimate(
    files: &LatentFiles,
    [height, width]: [usize; 2],
    seen: [usize; 2],
    training: Option<usize>,
) -> Result<u64> {
    let [unet_bytes, autoencoder_bytes, text] = files.bytes()?;
    // The networks' own estimates count f32.
    let whole = |elements: usize| 4 * elements as u64;
    let saved = whole(files.unet().layout().element_count()) - unet_bytes;
    let saved_by_autoencoder = whole(files.autoencoder().layout().element_count()) - autoencoder_bytes;
    let text = PROGRAM + text;
    let unet = files.unet().forward_memory(seen[0], seen[1], 1) - saved;
    let autoencoder = PROGRAM + files.autoencoder().memory(height, width) - saved_by_autoencoder;
    let training = training.map_or(0, |side| {
        // Both the weights and those with the factors added, and the maps of one crop.
        let weights = whole(files.unet().layout().element_count());
        let encoding = files.autoencoder().memory(side, side) - saved_by_autoencoder;
        (weights + files.unet().gradient_memory(side, side, 1) - saved).max(encoding + PROGRAM)
    });
    Ok(text.max(unet).max(autoencoder).max(training))
}
