//! Recognises a CLIP model by names and shapes, and reads its towers from either naming scheme.
//!
//! Names and shapes give every size but the number of heads, which is the width over 64 in every published
//! model and otherwise stands in the configuration beside the weights. They do not give the activation.

use std::cell::RefCell;
use std::collections::BTreeSet;

use super::net::{Activation, Block, Linear, Norm, Text, Tower, Vision};
use crate::io::weights::WeightFile;
use crate::models::load::tensor;
use crate::tensor::{Device, Tensor};
use crate::{Error, Result};

/// Channels of an attention head in the published models.
const HEAD: usize = 64;
/// Tensors that no embedding needs.
const UNUSED: [&str; 9] = [
    "logit_scale",
    "logit_bias",
    "attn_mask",
    "input_resolution",
    "context_length",
    "vocab_size",
    "text_model.embeddings.position_ids",
    "vision_model.embeddings.position_ids",
    "positional_embedding.position_ids",
];

/// How a file names its tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    /// transformers.
    HuggingFace,
    /// OpenAI's archives and open_clip.
    OpenAi,
}

/// A weight file being read as a CLIP.
pub(super) struct Source<'a> {
    file: &'a WeightFile,
    device: &'a Device,
    pub scheme: Scheme,
    /// Before every name, in checkpoints saved while training on several devices.
    prefix: &'static str,
    used: RefCell<BTreeSet<String>>,
}

impl<'a> Source<'a> {
    pub fn new(file: &'a WeightFile, device: &'a Device) -> Result<Self> {
        let has = |name: &str| file.info(name).is_some();
        let (scheme, prefix) = if has("vision_model.embeddings.class_embedding") {
            (Scheme::HuggingFace, "")
        } else if has("visual.class_embedding") {
            (Scheme::OpenAi, "")
        } else if has("module.visual.class_embedding") {
            (Scheme::OpenAi, "module.")
        } else {
            let expected = "vision_model.embeddings.class_embedding or visual.class_embedding";
            return Err(Error::model(
                file.path(),
                format!("is not a CLIP model with a vision transformer: {expected} is missing"),
            ));
        };
        Ok(Self { file, device, scheme, prefix, used: RefCell::default() })
    }

    /// OpenAI's own archives, told by the sizes they carry along, hold models with quick GELU.
    pub fn is_openai_archive(&self) -> bool {
        self.scheme == Scheme::OpenAi && self.file.info("input_resolution").is_some()
    }

    fn error(&self, message: impl Into<String>) -> Error {
        Error::model(self.file.path(), message)
    }

    fn shape<const D: usize>(&self, name: &str) -> Result<[usize; D]> {
        let name = format!("{}{name}", self.prefix);
        let info = self.file.info(&name).ok_or_else(|| self.error(format!("has no tensor {name:?}")))?;
        let shape = <[usize; D]>::try_from(info.shape.as_slice()).ok().filter(|shape| shape.iter().all(|&n| n > 0));
        shape.ok_or_else(|| self.error(format!("tensor {name:?} has shape {:?}, expected {D} dimensions", info.shape)))
    }

    fn tensor<const D: usize>(&self, name: &str, shape: [usize; D]) -> Result<Tensor<D>> {
        let name = format!("{}{name}", self.prefix);
        let tensor = tensor(self.file, &name, shape, self.device)?;
        self.used.borrow_mut().insert(name);
        Ok(tensor)
    }

    /// # Errors
    /// [`Error::Model`] naming tensors that are not part of CLIP.
    pub fn finish(self) -> Result<()> {
        let used = self.used.borrow();
        let known =
            |name: &str| used.contains(name) || UNUSED.contains(&name.strip_prefix(self.prefix).unwrap_or(name));
        let strange: Vec<&str> = self.file.names().filter(|name| !known(name)).collect();
        match strange.first() {
            None => Ok(()),
            Some(first) => {
                Err(self.error(format!("has {} tensors that CLIP does not have, for example {first:?}", strange.len())))
            }
        }
    }

