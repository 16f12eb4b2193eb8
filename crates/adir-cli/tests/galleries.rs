//! Galleries, folders, names, records and caches as people have them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use adir::io::image::{Picture, WriteOptions, write_image};
use serde_json::Value;

mod common;
use common::{checked, command, expect, json, part, quarter_mask};

/// A folder of its own with an observation of 32x32 pixels, `y.png`.
fn folder(name: &str) -> PathBuf {
    let folder = common::folder(name);
    part(&folder.join("y.png"), 60, 60, 32);
    folder
}

/// Different squares of the photo, `a.png`, `b.png` ...
fn gallery(folder: &Path, count: usize) {
    for (k, name) in ('a'..='z').take(count).enumerate() {
        part(&folder.join(format!("{name}.png")), 20 + 30 * (k % 3), 10 + 40 * (k / 3), 48);
    }
}

const RESTORE: [&str; 7] = ["restore", "y.png", "-o", "x.png", "--task", "sr2", "--overwrite"];
/// The smallest adaptation.
const ADAPT: [&str; 8] = ["--iterations", "1", "--adapt-crop", "16", "--adapt-batch", "2", "--lora", "2"];

/// Restores with an adaptation; what it said, and the record.
#[track_caller]
fn adapted(f: &Path, more: &[&str]) -> (String, Value) {
    let (_, err) = expect(0, f, &[&RESTORE[..], &["--steps", "1"], &ADAPT, more].concat());
    (err, json(&f.join("x.png.json"))["adaptation"].clone())
}

fn paths(adaptation: &Value) -> Vec<String> {
    let images = adaptation["images"].as_array().unwrap().iter();
    images.map(|image| image["path"].as_str().unwrap().to_owned()).collect()
}

#[cfg(unix)]
fn named(folder: &Path, name: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    folder.join(std::ffi::OsStr::from_bytes(name))
}

const SMALL_NETWORK: &str = r#"{"in_channels":3,"out_channels":6,"model_channels":32,"num_res_blocks":1,
    "channel_mult":[1,1],"attention_resolutions":[2],"num_head_channels":16,"resblock_updown":true,"use_scale_shift_norm":true}"#;

/// Trains a small network for a step.
fn train(f: &Path, photos: &str, output: &str, more: &[&str]) -> (String, String) {
    fs::write(f.join("net.json"), SMALL_NETWORK).unwrap();
    let args = ["train", photos, "-o", output, "--steps", "1", "--model-config", "net.json", "--crop", "16"];
    expect(0, f, &[&args[..], &["--batch", "1", "--validation-crops", "4", "--overwrite"], more].concat())
}

/// What a run would refuse, its plan refuses: galleries of which nothing can be read, and that hold the observation alone. Of many
/// damaged files a few are named, the others are counted.
#[test]
fn galleries_without_a_usable_image_are_refused_by_the_plan() {
    let f = folder("unusable");
    for k in 0..25 {
        fs::create_dir_all(f.join("damaged")).unwrap();
        fs::write(f.join(format!("damaged/{k}.png")), "no image").unwrap();
    }
    fs::create_dir_all(f.join("own")).unwrap();
    fs::copy(f.join("y.png"), f.join("own/copy.png")).unwrap();
    let besides = "besides the observation itself";
    for (option, gallery, said) in [
        ("--gallery", "damaged", "25 files, the first: "),
        ("--archive", "damaged", "25 files, the first: "),
        ("--gallery", "own", besides),
    ] {
        let (_, err) = match option {
            "--archive" => expect(3, &f, &["adapt", "create", option, gallery, "--name", "a", "--minutes", "1"]),
            _ => expect(3, &f, &[&RESTORE[..], &ADAPT, &[option, gallery, "--plan"]].concat()),
        };
        assert!(err.contains(said) && !f.join(format!("{gallery}.index")).exists(), "{option} {gallery}: {err}");
    }
    expect(0, &f, &["index", "build", "own", "-o", "own.index"]);
    let (_, err) = expect(3, &f, &[&RESTORE[..], &ADAPT, &["--gallery", "own.index", "--plan"]].concat());
    assert!(err.contains(besides), "{err}");
    // Of a folder, one observation that the gallery holds nothing for stops no other.
    fs::create_dir_all(f.join("scans")).unwrap();
    fs::copy(f.join("y.png"), f.join("scans/own.png")).unwrap();
    part(&f.join("scans/other.png"), 100, 100, 32);
    let folder = ["restore", "scans", "-o", "out", "--task", "sr2", "--steps", "1", "--gallery", "own"];
    for plan in [&["--plan"][..], &[]] {
        let (_, err) = expect(1, &f, &[&folder[..], &ADAPT, plan].concat());
        assert!(err.contains("1 file not restored") && err.contains("own.png: own: contains no images"), "{err}");
    }
    assert!(f.join("out/other.png").is_file() && !f.join("out/own.png").exists());
    // An index whose images are gone.
    gallery(&f.join("gone"), 3);
    expect(0, &f, &["index", "build", "gone", "-o", "gone.index"]);
    fs::remove_dir_all(f.join("gone")).unwrap();
    fs::create_dir(f.join("gone")).unwrap();
    let (_, err) = expect(3, &f, &[&RESTORE[..], &ADAPT, &["--gallery", "gone.index", "--plan"]].concat());
    assert!(err.contains("3 images of the index cannot be used; build the index again"), "{err}");
    let closer = ["--gallery", "damaged", "--closer-than", "3.1"];
    // Among damaged files, images serve.
    gallery(&f.join("damaged"), 2);
    expect(0, &f, &[&RESTORE[..], &ADAPT, &["--gallery", "damaged", "--plan"]].concat());
    let (_, err) = expect(3, &f, &[&RESTORE[..], &ADAPT, &closer].concat());
    assert!(err.contains("no images to adapt to that are 3.1 radians or more from the observation"), "{err}");
    fs::remove_file(f.join("damaged.index")).unwrap_or_default();
    let (_, err) = expect(0, &f, &["index", "build", "damaged"]);
    assert_eq!(err.matches("left out").count(), 4, "{err}");
    assert!(err.contains("left out: 22 more files that cannot be read"), "{err}");
}

