//! Super-resolution and editing with Stable Diffusion, from files to pictures, with small models of random weights.
#![cfg(unix)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use adir::io::image::{BitDepth, Picture, Reading, Scale, WriteOptions, read_image_as, write_image};
use adir::io::limits::Limits;
use adir::io::weights::{Dtype, TensorToWrite, WeightFile, write_safetensors};
use adir::models::stable_diffusion::{Architecture, write_random};
use adir::tensor::{cpu, from_f32, to_f32};

mod common;
use common::{command, expect, json, photo, picture, with_model};

/// A picture as a file, that is like another but for something.
fn altered(path: &Path, like: &Picture, alter: impl FnOnce(&mut Picture)) {
    let mut picture = like.clone();
    alter(&mut picture);
    picture.write(path).unwrap();
}

/// A mask file that marks a box from (4, 8) on.
fn mask(path: &Path, [height, width]: [usize; 2], [rows, columns]: [usize; 2]) {
    let marked = |i: usize| (4..4 + rows).contains(&(i / width)) && (8..8 + columns).contains(&(i % width));
    let values = (0..height * width).map(|i| if marked(i) { 1.0 } else { -1.0 }).collect();
    write_image(path, &from_f32(values, [1, 1, height, width], &cpu()), &WriteOptions::default()).unwrap();
}

fn values(path: &Path) -> (Vec<f32>, [usize; 4], Option<Vec<f32>>) {
    let Picture { tensor, alpha, .. } = Picture::read(path).unwrap();
    let shape = tensor.dims();
    (to_f32(&tensor).unwrap(), shape, alpha)
}

#[test]
fn an_upscaling_has_four_times_the_sides_and_the_depth_and_kind_of_its_input() {
    let f = with_model("upscaling", Architecture::Upscaler);
    picture(&f.join("colour.png"), 11, 18);
    let grey = photo(16).narrow(1, 0, 1);
    let alpha: Vec<f32> = (0..256).map(|i| if i < 128 { 1.0 } else { 0.0 }).collect();
    let like = Picture::read(f.join("colour.png")).unwrap();
    altered(&f.join("grey.png"), &like, |p| p.tensor = grey.clone());
    altered(&f.join("deep.png"), &like, |p| (p.tensor, p.bit_depth) = (grey, BitDepth::Sixteen));
    altered(&f.join("alpha.png"), &like, |p| (p.tensor, p.alpha) = (photo(16), Some(alpha)));
    for (name, result, sides, channels) in [
        ("colour.png", "colour.out.png", [44, 72], 3),
        ("grey.png", "grey.out.png", [64, 64], 1),
        ("deep.png", "deep.out.tif", [64, 64], 1),
        ("alpha.png", "alpha.out.png", [64, 64], 3),
        ("colour.png", "colour.out.jpg", [44, 72], 3),
    ] {
        let args = ["restore", name, "-o", result, "--task", "sr4", "--model", "model", "--steps", "2"];
        let (_, said) = expect(0, &f, &args);
        let (input, output) = (Picture::read(f.join(name)).unwrap(), Picture::read(f.join(result)).unwrap());
        assert_eq!(output.tensor.dims(), [1, channels, sides[0], sides[1]], "{name}");
        assert_eq!((output.bit_depth, output.alpha.is_some()), (input.bit_depth, input.alpha.is_some()), "{name}");
        assert!(!said.contains("guidance scale"), "nobody asked for one: {said}");
    }
    let record = json(&f.join("colour.out.jpg.json"));
    assert_eq!(record["results"].as_array().unwrap().len(), 1);
    fs::remove_dir_all(f).unwrap();
}

