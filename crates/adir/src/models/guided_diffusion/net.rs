//! The U-Net of guided-diffusion: blocks in the order, and with the parameter names, of the reference.

use std::sync::Arc;

use adir_kernels::QkvOrder;

use super::config::{NORM_GROUPS, UNetConfig};
use crate::Result;
use crate::models::blocks::{
    Affine, AttentionBlock, Block, Context, Conv, Down, Layer, NormSettings, ResBlock, Resample, ResidualSettings, Up,
};
use crate::models::embedding::StepEmbedding;
use crate::models::params::{ParamId, ParamLayout, Params};
use crate::models::{Conditioning, Network};
use crate::schedule::Timestep;
use crate::tensor::Tensor;

const NORM: NormSettings = NormSettings { groups: NORM_GROUPS, eps: 1e-5 };

/// The network of a configuration.
#[derive(Debug)]
pub struct UNet {
    layout: Arc<ParamLayout>,
    blocks: Vec<Block>,
    input_channels: usize,
    classes: Option<usize>,
    steps: StepEmbedding,
}

impl UNet {
    /// The network of a configuration, with the names and shapes its checkpoint must have.
    ///
    /// # Errors
    /// [`crate::Error::Config`] when the configuration is not valid.
    pub fn new(config: &UNetConfig) -> Result<Self> {
        config.check()?;
        let mut builder = Builder { layout: ParamLayout::default(), config, blocks: Vec::new() };
        let embedding = config.embedding();
        let steps = StepEmbedding::new(&mut builder.layout, config.model_channels, embedding, config.num_classes);
        builder.add_blocks()?;
        let Builder { layout, blocks, .. } = builder;
        Ok(Self {
            layout: Arc::new(layout),
            blocks,
            input_channels: config.in_channels,
            classes: config.num_classes,
            steps,
        })
    }
}

/// Adds blocks and their parameters, level by level.
struct Builder<'a> {
    layout: ParamLayout,
    config: &'a UNetConfig,
    blocks: Vec<Block>,
}

impl Builder<'_> {
    fn add_blocks(&mut self) -> Result<()> {
        let config = self.config;
        let mut channels = config.width(0);
        let stem = Conv::new(&mut self.layout, "input_blocks.0.0", config.in_channels, channels);
        self.blocks.push(Block::new(vec![Box::new(stem)]).saving_skip());
        let mut skips = vec![channels];
        let levels = config.channel_mult.len();
        for level in 0..levels {
            for _ in 0..config.num_res_blocks {
                let name = format!("input_blocks.{}", self.blocks.len());
                let layers = self.level(&name, level, channels)?;
                channels = config.width(level);
                self.blocks.push(Block::new(layers).saving_skip());
                skips.push(channels);
            }
            if level + 1 < levels {
                let name = format!("input_blocks.{}.0", self.blocks.len());
                let down = self.resampling(&name, channels, Resample::Down);
                self.blocks.push(Block::new(vec![down]).saving_skip());
                skips.push(channels);
            }
        }

        let middle: Vec<Box<dyn Layer>> = vec![
            self.residual("middle_block.0", channels, channels, Resample::Keep),
            self.attention("middle_block.1", channels)?,
            self.residual("middle_block.2", channels, channels, Resample::Keep),
        ];
        self.blocks.push(Block::new(middle));

        let first = self.blocks.len();
        for level in (0..levels).rev() {
            for i in 0..=config.num_res_blocks {
                let name = format!("output_blocks.{}", self.blocks.len() - first);
                let skip = skips.pop().expect("as many skips as output blocks");
                let mut layers = self.level(&name, level, channels + skip)?;
                channels = config.width(level);
                if level > 0 && i == config.num_res_blocks {
                    let name = format!("{name}.{}", layers.len());
                    layers.push(self.resampling(&name, channels, Resample::Up));
                }
                self.blocks.push(Block::new(layers).joining_skip());
            }
        }
        let last = Conv::last(&mut self.layout, ["out.0", "out.2"], channels, config.out_channels, NORM);
        self.blocks.push(Block::new(vec![Box::new(last)]));
        Ok(())
    }

    /// A residual block to the width of a level, and attention where the level has it.
    fn level(&mut self, name: &str, level: usize, inputs: usize) -> Result<Vec<Box<dyn Layer>>> {
        let width = self.config.width(level);
        let mut layers = vec![self.residual(&format!("{name}.0"), inputs, width, Resample::Keep)];
        if self.config.attends(level) {
            layers.push(self.attention(&format!("{name}.1"), width)?);
        }
        Ok(layers)
    }

    fn residual(&mut self, name: &str, inputs: usize, outputs: usize, resample: Resample) -> Box<dyn Layer> {
        let settings = ResidualSettings {
            embedding: self.config.embedding(),
            scale_shift: self.config.use_scale_shift_norm,
            norm: NORM,
        };
        Box::new(ResBlock::new(&mut self.layout, name, inputs, outputs, resample, settings))
    }

    fn attention(&mut self, name: &str, channels: usize) -> Result<Box<dyn Layer>> {
        let order = if self.config.use_new_attention_order { QkvOrder::QkvFirst } else { QkvOrder::HeadsFirst };
        let heads = self.config.heads(channels)?;
        Ok(Box::new(AttentionBlock::new(&mut self.layout, name, channels, heads, order, NORM)))
    }

    /// Another size: a residual block, a convolution, or neither.
    fn resampling(&mut self, name: &str, channels: usize, resample: Resample) -> Box<dyn Layer> {
        if self.config.resblock_updown {
            return self.residual(name, channels, channels, resample);
        }
        let mut conv = |part: &str| {
            let weight = [channels, channels, 3, 3];
            let wanted = self.config.conv_resample;
            wanted.then(|| Affine::convolution(&mut self.layout, &format!("{name}.{part}"), &weight))
        };
        match resample {
            Resample::Up => Box::new(Up(conv("conv"))),
            _ => Box::new(Down(conv("op"))),
        }
    }
}

