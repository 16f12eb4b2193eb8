//! The blocks that networks are made of, shared by all of them.
//!
//! A network is one list of [`Block`]s. A block may begin by joining the map with one that an earlier block saved, last
//! saved first joined, as in every U-Net. Each [`Layer`] also knows the shape of what it makes and how much it keeps for
//! the backward pass, so that estimates of memory come from the list that is computed.

use std::fmt::Debug;

use adir_kernels::{GroupNorm, QkvOrder, add, attention, avg_pool2, conv2d, group_norm_conv2d, upsample_nearest2};

use super::params::{Init, ParamId, ParamLayout, Params, Role};
use crate::operator::ImageShape;
use crate::tensor::Tensor;

/// What every block is told besides its map.
#[derive(Debug, Clone)]
pub struct Context {
    /// The embedding of timesteps and classes, `[n, width]`, with the SiLU that every block would apply first.
    pub embedding: Tensor<2>,
    /// States of a text, `[n, tokens, width]`, for a network that attends to one.
    pub text: Option<Tensor<3>>,
}

/// One step of a block.
pub trait Layer: Debug + Send + Sync {
    /// The map `[n, c', h', w']` that it makes of `x`, `[n, c, h, w]`.
    fn forward(&self, p: &Params, x: Tensor<4>, context: &Context) -> Tensor<4>;
    /// The shape of what it makes of an image of that shape.
    fn output(&self, input: ImageShape) -> ImageShape;
    /// Elements that a tracked forward pass of one image of that shape keeps for the backward pass.
    fn kept(&self, input: ImageShape) -> usize;
    /// Products that a forward pass of one image of that shape adds up, in the layers of `layout`, counted by their
    /// definitions: algorithms may get along with fewer.
    fn products(&self, layout: &ParamLayout, input: ImageShape) -> u64;
    /// Weights of attention between positions, of all heads, which are there as a whole only in f64.
    fn attention_weights(&self, _input: ImageShape) -> usize {
        0
    }
}

/// Layers that are computed, and computed again, together.
#[derive(Debug)]
pub struct Block {
    layers: Vec<Box<dyn Layer>>,
    joins_skip: bool,
    saves_skip: bool,
}

impl Block {
    /// Of these layers, one after the other.
    pub fn new(layers: Vec<Box<dyn Layer>>) -> Self {
        Self { layers, joins_skip: false, saves_skip: false }
    }

    /// The same after joining its map, in front, with the last one saved and not yet joined, along channels.
    #[must_use]
    pub fn joining_skip(self) -> Self {
        Self { joins_skip: true, ..self }
    }

    /// The same whose result is saved for a later block, too.
    #[must_use]
    pub fn saving_skip(self) -> Self {
        Self { saves_skip: true, ..self }
    }

    /// Whether it joins a saved map.
    pub fn joins_skip(&self) -> bool {
        self.joins_skip
    }

    /// Whether its result is saved.
    pub fn saves_skip(&self) -> bool {
        self.saves_skip
    }

    /// Its layers on a map that is joined already.
    pub fn forward(&self, p: &Params, x: Tensor<4>, context: &Context) -> Tensor<4> {
        self.layers.iter().fold(x, |x, layer| layer.forward(p, x, context))
    }

    /// Shape of the result, and elements kept, for a joined input of that shape.
    pub(in crate::models) fn size(&self, input: ImageShape) -> (ImageShape, usize) {
        self.layers.iter().fold((input, 0), |(shape, kept), layer| (layer.output(shape), kept + layer.kept(shape)))
    }

    /// [`Layer::attention_weights`] of all, for a joined input of that shape.
    pub(in crate::models) fn attention_weights(&self, input: ImageShape) -> usize {
        let layers = self.layers.iter().map(AsRef::as_ref);
        let add = |(shape, sum): (ImageShape, usize), layer: &dyn Layer| {
            (layer.output(shape), sum + layer.attention_weights(shape))
        };
        layers.fold((input, 0), add).1
    }

    /// [`Layer::products`] of all, for a joined input of that shape.
    pub(in crate::models) fn products(&self, layout: &ParamLayout, input: ImageShape) -> u64 {
        let layers = self.layers.iter().map(AsRef::as_ref);
        let add = |(shape, sum): (ImageShape, u64), layer: &dyn Layer| {
            (layer.output(shape), sum + layer.products(layout, shape))
        };
        layers.fold((input, 0), add).1
    }
}

