//! Convolutions whose weight is `W + s B A`, merged already and not tracked, with tracked factors A and B.
//!
//! The result is that of the merged weight. Going back, the image gets its gradient through the merged weight, and the
//! factors theirs in the rank, so that no gradient of the whole weight is kept.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Flex, TensorMetadata};
use burn::tensor::Tensor;

use super::conv2d::{self, Convolution, Settings};
use super::norm_conv::{self, NormConv};
use super::{contiguous, shape4, tensor, values};
use crate::conv::{self, Purpose};
use crate::layout::Planes;

/// The factors of what was added to a weight: `scale B A`.
#[derive(Debug, Clone)]
pub struct LowRank {
    /// A, a convolution to `rank` channels: `[rank, in, k, k]`.
    pub a: Tensor<4>,
    /// B, a 1x1 convolution of those: `[out, rank]`.
    pub b: Tensor<2>,
    /// How often their product counts.
    pub scale: f64,
}

/// The factors of a convolution, as the backward pass needs them.
#[derive(Debug, Clone)]
struct Factors {
    a: Convolution,
    b: FlexTensor,
    scale: f32,
}

impl Factors {
    fn new(x: &FlexTensor, a: FlexTensor, b: FlexTensor, scale: f64, settings: Settings) -> Factors {
        let settings = Settings { bf16_products: false, ..settings };
        let (a, b) = (Convolution::new(x, a, settings), contiguous(b));
        let (rank, shape) = (a.outputs(), b.shape());
        assert!(shape.num_dims() == 2 && shape[1] == rank, "factors of rank {rank} and of shape {shape:?}");
        Factors { a, b, scale: scale as f32 }
    }

    /// The gradient of the image as it enters the convolution, where it is wanted, and those of A and B.
    fn backward(
        &self,
        merged: &Convolution,
        x: Planes<'_>,
        dy: &FlexTensor,
        of_image: bool,
    ) -> (Option<Vec<f32>>, [FlexTensor; 2]) {
        let rank = self.a.outputs();
        let factors = conv::Factors {
            rank,
            scale: self.scale,
            a: values(self.a.weight()),
            b: values(&self.b),
            pack_a: |method| self.a.packed_for(Purpose::Forward, method, None),
        };
        let packed = of_image.then(|| merged.packed(Purpose::InputGradient));
        let (geometry, method) = merged.geometry();
        assert_eq!(self.b.shape()[0], geometry.outputs, "factors of a weight of {} outputs", geometry.outputs);
        let (image, found) = conv::backward_low_rank(x, values(dy), packed.as_deref(), &factors, &geometry, method);
        let shape = shape4(self.a.weight());
        (image, [tensor(found.a, shape), tensor(found.b, [geometry.outputs, rank])])
    }
}

#[derive(Debug)]
struct LowRankConv2dBackward;

impl Backward<Flex, 4> for LowRankConv2dBackward {
    type State = (conv2d::State, Factors);

    fn backward(self, ops: Ops<Self::State, 4>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let [x_node, bias, a, b] = ops.parents;
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let (state, factors) = ops.state;
        let x = state.x();
        let (image, found) = factors.backward(state.convolution(), values(x).into(), &dy, x_node.is_some());
        if let (Some(node), Some(image)) = (x_node, image) {
            grads.register::<Flex>(node.id, tensor(image, shape4(x)));
        }
        if let Some(node) = bias {
            grads.register::<Flex>(node.id, state.convolution().bias_gradient(&dy));
        }
        for (parent, gradient) in [a, b].into_iter().zip(found) {
            if let Some(node) = parent {
                grads.register::<Flex>(node.id, gradient);
            }
        }
    }
}

/// [`conv2d()`](super::conv2d()) of x, weight, bias with factors a and b, and its backward pass.
pub(super) fn conv2d_tracked<C: CheckpointStrategy>(
    tensors: [FloatTensor<Autodiff<Flex, C>>; 5],
    scale: f64,
    settings: Settings,
) -> FloatTensor<Autodiff<Flex, C>> {
    let [x, _, bias, a, b] = tensors.each_ref().map(|tensor| tensor.node());
    let [image, weight, offset, factor_a, factor_b] = tensors.map(|tensor| tensor.into_parts().0);
    let (out, state) = conv2d::forward(image, weight, offset, settings, true);
    match LowRankConv2dBackward.prepare::<C>([x, bias, a, b]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => {
            let factors = Factors::new(state.x(), factor_a, factor_b, scale, settings);
            prep.finish((state, factors), out)
        }
        OpsKind::UnTracked(prep) => prep.finish(out),
    }
}

#[derive(Debug)]
struct LowRankNormConvBackward;

impl Backward<Flex, 8> for LowRankNormConvBackward {
    type State = (norm_conv::State, Factors);

    fn backward(self, ops: Ops<Self::State, 8>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let (state, factors) = ops.state;
        let [x, gamma, beta, scale, shift, bias, a, b] = ops.parents;
        let parents = [x, gamma, beta, scale, shift];
        let of_image = parents.iter().any(Option::is_some);
        let (normal, found) = state.with_planes(|planes| factors.backward(state.convolution(), planes, &dy, of_image));
        if let Some(node) = bias {
            grads.register::<Flex>(node.id, state.convolution().bias_gradient(&dy));
        }
        for (parent, gradient) in [a, b].into_iter().zip(found) {
            if let Some(node) = parent {
                grads.register::<Flex>(node.id, gradient);
            }
        }
        if let Some(normal) = normal {
            for (parent, gradient) in parents.into_iter().zip(state.gradients(&normal)) {
                if let Some(node) = parent {
                    grads.register::<Flex>(node.id, gradient);
                }
            }
        }
    }
}

/// [`group_norm_conv2d()`](super::group_norm_conv2d()) of x, gamma, beta, scale, shift, weight, bias with factors a and b,
/// and its backward pass.
pub(super) fn norm_conv_tracked<C: CheckpointStrategy>(
    tensors: [FloatTensor<Autodiff<Flex, C>>; 9],
    factor: f64,
    settings: NormConv,
) -> FloatTensor<Autodiff<Flex, C>> {
    let [x, gamma, beta, scale, shift, _, bias, a, b] = tensors.each_ref().map(|tensor| tensor.node());
    let [t0, t1, t2, t3, t4, t5, t6, factor_a, factor_b] = tensors.map(|tensor| tensor.into_parts().0);
    let (out, state) = norm_conv::forward([t0, t1, t2, t3, t4, t5, t6], settings, true);
    let nodes = [x, gamma, beta, scale, shift, bias, a, b];
    match LowRankNormConvBackward.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(prep) => {
            let factors = Factors::new(state.x(), factor_a, factor_b, factor, settings.convolution);
            prep.finish((state, factors), out)
        }
        OpsKind::UnTracked(prep) => prep.finish(out),
    }
}
