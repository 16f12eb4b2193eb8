//! Temporary buffers that outlive the call, so that the steady state allocates nothing.
//!
//! Buffers start on a cache line: a vector load that crosses two lines costs double.

use std::sync::{Mutex, PoisonError};

/// Numbers behind the requested length that may be read (never meaningfully), so that a kernel may load whole
/// vectors at the end of a buffer.
const SLACK: usize = 32;
/// Buffers kept for reuse hold at most this many bytes together; beyond it they are freed on return.
const KEPT_BYTES: usize = 512 << 20;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

struct Pool {
    free: Vec<Vec<Line>>,
    bytes: usize,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { free: Vec::new(), bytes: 0 });

/// A buffer on loan: its contents are whatever the last borrower left.
pub(crate) struct Scratch {
    lines: Vec<Line>,
}

impl Scratch {
    /// Borrows a buffer of at least `len` numbers and the slack behind them.
    pub(crate) fn take(len: usize) -> Scratch {
        let lines = (len + SLACK).div_ceil(16);
        let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = |buffer: &Vec<Line>| buffer.len() >= lines && buffer.len() / 4 <= lines;
        let best = (0..pool.free.len()).filter(|&i| fits(&pool.free[i])).min_by_key(|&i| pool.free[i].len());
        if let Some(index) = best {
            let buffer = pool.free.swap_remove(index);
            pool.bytes -= size_of_val(buffer.as_slice());
            return Scratch { lines: buffer };
        }
        drop(pool);
        Scratch { lines: vec![Line([0.0; 16]); lines] }
    }

    pub(crate) fn as_ptr(&self) -> *const f32 {
        self.lines.as_ptr().cast()
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut f32 {
        self.lines.as_mut_ptr().cast()
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(self.lines.as_slice())
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let bytes = self.bytes();
        let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes > 0 && pool.bytes + bytes <= KEPT_BYTES {
            pool.bytes += bytes;
            pool.free.push(std::mem::take(&mut self.lines));
        }
    }
}
