//! The blocks of latent diffusion's autoencoders, which know no timesteps. Their attention is also that of U-Nets without a text.

use adir_kernels::{add, cross_attention};

use crate::models::blocks::{Affine, Context, Layer, NormSettings, products_of_attention};
use crate::models::params::{ParamLayout, Params};
use crate::operator::ImageShape;
use crate::tensor::Tensor;

/// Two normalised convolutions, added to the input.
#[derive(Debug)]
pub(super) struct PlainResBlock {
    channels: [usize; 2],
    norms: [Affine; 2],
    convs: [Affine; 2],
    skip: Option<Affine>,
    norm: NormSettings,
}

impl PlainResBlock {
    /// From `inputs` to `outputs` channels, with latent diffusion's names.
    pub fn new(layout: &mut ParamLayout, name: &str, inputs: usize, outputs: usize, norm: NormSettings) -> Self {
        let mut conv =
            |part: &str, inputs| Affine::convolution(layout, &format!("{name}.{part}"), &[outputs, inputs, 3, 3]);
        let convs = [conv("conv1", inputs), conv("conv2", outputs)];
        let skip = (inputs != outputs)
            .then(|| Affine::convolution(layout, &format!("{name}.nin_shortcut"), &[outputs, inputs, 1, 1]));
        let norms = [("norm1", inputs), ("norm2", outputs)]
            .map(|(part, channels)| Affine::normalisation(layout, &format!("{name}.{part}"), channels));
        Self { channels: [inputs, outputs], norms, convs, skip, norm }
    }
}

impl Layer for PlainResBlock {
    fn forward(&self, p: &Params, x: Tensor<4>, _context: &Context) -> Tensor<4> {
        let conv = |i: usize, x| self.convs[i].conv_of_norm(p, x, self.norms[i].norm(p, self.norm, None, true));
        let h = conv(1, conv(0, x.clone()));
        match self.skip {
            Some(skip) => add(skip.conv(p, x, 1), h),
            None => add(x, h),
        }
    }

    fn output(&self, input: ImageShape) -> ImageShape {
        ImageShape { channels: self.channels[1], ..input }
    }

    /// Input, its convolution, the sum, and the skip where it is a convolution.
    fn kept(&self, input: ImageShape) -> usize {
        let positions = input.height * input.width;
        let outputs = if self.skip.is_some() { 3 } else { 2 };
        (self.channels[0] + outputs * self.channels[1]) * positions
    }

    fn products(&self, layout: &ParamLayout, input: ImageShape) -> u64 {
        self.convs.into_iter().chain(self.skip).map(|conv| conv.products(layout, input.pixels())).sum()
    }
}

/// Attention over the positions of the normalised map, added to it.
#[derive(Debug)]
pub(super) struct PlainAttention {
    norm: Affine,
    /// Queries, keys, values, and what follows.
    convs: [Affine; 4],
    heads: usize,
    settings: NormSettings,
}

impl PlainAttention {
    /// Over `channels`, with latent diffusion's names but that queries, keys and values are always three layers.
    pub fn new(layout: &mut ParamLayout, name: &str, channels: usize, heads: usize, settings: NormSettings) -> Self {
        let convs = ["q", "k", "v", "proj_out"]
            .map(|part| Affine::convolution(layout, &format!("{name}.{part}"), &[channels, channels, 1, 1]));
        Self { norm: Affine::normalisation(layout, &format!("{name}.norm"), channels), convs, heads, settings }
    }
}

impl Layer for PlainAttention {
    fn forward(&self, p: &Params, x: Tensor<4>, _context: &Context) -> Tensor<4> {
        let [n, c, h, w] = x.dims();
        let normal = self.norm.norm(p, self.settings, None, false).apply(x.clone());
        let part = |i: usize| self.convs[i].conv(p, normal.clone(), 1).reshape([n, c, h * w]);
        let mixed = cross_attention(part(0), part(1), part(2), self.heads).reshape([n, c, h, w]);
        add(x, self.convs[3].conv(p, mixed, 1))
    }

    fn output(&self, input: ImageShape) -> ImageShape {
        input
    }

    /// Input, its normalisation, queries, keys and values, what was attended to, the sum.
    fn kept(&self, input: ImageShape) -> usize {
        7 * input.channels * input.height * input.width
    }

    fn products(&self, layout: &ParamLayout, input: ImageShape) -> u64 {
        let layers = self.convs.map(|conv| conv.products(layout, input.pixels()));
        layers.iter().sum::<u64>() + products_of_attention(input, input.pixels())
    }
}

/// Half the sides by a 3x3 convolution of stride 2, with zeros on the right and below only.
#[derive(Debug)]
pub(super) struct DownRight(pub Affine);

impl Layer for DownRight {
    fn forward(&self, p: &Params, x: Tensor<4>, _context: &Context) -> Tensor<4> {
        let [n, c, h, w] = x.dims();
        let below = Tensor::zeros([n, c, 1, w], (&x.device(), x.dtype()));
        let x = Tensor::cat(vec![x, below], 2);
        let right = Tensor::zeros([n, c, h + 1, 1], (&x.device(), x.dtype()));
        self.0.conv_padded(p, Tensor::cat(vec![x, right], 3), 2, 0)
    }

    fn output(&self, input: ImageShape) -> ImageShape {
        let ImageShape { channels, height, width } = input;
        ImageShape { channels, height: height / 2, width: width / 2 }
    }

    /// Input, and the result, a quarter of it.
    fn kept(&self, input: ImageShape) -> usize {
        input.channels * (input.height * input.width * 5).div_ceil(4)
    }

    fn products(&self, layout: &ParamLayout, input: ImageShape) -> u64 {
        self.0.products(layout, self.output(input).pixels())
    }
}

/// A 1x1 convolution.
#[derive(Debug)]
pub(super) struct Pointwise {
    pub conv: Affine,
    pub outputs: usize,
}

impl Layer for Pointwise {
    fn forward(&self, p: &Params, x: Tensor<4>, _context: &Context) -> Tensor<4> {
        self.conv.conv(p, x, 1)
    }

    fn output(&self, input: ImageShape) -> ImageShape {
        ImageShape { channels: self.outputs, ..input }
    }

    fn kept(&self, input: ImageShape) -> usize {
        (input.channels + self.outputs) * input.height * input.width
    }

    fn products(&self, layout: &ParamLayout, input: ImageShape) -> u64 {
        self.conv.products(layout, input.pixels())
    }
}
