//! What people who trust the program with their own pictures rely on: nothing is lost or used without a word, and a plan
//! refuses what the run would.

use std::fs;
use std::path::Path;

use adir::engine::ByY;
use adir::io::image::{Picture, WriteOptions, write_image};
use serde_json::Value;

mod common;
use common::{expect, folder, json, part, photo, square};

const SR2: [&str; 4] = ["--task", "sr2", "--steps", "2"];

/// A part of the sample photo whose upper half is transparent.
fn transparent(path: &Path, side: usize) {
    let alpha = (0..side * side).map(|i| if i < side * side / 2 { 0.0 } else { 1.0 }).collect();
    write_image(path, &photo(side), &WriteOptions { alpha: Some(alpha), ..WriteOptions::default() }).unwrap();
}

/// Alpha is carried by what makes a picture of a picture, as far as formats go, and told by what does not look at it.
#[test]
fn alpha_is_carried_or_told() {
    let f = folder("alpha");
    transparent(&f.join("a.png"), 32);
    let degrade = |code: i32, task: &[&str], output: &str| {
        expect(code, &f, &[&["degrade", "a.png", "-o", output, "--overwrite", "--task"], task].concat()).1
    };
    for (task, side) in [
        (&["sr2"][..], 16),
        (&["deblur", "--kernel", "box:3"], 32),
        (&["deblur", "--kernel", "box:5", "--boundary", "valid"], 28),
    ] {
        degrade(0, task, "y.png");
        let y = Picture::read(f.join("y.png")).unwrap();
        let alpha = y.alpha.expect("alpha is carried");
        assert_eq!((y.tensor.dims()[2], alpha.len()), (side, side * side), "{task:?}");
        assert!(alpha[0] < 0.1 && alpha[side * side - 1] > 0.9, "{task:?}");
    }
    degrade(0, &["sr2"], "y.tif");
    assert!(Picture::read(f.join("y.tif")).unwrap().alpha.is_some());
    // As a restoration refuses it.
    for args in [
        &["degrade", "a.png", "-o", "y.jpg", "--task", "sr2"][..],
        &["restore", "a.png", "-o", "y.jpg", "--task", "sr2"],
    ] {
        let err = expect(2, &f, args).1;
        assert!(err.contains("y.jpg: the input has an alpha channel, which this format cannot hold"), "{err}");
    }
    let says = |args: &[&str]| expect(0, &f, args).1.matches("is transparent in parts").count();
    part(&f.join("x.png"), 60, 60, 32);
    assert_eq!(says(&["compare", "x.png", "a.png"]), 1);
    assert_eq!(says(&["compare", "x.png", "x.png"]), 0);
    part(&f.join("g/1.png"), 10, 10, 32);
    transparent(&f.join("g/2.png"), 32);
    transparent(&f.join("g/3.png"), 24);
    let err = expect(0, &f, &["index", "build", "g", "-o", "g.index"]).1;
    assert!(err.contains("warning: 2 files, the first: 2.png: is transparent in parts"), "{err}");
    assert_eq!(says(&["index", "search", "g.index", "a.png"]), 1);
    assert_eq!(says(&["eval", "g", "-o", "e", "--tasks", "sr2", "--methods", "bicubic", "--crop", "16"]), 1);
    fs::remove_dir_all(f).unwrap();
}

