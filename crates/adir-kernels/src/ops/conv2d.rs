//! [`conv2d`] on the framework's tensors.

use std::sync::Arc;

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Dispatch, Flex};
use burn::tensor::Tensor;

use super::{KernelOps, contiguous, has_kernel, pack_cache, shape4, tensor, values};
use crate::conv::{self, Geometry, Method, Packed, Purpose};
use crate::reference;

/// 2-d convolution with square kernels (cross-correlation), differentiable.
///
/// `padding` zeros on every side; output side `(h + 2 padding - k) / stride + 1`, rounded down. Packed weights
/// are kept for the next call while the weight tensor lives.
///
/// # Shapes
/// `x` `[n, in, h, w]`, `weight` `[out, in, k, k]`, `bias` `[out]`; the result is `[n, out, oh, ow]`.
///
/// # Panics
/// If the shapes do not go together.
pub fn conv2d(x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>, stride: usize, padding: usize) -> Tensor<4> {
    let square = weight.dims()[2] == weight.dims()[3];
    if !(has_kernel(&x) && has_kernel(&weight) && bias.as_ref().is_none_or(has_kernel) && square) {
        return reference::conv2d(x, weight, bias, stride, padding);
    }
    let bias = bias.unwrap_or_else(|| Tensor::zeros([weight.dims()[0]], &x.device()));
    let (x, weight, bias) = (x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(<Dispatch as KernelOps>::conv2d_kernel(x, weight, bias, stride, padding))
}

/// Weights packed for `purpose` and the method they are packed for. Kept even while they are trained: a batch
/// may be computed in parts, all with the same weights.
pub(super) fn packed(weight: &FlexTensor, g: &Geometry, purpose: Purpose) -> (Arc<Packed>, Method) {
    let method = Method::of(g);
    let pack = || conv::pack(values(weight), g, purpose, method);
    (pack_cache::get(weight, (purpose, method), pack), method)
}

/// All tensors contiguous.
pub(super) fn forward(
    x: &FlexTensor,
    weight: &FlexTensor,
    bias: &FlexTensor,
    stride: usize,
    padding: usize,
) -> FlexTensor {
    let g = Geometry::new(shape4(x), shape4(weight), stride, padding);
    let (packed, method) = packed(weight, &g, Purpose::Forward);
    tensor(conv::forward(values(x).into(), &packed, Some(values(bias)), &g, method), g.out_shape())
}

#[derive(Debug)]
struct Conv2dBackward;

/// What the backward pass needs.
#[derive(Debug, Clone)]
struct State {
    x: FlexTensor,
    weight: FlexTensor,
    geometry: Geometry,
}

impl Backward<Flex, 3> for Conv2dBackward {
    type State = State;

    fn backward(self, ops: Ops<State, 3>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let [x, weight, bias] = ops.parents;
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let State { x: x_values, weight: weight_values, geometry: g } = ops.state;
        let mut register = |id: NodeId, gradient| grads.register::<Flex>(id, gradient);
        if let Some(node) = x {
            let (packed, method) = packed(&weight_values, &g, Purpose::InputGradient);
            register(node.id, tensor(conv::input_gradient(values(&dy), &packed, &g, method), g.in_shape()));
        }
        if let Some(node) = weight {
            let gradient = conv::weight_gradient(values(&x_values).into(), values(&dy), &g);
            register(node.id, tensor(gradient, shape4(&weight_values)));
        }
        if let Some(node) = bias {
            register(node.id, tensor(conv::bias_gradient(values(&dy), &g), [g.outputs]));
        }
    }
}

/// The operation with its backward pass registered.
pub(super) fn tracked<C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<Flex, C>>,
    weight: FloatTensor<Autodiff<Flex, C>>,
    bias: FloatTensor<Autodiff<Flex, C>>,
    stride: usize,
    padding: usize,
) -> FloatTensor<Autodiff<Flex, C>> {
    let ((x, x_node), (weight, weight_node), (bias, bias_node)) =
        (x.into_parts(), weight.into_parts(), bias.into_parts());
    let (x, weight, bias) = (contiguous(x), contiguous(weight), contiguous(bias));
    let out = forward(&x, &weight, &bias, stride, padding);
    match Conv2dBackward.prepare::<C>([x_node, weight_node, bias_node]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => {
            let geometry = Geometry::new(shape4(&x), shape4(&weight), stride, padding);
            prep.finish(State { x, weight, geometry }, out)
        }
        OpsKind::UnTracked(prep) => prep.finish(out),
    }
}
