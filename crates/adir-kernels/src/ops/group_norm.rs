//! [`group_norm`] on the framework's tensors.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Dispatch, Flex, TensorMetadata};
use burn::tensor::Tensor;

use super::{KernelOps, contiguous, has_kernel, reshaped, values};
use crate::layout::Modulation;
use crate::norm::{self, Params, Shape, Statistics};
use crate::reference;

/// Group normalisation, then optionally `h (1 + scale) + shift`, then optionally SiLU; differentiable.
///
/// The variance is the biased one, over the channels of a group and all positions.
///
/// # Shapes
/// `x` `[n, c, ...]`, `gamma` and `beta` `[c]`, scale and shift `[n, c]` each.
///
/// # Panics
/// If the shapes do not go together or `groups` does not divide the channels.
pub fn group_norm<const D: usize>(
    x: Tensor<D>,
    groups: usize,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    eps: f64,
    scale_shift: Option<(Tensor<2>, Tensor<2>)>,
    silu: bool,
) -> Tensor<D> {
    GroupNorm { groups, gamma, beta, eps, scale_shift, silu }.apply(x)
}

/// The arguments of a [`group_norm()`] besides x.
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
    /// As [`group_norm()`].
    pub fn apply<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        if !self.has_kernel(&x) {
            let Self { groups, gamma, beta, eps, scale_shift, silu } = self;
            return reference::group_norm(x, groups, gamma, beta, eps, scale_shift, silu);
        }
        let ([gamma, beta], [scale, shift], settings) = self.into_parts(&x);
        Tensor::from_dispatch(<Dispatch as KernelOps>::group_norm_kernel(
            x.into_dispatch(),
            gamma.into_dispatch(),
            beta.into_dispatch(),
            scale.into_dispatch(),
            shift.into_dispatch(),
            settings,
        ))
    }

    /// Whether all tensors' operations run on our kernels.
    pub(super) fn has_kernel<const D: usize>(&self, x: &Tensor<D>) -> bool {
        let for_rest = self.scale_shift.as_ref().is_none_or(|(scale, shift)| has_kernel(scale) && has_kernel(shift));
        has_kernel(x) && has_kernel(&self.gamma) && has_kernel(&self.beta) && for_rest
    }

    /// Gamma and beta, scale and shift (zeros where there are none), and the rest.
    pub(super) fn into_parts<const D: usize>(self, x: &Tensor<D>) -> ([Tensor<1>; 2], [Tensor<2>; 2], Settings) {
        let Self { groups, gamma, beta, eps, scale_shift, silu } = self;
        let (scale, shift) = scale_shift.unwrap_or_else(|| {
            let zeros = Tensor::zeros([x.dims()[0], x.dims()[1]], &x.device());
            (zeros.clone(), zeros)
        });
        ([gamma, beta], [scale, shift], Settings { groups, eps, silu })
    }
}

/// What is not a tensor.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    groups: usize,
    eps: f64,
    silu: bool,
}

/// The operation's arguments, contiguous.
#[derive(Debug, Clone)]
pub(super) struct Inputs {
    x: FlexTensor,
    gamma: FlexTensor,
    beta: FlexTensor,
    scale: FlexTensor,
    shift: FlexTensor,
    settings: Settings,
}

impl Inputs {
    pub(super) fn new(tensors: [FlexTensor; 5], settings: Settings) -> Inputs {
        let [x, gamma, beta, scale, shift] = tensors.map(contiguous);
        Inputs { x, gamma, beta, scale, shift, settings }
    }

    /// The first of them.
    pub(super) fn x(&self) -> &FlexTensor {
        &self.x
    }

    fn params(&self) -> Params<'_> {
        Params {
            gamma: values(&self.gamma),
            beta: values(&self.beta),
            scale: values(&self.scale),
            shift: values(&self.shift),
            eps: self.settings.eps,
            silu: self.settings.silu,
        }
    }

    fn shape(&self) -> Shape {
        let shape = self.x.shape();
        let (batch, channels) = (shape[0], shape[1]);
        let positions = shape.num_elements() / (batch * channels).max(1);
        Shape { batch, channels, positions, groups: self.settings.groups }
    }

    /// What a convolution of the normalised x needs of it before [`Inputs::modulation`].
    pub(super) fn statistics(&self) -> Statistics {
        norm::statistics(values(&self.x), &self.params(), self.shape())
    }

    /// The normalisation as what is done to every number.
    pub(super) fn modulation(&self, statistics: &Statistics) -> Modulation {
        norm::modulation(&self.params(), statistics, self.shape())
    }

    /// The gradient of each from that of the result.
    pub(super) fn gradients(&self, dy: &[f32], statistics: &Statistics) -> [FlexTensor; 5] {
        let found = norm::backward(values(&self.x), dy, &self.params(), statistics, self.shape());
        [
            reshaped(found.x, &self.x),
            reshaped(found.gamma, &self.gamma),
            reshaped(found.beta, &self.beta),
            reshaped(found.scale, &self.scale),
            reshaped(found.shift, &self.shift),
        ]
    }
}

/// The result and what the backward pass needs of it.
pub(super) fn forward(inputs: &Inputs) -> (FlexTensor, Statistics) {
    let (out, statistics) = norm::forward(values(&inputs.x), &inputs.params(), inputs.shape());
    (reshaped(out, &inputs.x), statistics)
}

#[derive(Debug)]
struct GroupNormBackward;

impl Backward<Flex, 5> for GroupNormBackward {
    type State = (Inputs, Statistics);

    fn backward(self, ops: Ops<Self::State, 5>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let (inputs, statistics) = ops.state;
        for (parent, gradient) in ops.parents.into_iter().zip(inputs.gradients(values(&dy), &statistics)) {
            if let Some(node) = parent {
                grads.register::<Flex>(node.id, gradient);
            }
        }
    }
}

/// The operation with its backward pass registered.
pub(super) fn tracked<C: CheckpointStrategy>(
    tensors: [FloatTensor<Autodiff<Flex, C>>; 5],
    settings: Settings,
) -> FloatTensor<Autodiff<Flex, C>> {
    let nodes = tensors.each_ref().map(|tensor| tensor.node());
    let inputs = Inputs::new(tensors.map(|tensor| tensor.into_parts().0), settings);
    let (out, statistics) = forward(&inputs);
    match GroupNormBackward.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish((inputs, statistics), out),
        OpsKind::UnTracked(prep) => prep.finish(out),
    }
}
