//! The network: a stem, sixteen inverted residual blocks, a head, and the mean over positions
//! (Tan and Le, arXiv 1905.11946, Table 1, without squeeze-and-excitation and with ReLU6).
//!
//! Batch normalisation is already folded into the stored convolutions. Padding is TensorFlow's SAME: where
//! it is odd, the extra zero goes below and to the right.

use adir_kernels::conv2d;
use burn::tensor::module;
use burn::tensor::ops::ConvOptions;

use crate::Result;
use crate::io::weights::WeightFile;
use crate::models::load::tensor;
use crate::tensor::{Device, Tensor};

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
    weight: Tensor<4>,
    bias: Tensor<1>,
    stride: usize,
    groups: usize,
}

impl Conv {
    /// `shape` is `[out, in per group, k, k]`.
    fn load(
        file: &WeightFile,
        name: &str,
        shape: [usize; 4],
        stride: usize,
        groups: usize,
        device: &Device,
    ) -> Result<Self> {
        let weight = tensor(file, &format!("{name}.weight"), shape, device)?;
        let bias = tensor(file, &format!("{name}.bias"), [shape[0]], device)?;
        Ok(Self { weight, bias, stride, groups })
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, kernel, _] = self.weight.dims();
        let (weight, bias) = (self.weight.clone(), Some(self.bias.clone()));
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
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let wide = match &self.expand {
            Some(expand) => relu6(expand.forward(x.clone())),
            None => x.clone(),
        };
        let out = self.project.forward(relu6(self.depthwise.forward(wide)));
        if self.residual { out + x } else { out }
    }
}

fn relu6(x: Tensor<4>) -> Tensor<4> {
    x.clamp(0.0, 6.0)
}

/// EfficientNet-Lite0 up to the classifier.
#[derive(Debug)]
pub(super) struct Net {
    stem: Conv,
    blocks: Vec<Block>,
    head: Conv,
}

impl Net {
    /// Reads `stem`, `blocks.N.{expand,depthwise,project}` and `head`, each with `.weight` and `.bias`.
    pub fn load(file: &WeightFile, device: &Device) -> Result<Self> {
        let stem = Conv::load(file, "stem", [STEM, 3, 3, 3], 2, 1, device)?;
        let mut blocks = Vec::new();
        let mut input = STEM;
        for (kernel, first_stride, expansion, output, count) in STAGES {
            for i in 0..count {
                let name = format!("blocks.{}", blocks.len());
                let wide = input * expansion;
                let stride = if i == 0 { first_stride } else { 1 };
                let conv = |part: &str, shape, stride, groups| {
                    Conv::load(file, &format!("{name}.{part}"), shape, stride, groups, device)
                };
                blocks.push(Block {
                    expand: if expansion == 1 { None } else { Some(conv("expand", [wide, input, 1, 1], 1, 1)?) },
                    depthwise: conv("depthwise", [wide, 1, kernel, kernel], stride, wide)?,
                    project: conv("project", [output, wide, 1, 1], 1, 1)?,
                    residual: i > 0,
                });
                input = output;
            }
        }
        let head = Conv::load(file, "head", [FEATURES, input, 1, 1], 1, 1, device)?;
        Ok(Self { stem, blocks, head })
    }

    /// `[1, 3, h, w]`, preprocessed, to 1280 features.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<1> {
        let x = relu6(self.stem.forward(x));
        let x = self.blocks.iter().fold(x, |x, block| block.forward(x));
        let x = relu6(self.head.forward(x));
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
