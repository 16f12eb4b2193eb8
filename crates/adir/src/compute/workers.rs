//! Threads that compute independent parts, one part per thread.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

use crate::tensor::{Device, is_cpu};
use crate::{Error, Result};

/// Runs `task`, which computes on `device`; for the CPU on a thread of the rayon pool, unless this is one. Its operations,
/// one after the other, then need not each wake that thread and wait for it, which takes a tenth of the time of a small
/// network on two threads.
///
/// `task` must neither wait for another thread that computes in the same pool nor hold a lock while it does so itself: a
/// thread of the pool that waits takes on what others ask for.
pub(crate) fn in_pool<R: Send>(device: &Device, task: impl FnOnce() -> R + Send) -> R {
    if is_cpu(device) && rayon::current_thread_index().is_none() { rayon::scope(|_| task()) } else { task() }
}

/// The value of `cell`, which `make` makes if there is none. Unlike [`OnceLock::get_or_init`] it holds no lock meanwhile: a
/// thread of the pool that waits in `make` may take on a task that asks for the same value. That one is made twice then.
pub(crate) fn get_or_make<T>(cell: &OnceLock<T>, make: impl FnOnce() -> T) -> &T {
    match cell.get() {
        Some(value) => value,
        None => {
            let value = make();
            cell.get_or_init(|| value)
        }
    }
}

/// Threads that compute parts of a batch, or tiles of an image, one part per thread.
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

    /// Starts the threads that everything shares. Without it their first use starts them, and panics where the system gives
    /// none.
    ///
    /// # Errors
    /// [`Error::Limits`] when the system gives no threads, and when they were started before.
    pub fn start_shared() -> Result<()> {
        rayon::ThreadPoolBuilder::new().build_global().map_err(no_thread)
    }

    /// [`Workers::available`] workers.
    ///
    /// # Errors
    /// [`Error::Limits`] when the system gives no threads.
    pub fn new() -> Result<Self> {
        let pool = || {
            let built = rayon::ThreadPoolBuilder::new().num_threads(1).build();
            built.map_err(no_thread)
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
    ///
    /// # Errors
    /// The first error of a task.
    pub fn run<T: Send>(
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
        on_each(&self.pools[..self.pools.len().min(count)], &work);
        failed.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).map_or(Ok(()), Err)
    }
}

/// The error where the system refuses a thread.
pub(crate) fn no_thread(why: impl std::fmt::Display) -> Error {
    Error::Limits(format!("cannot start a thread: memory or the number of processes does not suffice ({why})"))
}

/// Runs `work` once on each pool, at the same time; returns when all are done. No thread is started: a system may
/// refuse one at any moment.
fn on_each(pools: &[rayon::ThreadPool], work: &(impl Fn() + Sync)) {
    if let Some((pool, rest)) = pools.split_first() {
        pool.in_place_scope(|scope| {
            scope.spawn(|_| work());
            on_each(rest, work);
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use super::{get_or_make, in_pool};
    use crate::tensor::cpu;

    /// A value may be asked for while it is made, as by a thread that takes on another task. `OnceLock` itself would wait
    /// for ever.
    #[test]
    fn values_are_made_without_a_lock() {
        let cell = OnceLock::new();
        assert_eq!(*get_or_make(&cell, || 1 + *get_or_make(&cell, || 1)), 1);
        assert_eq!(cell.get(), Some(&1));
    }

    /// What is not in the pool is taken there once, and what is stays on its thread.
    #[test]
    fn tasks_for_the_cpu_run_in_the_pool() {
        let here = rayon::current_thread_index;
        assert_eq!(here(), None);
        let (outer, inner) = in_pool(&cpu(), || (here(), in_pool(&cpu(), here)));
        assert!(outer.is_some() && outer == inner);
    }
}
