//! Recognises a CLIP model by names and shapes, and finds its parameters under either naming scheme.
//!
//! Names and shapes give every size but the number of heads, which is the width over 64 in every published
//! model and otherwise stands in the configuration beside the weights. They do not give the activation.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::net::{Activation, Block, Projection, Text, Tower, Vision};
use crate::io::weights::WeightFile;
use crate::models::blocks::Affine;
use crate::models::load::values;
use crate::models::params::{Init, ParamId, ParamLayout, ParamSpec, Params, Role};
use crate::tensor::{Compute, DType, Device};
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

/// Where in the file the values of a parameter are.
enum Stored {
    /// In one tensor, as they are.
    Whole(String),
    /// In several tensors of the same shape, one above the other.
    Stacked(Vec<String>),
}

/// A weight file being read as a CLIP: the parameters found so far, and where their values are.
pub(super) struct Source<'a> {
    file: &'a WeightFile,
    pub scheme: Scheme,
    /// Before every name, in checkpoints saved while training on several devices.
    prefix: &'static str,
    layout: ParamLayout,
    /// By the parameters' positions in the layout.
    stored: Vec<Stored>,
}

impl<'a> Source<'a> {
    pub fn new(file: &'a WeightFile) -> Result<Self> {
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
        Ok(Self { file, scheme, prefix, layout: ParamLayout::default(), stored: Vec::new() })
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

    /// Reads the values of all parameters that were found.
    ///
    /// # Errors
    /// [`Error::Model`] naming a tensor that is missing, misshapen or not part of CLIP.
    pub fn params(self, device: &Device) -> Result<Params> {
        let named = |stored: &Stored| match stored {
            Stored::Whole(name) => vec![name.clone()],
            Stored::Stacked(names) => names.clone(),
        };
        let used: BTreeSet<String> = self.stored.iter().flat_map(named).collect();
        let known = |name: &str| {
            let own = name.strip_prefix(self.prefix);
            own.is_some_and(|own| used.contains(own)) || UNUSED.contains(&own.unwrap_or(name))
        };
        let strange: Vec<&str> = self.file.names().filter(|name| !known(name)).collect();
        if let Some(first) = strange.first() {
            let count = strange.len();
            return Err(self.error(format!("has {count} tensors that CLIP does not have, for example {first:?}")));
        }
        let mut stored = self.stored.iter();
        let read = |spec: &ParamSpec| match stored.next().expect("a place for every parameter") {
            Stored::Whole(name) => self.values(name, &spec.shape),
            Stored::Stacked(names) => {
                let mut shape = spec.shape.clone();
                shape[0] /= names.len();
                let parts = names.iter().map(|name| self.values(name, &shape)).collect::<Result<Vec<_>>>()?;
                Ok(parts.concat())
            }
        };
        Params::load(Arc::new(self.layout.clone()), &Compute::new(device, DType::F32), read)
    }

    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        values(self.file, &format!("{}{name}", self.prefix), shape)
    }

    /// A table of vectors.
    fn table(&mut self, own: &str, name: &str, shape: &[usize]) -> ParamId {
        self.stored.push(Stored::Whole(name.to_owned()));
        self.layout.add(own, shape, Role::Embedding, Init::Zeros)
    }

