//! What an autoencoder is made of, as its `config.json` says.

use serde_json::json;

use super::json::{Settings, within};
use crate::{Error, Result};

/// What lies between encoder and decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bottleneck {
    /// A normal distribution, of which the encoder tells mean and logarithm of the variance.
    Kl,
    /// The nearest of so many vectors.
    Vq {
        /// Number of vectors.
        vectors: usize,
    },
}

/// The autoencoder of a latent diffusion model.
#[derive(Debug, Clone, PartialEq)]
pub struct AutoencoderConfig {
    /// Channels of images.
    pub image_channels: usize,
    /// Channels of latents.
    pub latent_channels: usize,
    /// Channels by level, from full size down; each level but the last halves the sides.
    pub widths: Vec<usize>,
    /// Residual blocks of a level of the encoder; one more in the decoder.
    pub layers_per_block: usize,
    /// What latents are.
    pub bottleneck: Bottleneck,
    /// What latents are multiplied by for the U-Net; `None` where the file does not say.
    pub scale: Option<f64>,
}

impl AutoencoderConfig {
    /// The groups of every group normalisation.
    pub const GROUPS: usize = 32;

    /// That of the x4 upscaler, with sides divided by 4.
    pub fn upscaler() -> Self {
        Self { widths: vec![128, 256, 512], scale: Some(0.08333), ..Self::stable_diffusion() }
    }

    /// That of Stable Diffusion 1 and 2, with sides divided by 8.
    pub fn stable_diffusion() -> Self {
        Self {
            image_channels: 3,
            latent_channels: 4,
            widths: vec![128, 256, 512, 512],
            layers_per_block: 2,
            bottleneck: Bottleneck::Kl,
            scale: Some(0.18215),
        }
    }

    /// That of latent diffusion's super-resolution, with sides divided by 4.
    pub fn super_resolution() -> Self {
        let bottleneck = Bottleneck::Vq { vectors: 8192 };
        Self { latent_channels: 3, bottleneck, scale: None, ..Self::upscaler() }
    }

    /// What the sides of an image are divided by.
    pub fn factor(&self) -> usize {
        1 << self.widths.len().saturating_sub(1)
    }

    /// Reads the configuration that diffusers writes for an `AutoencoderKL` or a `VQModel`. Whatever would make another
    /// network of it than this one is refused.
    ///
    /// # Errors
    /// [`Error::Config`] naming the settings.
    pub fn from_json(text: &str) -> Result<Self> {
        let vq = text.contains("\"num_vq_embeddings\"") || text.contains("\"VQModel\"");
        let mut settings = Settings::parse("autoencoder", text)?;
        let widths: Vec<usize> = settings.take("block_out_channels", vec![64])?;
        let kinds = |settings: &mut Settings, name: &str, kind: &str| -> Result<()> {
            let found: Vec<String> = settings.take(name, vec![kind.to_owned(); widths.len()])?;
            if found.len() == widths.len() && found.iter().all(|found| found == kind) {
                return Ok(());
            }
            Err(Error::config(format!("{name} of the autoencoder: expected {} times {kind}", widths.len())))
        };
        kinds(&mut settings, "down_block_types", "DownEncoderBlock2D")?;
        kinds(&mut settings, "up_block_types", "UpDecoderBlock2D")?;
        let latent_channels = settings.take("latent_channels", if vq { 3 } else { 4 })?;
        let bottleneck =
            if vq { Bottleneck::Vq { vectors: settings.take("num_vq_embeddings", 256)? } } else { Bottleneck::Kl };
        let (inputs, outputs): (usize, usize) = (settings.take("in_channels", 3)?, settings.take("out_channels", 3)?);
        if inputs != outputs {
            return Err(Error::config(format!("the autoencoder takes {inputs} channels and makes {outputs}")));
        }
        let config = Self {
            image_channels: inputs,
            latent_channels,
            layers_per_block: settings.take("layers_per_block", 1)?,
            bottleneck,
            // VQModel has a factor in its file that its pipeline does not use.
            scale: settings.take("scaling_factor", None)?.filter(|_| !vq),
            widths,
        };
        let supported = [
            ("act_fn", json!("silu")),
            ("lookup_from_codebook", json!(false)),
            ("mid_block_add_attention", json!(true)),
            ("norm_num_groups", json!(Self::GROUPS)),
            ("norm_type", json!("group")),
            ("use_post_quant_conv", json!(true)),
            ("use_quant_conv", json!(true)),
            ("vq_embed_dim", json!(config.latent_channels)),
        ];
        settings.finish(&supported, &["sample_size", "force_upcast"])?;
        config.check()?;
        Ok(config)
    }

