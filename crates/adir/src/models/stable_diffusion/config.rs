//! What latent diffusion's U-Net is made of, as its `config.json` says.

use serde_json::json;

use super::json::{PerLevel, Settings, within};
use crate::{Error, Result};

/// A level of the U-Net, from full size down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// Channels.
    pub channels: usize,
    /// Heads of its attention; `None` for a level without.
    pub heads: Option<usize>,
    /// Whether what is self-attention elsewhere attends to the text, too.
    pub only_cross: bool,
}

/// The U-Net of Stable Diffusion 1, 2 and of the x4 upscaler, and that of latent diffusion's super-resolution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConditionalConfig {
    /// Channels of the input: the state's and those joined with it.
    pub in_channels: usize,
    /// Channels of the output.
    pub out_channels: usize,
    /// Residual blocks of a level on the way down; one more on the way up.
    pub layers_per_block: usize,
    /// From full size down.
    pub levels: Vec<Level>,
    /// Width of the text encoder's states; `None` for a network that takes no text, whose attention is no transformer.
    pub text_width: Option<usize>,
    /// Number of class labels (of the upscaler: levels of the noise in the small image).
    pub classes: Option<usize>,
    /// Whether a transformer's outer projections are linear layers, `[c, c]`, or convolutions, `[c, c, 1, 1]`.
    pub linear_projection: bool,
}

/// Largest number of channels, heads, layers, classes or text states that is taken for a network.
const MOST: usize = 1 << 16;

impl ConditionalConfig {
    /// The groups of every group normalisation.
    pub const GROUPS: usize = 32;

    /// The U-Net of the x4 upscaler (stabilityai/stable-diffusion-x4-upscaler).
    pub fn upscaler() -> Self {
        let level = |channels, attends: bool, only_cross| Level { channels, heads: attends.then_some(8), only_cross };
        Self {
            in_channels: 7,
            out_channels: 4,
            layers_per_block: 2,
            levels: vec![
                level(256, false, true),
                level(512, true, true),
                level(512, true, true),
                level(1024, true, false),
            ],
            text_width: Some(1024),
            classes: Some(1000),
            linear_projection: true,
        }
    }

    /// The U-Net of the inpainting model of Stable Diffusion 1 (`second: false`) or 2.
    pub fn inpainting(second: bool) -> Self {
        let heads = if second { [5, 10, 20, 20] } else { [8; 4] };
        let level = |i: usize, channels| Level { channels, heads: (i < 3).then_some(heads[i]), only_cross: false };
        Self {
            in_channels: 9,
            out_channels: 4,
            layers_per_block: 2,
            levels: [320, 640, 1280, 1280].into_iter().enumerate().map(|(i, channels)| level(i, channels)).collect(),
            text_width: Some(if second { 1024 } else { 768 }),
            classes: None,
            linear_projection: second,
        }
    }

    /// The U-Net of latent diffusion's super-resolution (CompVis/ldm-super-resolution-4x-openimages).
    pub fn super_resolution() -> Self {
        let level = |channels, heads| Level { channels, heads, only_cross: false };
        Self {
            in_channels: 6,
            out_channels: 3,
            layers_per_block: 2,
            levels: vec![level(160, None), level(320, None), level(320, None), level(640, Some(20))],
            text_width: None,
            classes: None,
            linear_projection: false,
        }
    }

    /// Heads of the attention in the middle: those of the last level, whether it attends or not.
    pub fn middle_heads(&self) -> usize {
        self.levels.iter().rev().find_map(|level| level.heads).unwrap_or(1)
    }

    /// Sides of the state must be multiples of this.
    pub fn size_multiple(&self) -> usize {
        1 << self.levels.len().saturating_sub(1)
    }

