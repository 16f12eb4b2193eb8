//! Named settings of what is done in latents.

use super::adapt::LatentTraining;
use crate::adapt::CropScale;
use crate::task::Preset;

/// The settings of a preset for a task. What the paper leaves open, guidance scale and eta among it, is that of the model's
/// publication in every preset.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct LatentPreset {
    /// Steps of DDIM.
    pub steps: usize,
    /// Nearest images to adapt to.
    pub neighbours: usize,
    /// Whether adapted weights are used only if held-out crops are denoised better with them.
    pub if_better: bool,
    /// How an adaptation trains.
    pub training: LatentTraining,
    /// Where the settings come from.
    pub origin: &'static str,
}

impl LatentPreset {
    /// For Stable Diffusion's x4 upscaler.
    pub fn upscaling(preset: Preset) -> Self {
        Self::new(preset, 75, LatentTraining::upscaler())
    }

    /// For editing with an inpainting model.
    pub fn editing(preset: Preset) -> Self {
        Self::new(preset, 50, LatentTraining::inpainting())
    }

    fn new(preset: Preset, steps: usize, training: LatentTraining) -> Self {
        /// K of Table 4.
        const NEIGHBOURS: usize = 50;
        match preset {
            Preset::Fast => Self {
                steps,
                neighbours: NEIGHBOURS,
                if_better: true,
                training,
                origin: "steps of the model's publication, training by low-rank factors",
            },
            Preset::Paper => {
                let full = LatentTraining { full: true, scale: CropScale::Resized, held_out: false, ..training };
                Self {
                    steps: 500,
                    neighbours: NEIGHBOURS,
                    if_better: false,
                    training: full.with_crops_as_drawn(NEIGHBOURS),
                    origin: "Table 4 of the paper, all weights trained",
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows SD and ADIR-SD of the paper's Table 4: steps, training steps, learning rate, average, K; batches of 6.
    #[test]
    fn the_paper_is_followed_to_the_letter() {
        for (found, iterations, rate, ema) in [
            (LatentPreset::upscaling(Preset::Paper), 400, 1e-4, 0.95),
            (LatentPreset::editing(Preset::Paper), 1000, 1e-6, 0.0),
        ] {
            let training = &found.training;
            assert_eq!((found.steps, found.neighbours, found.if_better), (500, 50, false));
            assert_eq!((training.iterations, training.rate, training.ema, training.batch), (iterations, rate, ema, 6));
            assert!(training.full && !training.held_out && training.check(64).is_ok());
        }
        assert_eq!(LatentPreset::upscaling(Preset::Paper).training.crops_per_image, 48);
    }
}
