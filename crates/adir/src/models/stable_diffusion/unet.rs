//! Latent diffusion's U-Net, with a text or without: blocks in the order, and with the parameter names, of latent diffusion.

use std::sync::Arc;

use super::autoencoder_blocks::PlainAttention;
use super::config::{ConditionalConfig, Level};
use super::transformer::{Attending, Transformer};
use crate::models::blocks::{
    Affine, Block, Context, Conv, Down, Layer, NormSettings, ResBlock, Resample, ResidualSettings, Up,
};
use crate::models::embedding::StepEmbedding;
use crate::models::network::check_class;
use crate::models::params::{ParamId, ParamLayout, Params};
use crate::models::{Conditioning, Network};
use crate::schedule::Timestep;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Of residual blocks and of the last layer.
const NORM: NormSettings = NormSettings { groups: ConditionalConfig::GROUPS, eps: 1e-5 };

/// The network of a configuration.
#[derive(Debug)]
pub struct ConditionalUNet {
    layout: Arc<ParamLayout>,
    blocks: Vec<Block>,
    steps: StepEmbedding,
    config: ConditionalConfig,
}

impl ConditionalUNet {
    /// The network of a configuration, with latent diffusion's names.
    ///
    /// # Errors
    /// As [`ConditionalConfig::check`].
    pub fn new(config: &ConditionalConfig) -> Result<Self> {
        config.check()?;
        let mut layout = ParamLayout::default();
        let first = config.levels[0].channels;
        let steps = StepEmbedding::new(&mut layout, first, 4 * first, config.classes);
        let mut builder = Builder { layout, config, blocks: Vec::new() };
        builder.add_blocks();
        let Builder { layout, blocks, .. } = builder;
        Ok(Self { layout: Arc::new(layout), blocks, steps, config: config.clone() })
    }

    /// The name in diffusers of the parameter with that name here, which is latent diffusion's.
    pub fn diffusers_name(&self, name: &str) -> Option<String> {
        super::names::of_unet(&self.config, name, false)
    }

    /// What it was made of.
    pub fn config(&self) -> &ConditionalConfig {
        &self.config
    }
}

/// Adds blocks and their parameters, level by level.
struct Builder<'a> {
    layout: ParamLayout,
    config: &'a ConditionalConfig,
    blocks: Vec<Block>,
}

impl Builder<'_> {
    fn add_blocks(&mut self) {
        let config = self.config;
        let mut channels = config.levels[0].channels;
        let stem = Conv::new(&mut self.layout, "input_blocks.0.0", config.in_channels, channels);
        self.blocks.push(Block::new(vec![Box::new(stem)]).saving_skip());
        let mut skips = vec![channels];
        for (i, level) in config.levels.iter().enumerate() {
            for _ in 0..config.layers_per_block {
                let name = format!("input_blocks.{}", self.blocks.len());
                let layers = self.level(&name, level, channels);
                channels = level.channels;
                self.blocks.push(Block::new(layers).saving_skip());
                skips.push(channels);
            }
            if i + 1 < config.levels.len() {
                let name = format!("input_blocks.{}.0.op", self.blocks.len());
                let down = Down(Some(Affine::convolution(&mut self.layout, &name, &[channels, channels, 3, 3])));
                self.blocks.push(Block::new(vec![Box::new(down)]).saving_skip());
                skips.push(channels);
            }
        }

        let middle = Level { channels, heads: Some(config.middle_heads()), only_cross: false };
        let middle: Vec<Box<dyn Layer>> = vec![
            self.residual("middle_block.0", channels, channels),
            self.attention("middle_block.1", &middle),
            self.residual("middle_block.2", channels, channels),
        ];
        self.blocks.push(Block::new(middle));

        let first = self.blocks.len();
        for (i, level) in config.levels.iter().enumerate().rev() {
            for k in 0..=config.layers_per_block {
                let name = format!("output_blocks.{}", self.blocks.len() - first);
                let skip = skips.pop().expect("as many skips as output blocks");
                let mut layers = self.level(&name, level, channels + skip);
                channels = level.channels;
                if i > 0 && k == config.layers_per_block {
                    let name = format!("{name}.{}.conv", layers.len());
                    let conv = Affine::convolution(&mut self.layout, &name, &[channels, channels, 3, 3]);
                    layers.push(Box::new(Up(Some(conv))));
                }
                self.blocks.push(Block::new(layers).joining_skip());
            }
        }
        let last = Conv::last(&mut self.layout, ["out.0", "out.2"], channels, config.out_channels, NORM);
        self.blocks.push(Block::new(vec![Box::new(last)]));
    }

    /// A residual block to the width of a level, and attention where the level has it.
    fn level(&mut self, name: &str, level: &Level, inputs: usize) -> Vec<Box<dyn Layer>> {
        let mut layers = vec![self.residual(&format!("{name}.0"), inputs, level.channels)];
        if level.heads.is_some() {
            layers.push(self.attention(&format!("{name}.1"), level));
        }
        layers
    }

    fn residual(&mut self, name: &str, inputs: usize, outputs: usize) -> Box<dyn Layer> {
        let embedding = 4 * self.config.levels[0].channels;
        let settings = ResidualSettings { embedding, scale_shift: false, norm: NORM };
        Box::new(ResBlock::new(&mut self.layout, name, inputs, outputs, Resample::Keep, settings))
    }

    /// A transformer; without a text, attention alone.
    fn attention(&mut self, name: &str, level: &Level) -> Box<dyn Layer> {
        let heads = level.heads.unwrap_or(1);
        let Some(text_width) = self.config.text_width else {
            return Box::new(PlainAttention::new(&mut self.layout, name, level.channels, heads, NORM));
        };
        let how = Attending {
            heads,
            text_width,
            only_cross: level.only_cross,
            linear_projection: self.config.linear_projection,
        };
        Box::new(Transformer::new(&mut self.layout, name, level.channels, NORM.groups, how))
    }
}

impl Network for ConditionalUNet {
    fn layout(&self) -> &Arc<ParamLayout> {
        &self.layout
    }

    fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    fn input_channels(&self) -> usize {
        self.config.in_channels
    }

    fn classes(&self) -> Option<usize> {
        self.config.classes
    }

    fn check_conditioning(&self, conditioning: &Conditioning) -> Result<()> {
        check_class(self.config.classes, conditioning.class())?;
        match (conditioning.text().map(Tensor::dims), self.config.text_width) {
            (None, None) => Ok(()),
            (Some([1, _, width]), Some(expected)) if width == expected => Ok(()),
            (Some([n, _, width]), Some(expected)) => Err(Error::config(format!(
                "{n} texts with states of {width} numbers: the network expects one, of {expected}"
            ))),
            (None, Some(_)) => Err(Error::config("this network needs the states of a text")),
            (Some(_), None) => Err(Error::config("this network takes no text")),
        }
    }

    fn context(&self, p: &Params, x: &Tensor<4>, timesteps: &[Timestep], conditioning: &[Conditioning]) -> Context {
        let classes: Vec<_> = match self.config.classes {
            Some(_) => conditioning.iter().map(Conditioning::class).collect(),
            None => Vec::new(),
        };
        let states: Vec<_> = conditioning.iter().filter_map(Conditioning::text).cloned().collect();
        let text = (!states.is_empty()).then(|| Tensor::cat(states, 0).to_device(&x.device()).cast(x.dtype()));
        Context { embedding: self.steps.forward(p, timesteps, &classes, x), text }
    }

    fn context_parameters(&self) -> Vec<ParamId> {
        self.steps.parameters()
    }
}