    /// Reads the configuration that diffusers writes for a `UNet2DConditionModel` or a `UNet2DModel`. Whatever would make
    /// another network of it than this one is refused.
    ///
    /// # Errors
    /// [`Error::Config`] naming the settings.
    pub fn from_json(text: &str) -> Result<Self> {
        let mut settings = Settings::parse("U-Net", text)?;
        if settings.class() == Some("UNet2DModel") {
            return Self::without_text(settings);
        }
        let widths: Vec<usize> = settings.take("block_out_channels", vec![320, 640, 1280, 1280])?;
        let count = widths.len();
        let default_down = ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"];
        let default_up = ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"];
        let down = settings.take("down_block_types", default_down.map(String::from).to_vec())?;
        let up = settings.take("up_block_types", default_up.map(String::from).to_vec())?;
        let down = attending(count, [down, up], "CrossAttn")?;
        // diffusers calls the number of heads so.
        let heads = settings.take("attention_head_dim", PerLevel::All(8))?.of("attention_head_dim", count)?;
        let only_cross =
            settings.take("only_cross_attention", PerLevel::All(false))?.of("only_cross_attention", count)?;
        let levels = (0..count).map(|i| Level {
            channels: widths[i],
            heads: down[i].then_some(heads[i]),
            only_cross: only_cross[i],
        });
        let config = Self {
            in_channels: settings.take("in_channels", 4)?,
            out_channels: settings.take("out_channels", 4)?,
            layers_per_block: settings.take("layers_per_block", 2)?,
            levels: levels.collect(),
            text_width: Some(settings.take("cross_attention_dim", 1280)?),
            classes: settings.take("num_class_embeds", None)?,
            linear_projection: settings.take("use_linear_projection", false)?,
        };
        // A level without attention takes its heads along for the middle.
        if config.levels.last().is_some_and(|last| last.heads.is_none()) && heads.last() != Some(&config.middle_heads())
        {
            return Err(Error::config("the last attention_head_dim must be that of the last level with attention"));
        }
        let supported = [
            ("act_fn", json!("silu")),
            ("addition_embed_type_num_heads", json!(64)),
            ("attention_type", json!("default")),
            ("center_input_sample", json!(false)),
            ("class_embeddings_concat", json!(false)),
            ("conv_in_kernel", json!(3)),
            ("conv_out_kernel", json!(3)),
            ("downsample_padding", json!(1)),
            ("dropout", json!(0.0)),
            ("dual_cross_attention", json!(false)),
            ("flip_sin_to_cos", json!(true)),
            ("freq_shift", json!(0)),
            ("mid_block_only_cross_attention", json!(false)),
            ("mid_block_scale_factor", json!(1)),
            ("mid_block_type", json!("UNetMidBlock2DCrossAttn")),
            ("norm_eps", json!(1e-5)),
            ("norm_num_groups", json!(Self::GROUPS)),
            ("resnet_out_scale_factor", json!(1.0)),
            ("resnet_skip_time_act", json!(false)),
            ("resnet_time_scale_shift", json!("default")),
            ("reverse_transformer_layers_per_block", json!(null)),
            ("time_embedding_type", json!("positional")),
            ("transformer_layers_per_block", json!(1)),
        ];
        // Attention is computed in f32 here whatever is asked for; the size is the caller's.
        settings.finish(&supported, &["sample_size", "upcast_attention"])?;
        config.check()?;
        Ok(config)
    }