/// From another folder, by the place of the record; an upscaling and an edit.
#[test]
fn a_run_is_repeated_from_its_record() {
    let f = with_model("replay", Architecture::Upscaler);
    write_random(Architecture::Inpainting1, true, 1, &f.join("edits")).unwrap();
    fs::create_dir(f.join("out")).unwrap();
    picture(&f.join("y.png"), 11, 18);
    mask(&f.join("m.png"), [11, 18], [5, 6]);
    let args = ["restore", "y.png", "-o", "out/x.jpg", "--task", "sr4", "--model", "model", "--steps", "2", "-n", "2"];
    expect(0, &f, &[&args[..], &["--report", "out/x.html", "--weights-dtype", "bf16"]].concat());
    let page = fs::read_to_string(f.join("out/x.html")).unwrap();
    assert!(page.contains("data:image/png") && page.contains("Agreement") && page.contains("bf16"), "{page}");
    let args = ["edit", "y.png", "-o", "out/e.png", "--model", "edits", "--mask", "m.png", "--steps", "2"];
    expect(0, &f, &[&args[..], &["--prompt", "a cat", "--seed", "5"]].concat());
    for (record, files) in [("x.jpg.json", 2), ("e.png.json", 1)] {
        let (said, _) = expect(0, &f.join("out"), &["replay", record]);
        assert_eq!(said.matches("the same bytes").count(), files, "{said}");
        assert!(said.contains("the run repeats"), "{said}");
    }
    expect(0, &f, &["replay", "out/e.png.json", "-o", "again.png"]);
    assert_eq!(fs::read(f.join("again.png")).unwrap(), fs::read(f.join("out/e.png")).unwrap());
    let (_, said) = expect(2, &f, &["replay", "out/e.png.json", "-o", "again.jpg"]);
    assert!(said.contains("same format"), "{said}");
    // Other bytes beside the record, and inputs that are others now.
    fs::copy(f.join("out/x.1.jpg"), f.join("out/x.2.jpg")).unwrap();
    expect(0, &f, &["replay", "out/x.jpg.json"]);
    mask(&f.join("m.png"), [11, 18], [4, 6]);
    let (_, said) = expect(3, &f, &["replay", "out/e.png.json"]);
    assert!(said.contains("m.png") && said.contains("not the file of the run"), "{said}");
    picture(&f.join("y.png"), 12, 18);
    let (_, said) = expect(3, &f, &["replay", "out/x.jpg.json"]);
    assert!(said.contains("y.png") && said.contains("not the file of the run"), "{said}");
    write_random(Architecture::Upscaler, true, 2, &f.join("other")).unwrap();
    fs::rename(f.join("other/unet"), f.join("unet")).unwrap();
    picture(&f.join("y.png"), 11, 18);
    fs::remove_dir_all(f.join("model/unet")).unwrap();
    fs::rename(f.join("unet"), f.join("model/unet")).unwrap();
    let (_, said) = expect(4, &f, &["replay", "out/x.jpg.json"]);
    assert!(said.contains("other weights"), "{said}");
    fs::remove_dir_all(f).unwrap();
}

#[test]
fn a_folder_is_upscaled_file_by_file() {
    let f = with_model("folder", Architecture::Upscaler);
    fs::create_dir_all(f.join("scans/b")).unwrap();
    picture(&f.join("scans/a.png"), 11, 18);
    picture(&f.join("scans/b/c.jpg"), 8, 9);
    fs::write(f.join("scans/broken.png"), "no picture").unwrap();
    let options = ["--task", "sr4", "--model", "model", "--steps", "2", "--seed", "3"];
    let run = [&["restore", "scans", "-o", "out"][..], &options].concat();
    let (said, _) = expect(1, &f, &[&run[..], &["--plan"]].concat());
    assert!(
        said.contains("18x11 to 72x44") && said.contains("3 to restore") && !f.join("out/a.png").exists(),
        "{said}"
    );
    let (_, said) = expect(1, &f, &run);
    assert!(said.contains("broken.png") && said.contains("2 restored, 0 finished"), "{said}");
    expect(0, &f, &[&["restore", "scans/a.png", "-o", "a.png"][..], &options].concat());
    assert_eq!(fs::read(f.join("a.png")).unwrap(), fs::read(f.join("out/a.png")).unwrap());
    expect(0, &f, &["replay", "out/b/c.jpg.json"]);

    // What is finished stays, with the same settings; with others it is in the way.
    fs::remove_file(f.join("scans/broken.png")).unwrap();
    fs::remove_file(f.join("out/b/c.jpg")).unwrap();
    let (_, said) = expect(2, &f, &[&run[..], &["--noise-level", "30"]].concat());
    assert!(said.contains("made with other settings"), "{said}");
    fs::remove_file(f.join("out/b/c.jpg.json")).unwrap();
    let (_, said) = expect(0, &f, &run);
    assert!(said.contains("1 restored, 1 finished"), "{said}");
    for (more, hint) in [
        (&["-n", "2"][..], "one result"),
        (&["--record", "r.json"], "--record names one file"),
        (&["--gallery", "scans", "--overlap", "0.5"], "no effect"),
    ] {
        let (_, said) = expect(2, &f, &[&run[..], more].concat());
        assert!(said.contains(hint), "{said}");
    }
    fs::remove_dir_all(f).unwrap();
}