/// Odd names, and folders that cannot be listed, are counted in a line; the other images are used.
#[cfg(unix)]
#[test]
fn odd_names_and_closed_folders_stop_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let f = folder("odd");
    gallery(&f.join("g"), 3);
    fs::write(named(&f, b"g/caf\xe9.txt"), "no image").unwrap();
    let (_, err) = expect(0, &f, &["index", "build", "g"]);
    assert!(err.contains("g.index: 3 images") && !err.contains("warning"), "{err}");
    for name in [&b"g/caf\xe9.png"[..], b"g/\xff.jpg", b"g/back\\slash.png"] {
        fs::copy(f.join("g/a.png"), named(&f, name)).unwrap();
    }
    let (_, err) = expect(0, &f, &["index", "build", "g"]);
    assert_eq!((err.matches("warning").count(), err.contains("3 images, the first")), (1, true), "{err}");
    assert!(err.contains("g.index: 3 images"), "{err}");
    let (_, err) = train(&f, "g", "t.safetensors", &[]);
    assert!(err.contains("left out: 3 images") && err.contains("2 images to train on, 1 held out"), "{err}");
    fs::create_dir(f.join("g/lost+found")).unwrap();
    fs::set_permissions(f.join("g/lost+found"), fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read_dir(f.join("g/lost+found")).is_err() {
        let (err, adaptation) = adapted(&f, &["--gallery", "g"]);
        assert!(err.contains("1 folder: ") && paths(&adaptation).len() == 3, "{err}");
    } else {
        println!("skipped: this user may list every folder");
    }
    fs::set_permissions(f.join("g/lost+found"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::remove_dir_all(f).unwrap();
}

/// Inputs, outputs, masks, models, galleries and caches may have any name the system takes.
#[cfg(unix)]
#[test]
fn names_that_are_not_utf8_work_everywhere() {
    let f = folder("bytes");
    let name = |start: &str, end: &str| [start.as_bytes(), b"caf\xe9", end.as_bytes()].concat();
    let file = |start: &str, end: &str| named(&f, &name(start, end));
    fs::copy(f.join("y.png"), file("y", ".png")).unwrap();
    quarter_mask(&file("mask", ".png"), 32);
    gallery(&f.join("g"), 3);
    train(&f, "g", "t.safetensors", &[]);
    fs::rename(f.join("g"), file("g", "")).unwrap();
    fs::rename(f.join("t.safetensors"), file("model", ".safetensors")).unwrap();
    let run = |args: &[&str], files: &[(&str, &str, &str)]| {
        let mut command = command(&f, args);
        for (option, start, end) in files {
            if !option.is_empty() {
                command.arg(option);
            }
            command.arg(named(Path::new(""), &name(start, end)));
        }
        checked(0, &[], command.output().unwrap())
    };
    let restored =
        [("", "y", ".png"), ("-o", "x", ".png"), ("--mask", "mask", ".png"), ("-m", "model", ".safetensors")];
    run(&["restore", "--task", "inpaint", "--steps", "1"], &restored);
    let record = json(&file("x", ".png.json"));
    assert_eq!(record["input"]["path"], "ycaf\u{fffd}.png");
    assert_eq!(record["mask"]["path"], "maskcaf\u{fffd}.png");
    run(&["index", "build"], &[("", "g", "")]);
    let (out, _) = run(&["index", "info"], &[("", "g", ".index")]);
    assert!(out.contains("images     3"), "{out}");
    let adapt = [&["restore", "y.png", "-o", "a.png", "--task", "sr2", "--steps", "1", "-k", "3"], &ADAPT[..]].concat();
    run(&adapt, &[("--gallery", "g", ".index"), ("--cache", "cache", "")]);
    assert_eq!(paths(&json(&f.join("a.png.json"))["adaptation"]).len(), 3);
    let archive = [("--archive", "g", ""), ("-o", "adapter", ".safetensors"), ("--cache", "cache", "")];
    run(&[&["adapt", "create"], &ADAPT[..]].concat(), &archive);
    let (out, _) = run(&["adapt", "info", "--json"], &[("", "adapter", ".safetensors")]);
    assert!(out.contains("adaptercaf\u{fffd}.safetensors"), "{out}");
    fs::remove_dir_all(f).unwrap();
}

/// Copies under other names, or stored in another way, are one image: among the neighbours, and for what is held out.
#[test]
fn copies_fill_neither_neighbours_nor_the_held_out_part() {
    let f = folder("copies");
    gallery(&f.join("g"), 5);
    for k in 0..4 {
        fs::copy(f.join("g/a.png"), f.join(format!("g/copy{k}.png"))).unwrap();
    }
    // Other bytes, the same pixels.
    Picture::read(f.join("g/a.png")).unwrap().write(f.join("g/again.tif")).unwrap();
    let (_, adaptation) = adapted(&f, &["--gallery", "g", "-k", "5", "--no-cache"]);
    let hashes: BTreeSet<_> =
        adaptation["images"].as_array().unwrap().iter().map(|image| image["sha256"].to_string()).collect();
    assert_eq!(hashes.len(), 5, "{adaptation}");
    assert!(!paths(&adaptation).iter().any(|path| path.starts_with("copy") || path.starts_with("again")));
    let (out, err) = expect(
        0,
        &f,
        &[&["adapt", "create", "--archive", "g", "-o", "archive.safetensors", "--no-cache"], &ADAPT[..]].concat(),
    );
    assert!(out.contains("5 images") && err.contains("left out: 5 files with the same pixels"), "{out}{err}");
    let (_, err) = train(&f, "g", "t.safetensors", &[]);
    assert!(err.contains("left out: 5 files") && err.contains("4 images to train on, 1 held out"), "{err}");
    fs::remove_dir_all(f).unwrap();
}

/// What is gone, or is not what was indexed, is replaced by the next nearest.
#[test]
fn neighbours_that_are_gone_are_replaced() {
    let f = folder("gone");
    gallery(&f.join("g"), 6);
    expect(0, &f, &["index", "build", "g", "-q"]);
    let use_index = ["--gallery", "g.index", "-k", "3", "--no-cache", "--adapt", "gallery"];
    let (err, adaptation) = adapted(&f, &use_index);
    assert!(!err.contains("warning"), "{err}");
    let nearest = paths(&adaptation);
    fs::remove_file(f.join("g").join(&nearest[0])).unwrap();
    fs::copy(f.join("y.png"), f.join("g").join(&nearest[1])).unwrap();
    let (err, adaptation) = adapted(&f, &use_index);
    let now = paths(&adaptation);
    assert_eq!((now.len(), &now[0]), (3, &nearest[2]), "{now:?}");
    assert!(err.contains("2 of the nearest images are left out") && err.contains("adir index build"), "{err}");
    fs::remove_dir_all(f.join("g")).unwrap();
    let args = [&RESTORE[..], &ADAPT, &use_index].concat();
    let (_, err) = expect(3, &f, &args);
    assert!(err.contains("contains no images to adapt to"), "{err}");
    fs::remove_dir_all(f).unwrap();
}

/// A damaged entry of the cache, whatever the damage, is made anew, and the result is the same.
/// A tile of a large image is the same to an adaptation as a file of its own.
#[test]
fn tiles_of_large_images_are_neighbours() {
    let f = folder("tiles");
    part(&f.join("sheets/s.png"), 20, 20, 96);
    for (name, top, left) in [("a", 20, 20), ("b", 20, 68), ("c", 68, 20), ("d", 68, 68)] {
        part(&f.join(format!("cut/{name}.png")), top, left, 48);
    }
    let with = |more: &[&str]| {
        let (_, record) = adapted(&f, &[&["--adapt", "gallery", "-k", "3"], more].concat());
        (fs::read(f.join("x.png")).unwrap(), record)
    };
    let (cut, of_files) = with(&["--gallery", "cut"]);
    let (tiled, of_tiles) = with(&["--gallery", "sheets", "--gallery-tiles", "50"]);
    assert!(cut == tiled, "other bytes");
    let place = |image: &Value| {
        let tile = &image["tile"];
        assert_eq!((tile["height"].as_u64(), tile["width"].as_u64()), (Some(48), Some(48)));
        ["a", "b", "c", "d"][(tile["top"].as_u64().unwrap() / 24 + tile["left"].as_u64().unwrap() / 48) as usize]
    };
    let places: Vec<_> = of_tiles["images"].as_array().unwrap().iter().map(place).collect();
    assert_eq!(places.iter().map(|name| format!("{name}.png")).collect::<Vec<_>>(), paths(&of_files));
    assert_eq!(of_tiles["tiles"], 50);
    // Whole, the sheet is one image, and another adapter.
    let (whole, record) = with(&["--gallery", "sheets"]);
    assert!(whole != tiled && record["images"][0].get("tile").is_none() && paths(&record) == ["s.png"]);
    // An index of tiles, used as it is or by name of what it holds.
    expect(0, &f, &["index", "build", "sheets", "--tiles", "50"]);
    assert!(expect(0, &f, &["index", "info", "sheets.index"]).0.contains("tiles      of about 50 pixels"));
    assert!(expect(0, &f, &["index", "search", "sheets.index", "y.png"]).0.contains("s.png 48x48+0+0"));
    assert!(with(&["--gallery", "sheets.index"]).0 == tiled);
    assert!(with(&["--gallery", "sheets.index", "--gallery-tiles", "50"]).0 == tiled);
    let refused = |code, more: &[&str]| expect(code, &f, &[&RESTORE[..], more].concat()).1;
    assert!(refused(3, &["--gallery", "sheets.index", "--gallery-tiles", "64"]).contains("--tiles 64"));
    assert!(refused(2, &["--gallery", "sheets", "--gallery-tiles", "8"]).contains("32 or more"));
    assert!(refused(2, &["--gallery-tiles", "64"]).contains("--gallery"));
    assert!(expect(2, &f, &["index", "build", "sheets"]).1.contains("tiles of 50 pixels"));
}

#[test]
fn damaged_entries_of_the_cache_are_made_anew() {
    let f = folder("damage");
    gallery(&f.join("g"), 3);
    let run = |more: &[&str]| {
        let (err, adaptation) = adapted(&f, &[&["--gallery", "g", "--cache", "c"], more].concat());
        (err, fs::read(f.join("x.png")).unwrap(), adaptation["from_cache"] == true)
    };
    let only = |kind: &str| {
        let files = fs::read_dir(f.join("c").join(kind)).unwrap().map(|file| file.unwrap().path());
        files.filter(|file| file.extension().is_some_and(|e| e != "checkpoint")).collect::<Vec<_>>()
    };
    let (_, first, _) = run(&[]);
    let (err, again, from_cache) = run(&[]);
    assert!(first == again && from_cache && !err.contains("warning"), "{err}");
    let index = only("indexes").remove(0);
    for damage in [&b""[..], b"ADIRINDX and nonsense"] {
        fs::write(&index, damage).unwrap();
        let (err, again, from_cache) = run(&[]);
        assert!(first == again && from_cache && err.contains("the index in the cache is made anew"), "{err}");
    }
    // The index of another folder in its place.
    gallery(&f.join("other"), 2);
    adapted(&f, &["--gallery", "other", "--cache", "c2"]);
    fs::copy(fs::read_dir(f.join("c2/indexes")).unwrap().next().unwrap().unwrap().path(), &index).unwrap();
    assert!(run(&[]).0.contains("the index in the cache is made anew"));

    let adapter = only("adapters").remove(0);
    let whole = fs::read(&adapter).unwrap();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let other = {
        assert!(!run(&["--adapt-seed", "5"]).2);
        let other = only("adapters").into_iter().find(|path| *path != adapter).unwrap();
        fs::read(other).unwrap()
    };
    for damage in [&b""[..], &whole[..1000], &flipped, &other] {
        fs::write(&adapter, damage).unwrap();
        let (err, again, from_cache) = run(&[]);
        assert!(err.contains("the adapter in the cache is made anew") && !from_cache, "{err}");
        assert!(first == again && fs::read(&adapter).unwrap() == whole);
    }
    fs::remove_dir_all(f).unwrap();
}

/// `--no-cache` needs no folder for a cache; one that takes nothing is known before the training, and costs no result.
#[test]
fn a_cache_that_takes_nothing_costs_no_result() {
    let f = folder("no-cache");
    gallery(&f.join("g"), 2);
    fs::write(f.join("file"), "no folder").unwrap();
    let without = |more: &[&str]| {
        let args = [&RESTORE[..], &["--steps", "1", "--gallery", "g"], &ADAPT, more].concat();
        let home = f.join("file/home");
        checked(0, &args, command(&f, &args).env("XDG_CACHE_HOME", &home).env("HOME", &home).output().unwrap()).1
    };
    assert!(!without(&["--no-cache"]).contains("warning"));
    assert!(!f.join("home").exists());
    let err = without(&[]);
    let (before, after) = (err.find("the cache takes nothing").unwrap(), err.find("adaptation: ").unwrap());
    assert!(before < after, "{err}");
    // `create` without -o has no other place for its adapter.
    let create = [&["adapt", "create", "y.png", "--gallery", "g", "--cache", "file/c"], &ADAPT[..]].concat();
    let (out, err) = expect(3, &f, &create);
    assert!(out.is_empty() && err.contains("file") && !err.contains("held-out") && !err.contains("warning"), "{err}");
    fs::remove_dir_all(f).unwrap();
}

/// With one image nothing can be held out: `auto` trains nothing and says so, `gallery` adapts.
#[test]
fn auto_does_not_use_what_cannot_be_checked() {
    let f = folder("one");
    gallery(&f.join("g"), 1);
    fs::copy(f.join("g/a.png"), f.join("g/copy.png")).unwrap();
    expect(0, &f, &[&RESTORE[..], &["--steps", "1"]].concat());
    let plain = fs::read(f.join("x.png")).unwrap();
    let none = "none can be held out";
    let (out, err) = expect(0, &f, &[&RESTORE[..], &["--plan", "--gallery", "g"]].concat());
    assert!(err.contains(none), "{err}");
    let indexing = out.lines().find(|line| line.starts_with("indexing time")).unwrap();
    assert!(indexing.ends_with(" s for 2 images of the gallery"), "{indexing}");
    let (err, adaptation) = adapted(&f, &["--gallery", "g"]);
    assert!(err.matches(none).count() == 1 && err.contains("not used"), "{err}");
    assert_eq!((&adaptation["used"], &adaptation["outcome"]), (&Value::Bool(false), &Value::Null));
    assert_eq!(paths(&adaptation).len(), 1);
    assert_eq!(fs::read(f.join("x.png")).unwrap(), plain);
    let (_, adaptation) = adapted(&f, &["--gallery", "g", "--adapt", "gallery"]);
    assert_eq!(adaptation["used"], true);
    fs::remove_dir_all(f).unwrap();
}

/// Sixteen dates are sixteen photographs, not the tiles of two.
#[test]
fn dated_photographs_are_trained_on() {
    let f = folder("dates");
    for day in 1..=8 {
        for year in [2022, 2023] {
            part(&f.join(format!("dates/{year}_05_{day:02}.png")), 20 + 9 * day, 90 * (year - 2022), 32);
        }
    }
    let (_, err) = train(&f, "dates", "t.safetensors", &[]);
    assert!(err.contains("15 images to train on, 1 held out"), "{err}");
    let (_, err) = train(&f, "dates", "t.safetensors", &["--tiles", "always"]);
    assert!(err.contains("8 images to train on, 8 held out"), "{err}");
    fs::remove_dir_all(f).unwrap();
}

/// Names that no file can have are refused before anything is computed, by every command that writes.
#[test]
fn names_too_long_are_refused_at_once() {
    let f = folder("long");
    gallery(&f.join("g"), 2);
    let name = |length: usize| format!("{}.png", "x".repeat(length));
    let (record, sample, index) = (name(247), name(248), "x".repeat(256));
    let restore = |output: &str, more: &[&str]| {
        let args = ["restore", "y.png", "-o", output, "--task", "sr2"];
        expect(2, &f, &[&args[..], more].concat()).1
    };
    assert!(restore(&record, &[]).contains("longer than the file system takes"), "the record");
    assert!(restore(&record, &["--plan"]).contains("256 bytes"));
    assert!(restore(&sample, &["-n", "2", "--plan"]).contains("longer"));
    expect(2, &f, &["index", "build", "g", "-o", &index]);
    expect(2, &f, &["degrade", "y.png", "-o", &name(252), "--task", "sr2"]);
    expect(2, &f, &["train", "g", "-o", &name(245).replace("png", "safetensors"), "--steps", "1"]);
    expect(2, &f, &["adapt", "create", "--archive", "g", "-o", &name(246).replace("png", "safetensors")]);
    assert_eq!(fs::read_dir(&f).unwrap().count(), 2, "y.png and the gallery");
    fs::remove_dir_all(f).unwrap();
}

/// A record never takes the place of something else, and of earlier samples it is said that they stay.
#[test]
fn records_and_samples_respect_what_is_there() {
    let f = folder("record");
    let annotation = r#"{"shapes": ["mine"], "samples": 3}"#;
    fs::write(f.join("x.json"), annotation).unwrap();
    fs::write(f.join("x.png.json"), annotation).unwrap();
    let run = |code: i32, more: &[&str]| expect(code, &f, &[&RESTORE[..], &["--steps", "1"], more].concat()).1;
    assert!(run(2, &["--plan"]).contains("which adir did not write"));
    fs::remove_file(f.join("x.png.json")).unwrap();
    run(0, &["-n", "3"]);
    assert_eq!(fs::read_to_string(f.join("x.json")).unwrap(), annotation);
    assert_eq!(json(&f.join("x.png.json"))["samples"], 3);
    assert!(run(0, &["-n", "2"]).contains("left alone: 1 sample of an earlier run, from x.3.png on"));
    assert!(f.join("x.3.png").is_file());
    run(0, &["-n", "3"]);
    assert!(run(0, &[]).contains("left alone: 3 samples of an earlier run, from x.1.png on"));
    fs::remove_dir_all(f).unwrap();
}

/// The index of `.` lies beside the folder, and a folder is searched as it is adapted to.
#[test]
fn a_folder_is_indexed_and_searched_by_any_of_its_names() {
    let f = folder("dot");
    let g = f.join("g");
    gallery(&g, 2);
    for (from, name) in [(&g, "."), (&g, "../g/"), (&f, "g"), (&f, "g/.")] {
        expect(0, from, &["index", "build", name]);
        assert!(f.join("g.index").is_file(), "{name}");
        fs::remove_file(f.join("g.index")).unwrap();
    }
    assert_eq!(fs::read_dir(&g).unwrap().count(), 2);
    let (out, _) = expect(0, &g, &["index", "search", ".", "../y.png", "--cache", "../c"]);
    assert_eq!(out.lines().count(), 2, "{out}");
    let (out, _) = expect(0, &f, &["index", "info", "g", "--cache", "c"]);
    assert!(out.contains("images     2"), "{out}");
    expect(0, &f, &["index", "build", "g"]);
    let (out, _) = expect(0, &f, &["index", "info", "g.index"]);
    assert!(out.contains("written    less than a minute ago"), "{out}");
    assert_eq!(fs::read_dir(&g).unwrap().count(), 2, "the cache of a search lies elsewhere");
    fs::remove_dir_all(f).unwrap();
}

/// No output takes the place of an input or of another output, whatever they are called; missing folders are made.
#[test]
fn outputs_destroy_nothing_and_find_their_folders() {
    let f = folder("outputs");
    gallery(&f.join("g"), 3);
    train(&f, "g", "m.safetensors", &[]);
    for name in ["mask.png", "k.png"] {
        fs::copy(f.join("y.png"), f.join(name)).unwrap();
    }
    fs::create_dir(f.join("sub")).unwrap();
    fs::hard_link(f.join("mask.png"), f.join("hard.png")).unwrap();
    let before = |name: &str| fs::read(f.join(name)).unwrap();
    let (mask, model) = (before("mask.png"), before("m.safetensors"));
    let inpaint = |output: &'static str| {
        ["restore", "y.png", "-o", output, "--task", "inpaint", "--mask", "mask.png", "--steps", "1", "--overwrite"]
    };
    for args in [
        &inpaint("mask.png")[..],
        &inpaint("sub/../mask.png"),
        &inpaint("hard.png"),
        &["degrade", "y.png", "-o", "mask.png", "--task", "inpaint", "--mask", "mask.png", "--overwrite"],
        &["degrade", "y.png", "-o", "k.png", "--task", "deblur", "--kernel", "k.png", "--overwrite"],
        &["restore", "y.png", "-o", "g/a.png", "--task", "sr2", "--gallery", "g", "--overwrite"],
        &["train", "g", "-o", "m.safetensors", "--init", "m.safetensors", "--steps", "1", "--overwrite"],
        &["train", "g", "-o", "c.checkpoint", "--steps", "1"],
        &["train", "g", "-o", "c.safetensors", "--sheet", "./c.md", "--steps", "1"],
        &["train", "g", "-o", "c.safetensors", "--sheet", "c.bmp", "--steps", "1"],
        &["adapt", "create", "y.png", "--adapt", "self", "-m", "m.safetensors", "-o", "m.safetensors", "--overwrite"],
        &["adapt", "create", "--archive", "g", "-o", "c.checkpoint"],
    ] {
        let (out, err) = expect(2, &f, args);
        assert!(out.is_empty() && !err.contains("training"), "{args:?}: {err}");
    }
    assert!(before("mask.png") == mask && before("m.safetensors") == model);
    let output = "new/folder/x.png";
    expect(0, &f, &["restore", "y.png", "-o", output, "--task", "sr2", "--steps", "1", "--plan"]);
    assert!(!f.join("new").exists(), "a plan makes nothing");
    expect(0, &f, &["restore", "y.png", "-o", output, "--task", "sr2", "--steps", "1"]);
    assert!(f.join("new/folder/x.png.json").is_file());
    expect(0, &f, &["index", "build", "g", "-o", "indexes/g.index"]);
    fs::remove_dir_all(f).unwrap();
}

/// An adapter that is asked for by a second name has both.
#[test]
fn a_name_is_added_not_taken() {
    let f = folder("names");
    gallery(&f.join("g"), 3);
    let create = |name: &str| {
        let args = ["adapt", "create", "y.png", "--gallery", "g", "--name", name, "--cache", "c"];
        expect(0, &f, &[&args[..], &ADAPT].concat())
    };
    create("first");
    let (out, err) = create("second");
    assert!(out.contains("first, second") && err.contains("a further name"), "{out}{err}");
    for name in ["first", "second"] {
        let (out, _) = expect(0, &f, &["adapt", "info", name, "--cache", "c"]);
        assert!(out.contains("written              less than a minute ago"), "{out}");
    }
    expect(0, &f, &["adapt", "rename", "second", "third", "--cache", "c"]);
    let (out, _) = expect(0, &f, &["adapt", "list", "--cache", "c"]);
    assert!(out.contains("first, third"), "{out}");
    // A record holds the key, and its run is repeated whatever the adapter is called by then.
    let named = ["--adapter", "third", "--cache", "c", "--steps", "1"];
    expect(0, &f, &[&RESTORE[..], &named].concat());
    expect(0, &f, &["adapt", "rename", "third", "fourth", "--cache", "c"]);
    let replay = ["replay", "x.png.json", "--cache", "c"];
    let (_, err) = expect(0, &f, &replay);
    assert!(!err.contains("since the run"), "{err}");
    fs::copy(f.join("y.png"), f.join("x.png")).unwrap();
    let (_, err) = expect(0, &f, &replay);
    assert!(err.contains("x.png: is gone, or has changed since the run"), "{err}");
    // A file needs no cache.
    let key = fs::read_dir(f.join("c/adapters")).unwrap().next().unwrap().unwrap().path();
    let mut info = command(&f, &["adapt", "info", key.to_str().unwrap()]);
    checked(0, &[], info.env_remove("XDG_CACHE_HOME").env_remove("HOME").output().unwrap());
    fs::remove_dir_all(f).unwrap();
}

/// What has no effect, or means something else than it seems, is refused with what it needs; negative numbers are numbers.
#[test]
fn options_mean_what_they_say() {
    let f = folder("options");
    gallery(&f.join("g"), 2);
    fn restore<'a>(more: &[&'a str]) -> Vec<&'a str> {
        [&RESTORE[..], more].concat()
    }
    for (more, said) in [
        (&["--iterations", "3"][..], "--iterations has no effect: nothing is adapted without --gallery"),
        (&["--full"], "--full has no effect"),
        (&["-k", "3"], "--neighbours has no effect without --gallery"),
        (&["--adapt", "self", "--closer-than", "0.1"], "--closer-than has no effect"),
        (&["--adapter", "none", "--adapt-crop", "16"], "without --gallery FOLDER an adapter is used as it is"),
        (&["--adapter", "none", "--adapt", "none"], "give one of them"),
        (&["--keep-margin"], "--keep-margin has no effect without --kernel"),
        (&["--boundary", "circular"], "--boundary has no effect without --kernel"),
        (&["-s", "2"], "not the factor"),
        (&["--sigma", "-5"], "-5"),
        (&["-n", "-2"], "invalid value '-2'"),
        (&["--seed", "-3"], "-1 to draw one"),
    ] {
        let (_, err) = expect(2, &f, &restore(more));
        assert!(err.contains(said) && !err.contains("unexpected argument"), "{more:?}: {err}");
    }
    let (_, err) = expect(2, &f, &["restore", "-i", "y.png", "-o", "x.png", "-s", "4"]);
    assert!(err.contains("hint: the factor belongs to the task: --task sr4"), "{err}");
    let create = ["adapt", "create", "y.png", "--gallery", "g", "--overlap", "0.5", "-o", "a.safetensors"];
    assert!(expect(2, &f, &create).1.contains("--overlap has no effect"));
    expect(0, &f, &restore(&["--adapt", "none", "--gallery", "g", "--iterations", "3", "--plan"]));

    let drawn = |output: &str| {
        let (_, err) =
            expect(0, &f, &["restore", "y.png", "-o", output, "--task", "sr2", "--steps", "1", "--seed", "-1"]);
        let seed = json(&f.join(format!("{output}.json")))["seed"].as_u64().unwrap();
        assert!(err.contains(&format!("seed {seed}")), "{err}");
        seed
    };
    let (a, b) = (drawn("a.png"), drawn("b.png"));
    assert_ne!(a, b);
    expect(0, &f, &["restore", "y.png", "-o", "c.png", "--task", "sr2", "--steps", "1", "--seed", &a.to_string()]);
    assert_eq!(fs::read(f.join("a.png")).unwrap(), fs::read(f.join("c.png")).unwrap());

    let (out, _) = expect(0, &f, &["models", "measure", "g", "--crop", "16", "--crops", "2"]);
    assert!(out.contains("on 2 crops of 16x16") && out.contains("no crops") && !out.contains("NaN"), "{out}");
    fs::remove_dir_all(f).unwrap();
}