/// Settings of a network's group normalisations.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormSettings {
    /// Groups of channels.
    pub groups: usize,
    /// Added to the variance.
    pub eps: f64,
}

/// Weight and bias of one layer.
#[derive(Debug, Clone, Copy)]
pub struct Affine {
    weight: ParamId,
    bias: ParamId,
}

impl Affine {
    fn add(layout: &mut ParamLayout, name: &str, weight: &[usize], role: Role, inits: [Init; 2]) -> Self {
        Self {
            weight: layout.add(format!("{name}.weight"), weight, role, inits[0]),
            bias: layout.add(format!("{name}.bias"), &weight[..1], Role::Bias, inits[1]),
        }
    }

    fn uniform(weight: &[usize]) -> [Init; 2] {
        [Init::Uniform { fan_in: weight[1..].iter().product() }; 2]
    }

    /// A convolution of weight `[out, in, k..]`.
    pub fn convolution(layout: &mut ParamLayout, name: &str, weight: &[usize]) -> Self {
        Self::add(layout, name, weight, Role::Convolution, Self::uniform(weight))
    }

    /// A convolution that begins as zero: the last of a residual branch.
    pub fn zero_convolution(layout: &mut ParamLayout, name: &str, weight: &[usize]) -> Self {
        Self::add(layout, name, weight, Role::Convolution, [Init::Zeros; 2])
    }

    /// A linear layer of weight `[out, in]`.
    pub fn linear_layer(layout: &mut ParamLayout, name: &str, weight: &[usize]) -> Self {
        Self::add(layout, name, weight, Role::Linear, Self::uniform(weight))
    }

    /// Factors and offsets of normalised channels.
    pub fn normalisation(layout: &mut ParamLayout, name: &str, channels: usize) -> Self {
        Self::add(layout, name, &[channels], Role::Norm, [Init::Ones, Init::Zeros])
    }

    /// Weight and bias.
    pub fn ids(self) -> [ParamId; 2] {
        [self.weight, self.bias]
    }

    /// Products of a layer whose result has that many positions.
    pub fn products(self, layout: &ParamLayout, positions: usize) -> u64 {
        products(layout, self.weight, positions)
    }

    /// The linear layer, `[n, in]` to `[n, out]`.
    pub fn linear(self, p: &Params, x: Tensor<2>) -> Tensor<2> {
        p.linear(self.weight, x) + p.get::<1>(self.bias).unsqueeze()
    }

    /// Same-size convolution (or half-size with `stride` 2), kernel 1 or 3.
    pub fn conv(self, p: &Params, x: Tensor<4>, stride: usize) -> Tensor<4> {
        let padding = p.kernel(self.weight).weight.dims()[2] / 2;
        self.conv_padded(p, x, stride, padding)
    }

    /// Convolution with `padding` zeros on every side.
    pub fn conv_padded(self, p: &Params, x: Tensor<4>, stride: usize, padding: usize) -> Tensor<4> {
        conv2d(x, p.kernel(self.weight), Some(p.get::<1>(self.bias)), stride, padding)
    }

    /// Same-size convolution, kernel 1 or 3, of the normalised x.
    pub fn conv_of_norm(self, p: &Params, x: Tensor<4>, norm: GroupNorm) -> Tensor<4> {
        let kernel = p.kernel(self.weight);
        let padding = kernel.weight.dims()[2] / 2;
        group_norm_conv2d(x, norm, kernel, p.get::<1>(self.bias), 1, padding)
    }

    /// The normalisation, with scale and shift `[n, channels]` and SiLU behind it where given.
    pub fn norm(
        self,
        p: &Params,
        settings: NormSettings,
        scale_shift: Option<(Tensor<2>, Tensor<2>)>,
        silu: bool,
    ) -> GroupNorm {
        let (gamma, beta) = (p.get::<1>(self.weight), p.get::<1>(self.bias));
        GroupNorm { groups: settings.groups, gamma, beta, eps: settings.eps, scale_shift, silu }
    }
}

fn elements(shape: ImageShape) -> usize {
    shape.channels * shape.height * shape.width
}

