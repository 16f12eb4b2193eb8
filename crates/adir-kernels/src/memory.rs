//! What happens to memory that was freed.

/// Freed memory stays with the program for its next maps, from now on.
///
/// glibc gives large blocks back to the system when they are freed, and a network frees and takes hundreds of large maps a
/// second: measured at 512x512, the system's work of clearing their pages took as long as the arithmetic. The price is
/// a peak that is some tenths higher. Does nothing on other systems.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: mallopt takes two numbers and sets the allocator's thresholds, under the allocator's own lock.
    unsafe {
        if libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 30) == 0 {
            // The most that older versions of glibc accept.
            libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20);
        }
        libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX);
    }
}
