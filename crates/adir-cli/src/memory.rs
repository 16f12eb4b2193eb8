//! Refusing work that does not fit, before it starts.

use adir::{Error, Result};

/// Errors with [`Error::Limits`] when `need` bytes are more than the machine has free. Only the CPU's memory
/// is known; other devices report their own failures.
pub fn check(need: u64, device: &str) -> Result<()> {
    match available() {
        Some(free) if device == "cpu" && need > free => Err(Error::Limits(format!(
            "this needs about {:.1} GB of memory, {:.1} GB are free",
            need as f64 / 1e9,
            free as f64 / 1e9
        ))),
        _ => Ok(()),
    }
}

/// Memory the system can still give, where it says so.
fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kb| kb * 1024)
}
