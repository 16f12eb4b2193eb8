//! What a latent diffusion model takes of memory: its parts are there one after the other, so the largest counts.

use crate::models::Network;
use crate::models::stable_diffusion::LatentFiles;

/// The program, and the threads' scratch space.
const PROGRAM: u64 = 96 << 20;

/// Bytes at most, for latents of `height` by `width`, of which the U-Net sees `seen` at once.
pub(super) fn estimate(files: &LatentFiles, [height, width]: [usize; 2], seen: [usize; 2]) -> u64 {
    let text = PROGRAM + 4 * files.text_parameters() as u64;
    let unet = files.unet().forward_memory(seen[0], seen[1], 1);
    let autoencoder = PROGRAM + files.autoencoder().memory(height, width);
    text.max(unet).max(autoencoder)
}