/// Products of a convolution or linear layer of that weight, for a result of that many positions.
pub(in crate::models) fn products(layout: &ParamLayout, weight: ParamId, positions: usize) -> u64 {
    layout.spec(weight).len() as u64 * positions as u64
}

/// Products of attention of the positions of a map to `keys` of as many channels.
pub(in crate::models) fn products_of_attention(map: ImageShape, keys: usize) -> u64 {
    2 * elements(map) as u64 * keys as u64
}

/// What a residual block does to the size of its input, on both branches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resample {
    /// Nothing.
    Keep,
    /// Sides are doubled.
    Up,
    /// Sides are halved.
    Down,
}

impl Resample {
    fn apply(self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Keep => x,
            Self::Up => upsample_nearest2(x),
            Self::Down => avg_pool2(x),
        }
    }

    fn shape(self, shape: ImageShape) -> ImageShape {
        let ImageShape { channels, height, width } = shape;
        match self {
            Self::Keep => shape,
            Self::Up => ImageShape { channels, height: 2 * height, width: 2 * width },
            Self::Down => ImageShape { channels, height: height / 2, width: width / 2 },
        }
    }
}

/// What the residual blocks of a network have in common.
#[derive(Debug, Clone, Copy)]
pub struct ResidualSettings {
    /// Width of [`Context::embedding`].
    pub embedding: usize,
    /// Whether the embedding scales and shifts the second normalisation, or is added before it.
    pub scale_shift: bool,
    /// Of both normalisations.
    pub norm: NormSettings,
}

/// Two normalised convolutions told of the embedding, added to the input.
#[derive(Debug)]
pub struct ResBlock {
    channels: [usize; 2],
    in_norm: Affine,
    in_conv: Affine,
    emb: Affine,
    out_norm: Affine,
    out_conv: Affine,
    skip: Option<Affine>,
    resample: Resample,
    settings: ResidualSettings,
}

impl ResBlock {
    /// From `inputs` to `outputs` channels, with guided-diffusion's names.
    pub fn new(
        layout: &mut ParamLayout,
        name: &str,
        inputs: usize,
        outputs: usize,
        resample: Resample,
        settings: ResidualSettings,
    ) -> Self {
        let emb_width = if settings.scale_shift { 2 * outputs } else { outputs };
        Self {
            channels: [inputs, outputs],
            in_norm: Affine::normalisation(layout, &format!("{name}.in_layers.0"), inputs),
            in_conv: Affine::convolution(layout, &format!("{name}.in_layers.2"), &[outputs, inputs, 3, 3]),
            emb: Affine::linear_layer(layout, &format!("{name}.emb_layers.1"), &[emb_width, settings.embedding]),
            out_norm: Affine::normalisation(layout, &format!("{name}.out_layers.0"), outputs),
            out_conv: Affine::zero_convolution(layout, &format!("{name}.out_layers.3"), &[outputs, outputs, 3, 3]),
            skip: (inputs != outputs)
                .then(|| Affine::convolution(layout, &format!("{name}.skip_connection"), &[outputs, inputs, 1, 1])),
            resample,
            settings,
        }
    }
}

impl Layer for ResBlock {
    fn forward(&self, p: &Params, x: Tensor<4>, context: &Context) -> Tensor<4> {
        let norm = self.settings.norm;
        let in_norm = self.in_norm.norm(p, norm, None, true);
        let h = match self.resample {
            Resample::Keep => self.in_conv.conv_of_norm(p, x.clone(), in_norm),
            resample => self.in_conv.conv(p, resample.apply(in_norm.apply(x.clone())), 1),
        };
        let x = self.resample.apply(x);
        let emb = self.emb.linear(p, context.embedding.clone());
        let (h, scale_shift) = if self.settings.scale_shift {
            let parts = emb.chunk(2, 1);
            (h, Some((parts[0].clone(), parts[1].clone())))
        } else {
            let [n, c] = emb.dims();
            (h + emb.reshape([n, c, 1, 1]), None)
        };
        let h = self.out_conv.conv_of_norm(p, h, self.out_norm.norm(p, norm, scale_shift, true));
        match self.skip {
            Some(skip) => add(skip.conv(p, x, 1), h),
            None => add(x, h),
        }
    }

    fn output(&self, input: ImageShape) -> ImageShape {
        ImageShape { channels: self.channels[1], ..self.resample.shape(input) }
    }

