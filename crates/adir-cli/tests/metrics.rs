//! Metrics as scripts see them: `adir compare`, and the cells and tables of `adir eval`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

mod common;
use common::{checked, example};

/// Runs, checks the exit code, and returns what went to stdout and stderr.
#[track_caller]
fn expect(code: i32, folder: &Path, args: &[&str]) -> (String, String) {
    checked(code, args, Command::new(env!("CARGO_BIN_EXE_adir")).args(args).current_dir(folder).output().unwrap())
}

/// A folder of its own with the sample photo, 64x64 pixels, and its observation at a quarter of the size.
fn folder(name: &str) -> PathBuf {
    let folder = common::folder(name);
    fs::copy(example("cat_small.png"), folder.join("x.png")).unwrap();
    expect(0, &folder, &["degrade", "x.png", "-o", "y.png", "--task", "sr4"]);
    expect(0, &folder, &["degrade", "x.png", "-o", "soft.png", "--task", "deblur", "--kernel", "box:3"]);
    folder
}

fn names(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.split_whitespace().next()).collect()
}

#[test]
fn compare_prints_the_metrics_that_are_asked_for() {
    let f = folder("compare");
    let compare = |more: &[&str]| expect(0, &f, &[&["compare", "x.png", "soft.png"], more].concat()).0;
    let standard = ["psnr_rgb", "psnr_y", "ssim_rgb", "ssim_y"];
    assert_eq!(names(&compare(&[])), standard, "a task is not needed");
    assert_eq!(names(&compare(&["--task", "sr4"])), standard);
    let observed = compare(&["--task", "sr4", "--observed", "y.png"]);
    assert_eq!(names(&observed), [&standard[..], &["agreement_psnr"]].concat());
    let value = observed.lines().next().unwrap().rsplit(' ').next().unwrap();
    assert_eq!(value.split_once('.').map(|(_, digits)| digits.len()), Some(4), "{observed}");
    let chosen = compare(&["--metric", "niqe,ssim_y", "--metric", "feature_angle"]);
    assert_eq!(names(&chosen), ["niqe", "ssim_y", "feature_angle"]);
    assert!(chosen.starts_with("niqe             does not apply\n"), "{chosen}");
    let json: serde_json::Value = serde_json::from_str(&compare(&["--metric", "niqe,psnr_y", "--json"])).unwrap();
    assert!(json["niqe"].is_null() && json["psnr_y"].as_f64().unwrap() > 20.0, "{json}");

    for (metric, code, said) in [
        ("brisque", 2, "feature_angle"),
        ("lpips", 2, "--metric lpips=FILE"),
        ("psnr_y=x.png", 2, "takes no file"),
        ("niqe,niqe", 2, "given twice"),
        ("musiq=absent.pth", 4, "absent.pth"),
        ("lpips=x.png", 4, "x.png"),
    ] {
        let (_, err) = expect(code, &f, &["compare", "x.png", "soft.png", "--metric", metric]);
        assert!(err.contains(said), "{metric}: {err}");
    }
    let (_, err) = expect(2, &f, &["compare", "x.png", "soft.png", "--metric", "brisque"]);
    assert!(err.contains("musiq-ava=FILE, clip-iqa=FILE, lpips=FILE"), "{err}");
    // Why one says nothing.
    let (_, err) = expect(0, &f, &["compare", "x.png", "soft.png", "--metric", "niqe,ms_ssim_y,psnr_y"]);
    for why in [
        "niqe does not apply: it takes images of at least 192x96",
        "ms_ssim_y does not apply: it takes images of at least 161x161",
    ] {
        assert!(err.contains(&format!("warning: soft.png: {why}")), "{err}");
    }
    assert!(!err.contains("psnr_y does"), "{err}");
    let (_, err) = expect(2, &f, &["compare", "x.png", "soft.png", "--metric", "agreement_psnr"]);
    assert!(err.contains("--observed"), "{err}");
    expect(2, &f, &["compare", "x.png"]);
    for of_observation in [["--kernel", "box:3"], ["--sigma", "5"], ["--ignore", "x.png"]] {
        let args = [&["compare", "x.png", "soft.png", "--task", "deblur"][..], &of_observation].concat();
        let (out, err) = expect(0, &f, &args);
        assert!(names(&out) == standard && err.contains("nothing without --observed"), "{err}");
    }
    let (_, err) = expect(2, &f, &["compare", "x.png", "y.png"]);
    assert!(err.contains("x.png against y.png"), "{err}");
    let (list, _) = expect(0, &f, &["compare", "--list-metrics"]);
    let of = |name: &str| list.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
    assert_eq!(names(&list).len(), 14, "of them 6 of files");
    assert!(of("niqe").contains("lower") && of("psnr_y").contains("higher"), "{list}");
    fs::remove_dir_all(f).unwrap();
}

