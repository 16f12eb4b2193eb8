//! Doubling and halving images; each is the other's gradient but for a factor.

use std::mem::MaybeUninit;

use rayon::prelude::*;

/// `factor` times each pixel of planes of `h` by `w`, as the blocks of 2 by 2 of planes of `oh` by `ow`, which may
/// have one more row or column than that makes; it gets zeros.
pub(crate) fn spread(x: &[f32], [h, w]: [usize; 2], [oh, ow]: [usize; 2], factor: f32) -> Vec<f32> {
    let len = x.len() / (h * w).max(1) * oh * ow;
    let mut out = Vec::with_capacity(len);
    let zero = MaybeUninit::new(0.0);
    out.spare_capacity_mut()[..len].par_chunks_exact_mut(oh * ow).zip(x.par_chunks_exact(h * w)).for_each(
        |(out, x)| {
            for (pair, row) in out.chunks_exact_mut(2 * ow).zip(x.chunks_exact(w)) {
                let (upper, lower) = pair.split_at_mut(ow);
                for (two, &value) in upper.chunks_exact_mut(2).zip(row) {
                    two.fill(MaybeUninit::new(factor * value));
                }
                upper[2 * w..].fill(zero);
                lower.copy_from_slice(upper);
            }
            out[2 * h * ow..].fill(zero);
        },
    );
    // SAFETY: every row of every plane is written in full.
    unsafe { out.set_len(len) };
    out
}

/// `factor` times the sum of each whole block of 2 by 2 pixels of planes of `h` by `w`.
pub(crate) fn gather(x: &[f32], [h, w]: [usize; 2], factor: f32) -> Vec<f32> {
    let (oh, ow) = (h / 2, w / 2);
    let mut out = vec![0.0; x.len() / (h * w).max(1) * oh * ow];
    out.par_chunks_exact_mut((oh * ow).max(1)).zip(x.par_chunks_exact((h * w).max(1))).for_each(|(out, x)| {
        for (out, pair) in out.chunks_exact_mut(ow).zip(x.chunks_exact(2 * w)) {
            let (upper, lower) = pair.split_at(w);
            for ((value, a), b) in out.iter_mut().zip(upper.chunks_exact(2)).zip(lower.chunks_exact(2)) {
                *value = factor * ((a[0] + a[1]) + (b[0] + b[1]));
            }
        }
    });
    out
}
