//! The network: a stem, sixteen inverted residual blocks, a head, and the mean over positions
//! (Tan and Le, arXiv 1905.11946, Table 1, without squeeze-and-excitation and with ReLU6).
//!
//! Batch normalisation is already folded into the stored convolutions. Padding is TensorFlow's SAME: where
//! it is odd, the extra zero goes below and to the right.

use std::sync::Arc;

use adir_kernels::conv2d;
use burn::tensor::module;
use burn::tensor::ops::ConvOptions;

use crate::models::blocks::Affine;
use crate::models::params::{ParamLayout, Params};
use crate::tensor::Tensor;

/// Features of a picture.
pub(super) const FEATURES: usize = 1280;
/// Channels after the stem.
const STEM: usize = 32;
/// Kernel, stride of the first block, expansion, output channels, blocks.
const STAGES: [(usize, usize, usize, usize, usize); 7] = [
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
];

/// A convolution with bias.
#[derive(Debug)]
struct Conv {
    parameters: Affine,
    stride: usize,
    groups: usize,
}

impl Conv {
    /// `shape` is `[out, in per group, k, k]`.
    fn add(layout: &mut ParamLayout, name: &str, shape: [usize; 4], stride: usize, groups: usize) -> Self {
        Self { parameters: Affine::convolution(layout, name, &shape), stride, groups }
    }

    fn forward(&self, p: &Params, x: Tensor<4>) -> Tensor<4> {
        let [weight, bias] = self.parameters.ids();
        let (weight, bias) = (p.get::<4>(weight), Some(p.get::<1>(bias)));
        let [_, _, kernel, _] = weight.dims();
        if kernel == 1 {
            return conv2d(x, weight, bias, 1, 0);
        }
        let [_, _, height, width] = x.dims();
        let padding = [height, width].map(|side| same_padding(side, kernel, self.stride));
        let options = ConvOptions::new_with_padding([self.stride; 2], padding, [1; 2], self.groups);
        module::conv2d(x, weight, bias, options)
    }
}

/// Zeros before and after, so that the output has `side / stride` positions, rounded up.
fn same_padding(side: usize, kernel: usize, stride: usize) -> (usize, usize) {
    let covered = (side.div_ceil(stride) - 1) * stride + kernel;
    let total = covered.saturating_sub(side);
    (total / 2, total - total / 2)
}

/// Widen (unless the expansion is 1), filter each channel, narrow; added to its input where shapes allow.
#[derive(Debug)]
struct Block {
    expand: Option<Conv>,
    depthwise: Conv,
    project: Conv,
    residual: bool,
}

impl Block {
    fn forward(&self, p: &Params, x: Tensor<4>) -> Tensor<4> {
        let wide = match &self.expand {
            Some(expand) => relu6(expand.forward(p, x.clone())),
            None => x.clone(),
        };
        let out = self.project.forward(p, relu6(self.depthwise.forward(p, wide)));
        if self.residual { out + x } else { out }
    }
}

fn relu6(x: Tensor<4>) -> Tensor<4> {
    x.clamp(0.0, 6.0)
}

/// EfficientNet-Lite0 up to the classifier: what is computed, without weights.
#[derive(Debug)]
pub(super) struct Net {
    layout: Arc<ParamLayout>,
    stem: Conv,
    blocks: Vec<Block>,
    head: Conv,
}

impl Net {
    /// Its parameters are `stem`, `blocks.N.{expand,depthwise,project}` and `head`, each with `.weight` and `.bias`.
    pub fn new() -> Self {
        let mut layout = ParamLayout::default();
        let stem = Conv::add(&mut layout, "stem", [STEM, 3, 3, 3], 2, 1);
        let mut blocks = Vec::new();
        let mut input = STEM;
        for (kernel, first_stride, expansion, output, count) in STAGES {
            for i in 0..count {
                let name = format!("blocks.{}", blocks.len());
                let wide = input * expansion;
                let stride = if i == 0 { first_stride } else { 1 };
                let mut conv = |part: &str, shape, stride, groups| {
                    Conv::add(&mut layout, &format!("{name}.{part}"), shape, stride, groups)
                };
                blocks.push(Block {
                    expand: (expansion > 1).then(|| conv("expand", [wide, input, 1, 1], 1, 1)),
                    depthwise: conv("depthwise", [wide, 1, kernel, kernel], stride, wide),
                    project: conv("project", [output, wide, 1, 1], 1, 1),
                    residual: i > 0,
                });
                input = output;
            }
        }
        let head = Conv::add(&mut layout, "head", [FEATURES, input, 1, 1], 1, 1);
        Self { layout: Arc::new(layout), stem, blocks, head }
    }

    /// Names and shapes of its parameters.
    pub fn layout(&self) -> &Arc<ParamLayout> {
        &self.layout
    }

    /// `[1, 3, h, w]`, preprocessed, to 1280 features.
    pub fn forward(&self, p: &Params, x: Tensor<4>) -> Tensor<1> {
        let x = relu6(self.stem.forward(p, x));
        let x = self.blocks.iter().fold(x, |x, block| block.forward(p, x));
        let x = relu6(self.head.forward(p, x));
        let [n, features, height, width] = x.dims();
        x.reshape([n * features, height * width]).mean_dim(1).reshape([n * features])
    }
}

#[cfg(test)]
mod tests {
    use super::same_padding;

    /// What efficientnet_lite_pytorch's layers have at 224 x 224.
    #[test]
    fn same_padding_is_tensorflows() {
        assert_eq!(same_padding(224, 3, 2), (0, 1));
        assert_eq!(same_padding(112, 3, 1), (1, 1));
        assert_eq!(same_padding(56, 5, 2), (1, 2));
        assert_eq!(same_padding(14, 5, 1), (2, 2));
        assert_eq!(same_padding(7, 3, 2), (1, 1));
    }
}