/// Every option that names a file or folder, with what it cannot be: the plan says what the run says, with the same code.
#[test]
fn a_plan_refuses_what_the_run_would() {
    let f = folder("plan");
    part(&f.join("y.png"), 60, 60, 16);
    part(&f.join("s/y.png"), 60, 60, 16);
    part(&f.join("g/1.png"), 10, 10, 32);
    part(&f.join("g/2.png"), 40, 10, 32);
    fs::create_dir(f.join("empty")).unwrap();
    fs::write(f.join("file.txt"), "text").unwrap();
    fs::write(f.join("broken.safetensors"), "no weights").unwrap();
    expect(0, &f, &["index", "build", "g", "-o", "g.index"]);
    let cut = fs::read(f.join("g.index")).unwrap();
    fs::write(f.join("cut.index"), &cut[..cut.len() - 9]).unwrap();
    part(&f.join("h/1.png"), 10, 10, 32);
    expect(0, &f, &["index", "build", "h", "-o", "gone.index"]);
    fs::remove_dir_all(f.join("h")).unwrap();
    let cases: [(i32, &[&str], &str); 19] = [
        (2, &["--adapter", "none"], "no adapter \"none\""),
        (2, &["--adapter", "empty"], "no adapter \"empty\""),
        (4, &["--adapter", "file.txt"], "file.txt: "),
        (4, &["--adapter", "broken.safetensors"], "broken.safetensors: "),
        (2, &["--adapter", "none", "--gallery", "g"], "no adapter \"none\""),
        (3, &["--gallery", "empty"], "empty: contains no images"),
        (3, &["--gallery", "none"], "none: is neither a folder nor an index"),
        (3, &["--gallery", "file.txt"], "file.txt: is not an index of images"),
        (3, &["--gallery", "cut.index"], "cut.index: "),
        (3, &["--gallery", "gone.index"], "h: contains no images to adapt to: this folder, of the index gone.index"),
        (3, &["--gallery", "g.index", "--gallery-tiles", "64"], "g.index: is no index of tiles"),
        (2, &["--gallery", "g", "--adapt", "text", "--prompt", "cat"], "text"),
        (4, &["--gallery", "g", "--encoder", "none"], "none: "),
        (4, &["--gallery", "g", "--encoder", "empty"], "empty: contains none of"),
        (4, &["--model", "none"], "none: "),
        (4, &["--model", "empty"], "empty: cannot be opened: is a folder, expected a file"),
        (3, &["--ignore", "empty"], "empty: cannot be read: is a folder, expected a file"),
        (3, &["--ignore", "none.png"], "none.png: cannot be read"),
        (3, &["--kernel", "empty"], "empty: cannot be read: is a folder, expected a file"),
    ];
    for (code, options, said) in cases {
        for (input, output) in [("y.png", "o.png"), ("s", "o")] {
            for plan in [&["--plan"][..], &[]] {
                let err = expect(code, &f, &[&["restore", input, "-o", output], &SR2[..], options, plan].concat()).1;
                assert!(err.contains(said), "{options:?} {plan:?} should mention {said:?}:\n{err}");
                assert!(!f.join("o").exists() && !f.join("o.png").exists(), "{options:?}");
            }
        }
    }
    for (options, said) in [
        (&["--record", "r.png"][..], "r.png: a record is written as JSON"),
        (&["--record", "empty"], "empty"),
        (&["--report", "r.jpg"], "r.jpg: a page is written as HTML"),
    ] {
        for plan in [&["--plan"][..], &[]] {
            let err = expect(2, &f, &[&["restore", "y.png", "-o", "o.png"], &SR2[..], options, plan].concat()).1;
            assert!(err.contains(said) && !f.join("o.png").exists(), "{options:?}: {err}");
        }
    }
    fs::remove_dir_all(f).unwrap();
}

