//! What lies in a folder of diffusers, or in a single file of the original release.

use std::path::Path;
use std::sync::Arc;

use super::autoencoder::Autoencoder;
use super::autoencoder_config::AutoencoderConfig;
use super::config::ConditionalConfig;
use super::model::{LatentFiles, Purpose, TextFiles};
use super::names;
use super::part::{Part, Place, Stored, text_of};
use super::schedulers::{Facts, LowRes};
use super::text::TextConfig;
use super::unet::ConditionalUNet;
use crate::compute::WeightPrecision;
use crate::io::weights::WeightFile;
use crate::models::Network;
use crate::models::load::fault_of;
use crate::{Error, Result};

/// Channels of an attention head of latent diffusion's super-resolution.
const SUPER_RESOLUTION_HEAD: usize = 32;

/// What tells a single file's autoencoder and U-Net from the rest.
const UNET_PREFIX: &str = "model.diffusion_model.";
const VAE_PREFIXES: [&str; 2] = ["first_stage_model.", "vae."];
/// The same of the averaged U-Net, whose names have no dots behind it.
const AVERAGED_PREFIX: &str = "model_ema.";

/// Other tensors of single files, which no part needs.
const LEFT_OUT: [&str; 20] = [
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "scale_factor",
    "logvar",
    "model_ema.decay",
    "model_ema.num_updates",
    "global_step",
    "epoch",
    "lr",
    "lvlb_weights",
];

/// The same, by how their names begin.
const LEFT_OUT_FROM: [&str; 4] = [AVERAGED_PREFIX, "low_scale_model.", "first_stage_model.loss.", "vae.loss."];

impl LatentFiles {
    /// A folder of diffusers.
    pub(super) fn folder(path: &Path) -> Result<Self> {
        let part = |name: &str| path.join(name);
        let unet_file = part("unet").join("config.json");
        let config = ConditionalConfig::from_json(&text_of(&unet_file)?).map_err(fault_of(&unet_file))?;
        let vae_folder = if config.text_width.is_some() { "vae" } else { "vqvae" };
        let vae_file = part(vae_folder).join("config.json");
        let mut vae = AutoencoderConfig::from_json(&text_of(&vae_file)?).map_err(fault_of(&vae_file))?;
        let purpose = purpose_of(path, &config, vae.latent_channels, vae.image_channels)?;
        vae.scale = scale_of(purpose, &vae);
        let scheduler = part("scheduler").join("scheduler_config.json");
        let facts = Facts::from_json(&text_of(&scheduler)?).map_err(fault_of(&scheduler))?;
        let low_res = match purpose {
            Purpose::Inpainting | Purpose::SuperResolution => None,
            Purpose::Upscaling => {
                let file = part("low_res_scheduler").join("scheduler_config.json");
                let index: serde_json::Value = serde_json::from_str(&text_of(&part("model_index.json"))?)
                    .map_err(|e| Error::model(part("model_index.json"), e.to_string()))?;
                let most = index.get("max_noise_level").and_then(serde_json::Value::as_u64).unwrap_or(350);
                Some(LowRes::from_json(&text_of(&file)?, most as usize).map_err(fault_of(&file))?)
            }
        };
        let weights = |folder: &str, stem: &str, other: &str| Part::find(&part(folder), stem, other).map(Arc::new);
        let stem = "diffusion_pytorch_model";
        let parts = [
            weights("unet", stem, "diffusion_pytorch_model.bin")?,
            weights(vae_folder, stem, "diffusion_pytorch_model.bin")?,
        ];
        let unet = ConditionalUNet::new(&config).map_err(fault_of(&unet_file))?;
        let old = parts[0].has("mid_block.attentions.0.query.weight");
        let unet_names = Stored::new(unet.layout(), |name| names::of_unet(&config, name, old));
        unet_names.check(&parts[0], |_| false)?;
        let autoencoder = Autoencoder::new(&vae).map_err(fault_of(&vae_file))?;
        let old = parts[1].has("decoder.mid_block.attentions.0.query.weight");
        let vae_names = Stored::new(autoencoder.layout(), |name| names::of_autoencoder(&vae, name, old));
        vae_names.check(&parts[1], |_| false)?;
        let text = match config.text_width {
            Some(_) => {
                let encoder = weights("text_encoder", "model", "pytorch_model.bin")?;
                Some(TextFiles { part: encoder, config: TextConfig::of_folder(path)?, parameters: 0 })
            }
            None => None,
        };
        Ok(Self {
            path: path.to_owned(),
            purpose,
            unet: (Arc::new(unet), unet_names),
            autoencoder: (Arc::new(autoencoder), vae_names),
            text,
            facts,
            low_res,
            weights: WeightPrecision::F32,
            parts,
        })
    }

    /// Whether a file holds a U-Net of latent diffusion among other parts.
    pub(super) fn is_single(file: &WeightFile) -> bool {
        file.info(&format!("{UNET_PREFIX}out.2.weight")).is_some()
    }

