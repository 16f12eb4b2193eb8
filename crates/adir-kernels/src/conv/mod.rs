//! Two-dimensional convolution and its gradients, on plain slices.
//!
//! Every pass is a product of matrices that is never written down: the left rows are pixels of a channels-last
//! copy of the image, where a kernel tap is an offset, so nothing is gathered; the right side is the weights,
//! packed once. The input gradient of a strided convolution splits into `stride^2` dense convolutions, one for
//! each position modulo the stride, instead of one over an image with zeros in between.

mod bands;
mod direct;
mod low_rank;
mod pack;
mod winograd;

use rayon::prelude::*;

use crate::layout::{ChannelsLast, Padding, Planes};
use crate::norm::Sum;
use crate::numbers::Numbers;
use crate::simd::dispatch;

pub(crate) use low_rank::{Factors, LowRankGradients, backward_low_rank};
pub(crate) use pack::{Packed, Purpose};

/// The shapes of one convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub batch: usize,
    pub inputs: usize,
    pub outputs: usize,
    pub height: usize,
    pub width: usize,
    pub kernel: usize,
    pub stride: usize,
    pub padding: usize,
}

impl Geometry {
    /// From the shapes of image and weight.
    ///
    /// # Panics
    /// If they do not go together or the kernel is larger than the padded image: a mistake in the program, like
    /// a matrix product of wrong shapes.
    pub(crate) fn new(x: [usize; 4], weight: [usize; 4], stride: usize, padding: usize) -> Geometry {
        let [batch, inputs, height, width] = x;
        let [outputs, weight_inputs, kernel, kernel_width] = weight;
        assert_eq!(inputs, weight_inputs, "conv2d: an image {x:?} has other channels than the weight {weight:?}");
        assert_eq!(kernel, kernel_width, "conv2d: the kernel of the weight {weight:?} is not square");
        assert!(stride > 0 && kernel > 0, "conv2d: stride {stride} and kernel {kernel} must be positive");
        let least = height.min(width) + 2 * padding;
        assert!(least >= kernel, "conv2d: kernel {kernel} is larger than the padded image {x:?} + 2 x {padding}");
        Geometry { batch, inputs, outputs, height, width, kernel, stride, padding }
    }

    pub(crate) fn out_height(&self) -> usize {
        (self.height + 2 * self.padding - self.kernel) / self.stride + 1
    }

    pub(crate) fn out_width(&self) -> usize {
        (self.width + 2 * self.padding - self.kernel) / self.stride + 1
    }

    pub(crate) fn in_shape(&self) -> [usize; 4] {
        [self.batch, self.inputs, self.height, self.width]
    }

    pub(crate) fn out_shape(&self) -> [usize; 4] {
        [self.batch, self.outputs, self.out_height(), self.out_width()]
    }

    fn taps(&self) -> usize {
        self.kernel * self.kernel
    }
}

/// Which algorithm computes a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Algorithm {
    Direct,
    Winograd,
}

impl Algorithm {
    fn of(g: &Geometry) -> Algorithm {
        if winograd::applies(g) { Algorithm::Winograd } else { Algorithm::Direct }
    }
}

/// How a convolution is computed; weights are packed for one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Method {
    algorithm: Algorithm,
    bf16: bool,
}

impl Method {
    /// For that geometry, with products in bfloat16 where `bf16_products` are asked for and the method has them.
    pub(crate) fn new(g: &Geometry, bf16_products: bool) -> Method {
        let algorithm = Algorithm::of(g);
        let even = g.inputs.is_multiple_of(2) && g.outputs.is_multiple_of(2);
        Method { algorithm, bf16: bf16_products && algorithm == Algorithm::Direct && even }
    }
}

/// Packs a weight `[out, in, k, k]`.
pub(crate) fn pack<'a>(weight: impl Into<Numbers<'a>>, g: &Geometry, purpose: Purpose, method: Method) -> Packed {
    let weight = weight.into();
    let packed = match method.algorithm {
        Algorithm::Direct => pack::pack(weight, g, purpose),
        Algorithm::Winograd => winograd::pack(weight, g, purpose),
    };
    if method.bf16 { packed.paired() } else { packed }
}

/// `[n, out, oh, ow]` from `[n, in, h, w]` and weights packed for [`Purpose::Forward`] and this method.
pub(crate) fn forward(x: Planes<'_>, weight: &Packed, bias: Option<&[f32]>, g: &Geometry, method: Method) -> Vec<f32> {
    match bands::rows(g) {
        Some(rows) => bands::forward(x, weight, bias, g, method, rows),
        None => whole(x, weight, bias, g, method),
    }
}

/// [`forward`] of the whole image at once.
fn whole(x: Planes<'_>, weight: &Packed, bias: Option<&[f32]>, g: &Geometry, method: Method) -> Vec<f32> {
    match method.algorithm {
        Algorithm::Direct => direct::forward(x, weight, bias, g),
        Algorithm::Winograd => winograd::convolve(x, g.in_shape(), weight, bias, g.padding),
    }
}

/// The gradient with respect to the image from that of the result, with weights packed for
/// [`Purpose::InputGradient`] and this method.
pub(crate) fn input_gradient(dy: &[f32], weight: &Packed, g: &Geometry, method: Method) -> Vec<f32> {
    match method.algorithm {
        Algorithm::Direct => direct::input_gradient(dy, weight, g),
        Algorithm::Winograd => winograd::convolve(dy.into(), g.out_shape(), weight, None, 2 - g.padding),
    }
}

/// The gradient with respect to the weight, `[out, in, k, k]`.
pub(crate) fn weight_gradient(x: Planes<'_>, dy: &[f32], g: &Geometry) -> Vec<f32> {
    match Algorithm::of(g) {
        Algorithm::Direct => {
            let source = ChannelsLast::from_planes(x, g.in_shape(), Padding::same(g.padding));
            let dy = ChannelsLast::from_planes(dy, g.out_shape(), Padding::default());
            direct::weight_gradient(&source, &dy, g)
        }
        Algorithm::Winograd => winograd::weight_gradient(x, dy, g),
    }
}

/// The gradient with respect to the bias: sums over batch and positions, in f64.
pub(crate) fn bias_gradient(dy: &[f32], g: &Geometry) -> Vec<f32> {
    let positions = g.out_height() * g.out_width();
    let sum = |channel: usize| -> f64 {
        let plane = |image: usize| &dy[(image * g.outputs + channel) * positions..][..positions];
        (0..g.batch).map(|image| dispatch(Sum(plane(image)))).sum()
    };
    (0..g.outputs).into_par_iter().map(|channel| sum(channel) as f32).collect()
}
