//! What a latent diffusion model takes of memory: its parts are there one after the other, so the largest counts.

use crate::Result;
use crate::latent::LatentTraining;
use crate::models::Network;
use crate::models::params::ParamSpec;
use crate::models::stable_diffusion::LatentFiles;
use crate::tensor::DType;

/// The program, and the threads' scratch space.
const PROGRAM: u64 = 96 << 20;

/// Bytes at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Needs {
    /// Of a run whose parts are there one after the other.
    pub alone: u64,
    /// Of one that keeps U-Net and autoencoder for the next.
    pub kept: u64,
}

/// Bytes for latents of `height` by `width`, of which the U-Net sees `seen` at once, and an adaptation. Fitted to measured
/// peaks (docs/results/stable-diffusion.md).
pub(super) fn estimate(
    files: &LatentFiles,
    [height, width]: [usize; 2],
    seen: [usize; 2],
    training: Option<&LatentTraining>,
) -> Result<Needs> {
    let [unet_bytes, autoencoder_bytes, text] = files.bytes()?;
    // The networks' own estimates count f32.
    let whole = |elements: usize| 4 * elements as u64;
    let saved = whole(files.unet().layout().element_count()) - unet_bytes;
    let saved_by_autoencoder = whole(files.autoencoder().layout().element_count()) - autoencoder_bytes;
    let text = PROGRAM + text;
    let unet = files.unet().forward_memory(seen[0], seen[1], 1, DType::F32) - saved;
    let autoencoder = PROGRAM + files.autoencoder().memory(height, width) - saved_by_autoencoder;
    // What lies beside the other part where both are kept: its weights, as the kernels read them, too.
    let unet_kept = files.unet().weights_memory() - saved;
    let autoencoder_kept = autoencoder_bytes;
    let (adapted, training, encoding) = training.map_or((0, 0, 0), |training| {
        /// Of the factors: themselves, average, two moments, gradient.
        const COPIES: usize = 5;
        /// Of all weights, besides the base: themselves, two moments, gradients. An average is one more, and the sum of the
        /// gradients of several crops.
        const COPIES_OF_ALL: u64 = 4;
        /// Maps of transformers and residual blocks take more than the networks' own estimate says, in percent.
        const MAPS: u64 = 160;
        let side = training.crop / files.autoencoder().config().factor();
        let adapted = files.unet().layout().specs().iter().filter(|spec| training.layers.include(spec.role));
        let factors = |spec: &ParamSpec| training.rank * (spec.shape[0] + spec.len() / spec.shape[0]);
        let changed = match training.full {
            true => whole(files.unet().layout().element_count()),
            false => whole(adapted.clone().map(ParamSpec::len).sum()),
        };
        // The weights with the factors added lie beside the others, and the maps of one crop.
        let added = match training.full {
            true => (COPIES_OF_ALL + u64::from(training.ema > 0.0) + u64::from(training.batch > 1)) * changed,
            false => changed + whole(COPIES * adapted.map(factors).sum::<usize>()),
        };
        let (net, none) = (files.unet(), files.unet().gradient_memory(0, 0, 1, DType::F32));
        let maps = (net.gradient_memory(side, side, 1, DType::F32) - none) * MAPS / 100;
        let encoding = files.autoencoder().memory(side, side) - saved_by_autoencoder;
        (changed, none - saved + added + maps, encoding + PROGRAM)
    });
    let beside_unet = (unet + adapted).max(training) + autoencoder_kept;
    let beside_autoencoder = autoencoder.max(encoding) + unet_kept;
    Ok(Needs {
        alone: text.max(unet).max(autoencoder).max(training).max(encoding),
        kept: text.max(beside_unet).max(beside_autoencoder),
    })
}
