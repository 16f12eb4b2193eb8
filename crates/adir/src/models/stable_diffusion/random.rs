//! Models with random weights: every command, the plan and the speed can be tried with them before anything is downloaded.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::json;

use super::autoencoder::Autoencoder;
use super::autoencoder_config::AutoencoderConfig;
use super::config::{ConditionalConfig, Level};
use super::names;
use super::schedulers::Facts;
use super::unet::ConditionalUNet;
use crate::io::weights::{Dtype, TensorSpec, stream_safetensors};
use crate::models::Network;
use crate::models::clip::Tokenizer;
use crate::models::params::ParamLayout;
use crate::noise::{Noise, Stream};
use crate::{Error, Result};

/// A published architecture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Architecture {
    /// stabilityai/stable-diffusion-x4-upscaler.
    Upscaler,
    /// CompVis/ldm-super-resolution-4x-openimages.
    SuperResolution,
    /// The inpainting model of Stable Diffusion 1.5.
    Inpainting1,
    /// The inpainting model of Stable Diffusion 2.
    Inpainting2,
}

impl Architecture {
    /// All, with the names they go by.
    pub const ALL: [(&'static str, Self); 4] = [
        ("x4-upscaler", Self::Upscaler),
        ("ldm-sr", Self::SuperResolution),
        ("sd1-inpainting", Self::Inpainting1),
        ("sd2-inpainting", Self::Inpainting2),
    ];

    pub(super) fn unet(self) -> ConditionalConfig {
        match self {
            Self::Upscaler => ConditionalConfig::upscaler(),
            Self::SuperResolution => ConditionalConfig::super_resolution(),
            Self::Inpainting1 => ConditionalConfig::inpainting(false),
            Self::Inpainting2 => ConditionalConfig::inpainting(true),
        }
    }

    pub(super) fn autoencoder(self) -> AutoencoderConfig {
        match self {
            Self::Upscaler => AutoencoderConfig::upscaler(),
            Self::SuperResolution => AutoencoderConfig::super_resolution(),
            Self::Inpainting1 | Self::Inpainting2 => AutoencoderConfig::stable_diffusion(),
        }
    }

    fn facts(self) -> Facts {
        match self {
            Self::Upscaler => Facts::upscaler(),
            // Its pipeline's scheduler ends without noise.
            Self::SuperResolution => Facts { ends_clean: true, ..Facts::super_resolution() },
            Self::Inpainting1 | Self::Inpainting2 => Facts::stable_diffusion(),
        }
    }
}

/// Sides of a text encoder.
#[derive(Debug, Clone, Copy)]
pub(super) struct TextSides {
    width: usize,
    wide: usize,
    layers: usize,
    heads: usize,
    gelu: bool,
}

impl TextSides {
    pub fn of(architecture: Architecture, tiny: bool) -> Self {
        let gelu = architecture != Architecture::Inpainting1;
        match (tiny, gelu) {
            (true, _) => Self { width: 32, wide: 64, layers: 2, heads: 2, gelu },
            (false, false) => Self { width: 768, wide: 3072, layers: 12, heads: 12, gelu },
            (false, true) => Self { width: 1024, wide: 4096, layers: 23, heads: 16, gelu },
        }
    }

    /// Names and shapes in transformers.
    pub fn specs(self) -> Vec<(String, Vec<usize>)> {
        let Self { width, wide, layers, .. } = self;
        let embeddings = "text_model.embeddings";
        let mut specs = vec![
            (format!("{embeddings}.token_embedding.weight"), vec![Tokenizer::published().size(), width]),
            (format!("{embeddings}.position_embedding.weight"), vec![77, width]),
        ];
        let mut layer = |name: String, shape: &[usize]| {
            specs.push((format!("{name}.weight"), shape.to_vec()));
            specs.push((format!("{name}.bias"), shape[..1].to_vec()));
        };
        for k in 0..layers {
            let name = format!("text_model.encoder.layers.{k}");
            for part in ["k_proj", "v_proj", "q_proj", "out_proj"] {
                layer(format!("{name}.self_attn.{part}"), &[width, width]);
            }
            layer(format!("{name}.layer_norm1"), &[width]);
            layer(format!("{name}.mlp.fc1"), &[wide, width]);
            layer(format!("{name}.mlp.fc2"), &[width, wide]);
            layer(format!("{name}.layer_norm2"), &[width]);
        }
        layer("text_model.final_layer_norm".into(), &[width]);
        specs
    }