impl Network for UNet {
    fn layout(&self) -> &Arc<ParamLayout> {
        &self.layout
    }

    fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    fn input_channels(&self) -> usize {
        self.input_channels
    }

    fn classes(&self) -> Option<usize> {
        self.classes
    }

    fn context(&self, p: &Params, x: &Tensor<4>, timesteps: &[Timestep], conditioning: &[Conditioning]) -> Context {
        let classes: Vec<_> = conditioning.iter().map(Conditioning::class).collect();
        Context { embedding: self.steps.forward(p, timesteps, &classes, x), text: None }
    }

    fn context_parameters(&self) -> Vec<ParamId> {
        self.steps.parameters()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::{BlockMemory, Network};
    use crate::tensor::{Compute, cpu, from_f32};

    const CONFIGS: [&str; 3] = [
        r#"{"in_channels":3,"out_channels":6,"model_channels":32,"num_res_blocks":1,"channel_mult":[1,2,4,4],
            "attention_resolutions":[8],"num_head_channels":32,"resblock_updown":true,"use_scale_shift_norm":true}"#,
        r#"{"in_channels":3,"out_channels":3,"model_channels":64,"num_res_blocks":2,"channel_mult":[0.5,1,1],
            "attention_resolutions":[2,4],"num_head_channels":32,"resblock_updown":true}"#,
        r#"{"in_channels":1,"out_channels":2,"model_channels":32,"num_res_blocks":3,"channel_mult":[1,1,2],
            "attention_resolutions":[1],"num_heads":2,"num_head_channels":-1}"#,
    ];

    /// Worked out from the configuration alone, level by level, as the estimates were before they came from the blocks.
    fn by_hand(config: &UNetConfig, side: usize) -> Vec<BlockMemory> {
        let levels = config.channel_mult.len();
        let positions = |level: usize| (side >> level) * (side >> level);
        let mut blocks = Vec::new();
        let res = |from: usize, to: usize, before: usize, after: usize| {
            let resampled = if before == after { 0 } else { from * before + 2 * from * after };
            from * before + resampled + 2 * to * after + if from == to { 0 } else { to * after }
        };
        let size = |c: usize, from: usize, to: usize, up: bool| match (config.resblock_updown, up) {
            (true, _) => res(c, c, positions(from), positions(to)),
            (false, true) => 2 * c * positions(to),
            (false, false) => c * positions(from) + c * positions(to),
        };
        let attention = |c: usize, level: usize| if config.attends(level) { 6 * c * positions(level) } else { 0 };
        let mut c = config.width(0);
        let mut skips = vec![c];
        let stem = c * positions(0);
        blocks.push(BlockMemory { entering: config.in_channels * positions(0), kept: 2 * stem, saved: stem });
        for level in 0..levels {
            for _ in 0..config.num_res_blocks {
                let (entering, p) = (c * positions(level), positions(level));
                let kept = res(c, config.width(level), p, p) + attention(config.width(level), level);
                c = config.width(level);
                blocks.push(BlockMemory { entering, kept, saved: c * p });
                skips.push(c);
            }
            if level + 1 < levels {
                let (entering, saved) = (c * positions(level), c * positions(level + 1));
                blocks.push(BlockMemory { entering, kept: size(c, level, level + 1, false), saved });
                skips.push(c);
            }
        }
        let p = positions(levels - 1);
        blocks.push(BlockMemory { entering: c * p, kept: 2 * res(c, c, p, p) + 6 * c * p, saved: 0 });
        for level in (0..levels).rev() {
            for i in 0..=config.num_res_blocks {
                let (joined, p) = (c + skips.pop().unwrap(), positions(level));
                c = config.width(level);
                let mut kept = res(joined, c, p, p) + attention(c, level);
                if level > 0 && i == config.num_res_blocks {
                    kept += size(c, level, level - 1, true);
                }
                blocks.push(BlockMemory { entering: joined * p, kept, saved: 0 });
            }
        }
        blocks.push(BlockMemory { entering: c * positions(0), kept: 2 * c * positions(0), saved: 0 });
        blocks
    }

    #[test]
    fn memory_of_blocks_is_that_of_the_configuration() {
        for (config, largest) in CONFIGS.into_iter().zip([96, 96, 64]) {
            let config = UNetConfig::from_json(config).unwrap();
            let net = UNet::new(&config).unwrap();
            assert_eq!(net.memory_of_blocks(64, 64), by_hand(&config, 64));
            assert_eq!(net.largest_map(64, 64), largest * 64 * 64, "channels of the decoder's last level");
        }
    }

    /// The published network for 256x256 pixels: 1.114e12 products in convolutions and 0.006e12 in attention; at twice the
    /// sides 4.455e12 and 0.097e12.
    #[test]
    fn products_of_the_published_network_are_as_worked_out_by_hand() {
        let published = r#"{"in_channels":3,"out_channels":6,"model_channels":256,"num_res_blocks":2,
            "channel_mult":[1,1,2,2,4,4],"attention_resolutions":[8,16,32],"num_head_channels":64,
            "resblock_updown":true,"use_scale_shift_norm":true}"#;
        let net = UNet::new(&UNetConfig::from_json(published).unwrap()).unwrap();
        assert_eq!(net.layout().element_count(), 552_814_086);
        for (side, terms) in [(256, 1.114 + 0.006), (512, 4.455 + 0.097)] {
            let found = net.products(side, side) as f64 / 1e12;
            assert!((found / terms - 1.0).abs() < 1e-3, "{found} at {side}");
        }
    }

    /// What the list says of shapes is what its layers make.
    #[test]
    fn shapes_of_blocks_are_those_computed() {
        for config in CONFIGS {
            let config = UNetConfig::from_json(config).unwrap();
            let net = UNet::new(&config).unwrap();
            let params = Params::initial(net.layout().clone(), 1, &Compute::default()).unwrap();
            let (side, c) = (2 * config.size_multiple(), config.in_channels);
            let mut x = from_f32(vec![0.1; c * side * side], [1, c, side, side], &cpu());
            let context = net.context(&params, &x, &[Timestep(7)], &[]);
            let mut skips = Vec::new();
            for (block, memory) in net.blocks().iter().zip(net.memory_of_blocks(side, side)) {
                if block.joins_skip() {
                    x = Tensor::cat(vec![x, skips.pop().unwrap()], 1);
                }
                assert_eq!(x.shape().num_elements(), memory.entering);
                x = block.forward(&params, x, &context);
                if block.saves_skip() {
                    assert_eq!(x.shape().num_elements(), memory.saved);
                    skips.push(x.clone());
                }
            }
            assert_eq!(x.dims(), [1, config.out_channels, side, side]);
            assert!(skips.is_empty());
        }
    }
}
