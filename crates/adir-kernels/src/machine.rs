//! What tests and benchmarks may change of the kernels: on threads of their own, which nothing else runs on.
//!
//! Kernels look here on the thread that runs them. Only the threads of the pool that [`with`] starts have anything but
//! the defaults, so that no request can change what another one computes.

use std::cell::Cell;

use crate::Isa;

/// How kernels compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Machine {
    /// The instruction set; by default the widest that there is. Results differ in the last bits.
    pub isa: Option<Isa>,
    /// Whether convolutions may use Winograd's algorithm. Without it every sum is taken directly, which is slower and
    /// rounds less.
    pub winograd: bool,
}

impl Default for Machine {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl Machine {
    const DEFAULT: Self = Self { isa: None, winograd: true };
}

thread_local! {
    static CURRENT: Cell<Machine> = const { Cell::new(Machine::DEFAULT) };
}

/// Runs `task` on new threads, as many as the current pool has, whose kernels compute as `machine` says.
///
/// # Panics
/// If this processor lacks the instruction set, or the system gives no threads.
pub fn with<T: Send>(machine: Machine, task: impl FnOnce() -> T + Send) -> T {
    assert!(machine.isa.is_none_or(Isa::is_available), "this processor has no {:?}", machine.isa);
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(rayon::current_num_threads())
        .start_handler(move |_| CURRENT.set(machine))
        .build()
        .expect("threads to test on");
    pool.install(task)
}

/// How kernels compute on this thread.
#[inline(always)]
pub(crate) fn current() -> Machine {
    CURRENT.get()
}
