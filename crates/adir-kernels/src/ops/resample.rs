//! [`upsample_nearest2`] and [`avg_pool2`] on the framework's tensors.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Dispatch, Flex};
use burn::tensor::Tensor;

use super::{KernelOps, contiguous, has_kernel, shape4, tensor, values};
use crate::{reference, resample};

/// Each pixel as a block of 2 by 2, differentiable: `[n, c, h, w]` to `[n, c, 2 h, 2 w]`.
pub fn upsample_nearest2(x: Tensor<4>) -> Tensor<4> {
    if !has_kernel(&x) || x.shape().num_elements() == 0 {
        return reference::upsample_nearest2(x);
    }
    Tensor::from_dispatch(<Dispatch as KernelOps>::upsample_nearest2_kernel(x.into_dispatch()))
}

/// The mean of each block of 2 by 2 pixels, differentiable: `[n, c, h, w]` to `[n, c, h / 2, w / 2]`.
///
/// A last odd row or column is left out.
pub fn avg_pool2(x: Tensor<4>) -> Tensor<4> {
    if !has_kernel(&x) || x.dims()[2] < 2 || x.dims()[3] < 2 {
        return reference::avg_pool2(x);
    }
    Tensor::from_dispatch(<Dispatch as KernelOps>::avg_pool2_kernel(x.into_dispatch()))
}

/// The direction.
#[derive(Debug, Clone, Copy)]
pub(super) enum Resample {
    Up,
    Down,
}

/// See [`upsample_nearest2`]; contiguous.
pub(super) fn upsample(x: &FlexTensor) -> FlexTensor {
    let [n, c, h, w] = shape4(x);
    tensor(resample::spread(values(x), [h, w], [2 * h, 2 * w], 1.0), [n, c, 2 * h, 2 * w])
}

/// See [`avg_pool2`]; contiguous.
pub(super) fn pool(x: &FlexTensor) -> FlexTensor {
    let [n, c, h, w] = shape4(x);
    tensor(resample::gather(values(x), [h, w], 0.25), [n, c, h / 2, w / 2])
}

#[derive(Debug)]
struct ResampleBackward;

impl Backward<Flex, 1> for ResampleBackward {
    /// The direction and the shape of x.
    type State = (Resample, [usize; 4]);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let (direction, shape) = ops.state;
        let [_, _, h, w] = shape;
        if let [Some(node)] = ops.parents {
            let gradient = match direction {
                Resample::Up => resample::gather(values(&dy), [2 * h, 2 * w], 1.0),
                Resample::Down => resample::spread(values(&dy), [h / 2, w / 2], [h, w], 0.25),
            };
            grads.register::<Flex>(node.id, tensor(gradient, shape));
        }
    }
}

/// The operation with its backward pass registered.
pub(super) fn tracked<C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<Flex, C>>,
    direction: Resample,
) -> FloatTensor<Autodiff<Flex, C>> {
    let (x, node) = x.into_parts();
    let x = contiguous(x);
    let out = match direction {
        Resample::Up => upsample(&x),
        Resample::Down => pool(&x),
    };
    match ResampleBackward.prepare::<C>([node]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish((direction, shape4(&x)), out),
        OpsKind::UnTracked(prep) => prep.finish(out),
    }
}
