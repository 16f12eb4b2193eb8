//! Recognises a CLIP model by names and shapes, and finds its parameters under either naming scheme.
//!
//! Names and shapes give every size but the number of heads, which is the width over 64 in every published
//! model and otherwise stands in the configuration beside the weights. They do not give the activation.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use super::net::{Activation, Block, Projection, Text, TextStates, Tower, Vision};
use crate::compute::WeightPrecision;
use crate::io::weights::WeightFile;
use crate::models::blocks::Affine;
use crate::models::guided_diffusion::{KeyReport, Shapes};
use crate::models::load::{fault_of, values};
use crate::models::params::{Init, ParamId, ParamLayout, ParamSpec, Params, Role};
use crate::models::placing;
use crate::tensor::{Compute, DType};
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
pub(in crate::models) enum Scheme {
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

impl Stored {
    fn names(&self) -> &[String] {
        match self {
            Self::Whole(name) => std::slice::from_ref(name),
            Self::Stacked(names) => names,
        }
    }
}

/// A weight file being read as a CLIP: the parameters found so far, and where their values are.
pub(in crate::models) struct Source<'a> {
    /// One, or the shards of one.
    files: Vec<&'a WeightFile>,
    pub scheme: Scheme,
    /// Before every name: in checkpoints saved while training on several devices, and of larger models.
    prefix: &'static str,
    /// What names lack that they have elsewhere.
    lacking: &'static str,
    /// Beginnings of further names that are left out.
    unused: &'static [&'static str],
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
        Ok(Self::named(vec![file], scheme, prefix))
    }

    fn named(files: Vec<&'a WeightFile>, scheme: Scheme, prefix: &'static str) -> Self {
        Self { files, scheme, prefix, lacking: "", unused: &[], layout: ParamLayout::default(), stored: Vec::new() }
    }

    /// A text tower by itself, or as a part of a diffusion model's single file, of which the rest is left out.
    ///
    /// # Errors
    /// [`Error::Model`] if there is none in the files, one or the shards of one.
    pub fn of_text(files: &'a [WeightFile]) -> Result<Self> {
        const TOKENS: &str = "embeddings.token_embedding.weight";
        let has = |name: String| files.iter().any(|file| file.info(&name).is_some());
        let named = |scheme, prefix| Self::named(files.iter().collect(), scheme, prefix);
        if has(format!("text_model.{TOKENS}")) {
            return Ok(named(Scheme::HuggingFace, ""));
        }
        if has(TOKENS.to_owned()) {
            return Ok(Self { lacking: "text_model.", ..named(Scheme::HuggingFace, "") });
        }
        let single = |scheme, prefix, unused| Self { unused, ..named(scheme, prefix) };
        let prefix = "cond_stage_model.transformer.";
        if has(format!("{prefix}text_model.{TOKENS}")) {
            return Ok(single(Scheme::HuggingFace, prefix, &[]));
        }
        let prefix = "cond_stage_model.model.";
        if has(format!("{prefix}token_embedding.weight")) {
            // Of 24 layers the last is not used.
            return Ok(single(Scheme::OpenAi, prefix, &["transformer.resblocks.23.", "text_projection"]));
        }
        let path = files.first().map_or(Path::new("<no file>"), |file| file.path());
        Err(Error::model(path, "has no text encoder: no name ends with token_embedding.weight"))
    }

    /// The name in the file.
    fn in_file(&self, name: &str) -> String {
        format!("{}{}", self.prefix, name.strip_prefix(self.lacking).unwrap_or(name))
    }

    /// OpenAI's own archives, told by the sizes they carry along, hold models with quick GELU.
    pub fn is_openai_archive(&self) -> bool {
        self.scheme == Scheme::OpenAi && self.files[0].info("input_resolution").is_some()
    }

    fn error(&self, message: impl Into<String>) -> Error {
        Error::model(self.files[0].path(), message)
    }

    /// The file with the tensor of that name; the first where there is none.
    fn file_of(&self, name: &str) -> &'a WeightFile {
        self.files.iter().find(|file| file.info(name).is_some()).unwrap_or(&self.files[0])
    }

    fn names(&self) -> impl Iterator<Item = &'a str> {
        self.files.iter().flat_map(|file| file.names())
    }

    fn shape<const D: usize>(&self, name: &str) -> Result<[usize; D]> {
        let name = self.in_file(name);
        let info = self.file_of(&name).info(&name).ok_or_else(|| self.error(format!("has no tensor {name:?}")))?;
        let shape = <[usize; D]>::try_from(info.shape.as_slice()).ok().filter(|shape| shape.iter().all(|&n| n > 0));
        shape.ok_or_else(|| self.error(format!("tensor {name:?} has shape {:?}, expected {D} dimensions", info.shape)))
    }

    /// Checks that the file has no tensors but those found and those that nothing needs; tells the number of parameters.
    ///
    /// # Errors
    /// [`Error::Model`] naming a tensor that is not part of CLIP.
    pub fn check(&self) -> Result<usize> {
        let used: BTreeSet<String> =
            self.stored.iter().flat_map(Stored::names).map(|name| self.in_file(name)).collect();
        let part_of_larger = self.prefix.starts_with("cond_stage_model.");
        let known = |name: &str| match name.strip_prefix(self.prefix) {
            None => part_of_larger || UNUSED.contains(&name),
            Some(own) => {
                let whole = format!("{}{own}", self.lacking);
                used.contains(name)
                    || UNUSED.contains(&whole.as_str())
                    || self.unused.iter().any(|start| own.starts_with(start))
            }
        };
        let strange: Vec<&str> = self.names().filter(|name| !known(name)).collect();
        if let Some(first) = strange.first() {
            let count = strange.len();
            return Err(self.error(format!("has {count} tensors that CLIP does not have, for example {first:?}")));
        }
        Ok(self.layout.element_count())
    }

    /// Checks the shapes of what was found, without reading it.
    ///
    /// # Errors
    /// [`Error::Model`] listing what is missing or has another shape.
    pub fn check_shapes(&self) -> Result<()> {
        let mut expected = Shapes::new();
        for (spec, stored) in self.layout.specs().iter().zip(&self.stored) {
            let names = stored.names();
            for name in names {
                let mut shape = spec.shape.clone();
                shape[0] /= names.len();
                expected.insert(self.in_file(name), shape);
            }
        }
        let shape = |name: &String| Some((name.clone(), self.file_of(name).info(name)?.shape.clone()));
        let found: Shapes = expected.keys().filter_map(shape).collect();
        let report = KeyReport::compare(expected.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())), &found);
        if report.is_clean() {
            return Ok(());
        }
        Err(self.error(format!("the weights do not fit the text encoder: {report}")))
    }

    /// Reads the values of all parameters that were found.
    ///
    /// # Errors
    /// [`Error::Model`] naming a tensor that is missing, misshapen or not part of CLIP.
    pub fn params(self, compute: &Compute) -> Result<Params> {
        self.check()?;
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
        Params::load(Arc::new(self.layout.clone()), compute, read).map_err(fault_of(self.files[0].path()))
    }

    /// What weights are kept in that were asked for in `precision`, where that is narrower than f32.
    pub fn kept_in(&self, precision: WeightPrecision) -> Option<DType> {
        let weights = self.layout.specs().iter().zip(&self.stored).filter(|(spec, _)| placing::is_weight(spec));
        let dtype = |name: &String| {
            let name = self.in_file(name);
            self.file_of(&name).info(&name).map(|info| info.dtype)
        };
        placing::kept_in(precision, weights.flat_map(|(_, stored)| stored.names()).filter_map(dtype))
    }

    /// Bytes of the parameters that were found, kept so.
    pub fn bytes(&self, precision: WeightPrecision) -> u64 {
        placing::bytes(&self.layout, self.kept_in(precision).is_some())
    }

    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let name = self.in_file(name);
        values(self.file_of(&name), &name, shape)
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
        most: Option<usize>,
        width: usize,
        heads: Option<usize>,
        activation: Activation,
    ) -> Result<Tower> {
        let heads = heads.unwrap_or(width / HEAD);
        if heads == 0 || !width.is_multiple_of(heads) {
            return Err(self.error(format!("a width of {width} cannot be split into {heads} attention heads")));
        }
        let mut blocks = Vec::new();
        while most.is_none_or(|most| blocks.len() < most) {
            let name = format!("{layers}.{}", blocks.len());
            let start = self.in_file(&format!("{name}."));
            if !self.names().any(|name| name.starts_with(&start)) {
                break;
            }
            blocks.push(self.block(&format!("{own}.blocks.{}", blocks.len()), &name, width)?);
        }
        Ok(Tower { blocks, heads, activation })
    }

    /// The image tower.
    pub(super) fn vision(&mut self, heads: Option<usize>, activation: Activation) -> Result<Vision> {
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
        let tower = self.tower("vision", layers, None, width, heads, activation)?;
        let norm_post = self.norm("vision.norm_post", post, width);
        let names = ["visual_projection.weight", "visual.proj"];
        let (projection, dimension) = self.projection("vision.projection", names, width)?;
        let (patch, side) = (side, (tokens - 1).isqrt());
        Ok(Vision { patch, width, side, dimension, patches, class, positions, norm_pre, tower, norm_post, projection })
    }

    /// The text tower up to its last normalisation, of at most `layers` layers.
    pub fn text_states(
        &mut self,
        heads: Option<usize>,
        activation: Activation,
        layers: Option<usize>,
    ) -> Result<TextStates> {
        let tokens = self.pick("text_model.embeddings.token_embedding.weight", "token_embedding.weight");
        let positions = self.pick("text_model.embeddings.position_embedding.weight", "positional_embedding");
        let [vocabulary, width] = self.shape(tokens)?;
        let [context, _] = self.shape(positions)?;
        let blocks = self.pick("text_model.encoder.layers", "transformer.resblocks");
        let norm = self.pick("text_model.final_layer_norm", "ln_final");
        let tokens = self.table("text.tokens", tokens, &[vocabulary, width]);
        let positions = self.table("text.positions", positions, &[context, width]);
        let tower = self.tower("text", blocks, layers, width, heads, activation)?;
        let norm_final = self.norm("text.norm_final", norm, width);
        Ok(TextStates { vocabulary, context, width, tokens, positions, tower, norm_final })
    }

    /// The text tower.
    pub(super) fn text(&mut self, heads: Option<usize>, activation: Activation) -> Result<Text> {
        let states = self.text_states(heads, activation, None)?;
        let names = ["text_projection.weight", "text_projection"];
        let (projection, dimension) = self.projection("text.projection", names, states.width)?;
        Ok(Text { states, dimension, projection })
    }
}
