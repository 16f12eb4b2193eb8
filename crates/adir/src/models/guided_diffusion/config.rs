//! Configuration of a guided-diffusion U-Net, with the names of the reference's constructor.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::io::sidecar::sidecar_config;
use crate::models::{DenoiserInfo, PredictionKind};
use crate::schedule::{BetaSchedule, Schedule, VarianceKind};
use crate::{Error, Result};

/// Which beta schedule the network was trained with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NoiseSchedule {
    /// [`BetaSchedule::Linear`].
    Linear,
    /// [`BetaSchedule::Cosine`].
    Cosine,
}

/// Configuration of the network and of the diffusion it was trained for.
///
/// Names and meanings are those of the reference network's constructor: `attention_resolutions` are
/// down-sampling factors (8 = the level at 1/8 of the side). Unknown keys are refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UNetConfig {
    /// Side of the training images; informative, any multiple of [`UNetConfig::size_multiple`] works.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_size: Option<usize>,
    /// Image channels.
    pub in_channels: usize,
    /// Base width.
    pub model_channels: usize,
    /// `in_channels` (eps) or twice that (eps and the learned-range variance).
    pub out_channels: usize,
    /// Residual blocks per level.
    pub num_res_blocks: usize,
    /// Down-sampling factors at which attention follows each residual block.
    pub attention_resolutions: Vec<usize>,
    /// Width multiplier of each level.
    pub channel_mult: Vec<f64>,
    /// Number of classes of a class-conditional network.
    #[serde(default)]
    pub num_classes: Option<usize>,
    /// Attention heads, where `num_head_channels` is -1.
    #[serde(default = "one")]
    pub num_heads: usize,
    /// Channels per head; -1 means `num_heads` heads of equal width.
    #[serde(default = "minus_one")]
    pub num_head_channels: i64,
    /// Whether the time embedding scales and shifts the second normalisation, or is added.
    #[serde(default)]
    pub use_scale_shift_norm: bool,
    /// Whether residual blocks resample, or separate layers do.
    #[serde(default)]
    pub resblock_updown: bool,
    /// Whether separate resampling layers are convolutions.
    #[serde(default = "yes")]
    pub conv_resample: bool,
    /// qkv channels ordered ({q,k,v}, head, channel) instead of (head, {q,k,v}, channel).
    #[serde(default)]
    pub use_new_attention_order: bool,
    /// Beta schedule.
    #[serde(default = "linear")]
    pub noise_schedule: NoiseSchedule,
    /// Steps of the schedule.
    #[serde(default = "thousand")]
    pub diffusion_steps: usize,
}

fn one() -> usize {
    1
}
fn minus_one() -> i64 {
    -1
}
fn yes() -> bool {
    true
}
fn linear() -> NoiseSchedule {
    NoiseSchedule::Linear
}
fn thousand() -> usize {
    1000
}

impl UNetConfig {
    /// Parses the JSON form (a file beside the weights, or the `config` entry of safetensors metadata).
    ///
    /// # Errors
    /// [`Error::Config`] for unknown keys, missing keys or values the network cannot have.
    pub fn from_json(text: &str) -> Result<Self> {
        let config: Self =
            serde_json::from_str(text).map_err(|e| Error::config(format!("network configuration: {e}")))?;
        config.check()?;
        Ok(config)
    }

    /// Reads a configuration file.
    ///
    /// # Errors
    /// [`Error::Model`] naming the file, as [`sidecar_config`] and [`UNetConfig::from_json`].
    pub fn read(path: &Path) -> Result<Self> {
        Self::from_json(&sidecar_config(path)?).map_err(|e| Error::model(path, e.to_string()))
    }