    /// The configuration of a `UNet2DModel`.
    fn without_text(mut settings: Settings) -> Result<Self> {
        let widths: Vec<usize> = settings.take("block_out_channels", vec![224, 448, 672, 896])?;
        let count = widths.len();
        let default_down = ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"];
        let default_up = ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"];
        let down = settings.take("down_block_types", default_down.map(String::from).to_vec())?;
        let up = settings.take("up_block_types", default_up.map(String::from).to_vec())?;
        let attends = attending(count, [down, up], "Attn")?;
        // Here it is what it is called.
        let head: usize = settings.take("attention_head_dim", 8)?;
        let mut attending = widths.iter().zip(&attends).filter(|(_, attends)| **attends);
        if let Some((width, _)) = attending.find(|(width, _)| head == 0 || !width.is_multiple_of(head)) {
            return Err(Error::config(format!("{width} channels cannot be split into heads of {head}")));
        }
        let level =
            |i: usize| Level { channels: widths[i], heads: attends[i].then(|| widths[i] / head), only_cross: false };
        if !attends.last().copied().unwrap_or(false) {
            return Err(Error::config("a U-Net without a text is supported where its last level attends"));
        }
        let config = Self {
            in_channels: settings.take("in_channels", 3)?,
            out_channels: settings.take("out_channels", 3)?,
            layers_per_block: settings.take("layers_per_block", 2)?,
            levels: (0..count).map(level).collect(),
            text_width: None,
            classes: None,
            linear_projection: false,
        };
        let supported = [
            ("act_fn", json!("silu")),
            ("add_attention", json!(true)),
            ("center_input_sample", json!(false)),
            ("downsample_padding", json!(1)),
            ("downsample_type", json!("conv")),
            ("dropout", json!(0.0)),
            ("flip_sin_to_cos", json!(true)),
            ("freq_shift", json!(0)),
            ("mid_block_scale_factor", json!(1)),
            ("mid_block_type", json!("UNetMidBlock2D")),
            ("norm_eps", json!(1e-5)),
            ("norm_num_groups", json!(Self::GROUPS)),
            ("resnet_time_scale_shift", json!("default")),
            ("time_embedding_type", json!("positional")),
            ("upsample_type", json!("conv")),
        ];
        settings.finish(&supported, &["sample_size"])?;
        config.check()?;
        Ok(config)
    }

    /// What diffusers writes for this network.
    pub fn to_json(&self) -> String {
        if self.text_width.is_none() {
            return self.to_json_without_text();
        }
        let each = |f: &dyn Fn(&Level) -> serde_json::Value| self.levels.iter().map(f).collect::<Vec<_>>();
        let block = |level: &Level, way: &str| match level.heads {
            Some(_) => json!(format!("CrossAttn{way}Block2D")),
            None => json!(format!("{way}Block2D")),
        };
        let up: Vec<_> = self.levels.iter().rev().map(|level| block(level, "Up")).collect();
        let middle = self.middle_heads();
        let value = json!({
            "_class_name": "UNet2DConditionModel",
            "act_fn": "silu",
            "attention_head_dim": each(&|level| json!(level.heads.unwrap_or(middle))),
            "block_out_channels": each(&|level| json!(level.channels)),
            "cross_attention_dim": self.text_width,
            "down_block_types": each(&|level| block(level, "Down")),
            "in_channels": self.in_channels,
            "layers_per_block": self.layers_per_block,
            "norm_num_groups": Self::GROUPS,
            "num_class_embeds": self.classes,
            "only_cross_attention": each(&|level| json!(level.only_cross)),
            "out_channels": self.out_channels,
            "up_block_types": up,
            "use_linear_projection": self.linear_projection,
        });
        format!("{value:#}")
    }

    fn to_json_without_text(&self) -> String {
        let block =
            |level: &Level, way: &str| format!("{}{way}Block2D", if level.heads.is_some() { "Attn" } else { "" });
        let down: Vec<_> = self.levels.iter().map(|level| block(level, "Down")).collect();
        let up: Vec<_> = self.levels.iter().rev().map(|level| block(level, "Up")).collect();
        let last = &self.levels[self.levels.len() - 1];
        let value = json!({
            "_class_name": "UNet2DModel",
            "act_fn": "silu",
            "attention_head_dim": last.channels / self.middle_heads(),
            "block_out_channels": self.levels.iter().map(|level| level.channels).collect::<Vec<_>>(),
            "down_block_types": down,
            "in_channels": self.in_channels,
            "layers_per_block": self.layers_per_block,
            "norm_eps": 1e-5,
            "norm_num_groups": Self::GROUPS,
            "out_channels": self.out_channels,
            "up_block_types": up,
        });
        format!("{value:#}")
    }

