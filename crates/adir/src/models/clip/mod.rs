//! CLIP with a vision transformer: pictures and texts in one space (Radford et al., arXiv 2103.00020).
//!
//! Weights come from a file or a folder by transformers, OpenAI or open_clip. The one thing that cannot be
//! told from weights is the activation, and the wrong one gives plausible, wrong features; so where no
//! configuration tells it, loading asks for it rather than guesses.

mod config;
pub(in crate::models) mod keys;
pub(in crate::models) mod net;
mod tokenizer;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::config::Config;
use self::keys::{Scheme, Source};
use self::net::{Text, TextStates, Vision};
use crate::compute::in_pool;
use crate::encode::{Embedding, Encoder, EncoderId, Preprocess};
use crate::io::weights::WeightFile;
use crate::models::params::Params;
use crate::tensor::{Compute, DType, Device, Tensor, to_f32};
use crate::{Error, Result};

pub use self::net::Activation;
pub use self::tokenizer::Tokenizer;

/// Names of the weights in a model's folder, the safer format first.
const FILES: [&str; 4] =
    ["model.safetensors", "open_clip_model.safetensors", "open_clip_pytorch_model.bin", "pytorch_model.bin"];

/// Mean and standard deviation of the channels, OpenAI's `clip.py`.
const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
const STD: [f32; 3] = [0.268_629_55, 0.261_302_6, 0.275_777_1];

/// A CLIP model, both towers with their weights.
#[derive(Debug)]
pub struct Clip {
    id: Arc<EncoderId>,
    preprocess: Preprocess,
    vision: Vision,
    text: Text,
    params: Params,
    tokenizer: Tokenizer,
    device: Device,
}

/// What a weight file of a CLIP model holds.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClipInfo {
    /// The encoder that it becomes.
    pub encoder: EncoderId,
    /// Number of scalar parameters.
    pub parameters: usize,
    /// Number of tokens it knows.
    pub vocabulary: usize,
}

/// A weight file as a CLIP, before its values are read.
struct Described<'a> {
    source: Source<'a>,
    vision: Vision,
    text: Text,
    preprocess: Preprocess,
    id: EncoderId,
}

impl Clip {
    /// What a file or folder that [`Clip::open`] takes holds, without reading the weights but for their hash; `None` where it
    /// holds something else.
    ///
    /// # Errors
    /// As [`Clip::open`], but not for values that are not finite.
    pub fn describe(path: &Path) -> Result<Option<ClipInfo>> {
        let Ok(file) = file_in(path) else { return Ok(None) };
        let file = match WeightFile::open(&file) {
            Ok(file) if Source::new(&file).is_ok() => file,
            Err(error) if path.is_dir() => return Err(error.into()),
            _ => return Ok(None),
        };
        let Described { source, text, id, .. } = described(&file, Config::beside(parent(file.path()))?, None)?;
        source.check_shapes()?;
        Ok(Some(ClipInfo { parameters: source.check()?, vocabulary: text.states.vocabulary, encoder: id }))
    }

    /// Loads a model from a weight file (safetensors, or a PyTorch or TorchScript archive) or a folder with
    /// one. `activation` overrules the configuration beside it.
    ///
    /// # Errors
    /// [`Error::Model`] if the file is missing, is no CLIP with a vision transformer, has tensors missing,
    /// misshapen or left over; [`Error::Config`] if nothing tells the activation.
    pub fn open(path: &Path, activation: Option<Activation>, device: &Device) -> Result<Self> {
        let file = file_in(path)?;
        Self::load(&WeightFile::open(&file)?, Config::beside(parent(&file))?, activation, device)
    }

    fn load(
        file: &WeightFile,
        config: Option<Config>,
        activation: Option<Activation>,
        device: &Device,
    ) -> Result<Self> {
        let Described { source, vision, text, preprocess, id } = described(file, config, activation)?;
        let params = source.params(&Compute::new(device, DType::F32))?;
        let tokenizer = Tokenizer::published();
        Ok(Self { id: Arc::new(id), preprocess, vision, text, params, tokenizer, device: device.clone() })
    }

    /// Features of a preprocessed picture `[1, 3, size, size]`, before scaling to length one.
    ///
    /// # Errors
    /// [`Error::Backend`] if the result cannot be read back.
    pub fn image_features(&self, input: Tensor<4>) -> Result<Vec<f32>> {
        in_pool(&self.device, || to_f32(&self.vision.forward(&self.params, input)))
    }

