//! What a latent diffusion model takes of memory: its parts are there one after the other, so the largest counts.

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
) -> u64 {
    let text = PROGRAM + 4 * files.text_parameters() as u64;
    let unet = files.unet().forward_memory(seen[0], seen[1], 1);
    let autoencoder = PROGRAM + files.autoencoder().memory(height, width);
    let training = training.map_or(0, |side| {
        // Both the weights and those with the factors added, and the maps of one crop.
        let weights = 4 * files.unet().layout().element_count() as u64;
        let encoding = files.autoencoder().memory(side, side);
        (weights + files.unet().gradient_memory(side, side, 1)).max(encoding + PROGRAM)
    });
    text.max(unet).max(autoencoder).max(training)
}
