//! `adir models pull`, `where` and `list`, and `--model ORG/NAME`, against a server inside the test.
#![cfg(unix)]

mod cache;
#[path = "../common/mod.rs"]
mod common;
mod faults;
mod python;
mod refusals;
mod server;

use std::fs;
use std::path::{Path, PathBuf};

use server::{COMMIT, Files, Hub, bytes};

/// Runs the program against a Hub and checks its exit code; what went to stdout and stderr.
#[track_caller]
fn expect(code: i32, hub: &Hub, folder: &Path, args: &[&str]) -> (String, String) {
    common::checked(code, args, hub.run(folder, args))
}

/// A model with weights that a server keeps elsewhere, and a small file.
fn small() -> Files {
    vec![
        ("config.json", b"{}".to_vec()),
        ("sub dir/model.safetensors", bytes(300_000, 1)),
        ("README.md", b"text".to_vec()),
    ]
}

/// Where a model lies in the cache of `folder`.
fn model(folder: &Path, id: &str) -> PathBuf {
    folder.join("hf/hub").join(format!("models--{}", id.replace('/', "--")))
}

fn snapshot(folder: &Path, id: &str) -> PathBuf {
    model(folder, id).join("snapshots").join(COMMIT)
}

/// The names of the files in a folder of a model, but not those of locks.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Checks that a pull of [`small`] is complete.
#[track_caller]
fn check_small(folder: &Path, id: &str) {
    for (name, bytes) in small().into_iter().filter(|(name, _)| *name != "README.md") {
        assert_eq!(fs::read(snapshot(folder, id).join(name)).unwrap(), bytes, "{name}");
        assert_eq!(fs::read(model(folder, id).join("blobs").join(server::blob(&bytes))).unwrap(), bytes, "{name}");
    }
    assert_eq!(fs::read_to_string(model(folder, id).join("refs/main")).unwrap(), COMMIT);
    assert_eq!(names(&model(folder, id).join("blobs")).len(), 2, "no part is left");
}