/// Pipes and devices are refused at once, in the place of any input.
#[cfg(unix)]
#[test]
fn pipes_are_refused_without_waiting() {
    let f = folder("pipes");
    assert!(Command::new("mkfifo").arg(f.join("pipe.png")).status().unwrap().success());
    gallery(&f.join("g"), 1);
    assert!(Command::new("mkfifo").arg(f.join("g/pipe.png")).status().unwrap().success());
    for (code, args) in [
        (3, &["restore", "pipe.png", "-o", "x.png", "--task", "sr2"][..]),
        (3, &["restore", "y.png", "-o", "x.png", "--task", "inpaint", "--mask", "pipe.png"]),
        (4, &["restore", "y.png", "-o", "x.png", "--task", "sr2", "-m", "pipe.png"]),
        (4, &["restore", "y.png", "-o", "x.png", "--task", "sr2", "-m", "y.png", "--model-config", "pipe.png"]),
        (3, &["restore", "y.png", "-o", "x.png", "--task", "sr2", "--gallery", "pipe.png"]),
        (3, &["compare", "y.png", "/dev/zero"]),
        (3, &["index", "info", "pipe.png"]),
        (0, &["index", "build", "g"]),
    ] {
        let mut running = command(&f, args).stderr(std::process::Stdio::null()).spawn().unwrap();
        let started = std::time::Instant::now();
        let status = loop {
            match running.try_wait().unwrap() {
                Some(status) => break status,
                None if started.elapsed().as_secs() > 60 => {
                    running.kill().unwrap();
                    panic!("{args:?} waits");
                }
                None => std::thread::sleep(std::time::Duration::from_millis(20)),
            }
        };
        assert_eq!(status.code(), Some(code), "{args:?}");
    }
    fs::remove_dir_all(f).unwrap();
}