/// The same for a model of Stable Diffusion.
#[test]
fn an_edit_plan_refuses_what_the_run_would() {
    let f = folder("edit");
    part(&f.join("x.png"), 60, 60, 32);
    fs::create_dir(f.join("empty")).unwrap();
    fs::write(f.join("file.txt"), "text").unwrap();
    part(&f.join("g/1.png"), 10, 10, 32);
    expect(0, &f, &["models", "random", "sd2-inpainting", "--tiny", "-o", "m"]);
    let other = adir::io::weights::TensorToWrite {
        name: "w",
        shape: &[1],
        dtype: adir::io::weights::Dtype::F32,
        values: &[1.0],
    };
    adir::io::weights::write_safetensors(&f.join("other.safetensors"), &[other], &Default::default()).unwrap();
    let part_of = ["--box", "8,8,8,8"];
    let cases: [(i32, &[&str], &str); 9] = [
        (3, &["--mask", "none.png"], "none.png: cannot be read"),
        (3, &["--mask", "empty"], "empty: cannot be read: is a folder, expected a file"),
        (4, &["--adapter", "none.safetensors", "--box", "8,8,8,8"], "none.safetensors: cannot be opened"),
        (4, &["--adapter", "other.safetensors", "--box", "8,8,8,8"], "it is no LoRA for it"),
        (3, &["--gallery", "empty", "--box", "8,8,8,8"], "empty: contains no images"),
        (3, &["--gallery", "file.txt", "--box", "8,8,8,8"], "file.txt: is not an index"),
        (4, &["--gallery", "g", "--encoder", "none", "--box", "8,8,8,8"], "none: "),
        (2, &["--gallery", "g", "--save-adapter", "l.png", "--box", "8,8,8,8"], "l.png: weights are written"),
        (2, &["--gallery", "g", "--save-adapter", "empty", "--box", "8,8,8,8"], "empty"),
    ];
    let edit = |code: i32, more: &[&str]| {
        expect(code, &f, &[&["edit", "x.png", "-o", "o.png", "--model", "m", "--steps", "1"], more].concat())
    };
    edit(0, &[&part_of[..], &["--plan"]].concat());
    for (code, options, said) in cases {
        for plan in [&["--plan"][..], &[]] {
            let err = edit(code, &[options, plan].concat()).1;
            assert!(err.contains(said) && !f.join("o.png").exists(), "{options:?} should mention {said:?}:\n{err}");
        }
    }
    fs::remove_dir_all(f).unwrap();
}

/// An adapter is used because it was named, and what it and the observation say of it is said.
#[test]
fn a_doubtful_adapter_is_used_with_a_warning() {
    let f = folder("doubt");
    part(&f.join("y.png"), 60, 60, 32);
    for k in 0..4 {
        part(&f.join(format!("g/{k}.png")), 20 + 30 * k, 10, 48);
    }
    // So fast that it only spoils the weights.
    let args = [
        "adapt",
        "create",
        "y.png",
        "--gallery",
        "g",
        "--iterations",
        "6",
        "--adapt-rate",
        "0.5",
        "--adapt-crop",
        "16",
    ];
    expect(0, &f, &[&args[..], &["--adapt", "auto", "--full", "-o", "bad.safetensors"]].concat());
    let restore = |more: &[&str]| {
        expect(
            0,
            &f,
            &[&["restore", "y.png", "-o", "x.png", "--overwrite", "--adapter", "bad.safetensors"], &SR2[..], more]
                .concat(),
        )
    };
    let planned = restore(&["--plan"]).1;
    assert!(
        planned.contains("no better than the prior: their loss ") && planned.contains("as --adapter names it"),
        "{planned}"
    );
    let err = restore(&[]).1;
    assert!(err.contains("no better than the prior"), "{err}");
    let record = json(&f.join("x.png.json"));
    assert_eq!(record["adaptation"]["used"], Value::Bool(true));
    assert!(record["adaptation"]["by_y"]["gain"].is_f64(), "y was asked: {record}");
    restore(&["--adapt", "auto"]);
    let adaptation = json(&f.join("x.png.json"))["adaptation"].take();
    assert!(adaptation["used"] == Value::Bool(false) && adaptation["by_y"].is_null(), "left out: {adaptation}");

    // Nothing was held out of the training on one image: y decides.
    fs::create_dir(f.join("one")).unwrap();
    fs::copy(f.join("g/0.png"), f.join("one/0.png")).unwrap();
    let args =
        ["adapt", "create", "--archive", "one", "--iterations", "2", "--adapt-crop", "16", "-o", "bad.safetensors"];
    expect(0, &f, &[&args[..], &["--overwrite"]].concat());
    restore(&["--adapt", "auto"]);
    let adaptation = json(&f.join("x.png.json"))["adaptation"].take();
    let ByY { gain, standard_error } = serde_json::from_value(adaptation["by_y"].clone()).expect("y was asked");
    assert_eq!(adaptation["used"], Value::Bool(gain > standard_error), "{adaptation}");
    fs::remove_dir_all(f).unwrap();
}

