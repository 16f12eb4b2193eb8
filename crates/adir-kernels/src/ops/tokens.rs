//! [`layer_norm`] and [`geglu`] on the framework's tensors.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Dispatch, Flex, TensorMetadata};
use burn::tensor::Tensor;

use super::{KernelOps, contiguous, has_kernel, reshaped, tensor, values};
use crate::reference;
use crate::tokens::{self, Moments, Shape};

/// Layer normalisation over the channels of every token, differentiable.
///
/// # Shapes
/// `x` `[n, c, tokens]`, `gamma` and `beta` `[c]`; the result has the shape of x. The variance is the biased one.
///
/// # Panics
/// If gamma or beta have another length.
pub fn layer_norm(x: Tensor<3>, gamma: Tensor<1>, beta: Tensor<1>, eps: f64) -> Tensor<3> {
    let c = x.dims()[1];
    assert_eq!((gamma.dims(), beta.dims()), ([c], [c]), "layer norm: factors and offsets of {c} channels");
    if !(has_kernel(&x) && has_kernel(&gamma) && has_kernel(&beta)) || x.shape().num_elements() == 0 {
        return reference::layer_norm(x, gamma, beta, eps);
    }
    let (gamma, beta) = (gamma.into_dispatch(), beta.into_dispatch());
    Tensor::from_dispatch(<Dispatch as KernelOps>::layer_norm_kernel(x.into_dispatch(), gamma, beta, eps))
}

/// The gated linear unit with exact GELU, differentiable: the first half of the channels times `gelu` of the second
/// (Shazeer, arXiv 2002.05202).
///
/// # Shapes
/// `[n, 2 c, tokens]` to `[n, c, tokens]`.
///
/// # Panics
/// If the channels are odd in number.
pub fn geglu(x: Tensor<3>) -> Tensor<3> {
    let width = x.dims()[1];
    assert!(width.is_multiple_of(2), "a gated unit of {width} channels");
    if !has_kernel(&x) || x.shape().num_elements() == 0 {
        return reference::geglu(x);
    }
    Tensor::from_dispatch(<Dispatch as KernelOps>::geglu_kernel(x.into_dispatch()))
}

fn shape_of(x: &FlexTensor) -> Shape {
    let sides = x.shape();
    Shape { batch: sides[0], channels: sides[1], tokens: sides[2] }
}

fn gated_shape(x: &FlexTensor) -> Shape {
    let shape = shape_of(x);
    Shape { channels: shape.channels / 2, ..shape }
}

/// See [`layer_norm`]; contiguous x, gamma and beta.
pub(super) fn normalise([x, gamma, beta]: &[FlexTensor; 3], eps: f64) -> (FlexTensor, Moments) {
    let (out, moments) = tokens::layer_norm(values(x), values(gamma), values(beta), eps, shape_of(x));
    (reshaped(out, x), moments)
}

/// See [`geglu`]; contiguous.
pub(super) fn gate(x: &FlexTensor) -> FlexTensor {
    let shape = gated_shape(x);
    tensor(tokens::geglu(values(x), shape), [shape.batch, shape.channels, shape.tokens])
}

#[derive(Debug)]
struct NormBackward;

impl Backward<Flex, 3> for NormBackward {
    /// x, gamma, and the moments.
    type State = (FlexTensor, FlexTensor, Moments);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let (x, gamma, moments) = ops.state;
        let [of_x, of_gamma, of_beta] = ops.parents;
        let affine = of_gamma.is_some() || of_beta.is_some();
        let (dx, affine) =
            tokens::layer_norm_backward(values(&x), values(&gamma), &moments, values(&dy), shape_of(&x), affine);
        if let Some(node) = of_x {
            grads.register::<Flex>(node.id, reshaped(dx, &x));
        }
        let affine = affine.map_or([None, None], |found| found.map(Some));
        for (node, gradient) in [of_gamma, of_beta].into_iter().zip(affine) {
            if let (Some(node), Some(gradient)) = (node, gradient) {
                grads.register::<Flex>(node.id, reshaped(gradient, &gamma));
            }
        }
    }
}

/// [`layer_norm`] with its backward pass registered.
pub(super) fn norm_tracked<C: CheckpointStrategy>(
    [x, gamma, beta]: [FloatTensor<Autodiff<Flex, C>>; 3],
    eps: f64,
) -> FloatTensor<Autodiff<Flex, C>> {
    let ((x, x_node), (gamma, gamma_node), (beta, beta_node)) = (x.into_parts(), gamma.into_parts(), beta.into_parts());
    let tensors = [x, gamma, beta].map(contiguous);
    let (out, moments) = normalise(&tensors, eps);
    let [x, gamma, _] = tensors;
    match NormBackward.prepare::<C>([x_node, gamma_node, beta_node]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish((x, gamma, moments), out),
        OpsKind::UnTracked(prep) => prep.finish(out),
    }
}

#[derive(Debug)]
struct GateBackward;

impl Backward<Flex, 1> for GateBackward {
    type State = FlexTensor;

    fn backward(self, ops: Ops<FlexTensor, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        if let [Some(node)] = ops.parents {
            let x = ops.state;
            let gradient = tokens::geglu_backward(values(&x), values(&dy), gated_shape(&x));
            grads.register::<Flex>(node.id, reshaped(gradient, &x));
        }
    }
}

/// [`geglu`] with its backward pass registered.
pub(super) fn gate_tracked<C: CheckpointStrategy>(x: FloatTensor<Autodiff<Flex, C>>) -> FloatTensor<Autodiff<Flex, C>> {
    let (x, node) = x.into_parts();
    let x = contiguous(x);
    let out = gate(&x);
    match GateBackward.prepare::<C>([node]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish(x, out),
        OpsKind::UnTracked(prep) => prep.finish(out),
    }
}
