//! The transformer between residual blocks: what looks at the rest of the map, and at the text.
//!
//! A map stays `[n, c, h, w]` throughout: linear layers over channels are 1x1 convolutions, and tokens are its positions.

use adir_kernels::{add, conv2d, cross_attention, geglu, layer_norm};

use crate::models::blocks::{Affine, Context, Layer, NormSettings, products, products_of_attention};
use crate::models::params::{Init, ParamId, ParamLayout, Params, Role};
use crate::operator::ImageShape;
use crate::tensor::Tensor;

/// Of the transformer's own group normalisation; that of residual blocks has 1e-5.
const GROUP_EPS: f64 = 1e-6;
/// Of layer normalisations.
const LAYER_EPS: f64 = 1e-5;
/// Tokens of a text, which all of CLIP's text encoders have.
pub(crate) const TOKENS: usize = 77;

/// A linear layer over channels.
#[derive(Debug, Clone, Copy)]
struct Linear {
    weight: ParamId,
    bias: Option<ParamId>,
}

impl Linear {
    fn add(layout: &mut ParamLayout, name: &str, [out, input]: [usize; 2], bias: bool) -> Self {
        let init = Init::Uniform { fan_in: input };
        Self {
            weight: layout.add(format!("{name}.weight"), &[out, input], Role::Linear, init),
            bias: bias.then(|| layout.add(format!("{name}.bias"), &[out], Role::Bias, init)),
        }
    }

    fn on_map(self, p: &Params, x: Tensor<4>) -> Tensor<4> {
        conv2d(x, p.kernel(self.weight), self.bias.map(|bias| p.get::<1>(bias)), 1, 0)
    }

    /// `[n, tokens, in]` to `[n, out, tokens]`, without bias.
    fn on_text(self, p: &Params, text: &Tensor<3>) -> Tensor<3> {
        let [n, tokens, width] = text.dims();
        let out = p.linear(self.weight, text.clone().reshape([n * tokens, width]));
        let width = out.dims()[1];
        out.reshape([n, tokens, width]).swap_dims(1, 2)
    }
}

/// Layer normalisation over the channels of a map.
fn normalise(p: &Params, norm: Affine, x: &Tensor<4>) -> Tensor<4> {
    let [n, c, h, w] = x.dims();
    let [gamma, beta] = norm.ids().map(|id| p.get::<1>(id));
    layer_norm(x.clone().reshape([n, c, h * w]), gamma, beta, LAYER_EPS).reshape([n, c, h, w])
}

/// Attention of a map's positions to themselves or to the text.
#[derive(Debug)]
struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    heads: usize,
    of_text: bool,
}

impl Attention {
    fn new(layout: &mut ParamLayout, name: &str, channels: usize, heads: usize, text: Option<usize>) -> Self {
        let keys = text.unwrap_or(channels);
        let mut linear = |part: &str, input: usize, bias: bool| {
            Linear::add(layout, &format!("{name}.{part}"), [channels, input], bias)
        };
        Self {
            q: linear("to_q", channels, false),
            k: linear("to_k", keys, false),
            v: linear("to_v", keys, false),
            out: linear("to_out.0", channels, true),
            heads,
            of_text: text.is_some(),
        }
    }

    fn forward(&self, p: &Params, x: Tensor<4>, context: &Context) -> Tensor<4> {
        let [n, c, h, w] = x.dims();
        let tokens = |map: Tensor<4>| map.reshape([n, c, h * w]);
        let (k, v) = match &context.text {
            Some(text) if self.of_text => (self.k.on_text(p, text), self.v.on_text(p, text)),
            _ => (tokens(self.k.on_map(p, x.clone())), tokens(self.v.on_map(p, x.clone()))),
        };
        let mixed = cross_attention(tokens(self.q.on_map(p, x)), k, v, self.heads);
        self.out.on_map(p, mixed.reshape([n, c, h, w]))
    }
}

/// A transformer of one block, added to its input: attention twice, and a gated layer (latent diffusion's
/// `SpatialTransformer`).
#[derive(Debug)]
pub(super) struct Transformer {
    norm: Affine,
    proj_in: Affine,
    norms: [Affine; 3],
    attentions: [Attention; 2],
    widen: Linear,
    narrow: Linear,
    proj_out: Affine,
    groups: usize,
}

