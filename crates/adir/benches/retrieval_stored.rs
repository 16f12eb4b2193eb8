//! Search in an index that stays in its file, against reading as many bytes of memory:
//! `cargo bench --bench retrieval_stored -- FILE [VECTORS] [DIMENSION]`.
//!
//! The index is made of synthetic vectors, unless FILE is there. Reading memory is one pass of 64-bit sums, on the same
//! threads, over as many bytes as the index has but at most 4 GB, from which the time for all is derived. Reading the file is
//! one pass over it as the system gives it, piece by piece, without looking at the bytes.

use std::fs::File;
use std::hint::black_box;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use adir::encode::{Embedding, EncoderId};
use adir::retrieve::{Exclude, Index, Precision};
use rayon::prelude::*;

/// Most bytes of memory that are read to know its speed.
const MEMORY: usize = 4_000_000_000;

/// The shortest of seven runs.
fn best(mut run: impl FnMut()) -> Duration {
    let time = |_| {
        let start = Instant::now();
        run();
        start.elapsed()
    };
    (0..7).map(time).min().unwrap_or_default()
}

/// Values in [-1, 1].
fn values(n: usize, state: &mut u64) -> Vec<f32> {
    let draw = |_| {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(draw).collect()
}

/// Reads a file on all threads, a part each.
fn read(file: &Path) {
    let length = file.metadata().expect("a file").len();
    let threads = rayon::current_num_threads() as u64;
    (0..threads as usize).into_par_iter().with_max_len(1).for_each(|part| {
        let at = |part: usize| length * part as u64 / threads;
        let (start, end) = (at(part), at(part + 1));
        let mut file = File::open(file).expect("a file");
        file.seek(SeekFrom::Start(start)).expect("a place in it");
        let (mut left, mut piece) = (end - start, vec![0; 256 << 10]);
        while left > 0 {
            let length = piece.len().min(left as usize);
            file.read_exact(&mut piece[..length]).expect("its bytes");
            left -= black_box(&piece[..length]).len() as u64;
        }
    });
}

/// Most memory that the process has had, and what it has of its own now, in MB, where the system tells.
fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let of = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).map_or(0, |kib| kib / 1024)
    };
    format!("{} MB of memory, at most {} MB", of("VmRSS:"), of("VmHWM:"))
}

fn main() {
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let file = args.next().map_or_else(|| PathBuf::from("target/stored.index"), PathBuf::from);
    let numbers: Vec<usize> = args.filter_map(|arg| arg.parse().ok()).collect();
    let vectors = numbers.first().copied().unwrap_or(1_000_000);
    let dimension = numbers.get(1).copied().unwrap_or(512);
    let id = EncoderId { name: "bench".into(), weights: String::new(), preprocessing: String::new(), dimension };
    let encoder = Arc::new(id);
    let mut state = 1;

    if !file.exists() {
        let start = Instant::now();
        let names = (0..vectors).map(|i| format!("{:05}.tar/{i:09}.jpg", i / 10_000)).collect();
        let rows = (0..vectors).map(|_| Ok(values(dimension, &mut state)));
        Index::import(&file, &encoder, Precision::F16, Path::new("."), names, rows).expect("written");
        println!("writing      {:8.1} s    {}", start.elapsed().as_secs_f64(), memory());
    }
    let start = Instant::now();
    let index = Index::open_within(&file, 0).expect("an index");
    let opening = start.elapsed();
    let bytes = index.len() * dimension * 2;
    println!("{} f16 vectors of {dimension}, {} threads, {bytes} bytes", index.len(), rayon::current_num_threads());
    println!("opening      {:8.1} ms", opening.as_secs_f64() * 1e3);

    let query = Embedding::new(encoder, values(dimension, &mut state)).expect("valid");
    let nearest = || index.nearest(&query, 20, &Exclude::default()).expect("a search");
    let start = Instant::now();
    let found = nearest();
    let first = start.elapsed();
    let entries: Vec<String> = found.iter().map(|n| index.entry(n.id).expect("an entry").path).collect();
    let searching = best(|| drop(black_box(nearest())));
    println!("of the search: {}; nearest: {} at {:.4}", memory(), entries[0], found[0].distance);

    let part = bytes.min(MEMORY) / 8;
    let held = vec![1u64; part];
    let reading = best(|| {
        black_box(held.par_chunks(1 << 17).map(|part| part.iter().fold(0u64, |a, b| a.wrapping_add(*b))).sum::<u64>());
    });
    let reading = reading.as_secs_f64() * bytes as f64 / (8 * part) as f64;
    let of_file = best(|| read(&file)).as_secs_f64();
    let rate = |time: f64| bytes as f64 / time / 1e9;
    println!("reading memory   {:8.1} ms   {:5.1} GB/s", reading * 1e3, rate(reading));
    println!("reading the file {:8.1} ms   {:5.1} GB/s", of_file * 1e3, rate(of_file));
    for (name, time) in [("first search of 20", first), ("further searches", searching)] {
        let time = time.as_secs_f64();
        println!(
            "{name}: {:8.1} ms   {:5.1} GB/s   {:.2} times reading memory, {:.2} times reading the file",
            time * 1e3,
            rate(time),
            time / reading,
            time / of_file
        );
    }
}
