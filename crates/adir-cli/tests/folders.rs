//! Whole folders: names, failures, shards, and going on after a kill.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use adir::io::image::Picture;
use serde_json::Value;

mod common;
use common::{checked, command, expect, folder, json, part};

/// What every run here has in common.
const SR2: [&str; 4] = ["--task", "sr2", "--steps", "2"];

#[track_caller]
fn restore(code: i32, folder: &Path, args: &[&str]) -> String {
    expect(code, folder, &[&["restore"], args, &SR2].concat()).1
}

/// `count` different observations of 16x16 pixels in `s`.
fn scans(f: &Path, count: usize) {
    for k in 0..count {
        part(&f.join(format!("s/{}/{k:02}.png", k % 2)), 40 + 7 * k, 60, 16);
    }
}

/// The bytes of all images below a folder.
fn images(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    files(folder, |name| !name.ends_with(".json") && !name.ends_with(".jsonl") && !name.ends_with(".part"))
}

fn files(folder: &Path, wanted: fn(&str) -> bool) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut left = vec![folder.to_owned()];
    while let Some(next) = left.pop() {
        for item in fs::read_dir(next).into_iter().flatten() {
            let path = item.unwrap().path();
            let name = path.strip_prefix(folder).unwrap().to_string_lossy().into_owned();
            match path.is_dir() {
                true => left.push(path),
                false if wanted(&name) => drop(found.insert(name, fs::read(&path).unwrap())),
                false => {}
            }
        }
    }
    found
}

fn names(found: &BTreeMap<String, Vec<u8>>) -> Vec<&str> {
    found.keys().map(String::as_str).collect()
}

#[test]
fn a_folder_is_restored_as_its_files_would_be() {
    let f = folder("whole");
    for (k, name) in ["a.png", "a.jpg", "b/a.png", "b/c/d.webp"].into_iter().enumerate() {
        part(&f.join("s").join(name), 40 + 10 * k, 60, 16);
    }
    fs::write(f.join("s/b/broken.png"), "no image").unwrap();
    // Alpha, which the format of its name cannot hold.
    let mut clear = Picture::read(f.join("s/a.png")).unwrap();
    clear.alpha = Some(vec![0.5; 256]);
    clear.write(f.join("clear.png")).unwrap();
    fs::rename(f.join("clear.png"), f.join("s/clear.jpg")).unwrap();
    let (out, err) = expect(1, &f, &[&["restore", "s", "-o", "o", "--plan"], &SR2[..]].concat());
    assert!(out.contains("6 images: 0 finished, 6 to restore") && out.contains("network evaluations"), "{out}");
    assert!(out.contains("5 files: at most about 0.") && out.contains(" s of sampling"), "{out}");
    assert!(err.contains("broken.png") && !f.join("o").exists(), "{err}");
    let err = restore(1, &f, &["s", "-o", "o"]);
    assert!(err.contains("1 file not restored") && err.contains("o: 5 restored, 0 finished before"), "{err}");
    let first = images(&f.join("o"));
    assert_eq!(names(&first), ["a.jpg", "a.png", "b/a.png", "b/c/d.webp", "clear.jpg.png"]);
    assert!(first.keys().all(|name| f.join(format!("o/{name}.json")).is_file()));
    restore(0, &f, &["s/b/a.png", "-o", "alone.png"]);
    assert_eq!(first["b/a.png"], fs::read(f.join("alone.png")).unwrap());
    // A second run touches nothing that is finished, not even with --overwrite.
    let written = |name: &str| fs::metadata(f.join("o").join(name)).unwrap().modified().unwrap();
    let before: Vec<_> = first.keys().map(|name| (name, written(name), written(&format!("{name}.json")))).collect();
    let err = restore(1, &f, &["s", "-o", "o", "--overwrite"]);
    assert!(err.contains("0 restored, 5 finished before") && err.contains("broken.png"), "{err}");
    assert!(
        before.iter().all(|(name, at, record)| (*at, *record) == (written(name), written(&format!("{name}.json"))))
    );
    // What was broken is restored when it is mended, what is lost when it is missed.
    part(&f.join("s/b/broken.png"), 90, 90, 16);
    fs::remove_file(f.join("o/a.jpg")).unwrap();
    fs::remove_file(f.join("o/a.jpg.json")).unwrap();
    let err = restore(0, &f, &["s", "-o", "o"]);
    assert!(err.contains("2 restored, 4 finished before"), "{err}");
    assert_eq!(images(&f.join("o"))["a.jpg"], first["a.jpg"]);
    // Also if its record is left.
    fs::remove_file(f.join("o/a.jpg")).unwrap();
    assert!(restore(0, &f, &["s", "-o", "o"]).contains("1 restored, 5 finished before"));
    assert_eq!(images(&f.join("o"))["a.jpg"], first["a.jpg"]);
    let (out, err) = expect(0, &f, &["merge", "o"]);
    assert!(out.is_empty() && err.contains("6 files restored, 0 missing, 0 failed"), "{out}{err}");
    // Results inside the folder are no observations.
    restore(0, &f, &["s", "-o", "s/results"]);
    let err = restore(0, &f, &["s", "-o", "s/results"]);
    assert!(err.contains("s: 6 images: 6 finished, 0 to restore"), "{err}");
    // Nor are those of another run.
    let err = restore(0, &f, &["s", "-o", "other"]);
    assert!(
        err.contains("s: 6 images") && err.contains("left out: 1 folder with results of an earlier run: results"),
        "{err}"
    );
    assert_eq!(images(&f.join("other"))["a.png"], first["a.png"]);
    fs::remove_dir_all(f.join("s/results")).unwrap();
    // Another format: names that would be one are kept apart.
    restore(0, &f, &["s", "-o", "p", "--format", "png"]);
    let found = images(&f.join("p"));
    let expected = ["a.jpg.png", "a.png", "b/a.png", "b/broken.png", "b/c/d.png", "clear.png"];
    assert_eq!(names(&found)[..6], expected);
    assert_eq!(found["a.png"], first["a.png"]);
    fs::remove_dir_all(f).unwrap();
}