/// How a transformer attends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attending {
    pub heads: usize,
    /// Width of the text's states.
    pub text_width: usize,
    /// Whether the first attention, too, is to the text.
    pub only_cross: bool,
    /// Whether the outer projections are linear layers.
    pub linear_projection: bool,
}

impl Transformer {
    /// Over `channels`, with latent diffusion's names.
    pub fn new(layout: &mut ParamLayout, name: &str, channels: usize, groups: usize, how: Attending) -> Self {
        let Attending { heads, text_width, only_cross, linear_projection } = how;
        let norm = Affine::normalisation(layout, &format!("{name}.norm"), channels);
        let projection = |layout: &mut ParamLayout, part: &str| {
            let name = format!("{name}.{part}");
            if linear_projection {
                Affine::linear_layer(layout, &name, &[channels, channels])
            } else {
                Affine::convolution(layout, &name, &[channels, channels, 1, 1])
            }
        };
        let proj_in = projection(layout, "proj_in");
        let block = format!("{name}.transformer_blocks.0");
        let first = only_cross.then_some(text_width);
        Self {
            norm,
            proj_in,
            norms: [1, 2, 3].map(|i| Affine::normalisation(layout, &format!("{block}.norm{i}"), channels)),
            attentions: [(1, first), (2, Some(text_width))]
                .map(|(i, text)| Attention::new(layout, &format!("{block}.attn{i}"), channels, heads, text)),
            widen: Linear::add(layout, &format!("{block}.ff.net.0.proj"), [8 * channels, channels], true),
            narrow: Linear::add(layout, &format!("{block}.ff.net.2"), [channels, 4 * channels], true),
            proj_out: projection(layout, "proj_out"),
            groups,
        }
    }
}

impl Layer for Transformer {
    fn forward(&self, p: &Params, x: Tensor<4>, context: &Context) -> Tensor<4> {
        let settings = NormSettings { groups: self.groups, eps: GROUP_EPS };
        let mut h = self.proj_in.conv_of_norm(p, x.clone(), self.norm.norm(p, settings, None, false));
        for (norm, attention) in self.norms.iter().zip(&self.attentions) {
            h = add(attention.forward(p, normalise(p, *norm, &h), context), h);
        }
        let wide = self.widen.on_map(p, normalise(p, self.norms[2], &h));
        let [n, wide_channels, height, width] = wide.dims();
        let gated = geglu(wide.reshape([n, wide_channels, height * width]));
        h = add(self.narrow.on_map(p, gated.reshape([n, wide_channels / 2, height, width])), h);
        add(x, self.proj_out.conv(p, h, 1))
    }

    fn output(&self, input: ImageShape) -> ImageShape {
        input
    }

    /// Input and first projection; for each attention the normalised map, queries, keys and values (but for those of a text,
    /// which are small), what was attended to and the sum; the normalised map, the gated layer's eight and four, the sum; the
    /// result.
    fn kept(&self, input: ImageShape) -> usize {
        let attentions = self.attentions.iter().map(|attention| if attention.of_text { 4 } else { 6 });
        (2 + attentions.sum::<usize>() + 14 + 1) * input.channels * input.height * input.width
    }

    fn products(&self, layout: &ParamLayout, input: ImageShape) -> u64 {
        let positions = input.pixels();
        let attentions = self.attentions.iter().map(|attention| {
            let keys = if attention.of_text { TOKENS } else { positions };
            let of_map = [attention.q, attention.out].map(|layer| products(layout, layer.weight, positions));
            let of_keys = [attention.k, attention.v].map(|layer| products(layout, layer.weight, keys));
            of_map.iter().chain(&of_keys).sum::<u64>() + products_of_attention(input, keys)
        });
        let outer = [self.proj_in, self.proj_out].map(|layer| layer.products(layout, positions));
        let gated = [self.widen, self.narrow].map(|layer| products(layout, layer.weight, positions));
        attentions.sum::<u64>() + outer.iter().chain(&gated).sum::<u64>()
    }
}
