//! Kills, signals and limits of the system, at random times and at many levels. Each test has a quick form and a long one,
//! which prints the numbers of docs/results/reliability.md:
//!
//! `cargo test --release -p adir-cli --test interruptions -- --ignored --nocapture --test-threads 1`
#![cfg(unix)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use adir::io::image::{WriteOptions, write_image};
use adir::noise::{Noise, Stream};
use adir::tensor::{DType, cpu};

mod common;
use common::{command, folder, part};

#[track_caller]
fn done(folder: &Path, args: &[&str]) -> Output {
    let output = command(folder, args).output().unwrap();
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn spawn(folder: &Path, args: &[&str]) -> Child {
    command(folder, args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

fn said(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn send(child: &Child, signal: &str) {
    // It may have ended by itself.
    let _ = Command::new("kill").args([signal, &child.id().to_string()]).stderr(Stdio::null()).status().unwrap();
}

/// Numbers between 0 and 1 that are the same in every run.
fn random(stream: u64) -> impl FnMut() -> f64 {
    let mut state = stream;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// How long that takes, after a first time.
fn duration(folder: &Path, args: &[&str], between: impl Fn()) -> Duration {
    done(folder, args);
    between();
    let started = Instant::now();
    done(folder, args);
    started.elapsed()
}

/// Every file below a folder whose name is wanted.
fn files(folder: &Path, wanted: fn(&str) -> bool) -> BTreeMap<String, Vec<u8>> {
    let (mut found, mut left) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(next) = left.pop() {
        for path in fs::read_dir(next).into_iter().flatten().map(|item| item.unwrap().path()) {
            let name = path.strip_prefix(folder).unwrap().to_string_lossy().into_owned();
            match path.is_dir() {
                true => left.push(path),
                false if wanted(&name) => drop(found.insert(name, fs::read(&path).unwrap_or_default())),
                false => {}
            }
        }
    }
    found
}

fn scratch_files(folder: &Path) -> usize {
    files(folder, |name| name.ends_with(".part")).len()
}

/// A photograph of noise, which takes long to write.
fn large(path: &Path) {
    let noise = Noise::new(1, Stream::Evaluation).normal_tensor(0, [1, 3, 700, 700], &cpu(), DType::F32);
    write_image(path, &(noise * 0.3).clamp(-1.0, 1.0), &WriteOptions::default()).unwrap();
}

/// SIGKILL while an output is written over another: the old file or the new one, whole.
fn kills_during_writes(count: usize) {
    let f = folder(&format!("writes-{count}"));
    large(&f.join("x.png"));
    let args = ["degrade", "x.png", "-o", "y.tif", "--overwrite", "--task", "denoise", "--sigma", "3", "--seed", "1"];
    let time = duration(&f, &args, || {});
    let (new, old) = (fs::read(f.join("y.tif")).unwrap(), b"old".repeat(1000));
    let (mut next, mut replaced, mut amid) = (random(1), 0, 0);
    for _ in 0..count {
        fs::write(f.join("y.tif"), &old).unwrap();
        let mut child = spawn(&f, &args);
        std::thread::sleep(time.mul_f64(1.1 * next()));
        child.kill().unwrap();
        child.wait().unwrap();
        let found = fs::read(f.join("y.tif")).unwrap();
        assert!(found == old || found == new, "{} bytes, neither the old file nor the new one", found.len());
        replaced += usize::from(found == new);
        amid += scratch_files(&f);
        // What this kill left, the next run would remove.
        files(&f, |name| name.ends_with(".part")).keys().for_each(|name| fs::remove_file(f.join(name)).unwrap());
    }
    // A last one, whose scratch file the same command removes.
    let mut child = spawn(&f, &args);
    while scratch_files(&f) == 0 && child.try_wait().unwrap().is_none() {}
    child.kill().unwrap();
    child.wait().unwrap();
    done(&f, &args);
    assert_eq!((scratch_files(&f), fs::read(f.join("y.tif")).unwrap() == new), (0, true));
    println!("kills while an output is written: {count}, {amid} of them amid the write; new {replaced}, else old");
    fs::remove_dir_all(f).unwrap();
}

/// SIGKILL again and again at random times, and the same command each time: in the end the bytes of a run that nobody
/// disturbed.
fn kills(name: &str, count: usize, args: &[&str], results: &str) {
    let f = folder(&format!("{name}-{count}").replace(' ', "-"));
    for k in 0..4 {
        part(&f.join(format!("s/{k}.png")), 40 + 9 * k, 60, 16);
    }
    let clear = || {
        let _ = fs::remove_dir_all(f.join("home"));
        let _ = fs::remove_dir_all(f.join(results));
    };
    let time = duration(&f, args, clear);
    let images = || files(&f.join(results), |name| name.ends_with(".png"));
    let whole = images();
    assert!(!whole.is_empty());
    clear();
    let (mut next, mut killed, mut ended, mut gone_on, mut orphans) = (random(2), 0, 0, 0, 0);
    let mut check = |(code, said): (Option<i32>, String)| {
        assert!(!said.contains("begins anew") && !said.contains("panicked"), "{said}");
        gone_on += usize::from(said.contains("goes on after step"));
        let ended = code.is_some();
        if ended {
            assert_eq!(code, Some(0), "{said}");
            assert!(images() == whole, "other bytes than without kills");
            // Of a kill after the record was written and before its state was removed.
            orphans += files(&f.join("home/adir/sampling"), |_| true).len();
        }
        ended
    };
    while killed < count {
        let mut child = spawn(&f, args);
        // Longer and shorter than what is left.
        std::thread::sleep(time.mul_f64(0.05 + 0.9 * next()));
        child.kill().unwrap();
        if check(said(child)) {
            ended += 1;
            clear();
        } else {
            killed += 1;
        }
    }
    assert!(check(said(spawn(&f, args))));
    assert_eq!(scratch_files(&f.join(results)), 0);
    println!(
        "{name}: {count} kills, {} runs to the end, all to the same bytes; sampling went on {gone_on} times; {orphans} \
         states left",
        ended + 1
    );
    fs::remove_dir_all(f).unwrap();
}

const RESTORATION: [&str; 20] = [
    "restore",
    "s/1.png",
    "-o",
    "o/x.png",
    "--task",
    "sr2",
    "--steps",
    "12",
    "--samples",
    "2",
    "--adapt",
    "self",
    "--iterations",
    "6",
    "--adapt-crop",
    "16",
    "--adapt-batch",
    "2",
    "--checkpoint-seconds",
    "0",
];

fn kills_of_a_restoration(count: usize) {
    let args = [&RESTORATION[..], &["--overwrite"]].concat();
    kills("restoration with adaptation", count, &args, "o");
}

fn kills_of_a_folder(count: usize) {
    let args = ["restore", "s", "-o", "o", "--task", "sr2", "--steps", "8", "--checkpoint-seconds", "0"];
    kills("folder of 4", count, &args, "o");
}

/// SIGINT and SIGTERM at random times: exit code 130 soon, and the same command goes on to the same bytes. A second signal
/// ends the program at once.
fn signals(count: usize) {
    let f = folder(&format!("signals-{count}"));
    part(&f.join("s/1.png"), 49, 60, 32);
    large(&f.join("x.png"));
    let args = [&RESTORATION[..], &["--overwrite"]].concat();
    let clear = || drop(fs::remove_dir_all(f.join("home")));
    let time = duration(&f, &args, clear);
    let whole = fs::read(f.join("o/x.png")).unwrap();
    clear();
    let (mut next, mut stopped, mut slowest) = (random(3), 0, Duration::ZERO);
    while stopped < count {
        let child = spawn(&f, &args);
        std::thread::sleep(Duration::from_millis(40) + time.mul_f64(0.8 * next()));
        send(&child, if stopped % 2 == 0 { "-INT" } else { "-TERM" });
        let sent = Instant::now();
        match said(child) {
            (Some(130), said) => {
                stopped += 1;
                slowest = slowest.max(sent.elapsed());
                assert!(said.contains("interrupted"), "{said}");
            }
            (code, said) => assert_eq!(code, Some(0), "{said}"),
        }
    }
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    done(&f, &args);
    assert!(fs::read(f.join("o/x.png")).unwrap() == whole);
    // Where nothing is done in steps, the first signal suffices.
    let mut compared = 0;
    for _ in 0..count.div_ceil(4) {
        let child = spawn(&f, &["compare", "x.png", "x.png"]);
        std::thread::sleep(Duration::from_millis(40));
        send(&child, "-TERM");
        let (code, said) = said(child);
        compared += usize::from(code == Some(130));
        assert!([Some(0), Some(130)].contains(&code), "{code:?} {said}");
    }
    let long = ["restore", "s/1.png", "-o", "o/long.png", "--task", "sr2", "--preset", "paper", "--no-cache"];
    let child = spawn(&f, &long);
    std::thread::sleep(Duration::from_secs(1));
    send(&child, "-INT");
    send(&child, "-INT");
    let sent = Instant::now();
    let (code, _) = said(child);
    let second = sent.elapsed();
    assert_eq!(code, Some(130));
    assert!(second < Duration::from_secs(1), "{second:?}");
    println!(
        "signals: {count} of {count} exit code 130 within {} ms; second signal {} ms; compare {compared} of {}",
        slowest.as_millis(),
        second.as_millis(),
        count.div_ceil(4)
    );
    fs::remove_dir_all(f).unwrap();
}

/// Commands that write, and the files that they write.
fn writers() -> [(Vec<&'static str>, &'static str); 5] {
    let restore =
        ["restore", "s/1.png", "-o", "x.png", "--task", "sr2", "--steps", "2", "-n", "2", "--report", "x.html"];
    let adapt = ["adapt", "create", "s/1.png", "--adapt", "self", "--iterations", "1", "-o", "x.safetensors"];
    let more = ["--adapt-crop", "16", "--adapt-batch", "1", "--lora", "1", "--no-cache", "--overwrite"];
    [
        (vec!["degrade", "s/1.png", "-o", "x.tif", "--task", "denoise", "--sigma", "3", "--overwrite"], "x.tif"),
        ([&restore[..], &["--overwrite"]].concat(), "x.png"),
        (vec!["restore", "s", "-o", "o", "--task", "sr2", "--steps", "1", "--overwrite"], "o/1.png"),
        ([&adapt[..], &more].concat(), "x.safetensors"),
        (vec!["index", "build", "s", "-o", "x.index"], "x.index"),
    ]
}

/// With a limit set by the shell.
fn limited(f: &Path, limit: &str, args: &[&str]) -> (Option<i32>, String) {
    let line = format!("{limit}; exec \"$0\" \"$@\"");
    let mut shell = Command::new("sh");
    shell.args(["-c", &line, env!("CARGO_BIN_EXE_adir")]).args(args).current_dir(f);
    let output = shell.env("XDG_CACHE_HOME", f.join("home")).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Files that may not grow beyond some size: exit code 5 and a message, the old file stays, no scratch file does.
fn file_sizes(blocks: &[u32]) {
    let f = folder(&format!("sizes-{}", blocks.len()));
    (0..2).for_each(|k| part(&f.join(format!("s/{k}.png")), 40 + 9 * k, 60, 32));
    let (mut refused, mut runs) = (0, 0);
    for (args, output) in writers() {
        done(&f, &args);
        let (new, old) = (fs::read(f.join(output)).unwrap(), b"old".to_vec());
        for blocks in blocks {
            // An index is made from what is there; anything else replaces it.
            if output == "x.index" {
                drop(fs::remove_file(f.join(output)))
            } else {
                fs::write(f.join(output), &old).unwrap()
            }
            let (code, said) = limited(&f, &format!("ulimit -f {blocks}"), &args);
            runs += 1;
            match code {
                Some(0) => {}
                _ => {
                    refused += 1;
                    // Of a folder, single files may fail.
                    assert!(
                        [Some(5), Some(1)].contains(&code) && !said.is_empty(),
                        "{args:?} {blocks}: {code:?} {said}"
                    );
                    assert!(!said.contains("panicked"), "{said}");
                }
            }
            assert_eq!(scratch_files(&f), 0, "{args:?} {blocks}");
            let found = fs::read(f.join(output)).unwrap_or_default();
            assert!(found == new || found == old || found.is_empty() && output == "x.index", "{args:?} {blocks}");
        }
    }
    assert!(refused > 0);
    println!("file size limits: {runs} runs of {} commands, {refused} refused, no scratch file left", writers().len());
    fs::remove_dir_all(f).unwrap();
}

/// Little address space: exit code 5 and a message, whenever it ends.
fn address_spaces(megabytes: &[u32]) {
    let f = folder(&format!("space-{}", megabytes.len()));
    (0..2).for_each(|k| part(&f.join(format!("s/{k}.png")), 40 + 9 * k, 60, 32));
    let (mut refused, mut runs) = (0, 0);
    for (args, _) in writers() {
        for megabytes in megabytes {
            let (code, said) = limited(&f, &format!("ulimit -v {}", megabytes * 1024), &args);
            runs += 1;
            refused += usize::from(code == Some(5));
            let clean = code == Some(0) || [Some(5), Some(1)].contains(&code) && said.contains("memory");
            assert!(clean && !said.contains("panicked"), "{args:?} {megabytes} MB: {code:?} {said}");
        }
    }
    assert!(refused > 0);
    println!(
        "address space: {runs} runs of {} commands, {refused} refused with exit code 5, no abort",
        writers().len()
    );
    fs::remove_dir_all(f).unwrap();
}

/// A disk that is full: exit code 5, no scratch file, and the old file stays. Of several files of one result none is left, so that
/// the same command goes on. Where the system lets us mount one.
#[test]
fn a_full_disk_is_a_clean_error() {
    let f = folder("full");
    (0..2).for_each(|k| part(&f.join(format!("s/{k}.png")), 40 + 9 * k, 60, 32));
    fs::create_dir(f.join("disk")).unwrap();
    let old = "echo old > disk/y.tif && head -c 12000 /dev/zero > disk/fill";
    for (kilobytes, before, args, left) in [
        (16, old, "degrade s/1.png -o disk/y.tif --overwrite --task denoise --sigma 3", "code 5\nold\nfill\ny.tif\n"),
        (40, "true", "restore s/1.png -o disk/x.png --task sr2 --steps 1 -n 3", "code 5\n"),
    ] {
        let mount = format!("mount -t tmpfs -o size={kilobytes}k none disk && {before}");
        let list = "cat disk/y.tif >&2 2>/dev/null; ls -A disk >&2";
        let line = format!("{mount} || exit 77; \"$0\" {args}; echo code $? >&2; {list}");
        let mut command = Command::new("unshare");
        command.args(["-rm", "sh", "-c", &line, env!("CARGO_BIN_EXE_adir")]).current_dir(&f);
        match command.env("XDG_CACHE_HOME", f.join("home")).output() {
            Ok(output) if output.status.code() != Some(77) && !output.stderr.starts_with(b"unshare") => {
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(said.ends_with(left), "{said}");
            }
            _ => println!("skipped: this system mounts no file system for a test"),
        }
    }
    fs::remove_dir_all(f).unwrap();
}

#[test]
fn kills_during_writes_leave_the_old_file_or_the_new_one() {
    kills_during_writes(10);
}

#[test]
fn a_killed_restoration_goes_on_to_the_same_bytes() {
    kills_of_a_restoration(5);
}

#[test]
fn a_killed_folder_goes_on_to_the_same_bytes() {
    kills_of_a_folder(5);
}

#[test]
fn signals_end_a_run_soon() {
    signals(4);
}

#[test]
fn files_that_may_not_grow_are_clean_errors() {
    file_sizes(&[0, 4]);
}

#[test]
fn little_address_space_is_a_clean_error() {
    address_spaces(&[100, 400]);
}

#[test]
#[ignore = "minutes"]
fn long_kills_during_writes() {
    kills_during_writes(200);
}

#[test]
#[ignore = "minutes"]
fn long_kills_of_a_restoration() {
    kills_of_a_restoration(100);
}

#[test]
#[ignore = "minutes"]
fn long_kills_of_a_folder() {
    kills_of_a_folder(100);
}

#[test]
#[ignore = "minutes"]
fn long_signals() {
    signals(20);
}

#[test]
#[ignore = "minutes"]
fn long_file_sizes() {
    file_sizes(&[0, 1, 2, 4, 8, 16, 32, 64, 128, 256]);
}

#[test]
#[ignore = "minutes"]
fn long_address_spaces() {
    address_spaces(&[80, 100, 150, 200, 300, 400, 500, 600]);
}
