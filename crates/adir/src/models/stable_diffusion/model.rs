//! A latent diffusion model as its files describe it: which one it is, and what its parts are made of.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::autoencoder::Autoencoder;
use super::part::{Part, Stored};
use super::schedulers::{Facts, LowRes};
use super::space::Latents;
use super::text::{TextConfig, TextEncoder};
use super::unet::ConditionalUNet;
use crate::compute::WeightPrecision;
use crate::io::weights::WeightFile;
use crate::models::Prior;
use crate::tensor::Compute;
use crate::{Error, Result};

/// What a latent diffusion model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Purpose {
    /// Super-resolution by 4: the small image, with noise, stands beside the latents, and a text is told.
    Upscaling,
    /// Super-resolution by 4 as latent diffusion's own: the small image as it is stands beside the latents, and nothing else is
    /// told.
    SuperResolution,
    /// Filling in what a mask leaves out: the mask and the latents of the rest stand beside.
    Inpainting,
}

impl Purpose {
    /// Whether it makes images four times as large.
    pub fn is_upscaling(self) -> bool {
        matches!(self, Self::Upscaling | Self::SuperResolution)
    }
}

/// A text encoder: its files, what they do not tell, and its number of parameters.
#[derive(Debug)]
pub(super) struct TextFiles {
    pub part: Arc<Part>,
    pub config: TextConfig,
    pub parameters: usize,
}

/// A model whose files were found to fit, before any weights are read.
#[derive(Debug)]
pub struct LatentFiles {
    pub(super) path: PathBuf,
    pub(super) purpose: Purpose,
    pub(super) unet: (Arc<ConditionalUNet>, Stored),
    pub(super) autoencoder: (Arc<Autoencoder>, Stored),
    pub(super) text: Option<TextFiles>,
    pub(super) facts: Facts,
    pub(super) low_res: Option<LowRes>,
    /// What weights are kept in.
    pub(super) weights: WeightPrecision,
    /// Of the U-Net and the autoencoder; the same file twice where there is only one.
    pub(super) parts: [Arc<Part>; 2],
}

impl LatentFiles {
    /// The model that lies at a path, `None` where that does not look like a latent diffusion model: a folder with a
    /// `model_index.json`, or a single file with a U-Net and an autoencoder. `averaged` as for [`LatentFiles::open_averaged`].
    ///
    /// # Errors
    /// As [`LatentFiles::open`] for what looks like one.
    pub fn recognised(path: &Path, averaged: bool) -> Result<Option<Self>> {
        if path.is_dir() {
            let is_one = path.join("model_index.json").is_file();
            return is_one.then(|| Self::opened(path, averaged)).transpose();
        }
        // What is no weight file is no latent diffusion model either.
        let Ok(file) = WeightFile::open(path) else { return Ok(None) };
        Self::is_single(&file).then(|| Self::single(path, file, averaged)?.checked()).transpose()
    }

    /// Finds out what is there, and compares all names and shapes with what the parts need.
    ///
    /// # Errors
    /// [`Error::Model`] naming the file that is missing or does not fit, and in what; models for other purposes are
    /// refused.
    pub fn open(path: &Path) -> Result<Self> {
        Self::opened(path, false)
    }

    /// The same, with the weights of the U-Net that were averaged during training and lie in a single file beside the plain
    /// ones.
    ///
    /// # Errors
    /// As [`LatentFiles::open`]; [`Error::Config`] where there is only one set of weights.
    pub fn open_averaged(path: &Path) -> Result<Self> {
        Self::opened(path, true)
    }

    fn opened(path: &Path, averaged: bool) -> Result<Self> {
        let found = match path.is_dir() {
            true if averaged => {
                let message = "a folder holds one set of weights; averaged ones beside it are only in single files";
                return Err(Error::config(format!("{}: {message}", path.display())));
            }
            true => Self::folder(path)?,
            false => Self::single(path, WeightFile::open(path)?, averaged)?,
        };
        found.checked()
    }

    /// Checks that the parts fit each other, and that the text encoder is whole.
    fn checked(mut self) -> Result<Self> {
        if let (Some(text), Some(width)) = (&mut self.text, self.unet.0.config().text_width) {
            let (states, parameters) = TextEncoder::describe(&text.part, text.config)?;
            if width != states {
                return Err(Error::model(
                    &self.path,
                    format!("the U-Net attends to states of {width} numbers, but the text encoder has {states}"),
                ));
            }
            text.parameters = parameters;
        }
        let (channels, latent) = (self.unet.0.config().out_channels, self.autoencoder.0.config().latent_channels);
        if channels != latent {
            return Err(Error::model(
                &self.path,
                format!("a U-Net of {channels} latent channels with an autoencoder of {latent}"),
            ));
        }
        Ok(self)
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
        let text =
            self.text.as_ref().map(|text| TextEncoder::bytes(&text.part, text.config, self.weights)).transpose()?;
        Ok([of(&self.unet.1, &self.parts[0]), of(&self.autoencoder.1, &self.parts[1]), text.unwrap_or(0)])
    }

    /// Number of the text encoder's parameters; 0 for a model that takes no text.
    pub fn text_parameters(&self) -> usize {
        self.text.as_ref().map_or(0, |text| text.parameters)
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
    /// As [`LatentFiles::load_unet`]; [`Error::Config`] for a model that takes no text.
    pub fn load_text(&self, compute: &Compute) -> Result<TextEncoder> {
        match &self.text {
            Some(text) => TextEncoder::load(&text.part, text.config, self.weights, compute),
            None => Err(Error::config("this model takes no text")),
        }
    }

    /// The SHA-256 by which the U-Net's weights are told apart ([`LatentFiles::load_unet`]), without loading them.
    ///
    /// # Errors
    /// [`Error::Model`] if a file cannot be read.
    pub fn hash(&self) -> Result<String> {
        Ok(self.parts[0].hash()?.to_string())
    }

    /// What tells the weights of the U-Net and of the autoencoder apart: the SHA-256 of their files, as [`LatentFiles::hash`].
    ///
    /// # Errors
    /// As [`LatentFiles::hash`].
    pub fn hashes(&self) -> Result<[String; 2]> {
        let [unet, autoencoder] = &self.parts;
        let of_unet = self.hash()?;
        let of_autoencoder =
            if Arc::ptr_eq(unet, autoencoder) { of_unet.clone() } else { autoencoder.hash()?.to_string() };
        Ok([of_unet, of_autoencoder])
    }

    /// The files that are read.
    pub fn files(&self) -> Vec<PathBuf> {
        let text = self.text.as_ref().map(|text| &text.part);
        let mut files: Vec<_> = self.parts.iter().chain(text).flat_map(|part| part.paths()).collect();
        files.dedup();
        files
    }
}
