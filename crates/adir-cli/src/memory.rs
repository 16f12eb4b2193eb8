//! How much memory the program may still take.

use std::fs;

use adir::{Error, Result};

/// Memory the system can still give, in bytes, where it says so: what the machine has free, or what the process's group
/// or address space is limited to.
pub fn available() -> Option<u64> {
    [machine(), group(), address_space()].into_iter().flatten().min()
}

/// Refuses what needs more than that.
///
/// # Errors
/// [`Error::Limits`] with both numbers.
pub fn check(need: u64) -> Result<()> {
    match available() {
        Some(free) if need > free => Err(Error::short_of_memory(need, free)),
        _ => Ok(()),
    }
}

fn machine() -> Option<u64> {
    kilobytes(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")
}

/// What is left to the control group of the process, of either version. Its cache of files can be taken back.
fn group() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let second = own.lines().find_map(|line| line.strip_prefix("0::/"));
    let first = own.lines().find_map(|line| line.split_once(":memory:/")).map(|(_, path)| path);
    let left = |folder: String, most: &str, used: &str| -> Option<u64> {
        let read = |name: &str| fs::read_to_string(format!("{folder}/{name}")).ok();
        let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
        let statistics = read("memory.stat").unwrap_or_default();
        let files = statistics.lines().find_map(|line| line.strip_prefix("inactive_file ")?.parse().ok()).unwrap_or(0);
        Some(number(most)?.saturating_sub(number(used)?.saturating_sub(files)))
    };
    let second = second.and_then(|path| left(format!("/sys/fs/cgroup/{path}"), "memory.max", "memory.current"));
    let first = first.and_then(|path| {
        left(format!("/sys/fs/cgroup/memory/{path}"), "memory.limit_in_bytes", "memory.usage_in_bytes")
    });
    first.into_iter().chain(second).min()
}

/// What is left of the address space (`ulimit -v`).
fn address_space() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    let most: u64 = line.split_whitespace().next()?.parse().ok()?;
    let used = kilobytes(&fs::read_to_string("/proc/self/status").ok()?, "VmSize:")?;
    Some(most.saturating_sub(used))
}

/// The number behind a name in one of the system's tables, in bytes.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}