    /// Input, its convolution, the sum; the skip where it is a convolution, and where the size changes the normalised
    /// input, and both at their new size. Convolutions normalise their input in passing.
    fn kept(&self, input: ImageShape) -> usize {
        let output = elements(self.output(input));
        let resampled = match self.resample {
            Resample::Keep => 0,
            resample => elements(input) + 2 * elements(resample.shape(input)),
        };
        let skip = if self.skip.is_some() { output } else { 0 };
        elements(input) + resampled + 2 * output + skip
    }

    fn products(&self, layout: &ParamLayout, input: ImageShape) -> u64 {
        let positions = self.output(input).pixels();
        let convs = [self.in_conv, self.out_conv].into_iter().chain(self.skip);
        convs.map(|conv| conv.products(layout, positions)).sum::<u64>() + self.emb.products(layout, 1)
    }
}

/// Multi-head self-attention over the positions of the normalised map, added to it.
#[derive(Debug)]
pub struct AttentionBlock {
    norm: Affine,
    qkv: Affine,
    proj: Affine,
    heads: usize,
    order: QkvOrder,
    settings: NormSettings,
}

impl AttentionBlock {
    /// Over `channels` in `heads`, with guided-diffusion's names.
    pub fn new(
        layout: &mut ParamLayout,
        name: &str,
        channels: usize,
        heads: usize,
        order: QkvOrder,
        settings: NormSettings,
    ) -> Self {
        Self {
            norm: Affine::normalisation(layout, &format!("{name}.norm"), channels),
            qkv: Affine::convolution(layout, &format!("{name}.qkv"), &[3 * channels, channels, 1]),
            proj: Affine::zero_convolution(layout, &format!("{name}.proj_out"), &[channels, channels, 1]),
            heads,
            order,
            settings,
        }
    }
}

impl Layer for AttentionBlock {
    fn forward(&self, p: &Params, x: Tensor<4>, _context: &Context) -> Tensor<4> {
        let [n, c, h, w] = x.dims();
        let qkv = self.qkv.conv_of_norm(p, x.clone(), self.norm.norm(p, self.settings, None, false));
        let mixed = attention(qkv.reshape([n, 3 * c, h * w]), self.heads, self.order).reshape([n, c, h, w]);
        add(x, self.proj.conv(p, mixed, 1))
    }

    fn output(&self, input: ImageShape) -> ImageShape {
        input
    }

    /// Input, queries, keys and values, what was attended to, the sum.
    fn kept(&self, input: ImageShape) -> usize {
        6 * elements(input)
    }

    fn products(&self, layout: &ParamLayout, input: ImageShape) -> u64 {
        let layers = [self.qkv, self.proj].map(|layer| layer.products(layout, input.pixels()));
        layers.iter().sum::<u64>() + products_of_attention(input, input.pixels())
    }

    fn attention_weights(&self, input: ImageShape) -> usize {
        self.heads * input.pixels() * input.pixels()
    }
}

/// A 3x3 convolution, of the map itself or of the map normalised and with SiLU.
#[derive(Debug)]
pub struct Conv {
    conv: Affine,
    outputs: usize,
    norm: Option<(Affine, NormSettings)>,
}

impl Conv {
    /// From `inputs` to `outputs` channels.
    pub fn new(layout: &mut ParamLayout, name: &str, inputs: usize, outputs: usize) -> Self {
        Self { conv: Affine::convolution(layout, name, &[outputs, inputs, 3, 3]), outputs, norm: None }
    }

    /// The last of a network: of the normalised map, zero at first.
    pub fn last(layout: &mut ParamLayout, names: [&str; 2], inputs: usize, outputs: usize, norm: NormSettings) -> Self {
        let norm = Some((Affine::normalisation(layout, names[0], inputs), norm));
        Self { conv: Affine::zero_convolution(layout, names[1], &[outputs, inputs, 3, 3]), outputs, norm }
    }
}

impl Layer for Conv {
    fn forward(&self, p: &Params, x: Tensor<4>, _context: &Context) -> Tensor<4> {
        match self.norm {
            None => self.conv.conv(p, x, 1),
            Some((norm, settings)) => self.conv.conv_of_norm(p, x, norm.norm(p, settings, None, true)),
        }
    }

    fn output(&self, input: ImageShape) -> ImageShape {
        ImageShape { channels: self.outputs, ..input }
    }

