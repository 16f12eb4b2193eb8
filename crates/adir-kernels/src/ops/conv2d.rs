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

use super::{
    KernelOps, LowRank, contiguous, has_kernel, has_kernel_as_weight, numbers, pack_cache, shape4, tensor, values,
};
use crate::conv::{self, Geometry, Method, Packed, Purpose};
use crate::layout::Planes;
use crate::reference;

/// 2-d convolution with square kernels (cross-correlation), differentiable.
///
/// `padding` zeros on every side; output side `(h + 2 padding - k) / stride + 1`, rounded down. Packed weights
/// are kept for the next call while the weight tensor lives.
///
/// # Shapes
/// `x` `[n, in, h, w]`, `kernel` `[out, in, k, k]`, `bias` `[out]`; the result is `[n, out, oh, ow]`. The weight may be kept
/// in half as many bits: it is computed with in the precision of `x`.
///
/// # Panics
/// If the shapes do not go together.
pub fn conv2d(
    x: Tensor<4>,
    kernel: impl Into<Kernel>,
    bias: Option<Tensor<1>>,
    stride: usize,
    padding: usize,
) -> Tensor<4> {
    let Kernel { weight, bf16_products, low_rank } = kernel.into();
    let square = weight.dims()[2] == weight.dims()[3];
    let of_factors = low_rank.as_ref().is_none_or(|factors| has_kernel(&factors.a) && has_kernel(&factors.b));
    if !(has_kernel(&x)
        && has_kernel_as_weight(&weight)
        && bias.as_ref().is_none_or(has_kernel)
        && of_factors
        && square)
    {
        let weight = if weight.dtype() == x.dtype() { weight } else { weight.cast(x.dtype()) };
        return match low_rank {
            None => reference::conv2d(x, weight, bias, stride, padding),
            Some(factors) => reference::low_rank_conv2d(x, weight, bias, factors, stride, padding),
        };
    }
    let bias = bias.unwrap_or_else(|| Tensor::zeros([weight.dims()[0]], &x.device()));
    let (x, weight, bias) = (x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
    let settings = Settings { stride, padding, bf16_products };
    Tensor::from_dispatch(match low_rank {
        None => <Dispatch as KernelOps>::conv2d_kernel(x, weight, bias, settings),
        Some(LowRank { a, b, scale }) => {
            let (a, b) = (a.into_dispatch(), b.into_dispatch());
            <Dispatch as KernelOps>::low_rank_conv2d_kernel(x, weight, bias, a, b, scale, settings)
        }
    })
}

/// The weight of a convolution, and how products with it are taken.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// `[out, in, k, k]`.
    pub weight: Tensor<4>,
    /// Whether a convolution and its input gradient, where computed as direct sums, multiply bfloat16 numbers and add up
    /// in single precision.
    ///
    /// Images, weights and results stay in single precision; both factors of every product are rounded to 8 bits. It is
    /// faster where [`crate::Isa::has_bf16_products`], and much slower elsewhere. Winograd's algorithm stays as it is: it
    /// multiplies a quarter as often, and its transforms would make 2 to 5 % of the rounding.
    pub bf16_products: bool,
    /// Factors that are part of the weight already and get the gradients in its place: the weight itself must not be
    /// tracked.
    pub low_rank: Option<LowRank>,
}

/// With products in single precision.
impl From<Tensor<4>> for Kernel {
    fn from(weight: Tensor<4>) -> Self {
        Self { weight, bf16_products: false, low_rank: None }
    }
}

/// What is not a tensor.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub(super) stride: usize,
    pub(super) padding: usize,
    pub(super) bf16_products: bool,
}

/// What a convolution and its gradients have in common, whatever is done to the image on the way in.
#[derive(Debug, Clone)]
pub(super) struct Convolution {
    /// Contiguous.
    weight: FlexTensor,
    geometry: Geometry,
    method: Method,
}

impl Convolution {
    /// Of images of the shape of `x`.
    pub(super) fn new(x: &FlexTensor, weight: FlexTensor, settings: Settings) -> Convolution {
        let weight = contiguous(weight);
        let geometry = Geometry::new(shape4(x), shape4(&weight), settings.stride, settings.padding);
        Convolution { weight, geometry, method: Method::new(&geometry, settings.bf16_products) }
    }

    /// The weight packed for `purpose`. Kept even while it is trained: a batch may be computed in parts, all with the
    /// same weights.
    pub(super) fn packed(&self, purpose: Purpose) -> Arc<Packed> {
        self.packed_for(purpose, self.method, None)
    }

