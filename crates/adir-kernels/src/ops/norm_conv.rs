//! [`group_norm_conv2d`] on the framework's tensors.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Dispatch, Flex};
use burn::tensor::Tensor;

use super::conv2d::{self, Convolution, Kernel};
use super::group_norm::{GroupNorm, Inputs, Settings};
use super::{KernelOps, LowRank, contiguous, has_kernel, has_kernel_as_weight, values};
use crate::layout::Planes;
use crate::norm::Statistics;

/// [`conv2d()`](super::conv2d()) of the normalised `x`, which is never written down: neither as a map of its own, nor
/// for the backward pass, which normalises again. The zeros around the image are put there after the normalisation.
///
/// # Shapes
/// `x` `[n, in, h, w]`, `kernel` `[out, in, k, k]`, `bias` `[out]`; the result is `[n, out, oh, ow]`.
///
/// # Panics
/// If the shapes do not go together.
pub fn group_norm_conv2d(
    x: Tensor<4>,
    norm: GroupNorm,
    kernel: impl Into<Kernel>,
    bias: Tensor<1>,
    stride: usize,
    padding: usize,
) -> Tensor<4> {
    let kernel = kernel.into();
    let weight = &kernel.weight;
    let square = weight.dims()[2] == weight.dims()[3];
    let of_factors = kernel.low_rank.as_ref().is_none_or(|factors| has_kernel(&factors.a) && has_kernel(&factors.b));
    if !(norm.has_kernel(&x) && has_kernel_as_weight(weight) && has_kernel(&bias) && of_factors && square) {
        return super::conv2d(norm.apply(x), kernel, Some(bias), stride, padding);
    }
    let ([gamma, beta], [scale, shift], norm) = norm.into_parts(&x);
    let Kernel { weight, bf16_products, low_rank } = kernel;
    let settings = NormConv { norm, convolution: conv2d::Settings { stride, padding, bf16_products } };
    let (x, weight, bias) = (x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
    let (gamma, beta) = (gamma.into_dispatch(), beta.into_dispatch());
    let (scale, shift) = (scale.into_dispatch(), shift.into_dispatch());
    Tensor::from_dispatch(match low_rank {
        None => <Dispatch as KernelOps>::group_norm_conv2d_kernel(x, gamma, beta, scale, shift, weight, bias, settings),
        Some(LowRank { a, b, scale: factor }) => {
            let (a, b) = (a.into_dispatch(), b.into_dispatch());
            <Dispatch as KernelOps>::low_rank_group_norm_conv2d_kernel(
                x, gamma, beta, scale, shift, weight, bias, a, b, factor, settings,
            )
        }
    })
}

/// What is not a tensor.
#[derive(Debug, Clone, Copy)]
pub struct NormConv {
    norm: Settings,
    pub(super) convolution: conv2d::Settings,
}

/// What the backward pass needs.
#[derive(Debug, Clone)]
pub(super) struct State {
    inputs: Inputs,
    statistics: Statistics,
    convolution: Convolution,
}

impl State {
    /// What `with` makes of x, normalised on the way in.
    pub(super) fn with_planes<T>(&self, with: impl FnOnce(Planes<'_>) -> T) -> T {
        let modulation = self.inputs.modulation(&self.statistics);
        with(Planes { numbers: values(self.inputs.x()), modulation: Some(&modulation) })
    }

    pub(super) fn x(&self) -> &FlexTensor {
        self.inputs.x()
    }

    pub(super) fn convolution(&self) -> &Convolution {
        &self.convolution
    }

    /// Gradients of x, gamma, beta, scale and shift from that of the normalised image.
    pub(super) fn gradients(&self, normal: &[f32]) -> [FlexTensor; 5] {
        self.inputs.gradients(normal, &self.statistics)
    }
}

/// The result and what the backward pass needs; x, gamma, beta, scale, shift, weight, bias.
pub(super) fn forward(tensors: [FlexTensor; 7], settings: NormConv, differentiated: bool) -> (FlexTensor, State) {
    let [x, gamma, beta, scale, shift, weight, bias] = tensors;
    let inputs = Inputs::new([x, gamma, beta, scale, shift], settings.norm);
    let convolution = Convolution::new(inputs.x(), weight, settings.convolution);
    let state = State { statistics: inputs.statistics(), inputs, convolution };
    (state.with_planes(|planes| state.convolution.forward(planes, bias, differentiated)), state)
}

#[derive(Debug)]
struct NormConvBackward;

impl Backward<Flex, 7> for NormConvBackward {
    type State = State;

    fn backward(self, ops: Ops<State, 7>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let state = ops.state;
        let [x, gamma, beta, scale, shift, weight, bias] = ops.parents;
        if let Some(node) = weight {
            let gradient = state.with_planes(|planes| state.convolution.weight_gradient(planes, &dy));
            grads.register::<Flex>(node.id, gradient);
        }
        if let Some(node) = bias {
            grads.register::<Flex>(node.id, state.convolution.bias_gradient(&dy));
        }
        let parents = [x, gamma, beta, scale, shift];
        if parents.iter().any(Option::is_some) {
            let normal = state.convolution.input_gradient(&dy);
            for (parent, gradient) in parents.into_iter().zip(state.gradients(&normal)) {
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
    let (out, state) = forward(tensors.map(|tensor| tensor.into_parts().0), settings, true);
    match NormConvBackward.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish(state, out),
        OpsKind::UnTracked(prep) => prep.finish(out),
    }
}