    /// Features of tokens, of which the last marks the end, before scaling to length one.
    ///
    /// # Errors
    /// [`Error::Config`] if there are none, too many, or one is not in the vocabulary.
    pub fn token_features(&self, tokens: &[u32]) -> Result<Vec<f32>> {
        let TextStates { vocabulary, context, .. } = self.text.states;
        if tokens.is_empty() || tokens.len() > context {
            return Err(Error::Config(format!("the text has {} tokens, expected 1 to {context}", tokens.len())));
        }
        if let Some(bad) = tokens.iter().find(|&&token| token as usize >= vocabulary) {
            return Err(Error::Config(format!("token {bad} is not in a vocabulary of {vocabulary}")));
        }
        in_pool(&self.device, || to_f32(&self.text.forward(&self.params, tokens)))
    }
}

/// The weight file that `path` is, or holds.
fn file_in(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let found = FILES.iter().map(|name| path.join(name)).find(|file| file.is_file());
    found.ok_or_else(|| Error::model(path, format!("contains none of {}", FILES.join(", "))))
}

fn parent(file: &Path) -> &Path {
    file.parent().unwrap_or(Path::new("."))
}

fn described(file: &WeightFile, config: Option<Config>, activation: Option<Activation>) -> Result<Described<'_>> {
    let mut source = Source::new(file)?;
    // OpenAI's archives need no configuration, and one that lies beside them is another model's.
    let known = if source.is_openai_archive() { Some(Activation::QuickGelu) } else { config.map(|c| c.activation) };
    let activation = activation.or(known).ok_or_else(|| {
        let beside = match source.scheme {
            Scheme::HuggingFace => "config.json",
            Scheme::OpenAi => "open_clip_config.json",
        };
        let path = file.path().display();
        Error::Config(format!(
            "{path}: the activation (quick GELU or GELU) is unknown; put {beside} beside the weights"
        ))
    })?;
    let vision = source.vision(config.and_then(|c| c.vision_heads), activation)?;
    let text = source.text(config.and_then(|c| c.text_heads), activation)?;
    let Vision { patch, width, side, dimension, .. } = vision;
    let (size, of_text) = (patch * side, text.dimension);
    if dimension != of_text {
        let message = format!("has image embeddings of {dimension} numbers but text embeddings of {of_text}");
        return Err(Error::model(file.path(), message));
    }
    let preprocess = Preprocess { size, mean: MEAN, std: STD };
    let id = EncoderId {
        name: name(width, vision.tower.blocks.len(), patch, size, activation),
        weights: file.sha256()?.to_string(),
        preprocessing: preprocess.hash(),
        dimension,
    };
    Ok(Described { source, vision, text, preprocess, id })
}

impl Encoder for Clip {
    fn id(&self) -> &Arc<EncoderId> {
        &self.id
    }

    fn image(&self, picture: &Tensor<4>) -> Result<Embedding> {
        let input = self.preprocess.apply(picture)?.to_device(&self.device);
        Embedding::new(self.id.clone(), self.image_features(input)?)
    }

    fn text(&self, text: &str) -> Result<Embedding> {
        let TextStates { vocabulary, context, .. } = self.text.states;
        if vocabulary != self.tokenizer.size() {
            let known = self.tokenizer.size();
            return Err(Error::Config(format!("{} has {vocabulary} tokens, but the tokenizer has {known}", self.id)));
        }
        let tokens = self.tokenizer.encode(text, context);
        Embedding::new(self.id.clone(), self.token_features(&tokens)?)
    }
}

/// The name that a model of these sizes goes by.
fn name(width: usize, layers: usize, patch: usize, size: usize, activation: Activation) -> String {
    let family = match (width, layers) {
        (768, 12) => "b".to_owned(),
        (1024, 24) => "l".to_owned(),
        _ => format!("{width}x{layers}"),
    };
    let resolution = if size == 224 { String::new() } else { format!("-{size}") };
    let activation = match activation {
        Activation::QuickGelu => "quickgelu",
        Activation::Gelu => "gelu",
    };
    format!("clip-vit-{family}-{patch}{resolution}-{activation}")
}