#[test]
fn what_is_in_the_way_is_refused_before_anything_is_computed() {
    let f = folder("refused");
    scans(&f, 3);
    fs::create_dir(f.join("empty")).unwrap();
    fs::write(f.join("file"), "x").unwrap();
    let cases: [(i32, &[&str], &str); 12] = [
        (2, &["s", "-o", "s"], "is or holds the input folder"),
        (2, &["s", "-o", "."], "is or holds the input folder"),
        (2, &["s", "-o", "file"], "expected a folder"),
        (2, &["s", "-o", "o", "--seed", "-1"], "--seed a number"),
        (2, &["s", "-o", "o", "--shard", "4/3"], "I from 1 to N"),
        (2, &["s", "-o", "o", "--shard", "auto"], "--shard I/N"),
        (2, &["s", "-o", "o", "--overlap", "0.5"], "--gallery"),
        (2, &["s", "-o", "o", "--format", "gif"], "png, tif, jpg, webp, fits or exr"),
        (2, &["s/0/00.png", "-o", "x.png", "--shard", "1/2"], "no folder"),
        (2, &["s", "-o", "o", "--eta", "0.5"], "no effect with the method staged"),
        (3, &["empty", "-o", "o"], "contains no images"),
        (3, &["s", "-o", "file/o"], "file"),
    ];
    for (code, args, said) in cases {
        let err = restore(code, &f, args);
        assert!(err.contains(said), "{args:?} should mention {said:?}:\n{err}");
        assert!(!f.join("o").exists() && !f.join("x.png").exists(), "{args:?}");
    }
    let kernel = ["restore", "s", "-o", "o", "--task", "deblur", "--kernel", "box:0", "--steps", "2"];
    assert!(expect(2, &f, &kernel).1.contains("0x0") && !f.join("o").exists());
    restore(0, &f, &["s", "-o", "o"]);
    let first = images(&f.join("o"));
    // Another request, another observation, and what is not adir's.
    let (_, err) = expect(2, &f, &["restore", "s", "-o", "o", "--task", "sr2", "--steps", "3"]);
    assert!(err.contains("o/0/00.png and 2 more") && err.contains("--overwrite"), "{err}");
    part(&f.join("s/0/02.png"), 100, 100, 16);
    let err = restore(2, &f, &["s", "-o", "o"]);
    assert!(err.contains("o/0/02.png: made"), "{err}");
    fs::create_dir_all(f.join("p/1")).unwrap();
    fs::write(f.join("p/1/01.png"), "mine").unwrap();
    assert!(restore(2, &f, &["s", "-o", "p"]).contains("p/1/01.png"));
    assert_eq!((images(&f.join("o")), fs::read(f.join("p/1/01.png")).unwrap()), (first.clone(), b"mine".to_vec()));
    assert!(restore(0, &f, &["s", "-o", "o", "--overwrite"]).contains("1 restored, 2 finished before"));
    let second = images(&f.join("o"));
    assert!(second["0/02.png"] != first["0/02.png"] && second["1/01.png"] == first["1/01.png"]);
    // Noise that is estimated is not noise that is given.
    let denoise = |code: i32, sigma: &[&str]| {
        let args = ["restore", "s", "-o", "q", "--task", "denoise", "--steps", "2"];
        expect(code, &f, &[&args[..], sigma].concat()).1
    };
    assert!(denoise(0, &[]).contains("3 restored, 0 finished"));
    assert!(denoise(0, &["--sigma", "auto"]).contains("0 restored, 3 finished"));
    assert!(denoise(2, &["--sigma", "20"]).contains("made with other settings"));
    assert!(denoise(0, &["--sigma", "20", "--overwrite"]).contains("3 restored, 0 finished"));
    assert!(denoise(2, &[]).contains("made with other settings"));
    fs::remove_dir_all(f).unwrap();
}