/// The agreement in the record is that of the file: one that stores less agrees less.
#[test]
fn the_recorded_agreement_is_that_of_the_file() {
    let f = with_model("agreement", Architecture::Upscaler);
    // Soft enough that a result that agrees is within black and white.
    let x = photo(16) * 0.2;
    write_image(&f.join("y.png"), &x, &WriteOptions::default()).unwrap();
    let run = |output: &str| {
        let more = ["--match-observation", "--match-colours"];
        let args = ["restore", "y.png", "-o", output, "--task", "sr4", "--model", "model", "--steps", "2"];
        expect(0, &f, &[&args[..], &more].concat());
        json(&f.join(format!("{output}.json")))["agreement_psnr"].as_f64().unwrap()
    };
    let (whole, lossy) = (run("x.png"), run("x.jpg"));
    assert!(lossy < whole && whole < 100.0, "{whole} dB in a PNG, {lossy} dB in a JPEG");
    fs::remove_dir_all(f).unwrap();
}

/// Half the memory in the plan and in the record, another picture, and a refusal where there is nothing to keep.
#[test]
fn weights_may_be_kept_in_half_as_many_bits() {
    let f = with_model("narrow", Architecture::Upscaler);
    picture(&f.join("y.png"), 12, 16);
    let args = ["restore", "y.png", "-o", "x.png", "--task", "sr4", "--model", "model", "--steps", "2"];
    expect(0, &f, &args);
    let narrow = |precision: &str| {
        let output = format!("{precision}.png");
        let args = ["restore", "y.png", "-o", &output, "--task", "sr4", "--model", "model", "--steps", "2"];
        expect(0, &f, &[&args[..], &["--weights-dtype", precision]].concat());
        (fs::read(f.join(&output)).unwrap(), json(&f.join(format!("{output}.json")))["latent"]["weights"].clone())
    };
    let whole = fs::read(f.join("x.png")).unwrap();
    let (half, brain, file) = (narrow("f16"), narrow("bf16"), narrow("file"));
    assert!(half.0 != whole && brain.0 != whole && half.0 != brain.0 && file.0 == whole);
    assert_eq!([half.1, brain.1, file.1], ["f16", "bf16", "file"]);
    let memory = |more: &[&str]| -> f64 {
        let (said, _) = expect(0, &f, &[&args[..], &["--plan", "--overwrite"], more].concat());
        let line = said.lines().find(|line| line.starts_with("memory")).unwrap();
        line.split_whitespace().nth(2).unwrap().parse().unwrap()
    };
    assert!(memory(&["--weights-dtype", "bf16"]) <= memory(&[]));
    let own = ["restore", "y.png", "-o", "z.png", "--task", "sr4", "--weights-dtype", "f16"];
    let (_, said) = expect(2, &f, &own);
    assert!(said.contains("--weights-dtype is for Stable Diffusion"), "{said}");
    fs::remove_dir_all(f).unwrap();
}

#[test]
fn latent_diffusions_own_super_resolution() {
    let f = with_model("ldm", Architecture::SuperResolution);
    picture(&f.join("y.png"), 11, 18);
    let args = ["restore", "y.png", "-o", "x.png", "--task", "sr4", "--model", "model"];
    let (plan, _) = expect(0, &f, &[&args[..], &["--plan"]].concat());
    assert!(plan.contains("18x11 to 72x44") && plan.contains("100 steps") && !plan.contains("noise level"), "{plan}");
    expect(0, &f, &[&args[..], &["--steps", "2"]].concat());
    assert_eq!(Picture::read(f.join("x.png")).unwrap().tensor.dims(), [1, 3, 44, 72]);
    assert!(json(&f.join("x.png.json"))["latent"]["task"]["upscale"].get("noise_level").is_none());
    let (said, _) = expect(0, &f, &["models", "info", "--model", "model"]);
    assert!(said.contains("super-resolution by 4") && !said.contains("text encoder"), "{said}");
    for (more, hint) in [
        (&["--noise-level", "20"][..], "no noise level"),
        (&["--prompt", "a cat"], "no prompt"),
        (&["--gallery", "."], "not adapted"),
        (&["--adapter", "y.png"], "not adapted"),
    ] {
        let (_, said) = expect(2, &f, &[&args[..], more, &["--overwrite", "--plan"]].concat());
        assert!(said.contains(hint), "{more:?}: {said}");
    }
    fs::remove_dir_all(f).unwrap();
}

