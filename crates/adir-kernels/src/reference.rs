//! The definitions, composed of stock operations; differentiable wherever the device is.

use burn::tensor::ops::ConvOptions;
use burn::tensor::{Tensor, activation, module};

use crate::{AdamStep, LowRank, QkvOrder};

/// 2-d convolution with square kernels (cross-correlation), `[n, in, h, w]` with `[out, in, k, k]`.
///
/// `padding` zeros on every side; output side `(h + 2 padding - k) / stride + 1`, rounded down.
pub fn conv2d(x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>, stride: usize, padding: usize) -> Tensor<4> {
    module::conv2d(x, weight, bias, ConvOptions::new([stride; 2], [padding; 2], [1; 2], 1))
}

/// [`conv2d`] by a weight that factors are part of: the gradients are the factors', not the weight's. The branch of the
/// factors, of an image that is not tracked, is taken away again, and leaves its gradients.
pub fn low_rank_conv2d(
    x: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    factors: LowRank,
    stride: usize,
    padding: usize,
) -> Tensor<4> {
    let LowRank { a, b, scale } = factors;
    let [out, rank] = b.dims();
    let branch = conv2d(conv2d(x.clone().detach(), a, None, stride, padding), b.reshape([out, rank, 1, 1]), None, 1, 0);
    let branch = branch * scale;
    conv2d(x, weight, bias, stride, padding) + (branch.clone() - branch.detach())
}

/// Group normalisation of `[n, c, ...]`, then optionally `h (1 + scale) + shift` with `[n, c]` each,
/// then optionally SiLU.
///
/// The variance is the biased one, over the channels of a group and all positions.
pub fn group_norm<const D: usize>(
    x: Tensor<D>,
    groups: usize,
    gamma: Tensor<1>,
    beta: Tensor<1>,
    eps: f64,
    scale_shift: Option<(Tensor<2>, Tensor<2>)>,
    silu: bool,
) -> Tensor<D> {
    let shape = x.shape();
    let (n, c) = (shape[0], shape[1]);
    let positions = shape.num_elements() / (n * c);
    let grouped = x.reshape([n, groups, c / groups * positions]);
    let mean = grouped.clone().mean_dim(2);
    let centred = grouped - mean;
    let variance = centred.clone().powi_scalar(2).mean_dim(2);
    let normal = (centred / (variance + eps).sqrt()).reshape([n, c, positions]);
    let mut out = normal * gamma.reshape([1, c, 1]) + beta.reshape([1, c, 1]);
    if let Some((scale, shift)) = scale_shift {
        out = out * (scale.reshape([n, c, 1]) + 1.0) + shift.reshape([n, c, 1]);
    }
    let out = out.reshape(shape);
    if silu { activation::silu(out) } else { out }
}

/// Multi-head self-attention over a fused projection `[n, 3 c, tokens]`, giving `[n, c, tokens]`.
///
/// Both query and key are scaled by `(c / heads)^(-1/4)`, as guided-diffusion does.
pub fn attention(qkv: Tensor<3>, heads: usize, order: QkvOrder) -> Tensor<3> {
    let [n, width, tokens] = qkv.dims();
    let c = width / 3;
    let d = c / heads;
    let (q, k, v) = match order {
        QkvOrder::HeadsFirst => {
            let parts = qkv.reshape([n * heads, 3 * d, tokens]).chunk(3, 1);
            (parts[0].clone(), parts[1].clone(), parts[2].clone())
        }
        QkvOrder::QkvFirst => {
            let parts = qkv.chunk(3, 1);
            let split = |t: &Tensor<3>| t.clone().reshape([n * heads, d, tokens]);
            (split(&parts[0]), split(&parts[1]), split(&parts[2]))
        }
    };
    heads_attention(q, k, v).reshape([n, c, tokens])
}

/// Multi-head attention of queries `[n, c, queries]` to keys and values `[n, c, keys]`, giving `[n, c, queries]`.
pub fn cross_attention(q: Tensor<3>, k: Tensor<3>, v: Tensor<3>, heads: usize) -> Tensor<3> {
    let [n, c, queries] = q.dims();
    let split = |t: Tensor<3>| {
        let tokens = t.dims()[2];
        t.reshape([n * heads, c / heads, tokens])
    };
    heads_attention(split(q), split(k), split(v)).reshape([n, c, queries])
}

/// Attention of every head by itself: `[heads, depth, queries]` to keys and values `[heads, depth, keys]`.
fn heads_attention(q: Tensor<3>, k: Tensor<3>, v: Tensor<3>) -> Tensor<3> {
    let scale = (q.dims()[1] as f64).powf(-0.25);
    let scores = (q * scale).swap_dims(1, 2).matmul(k * scale);
    let weights = activation::softmax(scores, 2);
    v.matmul(weights.swap_dims(1, 2))
}

/// Layer normalisation of `[n, c, tokens]` over the channels of every token; the variance is the biased one.
pub fn layer_norm(x: Tensor<3>, gamma: Tensor<1>, beta: Tensor<1>, eps: f64) -> Tensor<3> {
    let c = x.dims()[1];
    let centred = x.clone() - x.mean_dim(1);
    let variance = centred.clone().powi_scalar(2).mean_dim(1);
    centred / (variance + eps).sqrt() * gamma.reshape([1, c, 1]) + beta.reshape([1, c, 1])
}

/// The first half of the channels of `[n, 2 c, tokens]` times `gelu` of the second.
pub fn geglu(x: Tensor<3>) -> Tensor<3> {
    let halves = x.chunk(2, 1);
    halves[0].clone() * activation::gelu(halves[1].clone())
}

/// Each pixel of `[n, c, h, w]` as a block of 2 by 2.
pub fn upsample_nearest2(x: Tensor<4>) -> Tensor<4> {
    let [n, c, h, w] = x.dims();
    x.reshape([n, c, h, 1, w, 1]).expand([n, c, h, 2, w, 2]).reshape([n, c, 2 * h, 2 * w])
}

/// The mean of each block of 2 by 2 pixels; a last odd row or column is left out.
pub fn avg_pool2(x: Tensor<4>) -> Tensor<4> {
    let [n, c, h, w] = x.dims();
    let (oh, ow) = (h / 2, w / 2);
    let whole = x.slice([0..n, 0..c, 0..2 * oh, 0..2 * ow]);
    whole.reshape([n, c, oh, 2, ow, 2]).mean_dim(5).mean_dim(3).reshape([n, c, oh, ow])
}

/// As [`crate::adam_step`].
pub fn adam_step(
    weight: Tensor<1>,
    gradient: Tensor<1>,
    [m, v]: [Tensor<1>; 2],
    step: &AdamStep,
) -> (Tensor<1>, [Tensor<1>; 2]) {
    let m = m * step.beta1 + gradient.clone() * (1.0 - step.beta1);
    let v = v * step.beta2 + gradient.clone() * gradient * (1.0 - step.beta2);
    let denominator = v.clone().sqrt() / step.correction2.sqrt() + step.eps;
    let update = m.clone() / denominator * (step.rate / step.correction1);
    (weight * (1.0 - step.rate * step.weight_decay) - update, [m, v])
}

/// As [`crate::blend`].
pub fn blend(old: Tensor<1>, new: Tensor<1>, share: f64) -> Tensor<1> {
    old.clone() + (new - old) * (1.0 - share)
}
