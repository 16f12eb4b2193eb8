//! `adir doctor`: what this machine and this build can do, and what they cannot and why.

use std::fs;
use std::path::Path;

use adir::compute::Precision;
use adir::compute::Workers;
use adir::engine::Cache;
use adir::io::tally::counted;
use adir::tensor::{Compute, Isa};
use adir::{Error, Result};
use clap::Args;
use serde_json::{Value, json};

use crate::memory;
use crate::store::Store;

/// Devices that a build may be made with.
const GPUS: [&str; 4] = ["cuda", "vulkan", "metal", "rocm"];

/// Show devices, instruction set, threads, memory and caches, and what cannot be used and why.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    store: Store,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// A line of the answer.
struct Line {
    name: String,
    text: String,
    /// Whether it can be used.
    usable: bool,
    value: Value,
}

pub fn run(args: &DoctorArgs) -> Result<u8> {
    let mut lines = vec![program(), instructions(), threads(), free_memory()];
    lines.push(device("cpu"));
    lines.extend(GPUS.map(device));
    lines.push(precision());
    lines.extend(cache(&args.store));
    if args.json {
        let fields = lines.into_iter().map(|line| (line.name, line.value));
        say!("{}", Value::Object(fields.collect()))?;
        return Ok(crate::exit::DONE);
    }
    for Line { name, text, usable, .. } in lines {
        say!("{name:<14} {}{text}", if usable { "" } else { "not usable: " })?;
    }
    Ok(crate::exit::DONE)
}

fn line(name: impl Into<String>, text: impl Into<String>, value: Value) -> Line {
    Line { name: name.into(), text: text.into(), usable: true, value }
}

fn program() -> Line {
    let text = format!("adir {} for {} {}", env!("CARGO_PKG_VERSION"), std::env::consts::ARCH, std::env::consts::OS);
    line("program", text.clone(), json!(text))
}

fn instructions() -> Line {
    let known: Vec<String> = Isa::available().iter().map(Isa::to_string).collect();
    let used = Isa::active();
    line("instructions", format!("{used} (of {})", known.join(", ")), json!({"used": used.to_string(), "known": known}))
}

fn threads() -> Line {
    let used = Workers::available();
    let cores = std::thread::available_parallelism().map_or(used, std::num::NonZero::get);
    let why = if std::env::var_os("RAYON_NUM_THREADS").is_some() { " (RAYON_NUM_THREADS)" } else { "" };
    line("threads", format!("{used} of {cores}{why}"), json!({"used": used, "cores": cores}))
}

fn free_memory() -> Line {
    let free = memory::available();
    let text = match free {
        Some(free) => format!("{} may be taken", size(free)),
        None => "the system does not say how much is free: nothing is refused for lack of it".to_owned(),
    };
    line("memory", text, json!({"free": free}))
}

fn device(name: &str) -> Line {
    match Compute::named(name, Precision::F32) {
        Ok(_) => line(name, "usable", json!({"usable": true})),
        Err(error) => unusable(name, &error),
    }
}

fn unusable(name: &str, error: &Error) -> Line {
    let text = error.to_string();
    Line { name: name.into(), value: json!({"usable": false, "why": text}), text, usable: false }
}

fn precision() -> Line {
    match Compute::named("cpu", Precision::Bf16) {
        Ok(_) => line("bf16", "usable on the CPU", json!({"usable": true})),
        Err(error) => unusable("bf16", &error),
    }
}

/// The cache, and what it holds.
fn cache(store: &Store) -> Vec<Line> {
    let cache = match store.open() {
        Ok(cache) => cache,
        Err(error) => return vec![unusable("cache", &error)],
    };
    let folder = cache.folder();
    let mut lines = vec![match cache.check() {
        Ok(()) => line("cache", folder.display().to_string(), json!({"usable": true, "folder": shown(folder)})),
        Err(error) => unusable("cache", &error),
    }];
    for name in ["adapters", "indexes"] {
        let (files, bytes) = holdings(&folder.join(name));
        let text = format!("{}, {}", counted(files, "file"), size(bytes));
        lines.push(line(name, text, json!({"files": files, "bytes": bytes})));
    }
    lines
}

fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Number and bytes of the files in a folder; none where it cannot be listed.
fn holdings(folder: &Path) -> (usize, u64) {
    let files = fs::read_dir(folder).into_iter().flatten().filter_map(|file| file.ok()?.metadata().ok());
    files.filter(fs::Metadata::is_file).fold((0, 0), |(files, bytes), file| (files + 1, bytes + file.len()))
}

/// Bytes as people tell them.
fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.1} GB", bytes as f64 / 1e9),
    }
}