    /// What diffusers writes for this autoencoder.
    pub fn to_json(&self) -> String {
        let kinds = |kind: &'static str| vec![kind; self.widths.len()];
        let mut value = json!({
            "_class_name": "AutoencoderKL",
            "act_fn": "silu",
            "block_out_channels": self.widths,
            "down_block_types": kinds("DownEncoderBlock2D"),
            "in_channels": self.image_channels,
            "latent_channels": self.latent_channels,
            "layers_per_block": self.layers_per_block,
            "norm_num_groups": Self::GROUPS,
            "out_channels": self.image_channels,
            "up_block_types": kinds("UpDecoderBlock2D"),
        });
        if let Bottleneck::Vq { vectors } = self.bottleneck {
            value["_class_name"] = json!("VQModel");
            value["num_vq_embeddings"] = json!(vectors);
        }
        if let Some(scale) = self.scale {
            value["scaling_factor"] = json!(scale);
        }
        format!("{value:#}")
    }

    /// Refuses what no network can be built of.
    ///
    /// # Errors
    /// [`Error::Config`] naming the setting.
    pub fn check(&self) -> Result<()> {
        const MOST: usize = 1 << 16;
        let within = |name: &str, value, most| within("autoencoder", name, value, most);
        within("number of levels", self.widths.len(), 8)?;
        within("layers_per_block", self.layers_per_block, 16)?;
        within("in_channels", self.image_channels, MOST)?;
        within("latent_channels", self.latent_channels, MOST)?;
        if let Bottleneck::Vq { vectors } = self.bottleneck {
            within("num_vq_embeddings", vectors, MOST)?;
        }
        if self.scale.is_some_and(|scale| !(scale.is_finite() && scale > 0.0)) {
            return Err(Error::config(format!("scaling_factor = {:?}: expected a number above 0", self.scale)));
        }
        match self.widths.iter().find(|width| **width == 0 || **width > MOST || !width.is_multiple_of(Self::GROUPS)) {
            Some(width) => Err(Error::config(format!(
                "block_out_channels of the autoencoder: {width} is no multiple of {} up to {MOST}",
                Self::GROUPS
            ))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let vq = AutoencoderConfig::super_resolution();
        for config in [AutoencoderConfig::upscaler(), AutoencoderConfig::stable_diffusion(), vq] {
            assert_eq!(AutoencoderConfig::from_json(&config.to_json()).unwrap(), config);
        }
        let text = AutoencoderConfig::upscaler().to_json();
        for (from, to, said) in [
            ("\"silu\"", "\"swish\"", "act_fn"),
            ("0.08333", "0.0", "above 0"),
            ("128", "100", "100"),
            ("\"UpDecoderBlock2D\"", "\"AttnUpDecoderBlock2D\"", "UpDecoderBlock2D"),
            ("\"layers_per_block\"", "\"shift_factor\": 0.1, \"layers_per_block\"", "shift_factor"),
        ] {
            let error = AutoencoderConfig::from_json(&text.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(said), "{to}: {error}");
        }
        assert_eq!(AutoencoderConfig::from_json("{\"block_out_channels\": [32, 64]}").unwrap().scale, None);
    }
}
