//! What programs are given by accident or ill will, command by command: settings that overflow, outputs that are devices,
//! names of any bytes, observations that cannot be read. Exit codes, one message, nothing half done.

use std::fs;
use std::process::{Command, Stdio};

mod common;
use common::{checked, command, expect, folder, part};

const TINY: &str = r#"{"in_channels":3,"out_channels":6,"model_channels":32,"num_res_blocks":1,"channel_mult":[1],
"attention_resolutions":[],"num_head_channels":32,"resblock_updown":true,"use_scale_shift_norm":true,
"noise_schedule":"linear","diffusion_steps":1000}"#;

fn scene(name: &str) -> std::path::PathBuf {
    let f = folder(name);
    part(&f.join("y.png"), 60, 60, 16);
    for k in 0..3 {
        part(&f.join(format!("g/{k}.png")), 40 + 20 * k, 60, 32);
    }
    fs::write(f.join("tiny.json"), TINY).unwrap();
    f
}

#[test]
fn settings_that_overflow_are_refused() {
    let f = scene("settings");
    let restore = ["restore", "y.png", "-o", "x.png", "--task", "sr2", "--adapt", "self"];
    let train = ["train", "g", "-o", "t.safetensors", "--model-config", "tiny.json", "--steps", "1", "--crop", "8"];
    let eval = ["eval", "g", "-o", "e", "--methods", "bicubic"];
    for (command, more) in [
        (&restore[..], ["--adapt-crop", "4294967296"]),
        (&restore, ["--adapt-micro-batch", "18446744073709551615"]),
        (&restore, ["--adapt-batch", "18446744073709551615"]),
        (&restore, ["--checkpoint-seconds", "nan"]),
        (&restore, ["--checkpoint-seconds", "-1"]),
        (&restore, ["--max-memory", "0"]),
        (&restore, ["--max-memory", "nan"]),
        (&restore, ["--max-memory", "-1"]),
        (&eval, ["--seeds", "0"]),
        (&eval, ["--count", "0"]),
        (&eval, ["--crop", "0"]),
        (&["index", "search", "i", "--image", "y.png"][..], ["-k", "0"]),
        (&train, ["--checkpoint-every", "nan"]),
        (&train, ["--checkpoint-every", "-1"]),
        (&train, ["--micro-batch", "18446744073709551615"]),
    ] {
        expect(2, &f, &[command, &more[..]].concat());
    }
    // What would fit into no memory is refused before the photographs are read.
    let huge = TINY.replace("\"model_channels\":32", "\"model_channels\":4096").replace("[1]", "[8]");
    fs::write(f.join("huge.json"), huge).unwrap();
    let huge = ["train", "g", "-o", "t.safetensors", "--model-config", "huge.json", "--steps", "1", "--crop", "8"];
    assert!(expect(5, &f, &huge).1.contains("GB of memory"));
    assert_eq!(fs::read_dir(&f).unwrap().count(), 4, "nothing was written");
    fs::remove_dir_all(f).unwrap();
}

#[test]
fn results_that_would_be_taken_for_inputs_are_refused() {
    let f = scene("results");
    for output in ["g", "g/deep/er", "./g/../g"] {
        let (_, err) = expect(2, &f, &["eval", "g", "-o", output, "--methods", "bicubic"]);
        assert!(err.contains("count as its images"), "{err}");
    }
    let (_, err) = expect(2, &f, &["restore", "g", "-o", "-", "--task", "sr2"]);
    assert!(err.contains("holds one picture"), "{err}");
    assert_eq!(fs::read_dir(f.join("g")).unwrap().count(), 3, "nothing was written");
    fs::remove_dir_all(f).unwrap();
}

#[test]
fn messages_have_an_end() {
    let f = scene("long");
    fs::write(f.join("k.txt"), "a".repeat(1 << 20)).unwrap();
    let (_, err) = expect(3, &f, &["degrade", "y.png", "-o", "x.png", "--task", "deblur", "--kernel", "k.txt"]);
    assert!(err.len() < 300, "{} bytes", err.len());
    let name = "n".repeat(5000);
    let (_, err) = expect(2, &f, &["adapt", "create", "y.png", "--adapt", "self", "--name", &name]);
    assert!(err.len() < 2500 && err.contains("characters ...]"), "{} bytes", err.len());
    fs::remove_dir_all(f).unwrap();
}

