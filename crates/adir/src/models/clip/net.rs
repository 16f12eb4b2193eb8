//! CLIP's two towers (Radford et al., arXiv 2103.00020): a vision transformer over patches and a causal
//! transformer over tokens, both pre-norm, each read at one position and projected. They hold no weights. Diffusion
//! models are told texts by the second one, read at all positions.

use burn::tensor::activation::{gelu, sigmoid, softmax};
use burn::tensor::{Int, TensorData};

use crate::models::blocks::Affine;
use crate::models::params::{ParamId, Params};
use crate::tensor::{Tensor, from_f32};

/// Epsilon of every layer normalisation.
const EPS: f64 = 1e-5;
/// Added to the attention scores of masked positions.
const HIDDEN: f32 = -1e30;

/// The activation between a block's two linear layers. Weights trained with one give wrong features with
/// the other, silently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x sigmoid(1.702 x)`: OpenAI's weights, and open_clip models named `quickgelu`.
    QuickGelu,
    /// `x Phi(x)`, exact: open_clip's other models.
    Gelu,
}

impl Activation {
    fn apply(self, x: Tensor<2>) -> Tensor<2> {
        match self {
            Self::QuickGelu => x.clone() * sigmoid(x * 1.702),
            Self::Gelu => gelu(x),
        }
    }
}

/// Layer normalisation over the last dimension.
fn normalise(p: &Params, norm: Affine, x: Tensor<2>) -> Tensor<2> {
    let [gamma, beta] = norm.ids();
    let centred = x.clone() - x.mean_dim(1);
    let variance = centred.clone().powi_scalar(2).mean_dim(1);
    centred / (variance + EPS).sqrt() * p.get::<1>(gamma).unsqueeze() + p.get::<1>(beta).unsqueeze()
}

/// Attention and two linear layers, each after a normalisation and added to its input.
#[derive(Debug)]
pub(in crate::models) struct Block {
    pub norm_1: Affine,
    /// Query, key and value, one above the other.
    pub qkv: Affine,
    pub out: Affine,
    pub norm_2: Affine,
    pub widen: Affine,
    pub narrow: Affine,
}

/// A transformer.
#[derive(Debug)]
pub(in crate::models) struct Tower {
    pub blocks: Vec<Block>,
    pub heads: usize,
    pub activation: Activation,
}

impl Tower {
    /// `[tokens, width]` to the same; `mask`, `[tokens, tokens]`, is added to the scores.
    fn forward(&self, p: &Params, x: Tensor<2>, mask: Option<&Tensor<2>>) -> Tensor<2> {
        self.blocks.iter().fold(x, |x, block| {
            let attended = self.attention(block.qkv.linear(p, normalise(p, block.norm_1, x.clone())), mask);
            let x = x + block.out.linear(p, attended);
            let wide = self.activation.apply(block.widen.linear(p, normalise(p, block.norm_2, x.clone())));
            x + block.narrow.linear(p, wide)
        })
    }

    fn attention(&self, qkv: Tensor<2>, mask: Option<&Tensor<2>>) -> Tensor<2> {
        let [tokens, width] = qkv.dims();
        let (width, heads) = (width / 3, self.heads);
        let head = width / heads;
        // [tokens, 3, heads, head] to three times [heads, tokens, head]
        let parts = qkv.reshape([tokens, 3 * heads, head]).swap_dims(0, 1).chunk(3, 0);
        let [q, k, v] = [0, 1, 2].map(|i| parts[i].clone());
        let scores = q.matmul(k.swap_dims(1, 2)) * (head as f64).powf(-0.5);
        let scores = match mask {
            Some(mask) => scores + mask.clone().unsqueeze(),
            None => scores,
        };
        softmax(scores, 2).matmul(v).swap_dims(0, 1).reshape([tokens, width])
    }
}

/// The linear layer without bias at a tower's end, as its file holds it: the other way round, the same product rounds
/// differently.
#[derive(Debug, Clone, Copy)]
pub(super) enum Projection {
    /// `[dimension, width]`, by transformers.
    Rows(ParamId),
    /// `[width, dimension]`, by OpenAI.
    Columns(ParamId),
}

