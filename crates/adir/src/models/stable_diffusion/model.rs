//! A latent diffusion model as its files describe it: which one it is, and what its parts are made of.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::autoencoder::Autoencoder;
use super::autoencoder_config::AutoencoderConfig;
use super::config::ConditionalConfig;
use super::names;
use super::part::{Part, Stored, text_of};
use super::schedulers::{Facts, LowRes};
use super::space::Latents;
use super::text::{TextConfig, TextEncoder};
use super::unet::ConditionalUNet;
use crate::compute::WeightPrecision;
use crate::models::load::fault_of;
use crate::models::{Network, Prior};
use crate::tensor::Compute;
use crate::{Error, Result};

/// What a latent diffusion model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Purpose {
    /// Super-resolution by 4: the small image stands beside the latents.
    Upscaling,
    /// Filling in what a mask leaves out: the mask and the latents of the rest stand beside.
    Inpainting,
}

/// Which weights of a single file are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weights {
    Plain,
    /// Those averaged during training, where they lie beside the plain ones.
    Averaged,
}

/// What tells a single file's autoencoder and U-Net from the rest.
const UNET_PREFIX: &str = "model.diffusion_model.";
const VAE_PREFIX: &str = "first_stage_model.";
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
const LEFT_OUT_FROM: [&str; 3] = [AVERAGED_PREFIX, "low_scale_model.", "first_stage_model.loss."];

/// A model whose files were found to fit, before any weights are read.
#[derive(Debug)]
pub struct LatentFiles {
    path: PathBuf,
    purpose: Purpose,
    unet: (Arc<ConditionalUNet>, Stored),
    autoencoder: (Arc<Autoencoder>, Stored),
    text: TextConfig,
    text_parameters: usize,
    facts: Facts,
    low_res: Option<LowRes>,
    /// What weights are kept in.
    weights: WeightPrecision,
    /// Of the U-Net, the autoencoder and the text encoder; the same file three times where there is only one.
    parts: [Arc<Part>; 3],
}

impl LatentFiles {
    /// Whether a path looks like a latent diffusion model: a folder with a `model_index.json`, or a single file with a
    /// U-Net and an autoencoder.
    pub fn recognises(path: &Path) -> bool {
        if path.is_dir() {
            return path.join("model_index.json").is_file();
        }
        let single = |part: Part| part.has(&format!("{UNET_PREFIX}out.2.weight"));
        crate::io::weights::WeightFile::open(path).is_ok_and(|file| single(Part { files: vec![file] }))
    }

    /// Finds out what is there, and compares all names and shapes with what the parts need.
    ///
    /// # Errors
    /// [`Error::Model`] naming the file that is missing or does not fit, and in what; models for other purposes are
    /// refused.
    pub fn open(path: &Path) -> Result<Self> {
        let found = if path.is_dir() { Self::folder(path) } else { Self::single(path, Weights::Plain) }?;
        found.checked()
    }

    /// The same, with the weights of the U-Net that were averaged during training and lie in a single file beside the plain
    /// ones.
    ///
    /// # Errors
    /// As [`LatentFiles::open`]; [`Error::Config`] where there is only one set of weights.
    pub fn open_averaged(path: &Path) -> Result<Self> {
        if path.is_dir() {
            let message = "a folder holds one set of weights; averaged ones beside it are only in single files";
            return Err(Error::config(format!("{}: {message}", path.display())));
        }
        Self::single(path, Weights::Averaged)?.checked()
    }

    /// Checks that the parts fit each other, and that the text encoder is whole.
    fn checked(self) -> Result<Self> {
        let width = self.unet.0.config().text_width;
        let (states, text_parameters) = TextEncoder::describe(&self.parts[2], self.text)?;
        if width != states {
            return Err(Error::model(
                &self.path,
                format!("the U-Net attends to states of {width} numbers, but the text encoder has {states}"),
            ));
        }
        let (channels, latent) = (self.unet.0.config().out_channels, self.autoencoder.0.config().latent_channels);
        if channels != latent {
            return Err(Error::model(
                &self.path,
                format!("a U-Net of {channels} latent channels with an autoencoder of {latent}"),
            ));
        }
        Ok(Self { text_parameters, ..self })
    }

