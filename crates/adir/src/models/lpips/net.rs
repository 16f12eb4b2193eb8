//! The four trunks, as lists of steps.

use std::sync::Arc;

use adir_kernels::conv2d;
use burn::tensor::activation::relu;
use burn::tensor::module;
use burn::tensor::ops::{ConvOptions, MaxPoolOptions, PadMode};

use crate::models::blocks::Affine;
use crate::models::params::{Init, ParamId, ParamLayout, Params, Role};
use crate::tensor::{Tensor, from_f32};

/// Added to the length of features.
const EPS: f64 = 1e-10;
/// Mean and standard deviation of the channels of [-1, 1].
const MEAN: [f32; 3] = [-0.030, -0.088, -0.188];
const STD: [f32; 3] = [0.458, 0.448, 0.450];

/// A trunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trunk {
    Alex,
    Vgg,
    /// With strides taken by a blur: a shift changes little.
    ShiftTolerantAlex,
    ShiftTolerantVgg,
}

/// One step of a trunk.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// A convolution to so many channels: its slice and place in that, kernel, stride and padding.
    Conv {
        at: (usize, usize),
        channels: usize,
        kernel: usize,
        stride: usize,
        padding: usize,
    },
    Relu,
    /// The maximum of squares of that side.
    Pool {
        side: usize,
        stride: usize,
    },
    /// Every second value of the map blurred by [1, 2, 1] in both directions, mirrored at the borders.
    Blur,
    /// The map is compared here.
    Tap,
}

use Step::{Blur, Pool, Relu, Tap};

/// A convolution of kernel 3 that keeps the size.
const fn conv3(slice: usize, place: usize, channels: usize) -> Step {
    Step::Conv { at: (slice, place), channels, kernel: 3, stride: 1, padding: 1 }
}

const fn first(stride: usize) -> Step {
    Step::Conv { at: (1, 0), channels: 64, kernel: 11, stride, padding: 2 }
}

const fn second(place: usize) -> Step {
    Step::Conv { at: (2, place), channels: 192, kernel: 5, stride: 1, padding: 2 }
}

const HALVE: Step = Pool { side: 3, stride: 2 };
const SPREAD: Step = Pool { side: 3, stride: 1 };

#[rustfmt::skip]
const ALEX: &[Step] = &[
    first(4), Relu, Tap,
    HALVE, second(3), Relu, Tap,
    HALVE, conv3(3, 6, 384), Relu, Tap,
    conv3(4, 8, 256), Relu, Tap,
    conv3(5, 10, 256), Relu, Tap,
];
#[rustfmt::skip]
const SHIFT_TOLERANT_ALEX: &[Step] = &[
    first(1), Blur, Relu, Tap,
    SPREAD, Blur, second(5), Relu, Tap,
    SPREAD, Blur, conv3(3, 9, 384), Relu, Tap,
    conv3(4, 11, 256), Relu, Tap,
    conv3(5, 13, 256), Relu, Tap,
];
/// Convolutions of a slice of VGG-16, and their channels.
const VGG: [(usize, usize); 5] = [(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)];

impl Trunk {
    pub(super) const ALL: [Self; 4] = [Self::Alex, Self::Vgg, Self::ShiftTolerantAlex, Self::ShiftTolerantVgg];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Alex => "lpips_alex",
            Self::Vgg => "lpips_vgg",
            Self::ShiftTolerantAlex => "stlpips_alex",
            Self::ShiftTolerantVgg => "stlpips_vgg",
        }
    }

    /// The least side whose last map has a value, and in which borders can be mirrored.
    pub(super) fn least_side(self) -> usize {
        match self {
            Self::Alex => 31,
            Self::Vgg => 16,
            Self::ShiftTolerantAlex | Self::ShiftTolerantVgg => 24,
        }
    }

    fn steps(self) -> Vec<Step> {
        let tolerant = match self {
            Self::Alex => return ALEX.to_vec(),
            Self::ShiftTolerantAlex => return SHIFT_TOLERANT_ALEX.to_vec(),
            Self::Vgg => false,
            Self::ShiftTolerantVgg => true,
        };
        let (mut steps, mut place) = (Vec::new(), 0);
        for (slice, (convs, channels)) in (1..).zip(VGG) {
            if slice > 1 {
                steps.push(Pool { side: 2, stride: if tolerant { 1 } else { 2 } });
                steps.extend(tolerant.then_some(Blur));
                place += if tolerant { 2 } else { 1 };
            }
            for _ in 0..convs {
                steps.extend([conv3(slice, place, channels), Relu]);
                place += 2;
            }
            steps.push(Tap);
        }
        steps
    }
}

