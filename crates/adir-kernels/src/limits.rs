//! What happens at the limits that the system sets a process.

use std::alloc::{GlobalAlloc, Layout, System};

/// A write that would make a file larger than the system's limit for the process is an error of the write, from now on. By
/// default, Unix ends the process instead. Does nothing on other systems.
pub fn refuse_large_files() {
    #[cfg(unix)]
    // SAFETY: sets the disposition of one signal to one of the two that need no handler.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

/// The system's allocator for a program (`#[global_allocator]`) that is to end with a message and an exit code where the
/// system gives no memory. By default it would be aborted. Elsewhere than on Unix it is.
#[derive(Debug)]
pub struct OrExit {
    code: i32,
    message: fn() -> &'static str,
}

impl OrExit {
    /// Ends with `code` after writing the message to stderr. `message` must not allocate.
    pub const fn new(code: i32, message: fn() -> &'static str) -> Self {
        Self { code, message }
    }

    fn given(&self, block: *mut u8) -> *mut u8 {
        if block.is_null() {
            self.end();
        }
        block
    }

    #[cold]
    fn end(&self) {
        #[cfg(unix)]
        // SAFETY: writes the bytes of a text that lives as long as the program, and ends the process. Neither allocates,
        // and both may be called in any state.
        unsafe {
            let message = (self.message)();
            libc::write(libc::STDERR_FILENO, message.as_ptr().cast(), message.len());
            libc::_exit(self.code);
        }
    }
}

// SAFETY: every block comes from the system's allocator and goes back to it, with the layout of the caller.
unsafe impl GlobalAlloc for OrExit {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps to the contract of the trait, which is that of the system's allocator.
        self.given(unsafe { System.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        self.given(unsafe { System.alloc_zeroed(layout) })
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        self.given(unsafe { System.realloc(block, layout, size) })
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }
}