#[test]
fn factors_that_do_not_divide_the_crop_cut_it_further() {
    let f = folder("crop");
    fs::create_dir(f.join("set")).unwrap();
    fs::copy(f.join("x.png"), f.join("set/x.png")).unwrap();
    let args = ["eval", "set", "-o", "ev", "--tasks", "sr3,sr4", "--methods", "bicubic", "--crop", "64"];
    expect(0, &f, &args);
    let shapes = cells(&f.join("ev")).into_iter().map(|path| {
        let cell: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        format!("{} {}", cell["task"].as_str().unwrap(), cell["made_from"]["shape"].as_str().unwrap())
    });
    let mut shapes: Vec<String> = shapes.collect();
    shapes.sort();
    assert_eq!(shapes, ["sr3 3x48x48", "sr4 3x64x64"], "the network takes multiples of 8");
    // Too small for one task: told by the name of the image, and refused where no image is left.
    for unused in
        [["--iterations", "5"], ["--neighbours", "3"], ["--lora", "4"], ["--steps", "3"], ["--gallery", "set"]]
    {
        let (_, err) = expect(2, &f, &[&args[..], &unused].concat());
        assert!(err.contains(unused[0]) && err.contains("no effect"), "{err}");
    }
    let (_, err) = expect(3, &f, &["eval", "set", "-o", "ev", "--tasks", "sr13", "--methods", "bicubic"]);
    assert!(err.contains("x.png") && err.contains("104"), "{err}");
    fs::remove_dir_all(f).unwrap();
}

/// A row measures the method that it names, in the set that it names: with a kernel, the row bicubic was the network's, and
/// folders of one name were averaged.
#[test]
fn rows_of_eval_are_what_they_are_called() {
    let f = folder("rows");
    for set in ["a/val", "b/val"] {
        fs::create_dir_all(f.join(set)).unwrap();
        fs::copy(f.join("x.png"), f.join(set).join("x.png")).unwrap();
    }
    let args = ["eval", "a/val", "b/val", "-o", "ev", "-n", "1", "--steps", "2", "--crop", "32"];
    expect(0, &f, &[&args[..], &["--tasks", "sr2:box:3", "--methods", "bicubic,none"]].concat());
    let cells = fs::read_to_string(f.join("ev/cells.csv")).unwrap();
    let rows: Vec<Vec<&str>> = cells.lines().skip(1).map(|line| line.split(',').collect()).collect();
    let column = |k: usize| rows.iter().map(|row| row[k]).collect::<Vec<_>>();
    assert_eq!(column(0), ["a/val", "a/val", "b/val", "b/val"], "{cells}");
    assert_eq!(column(3), ["bicubic", "none", "bicubic", "none"], "{cells}");
    let psnr = column(5);
    assert!(psnr[0] != psnr[1] && psnr[0] == psnr[2] && psnr[1] == psnr[3], "{cells}");
    let refused = [
        (&["a/val"][..], "bicubic,wiener", "wiener is for none of the tasks (sr2)"),
        (&["a/val", "a/../a/val"], "bicubic", "is given twice"),
        (&["a/val", "--images", "b"], "bicubic", "--images has no effect without --paper"),
    ];
    for (sets, methods, said) in refused {
        let args = [&["eval"][..], sets, &["-o", "ev", "--tasks", "sr2", "--methods", methods]].concat();
        let (_, err) = expect(2, &f, &args);
        assert!(err.contains(said), "{err}");
    }
    let (_, err) = expect(2, &f, &["eval", "a/val", "-o", "ev", "--tasks", "sr2,sr4,sr2", "--methods", "bicubic"]);
    assert!(err.contains("the task sr2 is given twice"), "{err}");
    fs::remove_dir_all(f).unwrap();
}

