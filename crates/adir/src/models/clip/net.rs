//! CLIP's two towers (Radford et al., arXiv 2103.00020): a vision transformer over patches and a causal
//! transformer over tokens, both pre-norm, each read at one position and projected.

use burn::tensor::activation::{gelu, sigmoid, softmax};
use burn::tensor::{Int, TensorData};

use crate::tensor::{Device, Tensor, from_f32};

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

/// `x W^T + b`, with the weight `[out, in]`.
#[derive(Debug)]
pub(super) struct Linear {
    pub weight: Tensor<2>,
    pub bias: Tensor<1>,
}

impl Linear {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        x.matmul(self.weight.clone().transpose()) + self.bias.clone().unsqueeze()
    }
}

/// Layer normalisation over the last dimension.
#[derive(Debug)]
pub(super) struct Norm {
    pub gamma: Tensor<1>,
    pub beta: Tensor<1>,
}

impl Norm {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let centred = x.clone() - x.mean_dim(1);
        let variance = centred.clone().powi_scalar(2).mean_dim(1);
        centred / (variance + EPS).sqrt() * self.gamma.clone().unsqueeze() + self.beta.clone().unsqueeze()
    }
}

/// Attention and two linear layers, each after a normalisation and added to its input.
#[derive(Debug)]
pub(super) struct Block {
    pub norm_1: Norm,
    /// Query, key and value, one above the other.
    pub qkv: Linear,
    pub out: Linear,
    pub norm_2: Norm,
    pub widen: Linear,
    pub narrow: Linear,
}

/// A transformer.
#[derive(Debug)]
pub(super) struct Tower {
    pub blocks: Vec<Block>,
    pub heads: usize,
    pub activation: Activation,
}

impl Tower {
    /// `[tokens, width]` to the same; `mask`, `[tokens, tokens]`, is added to the scores.
    fn forward(&self, x: Tensor<2>, mask: Option<&Tensor<2>>) -> Tensor<2> {
        self.blocks.iter().fold(x, |x, block| {
            let attended = self.attention(block.qkv.forward(block.norm_1.forward(x.clone())), mask);
            let x = x + block.out.forward(attended);
            let wide = self.activation.apply(block.widen.forward(block.norm_2.forward(x.clone())));
            x + block.narrow.forward(wide)
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

/// The image tower.
#[derive(Debug)]
pub(super) struct Vision {
    /// `[width, 3, patch, patch]`.
    pub patch: Tensor<4>,
    /// `[1, width]`.
    pub class: Tensor<2>,
    /// `[1 + patches, width]`.
    pub positions: Tensor<2>,
    pub norm_pre: Norm,
    pub tower: Tower,
    pub norm_post: Norm,
    /// `[width, embedding]`.
    pub projection: Tensor<2>,
}

impl Vision {
    /// `[1, 3, size, size]`, preprocessed, to the features `[1, embedding]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let [width, _, patch, _] = self.patch.dims();
        let side = x.dims()[2] / patch;
        let patches = x.reshape([3, side, patch, side, patch]).permute([1, 3, 0, 2, 4]);
        let patches = patches.reshape([side * side, 3 * patch * patch]);
        let weight = self.patch.clone().reshape([width, 3 * patch * patch]);
        let tokens = Tensor::cat(vec![self.class.clone(), patches.matmul(weight.transpose())], 0);
        let tokens = self.norm_pre.forward(tokens + self.positions.clone());
        let seen = self.tower.forward(tokens, None).narrow(0, 0, 1);
        self.norm_post.forward(seen).matmul(self.projection.clone())
    }
}

/// The text tower.
#[derive(Debug)]
pub(super) struct Text {
    /// `[vocabulary, width]`.
    pub tokens: Tensor<2>,
    /// `[context, width]`.
    pub positions: Tensor<2>,
    pub tower: Tower,
    pub norm_final: Norm,
    /// `[width, embedding]`.
    pub projection: Tensor<2>,
}

impl Text {
    /// Tokens, of which the last marks the end, to the features `[1, embedding]`. There is no padding: a
    /// token sees only what is before it, so what comes after the end changes nothing.
    pub fn forward(&self, tokens: &[u32], device: &Device) -> Tensor<2> {
        let n = tokens.len();
        let ids: Vec<i64> = tokens.iter().map(|&token| token.into()).collect();
        let ids = Tensor::<1, Int>::from_data(TensorData::new(ids, [n]), device);
        let x = self.tokens.clone().select(0, ids) + self.positions.clone().narrow(0, 0, n);
        let mask = (0..n * n).map(|i| if i % n > i / n { HIDDEN } else { 0.0 }).collect();
        let mask = from_f32(mask, [n, n], device);
        let seen = self.tower.forward(x, Some(&mask)).narrow(0, n - 1, 1);
        self.norm_final.forward(seen).matmul(self.projection.clone())
    }
}
