//! The autoencoders of latent diffusion, between images and the latents that a U-Net samples.

use std::sync::Arc;

use super::autoencoder_blocks::{DownRight, PlainAttention, PlainResBlock, Pointwise};
use super::autoencoder_config::{AutoencoderConfig, Bottleneck};
use crate::models::blocks::{Affine, Block, Context, Conv, Layer, NormSettings, Up};
use crate::models::params::{Init, ParamId, ParamLayout, Params, Role};
use crate::operator::ImageShape;
use crate::tensor::{self, Tensor};
use crate::{Error, Result};

const NORM: NormSettings = NormSettings { groups: AutoencoderConfig::GROUPS, eps: 1e-6 };

/// Encoder and decoder, without weights.
#[derive(Debug)]
pub struct Autoencoder {
    layout: Arc<ParamLayout>,
    encoder: Vec<Block>,
    decoder: Vec<Block>,
    codebook: Option<ParamId>,
    config: AutoencoderConfig,
}

/// What an encoder tells of the latents of an image, before any scaling, `[n, c, h, w]` both.
#[derive(Debug, Clone)]
pub struct Posterior {
    /// Their mean, or what is quantised later.
    pub mean: Tensor<4>,
    /// Their standard deviation; zeros for a quantised bottleneck.
    pub deviation: Tensor<4>,
}

impl Autoencoder {
    /// The autoencoder of a configuration, with latent diffusion's names.
    ///
    /// # Errors
    /// As [`AutoencoderConfig::check`].
    pub fn new(config: &AutoencoderConfig) -> Result<Self> {
        config.check()?;
        let mut layout = ParamLayout::default();
        let encoder = encoder(&mut layout, config);
        let decoder = decoder(&mut layout, config);
        let codebook = match config.bottleneck {
            Bottleneck::Kl => None,
            Bottleneck::Vq { vectors } => Some(layout.add(
                "quantize.embedding.weight",
                &[vectors, config.latent_channels],
                Role::Embedding,
                Init::Uniform { fan_in: vectors },
            )),
        };
        Ok(Self { layout: Arc::new(layout), encoder, decoder, codebook, config: config.clone() })
    }

    /// Names, shapes and meanings of the parameters.
    pub fn layout(&self) -> &Arc<ParamLayout> {
        &self.layout
    }

    /// What it was made of.
    pub fn config(&self) -> &AutoencoderConfig {
        &self.config
    }

    /// Bytes that decoding latents of that height and width takes in f32, or encoding their image: weights, and the maps that
    /// are alive at once.
    pub fn memory(&self, height: usize, width: usize) -> u64 {
        /// Of the widest layer: what enters it, what is in passing, what leaves it.
        const MAPS_ALIVE: usize = 3;
        /// Copies in the order of the kernels; convolutions of larger maps make them band by band.
        const COPIES: usize = 2;
        const MOST_COPIED: usize = 512 << 20;
        let factor = self.config.factor();
        let largest = |blocks: &[Block], mut map: ImageShape| {
            let mut most = 0;
            for block in blocks {
                let (after, _) = block.size(map);
                most = most.max(elements(map)).max(elements(after));
                map = after;
            }
            most
        };
        let image = ImageShape { channels: self.config.image_channels, height: factor * height, width: factor * width };
        let latents = ImageShape { channels: self.config.latent_channels, height, width };
        let widest = largest(&self.encoder, image).max(largest(&self.decoder, latents));
        let maps = 4 * MAPS_ALIVE * widest + (4 * COPIES * widest).min(MOST_COPIED);
        (4 * self.layout.element_count() + maps) as u64
    }

    /// Products that encoding an image whose latents have that height and width adds up, and those of decoding them; see
    /// [`Network::products`].
    ///
    /// [`Network::products`]: crate::models::Network::products
    pub fn products(&self, height: usize, width: usize) -> [u64; 2] {
        let factor = self.config.factor();
        let image = ImageShape { channels: self.config.image_channels, height: factor * height, width: factor * width };
        let latents = ImageShape { channels: self.config.latent_channels, height, width };
        [(&self.encoder, image), (&self.decoder, latents)].map(|(blocks, map)| {
            let add = |(map, sum): (ImageShape, u64), block: &Block| {
                (block.size(map).0, sum + block.products(&self.layout, map))
            };
            blocks.iter().fold((map, 0), add).1
        })
    }

    /// The latents of images in [-1, 1], sides divided by [`AutoencoderConfig::factor`].
    ///
    /// # Errors
    /// [`Error::Config`] for images with other channels, or sides that are no multiples of the factor.
    pub fn encode(&self, p: &Params, image: &Tensor<4>) -> Result<Posterior> {
        let ([_, c, h, w], factor) = (image.dims(), self.config.factor());
        if c != self.config.image_channels || !h.is_multiple_of(factor) || !w.is_multiple_of(factor) || h * w == 0 {
            return Err(Error::config(format!(
                "an image of {w}x{h} with {c} channels: the autoencoder expects {} channels and sides that are multiples \
                 of {factor}",
                self.config.image_channels
            )));
        }
        let told = run(&self.encoder, p, image);
        Ok(match self.config.bottleneck {
            Bottleneck::Vq { .. } => Posterior { deviation: told.zeros_like(), mean: told },
            Bottleneck::Kl => {
                let halves = told.chunk(2, 1);
                let log_variance = halves[1].clone().clamp(-30.0, 20.0);
                Posterior { mean: halves[0].clone(), deviation: (log_variance * 0.5).exp() }
            }
        })
    }