/// Metrics hold much more than the pixels of an image: with too little memory it is said, not tried.
#[cfg(unix)]
#[test]
fn a_comparison_beyond_the_memory_is_refused() {
    let f = folder("memory");
    let white = adir::tensor::Tensor::<4>::ones([1, 1, 3000, 3000], &adir::tensor::cpu());
    write_image(&f.join("large.png"), &white, &WriteOptions::default()).unwrap();
    let limited = |kilobytes: u32| {
        let program = env!("CARGO_BIN_EXE_adir");
        let line = format!("ulimit -v {kilobytes}; exec {program} compare large.png large.png --metric psnr_rgb");
        Command::new("sh").args(["-c", &line]).current_dir(&f).output().unwrap()
    };
    checked(0, &[], limited(8_000_000));
    let (_, err) = checked(5, &[], limited(1_700_000));
    assert!(err.contains("needs about 1.80 GB of memory"), "{err}");
    fs::remove_dir_all(f).unwrap();
}

/// Names cannot command a terminal.
#[cfg(unix)]
#[test]
fn control_characters_in_names_are_written_out() {
    let f = folder("control");
    let (_, err) = expect(3, &f, &["restore", "\u{1b}[31mred.png", "-o", "x.png", "--task", "sr2"]);
    assert!(err.contains("\\u{1b}[31mred.png") && !err.contains('\u{1b}'), "{err}");
    fs::remove_dir_all(f).unwrap();
}
