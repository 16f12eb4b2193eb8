//! The U-Net of guided-diffusion: blocks in the order, and with the parameter names, of the reference.

use adir_kernels::{GroupNorm, QkvOrder, attention, avg_pool2, conv2d, group_norm_conv2d, upsample_nearest2};
use burn::tensor::activation::silu;

use super::config::{NORM_GROUPS, UNetConfig};
use crate::Result;
use crate::models::params::{ParamId, ParamLayout, Params};
use crate::schedule::Timestep;
use crate::tensor::{self, Tensor};

const NORM_EPS: f64 = 1e-5;

/// Weight and bias of one layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Affine {
    weight: ParamId,
    bias: ParamId,
}

impl Affine {
    fn add(layout: &mut ParamLayout, name: &str, weight: &[usize]) -> Self {
        Self {
            weight: layout.add(format!("{name}.weight"), weight),
            bias: layout.add(format!("{name}.bias"), &weight[..1]),
        }
    }

    fn linear(self, p: &Params, x: Tensor<2>) -> Tensor<2> {
        x.matmul(p.get::<2>(self.weight).transpose()) + p.get::<1>(self.bias).unsqueeze()
    }

    /// The weight of a convolution; that of a 1-d one of kernel 1 as the 1x1 it is over the positions of an image.
    fn kernel(self, p: &Params) -> Tensor<4> {
        match p.layout().spec(self.weight).shape[..] {
            [out, inputs, 1] => p.flat(self.weight).reshape([out, inputs, 1, 1]),
            _ => p.get::<4>(self.weight),
        }
    }

    /// Same-size convolution (or half-size with `stride` 2), kernel 1 or 3.
    fn conv(self, p: &Params, x: Tensor<4>, stride: usize) -> Tensor<4> {
        let weight = self.kernel(p);
        let padding = weight.dims()[2] / 2;
        conv2d(x, weight, Some(p.get::<1>(self.bias)), stride, padding)
    }

    /// Same-size convolution, kernel 1 or 3, of the normalised x.
    fn conv_of_norm(self, p: &Params, x: Tensor<4>, norm: GroupNorm) -> Tensor<4> {
        let weight = self.kernel(p);
        let padding = weight.dims()[2] / 2;
        group_norm_conv2d(x, norm, weight, p.get::<1>(self.bias), 1, padding)
    }

    fn norm(self, p: &Params, scale_shift: Option<(Tensor<2>, Tensor<2>)>, silu: bool) -> GroupNorm {
        let (gamma, beta) = (p.get::<1>(self.weight), p.get::<1>(self.bias));
        GroupNorm { groups: NORM_GROUPS, gamma, beta, eps: NORM_EPS, scale_shift, silu }
    }
}

/// What a residual block does to the size of its input, on both branches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resample {
    Keep,
    Up,
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
}

#[derive(Debug, Clone)]
pub(super) struct ResBlock {
    in_norm: Affine,
    in_conv: Affine,
    emb: Affine,
    out_norm: Affine,
    out_conv: Affine,
    skip: Option<Affine>,
    resample: Resample,
    scale_shift: bool,
}

impl ResBlock {
    fn new(
        layout: &mut ParamLayout,
        name: &str,
        inputs: usize,
        outputs: usize,
        resample: Resample,
        net: &Widths,
    ) -> Self {
        let emb_width = if net.scale_shift { 2 * outputs } else { outputs };
        Self {
            in_norm: Affine::add(layout, &format!("{name}.in_layers.0"), &[inputs]),
            in_conv: Affine::add(layout, &format!("{name}.in_layers.2"), &[outputs, inputs, 3, 3]),
            emb: Affine::add(layout, &format!("{name}.emb_layers.1"), &[emb_width, net.embedding]),
            out_norm: Affine::add(layout, &format!("{name}.out_layers.0"), &[outputs]),
            out_conv: Affine::add(layout, &format!("{name}.out_layers.3"), &[outputs, outputs, 3, 3]),
            skip: (inputs != outputs)
                .then(|| Affine::add(layout, &format!("{name}.skip_connection"), &[outputs, inputs, 1, 1])),
            resample,
            scale_shift: net.scale_shift,
        }
    }

