//! The parts of a CLIP configuration that the weights do not determine: activation and heads.

use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use super::net::Activation;
use crate::io::open_regular;
use crate::{Error, Result};

/// Largest configuration file that is read.
const MAX_BYTES: u64 = 1 << 20;

/// The part of a configuration that matters here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Config {
    pub activation: Activation,
    pub vision_heads: Option<usize>,
    pub text_heads: Option<usize>,
}

/// `config.json` of transformers.
#[derive(Deserialize)]
struct HuggingFace {
    vision_config: HuggingFaceTower,
    text_config: HuggingFaceTower,
}

#[derive(Deserialize)]
struct HuggingFaceTower {
    /// Absent where it is transformers' default.
    hidden_act: Option<String>,
    num_attention_heads: Option<usize>,
}

/// `open_clip_config.json`.
#[derive(Deserialize)]
struct OpenClip {
    model_cfg: OpenClipModel,
}

#[derive(Deserialize)]
struct OpenClipModel {
    #[serde(default)]
    quick_gelu: bool,
    vision_cfg: OpenClipVision,
    text_cfg: OpenClipText,
}

#[derive(Deserialize)]
struct OpenClipVision {
    width: Option<usize>,
    head_width: Option<usize>,
}

#[derive(Deserialize)]
struct OpenClipText {
    heads: Option<usize>,
}

impl Config {
    /// Reads `config.json` or `open_clip_config.json` in `folder`; `None` if neither is there.
    pub fn beside(folder: &Path) -> Result<Option<Self>> {
        for (name, is_open_clip) in [("open_clip_config.json", true), ("config.json", false)] {
            let path = folder.join(name);
            let Ok(file) = open_regular(&path) else { continue };
            let mut text = String::new();
            let read = file.take(MAX_BYTES).read_to_string(&mut text).map_err(|e| e.to_string());
            let parse = if is_open_clip { Self::from_open_clip } else { Self::from_hugging_face };
            return read.and_then(|_| parse(&text)).map(Some).map_err(|message| Error::model(&path, message));
        }
        Ok(None)
    }

    fn from_hugging_face(text: &str) -> Result<Self, String> {
        let config: HuggingFace =
            serde_json::from_str(text).map_err(|e| format!("is not a CLIP configuration: {e}"))?;
        let activation = |tower: &HuggingFaceTower| match tower.hidden_act.as_deref() {
            None | Some("quick_gelu") => Ok(Activation::QuickGelu),
            Some("gelu") => Ok(Activation::Gelu),
            Some(other) => Err(format!("has the activation {other:?}, expected quick_gelu or gelu")),
        };
        let (vision, text) = (activation(&config.vision_config)?, activation(&config.text_config)?);
        if vision != text {
            return Err(format!("has different activations in its two towers: {vision:?} and {text:?}"));
        }
        Ok(Self {
            activation: vision,
            vision_heads: config.vision_config.num_attention_heads,
            text_heads: config.text_config.num_attention_heads,
        })
    }

    fn from_open_clip(text: &str) -> Result<Self, String> {
        let config: OpenClip = serde_json::from_str(text).map_err(|e| format!("is not a CLIP configuration: {e}"))?;
        let model = config.model_cfg;
        let vision_heads = model.vision_cfg.width.zip(model.vision_cfg.head_width).and_then(|(w, h)| w.checked_div(h));
        Ok(Self {
            activation: if model.quick_gelu { Activation::QuickGelu } else { Activation::Gelu },
            vision_heads,
            text_heads: model.text_cfg.heads,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_tell_the_activation() {
        let published = r#"{"vision_config": {"hidden_act": "quick_gelu", "num_attention_heads": 12},
            "text_config": {"num_attention_heads": 8}, "projection_dim": 512}"#;
        let config = Config::from_hugging_face(published).unwrap();
        let heads = (Some(12), Some(8));
        assert_eq!((config.activation, (config.vision_heads, config.text_heads)), (Activation::QuickGelu, heads));
        let gelu = published.replace("quick_gelu", "gelu").replace("{\"num", "{\"hidden_act\": \"gelu\", \"num");
        assert_eq!(Config::from_hugging_face(&gelu).unwrap().activation, Activation::Gelu);
        assert!(Config::from_hugging_face(&published.replace("quick_gelu", "relu")).unwrap_err().contains("relu"));
        assert!(Config::from_hugging_face(&published.replace("quick_gelu", "gelu")).unwrap_err().contains("different"));

        let open = r#"{"model_cfg": {"embed_dim": 512, "vision_cfg": {"width": 768, "layers": 12}, "text_cfg": {"heads": 8}}}"#;
        assert_eq!(Config::from_open_clip(open).unwrap().activation, Activation::Gelu);
        let quick = open.replace("\"embed_dim\"", "\"quick_gelu\": true, \"embed_dim\"");
        assert_eq!(Config::from_open_clip(&quick).unwrap().activation, Activation::QuickGelu);
        assert_eq!(Config::from_open_clip(&quick).unwrap().text_heads, Some(8));
        assert!(Config::from_open_clip("{}").is_err() && Config::from_hugging_face("[]").is_err());
    }
}
