//! [`attention`] and [`cross_attention`] on the framework's tensors.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Dispatch, Flex, TensorMetadata};
use burn::tensor::Tensor;

use super::{KernelOps, contiguous, has_kernel, reshaped, tensor, values};
use crate::attention::{self, Qkv, Shape};
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

/// Multi-head attention of queries to keys and values that were projected apart, differentiable; the score matrix is never
/// stored.
///
/// # Shapes
/// `q` `[n, c, queries]`, `k` and `v` `[n, c, keys]`; the result is `[n, c, queries]`.
///
/// # Panics
/// If `heads` does not divide the channels, or the shapes do not fit.
pub fn cross_attention(q: Tensor<3>, k: Tensor<3>, v: Tensor<3>, heads: usize) -> Tensor<3> {
    let ([n, width, queries], [_, _, keys]) = (q.dims(), k.dims());
    assert!(heads > 0 && width.is_multiple_of(heads), "attention: {width} channels for {heads} heads");
    assert_eq!((k.dims(), v.dims()), ([n, width, keys], [n, width, keys]), "attention: keys and values");
    if !(has_kernel(&q) && has_kernel(&k) && has_kernel(&v)) || n * width * queries * keys == 0 {
        return reference::cross_attention(q, k, v, heads);
    }
    let [q, k, v] = [q, k, v].map(Tensor::into_dispatch);
    Tensor::from_dispatch(<Dispatch as KernelOps>::cross_attention_kernel(q, k, v, heads))
}

/// How one or three tensors hold queries, keys and values.
#[derive(Debug, Clone, Copy)]
pub(super) struct Settings {
    heads: usize,
    /// Of one tensor.
    order: QkvOrder,
}

impl Settings {
    pub(super) fn fused(heads: usize, order: QkvOrder) -> Self {
        Self { heads, order }
    }

    pub(super) fn apart(heads: usize) -> Self {
        Self { heads, order: QkvOrder::QkvFirst }
    }

    fn shape(self, tensors: &[FlexTensor]) -> Shape {
        let sides = tensors[0].shape();
        let channels = if tensors.len() == 1 { sides[1] / 3 } else { sides[1] };
        let keys = tensors[tensors.len() - 1].shape()[2];
        Shape { batch: sides[0], heads: self.heads, depth: channels / self.heads, queries: sides[2], keys }
    }

    fn qkv(self, tensors: &[FlexTensor]) -> Qkv<'_> {
        match tensors {
            [q, k, v] => Qkv::Apart([q, k, v].map(values)),
            fused => Qkv::Fused(values(&fused[0]), self.order),
        }
    }
}

/// The result and the logarithms the backward pass needs; the tensors contiguous.
pub(super) fn forward(tensors: &[FlexTensor], settings: Settings) -> (FlexTensor, Vec<f32>) {
    let shape = settings.shape(tensors);
    let (out, logs) = attention::forward(settings.qkv(tensors), shape);
    (tensor(out, [shape.batch, shape.heads * shape.depth, shape.queries]), logs)
}

#[derive(Debug)]
struct AttentionBackward;

/// What the backward pass needs.
#[derive(Debug, Clone)]
struct State {
    tensors: Vec<FlexTensor>,
    out: FlexTensor,
    logs: Vec<f32>,
    settings: Settings,
}

impl<const N: usize> Backward<Flex, N> for AttentionBackward {
    type State = State;

    fn backward(self, ops: Ops<State, N>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let State { tensors, out, logs, settings } = ops.state;
        if ops.parents.iter().all(Option::is_none) {
            return;
        }
        let (qkv, shape) = (settings.qkv(&tensors), settings.shape(&tensors));
        let gradients = attention::backward(qkv, values(&out), &logs, values(&dy), shape);
        for ((node, gradient), tensor) in ops.parents.into_iter().zip(gradients).zip(&tensors) {
            if let Some(node) = node {
                grads.register::<Flex>(node.id, reshaped(gradient, tensor));
            }
        }
    }
}

/// The operation with its backward pass registered.
pub(super) fn tracked<C: CheckpointStrategy, const N: usize>(
    tensors: [FloatTensor<Autodiff<Flex, C>>; N],
    settings: Settings,
) -> FloatTensor<Autodiff<Flex, C>> {
    let mut parts = Vec::with_capacity(N);
    let nodes = tensors.map(|tensor| {
        let (tensor, node) = tensor.into_parts();
        parts.push(contiguous(tensor));
        node
    });
    let (out, logs) = forward(&parts, settings);
    match AttentionBackward.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish(State { tensors: parts, out: out.clone(), logs, settings }, out),
        OpsKind::UnTracked(prep) => prep.finish(out),
    }
}