    fn forward(&self, p: &Params, x: Tensor<4>, silu_emb: &Tensor<2>) -> Tensor<4> {
        let in_norm = self.in_norm.norm(p, None, true);
        let h = match self.resample {
            Resample::Keep => self.in_conv.conv_of_norm(p, x.clone(), in_norm),
            resample => self.in_conv.conv(p, resample.apply(in_norm.apply(x.clone())), 1),
        };
        let x = self.resample.apply(x);
        let emb = self.emb.linear(p, silu_emb.clone());
        let (h, scale_shift) = if self.scale_shift {
            let parts = emb.chunk(2, 1);
            (h, Some((parts[0].clone(), parts[1].clone())))
        } else {
            let [n, c] = emb.dims();
            (h + emb.reshape([n, c, 1, 1]), None)
        };
        let h = self.out_conv.conv_of_norm(p, h, self.out_norm.norm(p, scale_shift, true));
        match self.skip {
            Some(skip) => skip.conv(p, x, 1) + h,
            None => x + h,
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct AttentionBlock {
    norm: Affine,
    qkv: Affine,
    proj: Affine,
    heads: usize,
    order: QkvOrder,
}

impl AttentionBlock {
    fn new(layout: &mut ParamLayout, name: &str, channels: usize, config: &UNetConfig) -> Result<Self> {
        Ok(Self {
            norm: Affine::add(layout, &format!("{name}.norm"), &[channels]),
            qkv: Affine::add(layout, &format!("{name}.qkv"), &[3 * channels, channels, 1]),
            proj: Affine::add(layout, &format!("{name}.proj_out"), &[channels, channels, 1]),
            heads: config.heads(channels)?,
            order: if config.use_new_attention_order { QkvOrder::QkvFirst } else { QkvOrder::HeadsFirst },
        })
    }

    fn forward(&self, p: &Params, x: Tensor<4>) -> Tensor<4> {
        let [n, c, h, w] = x.dims();
        let qkv = self.qkv.conv_of_norm(p, x.clone(), self.norm.norm(p, None, false));
        let mixed = attention(qkv.reshape([n, 3 * c, h * w]), self.heads, self.order).reshape([n, c, h, w]);
        x + self.proj.conv(p, mixed, 1)
    }
}

#[derive(Debug, Clone)]
pub(super) enum Layer {
    Conv(Affine),
    Res(ResBlock),
    Attention(AttentionBlock),
    /// 3x3 convolution of stride 2, or 2x2 average.
    Down(Option<Affine>),
    /// Nearest up-sampling, then a 3x3 convolution if there is one.
    Up(Option<Affine>),
}

impl Layer {
    fn forward(&self, p: &Params, x: Tensor<4>, silu_emb: &Tensor<2>) -> Tensor<4> {
        match self {
            Self::Conv(conv) => conv.conv(p, x, 1),
            Self::Res(block) => block.forward(p, x, silu_emb),
            Self::Attention(block) => block.forward(p, x),
            Self::Down(Some(conv)) => conv.conv(p, x, 2),
            Self::Down(None) => avg_pool2(x),
            Self::Up(Some(conv)) => conv.conv(p, upsample_nearest2(x), 1),
            Self::Up(None) => upsample_nearest2(x),
        }
    }
}

pub(super) fn run(layers: &[Layer], p: &Params, x: Tensor<4>, silu_emb: &Tensor<2>) -> Tensor<4> {
    layers.iter().fold(x, |x, layer| layer.forward(p, x, silu_emb))
}

/// What every block needs to know of the whole.
struct Widths {
    embedding: usize,
    scale_shift: bool,
}

/// The network: blocks that look their parameters up in the [`Params`] of the same layout.
#[derive(Debug, Clone)]
pub struct UNet {
    model_channels: usize,
    time: [Affine; 2],
    label: Option<ParamId>,
    pub(super) input_blocks: Vec<Vec<Layer>>,
    pub(super) middle_block: Vec<Layer>,
    pub(super) output_blocks: Vec<Vec<Layer>>,
    out_norm: Affine,
    out_conv: Affine,
}

impl UNet {
    /// The network of a configuration, with the names and shapes its checkpoint must have.
    ///
    /// # Errors
    /// [`crate::Error::Config`] when the configuration is not valid.
    pub fn new(config: &UNetConfig) -> Result<(Self, ParamLayout)> {
        config.check()?;
        let mut layout = ParamLayout::default();
        let l = &mut layout;
        let mc = config.model_channels;
        let net = Widths { embedding: 4 * mc, scale_shift: config.use_scale_shift_norm };
        let time = [
            Affine::add(l, "time_embed.0", &[net.embedding, mc]),
            Affine::add(l, "time_embed.2", &[net.embedding, net.embedding]),
        ];
        let label = config.num_classes.map(|classes| l.add("label_emb.weight", &[classes, net.embedding]));

        let mut channels = config.width(0);
        let stem = Affine::add(l, "input_blocks.0.0", &[channels, config.in_channels, 3, 3]);
        let mut input_blocks = vec![vec![Layer::Conv(stem)]];
        let mut skips = vec![channels];
        let levels = config.channel_mult.len();
        for level in 0..levels {
            for _ in 0..config.num_res_blocks {
                let name = format!("input_blocks.{}", input_blocks.len());
                let width = config.width(level);
                let mut layers =
                    vec![Layer::Res(ResBlock::new(l, &format!("{name}.0"), channels, width, Resample::Keep, &net))];
                channels = width;
                if config.attends(level) {
                    layers.push(Layer::Attention(AttentionBlock::new(l, &format!("{name}.1"), channels, config)?));
                }
                input_blocks.push(layers);
                skips.push(channels);
            }
            if level + 1 < levels {
                let name = format!("input_blocks.{}.0", input_blocks.len());
                input_blocks.push(vec![if config.resblock_updown {
                    Layer::Res(ResBlock::new(l, &name, channels, channels, Resample::Down, &net))
                } else {
                    Layer::Down(
                        config
                            .conv_resample
                            .then(|| Affine::add(l, &format!("{name}.op"), &[channels, channels, 3, 3])),
                    )
                }]);
                skips.push(channels);
            }
        }

        let middle_block = vec![
            Layer::Res(ResBlock::new(l, "middle_block.0", channels, channels, Resample::Keep, &net)),
            Layer::Attention(AttentionBlock::new(l, "middle_block.1", channels, config)?),
            Layer::Res(ResBlock::new(l, "middle_block.2", channels, channels, Resample::Keep, &net)),
        ];

        let mut output_blocks: Vec<Vec<Layer>> = Vec::new();
        for level in (0..levels).rev() {
            for i in 0..=config.num_res_blocks {
                let name = format!("output_blocks.{}", output_blocks.len());
                let skip = skips.pop().expect("as many skips as output blocks");
                let width = config.width(level);
                let mut layers = vec![Layer::Res(ResBlock::new(
                    l,
                    &format!("{name}.0"),
                    channels + skip,
                    width,
                    Resample::Keep,
                    &net,
                ))];
                channels = width;
                if config.attends(level) {
                    layers.push(Layer::Attention(AttentionBlock::new(l, &format!("{name}.1"), channels, config)?));
                }
                if level > 0 && i == config.num_res_blocks {
                    let name = format!("{name}.{}", layers.len());
                    layers.push(if config.resblock_updown {
                        Layer::Res(ResBlock::new(l, &name, channels, channels, Resample::Up, &net))
                    } else {
                        Layer::Up(
                            config
                                .conv_resample
                                .then(|| Affine::add(l, &format!("{name}.conv"), &[channels, channels, 3, 3])),
                        )
                    });
                }
                output_blocks.push(layers);
            }
        }
        let out_norm = Affine::add(l, "out.0", &[channels]);
        let out_conv = Affine::add(l, "out.2", &[config.out_channels, channels, 3, 3]);
        let unet =
            Self { model_channels: mc, time, label, input_blocks, middle_block, output_blocks, out_norm, out_conv };
        Ok((unet, layout))
    }

    /// The network's output `[n, out_channels, h, w]` for noisy images `[n, in_channels, h, w]`, one
    /// timestep (and one class, where the network is conditional) each.
    ///
    /// # Shapes
    /// h and w are multiples of [`UNetConfig::size_multiple`]; `timesteps` and `classes` have n entries.
    pub fn forward(&self, p: &Params, x: Tensor<4>, timesteps: &[Timestep], classes: Option<&[usize]>) -> Tensor<4> {
        let emb = self.embed(p, &x, timesteps, classes);
        let mut skips = Vec::with_capacity(self.input_blocks.len());
        let mut h = x;
        for layers in &self.input_blocks {
            h = run(layers, p, h, &emb);
            skips.push(h.clone());
        }
        h = run(&self.middle_block, p, h, &emb);
        for layers in &self.output_blocks {
            let skip = skips.pop().expect("one skip for each output block");
            h = run(layers, p, Tensor::cat(vec![h, skip], 1), &emb);
        }
        self.finish(p, h)
    }

    /// What every block is told of the timesteps and classes, after the SiLU with which each begins its use of it.
    pub(super) fn embed(
        &self,
        p: &Params,
        like: &Tensor<4>,
        timesteps: &[Timestep],
        classes: Option<&[usize]>,
    ) -> Tensor<2> {
        let embedding = timestep_embedding(timesteps, self.model_channels, like);
        let mut emb = self.time[1].linear(p, silu(self.time[0].linear(p, embedding)));
        if let (Some(label), Some(classes)) = (self.label, classes) {
            let table = p.get::<2>(label);
            let rows = classes.iter().map(|&c| table.clone().narrow(0, c, 1)).collect();
            emb = emb + Tensor::cat(rows, 0);
        }
        silu(emb)
    }

    /// What follows the last block.
    pub(super) fn finish(&self, p: &Params, h: Tensor<4>) -> Tensor<4> {
        self.out_conv.conv_of_norm(p, h, self.out_norm.norm(p, None, true))
    }
}

/// Sinusoidal embedding `[n, width]` of the timesteps, cosines first, in the precision of `like`.
///
/// Frequencies and angles are rounded to f32 as the reference rounds them: at t = 999 that rounding is
/// larger than what separates implementations otherwise.
fn timestep_embedding(timesteps: &[Timestep], width: usize, like: &Tensor<4>) -> Tensor<2> {
    let half = width / 2;
    let angle = |t: Timestep, k: usize| f32::from(t.0) * (-(10000.0_f32.ln()) * k as f32 / half as f32).exp();
    let values = timesteps
        .iter()
        .flat_map(|&t| (0..half).map(move |k| angle(t, k).cos()).chain((0..half).map(move |k| angle(t, k).sin())))
        .collect();
    tensor::from_f32(values, [timesteps.len(), width], &like.device()).cast(like.dtype())
}