/// What a folder holds that is not restored is told by its kind, and a gallery's likewise.
#[cfg(unix)]
#[test]
fn skipped_files_are_told() {
    let f = folder("skipped");
    part(&f.join("s/a.png"), 60, 60, 16);
    for name in ["1.bmp", "2.bmp", "3.gif", "notes.txt"] {
        fs::write(f.join("s").join(name), "x").unwrap();
    }
    std::os::unix::fs::symlink("nowhere", f.join("s/gone.jpg")).unwrap();
    let _pipe = std::os::unix::net::UnixListener::bind(f.join("s/pipe.tif")).unwrap();
    for args in
        [&["restore", "s", "-o", "o", "--task", "sr2", "--steps", "2"][..], &["index", "build", "s", "-o", "s.index"]]
    {
        let err = expect(0, &f, args).1;
        for said in [
            "left out: 2 files, the first: ",
            ".bmp: is a BMP file: convert it first",
            "3.gif: is a GIF file",
            "gone.jpg: is a link that leads nowhere",
            "pipe.tif: is a pipe, a socket or a device",
        ] {
            assert_eq!(err.matches(said).count(), 1, "{said}: {err}");
        }
        assert!(!err.contains("notes.txt"), "{err}");
    }
    fs::remove_file(f.join("s/a.png")).unwrap();
    let err = expect(3, &f, &["restore", "s", "-o", "p", "--task", "sr2"]).1;
    assert!(err.contains("s: contains no images that can be read: "), "{err}");
    fs::remove_dir_all(f).unwrap();
}

/// Of a stack, only the first page is compared: that is said.
#[test]
fn compare_tells_of_further_pages() {
    let f = folder("pages");
    let cards = ["SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 3", "NAXIS1  = 8", "NAXIS2  = 8", "NAXIS3  = 2", "END"];
    let mut bytes: Vec<u8> = cards.iter().flat_map(|card| format!("{card:<80}").into_bytes()).collect();
    bytes.resize(2880, b' ');
    bytes.extend((0..128).map(|i| 10 + i));
    bytes.resize(2 * 2880, 0);
    fs::write(f.join("cube.fits"), bytes).unwrap();
    let first = Picture::read(f.join("cube.fits")).unwrap();
    Picture::from_tensor(first.tensor).write(f.join("one.tif")).unwrap();
    let (out, err) = expect(0, &f, &["compare", "one.tif", "cube.fits", "--metric", "psnr_rgb"]);
    assert!(err.contains("warning: cube.fits: page 1 of 2 only\n") && !out.is_empty(), "{out}{err}");
    fs::remove_dir_all(f).unwrap();
}