/// The values of a file where the hole is not. Black to white is taken for so little that each float has a value of its own.
fn floats(path: &Path, hole: &dyn Fn(usize) -> bool) -> Vec<f32> {
    let tiny = Scale { black: 0.0, white: 2.0_f64.powi(-30) };
    let picture = read_image_as(path, &Reading::scaled(tiny), &Limits::default()).unwrap();
    let values = to_f32(&picture.tensor).unwrap().into_iter().enumerate();
    values.filter(|(i, _)| !hole(*i)).map(|(_, value)| value).collect()
}

#[test]
fn an_edit_leaves_what_is_not_marked_to_the_bit() {
    let f = with_model("edit", Architecture::Inpainting1);
    let (height, width) = (37, 50);
    picture(&f.join("p.png"), height, width);
    mask(&f.join("m.png"), [height, width], [20, 30]);
    let like = Picture::read(f.join("p.png")).unwrap();
    let alpha: Vec<f32> = (0..height * width).map(|i| if i % width < 12 { 0.0 } else { 1.0 }).collect();
    altered(&f.join("deep.png"), &like, |p| {
        (p.tensor, p.bit_depth) = (p.tensor.clone() * 0.987, BitDepth::Sixteen);
    });
    altered(&f.join("alpha.png"), &like, |p| p.alpha = Some(alpha));
    altered(&f.join("float.tif"), &like, |p| {
        (p.bit_depth, p.scale) = (BitDepth::Float, Some(Scale { black: 0.0, white: 3.7 }));
    });
    let by_mask = |i: usize| (4..24).contains(&(i / width)) && (8..38).contains(&(i % width));
    for (input, output, named) in [
        ("p.png", "x.png", true),
        ("deep.png", "deep.x.png", true),
        ("alpha.png", "alpha.x.png", false),
        ("float.tif", "float.x.tif", true),
    ] {
        let args = ["edit", input, "-o", output, "--model", "model", "--steps", "2", "--prompt", "red hair"];
        let mut place: Vec<&str> = if named { vec!["--mask", "m.png"] } else { Vec::new() };
        if input == "float.tif" {
            place.extend(["--white", "3.7"]);
        }
        expect(0, &f, &[&args[..], &place].concat());
        if input == "float.tif" {
            continue;
        }
        let ((before, shape, alpha), (after, of_result, alpha_after)) =
            (values(&f.join(input)), values(&f.join(output)));
        assert_eq!((shape, &alpha), (of_result, &alpha_after), "{input}");
        let hole = |i: usize| match &alpha {
            Some(alpha) => alpha[i % (height * width)] < 0.5,
            None => by_mask(i % (height * width)),
        };
        let same = |i: &usize| before[*i].to_bits() == after[*i].to_bits();
        let outside = (0..before.len()).filter(|i| !hole(*i));
        assert_eq!(outside.filter(|i| !same(i)).count(), 0, "{input}: values outside of the hole changed");
        let (inside, kept) = ((0..before.len()).filter(|i| hole(*i)).count(), (0..before.len()).filter(|i| hole(*i)));
        assert!(kept.filter(same).count() * 4 < inside, "{input}: the hole is as it was");
    }
    // A tensor does not hold all places of a float near black; the file keeps them.
    let hole = |i: usize| by_mask(i % (height * width));
    assert_eq!(floats(&f.join("float.tif"), &hole), floats(&f.join("float.x.tif"), &hole));
    // A box is a mask, and several results differ.
    let plain = ["edit", "p.png", "--model", "model", "--steps", "2", "--prompt", "red hair"];
    expect(0, &f, &[&plain[..], &["-o", "box.png", "--box", "8,4,30,20"]].concat());
    assert_eq!(fs::read(f.join("box.png")).unwrap(), fs::read(f.join("x.png")).unwrap());
    expect(0, &f, &[&plain[..], &["-o", "s.png", "--mask", "m.png", "-n", "2", "--negative-prompt", "blur"]].concat());
    assert_ne!(fs::read(f.join("s.1.png")).unwrap(), fs::read(f.join("s.2.png")).unwrap());
    fs::remove_dir_all(f).unwrap();
}