impl Projection {
    fn forward(self, p: &Params, x: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Rows(weight) => p.linear(weight, x),
            Self::Columns(weight) => x.matmul(p.get::<2>(weight)),
        }
    }
}

/// The image tower.
#[derive(Debug)]
pub(super) struct Vision {
    /// Side of a patch in pixels.
    pub patch: usize,
    pub width: usize,
    /// Side of the image in patches.
    pub side: usize,
    /// Length of an embedding.
    pub dimension: usize,
    /// `[width, 3, patch, patch]`.
    pub patches: ParamId,
    /// `[width]`.
    pub class: ParamId,
    /// `[1 + side * side, width]`.
    pub positions: ParamId,
    pub norm_pre: Affine,
    pub tower: Tower,
    pub norm_post: Affine,
    pub projection: Projection,
}

impl Vision {
    /// `[1, 3, size, size]`, preprocessed, to the features `[1, dimension]`.
    pub fn forward(&self, p: &Params, x: Tensor<4>) -> Tensor<2> {
        let Self { patch, width, .. } = *self;
        let side = x.dims()[2] / patch;
        let patches = x.reshape([3, side, patch, side, patch]).permute([1, 3, 0, 2, 4]);
        let patches = patches.reshape([side * side, 3 * patch * patch]);
        let weight = p.flat(self.patches).reshape([width, 3 * patch * patch]);
        let class = p.flat(self.class).reshape([1, width]);
        let tokens = Tensor::cat(vec![class, patches.matmul(weight.transpose())], 0);
        let tokens = normalise(p, self.norm_pre, tokens + p.get::<2>(self.positions));
        let seen = self.tower.forward(p, tokens, None).narrow(0, 0, 1);
        self.projection.forward(p, normalise(p, self.norm_post, seen))
    }
}

/// The text tower up to its last normalisation.
#[derive(Debug)]
pub(in crate::models) struct TextStates {
    /// Number of tokens there are.
    pub vocabulary: usize,
    /// Largest number of tokens in a text.
    pub context: usize,
    /// Numbers of a state.
    pub width: usize,
    /// `[vocabulary, width]`.
    pub tokens: ParamId,
    /// `[context, width]`.
    pub positions: ParamId,
    pub tower: Tower,
    pub norm_final: Affine,
}

impl TextStates {
    /// The states `[tokens, width]` of tokens, each of which sees only what is before it; before the last normalisation.
    fn before_norm(&self, p: &Params, tokens: &[u32]) -> Tensor<2> {
        let (n, device) = (tokens.len(), p.device());
        let ids: Vec<i64> = tokens.iter().map(|&token| token.into()).collect();
        let ids = Tensor::<1, Int>::from_data(TensorData::new(ids, [n]), &device);
        let x = p.get::<2>(self.tokens).select(0, ids) + p.get::<2>(self.positions).narrow(0, 0, n);
        let mask = (0..n * n).map(|i| if i % n > i / n { HIDDEN } else { 0.0 }).collect();
        let mask = from_f32(mask, [n, n], &device);
        self.tower.forward(p, x, Some(&mask))
    }

    /// The states `[tokens, width]` of all tokens.
    pub fn forward(&self, p: &Params, tokens: &[u32]) -> Tensor<2> {
        normalise(p, self.norm_final, self.before_norm(p, tokens))
    }
}

/// The text tower.
#[derive(Debug)]
pub(super) struct Text {
    pub states: TextStates,
    /// Length of an embedding.
    pub dimension: usize,
    pub projection: Projection,
}

impl Text {
    /// Tokens, of which the last marks the end, to the features `[1, dimension]`. There is no padding: a
    /// token sees only what is before it, so what comes after the end changes nothing.
    pub fn forward(&self, p: &Params, tokens: &[u32]) -> Tensor<2> {
        let seen = self.states.before_norm(p, tokens).narrow(0, tokens.len() - 1, 1);
        self.projection.forward(p, normalise(p, self.states.norm_final, seen))
    }
}
