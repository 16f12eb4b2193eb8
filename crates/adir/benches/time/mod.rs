//! The clock of the benchmarks of one operation at a time.

use std::time::{Duration, Instant};

/// Median and least milliseconds of a run, after one to warm up.
pub fn time(run: &mut dyn FnMut()) -> (f64, f64) {
    run();
    let begin = Instant::now();
    let mut times = Vec::new();
    while times.len() < 5 || begin.elapsed() < Duration::from_secs(2) {
        let start = Instant::now();
        run();
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[0])
}
