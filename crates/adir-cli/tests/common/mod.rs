//! What the tests of the program share: folders of their own, runs with their exit codes, and parts of the sample photo.

#![allow(dead_code, reason = "every test program uses a part of it")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use adir::io::image::{Picture, WriteOptions, write_image};
use adir::metric::psnr_rgb;
use adir::models::stable_diffusion::{Architecture, write_random};
use adir::noise::{Noise, Stream};
use adir::tensor::{DType, Tensor, cpu, from_f32};
use serde_json::Value;

/// An empty folder of that name, for this process.
pub fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("adir-{}-{}-{name}", env!("CARGO_CRATE_NAME"), std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// An empty folder of that name, with a small latent diffusion model of random weights in `model`.
pub fn with_model(name: &str, architecture: Architecture) -> PathBuf {
    let folder = folder(name);
    write_random(architecture, true, 1, &folder.join("model")).unwrap();
    folder
}

/// A part of the sample photo, of at most 96x96 pixels, as a file.
pub fn picture(path: &Path, height: usize, width: usize) -> Tensor<4> {
    let x = photo(96).narrow(2, 0, height).narrow(3, 0, width);
    write_image(path, &x, &WriteOptions::default()).unwrap();
    x
}

/// Checks the exit code of a run with `args`, and returns what went to stdout and stderr.
#[track_caller]
pub fn checked(code: i32, args: &[&str], output: Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{args:?}\n{out}{err}");
    assert!(!err.contains("panicked"), "{err}");
    (out, err)
}

/// The program in `folder`, with its cache there, as if no scheduler had started it.
pub fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_adir"));
    command.args(args).current_dir(folder).env("XDG_CACHE_HOME", folder.join("home"));
    for name in ["HQ_TASK_ID", "JOB_COMPLETION_INDEX", "SLURM_ARRAY_TASK_ID"] {
        command.env_remove(name);
    }
    command
}

/// Runs [`command`], checks its exit code, and returns what went to stdout and stderr.
#[track_caller]
pub fn expect(code: i32, folder: &Path, args: &[&str]) -> (String, String) {
    checked(code, args, command(folder, args).output().unwrap())
}

pub fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// A file of the examples.
pub fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name)
}

/// A square of the sample photo, `[1, 3, side, side]`.
pub fn square(top: usize, left: usize, side: usize) -> Tensor<4> {
    Picture::read(example("cat.png")).unwrap().tensor.narrow(2, top, side).narrow(3, left, side)
}

/// The same as a file.
pub fn part(path: &Path, top: usize, left: usize, side: usize) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    write_image(path, &square(top, left, side), &WriteOptions::default()).unwrap();
}

/// A mask of side x side pixels, whose upper left quarter is unknown, as a file.
pub fn quarter_mask(path: &Path, side: usize) {
    let unknown = |i: usize| i / side < side / 2 && i % side < side / 2;
    let levels = (0..side * side).map(|i| if unknown(i) { 1.0 } else { -1.0 }).collect();
    write_image(path, &from_f32(levels, [1, 1, side, side], &cpu()), &WriteOptions::default()).unwrap();
}

/// A square of the sample photo with much in it.
pub fn photo(side: usize) -> Tensor<4> {
    square(60, 60, side)
}

/// With noise of that many grey levels.
pub fn with_noise(x: Tensor<4>, levels: f64) -> Tensor<4> {
    let noise = Noise::new(5, Stream::Degradation).normal_tensor(0, x.dims(), &cpu(), DType::F32);
    x + noise * (levels / 127.5)
}

pub fn psnr(a: &Tensor<4>, b: &Tensor<4>) -> f64 {
    psnr_rgb(a, b).unwrap()[0]
}