    /// The same for another method than its own; `next` is the purpose of a later call.
    pub(super) fn packed_for(&self, purpose: Purpose, method: Method, next: Option<Purpose>) -> Arc<Packed> {
        let next = next.map(|purpose| (purpose, method));
        pack_cache::get(&self.weight, (purpose, method), next, |(purpose, method)| {
            conv::pack(numbers(&self.weight), &self.geometry, purpose, method)
        })
    }

    /// Contiguous.
    pub(super) fn weight(&self) -> &FlexTensor {
        &self.weight
    }

    /// Channels of the result.
    pub(super) fn outputs(&self) -> usize {
        self.geometry.outputs
    }

    /// Its shapes, and how it is computed.
    pub(super) fn geometry(&self) -> (Geometry, Method) {
        (self.geometry, self.method)
    }

    /// The result; `differentiated` says whether a backward pass is to follow.
    pub(super) fn forward(&self, x: Planes<'_>, bias: FlexTensor, differentiated: bool) -> FlexTensor {
        let next = differentiated.then_some(Purpose::InputGradient);
        let packed = self.packed_for(Purpose::Forward, self.method, next);
        let out = conv::forward(x, &packed, Some(values(&contiguous(bias))), &self.geometry, self.method);
        tensor(out, self.geometry.out_shape())
    }

    /// The gradient of the image as it is after what is done on the way in, `[n, in, h, w]`.
    pub(super) fn input_gradient(&self, dy: &FlexTensor) -> Vec<f32> {
        let packed = self.packed(Purpose::InputGradient);
        conv::input_gradient(values(dy), &packed, &self.geometry, self.method)
    }

    /// The gradient of the weight.
    pub(super) fn weight_gradient(&self, x: Planes<'_>, dy: &FlexTensor) -> FlexTensor {
        tensor(conv::weight_gradient(x, values(dy), &self.geometry), shape4(&self.weight))
    }

    /// The gradient of the bias.
    pub(super) fn bias_gradient(&self, dy: &FlexTensor) -> FlexTensor {
        tensor(conv::bias_gradient(values(dy), &self.geometry), [self.geometry.outputs])
    }
}

/// The result, and what the backward pass needs, if one is to follow.
pub(super) fn forward(
    x: FlexTensor,
    weight: FlexTensor,
    bias: FlexTensor,
    settings: Settings,
    differentiated: bool,
) -> (FlexTensor, State) {
    let x = contiguous(x);
    let convolution = Convolution::new(&x, weight, settings);
    (convolution.forward(values(&x).into(), bias, differentiated), State { x, convolution })
}

#[derive(Debug)]
struct Conv2dBackward;

/// What the backward pass needs.
#[derive(Debug, Clone)]
pub(super) struct State {
    x: FlexTensor,
    convolution: Convolution,
}

impl State {
    pub(super) fn x(&self) -> &FlexTensor {
        &self.x
    }

    pub(super) fn convolution(&self) -> &Convolution {
        &self.convolution
    }
}

impl Backward<Flex, 3> for Conv2dBackward {
    type State = State;

    fn backward(self, ops: Ops<State, 3>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let [x_node, weight, bias] = ops.parents;
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let State { x, convolution } = ops.state;
        let mut register = |id: NodeId, gradient| grads.register::<Flex>(id, gradient);
        if let Some(node) = x_node {
            register(node.id, tensor(convolution.input_gradient(&dy), shape4(&x)));
        }
        if let Some(node) = weight {
            register(node.id, convolution.weight_gradient(values(&x).into(), &dy));
        }
        if let Some(node) = bias {
            register(node.id, convolution.bias_gradient(&dy));
        }
    }
}

/// The operation with its backward pass registered.
pub(super) fn tracked<C: CheckpointStrategy>(
    x: FloatTensor<Autodiff<Flex, C>>,
    weight: FloatTensor<Autodiff<Flex, C>>,
    bias: FloatTensor<Autodiff<Flex, C>>,
    settings: Settings,
) -> FloatTensor<Autodiff<Flex, C>> {
    let ((x, x_node), (weight, weight_node), (bias, bias_node)) =
        (x.into_parts(), weight.into_parts(), bias.into_parts());
    let (out, state) = forward(x, weight, bias, settings, true);
    match Conv2dBackward.prepare::<C>([x_node, weight_node, bias_node]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish(state, out),
        OpsKind::UnTracked(prep) => prep.finish(out),
    }
}
