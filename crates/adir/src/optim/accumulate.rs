//! Gradients of a batch in parts, which bounds memory and keeps every core busy.

use super::LossGradients;
use crate::compute::Workers;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Loss and gradients of `count` images, in parts of at most `part`. `compute(first, n, share)` returns the mean loss
/// over n images from `first` on and its gradients, both multiplied by `share` = n / count.
///
/// The sum is taken in the order of the parts, so it does not depend on the number of workers. Without workers
/// the parts are computed one after the other.
///
/// # Errors
/// The first error of `compute`; [`Error::Config`] for an empty batch or part.
pub fn accumulate(
    count: usize,
    part: usize,
    workers: Option<&Workers>,
    compute: impl Fn(usize, usize, f64) -> Result<LossGradients> + Sync,
) -> Result<LossGradients> {
    if count == 0 || part == 0 {
        return Err(Error::config(format!(
            "a batch of {count} images in parts of {part}: expected at least 1 of each"
        )));
    }
    let mut sum = LossGradients { loss: 0.0, gradients: Vec::new() };
    let parts = count.div_ceil(part);
    let size = |k: usize| part.min(count - k * part);
    let compute = |k: usize| compute(k * part, size(k), size(k) as f64 / count as f64);
    let mut take = |found: LossGradients| {
        sum.loss += found.loss;
        sum.gradients = match std::mem::take(&mut sum.gradients) {
            none if none.is_empty() => found.gradients,
            held => held.into_iter().zip(found.gradients).map(|(a, b)| add(a, b)).collect(),
        };
    };
    match workers {
        Some(workers) if parts > 1 => workers.run(parts, compute, take)?,
        _ => (0..parts).try_for_each(|k| compute(k).map(&mut take))?,
    }
    Ok(sum)
}

/// The sum of two gradients that may be absent.
pub(crate) fn add(a: Option<Tensor<1>>, b: Option<Tensor<1>>) -> Option<Tensor<1>> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a + b),
        (a, b) => a.or(b),
    }
}