    fn pick(&self, hugging_face: &'static str, openai: &'static str) -> &'static str {
        match self.scheme {
            Scheme::HuggingFace => hugging_face,
            Scheme::OpenAi => openai,
        }
    }

    /// Notes where weight and bias of a layer are.
    fn note(&mut self, name: &str) {
        self.stored.extend(["weight", "bias"].map(|part| Stored::Whole(format!("{name}.{part}"))));
    }

    fn norm(&mut self, own: &str, name: &str, width: usize) -> Affine {
        self.note(name);
        Affine::normalisation(&mut self.layout, own, width)
    }

    fn linear(&mut self, own: &str, name: &str, out: usize, input: usize) -> Affine {
        self.note(name);
        Affine::linear_layer(&mut self.layout, own, &[out, input])
    }

    /// The final projection from `width`, and the length of its result.
    fn projection(&mut self, own: &str, names: [&'static str; 2], width: usize) -> Result<(Projection, usize)> {
        let name = self.pick(names[0], names[1]);
        let [rows, columns] = self.shape(name)?;
        match self.scheme {
            Scheme::HuggingFace => {
                self.stored.push(Stored::Whole(name.to_owned()));
                let init = Init::Uniform { fan_in: width };
                Ok((Projection::Rows(self.layout.add(own, &[rows, width], Role::Linear, init)), rows))
            }
            Scheme::OpenAi => Ok((Projection::Columns(self.table(own, name, &[width, columns])), columns)),
        }
    }

    fn block(&mut self, own: &str, name: &str, width: usize) -> Result<Block> {
        let scheme = self.scheme;
        let part = |hugging_face: &str, openai: &str| match scheme {
            Scheme::HuggingFace => format!("{name}.{hugging_face}"),
            Scheme::OpenAi => format!("{name}.{openai}"),
        };
        let [norm_1, qkv, out, norm_2, widen, narrow] =
            ["norm_1", "qkv", "out", "norm_2", "widen", "narrow"].map(|layer| format!("{own}.{layer}"));
        let norm_1 = self.norm(&norm_1, &part("layer_norm1", "ln_1"), width);
        let qkv = Affine::linear_layer(&mut self.layout, &qkv, &[3 * width, width]);
        self.stored.extend(["weight", "bias"].map(|kind| match scheme {
            Scheme::HuggingFace => {
                Stored::Stacked(["q", "k", "v"].map(|p| format!("{name}.self_attn.{p}_proj.{kind}")).into())
            }
            Scheme::OpenAi => Stored::Whole(format!("{name}.attn.in_proj_{kind}")),
        }));
        let in_file = part("mlp.fc1", "mlp.c_fc");
        let [wide, _] = self.shape(&format!("{in_file}.weight"))?;
        Ok(Block {
            norm_1,
            qkv,
            out: self.linear(&out, &part("self_attn.out_proj", "attn.out_proj"), width, width),
            norm_2: self.norm(&norm_2, &part("layer_norm2", "ln_2"), width),
            widen: self.linear(&widen, &in_file, wide, width),
            narrow: self.linear(&narrow, &part("mlp.fc2", "mlp.c_proj"), width, wide),
        })
    }

    fn tower(
        &mut self,
        own: &str,
        layers: &str,
        width: usize,
        heads: Option<usize>,
        activation: Activation,
    ) -> Result<Tower> {
        let heads = heads.unwrap_or(width / HEAD);
        if heads == 0 || !width.is_multiple_of(heads) {
            return Err(self.error(format!("a width of {width} cannot be split into {heads} attention heads")));
        }
        let mut blocks = Vec::new();
        loop {
            let name = format!("{layers}.{}", blocks.len());
            let start = format!("{}{name}.", self.prefix);
            if !self.file.names().any(|name| name.starts_with(&start)) {
                break;
            }
            blocks.push(self.block(&format!("{own}.blocks.{}", blocks.len()), &name, width)?);
        }
        Ok(Tower { blocks, heads, activation })
    }

    /// The image tower.
    pub fn vision(&mut self, heads: Option<usize>, activation: Activation) -> Result<Vision> {
        let patch = self.pick("vision_model.embeddings.patch_embedding.weight", "visual.conv1.weight");
        let positions = self.pick("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding");
        let [width, _, side, _] = self.shape(patch)?;
        let [tokens, _] = self.shape(positions)?;
        if (tokens - 1).isqrt().pow(2) != tokens - 1 || tokens == 1 {
            return Err(self.error(format!("{positions:?} has {tokens} rows, expected one more than a square number")));
        }
        let class = self.pick("vision_model.embeddings.class_embedding", "visual.class_embedding");
        let layers = self.pick("vision_model.encoder.layers", "visual.transformer.resblocks");
        let patches = self.layout.add(
            "vision.patch",
            &[width, 3, side, side],
            Role::Convolution,
            Init::Uniform { fan_in: 3 * side * side },
        );
        self.stored.push(Stored::Whole(patch.to_owned()));
        let pre = self.pick("vision_model.pre_layrnorm", "visual.ln_pre");
        let post = self.pick("vision_model.post_layernorm", "visual.ln_post");
        let class = self.table("vision.class", class, &[width]);
        let positions = self.table("vision.positions", positions, &[tokens, width]);
        let norm_pre = self.norm("vision.norm_pre", pre, width);
        let tower = self.tower("vision", layers, width, heads, activation)?;
        let norm_post = self.norm("vision.norm_post", post, width);
        let names = ["visual_projection.weight", "visual.proj"];
        let (projection, dimension) = self.projection("vision.projection", names, width)?;
        let (patch, side) = (side, (tokens - 1).isqrt());
        Ok(Vision { patch, width, side, dimension, patches, class, positions, norm_pre, tower, norm_post, projection })
    }

    /// The text tower.
    pub fn text(&mut self, heads: Option<usize>, activation: Activation) -> Result<Text> {
        let tokens = self.pick("text_model.embeddings.token_embedding.weight", "token_embedding.weight");
        let positions = self.pick("text_model.embeddings.position_embedding.weight", "positional_embedding");
        let [vocabulary, width] = self.shape(tokens)?;
        let [context, _] = self.shape(positions)?;
        let layers = self.pick("text_model.encoder.layers", "transformer.resblocks");
        let norm = self.pick("text_model.final_layer_norm", "ln_final");
        let tokens = self.table("text.tokens", tokens, &[vocabulary, width]);
        let positions = self.table("text.positions", positions, &[context, width]);
        let tower = self.tower("text", layers, width, heads, activation)?;
        let norm_final = self.norm("text.norm_final", norm, width);
        let names = ["text_projection.weight", "text_projection"];
        let (projection, dimension) = self.projection("text.projection", names, width)?;
        Ok(Text { vocabulary, context, dimension, tokens, positions, tower, norm_final, projection })
    }
}