    /// The JSON form.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a configuration of plain values always serialises")
    }

    /// Checks the values before anything is allocated.
    ///
    /// # Errors
    /// [`Error::Config`] naming the key.
    pub fn check(&self) -> Result<()> {
        let fail = |message: String| Err(Error::Config(format!("network configuration: {message}")));
        if self.in_channels == 0 || self.in_channels > 64 {
            return fail(format!("in_channels = {}", self.in_channels));
        }
        if self.out_channels != self.in_channels && self.out_channels != 2 * self.in_channels {
            return fail(format!(
                "out_channels = {} is neither in_channels = {} nor twice that",
                self.out_channels, self.in_channels
            ));
        }
        if self.model_channels == 0 || self.model_channels > 4096 || !self.model_channels.is_multiple_of(2) {
            return fail(format!("model_channels = {} must be even and at most 4096", self.model_channels));
        }
        if self.num_res_blocks == 0 || self.num_res_blocks > 16 {
            return fail(format!("num_res_blocks = {}", self.num_res_blocks));
        }
        if self.channel_mult.is_empty() || self.channel_mult.len() > 10 {
            return fail(format!("channel_mult has {} levels", self.channel_mult.len()));
        }
        for (level, mult) in self.channel_mult.iter().enumerate() {
            if !mult.is_finite() || *mult <= 0.0 || *mult > 64.0 {
                return fail(format!("channel_mult {mult} at level {level}"));
            }
            let width = self.width(level);
            if width == 0 || !width.is_multiple_of(NORM_GROUPS) {
                return fail(format!("level {level} has {width} channels, not a multiple of {NORM_GROUPS}"));
            }
            if self.attends(level) || level + 1 == self.channel_mult.len() {
                self.heads(width)?;
            }
        }
        if self.diffusion_steps == 0 || self.diffusion_steps > 1 << 16 {
            return fail(format!("diffusion_steps = {}", self.diffusion_steps));
        }
        if self.num_classes == Some(0) {
            return fail("num_classes = 0".into());
        }
        Ok(())
    }

    /// Channels at a level.
    pub fn width(&self, level: usize) -> usize {
        (self.channel_mult[level] * self.model_channels as f64) as usize
    }

    /// Whether attention follows the residual blocks of a level.
    pub fn attends(&self, level: usize) -> bool {
        self.attention_resolutions.contains(&(1 << level))
    }

    /// Attention heads over `channels`.
    ///
    /// # Errors
    /// [`Error::Config`] when the channels cannot be divided that way.
    pub fn heads(&self, channels: usize) -> Result<usize> {
        let heads = match usize::try_from(self.num_head_channels) {
            Ok(0) | Err(_) if self.num_head_channels != -1 => 0,
            Ok(per_head) => {
                if channels.is_multiple_of(per_head) {
                    channels / per_head
                } else {
                    0
                }
            }
            Err(_) => self.num_heads,
        };
        if heads == 0 || !channels.is_multiple_of(heads) {
            return Err(Error::config(format!(
                "network configuration: {channels} channels cannot be split into heads (num_heads = {}, \
                 num_head_channels = {})",
                self.num_heads, self.num_head_channels
            )));
        }
        Ok(heads)
    }

    /// Whether the network predicts a variance beside eps.
    pub fn learn_sigma(&self) -> bool {
        self.out_channels == 2 * self.in_channels
    }

    /// Whether the normalisation before the last convolution has one channel a group, which hides an image's mean
    /// colour from the prediction; see [`crate::models::ImageMean`].
    pub fn is_blind_to_means(&self) -> bool {
        self.width(0) == NORM_GROUPS
    }

    /// The variance the reference samples with: learned where there is one, else fixed large.
    pub fn variance_kind(&self) -> VarianceKind {
        if self.learn_sigma() { VarianceKind::LearnedRange } else { VarianceKind::FixedLarge }
    }

    /// Height and width of the input must be multiples of this.
    pub fn size_multiple(&self) -> usize {
        1 << (self.channel_mult.len() - 1)
    }

    /// Width of the embedding of timesteps and classes.
    pub(super) fn embedding(&self) -> usize {
        4 * self.model_channels
    }

    /// What samplers must know of the network.
    ///
    /// # Errors
    /// As [`UNetConfig::schedule`].
    pub fn info(&self) -> Result<DenoiserInfo> {
        Ok(DenoiserInfo {
            channels: self.in_channels,
            size_multiple: self.size_multiple(),
            schedule: self.schedule()?,
            variance: self.variance_kind(),
            prediction: PredictionKind::Epsilon,
            errors: None,
        })
    }

    /// The schedule the network was trained with.
    ///
    /// # Errors
    /// As [`Schedule::new`].
    pub fn schedule(&self) -> Result<Schedule> {
        let kind = match self.noise_schedule {
            NoiseSchedule::Linear => BetaSchedule::Linear,
            NoiseSchedule::Cosine => BetaSchedule::Cosine,
        };
        Schedule::new(kind, self.diffusion_steps)
    }
}

/// Groups of every group normalisation in the network.
pub const NORM_GROUPS: usize = 32;