/// A name that looks like messages, or moves the cursor, stays one line without control characters.
#[cfg(unix)]
#[test]
fn names_stay_names() {
    let f = folder("names");
    let name = "evil\nerror: all is lost\u{1b}[2J\u{9b}1m\u{202e}.png";
    fs::create_dir(f.join("s")).unwrap();
    fs::write(f.join("s").join(name), "no image").unwrap();
    part(&f.join("s/a.png"), 60, 60, 16);
    let plain = "evil\\nerror: all is lost\\u{1b}[2J\\u{9b}1m\\u{202e}.png";
    let obeyed = ['\u{1b}', '\u{9b}', '\u{202e}'];
    for args in [&["restore", "s", "-o", "o"][..], &["restore", "s", "-o", "o", "--log-format", "json"]] {
        let err = expect(1, &f, &[args, &SR2[..]].concat()).1;
        assert!(!err.contains(obeyed) && !err.contains("\nerror: all"), "{err}");
        assert!(err.contains(plain) || err.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{err}");
    }
    let manifest = fs::read_to_string(f.join("o/adir-manifest-1-of-1.jsonl")).unwrap();
    assert!(!manifest.contains(obeyed) && manifest.contains("\\u001b") && manifest.contains("\\u202e"), "{manifest}");
    expect(1, &f, &["merge", "o"]);
    let err = expect(3, &f, &["restore", &format!("s/{name}"), "-o", "x.png", "--task", "sr2"]).1;
    assert!(err.contains(plain) && !err.contains(obeyed), "{err}");
    fs::remove_dir_all(f).unwrap();
}

/// Two runs into one folder: the second is told so, and the manifest says what is there.
#[test]
fn a_folder_is_restored_by_one_run_at_a_time() {
    let f = folder("twice");
    for k in 0..4 {
        part(&f.join(format!("s/{k}.png")), 30 + 20 * k, 60, 64);
    }
    let args = ["restore", "s", "-o", "o", "--task", "sr2"];
    let mut first = common::command(&f, &args).stderr(std::process::Stdio::null()).spawn().unwrap();
    let manifest = f.join("o/adir-manifest-1-of-1.jsonl");
    while !manifest.exists() {
        assert!(first.try_wait().unwrap().is_none(), "it ended too soon");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let err = expect(2, &f, &args).1;
    assert!(
        err.contains("o: another run restores this folder there at this moment") && err.contains("--shard I/N"),
        "{err}"
    );
    assert_eq!(first.wait().unwrap().code(), Some(0));
    expect(0, &f, &["merge", "o"]);
    assert!(!f.join("o/adir-manifest-1-of-1.lock").exists());
    assert!(expect(0, &f, &args).1.contains("0 restored, 4 finished before"));
    // A line that nothing can be read from: where it is, and what to do.
    let text = fs::read_to_string(&manifest).unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines[2] = "{\"file\":";
    fs::write(&manifest, lines.join("\n") + "\n").unwrap();
    let err = expect(3, &f, &["merge", "o"]).1;
    assert!(err.contains("adir-manifest-1-of-1.jsonl: line 3 ") && err.contains("run the restoration"), "{err}");
    expect(0, &f, &args);
    expect(0, &f, &["merge", "o"]);
    fs::remove_dir_all(f).unwrap();
}

/// What is too large, too long, cut off, or no number: what it is, in a line or two, and what helps.
#[test]
fn messages_are_short_and_say_what_to_do() {
    let f = folder("messages");
    part(&f.join("y.png"), 60, 60, 16);
    let restore = |code: i32, input: &str, more: &[&str]| {
        let err = expect(code, &f, &[&["restore", input, "-o", "x.png", "--task", "deblur"], more].concat()).1;
        assert!(err.len() < 900, "{err}");
        err
    };
    let with = |code: i32, more: &[&str]| restore(code, "y.png", more);
    // Limits: the number that is enough, where there is an option for it.
    let err = with(5, &["--kernel", "box:3", "--max-memory", "0.000001"]);
    assert!(err.contains("hint: ") && err.contains("--max-memory 0.01"), "{err}");
    // Long names and numbers.
    let long = "x".repeat(3000);
    for input in [format!("{long}.png"), "d/".repeat(3000) + "y.png"] {
        let err = restore(3, &input, &["--kernel", "box:3"]);
        assert!(err.contains("more characters") || err.contains("[... ") && err.contains("too long"), "{err}");
    }
    let digits = "7".repeat(300);
    for options in [["--kernel", "box:3", "--sigma", &digits], ["--kernel", &format!("box:{digits}"), "--sigma", "0"]] {
        assert!(with(2, &options).contains("more digits"), "{options:?}");
    }
    with(2, &["--kernel", "box:3", "--samples", &digits]);
    // Kernels.
    for (name, bytes, code, said) in [
        (
            "k.txt",
            &b"1 2 3\n4 five 6"[..],
            3,
            "k.txt: line 2: \"five\" is not a finite number; a kernel is rows of numbers",
        ),
        ("k.txt", b"\xff\xfe\x01", 3, "k.txt: is not text in UTF-8; a kernel is"),
        ("k.txt", b"%PDF-1.7 and more", 3, "k.txt: is a PDF file, which is no kernel"),
        ("k.txt", b"", 3, "k.txt: contains no numbers; a kernel is"),
        ("k.npy", b"\x93NUMPY\x01\0v\0{'descr'", 3, "k.npy: is cut off, or is no NumPy array (.npy)"),
    ] {
        fs::write(f.join(name), bytes).unwrap();
        let err = with(code, &["--kernel", name]);
        assert!(err.contains(said), "{said}: {err}");
    }
    // Files that end too soon, of every format, as a picture and as a kernel.
    for format in ["png", "jpg", "webp", "tif", "fits", "exr"] {
        let whole = f.join(format!("whole.{format}"));
        Picture::from_tensor(square(60, 60, 24)).write(&whole).unwrap();
        let bytes = fs::read(&whole).unwrap();
        let name = format!("cut.{format}");
        fs::write(f.join(&name), &bytes[..bytes.len() * 2 / 3]).unwrap();
        for err in [restore(3, &name, &["--kernel", "box:3"]), with(3, &["--kernel", &name])] {
            assert!(
                err.contains(&format!("{name}: ")) && (err.contains("cut off") || err.contains("damaged")),
                "{err}"
            );
        }
    }
    fs::remove_dir_all(f).unwrap();
}

/// Names of outputs that say something else than what would be written.
#[test]
fn endings_do_not_lie() {
    let f = folder("endings");
    part(&f.join("y.png"), 60, 60, 32);
    part(&f.join("g/1.png"), 10, 10, 64);
    part(&f.join("g/2.png"), 40, 10, 64);
    fs::write(f.join("file"), "x").unwrap();
    let cases: [(&[&str], &str); 10] = [
        (&["adapt", "create", "y.png", "--gallery", "g", "-o", "a.png"], "a.png: weights are written as safetensors"),
        (&["adapt", "create", "--archive", "g", "-o", "a.html"], "a.html: weights are written"),
        (&["adapt", "create", "y.png", "g", "--gallery", "g", "-o", "file"], "file: is a file, expected a folder"),
        (&["train", "g", "-o", "a.png"], "a.png: weights are written"),
        (&["models", "measure", "g", "--write", "a.json"], "a.json: weights are written"),
        (
            &["models", "random", "sd2-inpainting", "--tiny", "-o", "a.safetensors"],
            "a.safetensors: a folder is written",
        ),
        (&["index", "build", "g", "-o", "a.png"], "a.png: an index of images is written"),
        (&["restore", "g", "-o", "a.png", "--task", "sr2"], "a.png: a folder is written"),
        (&["eval", "g", "-o", "a.md"], "a.md: a folder is written"),
        (&["eval", "g", "-o", "file"], "file: is a file, expected a folder"),
    ];
    for (args, said) in cases {
        let err = expect(2, &f, args).1;
        assert!(err.contains(said), "{args:?}: {err}");
    }
    // A folder where a file is written, and a file where a folder is read, everywhere alike.
    fs::create_dir(f.join("empty")).unwrap();
    for args in [
        &["restore", "y.png", "-o", "empty", "--task", "sr2"][..],
        &["degrade", "y.png", "-o", "empty", "--task", "sr2"],
        &["train", "g", "-o", "empty"],
        &["index", "build", "g", "-o", "empty"],
        &["adapt", "create", "y.png", "--gallery", "g", "-o", "empty"],
        &["models", "measure", "g", "--write", "empty"],
    ] {
        let err = expect(2, &f, args).1;
        assert!(err.contains("empty is a folder, expected a file name"), "{args:?}: {err}");
    }
    let err = expect(2, &f, &["restore", "y.png", "-o", "x.png", "--task", "sr2", "--model-config", "file"]).1;
    assert!(err.contains("--model <WEIGHTS>"), "{err}");
    for args in [
        &["index", "build", "file", "-o", "a.index"][..],
        &["train", "file", "-o", "a.safetensors"],
        &["models", "measure", "file"],
        &["eval", "file", "-o", "e"],
        &["adapt", "create", "--archive", "file"],
        &["merge", "file"],
    ] {
        let err = expect(3, &f, args).1;
        assert!(err.contains("file: is a file, expected a folder"), "{args:?}: {err}");
    }
    fs::remove_dir_all(f).unwrap();
}

/// Photographs that no crop fits into, none at all, and more crops than anyone needs.
#[test]
fn measuring_says_what_is_wrong_with_the_photographs() {
    let f = folder("photographs");
    part(&f.join("g/1.png"), 10, 10, 32);
    part(&f.join("g/2.png"), 40, 10, 32);
    fs::create_dir(f.join("empty")).unwrap();
    for args in [&["models", "measure"][..], &["train", "-o", "p.safetensors", "--steps", "1"]] {
        let err = expect(3, &f, &[args, &["empty"]].concat()).1;
        assert!(err.contains("empty: contains no images"), "{err}");
        let err = expect(3, &f, &[args, &["g"]].concat()).1;
        assert!(err.contains("g: holds 2 images, none of which can be used") && err.contains("64x64 pixels"), "{err}");
    }
    let err = expect(2, &f, &["models", "measure", "g", "--crops", "1000000000000"]).1;
    assert!(err.contains("expected at most 10000000") && err.contains("16000.0 GB"), "{err}");
    expect(2, &f, &["train", "g", "-o", "p.safetensors", "--validation-crops", "1000000000000"]);
    fs::remove_dir_all(f).unwrap();
}

/// An adapter of an archive is known by the folder that it was named after.
#[test]
fn an_archive_adapter_is_known_by_its_folder() {
    let f = folder("archive");
    for k in 0..3 {
        part(&f.join(format!("photos/{k}.png")), 20 + 30 * k, 10, 48);
    }
    let args = ["adapt", "create", "--archive", "photos", "--iterations", "2", "--adapt-crop", "16", "--full"];
    expect(0, &f, &args);
    let key = expect(0, &f, &["adapt", "list"]).0;
    for name in ["photos", "photos/", "./photos", f.join("photos").to_str().unwrap()] {
        let out = expect(0, &f, &["adapt", "info", name]).0;
        assert!(out.starts_with(&key[..12]), "{name}: {out}");
    }
    // A file of an archive's adapter in a folder serves every observation.
    part(&f.join("y.png"), 60, 60, 16);
    expect(0, &f, &["adapt", "export", "photos", "-o", "kept/a.safetensors"]);
    expect(0, &f, &[&["restore", "y.png", "-o", "x.png", "--adapter", "kept"], &SR2[..]].concat());
    let err = expect(2, &f, &["adapt", "remove", "kept"]).1;
    assert!(
        err.contains("kept/a.safetensors: is no adapter in the cache") && f.join("kept/a.safetensors").exists(),
        "{err}"
    );
    expect(0, &f, &["adapt", "remove", "photos/"]);
    assert!(expect(0, &f, &["adapt", "list"]).0.is_empty());
    fs::remove_dir_all(f).unwrap();
}

/// A network for trainings that take no time.
const TINY: &str = r#"{"in_channels":3,"out_channels":6,"model_channels":32,"num_res_blocks":1,"channel_mult":[1],
"attention_resolutions":[],"num_head_channels":32,"resblock_updown":true,"use_scale_shift_norm":true,
"noise_schedule":"linear","diffusion_steps":1000}"#;

/// A training that goes on measures and shows what it would have without the interruption.
#[test]
fn a_resumed_training_keeps_its_options() {
    let f = folder("resumed");
    for k in 0..3 {
        part(&f.join(format!("g/{k}.png")), 20 + 30 * k, 10, 48);
    }
    fs::write(f.join("tiny.json"), TINY).unwrap();
    let options = ["--crop", "8", "--batch", "2", "--validation-crops", "20", "--sheet", "s.png", "--tiles", "never"];
    let train = |code: i32, steps: &str, more: &[&str]| {
        expect(code, &f, &[&["train", "g", "-o", "p.safetensors", "--steps", steps], more].concat()).1
    };
    train(0, "1", &[&options[..], &["--model-config", "tiny.json"]].concat());
    fs::remove_file(f.join("s.png")).unwrap();
    train(0, "2", &["--resume"]);
    let card = fs::read_to_string(f.join("p.md")).unwrap();
    assert!(card.contains("Held-out l_simple on 20 crops") && f.join("s.png").is_file(), "{card}");
    train(0, "3", &["--resume", "--validation-crops", "30"]);
    assert!(fs::read_to_string(f.join("p.md")).unwrap().contains("on 30 crops"));
    let err = train(2, "4", &["--resume", "--tiles", "always"]);
    assert!(err.contains("--tiles always contradicts the checkpoint") && !err.contains("until now"), "{err}");
    // Another folder may hold what was held out.
    fs::rename(f.join("g"), f.join("h")).unwrap();
    let (_, err) = expect(0, &f, &["train", "h", "-o", "p.safetensors", "--steps", "4", "--resume"]);
    assert!(err.contains("/g until now, not those of ") && err.contains("held out"), "{err}");
    fs::remove_dir_all(f).unwrap();
}