    fn folder(path: &Path) -> Result<Self> {
        let part = |name: &str| path.join(name);
        let unet_file = part("unet").join("config.json");
        let config = ConditionalConfig::from_json(&text_of(&unet_file)?).map_err(fault_of(&unet_file))?;
        let vae_file = part("vae").join("config.json");
        let mut vae = AutoencoderConfig::from_json(&text_of(&vae_file)?).map_err(fault_of(&vae_file))?;
        let purpose = purpose_of(path, &config, vae.latent_channels, vae.image_channels)?;
        vae.scale = Some(scale_of(purpose, &vae));
        let scheduler = part("scheduler").join("scheduler_config.json");
        let facts = Facts::from_json(&text_of(&scheduler)?).map_err(fault_of(&scheduler))?;
        let low_res = match purpose {
            Purpose::Inpainting => None,
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
            weights("vae", stem, "diffusion_pytorch_model.bin")?,
            weights("text_encoder", "model", "pytorch_model.bin")?,
        ];
        let unet = ConditionalUNet::new(&config).map_err(fault_of(&unet_file))?;
        let unet_names = Stored::new(unet.layout(), |name| names::of_unet(&config, name));
        unet_names.check(&parts[0], |_| false)?;
        let autoencoder = Autoencoder::new(&vae).map_err(fault_of(&vae_file))?;
        let old = parts[1].has("decoder.mid_block.attentions.0.query.weight");
        let vae_names = Stored::new(autoencoder.layout(), |name| names::of_autoencoder(&vae, name, old));
        vae_names.check(&parts[1], |_| false)?;
        Ok(Self {
            path: path.to_owned(),
            purpose,
            unet: (Arc::new(unet), unet_names),
            autoencoder: (Arc::new(autoencoder), vae_names),
            text: TextConfig::of_folder(path)?,
            text_parameters: 0,
            facts,
            low_res,
            weights: WeightPrecision::F32,
            parts,
        })
    }

