//! The network: a convolutional stem on every patch, and a transformer over the patches of all scales.

use std::sync::Arc;

use adir_kernels::{conv2d, cross_attention, geglu, layer_norm};
use burn::tensor::activation::{gelu_approximate, relu};
use burn::tensor::module::max_pool2d;
use burn::tensor::ops::MaxPoolOptions;
use burn::tensor::{Int, TensorData};

use super::Form;
use super::patches::{GRID, PATCH, Scale};
use crate::Result;
use crate::models::blocks::{Affine, NormSettings};
use crate::models::params::{Init, ParamId, ParamLayout, Params, Role};
use crate::tensor::{Device, Tensor, from_f32};

/// Numbers of an attention head.
pub(super) const HEAD: usize = 64;
/// Channels of the stem, and of the block after it.
const STEM: [usize; 2] = [64, 256];
/// Side of a patch after the stem.
const SIDE: usize = PATCH / 4;
/// Patches that go through the stem together.
const TOGETHER: usize = 128;
/// Patches that are embedded together.
const EMBEDDED: usize = 8 * TOGETHER;
const NORM_EPS: f64 = 1e-6;
const OF_STEM: NormSettings = NormSettings { groups: 32, eps: 1e-6 };
const OF_BLOCK: NormSettings = NormSettings { groups: 32, eps: 1e-4 };

/// The name of a block of the transformer.
pub(super) fn block_name(k: usize) -> String {
    format!("transformer_encoder.transformer.encoderblock_{k}")
}

/// A convolution without bias and the normalisation behind it.
#[derive(Debug)]
struct Conv {
    weight: ParamId,
    norm: Affine,
    settings: NormSettings,
}

impl Conv {
    fn add(layout: &mut ParamLayout, conv: &str, norm: &str, shape: [usize; 4], settings: NormSettings) -> Self {
        let init = Init::Uniform { fan_in: shape[1..].iter().product() };
        Self {
            weight: layout.add(format!("{conv}.weight"), &shape, Role::Convolution, init),
            norm: Affine::normalisation(layout, norm, shape[0]),
            settings,
        }
    }

    fn forward(&self, p: &Params, x: Tensor<4>, stride: usize, padding: usize) -> Tensor<4> {
        let x = conv2d(x, p.kernel(self.weight), None, stride, padding);
        self.norm.norm(p, self.settings, None, false).apply(x)
    }
}

/// Attention and two linear layers, each after a normalisation and added to its input.
#[derive(Debug)]
struct Block {
    norm_1: Affine,
    qkv: [Affine; 3],
    out: Affine,
    norm_2: Affine,
    widen: Affine,
    narrow: Affine,
}

/// What is computed, without weights.
#[derive(Debug)]
pub(super) struct Net {
    layout: Arc<ParamLayout>,
    root: Conv,
    /// Of the block after it: three in a row, and the one beside them.
    convs: [Conv; 3],
    beside: Conv,
    embedding: Affine,
    class: ParamId,
    places: ParamId,
    scales: ParamId,
    blocks: Vec<Block>,
    norm: Affine,
    head: Affine,
    width: usize,
    outputs: usize,
    count: usize,
}

impl Net {
    /// Of `blocks` blocks on tokens of `width` numbers, `wide` between the linear layers, at `count` scales; its parameters have
    /// pyiqa's names.
    pub(super) fn new(width: usize, wide: usize, blocks: usize, head: &str, [outputs, count]: [usize; 2]) -> Self {
        let mut layout = ParamLayout::default();
        let [stem, out] = STEM;
        let root = Conv::add(&mut layout, "conv_root", "gn_root", [stem, 3, 7, 7], OF_STEM);
        let mut of_block = |conv: &str, norm: &str, shape| {
            Conv::add(&mut layout, &format!("block1.{conv}"), &format!("block1.{norm}"), shape, OF_BLOCK)
        };
        let convs = [
            of_block("conv1", "gn1", [stem, stem, 1, 1]),
            of_block("conv2", "gn2", [stem, stem, 3, 3]),
            of_block("conv3", "gn3", [out, stem, 1, 1]),
        ];
        let beside = of_block("conv_proj", "gn_proj", [out, stem, 1, 1]);
        let embedding = Affine::linear_layer(&mut layout, "embedding", &[width, SIDE * SIDE * out]);
        let mut table = |name: &str, shape: &[usize]| {
            layout.add(format!("transformer_encoder.{name}"), shape, Role::Embedding, Init::Zeros)
        };
        let class = table("cls", &[1, 1, width]);
        let places = table("posembed_input.position_emb", &[1, GRID * GRID, width]);
        let scales = table("scaleembed_input.scale_emb", &[count, width]);
        let norm = Affine::normalisation(&mut layout, "transformer_encoder.encoder_norm", width);
        let blocks = (0..blocks).map(|k| {
            let name = block_name(k);
            let linear = |layout: &mut ParamLayout, part: &str, shape: [usize; 2]| {
                Affine::linear_layer(layout, &format!("{name}.{part}"), &shape)
            };
            Block {
                norm_1: Affine::normalisation(&mut layout, &format!("{name}.norm1"), width),
                qkv: ["query", "key", "value"]
                    .map(|part| linear(&mut layout, &format!("attention.{part}"), [width, width])),
                out: linear(&mut layout, "attention.out", [width, width]),
                norm_2: Affine::normalisation(&mut layout, &format!("{name}.norm2"), width),
                widen: linear(&mut layout, "mlp.fc1", [wide, width]),
                narrow: linear(&mut layout, "mlp.fc2", [width, wide]),
            }
        });
        let blocks = blocks.collect();
        let head = Affine::linear_layer(&mut layout, head, &[outputs, width]);
        Self {
            layout: Arc::new(layout),
            root,
            convs,
            beside,
            embedding,
            class,
            places,
            scales,
            blocks,
            norm,
            head,
            width,
            outputs,
            count,
        }
    }

