//! [`group_norm_conv2d`] on the framework's tensors.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Dispatch, Flex};
use burn::tensor::Tensor;

use super::group_norm::{self, Inputs, Settings};
use super::{KernelOps, contiguous, conv2d, has_kernel, shape4, tensor, values};
use crate::conv::{self, Geometry, Purpose};
use crate::layout::Planes;
use crate::norm::{self, Statistics};

/// The arguments of a [`group_norm()`](super::group_norm()) besides x.
#[derive(Debug, Clone)]
pub struct GroupNorm {
    /// Groups of channels, which divide their number.
    pub groups: usize,
    /// `[c]`.
    pub gamma: Tensor<1>,
    /// `[c]`.
    pub beta: Tensor<1>,
    /// Added to the variance.
    pub eps: f64,
    /// `[n, c]` each.
    pub scale_shift: Option<(Tensor<2>, Tensor<2>)>,
    /// Whether SiLU follows.
    pub silu: bool,
}

impl GroupNorm {
    /// The normalisation of `x`, `[n, c, ...]`.
    ///
    /// # Panics
    /// As [`group_norm()`](super::group_norm()).
    pub fn apply<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        let Self { groups, gamma, beta, eps, scale_shift, silu } = self;
        super::group_norm(x, groups, gamma, beta, eps, scale_shift, silu)
    }

    fn has_kernel(&self) -> bool {
        let modulated = self.scale_shift.as_ref().is_none_or(|(scale, shift)| has_kernel(scale) && has_kernel(shift));
        has_kernel(&self.gamma) && has_kernel(&self.beta) && modulated
    }
}

/// [`conv2d()`](super::conv2d()) of the normalised `x`, which is never written down: neither as a map of its own, nor
/// for the backward pass, which normalises again. The zeros around the image are put there after the normalisation.
///
/// # Shapes
/// `x` `[n, in, h, w]`, `weight` `[out, in, k, k]`, `bias` `[out]`; the result is `[n, out, oh, ow]`.
///
/// # Panics
/// If the shapes do not go together.
pub fn group_norm_conv2d(
    x: Tensor<4>,
    norm: GroupNorm,
    weight: Tensor<4>,
    bias: Tensor<1>,
    stride: usize,
    padding: usize,
) -> Tensor<4> {
    let square = weight.dims()[2] == weight.dims()[3];
    if !(has_kernel(&x) && norm.has_kernel() && has_kernel(&weight) && has_kernel(&bias) && square) {
        return super::conv2d(norm.apply(x), weight, Some(bias), stride, padding);
    }
    let GroupNorm { groups, gamma, beta, eps, scale_shift, silu } = norm;
    let (scale, shift) = scale_shift.unwrap_or_else(|| group_norm::none(&x));
    Tensor::from_dispatch(<Dispatch as KernelOps>::group_norm_conv2d_kernel(
        x.into_dispatch(),
        gamma.into_dispatch(),
        beta.into_dispatch(),
        scale.into_dispatch(),
        shift.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        NormConv { norm: Settings { groups, eps, silu }, stride, padding },
    ))
}

/// What is not a tensor.
#[derive(Debug, Clone, Copy)]
pub struct NormConv {
    norm: Settings,
    stride: usize,
    padding: usize,
}

/// What the backward pass needs.
#[derive(Debug, Clone)]
pub(super) struct State {
    inputs: Inputs,
    statistics: Statistics,
    weight: FlexTensor,
    geometry: Geometry,
}

/// The result and what the backward pass needs; x, gamma, beta, scale, shift, weight, bias.
pub(super) fn forward(tensors: [FlexTensor; 7], settings: NormConv) -> (FlexTensor, State) {
    let [x, gamma, beta, scale, shift, weight, bias] = tensors;
    let inputs = Inputs::new([x, gamma, beta, scale, shift], settings.norm);
    let (weight, bias) = (contiguous(weight), contiguous(bias));
    let geometry = Geometry::new(shape4(inputs.x()), shape4(&weight), settings.stride, settings.padding);
    let (params, shape) = (inputs.params(), inputs.shape());
    let statistics = norm::statistics(values(inputs.x()), &params, shape);
    let modulation = norm::modulation(&params, &statistics, shape);
    let planes = Planes { numbers: values(inputs.x()), modulation: Some(&modulation) };
    let (packed, method) = conv2d::packed(&weight, &geometry, Purpose::Forward);
    let out = conv::forward(planes, &packed, Some(values(&bias)), &geometry, method);
    (tensor(out, geometry.out_shape()), State { inputs, statistics, weight, geometry })
}

#[derive(Debug)]
struct NormConvBackward;

impl Backward<Flex, 7> for NormConvBackward {
    type State = State;

    fn backward(self, ops: Ops<State, 7>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let State { inputs, statistics, weight, geometry: g } = ops.state;
        let [x, gamma, beta, scale, shift, weight_node, bias_node] = ops.parents;
        if let Some(node) = weight_node {
            let modulation = norm::modulation(&inputs.params(), &statistics, inputs.shape());
            let planes = Planes { numbers: values(inputs.x()), modulation: Some(&modulation) };
            let gradient = conv::weight_gradient(planes, values(&dy), &g);
            grads.register::<Flex>(node.id, tensor(gradient, shape4(&weight)));
        }
        if let Some(node) = bias_node {
            grads.register::<Flex>(node.id, tensor(conv::bias_gradient(values(&dy), &g), [g.outputs]));
        }
        let parents = [x, gamma, beta, scale, shift];
        if parents.iter().any(Option::is_some) {
            let (packed, method) = conv2d::packed(&weight, &g, Purpose::InputGradient);
            let normal = conv::input_gradient(values(&dy), &packed, &g, method);
            for (parent, gradient) in parents.into_iter().zip(inputs.gradients(&normal, &statistics)) {
                if let Some(node) = parent {
                    grads.register::<Flex>(node.id, gradient);
                }
            }
        }
    }
}

/// The operation with its backward pass registered.
pub(super) fn tracked<C: CheckpointStrategy>(
    tensors: [FloatTensor<Autodiff<Flex, C>>; 7],
    settings: NormConv,
) -> FloatTensor<Autodiff<Flex, C>> {
    let nodes = tensors.each_ref().map(|tensor| tensor.node());
    let (out, state) = forward(tensors.map(|tensor| tensor.into_parts().0), settings);
    match NormConvBackward.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish(state, out),
        OpsKind::UnTracked(prep) => prep.finish(out),
    }
}