    fn single(path: &Path, weights: Weights) -> Result<Self> {
        let part = Arc::new(Part { files: vec![crate::io::weights::WeightFile::open(path)?] });
        let stem = format!("{UNET_PREFIX}input_blocks.0.0.weight");
        let inputs = part.shape(&stem).and_then(|shape| shape.get(1).copied());
        let text_width = part
            .shape(&format!("{UNET_PREFIX}input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"))
            .and_then(|shape| shape.get(1).copied());
        let (purpose, config, vae, text) = match (inputs, text_width) {
            (Some(7), _) => {
                let vae = AutoencoderConfig::upscaler();
                (Purpose::Upscaling, ConditionalConfig::upscaler(), vae, TextConfig::VIT_H)
            }
            (Some(9), width) => {
                let second = width == Some(1024);
                let text = if second { TextConfig::VIT_H } else { TextConfig::VIT_L };
                let config = ConditionalConfig::inpainting(second);
                (Purpose::Inpainting, config, AutoencoderConfig::stable_diffusion(), text)
            }
            (Some(inputs), _) => return Err(Error::model(path, other_purpose(inputs))),
            (None, _) => {
                return Err(Error::model(path, format!("is no latent diffusion model: it has no tensor {stem}")));
            }
        };
        let unet = ConditionalUNet::new(&config)?;
        let unet_names = Stored::new(unet.layout(), |name| Some(format!("{UNET_PREFIX}{name}")));
        unet_names.check(&part, |name| !name.starts_with(UNET_PREFIX))?;
        let unet_names = match weights {
            Weights::Plain => unet_names,
            Weights::Averaged if !part.has("model_ema.decay") => {
                let message = "has one set of weights, not averaged ones beside it";
                return Err(Error::config(format!("{}: {message}", path.display())));
            }
            Weights::Averaged => {
                let averaged = Stored::new(unet.layout(), |name| {
                    Some(format!("{AVERAGED_PREFIX}diffusion_model{}", name.replace('.', "")))
                });
                let other = ["model_ema.decay", "model_ema.num_updates"];
                averaged.check(&part, |name| !name.starts_with(AVERAGED_PREFIX) || other.contains(&name))?;
                averaged
            }
        };
        let autoencoder = Autoencoder::new(&vae)?;
        let vae_names = Stored::new(autoencoder.layout(), |name| Some(format!("{VAE_PREFIX}{name}")));
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
            text,
            text_parameters: 0,
            facts: if purpose == Purpose::Upscaling { Facts::upscaler() } else { Facts::stable_diffusion() },
            low_res: (purpose == Purpose::Upscaling).then(LowRes::upscaler),
            weights: WeightPrecision::F32,
            parts: [part.clone(), part.clone(), part],
        })
    }

    /// What it is for.
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// The file or folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The U-Net without its weights.
    pub fn unet(&self) -> &Arc<ConditionalUNet> {
        &self.unet.0
    }

    /// The autoencoder without its weights.
    pub fn autoencoder(&self) -> &Arc<Autoencoder> {
        &self.autoencoder.0
    }

    /// The same with the weights of convolutions and linear layers kept in that precision; they are computed with in that of the
    /// [`Compute`] that they are loaded for.
    #[must_use]
    pub fn keeping(self, weights: WeightPrecision) -> Self {
        Self { weights, ..self }
    }

    /// Bytes that the parameters of the U-Net, the autoencoder and the text encoder take once they are loaded.
    ///
    /// # Errors
    /// None is expected of files that were opened.
    pub fn bytes(&self) -> Result<[u64; 3]> {
        let of = |stored: &Stored, part: &Part| stored.bytes(part, self.weights);
        let text = TextEncoder::bytes(&self.parts[2], self.text, self.weights)?;
        Ok([of(&self.unet.1, &self.parts[0]), of(&self.autoencoder.1, &self.parts[1]), text])
    }

    /// Number of the text encoder's parameters.
    pub fn text_parameters(&self) -> usize {
        self.text_parameters
    }

    /// How the U-Net was trained to be sampled.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// How noise is added to the small image of an upscaler.
    pub fn low_res(&self) -> Option<&LowRes> {
        self.low_res.as_ref()
    }

    /// The U-Net with its weights, told apart by the SHA-256 of its file, or of the hashes of its shards. Its
    /// [`crate::models::Space`] is that of pixels: the autoencoder is loaded for itself.
    ///
    /// # Errors
    /// [`Error::Model`] for a tensor that cannot be read.
    pub fn load_unet(&self, compute: &Compute) -> Result<Prior> {
        let (net, stored) = &self.unet;
        let (params, hash) = stored.load_hashed(&self.parts[0], &self.kept(stored, 0, compute))?;
        Ok(Prior::new(net.clone(), params, self.facts.info(net.config())?)?.with_file_hash(hash))
    }

    /// The autoencoder with its weights.
    ///
    /// # Errors
    /// As [`LatentFiles::load_unet`].
    pub fn load_autoencoder(&self, compute: &Compute) -> Result<Latents> {
        let (net, stored) = &self.autoencoder;
        Ok(Latents::new(net.clone(), stored.load(&self.parts[1], &self.kept(stored, 1, compute))?))
    }

    /// `compute` with the weights of a part kept as asked for.
    fn kept(&self, stored: &Stored, part: usize, compute: &Compute) -> Compute {
        Compute { kept_in: stored.kept_in(&self.parts[part], self.weights), ..compute.clone() }
    }

    /// The text encoder with its weights.
    ///
    /// # Errors
    /// As [`LatentFiles::load_unet`].
    pub fn load_text(&self, compute: &Compute) -> Result<TextEncoder> {
        TextEncoder::load(&self.parts[2], self.text, self.weights, compute)
    }

    /// The SHA-256 by which the U-Net's weights are told apart ([`LatentFiles::load_unet`]), without loading them.
    ///
    /// # Errors
    /// [`Error::Model`] if a file cannot be read.
    pub fn hash(&self) -> Result<String> {
        Ok(self.parts[0].hash()?.to_string())
    }

    /// The files that are read.
    pub fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<_> = self.parts.iter().flat_map(|part| part.paths()).collect();
        files.dedup();
        files
    }
}

fn other_purpose(inputs: usize) -> String {
    format!(
        "is a diffusion model with {inputs} input channels: supported are the x4 upscaler (7) and inpainting models (9)"
    )
}

fn purpose_of(path: &Path, unet: &ConditionalConfig, latent: usize, image: usize) -> Result<Purpose> {
    match unet.in_channels {
        inputs if inputs == latent + image => Ok(Purpose::Upscaling),
        inputs if inputs == 2 * latent + 1 => Ok(Purpose::Inpainting),
        inputs => Err(Error::model(path, other_purpose(inputs))),
    }
}

/// The upscaler's pipeline has always used one number, whatever its file says or lacks; elsewhere the file's counts.
fn scale_of(purpose: Purpose, config: &AutoencoderConfig) -> f64 {
    match purpose {
        Purpose::Upscaling => 0.08333,
        Purpose::Inpainting => config.scale.unwrap_or(0.18215),
    }
}