    /// Refuses what no network can be built of.
    ///
    /// # Errors
    /// [`Error::Config`] naming the setting.
    pub fn check(&self) -> Result<()> {
        let within = |name: &str, value, most| within("U-Net", name, value, most);
        within("number of levels", self.levels.len(), 8)?;
        within("layers_per_block", self.layers_per_block, 16)?;
        within("in_channels", self.in_channels, MOST)?;
        within("out_channels", self.out_channels, MOST)?;
        within("cross_attention_dim", self.text_width.unwrap_or(1), MOST)?;
        within("num_class_embeds", self.classes.unwrap_or(1), MOST)?;
        let middle = Level { heads: Some(self.middle_heads()), ..self.levels[self.levels.len() - 1] };
        for Level { channels, heads, .. } in self.levels.iter().chain([&middle]) {
            within("block_out_channels", *channels, MOST)?;
            if !channels.is_multiple_of(Self::GROUPS) {
                return Err(Error::config(format!("{channels} channels are no multiple of {} groups", Self::GROUPS)));
            }
            let heads = heads.unwrap_or(1);
            if heads == 0 || !channels.is_multiple_of(heads) {
                return Err(Error::config(format!("{channels} channels cannot be split into {heads} heads")));
            }
        }
        Ok(())
    }
}

/// Which of `count` levels attend, as their blocks on the way down and up are called; those that do with `prefix`.
///
/// # Errors
/// [`Error::Config`] for other kinds, and where the two ways differ.
fn attending(count: usize, [down, up]: [Vec<String>; 2], prefix: &str) -> Result<Vec<bool>> {
    let kinds = |names: Vec<String>, plain: &str| -> Result<Vec<bool>> {
        let attending = format!("{prefix}{plain}");
        let kind = |name: &String| match name.as_str() {
            name if name == attending => Ok(true),
            name if name == plain => Ok(false),
            other => Err(Error::config(format!(
                "blocks of the kind {other} are not supported, only {attending} and {plain}"
            ))),
        };
        names.iter().map(kind).collect()
    };
    let (down, up) = (kinds(down, "DownBlock2D")?, kinds(up, "UpBlock2D")?);
    if down.len() == count && up.iter().rev().eq(&down) {
        return Ok(down);
    }
    Err(Error::config(format!(
        "the U-Net has {count} widths, but the blocks on the way down and up are not {count} of the same kinds"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let published =
            [ConditionalConfig::upscaler(), ConditionalConfig::inpainting(false), ConditionalConfig::inpainting(true)];
        for config in published.into_iter().chain([ConditionalConfig::super_resolution()]) {
            assert_eq!(ConditionalConfig::from_json(&config.to_json()).unwrap(), config);
        }
    }

    /// The file of the x4 upscaler as published.
    #[test]
    fn the_published_file_is_read() {
        let text = r#"{"_class_name": "UNet2DConditionModel", "_diffusers_version": "0.8.0", "act_fn": "silu",
            "attention_head_dim": 8, "block_out_channels": [256, 512, 512, 1024], "center_input_sample": false,
            "cross_attention_dim": 1024, "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"], "downsample_padding": 1, "dual_cross_attention": false,
            "flip_sin_to_cos": true, "freq_shift": 0, "in_channels": 7, "layers_per_block": 2, "mid_block_scale_factor": 1,
            "norm_eps": 1e-05, "norm_num_groups": 32, "num_class_embeds": 1000, "only_cross_attention": [true, true, true,
            false], "out_channels": 4, "sample_size": 128, "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D",
            "CrossAttnUpBlock2D", "UpBlock2D"], "use_linear_projection": true}"#;
        assert_eq!(ConditionalConfig::from_json(text).unwrap(), ConditionalConfig::upscaler());
        for (from, to, said) in [
            ("\"silu\"", "\"gelu\"", "act_fn"),
            ("\"freq_shift\": 0", "\"freq_shift\": 1", "freq_shift"),
            ("\"sample_size\"", "\"sample_sizes\"", "sample_sizes"),
            ("\"attention_head_dim\": 8", "\"attention_head_dim\": 7", "7 heads"),
            ("\"attention_head_dim\": 8", "\"attention_head_dim\": [8, 8]", "2 values for 4 levels"),
            ("[\"DownBlock2D\"", "[\"AttnDownBlock2D\"", "AttnDownBlock2D"),
            ("[\"CrossAttnUpBlock2D\"", "[\"UpBlock2D\"", "same kinds"),
            ("[256,", "[257,", "257"),
            ("\"layers_per_block\": 2", "\"layers_per_block\": 0", "layers_per_block"),
        ] {
            let error = ConditionalConfig::from_json(&text.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(said), "{to}: {error}");
        }
    }
}