    fn to_json(self) -> String {
        let Self { width, wide, layers, heads, gelu } = self;
        let value = json!({
            "architectures": ["CLIPTextModel"],
            "bos_token_id": 0,
            "eos_token_id": 2,
            "hidden_act": if gelu { "gelu" } else { "quick_gelu" },
            "hidden_size": width,
            "intermediate_size": wide,
            "layer_norm_eps": 1e-5,
            "max_position_embeddings": 77,
            "model_type": "clip_text_model",
            "num_attention_heads": heads,
            "num_hidden_layers": layers,
            "projection_dim": if gelu { 512 } else { 768 },
            "vocab_size": Tokenizer::published().size(),
        });
        format!("{value:#}")
    }
}

/// Writes a folder as diffusers would, with random weights in f32: those of PyTorch's layers, a function of `seed`. `tiny`
/// keeps the structure and leaves few channels.
///
/// # Errors
/// [`Error::Config`] if the folder is there and not empty; [`Error::Io`] where the system refuses.
pub fn write_random(architecture: Architecture, tiny: bool, seed: u64, folder: &Path) -> Result<()> {
    if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(Error::config(format!("{}: this folder is not empty", folder.display())));
    }
    let text = TextSides::of(architecture, tiny);
    let (mut unet, mut vae) = (architecture.unet(), architecture.autoencoder());
    if tiny {
        for (level, width) in unet.levels.iter_mut().zip([32, 64, 64, 64]) {
            *level = Level { channels: width, heads: level.heads.map(|_| 2), ..*level };
        }
        unet.text_width = unet.text_width.map(|_| text.width);
        vae.widths = vec![32; vae.widths.len()];
    }
    let write = |name: &str, text: &str| -> Result<()> {
        let path = folder.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(|e| Error::io(parent, e))?;
        }
        fs::write(&path, text).map_err(|e| Error::io(&path, e))
    };
    let vae_folder = if architecture == Architecture::SuperResolution { "vqvae" } else { "vae" };
    write("model_index.json", &format!("{:#}", index(architecture)))?;
    if architecture == Architecture::Upscaler {
        let low = json!({
            "_class_name": "DDPMScheduler", "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "scaled_linear",
            "num_train_timesteps": 1000, "prediction_type": "epsilon",
        });
        write("low_res_scheduler/scheduler_config.json", &format!("{low:#}"))?;
    }
    write("scheduler/scheduler_config.json", &architecture.facts().to_json())?;
    write("unet/config.json", &unet.to_json())?;
    write(&format!("{vae_folder}/config.json"), &vae.to_json())?;
    let noise = |stream: u64| Noise::new(seed.wrapping_add(stream), Stream::Initialization);
    let renamed = |layout: &ParamLayout, name: &dyn Fn(&str) -> Option<String>| -> Vec<(String, Vec<usize>)> {
        layout
            .specs()
            .iter()
            .map(|spec| (name(&spec.name).unwrap_or_else(|| spec.name.clone()), spec.shape.clone()))
            .collect()
    };
    let net = ConditionalUNet::new(&unet)?;
    let of_unet = renamed(net.layout(), &|name| names::of_unet(&unet, name, false));
    let net = Autoencoder::new(&vae)?;
    let of_autoencoder = renamed(net.layout(), &|name| names::of_autoencoder(&vae, name, false));
    // diffusers keeps the layers of attention without a text as matrices.
    let flat = |(name, shape): (String, Vec<usize>)| {
        let shape =
            if name.contains(".attentions.") { shape.into_iter().filter(|side| *side > 1).collect() } else { shape };
        (name, shape)
    };
    let flat = |specs: Vec<_>| specs.into_iter().map(flat).collect::<Vec<_>>();
    let of_unet = if unet.text_width.is_none() { flat(of_unet) } else { of_unet };
    let stem = "diffusion_pytorch_model.safetensors";
    weights(&folder.join("unet").join(stem), &of_unet, &noise(0))?;
    weights(&folder.join(vae_folder).join(stem), &flat(of_autoencoder), &noise(1))?;
    if unet.text_width.is_none() {
        return Ok(());
    }
    write("text_encoder/config.json", &text.to_json())?;
    let pad = if text.gelu { "!" } else { "<|endoftext|>" };
    write("tokenizer/merges.txt", &format!("#version: 0.2\n{}", Tokenizer::merges_text()))?;
    write("tokenizer/vocab.json", &json!(Tokenizer::vocabulary()).to_string())?;
    let words = json!({
        "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": pad,
    });
    write("tokenizer/special_tokens_map.json", &format!("{words:#}"))?;
    let mut config = words;
    config["tokenizer_class"] = json!("CLIPTokenizer");
    config["model_max_length"] = json!(77);
    write("tokenizer/tokenizer_config.json", &format!("{config:#}"))?;
    weights(&folder.join("text_encoder/model.safetensors"), &text.specs(), &noise(2))
}

/// `model_index.json`.
fn index(architecture: Architecture) -> serde_json::Value {
    if architecture == Architecture::SuperResolution {
        return json!({
            "_class_name": "LDMSuperResolutionPipeline",
            "scheduler": ["diffusers", "DDIMScheduler"],
            "unet": ["diffusers", "UNet2DModel"],
            "vqvae": ["diffusers", "VQModel"],
        });
    }
    let upscaler = architecture == Architecture::Upscaler;
    let pipeline = if upscaler { "StableDiffusionUpscalePipeline" } else { "StableDiffusionInpaintPipeline" };
    let mut index = json!({
        "_class_name": pipeline,
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    });
    if upscaler {
        index["max_noise_level"] = json!(350);
        index["low_res_scheduler"] = json!(["diffusers", "DDPMScheduler"]);
    } else {
        index["feature_extractor"] = json!([null, null]);
        index["safety_checker"] = json!([null, null]);
        index["requires_safety_checker"] = json!(false);
    }
    index
}

/// Uniform within sqrt(3 / fan in), so that maps keep their variance; normalisations around 1, biases around 0.
fn weights(path: &Path, specs: &[(String, Vec<usize>)], noise: &Noise) -> Result<()> {
    let tensors: Vec<_> = specs.iter().map(|(name, shape)| TensorSpec { name, shape, dtype: Dtype::F32 }).collect();
    stream_safetensors(path, &tensors, &BTreeMap::new(), |k| -> Result<Vec<f32>> {
        let (name, shape) = &specs[k];
        let count: usize = shape.iter().product();
        let (centre, reach) = match shape.as_slice() {
            [_] if name.ends_with("weight") => (1.0, 0.1),
            [_] => (0.0, 0.05),
            [_, inputs @ ..] => (0.0, (3.0 / inputs.iter().product::<usize>() as f64).sqrt()),
            [] => (0.0, 0.0),
        };
        let value = |i: usize| (centre + reach * (2.0 * noise.uniform(k as u32, i as u32) - 1.0)) as f32;
        Ok((0..count).map(value).collect())
    })
}
