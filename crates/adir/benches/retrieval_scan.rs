//! Exact search against reading the same memory: `cargo bench --bench retrieval_scan -- [VECTORS] [DIMENSION]`.
//!
//! Reading is one pass of 64-bit sums over as many bytes, on the same threads. Both are the best of several
//! runs.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adir::encode::{Embedding, EncoderId};
use adir::retrieve::{Exclude, Index, Precision};
use rayon::prelude::*;

/// The shortest of seven runs.
fn best(mut run: impl FnMut()) -> Duration {
    let time = |_| {
        let start = Instant::now();
        run();
        start.elapsed()
    };
    (0..7).map(time).min().unwrap_or_default()
}

/// `n` values in [-1, 1].
fn values(n: usize, state: &mut u64) -> Vec<f32> {
    let draw = |_| {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(draw).collect()
}

fn main() {
    let numbers: Vec<usize> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let vectors = numbers.first().copied().unwrap_or(1_000_000);
    let dimension = numbers.get(1).copied().unwrap_or(512);
    let id = EncoderId { name: "bench".into(), weights: String::new(), preprocessing: String::new(), dimension };
    let encoder = Arc::new(id);
    let mut state = 1;
    let bytes = vectors * dimension * 2;

    let memory = vec![1u64; bytes / 8];
    let reading = best(|| {
        black_box(
            memory.par_chunks(1 << 17).map(|part| part.iter().fold(0u64, |a, b| a.wrapping_add(*b))).sum::<u64>(),
        );
    });
    drop(memory);

    let mut rows = (0..vectors).map(|i| (format!("{i:09}"), values(dimension, &mut state)));
    let index = Index::from_features(encoder.clone(), Precision::F16, Path::new("."), &mut rows).expect("valid");
    let query = Embedding::new(encoder, values(dimension, &mut state)).expect("valid");
    let searching = best(|| {
        black_box(index.nearest(&query, 20, &Exclude::default()).expect("same encoder"));
    });

    let (reading, searching) = (reading.as_secs_f64(), searching.as_secs_f64());
    let rate = |time: f64| bytes as f64 / time / 1e9;
    println!("{vectors} f16 vectors of {dimension}, {} threads, {bytes} bytes", rayon::current_num_threads());
    println!("reading      {:8.1} ms   {:5.1} GB/s", reading * 1e3, rate(reading));
    println!(
        "search of 20 {:8.1} ms   {:5.1} GB/s   {:.2} times reading",
        searching * 1e3,
        rate(searching),
        searching / reading
    );
}