    /// Input and result, both as wide as the wider.
    fn kept(&self, input: ImageShape) -> usize {
        2 * elements(input).max(elements(self.output(input)))
    }

    fn products(&self, layout: &ParamLayout, input: ImageShape) -> u64 {
        self.conv.products(layout, input.pixels())
    }
}

/// Half the sides: a 3x3 convolution of stride 2, or the mean of 2x2 where there is none.
#[derive(Debug)]
pub struct Down(pub Option<Affine>);

impl Layer for Down {
    fn forward(&self, p: &Params, x: Tensor<4>, _context: &Context) -> Tensor<4> {
        match self.0 {
            Some(conv) => conv.conv(p, x, 2),
            None => avg_pool2(x),
        }
    }

    fn output(&self, input: ImageShape) -> ImageShape {
        Resample::Down.shape(input)
    }

    /// Input and result.
    fn kept(&self, input: ImageShape) -> usize {
        elements(input) + elements(self.output(input))
    }

    fn products(&self, layout: &ParamLayout, input: ImageShape) -> u64 {
        self.0.map_or(0, |conv| conv.products(layout, self.output(input).pixels()))
    }
}

/// What a 3x3 convolution of as many channels makes of the map of twice the sides. A large one is never there as a whole:
/// bands of rows are enlarged and convolved one after the other.
fn enlarged(x: Tensor<4>, conv: impl Fn(Tensor<4>) -> Tensor<4>) -> Tensor<4> {
    const WHOLE_BYTES: usize = 128 << 20;
    const ROWS: usize = 32;
    /// Rows more on either side. With as many, values are computed in the same way as in the whole.
    const HALO: usize = 4;
    let [n, c, h, w] = x.dims();
    if 16 * n * c * h * w <= WHOLE_BYTES || h <= ROWS + 2 * HALO {
        return conv(upsample_nearest2(x));
    }
    let mut out = Tensor::zeros([n, c, 2 * h, 2 * w], (&x.device(), x.dtype()));
    for first in (0..h).step_by(ROWS) {
        let (start, last) = (first.saturating_sub(HALO), (first + ROWS).min(h));
        let rows = (last + HALO).min(h) - start;
        let band = conv(upsample_nearest2(x.clone().narrow(2, start, rows)));
        let band = band.narrow(2, 2 * (first - start), 2 * (last - first));
        out.inplace(|out| out.slice_assign([0..n, 0..c, 2 * first..2 * last, 0..2 * w], band));
    }
    out
}

/// Twice the sides: the nearest pixel, then a 3x3 convolution if there is one.
#[derive(Debug)]
pub struct Up(pub Option<Affine>);

impl Layer for Up {
    fn forward(&self, p: &Params, x: Tensor<4>, _context: &Context) -> Tensor<4> {
        match self.0 {
            Some(conv) => enlarged(x, |x| conv.conv(p, x, 1)),
            None => upsample_nearest2(x),
        }
    }

    fn output(&self, input: ImageShape) -> ImageShape {
        Resample::Up.shape(input)
    }

    /// What is enlarged, and the result of a convolution.
    fn kept(&self, input: ImageShape) -> usize {
        let output = elements(self.output(input));
        if self.0.is_some() { 2 * output } else { output }
    }

    fn products(&self, layout: &ParamLayout, input: ImageShape) -> u64 {
        self.0.map_or(0, |conv| conv.products(layout, self.output(input).pixels()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{cpu, from_f32, to_f32};

    /// Enlarged in bands, a map is what it is as a whole, to the bit.
    #[test]
    fn a_large_map_is_enlarged_in_bands() {
        let numbers = |n: usize| -> Vec<f32> { (0..n).map(|i| ((i * 7919) % 1013) as f32 / 500.0 - 1.0).collect() };
        let (c, h, w) = (8, 520, 1030);
        let x = from_f32(numbers(c * h * w), [1, c, h, w], &cpu());
        let weight = from_f32(numbers(c * c * 9), [c, c, 3, 3], &cpu());
        let conv = |x: Tensor<4>| conv2d(x, weight.clone(), None, 1, 1);
        let whole = to_f32(&conv(upsample_nearest2(x.clone()))).unwrap();
        assert!(to_f32(&enlarged(x, conv)).unwrap() == whole);
    }
}