    fn pick(&self, hugging_face: &'static str, openai: &'static str) -> &'static str {
        match self.scheme {
            Scheme::HuggingFace => hugging_face,
            Scheme::OpenAi => openai,
        }
    }

    fn norm(&self, name: &str, width: usize) -> Result<Norm> {
        let gamma = self.tensor(&format!("{name}.weight"), [width])?;
        Ok(Norm { gamma, beta: self.tensor(&format!("{name}.bias"), [width])? })
    }

    fn linear(&self, name: &str, out: usize, input: usize) -> Result<Linear> {
        let weight = self.tensor(&format!("{name}.weight"), [out, input])?;
        Ok(Linear { weight, bias: self.tensor(&format!("{name}.bias"), [out])? })
    }

    /// The final projection as `[width, embedding]`, which transformers stores transposed.
    fn projection(&self, hugging_face: &str, openai: &str, width: usize) -> Result<Tensor<2>> {
        match self.scheme {
            Scheme::HuggingFace => {
                let [embedding, _] = self.shape(hugging_face)?;
                Ok(self.tensor(hugging_face, [embedding, width])?.transpose())
            }
            Scheme::OpenAi => {
                let [_, embedding] = self.shape(openai)?;
                self.tensor(openai, [width, embedding])
            }
        }
    }

    fn block(&self, name: &str, width: usize) -> Result<Block> {
        let part = |hugging_face, openai| format!("{name}.{}", self.pick(hugging_face, openai));
        let qkv = match self.scheme {
            Scheme::HuggingFace => {
                let parts = ["q", "k", "v"].map(|p| self.linear(&format!("{name}.self_attn.{p}_proj"), width, width));
                let [q, k, v] = parts;
                let (q, k, v) = (q?, k?, v?);
                Linear {
                    weight: Tensor::cat(vec![q.weight, k.weight, v.weight], 0),
                    bias: Tensor::cat(vec![q.bias, k.bias, v.bias], 0),
                }
            }
            Scheme::OpenAi => Linear {
                weight: self.tensor(&format!("{name}.attn.in_proj_weight"), [3 * width, width])?,
                bias: self.tensor(&format!("{name}.attn.in_proj_bias"), [3 * width])?,
            },
        };
        let widen = part("mlp.fc1", "mlp.c_fc");
        let [wide, _] = self.shape(&format!("{widen}.weight"))?;
        Ok(Block {
            norm_1: self.norm(&part("layer_norm1", "ln_1"), width)?,
            qkv,
            out: self.linear(&part("self_attn.out_proj", "attn.out_proj"), width, width)?,
            norm_2: self.norm(&part("layer_norm2", "ln_2"), width)?,
            widen: self.linear(&widen, wide, width)?,
            narrow: self.linear(&part("mlp.fc2", "mlp.c_proj"), width, wide)?,
        })
    }

    fn tower(&self, layers: &str, width: usize, heads: Option<usize>, activation: Activation) -> Result<Tower> {
        let heads = heads.unwrap_or(width / HEAD);
        if heads == 0 || !width.is_multiple_of(heads) {
            return Err(self.error(format!("a width of {width} cannot be split into {heads} attention heads")));
        }
        let layers = format!("{}{layers}", self.prefix);
        let mut blocks = Vec::new();
        while self.file.names().any(|name| name.starts_with(&format!("{layers}.{}.", blocks.len()))) {
            let name = format!("{layers}.{}", blocks.len());
            blocks.push(self.block(name.strip_prefix(self.prefix).unwrap_or(&name), width)?);
        }
        Ok(Tower { blocks, heads, activation })
    }

    /// The image tower.
    pub fn vision(&self, heads: Option<usize>, activation: Activation) -> Result<Vision> {
        let patch = self.pick("vision_model.embeddings.patch_embedding.weight", "visual.conv1.weight");
        let positions = self.pick("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding");
        let [width, _, side, _] = self.shape(patch)?;
        let [tokens, _] = self.shape(positions)?;
        if (tokens - 1).isqrt().pow(2) != tokens - 1 || tokens == 1 {
            return Err(self.error(format!("{positions:?} has {tokens} rows, expected one more than a square number")));
        }
        let class = self.pick("vision_model.embeddings.class_embedding", "visual.class_embedding");
        let layers = self.pick("vision_model.encoder.layers", "visual.transformer.resblocks");
        Ok(Vision {
            patch: self.tensor(patch, [width, 3, side, side])?,
            class: self.tensor(class, [width])?.reshape([1, width]),
            positions: self.tensor(positions, [tokens, width])?,
            norm_pre: self.norm(self.pick("vision_model.pre_layrnorm", "visual.ln_pre"), width)?,
            tower: self.tower(layers, width, heads, activation)?,
            norm_post: self.norm(self.pick("vision_model.post_layernorm", "visual.ln_post"), width)?,
            projection: self.projection("visual_projection.weight", "visual.proj", width)?,
        })
    }

    /// The text tower.
    pub fn text(&self, heads: Option<usize>, activation: Activation) -> Result<Text> {
        let tokens = self.pick("text_model.embeddings.token_embedding.weight", "token_embedding.weight");
        let positions = self.pick("text_model.embeddings.position_embedding.weight", "positional_embedding");
        let [vocabulary, width] = self.shape(tokens)?;
        let [context, _] = self.shape(positions)?;
        let layers = self.pick("text_model.encoder.layers", "transformer.resblocks");
        Ok(Text {
            tokens: self.tensor(tokens, [vocabulary, width])?,
            positions: self.tensor(positions, [context, width])?,
            tower: self.tower(layers, width, heads, activation)?,
            norm_final: self.norm(self.pick("text_model.final_layer_norm", "ln_final"), width)?,
            projection: self.projection("text_projection.weight", "text_projection", width)?,
        })
    }
}