/// What says nothing of an image is named once, with the reason.
#[test]
fn eval_says_which_metrics_it_leaves_out() {
    let f = folder("left-out");
    fs::create_dir(f.join("set")).unwrap();
    for name in ["set/a.png", "set/b.png"] {
        fs::copy(f.join("x.png"), f.join(name)).unwrap();
    }
    let args = ["eval", "set", "-o", "ev", "--tasks", "sr2,sr4", "--methods", "bicubic", "--crop", "64"];
    // Kept cells say it, too.
    for _ in 0..2 {
        let (_, err) = expect(0, &f, &[&args[..], &["--metric", "ms_ssim_y"]].concat());
        let said: Vec<&str> = err.lines().filter(|line| line.starts_with("warning")).collect();
        assert_eq!(said.len(), 2, "{err}");
        for (line, name) in said.iter().zip(["ms_ssim_y", "niqe"]) {
            assert!(
                line.starts_with(&format!("warning: 2 files, the first: set/a.png: {name} does not apply: ")),
                "{line}"
            );
        }
    }
}

/// With --linear-light, every task is that of light.
#[test]
fn eval_degrades_and_restores_light() {
    let f = folder("light");
    fs::create_dir(f.join("set")).unwrap();
    fs::copy(f.join("x.png"), f.join("set/x.png")).unwrap();
    let eval = |output: &str, tasks: &str, more: &[&str]| {
        let args = ["eval", "set", "-o", output, "--tasks", tasks, "--methods", "bicubic", "--crop", "64"];
        expect(0, &f, &[&args[..], more].concat());
        let cell = cells(&f.join(output)).pop().unwrap();
        serde_json::from_slice::<serde_json::Value>(&fs::read(cell).unwrap()).unwrap()
    };
    let (light, named, plain) =
        (eval("a", "sr4", &["--linear-light"]), eval("b", "sr4+light", &[]), eval("c", "sr4", &[]));
    assert_eq!((&light["task"], &light["measured"]), (&named["task"], &named["measured"]));
    assert_eq!(light["task"], "sr4+light");
    assert_ne!(light["measured"]["psnr_rgb"], plain["measured"]["psnr_rgb"]);
    let args = ["eval", "set", "-o", "d", "--tasks", "sr4,inpaint", "--methods", "bicubic", "--linear-light"];
    let (_, err) = expect(2, &f, &args);
    assert!(err.contains("inpaint") && !f.join("d").exists(), "{err}");
}

