//! The kernels as operations of the framework: dispatch, forward on the CPU device, backward in its autodiff.
//!
//! Only single precision on the CPU device (`flex`) reaches a kernel; weights of convolutions may be kept in half as many
//! bits. Every other tensor takes the
//! composition in [`crate::reference`], which is decided here, on whole tensors, so that the extension needs
//! no default bodies and no other backend has to be named.

mod attention;
mod conv2d;
mod group_norm;
mod join;
mod low_rank;
mod norm_conv;
mod pack_cache;
mod resample;
mod tokens;
mod update;
mod widen;

use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, DispatchDevice, Flex, TensorMetadata, backend_extension};
use burn::tensor::{DType, Tensor, TensorData};

use crate::QkvOrder;
use crate::numbers::Numbers;

pub use attention::{attention, cross_attention};
pub use conv2d::{Kernel, conv2d};
pub use group_norm::{GroupNorm, group_norm};
pub use join::{add, join_channels};
pub use low_rank::LowRank;
pub use norm_conv::group_norm_conv2d;
pub use resample::{avg_pool2, upsample_nearest2};
pub use tokens::{geglu, layer_norm};
pub use update::{AdamStep, adam_step, blend};
pub use widen::widen;

use group_norm::Settings;
use norm_conv::NormConv;

/// The operations with a kernel of ours; all tensors are f32 on the CPU device.
#[backend_extension(Flex, Autodiff)]
pub trait KernelOps: Backend {
    /// See [`conv2d()`].
    fn conv2d_kernel(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        settings: conv2d::Settings,
    ) -> FloatTensor<Self>;

    /// See [`conv2d()`], with factors `a` and `b` whose product counts `scale` times in the weight.
    fn low_rank_conv2d_kernel(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
        settings: conv2d::Settings,
    ) -> FloatTensor<Self>;

    /// See [`group_norm()`]; `scale` and `shift` are zeros where there are none.
    fn group_norm_kernel(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        settings: Settings,
    ) -> FloatTensor<Self>;

    /// See [`group_norm_conv2d()`]; `scale` and `shift` are zeros where there are none.
    #[allow(clippy::too_many_arguments)] // the framework's dispatch takes tensors one by one
    fn group_norm_conv2d_kernel(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        settings: NormConv,
    ) -> FloatTensor<Self>;

    /// See [`group_norm_conv2d()`], with factors `a` and `b` whose product counts `factor` times in the weight.
    #[allow(clippy::too_many_arguments)] // the framework's dispatch takes tensors one by one
    fn low_rank_group_norm_conv2d_kernel(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        factor: f64,
        settings: NormConv,
    ) -> FloatTensor<Self>;

    /// See [`attention()`].
    fn attention_kernel(qkv: FloatTensor<Self>, heads: usize, order: QkvOrder) -> FloatTensor<Self>;