/// Starts a run whose log is read line by line until one contains `until`.
fn started(f: &Path, args: &[&str], until: &str) -> (Child, String) {
    let args = [&["restore"], args, &SR2, &["--log-format", "json"]].concat();
    let mut child = command(f, &args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains(until) {
        let mut line = String::new();
        assert!(log.read_line(&mut line).unwrap() > 0, "ended before {until:?}:\n{said}");
        said.push_str(&line);
    }
    child.stderr = Some(log.into_inner());
    (child, said)
}

/// Killed at two places, then left alone: the bytes of a run that nobody disturbed.
#[test]
fn a_killed_run_goes_on() {
    let f = folder("killed");
    scans(&f, 12);
    restore(0, &f, &["s", "-o", "whole"]);
    for done in ["\"done\":2,\"event\":\"file_done\"", "\"done\":4,\"event\":\"file_done\""] {
        let (mut child, _) = started(&f, &["s", "-o", "o"], done);
        // SIGKILL, wherever it is in the next file.
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_eq!(expect(1, &f, &["merge", "o"]).0.matches("missing: ").count(), missing(&f));
    let err = restore(0, &f, &["s", "-o", "o"]);
    assert!(!err.contains(" 0 finished before"), "{err}");
    assert_eq!(images(&f.join("o")), images(&f.join("whole")));
    expect(0, &f, &["merge", "o"]);
    fs::remove_dir_all(f).unwrap();
}

/// Files without a record: a result counts when its record is there.
fn missing(f: &Path) -> usize {
    let found = files(&f.join("o"), |name| name.ends_with(".png.json"));
    assert!(found.len() < 12, "killed too late");
    let listed = fs::read_to_string(f.join("o/adir-manifest-1-of-1.jsonl")).unwrap();
    let done = listed.lines().filter(|line| line.contains("\"done\"")).count();
    12 - done.min(found.len())
}

/// An image whose record was not written yet is replaced if a manifest says that it was begun, else it is not ours.
#[test]
fn an_image_without_its_record_is_made_again() {
    let f = folder("half");
    scans(&f, 2);
    restore(0, &f, &["s", "-o", "o"]);
    let whole = images(&f.join("o"));
    fs::remove_file(f.join("o/0/00.png.json")).unwrap();
    assert!(restore(2, &f, &["s", "-o", "o"]).contains("o/0/00.png"));
    let manifest = f.join("o/adir-manifest-1-of-1.jsonl");
    let text = fs::read_to_string(&manifest).unwrap();
    let end = text.find("\"started\"}\n").unwrap() + "\"started\"}\n".len();
    // The kill came amid a line.
    fs::write(&manifest, format!("{}{{\"file\":\"0/0", &text[..end])).unwrap();
    let (out, _) = expect(1, &f, &["merge", "o"]);
    assert!(out.contains("missing: 0/00.png"), "{out}");
    assert!(restore(0, &f, &["s", "-o", "o"]).contains("1 restored, 1 finished before"));
    assert_eq!(images(&f.join("o")), whole);
    expect(0, &f, &["merge", "o"]);
    fs::remove_dir_all(f).unwrap();
}

/// However many shards there are, and however schedulers count them, every file is restored once, to the same bytes.
#[test]
fn shards_make_what_a_single_run_makes() {
    let f = folder("shards");
    scans(&f, 5);
    restore(0, &f, &["s", "-o", "whole"]);
    let whole = images(&f.join("whole"));
    for shard in ["1/3", "3/3"] {
        restore(0, &f, &["s", "-o", "a", "--shard", shard]);
    }
    let (out, _) = expect(1, &f, &["merge", "a"]);
    assert!(out.contains("missing: shard 2/3 with 2 files") && out.lines().count() == 1, "{out}");
    restore(0, &f, &["s", "-o", "a", "--shard", "2/3"]);
    let (out, err) = expect(0, &f, &["merge", "a"]);
    assert!(out.is_empty() && err.contains("5 files restored, 0 missing"), "{out}{err}");
    let joined = fs::read_to_string(f.join("a/adir-manifest.jsonl")).unwrap();
    assert_eq!(joined.matches("\"state\":\"done\"").count(), 5, "{joined}");
    fs::remove_file(f.join("a/1/01.png")).unwrap();
    assert!(expect(1, &f, &["merge", "a"]).0.contains("missing: 1/01.png (--shard "));
    let task = |name: &str, id: &str, output: &str, shard: &str| {
        let args = [&["restore", "s", "-o", output, "--shard", shard], &SR2[..]].concat();
        let mut command = command(&f, &args);
        command.env(name, id).env("SLURM_ARRAY_TASK_MIN", "7").env("SLURM_ARRAY_TASK_MAX", "11");
        command.env("SLURM_ARRAY_TASK_COUNT", "3").env("SLURM_ARRAY_TASK_STEP", "2");
        checked(0, &[], command.output().unwrap());
    };
    for id in ["7", "9", "11"] {
        task("SLURM_ARRAY_TASK_ID", id, "slurm", "auto");
    }
    for id in ["0", "1"] {
        task("JOB_COMPLETION_INDEX", id, "kubernetes", "auto/2");
    }
    for id in ["1", "2"] {
        task("HQ_TASK_ID", id, "hq", "auto/2");
    }
    for output in ["slurm", "kubernetes", "hq"] {
        assert_eq!(images(&f.join(output)), whole, "{output}");
        expect(0, &f, &["merge", output]);
    }
    expect(3, &f, &["merge", "s"]);
    fs::remove_dir_all(f).unwrap();
}

/// The smallest adaptation that takes some steps.
const ADAPT: [&str; 11] =
    ["--gallery", "g", "--adapt", "gallery", "--iterations", "6", "--adapt-crop", "16", "--adapt-batch", "2", "--full"];

/// Observations with the same nearest images share an adapter, kept or not.
#[test]
fn like_observations_share_an_adaptation() {
    let f = folder("shared");
    scans(&f, 3);
    for k in 0..3 {
        part(&f.join(format!("g/{k}.png")), 20 + 40 * k, 20, 32);
    }
    // An observation that lies in the gallery is adapted to by none of its group.
    fs::copy(f.join("s/0/00.png"), f.join("g/own.png")).unwrap();
    for (output, more) in [("a", &[][..]), ("b", &["--no-cache"])] {
        restore(0, &f, &[&["s", "-o", output], &ADAPT[..], more].concat());
        let records = ["0/00", "0/02", "1/01"].map(|name| json(&f.join(format!("{output}/{name}.png.json"))));
        let adaptations = records.each_ref().map(|record| &record["adaptation"]);
        assert!(adaptations.iter().all(|adaptation| adaptation["key"] == adaptations[0]["key"]), "{output}");
        assert_eq!(adaptations.map(|adaptation| adaptation["from_cache"] == true), [false, true, true], "{output}");
        assert_eq!(adaptations.map(|adaptation| adaptation["images"].as_array().unwrap().len()), [3; 3]);
        assert!(records.iter().all(|record| record["request"]["adapt"]["shared"].as_array().unwrap().len() == 3));
    }
    assert_eq!(images(&f.join("a")), images(&f.join("b")));
    // Minutes become steps once, though no cache keeps their number.
    let timed = [
        "--gallery",
        "g",
        "--adapt",
        "gallery",
        "--adapt-minutes",
        "0.0001",
        "--adapt-crop",
        "16",
        "--adapt-batch",
        "2",
    ];
    restore(0, &f, &[&["s", "-o", "timed", "--no-cache", "--full"], &timed[..]].concat());
    let adaptations =
        ["0/00", "0/02"].map(|name| json(&f.join(format!("timed/{name}.png.json")))["adaptation"].clone());
    assert_eq!(adaptations[0]["key"], adaptations[1]["key"]);
    assert_eq!(adaptations[1]["from_cache"], true, "trained again");
    let err = restore(0, &f, &[&["s", "-o", "a"], &ADAPT[..]].concat());
    assert!(err.contains("0 restored, 3 finished before"), "{err}");
    // Each shard finds the groups of the whole folder.
    restore(0, &f, &[&["s", "-o", "c", "--shard", "2/2", "--no-cache"], &ADAPT[..]].concat());
    assert_eq!(images(&f.join("c"))["1/01.png"], images(&f.join("a"))["1/01.png"]);
    fs::remove_dir_all(f).unwrap();
}

/// Ctrl-C in a training: it goes on from its step, also for a single file, and leaves no state behind.
#[cfg(unix)]
#[test]
fn an_interrupted_training_goes_on() {
    let f = folder("interrupted");
    scans(&f, 1);
    part(&f.join("g/a.png"), 20, 20, 32);
    part(&f.join("g/b.png"), 60, 20, 32);
    let whole = [&["s", "-o", "whole", "--cache", "other"], &ADAPT[..]].concat();
    restore(0, &f, &whole);
    let args = [&["s", "-o", "o"], &ADAPT[..]].concat();
    let (mut child, _) = started(&f, &args, "\"of\":\"adapting\",\"total\":");
    interrupt(&child);
    let mut log = String::new();
    child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{log}");
    assert!(log.contains("finished files and the one that was begun are kept, and the same command goes on"), "{log}");
    let states = || files(&f.join("home/adir/adapters"), |name| name.ends_with(".checkpoint")).len();
    assert_eq!(states(), 1);
    let (mut child, said) = started(&f, &args, "\"of\":\"adapting\",\"total\":");
    let steps = said.lines().rfind(|line| line.contains("\"of\":\"adapting\"")).unwrap().to_owned();
    let step: Value = serde_json::from_str(&steps).unwrap();
    assert!(step["done"].as_u64() > Some(1), "it began anew: {steps}");
    std::io::copy(&mut child.stderr.take().unwrap(), &mut std::io::sink()).unwrap();
    assert_eq!((child.wait().unwrap().code(), states()), (Some(0), 0));
    assert_eq!(images(&f.join("o")), images(&f.join("whole")));
    fs::remove_dir_all(f).unwrap();
}

#[cfg(unix)]
fn interrupt(child: &Child) {
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// Ctrl-C between and in files: exit code 130, how to go on, and whole files only.
#[cfg(unix)]
#[test]
fn an_interrupted_run_says_how_to_go_on() {
    let f = folder("stopped");
    scans(&f, 12);
    let (mut child, _) = started(&f, &["s", "-o", "o"], "\"done\":2,\"event\":\"file_done\"");
    interrupt(&child);
    let mut log = String::new();
    child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{log}");
    assert!(log.contains(" are kept, and the same command goes on"), "{log}");
    let found = images(&f.join("o"));
    assert!((2..12).contains(&found.len()) && found.keys().all(|name| f.join(format!("o/{name}.json")).is_file()));
    restore(0, &f, &["s", "-o", "o"]);
    restore(0, &f, &["s", "-o", "whole"]);
    assert_eq!(images(&f.join("o")), images(&f.join("whole")));
    fs::remove_dir_all(f).unwrap();
}

/// Every file has a verdict: text tells what is wrong, JSON all of it.
#[test]
fn every_file_of_a_folder_has_a_verdict() {
    let f = folder("verdicts");
    for name in ["a.png", "b.png"] {
        part(&f.join("s").join(name), 40, 60, 32);
    }
    // A blur that the observations have not seen.
    let blur = ["--task", "deblur", "--kernel", "box:9", "--boundary", "circular", "--sigma", "0.5", "--steps", "4"];
    let (_, quiet) = expect(0, &f, &[&["restore", "s", "-o", "o", "--quiet"], &blur[..]].concat());
    for name in ["a.png", "b.png"] {
        assert!(quiet.contains(&format!("WARN {name}: A x")), "{quiet}");
    }
    fs::remove_dir_all(f.join("o")).unwrap();
    let (_, log) = expect(0, &f, &["restore", "s", "-o", "o", "--task", "sr2", "--log-format", "json"]);
    let events = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let verdicts: Vec<Value> = events.filter(|event| event["event"] == "verdict").collect();
    assert_eq!(verdicts.len(), 2, "{log}");
    for (verdict, name) in verdicts.iter().zip(["a.png", "b.png"]) {
        assert!(verdict["file"] == name && verdict["verdict"] == "PASS", "{verdict}");
        assert!(verdict["findings"]["misfit_255"].is_number(), "{verdict}");
    }
    let (_, text) = expect(0, &f, &["restore", "s", "-o", "p", "--task", "sr2"]);
    assert!(!text.contains("PASS") && !text.contains("WARN"), "{text}");
    fs::remove_dir_all(f).unwrap();
}
