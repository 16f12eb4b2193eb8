//! What a test watches of its own process, on Linux; `None` elsewhere. Tests of other crates include this file by path.

use std::time::Duration;

/// Peak resident memory in bytes since the last reset.
pub fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kb| kb * 1024)
}

/// Time this thread has spent computing, whatever else the machine was doing.
pub fn computing() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    stat.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}