    /// The images of latents, before any scaling; of quantised ones, those of the nearest vectors.
    ///
    /// # Errors
    /// [`Error::Config`] for latents with other channels; [`Error::Backend`] when the device fails.
    pub fn decode(&self, p: &Params, latents: &Tensor<4>) -> Result<Tensor<4>> {
        let [_, c, h, w] = latents.dims();
        if c != self.config.latent_channels || h * w == 0 {
            let expected = self.config.latent_channels;
            return Err(Error::config(format!(
                "latents of {w}x{h} with {c} channels: the autoencoder expects {expected}"
            )));
        }
        let quantised = match self.codebook {
            Some(codebook) => nearest(&p.get::<2>(codebook), latents)?,
            None => latents.clone(),
        };
        Ok(run(&self.decoder, p, &quantised))
    }
}

fn elements(map: ImageShape) -> usize {
    map.channels * map.height * map.width
}

/// The blocks one after the other, on the device and in the precision of the parameters.
fn run(blocks: &[Block], p: &Params, x: &Tensor<4>) -> Tensor<4> {
    let input = x.clone().to_device(&p.device()).cast(p.dtype());
    // No layer here asks for it.
    let context = Context { embedding: Tensor::zeros([1, 1], (&p.device(), p.dtype())), text: None };
    let out = blocks.iter().fold(input, |h, block| block.forward(p, h, &context));
    out.to_device(&x.device()).cast(x.dtype())
}

/// Every position's nearest vector of the table `[vectors, c]`.
fn nearest(table: &Tensor<2>, latents: &Tensor<4>) -> Result<Tensor<4>> {
    let ([n, c, h, w], [vectors, _]) = (latents.dims(), table.dims());
    let (values, table) = (tensor::to_f32(latents)?, tensor::to_f32(table)?);
    let mut out = values.clone();
    let plane = h * w;
    for image in 0..n {
        for position in 0..plane {
            let at = |channel: usize| (image * c + channel) * plane + position;
            let distance = |vector: &usize| -> f64 {
                (0..c).map(|channel| f64::from(values[at(channel)] - table[vector * c + channel]).powi(2)).sum()
            };
            let best = (0..vectors).min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or(0);
            for channel in 0..c {
                out[at(channel)] = table[best * c + channel];
            }
        }
    }
    Ok(tensor::from_f32(out, [n, c, h, w], &latents.device()).cast(latents.dtype()))
}

fn middle(layout: &mut ParamLayout, side: &str, channels: usize) -> Vec<Block> {
    let residual = |layout: &mut ParamLayout, part: &str| -> Box<dyn Layer> {
        Box::new(PlainResBlock::new(layout, &format!("{side}.mid.{part}"), channels, channels, NORM))
    };
    let first = residual(layout, "block_1");
    let attention = Box::new(PlainAttention::new(layout, &format!("{side}.mid.attn_1"), channels, 1, NORM));
    vec![Block::new(vec![first]), Block::new(vec![attention]), Block::new(vec![residual(layout, "block_2")])]
}

fn pointwise(layout: &mut ParamLayout, name: &str, [outputs, inputs]: [usize; 2]) -> Block {
    let conv = Affine::convolution(layout, name, &[outputs, inputs, 1, 1]);
    Block::new(vec![Box::new(Pointwise { conv, outputs })])
}

fn encoder(layout: &mut ParamLayout, config: &AutoencoderConfig) -> Vec<Block> {
    let told = match config.bottleneck {
        Bottleneck::Kl => 2 * config.latent_channels,
        Bottleneck::Vq { .. } => config.latent_channels,
    };
    let mut channels = config.widths[0];
    let mut blocks =
        vec![Block::new(vec![Box::new(Conv::new(layout, "encoder.conv_in", config.image_channels, channels))])];
    for (level, &width) in config.widths.iter().enumerate() {
        for k in 0..config.layers_per_block {
            let name = format!("encoder.down.{level}.block.{k}");
            blocks.push(Block::new(vec![Box::new(PlainResBlock::new(layout, &name, channels, width, NORM))]));
            channels = width;
        }
        if level + 1 < config.widths.len() {
            let name = format!("encoder.down.{level}.downsample.conv");
            let conv = Affine::convolution(layout, &name, &[width, width, 3, 3]);
            blocks.push(Block::new(vec![Box::new(DownRight(conv))]));
        }
    }
    blocks.extend(middle(layout, "encoder", channels));
    let last = Conv::last(layout, ["encoder.norm_out", "encoder.conv_out"], channels, told, NORM);
    blocks.push(Block::new(vec![Box::new(last)]));
    blocks.push(pointwise(layout, "quant_conv", [told, told]));
    blocks
}

fn decoder(layout: &mut ParamLayout, config: &AutoencoderConfig) -> Vec<Block> {
    let latent = config.latent_channels;
    let mut channels = config.widths[config.widths.len() - 1];
    let mut blocks = vec![pointwise(layout, "post_quant_conv", [latent, latent])];
    blocks.push(Block::new(vec![Box::new(Conv::new(layout, "decoder.conv_in", latent, channels))]));
    blocks.extend(middle(layout, "decoder", channels));
    for (level, &width) in config.widths.iter().enumerate().rev() {
        for k in 0..=config.layers_per_block {
            let name = format!("decoder.up.{level}.block.{k}");
            blocks.push(Block::new(vec![Box::new(PlainResBlock::new(layout, &name, channels, width, NORM))]));
            channels = width;
        }
        if level > 0 {
            let name = format!("decoder.up.{level}.upsample.conv");
            let conv = Affine::convolution(layout, &name, &[width, width, 3, 3]);
            blocks.push(Block::new(vec![Box::new(Up(Some(conv)))]));
        }
    }
    let last = Conv::last(layout, ["decoder.norm_out", "decoder.conv_out"], channels, config.image_channels, NORM);
    blocks.push(Block::new(vec![Box::new(last)]));
    blocks
}
