//! Gradients of a batch in parts, which bounds memory and keeps every core busy.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::LossGradients;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Threads that compute parts of a batch, one part per thread.
///
/// On a CPU this beats spreading every operation over the threads: a part's feature maps stay in its core's
/// cache, and nothing waits for the slowest thread of every operation.
#[derive(Debug)]
pub struct Workers {
    pools: Vec<rayon::ThreadPool>,
}

impl Workers {
    /// Number of workers: the number of threads of the current rayon pool.
    pub fn available() -> usize {
        rayon::current_num_threads()
    }

    /// [`Workers::available`] workers.
    ///
    /// # Errors
    /// [`Error::Backend`] when the system gives no threads.
    pub fn new() -> Result<Self> {
        let pool = || {
            let built = rayon::ThreadPoolBuilder::new().num_threads(1).build();
            built.map_err(|e| Error::Backend(format!("cannot start a thread: {e}")))
        };
        Ok(Self { pools: (0..Self::available()).map(|_| pool()).collect::<Result<_>>()? })
    }

    /// The results of `task(0) .. task(count - 1)`, in that order.
    ///
    /// # Errors
    /// The first error of a task.
    pub fn map<T: Send>(&self, count: usize, task: impl Fn(usize) -> Result<T> + Sync) -> Result<Vec<T>> {
        let mut results = Vec::with_capacity(count);
        self.run(count, task, |result| results.push(result))?;
        Ok(results)
    }

    /// Runs `task(0) .. task(count - 1)` and takes their results in that order, as they become available.
    fn run<T: Send>(
        &self,
        count: usize,
        task: impl Fn(usize) -> Result<T> + Sync,
        mut take: impl FnMut(T) + Send,
    ) -> Result<()> {
        let next = AtomicUsize::new(0);
        // Results that arrive early wait here; a worker takes all that are next in order.
        let waiting = Mutex::new((0, std::collections::BTreeMap::<usize, T>::new(), &mut take));
        let failed: Mutex<Option<Error>> = Mutex::new(None);
        let work = || {
            loop {
                let k = next.fetch_add(1, Ordering::Relaxed);
                if k >= count {
                    return;
                }
                match task(k) {
                    Ok(result) => {
                        let mut guard = waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                        let (turn, results, take) = &mut *guard;
                        results.insert(k, result);
                        while let Some(result) = results.remove(turn) {
                            take(result);
                            *turn += 1;
                        }
                    }
                    Err(error) => {
                        next.store(count, Ordering::Relaxed);
                        failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(error);
                        return;
                    }
                }
            }
        };
        std::thread::scope(|scope| {
            for pool in self.pools.iter().take(count) {
                scope.spawn(|| pool.install(work));
            }
        });
        failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).map_or(Ok(()), Err)
    }
}

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
