//! [`attention`] on the framework's tensors.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Dispatch, Flex, TensorMetadata};
use burn::tensor::Tensor;

use super::{KernelOps, contiguous, has_kernel, reshaped, tensor, values};
use crate::attention::{self, Shape};
use crate::{QkvOrder, reference};

/// Multi-head self-attention over a fused projection, differentiable; the score matrix is never stored.
///
/// Both query and key are scaled by `(c / heads)^(-1/4)`, as guided-diffusion does.
///
/// # Shapes
/// `qkv` `[n, 3 c, tokens]`, channels in the given order; the result is `[n, c, tokens]`.
///
/// # Panics
/// If `3 heads` does not divide the channels.
pub fn attention(qkv: Tensor<3>, heads: usize, order: QkvOrder) -> Tensor<3> {
    let [_, width, tokens] = qkv.dims();
    assert!(heads > 0 && width.is_multiple_of(3 * heads), "attention: {width} channels for {heads} heads");
    if !has_kernel(&qkv) || width == 0 || tokens == 0 {
        return reference::attention(qkv, heads, order);
    }
    Tensor::from_dispatch(<Dispatch as KernelOps>::attention_kernel(qkv.into_dispatch(), heads, order))
}

fn shape(qkv: &FlexTensor, heads: usize, order: QkvOrder) -> Shape {
    let shape = qkv.shape();
    Shape { batch: shape[0], heads, depth: shape[1] / (3 * heads), tokens: shape[2], order }
}

/// The result and the logarithms the backward pass needs; `qkv` contiguous.
pub(super) fn forward(qkv: &FlexTensor, heads: usize, order: QkvOrder) -> (FlexTensor, Vec<f32>) {
    let shape = shape(qkv, heads, order);
    let (out, logs) = attention::forward(values(qkv), shape);
    (tensor(out, [shape.batch, shape.heads * shape.depth, shape.tokens]), logs)
}

#[derive(Debug)]
struct AttentionBackward;

/// What the backward pass needs.
#[derive(Debug, Clone)]
struct State {
    qkv: FlexTensor,
    out: FlexTensor,
    logs: Vec<f32>,
    shape: Shape,
}

impl Backward<Flex, 1> for AttentionBackward {
    type State = State;

    fn backward(self, ops: Ops<State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let State { qkv, out, logs, shape } = ops.state;
        if let [Some(node)] = ops.parents {
            let gradient = attention::backward(values(&qkv), values(&out), &logs, values(&dy), shape);
            grads.register::<Flex>(node.id, reshaped(gradient, &qkv));
        }
    }
}

/// The operation with its backward pass registered.
pub(super) fn tracked<C: CheckpointStrategy>(
    qkv: FloatTensor<Autodiff<Flex, C>>,
    heads: usize,
    order: QkvOrder,
) -> FloatTensor<Autodiff<Flex, C>> {
    let (qkv, node) = qkv.into_parts();
    let qkv = contiguous(qkv);
    let (out, logs) = forward(&qkv, heads, order);
    match AttentionBackward.prepare::<C>([node]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => {
            let shape = shape(&qkv, heads, order);
            prep.finish(State { qkv, out: out.clone(), logs, shape }, out)
        }
        OpsKind::UnTracked(prep) => prep.finish(out),
    }
}
