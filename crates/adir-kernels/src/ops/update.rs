//! The passes of training over all weights: one walk through memory each.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::{contiguous, has_kernel, tensor, values};
use crate::reference;

/// Numbers that one task updates.
const CHUNK: usize = 1 << 14;

/// What one step of Adam needs besides tensors.
#[derive(Debug, Clone, Copy)]
pub struct AdamStep {
    /// Learning rate.
    pub rate: f64,
    /// Decay of the mean of the gradient.
    pub beta1: f64,
    /// Decay of the mean of its square.
    pub beta2: f64,
    /// Added to the root of the second mean.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// 1 - beta1^k at step k, counted from 1.
    pub correction1: f64,
    /// 1 - beta2^k.
    pub correction2: f64,
}

/// New weight and moments m, v of one parameter, all flat and of one size:
/// m <- b1 m + (1-b1) g, v <- b2 v + (1-b2) g^2, w <- w (1 - lr d) - lr m / c1 / (sqrt(v / c2) + eps).
pub fn adam_step(
    weight: Tensor<1>,
    gradient: Tensor<1>,
    moments: [Tensor<1>; 2],
    step: &AdamStep,
) -> (Tensor<1>, [Tensor<1>; 2]) {
    let [m, v] = moments;
    if ![&weight, &gradient, &m, &v].into_iter().all(has_kernel) {
        return reference::adam_step(weight, gradient, [m, v], step);
    }
    let mut weights = values(&flex(weight)).to_vec();
    let gradient = flex(gradient);
    let (mut m, mut v) = (Buffer::take(m), Buffer::take(v));
    let [beta1, beta2, eps] = [step.beta1, step.beta2, step.eps].map(|x| x as f32);
    let [new1, new2] = [step.beta1, step.beta2].map(|b| (1.0 - b) as f32);
    let keep = (1.0 - step.rate * step.weight_decay) as f32;
    let root = (1.0 / step.correction2.sqrt()) as f32;
    let rate = (step.rate / step.correction1) as f32;
    weights
        .par_chunks_mut(CHUNK)
        .zip(values(&gradient).par_chunks(CHUNK))
        .zip(m.numbers().par_chunks_mut(CHUNK).zip(v.numbers().par_chunks_mut(CHUNK)))
        .for_each(|((w, g), (m, v))| {
            for (((w, g), m), v) in w.iter_mut().zip(g).zip(m).zip(v) {
                *m = beta1 * *m + new1 * g;
                *v = beta2 * *v + new2 * (g * g);
                *w = keep * *w - rate * *m / (v.sqrt() * root + eps);
            }
        });
    let len = weights.len();
    (from_flex(tensor(weights, [len])), [m.into_tensor(), v.into_tensor()])
}

/// `share * old + (1 - share) * new`, for flat tensors of one size; numbers that are equal stay as they are.
pub fn blend(old: Tensor<1>, new: Tensor<1>, share: f64) -> Tensor<1> {
    if !(has_kernel(&old) && has_kernel(&new)) {
        return reference::blend(old, new, share);
    }
    let new = flex(new);
    let mut old = Buffer::take(old);
    let of_new = (1.0 - share) as f32;
    old.numbers().par_chunks_mut(CHUNK).zip(values(&new).par_chunks(CHUNK)).for_each(|(old, new)| {
        for (old, new) in old.iter_mut().zip(new) {
            *old += of_new * (new - *old);
        }
    });
    old.into_tensor()
}

/// The numbers of a tensor that change: in place where no one else holds them.
enum Buffer {
    InPlace(FlexTensor),
    Copy(Vec<f32>),
}

impl Buffer {
    fn take(from: Tensor<1>) -> Self {
        let mut held = flex(from);
        let whole = values(&held).len();
        // In place, storage is handed out as a whole; a view of a part of it is copied.
        if held.try_storage_mut::<f32>().is_some_and(|all| all.len() == whole) {
            Self::InPlace(held)
        } else {
            Self::Copy(values(&held).to_vec())
        }
    }

    fn numbers(&mut self) -> &mut [f32] {
        match self {
            Self::InPlace(held) => held.try_storage_mut().expect("the only holder, as when it was taken"),
            Self::Copy(numbers) => numbers,
        }
    }

    fn into_tensor(self) -> Tensor<1> {
        from_flex(match self {
            Self::InPlace(held) => held,
            Self::Copy(numbers) => {
                let len = numbers.len();
                tensor(numbers, [len])
            }
        })
    }
}

/// The CPU tensor behind one that [`has_kernel`].
pub(super) fn flex(from: Tensor<1>) -> FlexTensor {
    contiguous(from.try_into_primitive::<Flex>().expect("a tensor of the CPU device"))
}

pub(super) fn from_flex(from: FlexTensor) -> Tensor<1> {
    Tensor::from_primitive::<Flex>(from)
}