/// What methods adapt to is looked at before anything is computed.
#[test]
fn eval_refuses_a_gallery_that_it_cannot_use_at_once() {
    let f = folder("gallery");
    for name in ["set", "empty"] {
        fs::create_dir(f.join(name)).unwrap();
    }
    fs::copy(f.join("x.png"), f.join("set/x.png")).unwrap();
    fs::write(f.join("broken.index"), "no index").unwrap();
    for (method, source, said) in [
        ("knn", ["--gallery", "absent"], "absent"),
        ("lora", ["--gallery", "empty"], "no images"),
        ("knn", ["--gallery", "broken.index"], "broken.index"),
        ("random", ["--random-from", "empty"], "no images"),
        ("adapter", ["--adapter", "absent.safetensors"], "absent.safetensors"),
    ] {
        let methods = format!("observed,{method}");
        let args = ["eval", "set", "-o", "ev", "--crop", "32", "--methods", &methods];
        let code = if method == "adapter" { 2 } else { 3 };
        let (_, err) = expect(code, &f, &[&args[..], &source].concat());
        assert!(err.contains(said), "{err}");
        assert!(!f.join("ev/cells").exists() || cells(&f.join("ev")).is_empty(), "{source:?}");
    }
}

/// A result is found again as long as contents are the same, and under no other circumstances.
#[test]
fn a_result_is_known_by_contents_not_by_names() {
    let f = folder("key");
    for folder in ["set", "photos"] {
        fs::create_dir(f.join(folder)).unwrap();
    }
    fs::copy(f.join("x.png"), f.join("set/x.png")).unwrap();
    for (k, blur) in ["box:3", "box:5", "gaussian:7:1"].iter().enumerate() {
        let output = format!("photos/{k}.png");
        expect(0, &f, &["degrade", "x.png", "-o", &output, "--task", "deblur", "--kernel", blur]);
    }
    let eval = |set: &str, gallery: &str, more: &[&str]| {
        let args =
            ["eval", set, "-o", "ev", "--crop", "32", "--tasks", "sr4", "--methods", "none,knn,random", "-n", "1"];
        let adapt = ["-k", "1", "--iterations", "1", "--adapt-crop", "16", "--cache", "cache", "--gallery", gallery];
        let steps: &[&str] = if more.contains(&"--steps") { &[] } else { &["--steps", "2"] };
        expect(0, &f, &[&args[..], &adapt, &["--random-from", gallery], steps, more].concat());
        let csv = fs::read_to_string(f.join("ev/cells.csv")).unwrap();
        (cells(&f.join("ev")).len(), csv)
    };
    let (count, csv) = eval("set", "photos", &[]);
    assert_eq!(count, 3);
    let header = "set,task,image,method,seed,psnr_rgb_one,psnr_rgb_mean,ssim_rgb_one,ssim_rgb_mean,feature_angle_one,\
                  niqe_one,agreement_psnr_mean,held_out_before,held_out_after,seconds\n";
    assert!(csv.starts_with(header), "{csv}");
    let table = fs::read_to_string(f.join("ev/table.md")).unwrap();
    let head = "| method | psnr_rgb one | psnr_rgb mean | ssim_rgb one | ssim_rgb mean | feature_angle one | niqe one | \
                agreement_psnr mean | better than none | seconds |";
    assert!(table.contains(head) && table.contains("- niqe: lower is better; "), "{table}");

    fs::rename(f.join("photos"), f.join("moved")).unwrap();
    fs::rename(f.join("set"), f.join("renamed")).unwrap();
    let (count, moved) = eval("renamed", "moved", &[]);
    assert_eq!((count, moved), (3, csv.replace("\nset,", "\nrenamed,")), "moved");
    assert_eq!(eval("renamed", "moved", &["--preset", "paper"]).0, 6);
    assert_eq!(eval("renamed", "moved", &["--steps", "3"]).0, 9);
    assert_eq!(eval("renamed", "moved", &[]).0, 9);
    // Other images in the gallery concern what is adapted to them only.
    fs::copy(f.join("soft.png"), f.join("moved/1.png")).unwrap();
    fs::copy(f.join("y.png"), f.join("moved/0.png")).unwrap();
    fs::copy(f.join("y.png"), f.join("moved/2.png")).unwrap();
    assert_eq!(eval("renamed", "moved", &[]).0, 11, "changed under the same names");
    fs::remove_dir_all(f).unwrap();
}

fn cells(output: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(output.join("cells")).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|e| e == "json")).collect()
}