    /// See [`cross_attention()`].
    fn cross_attention_kernel(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self>;

    /// See [`upsample_nearest2()`].
    fn upsample_nearest2_kernel(x: FloatTensor<Self>) -> FloatTensor<Self>;

    /// See [`avg_pool2()`].
    fn avg_pool2_kernel(x: FloatTensor<Self>) -> FloatTensor<Self>;

    /// See [`layer_norm()`].
    fn layer_norm_kernel(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self>;

    /// See [`geglu()`].
    fn geglu_kernel(x: FloatTensor<Self>) -> FloatTensor<Self>;

    /// See [`add()`].
    fn add_kernel(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self>;

    /// See [`join_channels()`].
    fn join_channels_kernel(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl KernelOps for Flex {
    fn conv2d_kernel(x: FlexTensor, weight: FlexTensor, bias: FlexTensor, settings: conv2d::Settings) -> FlexTensor {
        conv2d::forward(x, weight, bias, settings, false).0
    }

    fn group_norm_kernel(
        x: FlexTensor,
        gamma: FlexTensor,
        beta: FlexTensor,
        scale: FlexTensor,
        shift: FlexTensor,
        settings: Settings,
    ) -> FlexTensor {
        group_norm::forward(&group_norm::Inputs::new([x, gamma, beta, scale, shift], settings)).0
    }

    fn group_norm_conv2d_kernel(
        x: FlexTensor,
        gamma: FlexTensor,
        beta: FlexTensor,
        scale: FlexTensor,
        shift: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        settings: NormConv,
    ) -> FlexTensor {
        norm_conv::forward([x, gamma, beta, scale, shift, weight, bias], settings, false).0
    }

    // Without gradients the factors are part of the weight and nothing else.
    fn low_rank_conv2d_kernel(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        _a: FlexTensor,
        _b: FlexTensor,
        _scale: f64,
        settings: conv2d::Settings,
    ) -> FlexTensor {
        conv2d::forward(x, weight, bias, settings, false).0
    }

    fn low_rank_group_norm_conv2d_kernel(
        x: FlexTensor,
        gamma: FlexTensor,
        beta: FlexTensor,
        scale: FlexTensor,
        shift: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        _a: FlexTensor,
        _b: FlexTensor,
        _factor: f64,
        settings: NormConv,
    ) -> FlexTensor {
        norm_conv::forward([x, gamma, beta, scale, shift, weight, bias], settings, false).0
    }

    fn attention_kernel(qkv: FlexTensor, heads: usize, order: QkvOrder) -> FlexTensor {
        attention::forward(&[contiguous(qkv)], attention::Settings::fused(heads, order)).0
    }

    fn cross_attention_kernel(q: FlexTensor, k: FlexTensor, v: FlexTensor, heads: usize) -> FlexTensor {
        attention::forward(&[q, k, v].map(contiguous), attention::Settings::apart(heads)).0
    }

    fn upsample_nearest2_kernel(x: FlexTensor) -> FlexTensor {
        resample::upsample(&contiguous(x))
    }

    fn avg_pool2_kernel(x: FlexTensor) -> FlexTensor {
        resample::pool(&contiguous(x))
    }

    fn add_kernel(a: FlexTensor, b: FlexTensor) -> FlexTensor {
        join::sum(a, b)
    }

    fn join_channels_kernel(a: FlexTensor, b: FlexTensor) -> FlexTensor {
        join::join(&contiguous(a), &contiguous(b))
    }

    fn layer_norm_kernel(x: FlexTensor, gamma: FlexTensor, beta: FlexTensor, eps: f64) -> FlexTensor {
        tokens::normalise(&[x, gamma, beta].map(contiguous), eps).0
    }

    fn geglu_kernel(x: FlexTensor) -> FlexTensor {
        tokens::gate(&contiguous(x))
    }
}

impl<C: CheckpointStrategy> KernelOps for Autodiff<Flex, C> {
    fn conv2d_kernel(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        settings: conv2d::Settings,
    ) -> FloatTensor<Self> {
        conv2d::tracked::<C>(x, weight, bias, settings)
    }

    fn group_norm_kernel(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        settings: Settings,
    ) -> FloatTensor<Self> {
        group_norm::tracked::<C>([x, gamma, beta, scale, shift], settings)
    }

    fn group_norm_conv2d_kernel(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        settings: NormConv,
    ) -> FloatTensor<Self> {
        norm_conv::tracked::<C>([x, gamma, beta, scale, shift, weight, bias], settings)
    }

    fn low_rank_conv2d_kernel(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
        settings: conv2d::Settings,
    ) -> FloatTensor<Self> {
        low_rank::conv2d_tracked::<C>([x, weight, bias, a, b], scale, settings)
    }

    fn low_rank_group_norm_conv2d_kernel(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        factor: f64,
        settings: NormConv,
    ) -> FloatTensor<Self> {
        low_rank::norm_conv_tracked::<C>([x, gamma, beta, scale, shift, weight, bias, a, b], factor, settings)
    }

    fn attention_kernel(qkv: FloatTensor<Self>, heads: usize, order: QkvOrder) -> FloatTensor<Self> {
        attention::tracked::<C, 1>([qkv], attention::Settings::fused(heads, order))
    }

    fn cross_attention_kernel(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self> {
        attention::tracked::<C, 3>([q, k, v], attention::Settings::apart(heads))
    }

    fn add_kernel(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_add(a, b)
    }

    fn join_channels_kernel(a: FloatTensor<Self>, b: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_cat(vec![a, b], 1)
    }

    fn upsample_nearest2_kernel(x: FloatTensor<Self>) -> FloatTensor<Self> {
        resample::tracked::<C>(x, resample::Resample::Up)
    }

    fn avg_pool2_kernel(x: FloatTensor<Self>) -> FloatTensor<Self> {
        resample::tracked::<C>(x, resample::Resample::Down)
    }

    fn layer_norm_kernel(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        tokens::norm_tracked::<C>([x, gamma, beta], eps)
    }

    fn geglu_kernel(x: FloatTensor<Self>) -> FloatTensor<Self> {
        tokens::gate_tracked::<C>(x)
    }
}

/// Whether a tensor's operations run on our kernels.
fn has_kernel<const D: usize>(tensor: &Tensor<D>) -> bool {
    tensor.dtype() == DType::F32 && matches!(tensor.device().inner().as_dispatch(), DispatchDevice::Flex(_))
}

/// The same of the weight of a convolution, which may be kept in half as many bits.
fn has_kernel_as_weight(tensor: &Tensor<4>) -> bool {
    matches!(tensor.dtype(), DType::F32 | DType::F16 | DType::BF16)
        && matches!(tensor.device().inner().as_dispatch(), DispatchDevice::Flex(_))
}

/// The tensor with its numbers in row-major order.
fn contiguous(tensor: FlexTensor) -> FlexTensor {
    if in_order(&tensor).is_some() { tensor } else { tensor.to_contiguous() }
}

/// The numbers of a tensor that has them in row-major order.
fn in_order(tensor: &FlexTensor) -> Option<Numbers<'_>> {
    match tensor.dtype() {
        DType::F16 => tensor.as_slice().map(Numbers::Half),
        DType::BF16 => tensor.as_slice().map(Numbers::Brain),
        _ => tensor.as_slice().map(Numbers::Single),
    }
}

/// The numbers of a [`contiguous`] weight.
fn numbers(tensor: &FlexTensor) -> Numbers<'_> {
    in_order(tensor).unwrap_or_else(|| panic!("a contiguous weight, not {:?} of {:?}", tensor.layout(), tensor.dtype()))
}

/// The numbers of a [`contiguous`] f32 tensor.
fn values(tensor: &FlexTensor) -> &[f32] {
    tensor
        .as_slice()
        .unwrap_or_else(|| panic!("a contiguous f32 tensor, not {:?} of {:?}", tensor.layout(), tensor.dtype()))
}

/// The four sides of a tensor.
fn shape4(tensor: &FlexTensor) -> [usize; 4] {
    let shape = tensor.shape();
    assert_eq!(shape.num_dims(), 4, "a tensor of four dimensions, not {shape:?}");
    [shape[0], shape[1], shape[2], shape[3]]
}

/// A tensor from its numbers; they are not copied.
fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

/// The same numbers under another shape.
fn reshaped(values: Vec<f32>, like: &FlexTensor) -> FlexTensor {
    let flat = tensor(values, [like.shape().num_elements()]);
    flat.with_layout(Layout::contiguous(like.shape()))
}