    /// Names and shapes of its parameters.
    pub(super) fn layout(&self) -> &Arc<ParamLayout> {
        &self.layout
    }

    /// Numbers of a result.
    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    /// Scales that it looks at.
    pub(super) fn scales(&self) -> usize {
        self.count
    }

    /// A picture at all scales to `[1, outputs]`.
    ///
    /// # Errors
    /// None is expected.
    pub(super) fn forward(&self, p: &Params, scales: &[Scale], form: Form, device: &Device) -> Result<Tensor<2>> {
        let patches: Vec<(usize, usize)> =
            scales.iter().enumerate().flat_map(|(number, scale)| (0..scale.count()).map(move |k| (number, k))).collect();
        // The weights of the embedding are laid out for every product anew: few large products are quicker.
        let seen = patches.chunks(EMBEDDED).map(|patches| {
            let stems = patches.chunks(TOGETHER).map(|patches| {
                let values = patches.iter().flat_map(|(number, k)| scales[*number].patch(*k)).collect();
                self.stem(p, from_f32(values, [patches.len(), 3, PATCH, PATCH], device))
            });
            self.embedding.linear(p, Tensor::cat(stems.collect(), 0))
        });
        let seen = Tensor::cat(seen.collect(), 0);
        let ids = |ids: Vec<i64>| Tensor::<1, Int>::from_data(TensorData::new(ids, [patches.len()]), device);
        let places = ids(scales.iter().flat_map(|scale| scale.places().map(|place| place as i64)).collect());
        let numbers = ids(patches.iter().map(|(number, _)| *number as i64).collect());
        let of_place = p.flat(self.places).reshape([GRID * GRID, self.width]).select(0, places);
        let of_scale = p.get::<2>(self.scales).select(0, numbers);
        let tokens = Tensor::cat(vec![p.flat(self.class).reshape([1, self.width]), seen + of_place + of_scale], 0);
        let [count, width] = tokens.dims();
        // Channels first, as the kernels have them.
        let x = tokens.transpose().reshape([1, width, 1, count]);
        let last = self.blocks.len().saturating_sub(1);
        let blocks = self.blocks.iter().enumerate();
        // Of the last block's tokens, only the class is read.
        let x = blocks.fold(x, |x, (k, block)| block.forward(p, x, if k == last { 1 } else { count }, form));
        let class = x.narrow(3, 0, 1).reshape([1, width, 1]);
        Ok(self.head.linear(p, normalise(p, self.norm, class).reshape([1, width])))
    }

    /// Patches `[n, 3, 32, 32]` to `[n, 8 * 8 * 256]`, channels last.
    fn stem(&self, p: &Params, x: Tensor<4>) -> Tensor<2> {
        let x = relu(self.root.forward(p, x.pad((2, 3, 2, 3), 0.0), 2, 0));
        // What is pooled is 0 or more: zeros are no values of their own.
        let x = max_pool2d(x.pad((0, 1, 0, 1), 0.0), MaxPoolOptions::new([3, 3]).with_stride([2, 2]));
        let [first, second, third] = &self.convs;
        let inner = relu(first.forward(p, x.clone(), 1, 0));
        let inner = relu(second.forward(p, inner, 1, 1));
        let x = relu(third.forward(p, inner, 1, 0) + self.beside.forward(p, x, 1, 0));
        let [n, channels, height, width] = x.dims();
        x.permute([0, 2, 3, 1]).reshape([n, height * width * channels])
    }
}

impl Block {
    /// `[1, width, 1, tokens]` to the first `wanted` tokens of the same.
    fn forward(&self, p: &Params, x: Tensor<4>, wanted: usize, form: Form) -> Tensor<4> {
        let [n, width, ..] = x.dims();
        let flat = |map: Tensor<4>| {
            let count = map.dims()[3];
            map.reshape([n, width, count])
        };
        let map = |tokens: Tensor<3>| {
            let count = tokens.dims()[2];
            tokens.reshape([n, width, 1, count])
        };
        let normalised = |norm: Affine, x: &Tensor<4>| map(normalise(p, norm, flat(x.clone())));
        let seen = normalised(self.norm_1, &x);
        let [q, k, v] = self.qkv;
        let q = flat(q.conv(p, seen.clone().narrow(3, 0, wanted), 1));
        let [k, v] = [k, v].map(|linear| flat(linear.conv(p, seen.clone(), 1)));
        let mixed = self.out.conv(p, map(cross_attention(q, k, v, width / HEAD)), 1);
        let x = x.narrow(3, 0, wanted) + mixed;
        let wide = self.widen.conv(p, normalised(self.norm_2, &x), 1);
        let wide = match form {
            Form::Pyiqa => exact_gelu(wide),
            Form::Authors => gelu_approximate(wide),
        };
        x + self.narrow.conv(p, wide, 1)
    }
}

/// GELU of `[n, c, 1, tokens]`, as that of a gated linear unit whose other half is 1.
fn exact_gelu(x: Tensor<4>) -> Tensor<4> {
    let [n, channels, one, count] = x.dims();
    let x = x.reshape([n, channels, count]);
    geglu(Tensor::cat(vec![x.ones_like(), x], 1)).reshape([n, channels, one, count])
}

fn normalise(p: &Params, norm: Affine, x: Tensor<3>) -> Tensor<3> {
    let [gamma, beta] = norm.ids();
    layer_norm(x, p.get::<1>(gamma), p.get::<1>(beta), NORM_EPS)
}