/// `-o` with a pipe, which stands for devices, too: it is still there afterwards, whatever the command.
#[cfg(unix)]
#[test]
fn what_is_no_file_is_not_replaced() {
    let f = scene("pipes");
    for name in ["p.png", "p.safetensors", "p.index", "p.json", "p.html", "p.md"] {
        assert!(Command::new("mkfifo").arg(f.join(name)).status().unwrap().success());
    }
    let sr2 = ["restore", "y.png", "--task", "sr2", "--steps", "1", "--overwrite", "-o"];
    let adapt = ["--iterations", "1", "--adapt-crop", "16", "--no-cache", "--overwrite"];
    let cases: [Vec<&str>; 7] = [
        [&sr2[..], &["p.png"]].concat(),
        [&sr2[..], &["x.png", "--record", "p.json"]].concat(),
        [&sr2[..], &["x.png", "--report", "p.html"]].concat(),
        vec!["degrade", "y.png", "-o", "p.png", "--task", "sr2", "--overwrite"],
        vec!["index", "build", "g", "-o", "p.index"],
        [&["adapt", "create", "y.png", "--adapt", "self", "-o", "p.safetensors"], &adapt[..]].concat(),
        vec!["train", "g", "-o", "p.safetensors", "--model-config", "tiny.json", "--steps", "1", "--overwrite"],
    ];
    for args in &cases {
        let output = command(&f, args).stdin(Stdio::null()).output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert!([Some(2), Some(3)].contains(&output.status.code()), "{args:?} {:?}: {err}", output.status);
        assert!(!f.join("x.png").exists(), "{args:?} computed");
    }
    use std::os::unix::fs::FileTypeExt;
    let is_pipe = |name: &str| fs::metadata(f.join(name)).unwrap().file_type().is_fifo();
    assert!(["p.png", "p.safetensors", "p.index", "p.json", "p.html"].iter().all(|name| is_pipe(name)));
    fs::remove_dir_all(f).unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn a_kernel_has_any_name() {
    use std::os::unix::ffi::OsStrExt;
    let f = scene("kernel");
    let name = std::ffi::OsStr::from_bytes(b"k\xff.txt");
    fs::write(f.join(name), "1 2 1\n").unwrap();
    fs::write(f.join("k.txt"), "1 2 1\n").unwrap();
    for (kernel, output) in [(name, "a.png"), ("k.txt".as_ref(), "b.png")] {
        let args = ["restore", "y.png", "-o", output, "--task", "deblur", "--steps", "2", "--kernel"];
        checked(0, &args, command(&f, &args).arg(kernel).output().unwrap());
    }
    assert_eq!(fs::read(f.join("a.png")).unwrap(), fs::read(f.join("b.png")).unwrap());
    let args = ["degrade", "y.png", "--task", "deblur", "--overwrite", "-o"];
    checked(2, &args, command(&f, &args).arg(name).arg("--kernel").arg(name).output().unwrap());
    assert_eq!(fs::read(f.join(name)).unwrap(), b"1 2 1\n");
    fs::remove_dir_all(f).unwrap();
}

/// A record cannot hold a name that is not UTF-8, and says so when it is to be repeated.
#[cfg(target_os = "linux")]
#[test]
fn a_replay_says_that_a_name_is_lost() {
    use std::os::unix::ffi::OsStrExt;
    let f = scene("lost");
    let name = std::ffi::OsStr::from_bytes(b"y\xff.png");
    fs::rename(f.join("y.png"), f.join(name)).unwrap();
    let args = ["restore", "-o", "x.png", "--task", "sr2", "--steps", "2"];
    checked(0, &args, command(&f, &args).arg(name).output().unwrap());
    let (_, err) = expect(3, &f, &["replay", "x.png.json"]);
    assert!(err.contains("its name was probably not UTF-8"), "{err}");
    fs::remove_dir_all(f).unwrap();
}

/// Where --overwrite would not help, it is not advised.
#[test]
fn a_foreign_record_is_to_be_moved() {
    let f = scene("foreign");
    fs::copy(f.join("y.png"), f.join("x.png")).unwrap();
    fs::write(f.join("x.png.json"), "{}").unwrap();
    for overwrite in [&[][..], &["--overwrite"]] {
        let (_, err) = expect(2, &f, &[&["restore", "y.png", "-o", "x.png", "--task", "sr2"], overwrite].concat());
        assert!(err.contains("move it away") && !err.contains("use --overwrite"), "{err}");
    }
    fs::remove_dir_all(f).unwrap();
}

/// One broken observation of several stops nothing, and the exit code tells of it.
#[test]
fn observations_that_cannot_be_read_are_left_out() {
    let f = scene("broken");
    for k in 0..2 {
        part(&f.join(format!("obs/{k}.png")), 50 + 20 * k, 70, 32);
    }
    fs::write(f.join("obs/broken.png"), "no image").unwrap();
    let eval = ["eval", "obs", "-o", "ev", "--tasks", "sr2", "--methods", "bicubic", "--count", "3", "--crop", "32"];
    let (_, err) = expect(1, &f, &eval);
    assert!(err.contains("left out: obs/broken.png") && f.join("ev/table.md").is_file(), "{err}");
    let create = ["adapt", "create", "obs", "--gallery", "g", "--iterations", "1", "--adapt-crop", "16"];
    let (out, err) = expect(1, &f, &[&create[..], &["--adapt", "gallery", "--no-cache", "-o", "ad"]].concat());
    assert!(err.contains("left out: obs/broken.png") && out.contains("serves obs/1.png"), "{out}{err}");
    for name in ["0.png", "1.png"] {
        fs::write(f.join("obs").join(name), "no image").unwrap();
    }
    expect(3, &f, &eval);
    expect(3, &f, &[&create[..], &["--adapt", "gallery", "--no-cache", "-o", "ad2"]].concat());
    fs::remove_dir_all(f).unwrap();
}

/// A file that appears in the place of a result while it is computed stays.
#[test]
fn what_appears_meanwhile_is_not_replaced() {
    let f = scene("race");
    let args = ["restore", "y.png", "-o", "x.png", "--task", "sr2", "--steps", "40", "--log-format", "json"];
    let mut child = command(&f, &args).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("\"event\":\"step\"") {
        line.clear();
        assert!(std::io::BufRead::read_line(&mut log, &mut line).unwrap() > 0);
    }
    fs::write(f.join("x.png"), "precious").unwrap();
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut log, &mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(2), "{rest}");
    assert!(rest.contains("meanwhile"), "{rest}");
    assert_eq!(fs::read(f.join("x.png")).unwrap(), b"precious");
    fs::remove_dir_all(f).unwrap();
}
