//! [`add`] and [`join_channels`] on the framework's tensors, on all threads: its own take one.

use burn::backend::flex::FlexTensor;
use burn::backend::{Dispatch, TensorMetadata};
use burn::tensor::Tensor;
use rayon::prelude::*;

use super::{KernelOps, contiguous, has_kernel, shape4, tensor, values};
use crate::parallel::{SharedMut, filled, for_each};

/// Numbers that one task adds or copies.
const CHUNK: usize = 1 << 14;

/// a + b of the same shape, differentiable.
pub fn add(a: Tensor<4>, b: Tensor<4>) -> Tensor<4> {
    if !(has_kernel(&a) && has_kernel(&b)) || a.dims() != b.dims() {
        return a + b;
    }
    Tensor::from_dispatch(<Dispatch as KernelOps>::add_kernel(a.into_dispatch(), b.into_dispatch()))
}

/// The channels of a before those of b, differentiable: `[n, c, h, w]` and `[n, d, h, w]` to `[n, c + d, h, w]`.
pub fn join_channels(a: Tensor<4>, b: Tensor<4>) -> Tensor<4> {
    let ([n, _, h, w], [m, _, i, j]) = (a.dims(), b.dims());
    if !(has_kernel(&a) && has_kernel(&b)) || [n, h, w] != [m, i, j] || a.shape().num_elements() == 0 {
        return Tensor::cat(vec![a, b], 1);
    }
    Tensor::from_dispatch(<Dispatch as KernelOps>::join_channels_kernel(a.into_dispatch(), b.into_dispatch()))
}

/// See [`add()`]; in the place of a or b, where nothing else holds it.
pub(super) fn sum(a: FlexTensor, b: FlexTensor) -> FlexTensor {
    let (mut a, mut b) = (contiguous(a), contiguous(b));
    if let Some(into) = own(&mut a) {
        add_to(into, values(&b));
        return a;
    }
    if let Some(into) = own(&mut b) {
        add_to(into, values(&a));
        return b;
    }
    let mut out = values(&a).to_vec();
    add_to(&mut out, values(&b));
    tensor(out, shape4(&a))
}

/// The numbers of a contiguous tensor, if it is all that holds them.
fn own(of: &mut FlexTensor) -> Option<&mut [f32]> {
    let len = of.shape().num_elements();
    of.try_storage_mut::<f32>().filter(|held| held.len() == len)
}

fn add_to(into: &mut [f32], from: &[f32]) {
    into.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(into, from)| {
        into.iter_mut().zip(from).for_each(|(into, from)| *into += from);
    });
}

/// See [`join_channels`].
pub(super) fn join(a: &FlexTensor, b: &FlexTensor) -> FlexTensor {
    let ([n, c, h, w], [_, d, ..]) = (shape4(a), shape4(b));
    let (of_a, of_b) = (c * h * w, d * h * w);
    let images = values(a).chunks_exact(of_a).zip(values(b).chunks_exact(of_b.max(1)));
    let blocks = images.flat_map(|(a, b)| a.chunks(CHUNK).chain(b.chunks(CHUNK)));
    let placed = blocks.scan(0, |end, block| {
        let start = *end;
        *end += block.len();
        Some((start, block))
    });
    let placed: Vec<(usize, &[f32])> = placed.collect();
    // SAFETY: the blocks lie one after the other and make up all of the result.
    let joined = unsafe {
        filled(n * (of_a + of_b), |out: SharedMut| {
            for_each(placed.len(), |i| {
                let (start, block) = placed[i];
                out.add(start).copy_from_nonoverlapping(block.as_ptr(), block.len());
            });
        })
    };
    tensor(joined, [n, c + d, h, w])
}