#[test]
fn a_killed_run_goes_on_to_the_same_bytes_with_any_number_of_threads() {
    let f = with_model("killed", Architecture::Upscaler);
    picture(&f.join("y.png"), 32, 40);
    let args = |output: &'static str| {
        let run = ["restore", "y.png", "-o", output, "--task", "sr4", "--model", "model", "--steps", "40"];
        [&run[..], &["--prompt", "a cat", "--checkpoint-seconds", "0", "--seed", "3", "--overwrite"]].concat()
    };
    let of_threads = |count: &str, output: &'static str| {
        let run = command(&f, &args(output)).env("RAYON_NUM_THREADS", count).output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        fs::read(f.join(output)).unwrap()
    };
    let whole = of_threads("2", "x.png");
    assert!(whole == of_threads("1", "one.png"), "other bytes with one thread");

    fs::remove_file(f.join("x.png")).unwrap();
    let mut went_on = false;
    for wait in [80, 160, 320, 640, 1280] {
        let _ = fs::remove_dir_all(f.join("home"));
        let mut child = command(&f, &args("x.png")).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(wait));
        child.kill().unwrap();
        child.wait().unwrap();
        let (_, said) = expect(0, &f, &args("x.png"));
        assert!(fs::read(f.join("x.png")).unwrap() == whole, "other bytes after a kill");
        went_on |= said.contains("goes on after step");
    }
    assert!(went_on, "no kill fell between the steps");
    fs::remove_dir_all(f).unwrap();
}

/// The states of adaptations below a folder.
fn states(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let count = |path: PathBuf| match path.is_dir() {
        true => states(&path),
        false => usize::from(path.to_string_lossy().ends_with(".running.checkpoint")),
    };
    entries.map(|entry| count(entry.path())).sum()
}

#[test]
fn a_killed_adaptation_goes_on_to_the_same_bytes_and_is_made_once() {
    let f = with_model("adaptation", Architecture::Upscaler);
    picture(&f.join("y.png"), 12, 16);
    fs::create_dir(f.join("g")).unwrap();
    for (i, side) in [72, 80, 90].into_iter().enumerate() {
        picture(&f.join(format!("g/{i}.png")), side, 96 - i);
    }
    let args = |length: [&'static str; 2]| {
        let run =
            ["restore", "y.png", "-o", "x.png", "--task", "sr4", "--model", "model", "--steps", "2", "--overwrite"];
        let adapt = ["--gallery", "g", "--adapt", "gallery", "--save-adapter", "a.safetensors"];
        let small = ["--adapt-crop", "64", "--adapt-batch", "2", "--adapt-rate", "1e-3", "--checkpoint-seconds", "0"];
        [&run[..], &adapt, &small, &length].concat()
    };
    let bytes = || ["x.png", "a.safetensors"].map(|name| fs::read(f.join(name)).unwrap());
    let done = || json(&f.join("x.png.json"))["adaptation"].clone();
    let steps = args(["--iterations", "12"]);
    expect(0, &f, &steps);
    let (whole, record) = (bytes(), done());
    assert_eq!((record["from_cache"].as_bool(), record["steps"].as_u64()), (Some(false), Some(12)));
    assert_eq!(states(&f.join("home")), 0, "states of what is finished");
    expect(0, &f, &steps);
    assert!(bytes() == whole && done()["from_cache"] == true && done()["key"] == record["key"]);

    let mut left = [0; 2];
    for wait in [300, 1000, 2000] {
        let _ = fs::remove_dir_all(f.join("home"));
        let mut child = command(&f, &steps).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(wait));
        child.kill().unwrap();
        child.wait().unwrap();
        let found = states(&f.join("home"));
        left[0] += usize::from(found > 0);
        // Three images, and the state of the training.
        left[1] += usize::from(found == 4);
        expect(0, &f, &steps);
        assert!(bytes() == whole, "other bytes after a kill");
        assert_eq!(states(&f.join("home")), 0);
    }
    assert!(left[0] > 0, "no kill fell into the adaptation");
    println!("kills that left crops: {}, and a state: {}", left[0], left[1]);

    let (said, _) = expect(0, &f, &["replay", "x.png.json"]);
    assert!(said.contains("the run repeats"), "{said}");

    // Minutes become a number of steps once.
    let minutes = args(["--adapt-minutes", "0.01"]);
    expect(0, &f, &minutes);
    let (first, record) = (bytes(), done());
    assert!(record["steps"].as_u64().unwrap() > 0, "{record}");
    expect(0, &f, &minutes);
    assert!(bytes() == first && done()["from_cache"] == true && done()["steps"] == record["steps"]);
    let (_, said) = expect(2, &f, &args(["--adapt-minutes", "0"]));
    assert!(said.contains("minutes"), "{said}");
    fs::remove_dir_all(f).unwrap();
}

