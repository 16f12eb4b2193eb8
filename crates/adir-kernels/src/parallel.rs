//! Loops over independent tasks on the threads of the current rayon pool.
//!
//! The tasks of an operation are fixed by its shapes, and each writes its own part of the result in a fixed
//! order: the number of threads decides only who runs a task, never what it computes.

use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

/// Tasks up to which [`hand_out`] gives them out one by one.
const FEW: usize = 16;

/// Runs `task(0), .., task(count - 1)`, neighbours preferably on one thread.
pub(crate) fn for_each(count: usize, task: impl Fn(usize) + Sync + Send) {
    if count == 1 {
        task(0);
    } else {
        (0..count).into_par_iter().for_each(task);
    }
}

/// [`for_each`] for large tasks, the largest first. A few are given out one by one to whoever is free: in halves, one thread
/// may get twice the work of another. Many are not, because their neighbours share what they read.
pub(crate) fn hand_out(count: usize, task: impl Fn(usize) + Sync + Send) {
    if count > FEW {
        return for_each(count, task);
    }
    let next = AtomicUsize::new(0);
    (0..rayon::current_num_threads().min(count)).into_par_iter().with_max_len(1).for_each(|_| {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= count {
                break;
            }
            task(i);
        }
    });
}

/// A pointer that tasks may share because each writes a part no other touches.
#[derive(Clone, Copy)]
pub(crate) struct SharedMut(pub *mut f32);

// SAFETY: the pointer is only a number here; whoever writes through it states why the part is its own.
unsafe impl Send for SharedMut {}
// SAFETY: as above.
unsafe impl Sync for SharedMut {}

impl SharedMut {
    /// # Safety
    /// `offset` must stay inside the buffer.
    pub(crate) unsafe fn add(self, offset: usize) -> *mut f32 {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(offset) }
    }
}

/// A pointer to what tasks only read.
#[derive(Clone, Copy)]
pub(crate) struct Shared(pub *const f32);

// SAFETY: tasks only read through it, and the buffer outlives the parallel loop.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// The pointer itself. A method, because a closure that names the field captures the bare pointer.
    pub(crate) fn get(self) -> *const f32 {
        self.0
    }

    /// # Safety
    /// `offset` must stay inside the buffer.
    pub(crate) unsafe fn add(self, offset: usize) -> *const f32 {
        // SAFETY: the caller's promise.
        unsafe { self.0.add(offset) }
    }
}

/// A vector of `len` numbers that `fill` writes in full.
///
/// # Safety
/// `fill` must write every one of the `len` numbers behind the pointer.
pub(crate) unsafe fn filled(len: usize, fill: impl FnOnce(SharedMut)) -> Vec<f32> {
    let mut out = Vec::with_capacity(len);
    fill(SharedMut(out.as_mut_ptr()));
    // SAFETY: the capacity is `len` and `fill` has written all of it, the caller's promise.
    unsafe { out.set_len(len) };
    out
}