    /// A single file of the original release.
    pub(super) fn single(path: &Path, file: WeightFile, averaged: bool) -> Result<Self> {
        let part = Arc::new(Part { files: vec![file] });
        let stem = format!("{UNET_PREFIX}input_blocks.0.0.weight");
        let inputs = part.shape(&stem).and_then(|shape| shape.get(1).copied());
        let text_width = part
            .shape(&format!("{UNET_PREFIX}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"))
            .and_then(|shape| shape.get(1).copied());
        let (purpose, config, vae, text) = match (inputs, text_width) {
            (Some(7), _) => {
                let vae = AutoencoderConfig::upscaler();
                (Purpose::Upscaling, ConditionalConfig::upscaler(), vae, Some(TextConfig::VIT_H))
            }
            (Some(6), None) => {
                let vae = AutoencoderConfig::super_resolution();
                (Purpose::SuperResolution, ConditionalConfig::super_resolution(), vae, None)
            }
            (Some(9), width) => {
                let second = width == Some(1024);
                let text = if second { TextConfig::VIT_H } else { TextConfig::VIT_L };
                let config = ConditionalConfig::inpainting(second);
                (Purpose::Inpainting, config, AutoencoderConfig::stable_diffusion(), Some(text))
            }
            (Some(inputs), _) => return Err(Error::model(path, other_purpose(inputs))),
            (None, _) => {
                return Err(Error::model(path, format!("is no latent diffusion model: it has no tensor {stem}")));
            }
        };
        let unet = ConditionalUNet::new(&config)?;
        let stored = |renamed: &dyn Fn(&str) -> String| {
            Stored::at(unet.layout(), SUPER_RESOLUTION_HEAD, |name| {
                let Place { name, part } = names::of_fused_unet(&config, name);
                Place { name: renamed(&name), part }
            })
        };
        let unet_names = stored(&|name| format!("{UNET_PREFIX}{name}"));
        unet_names.check(&part, |name| !name.starts_with(UNET_PREFIX))?;
        let unet_names = match averaged {
            false => unet_names,
            true if !part.has("model_ema.decay") => {
                let message = "has one set of weights, not averaged ones beside it";
                return Err(Error::config(format!("{}: {message}", path.display())));
            }
            true => {
                let averaged = stored(&|name| format!("{AVERAGED_PREFIX}diffusion_model{}", name.replace('.', "")));
                let other = ["model_ema.decay", "model_ema.num_updates"];
                averaged.check(&part, |name| !name.starts_with(AVERAGED_PREFIX) || other.contains(&name))?;
                averaged
            }
        };
        let autoencoder = Autoencoder::new(&vae)?;
        let is_there = |prefix: &&str| part.has(&format!("{prefix}decoder.conv_in.weight"));
        let prefix = VAE_PREFIXES.into_iter().find(is_there).unwrap_or(VAE_PREFIXES[0]);
        let vae_names = Stored::new(autoencoder.layout(), |name| Some(format!("{prefix}{name}")));
        let left_out = |name: &str| {
            let known = LEFT_OUT.contains(&name) || LEFT_OUT_FROM.iter().any(|start| name.starts_with(start));
            known || name.starts_with(UNET_PREFIX) || name.starts_with("cond_stage_model.")
        };
        vae_names.check(&part, left_out)?;
        Ok(Self {
            path: path.to_owned(),
            purpose,
            unet: (Arc::new(unet), unet_names),
            autoencoder: (Arc::new(autoencoder), vae_names),
            text: text.map(|config| TextFiles { part: part.clone(), config, parameters: 0 }),
            facts: match purpose {
                Purpose::Upscaling => Facts::upscaler(),
                Purpose::SuperResolution => Facts::super_resolution(),
                Purpose::Inpainting => Facts::stable_diffusion(),
            },
            low_res: (purpose == Purpose::Upscaling).then(LowRes::upscaler),
            weights: WeightPrecision::F32,
            parts: [part.clone(), part],
        })
    }
}

fn other_purpose(inputs: usize) -> String {
    format!(
        "is a diffusion model with {inputs} input channels: supported are the x4 upscaler (7), latent diffusion's \
         super-resolution (6) and inpainting models (9)"
    )
}

fn purpose_of(path: &Path, unet: &ConditionalConfig, latent: usize, image: usize) -> Result<Purpose> {
    match unet.in_channels {
        inputs if inputs == latent + image && unet.text_width.is_none() => Ok(Purpose::SuperResolution),
        inputs if inputs == latent + image => Ok(Purpose::Upscaling),
        inputs if inputs == 2 * latent + 1 && unet.text_width.is_some() => Ok(Purpose::Inpainting),
        inputs => Err(Error::model(path, other_purpose(inputs))),
    }
}

/// The upscaler's pipeline has always used one number, whatever its file says or lacks, and that of latent diffusion's
/// super-resolution none; elsewhere the file's counts.
fn scale_of(purpose: Purpose, config: &AutoencoderConfig) -> Option<f64> {
    match purpose {
        Purpose::Upscaling => Some(0.08333),
        Purpose::SuperResolution => None,
        Purpose::Inpainting => config.scale.or(Some(0.18215)),
    }
}