/// Another shape for one tensor of a part.
fn misshape(part: &Path) {
    let file = WeightFile::open(part).unwrap();
    let names: Vec<String> = file.names().map(str::to_owned).collect();
    let mut tensors: Vec<_> =
        names.iter().map(|name| (file.info(name).unwrap().shape.clone(), file.read_f32(name).unwrap())).collect();
    let last = tensors.iter().rposition(|(shape, _)| shape.len() == 1).unwrap();
    tensors[last] = (vec![5], vec![0.0; 5]);
    let tensors: Vec<_> = (names.iter().zip(&tensors))
        .map(|(name, (shape, values))| TensorToWrite { name, shape, dtype: Dtype::F32, values })
        .collect();
    drop(file);
    write_safetensors(&part.with_extension("new"), &tensors, &Default::default()).unwrap();
    fs::rename(part.with_extension("new"), part).unwrap();
}

#[test]
fn what_cannot_be_done_is_refused_before_it_is_begun() {
    let f = with_model("refused", Architecture::Inpainting1);
    picture(&f.join("p.png"), 37, 50);
    mask(&f.join("m.png"), [37, 50], [20, 30]);
    mask(&f.join("other.png"), [32, 50], [20, 30]);
    mask(&f.join("none.png"), [37, 50], [0, 0]);
    let edit = |more: &[&'static str]| [&["edit", "p.png", "--model", "model"], more].concat();
    let refused = |code: i32, args: Vec<&str>, hint: &str| {
        for args in [args.clone(), [&args[..], &["--plan"]].concat()] {
            let (_, said) = expect(code, &f, &args);
            assert!(said.contains(hint), "{args:?}: {said}");
        }
        assert!(!f.join("x.png").exists() && !f.join("x.png.json").exists(), "{args:?}");
    };
    let (plan, _) = expect(0, &f, &edit(&["-o", "x.png", "--mask", "m.png", "--plan"]));
    assert!(plan.contains("600 of 1850 pixels") && plan.contains("memory") && !f.join("x.png").exists(), "{plan}");

    let sr4 = vec!["restore", "p.png", "-o", "x.png", "--task", "sr4", "--model", "model"];
    refused(2, sr4, "fills in parts");
    refused(2, edit(&["-o", "x.png", "--mask", "other.png"]), "has 32x50 pixels, the image 37x50");
    refused(2, edit(&["-o", "x.png", "--mask", "none.png"]), "marks no pixel");
    refused(3, edit(&["-o", "x.png"]), "no alpha channel");
    refused(2, edit(&["-o", "x.png", "--box", "40,4,30,20"]), "not inside");
    refused(2, edit(&["-o", "x.png", "--mask", "m.png", "--steps", "0"]), "steps");
    refused(2, edit(&["-o", "x.png", "--mask", "m.png", "--ema"]), "one set of weights");
    refused(2, edit(&["-o", "m.png", "--mask", "m.png", "--overwrite"]), "m.png");
    refused(2, edit(&["-o", "p.png", "--mask", "m.png", "--overwrite"]), "p.png");
    // An output that is a weights file by another name.
    fs::hard_link(f.join("model/unet/diffusion_pytorch_model.safetensors"), f.join("w.png")).unwrap();
    refused(2, edit(&["-o", "w.png", "--mask", "m.png", "--overwrite"]), "w.png");
    fs::remove_file(f.join("w.png")).unwrap();

    let stem = "diffusion_pytorch_model.safetensors";
    for part in [format!("vae/{stem}"), format!("unet/{stem}"), "text_encoder/model.safetensors".into()] {
        let (path, aside) = (f.join("model").join(&part), f.join("aside"));
        fs::copy(&path, &aside).unwrap();
        misshape(&path);
        refused(4, edit(&["-o", "x.png", "--mask", "m.png"]), "[5]");
        fs::remove_file(&path).unwrap();
        refused(4, edit(&["-o", "x.png", "--mask", "m.png"]), part.split('/').next().unwrap());
        fs::rename(&aside, &path).unwrap();
    }
    expect(0, &f, &edit(&["-o", "x.png", "--mask", "m.png", "--steps", "1"]));
    // Options of one model are none of another's.
    let embedded = ["restore", "p.png", "-o", "z.png", "--task", "sr4"];
    for (option, value) in [("--noise-level", "20"), ("--guidance-scale", "3"), ("--sampler", "dpm")] {
        let (_, said) = expect(2, &f, &[&embedded[..], &[option, value]].concat());
        assert!(said.contains(option), "{said}");
    }
    fs::remove_dir_all(f).unwrap();
}