/// What is computed, without weights.
#[derive(Debug)]
pub(super) struct Net {
    trunk: Trunk,
    layout: Arc<ParamLayout>,
    /// Its steps, with the parameters of convolutions.
    steps: Vec<(Step, Option<Affine>)>,
    /// Weights of the channels of every tap.
    taps: Vec<ParamId>,
}

impl Net {
    /// Its parameters have the packages' names.
    pub(super) fn new(trunk: Trunk) -> Self {
        let mut layout = ParamLayout::default();
        let (mut channels, mut tapped) = (3, Vec::new());
        let mut with_parameters = |step: Step| {
            let parameters = match step {
                Step::Conv { at: (slice, place), channels: out, kernel, .. } => {
                    let shape = [out, std::mem::replace(&mut channels, out), kernel, kernel];
                    Some(Affine::convolution(&mut layout, &format!("net.slice{slice}.{place}"), &shape))
                }
                Tap => {
                    tapped.push(channels);
                    None
                }
                _ => None,
            };
            (step, parameters)
        };
        let steps = trunk.steps().into_iter().map(&mut with_parameters).collect();
        let of_tap = |(tap, channels): (usize, usize)| {
            let init = Init::Uniform { fan_in: channels };
            layout.add(format!("lin{tap}.model.1.weight"), &[1, channels, 1, 1], Role::Convolution, init)
        };
        let taps = tapped.into_iter().enumerate().map(of_tap).collect();
        Self { trunk, layout: Arc::new(layout), steps, taps }
    }

    pub(super) fn trunk(&self) -> Trunk {
        self.trunk
    }

    /// Names and shapes of its parameters.
    pub(super) fn layout(&self) -> &Arc<ParamLayout> {
        &self.layout
    }

    /// The maps `[1, c, h, w]` at the taps of a picture `[1, 3, h, w]` in [-1, 1], of unit length at every position.
    pub(super) fn taps(&self, p: &Params, x: Tensor<4>) -> Vec<Tensor<4>> {
        let of_channels = |values: [f32; 3]| from_f32(values.to_vec(), [1, 3, 1, 1], &x.device());
        let (mean, deviation) = (of_channels(MEAN), of_channels(STD));
        let mut x = (x - mean) / deviation;
        let mut taps = Vec::new();
        for (step, parameters) in &self.steps {
            x = match (*step, parameters) {
                (Step::Conv { stride, padding, .. }, Some(conv)) => conv.conv_padded(p, x, stride, padding),
                (Relu, _) => relu(x),
                (Pool { side, stride }, _) => {
                    module::max_pool2d(x, MaxPoolOptions::new([side; 2]).with_stride([stride; 2]))
                }
                (Blur, _) => blurred(x),
                _ => {
                    let length = x.clone().powi_scalar(2).sum_dim(1).sqrt() + EPS;
                    taps.push(x.clone() / length);
                    x
                }
            };
        }
        taps
    }

    /// The squared differences of two maps of a tap, weighed by channel: `[1, 1, h, w]`.
    pub(super) fn weighed(&self, p: &Params, tap: usize, a: Tensor<4>, b: Tensor<4>) -> Tensor<4> {
        conv2d((a - b).powi_scalar(2), p.kernel(self.taps[tap]), None, 1, 0)
    }
}

/// See [`Step::Blur`].
fn blurred(x: Tensor<4>) -> Tensor<4> {
    let [_, channels, ..] = x.dims();
    let filter = [1.0, 2.0, 1.0].map(|a| [1.0, 2.0, 1.0].map(|b| a * b / 16.0)).concat().repeat(channels);
    let filter = from_f32(filter, [channels, 1, 3, 3], &x.device());
    let options = ConvOptions::new([2; 2], [0; 2], [1; 2], channels);
    module::conv2d(x.pad((2, 2, 2, 2), PadMode::Reflect), filter, None, options)
}
