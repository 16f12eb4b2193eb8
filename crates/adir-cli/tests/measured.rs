//! What was measured is what the method believes: noise, white areas, masks, kernels and borders. Each test is a fault
//! that a user met.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use adir::io::image::{BitDepth, Picture, Reading, WriteOptions, read_image, read_image_as, write_image};
use adir::io::limits::Limits;
use adir::operator::{Blur, Boundary, ImageShape, Kernel, LinearOperator};
use adir::tensor::{Tensor, cpu, from_f32, to_f32};

mod common;
use common::{folder, json, photo, psnr, with_noise};

/// Runs the program and gives what it says: stdout, then stderr.
fn adir(code: i32, folder: &Path, args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_adir")).args(args).current_dir(folder).output().unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    said
}

fn read(path: PathBuf) -> Tensor<4> {
    read_image(&path, &Limits::default()).unwrap().tensor
}

/// Floats from 0 to 1 and beyond.
fn read_unit(path: PathBuf) -> Tensor<4> {
    let mut reading = Reading::default();
    reading.white = Some(1.0);
    read_image_as(&path, &reading, &Limits::default()).unwrap().tensor
}

fn write(path: PathBuf, x: &Tensor<4>) {
    write_image(&path, x, &WriteOptions::default()).unwrap();
}

/// Without --sigma a blurred photo with noise came back at 12 dB, and exit 0.
#[test]
fn noise_that_is_not_given_is_estimated() {
    let f = folder("noise");
    let scene = photo(96);
    let blur = Blur::new(ImageShape::of_batch(&scene), Kernel::boxed(7).unwrap(), Boundary::Replicate).unwrap();
    write(f.join("y.png"), &with_noise(blur.apply(&scene).unwrap(), 3.0));
    let args = ["restore", "y.png", "-o", "r.png", "--task", "deblur", "--kernel", "box:7", "--boundary", "replicate"];
    let said = adir(0, &f, &args);
    assert!(said.contains("estimated from the observation"), "{said}");
    let record = json(&f.join("r.png.json"));
    let sigma = record["sigma"].as_f64().unwrap();
    assert!((sigma / 3.0 - 1.0).abs() < 0.15, "{sigma}");
    assert_eq!(record["request"]["problem"]["sigma"], record["sigma"], "repeated with the same noise");
    let (input, result) = (psnr(&scene, &read(f.join("y.png"))), psnr(&scene, &read(f.join("r.png"))));
    assert!(result > input + 1.0, "{result:.2} dB, the input {input:.2} dB");
    // A number that y contradicts draws a warning, one that fits does not, and a plan says it too.
    let plan = |sigma: &str| adir(0, &f, &[&args[..3], &["p.png"], &args[4..], &["--plan", "--sigma", sigma]].concat());
    assert!(plan("0").contains("warning: the observation has noise of about"));
    assert!(plan("30").contains("smoother than need be"));
    let given = plan("3");
    assert!(!given.contains("warning"));
    let line = given.lines().find(|line| line.starts_with("sigma ")).unwrap();
    assert_eq!(line.split_whitespace().collect::<Vec<_>>(), ["sigma", "3", "given"]);
    assert!(given.lines().any(|line| line.starts_with("time  ")), "{given}");
    assert!(plan("auto").contains("estimated"));
    // Without noise there is that of rounding, and nothing to remove.
    write(f.join("clean.png"), &blur.apply(&scene).unwrap());
    let said = adir(0, &f, &["restore", "clean.png", "-o", "p.png", "--task", "deblur", "--kernel", "box:7", "--plan"]);
    assert!(said.contains("0.29") && said.contains("no noise but that of rounding"), "{said}");
    let flat = Tensor::<4>::zeros([1, 3, 40, 40], &cpu());
    write(f.join("flat.png"), &flat);
    let said = adir(2, &f, &["restore", "flat.png", "-o", "p.png", "--task", "denoise"]);
    assert!(said.contains("no noise") && said.contains("--sigma"), "{said}");
    fs::remove_dir_all(f).unwrap();
}

/// Around a star that is cut off at white, there were rings.
#[test]
fn white_stars_leave_no_rings() {
    let f = folder("stars");
    let shape = ImageShape::new(1, 64, 64);
    let mut x = vec![-0.9; shape.elements()];
    for (row, column, light) in [(20, 22, 60.0), (44, 40, 25.0), (50, 12, 0.9)] {
        x[row * 64 + column] = light;
    }
    let x = from_f32(x, [1, 1, 64, 64], &cpu());
    let blur = Blur::new(shape, Kernel::gaussian(15, 1.8).unwrap(), Boundary::Replicate).unwrap();
    let y = with_noise(blur.apply(&x).unwrap(), 1.0);
    write(f.join("y.png"), &y);
    let args = ["restore", "y.png", "-o", "r.png", "--task", "deblur", "--kernel", "gaussian:15:1.8", "--sigma", "1"];
    let said = adir(0, &f, &args);
    assert!(said.contains("saturated") && said.contains("% of the observation"), "{said}");
    adir(0, &f, &[&args[..3], &["keep.png"], &args[4..], &["--saturated", "keep"]].concat());
    let agreement = |name: &str| json(&f.join(name))["agreement_psnr"].as_f64().unwrap();
    assert!(agreement("r.png.json") > 40.0, "{}", agreement("r.png.json"));
    assert!(agreement("keep.png.json") < 35.0, "{}", agreement("keep.png.json"));
    // Off the stars nothing is much brighter than the sky: no ring.
    let ring = |name: &str| {
        let values = to_f32(&(read(f.join(name)) - x.clone())).unwrap();
        let far = |i: usize| {
            let away = |(row, column): (f64, f64)| ((i / 64) as f64 - row).hypot((i % 64) as f64 - column);
            [(20.0, 22.0), (44.0, 40.0), (50.0, 12.0)].map(away).into_iter().fold(f64::INFINITY, f64::min) > 5.0
        };
        127.5 * (0..64 * 64).filter(|i| far(*i)).map(|i| f64::from(values[i])).fold(0.0, f64::max)
    };
    assert!(ring("r.png") < 0.5 * ring("keep.png"), "{} {}", ring("r.png"), ring("keep.png"));
    fs::remove_dir_all(f).unwrap();
}

/// Bright points that y measured are brighter than any image: rings of -1200 grey levels lay around them.
#[test]
fn bright_points_leave_no_rings() {
    let f = folder("points");
    let shape = ImageShape::new(1, 64, 64);
    let points = [(20, 22), (44, 40), (50, 12)];
    let kernel = Kernel::gaussian(15, 1.8).unwrap();
    let blur = Blur::new(shape, kernel, Boundary::Replicate).unwrap();
    for (name, lights) in [("y.tif", [300.0, 90.0, 0.9]), ("y.png", [30.0, 24.0, 0.9])] {
        let mut x = vec![-0.9; shape.elements()];
        for ((row, column), light) in points.into_iter().zip(lights) {
            x[row * 64 + column] = light;
        }
        let y = with_noise(blur.apply(&from_f32(x.clone(), [1, 1, 64, 64], &cpu())).unwrap(), 1.0);
        let mut options = WriteOptions::default();
        if name == "y.tif" {
            options.bit_depth = BitDepth::Float;
        }
        write_image(&f.join(name), &y, &options).unwrap();
        let result = name.replace('y', "r");
        let args = ["restore", name, "-o", &result, "--task", "deblur", "--kernel", "gaussian:15:1.8", "--sigma", "1"];
        let float = ["--white", "1"];
        let said = adir(0, &f, &[&args[..], if name == "y.tif" { &float } else { &[] }].concat());
        assert!(said.contains("beyond white") && said.contains("PASS"), "{said}");
        let restored = if name == "y.tif" { read_unit(f.join(&result)) } else { read(f.join(&result)) };
        let restored = to_f32(&restored).unwrap();
        let sky = |i: usize| {
            let away = |(row, column): (usize, usize)| (i / 64).abs_diff(row).max((i % 64).abs_diff(column));
            points.into_iter().map(away).min() > Some(3)
        };
        let ring = (0..64 * 64).filter(|i| sky(*i)).map(|i| (restored[i] + 0.9).abs()).fold(0.0, f32::max) * 127.5;
        assert!(ring < 15.0, "{name}: {ring} grey levels off the sky");
        let of_points = |values: &[f32]| {
            let near = |i: &usize| (i / 64).abs_diff(20).max((i % 64).abs_diff(22)) <= 3;
            (0..64 * 64).filter(near).map(|i| f64::from(values[i]) + 0.9).sum::<f64>()
        };
        if name == "y.tif" {
            assert!((of_points(&restored) / of_points(&x) - 1.0).abs() < 0.05, "the light is kept");
        }
        let place = 20 * 64 + 22;
        assert!(restored[place] >= 1.0, "{name}: {}", restored[place]);
    }
    fs::remove_dir_all(f).unwrap();
}

/// Pixels that were not measured pull at nothing and count in nothing, whatever the task and whatever y holds there.
#[test]
fn ignored_pixels_say_nothing() {
    let f = folder("ignore");
    let x = photo(64);
    // Of y, 64 pixels a side, or 16 of a down-sampled one.
    let marks = |side: usize| {
        let spot = |i: usize| if i / side % 16 == 5 && i % side % 16 > 8 { 1.0 } else { -1.0 };
        from_f32((0..side * side).map(spot).collect(), [1, 1, side, side], &cpu())
    };
    for (name, task, side) in [
        ("deblur", &["--task", "deblur", "--kernel", "gaussian:7:1.2", "--boundary", "reflect"][..], 64),
        ("denoise", &["--task", "denoise"][..], 64),
        ("sr4", &["--task", "sr4"][..], 16),
        ("colourise", &["--task", "colourise"][..], 64),
    ] {
        write(f.join("x.png"), &x);
        let sigma = if name == "denoise" { "10" } else { "1" };
        adir(0, &f, &[&["degrade", "x.png", "-o", "y.png", "--overwrite", "--sigma", sigma][..], task].concat());
        let y = read(f.join("y.png"));
        let mask = marks(side);
        write(f.join("m.png"), &mask);
        let unknown = mask.clone().greater_elem(0.0);
        let mut results = Vec::new();
        for (file, level) in [("black.png", -1.0), ("grey.png", 0.3)] {
            let channels = y.dims()[1];
            write(f.join(file), &y.clone().mask_fill(unknown.clone().repeat_dim(1, channels), level));
            let args =
                ["restore", file, "-o", "r.png", "--overwrite", "--steps", if name == "sr4" { "4" } else { "6" }];
            let given = [&args[..], task, &["--sigma", sigma, "--ignore", "m.png"]].concat();
            adir(0, &f, &given);
            results.push((fs::read(f.join("r.png")).unwrap(), json(&f.join("r.png.json"))));
            let compare = ["compare", "x.png", "r.png", "--observed", file, "--ignore", "m.png"];
            let said = adir(0, &f, &[&compare[..], task, &["--metric", "agreement_psnr"]].concat());
            let own = results[results.len() - 1].1["agreement_psnr"].as_f64().unwrap();
            assert!(said.contains(&format!("{own:.4}")), "{name}: {said} {own}");
        }
        assert!(results[0].0 == results[1].0, "{name}: what a file holds in ignored pixels changed the result");
        assert_eq!(results[0].1["agreement_psnr"], results[1].1["agreement_psnr"], "{name}");
        assert!(results[0].1["ignore"]["sha256"].is_string());
    }
    let nothing = from_f32(vec![-1.0; 64 * 64], [1, 1, 64, 64], &cpu());
    write(f.join("none.png"), &nothing);
    write(f.join("small.png"), &marks(16));
    for (mask, part) in
        [("none.png", "none.png: the mask marks no pixel"), ("small.png", "small.png: the mask has 16x16")]
    {
        let said = adir(2, &f, &["restore", "x.png", "-o", "n.png", "--task", "sr2", "--ignore", mask, "--plan"]);
        assert!(said.contains(part), "{said}");
    }
    fs::remove_dir_all(f).unwrap();
}

#[test]
fn masks_that_mark_nothing_are_refused_and_others_are_understood() {
    let f = folder("masks");
    write(f.join("y.png"), &photo(32));
    let inpaint = ["restore", "y.png", "-o", "r.png", "--overwrite", "--steps", "3", "--task", "inpaint", "--mask"];
    let mask = |marked: f32| {
        let inside = |i: usize| (10..20).contains(&(i / 32)) && (10..20).contains(&(i % 32));
        from_f32((0..1024).map(|i| if inside(i) { marked } else { -1.0 }).collect(), [1, 1, 32, 32], &cpu())
    };
    write(f.join("none.png"), &mask(-1.0));
    assert!(adir(2, &f, &[&inpaint[..], &["none.png"]].concat()).contains("none.png: the mask marks no pixel"));
    let one = mask(2.0 / 255.0 - 1.0);
    write(f.join("one.png"), &one);
    let alpha = to_f32(&mask(1.0)).unwrap().into_iter().map(|v| (v + 1.0) / 2.0).collect();
    let mut picture = Picture::from_tensor(mask(-1.0));
    picture.alpha = Some(alpha);
    picture.write(f.join("alpha.png")).unwrap();
    for name in ["one.png", "alpha.png"] {
        adir(0, &f, &[&inpaint[..], &[name]].concat());
        let changed = to_f32(&(read(f.join("r.png")) - read(f.join("y.png"))).abs().max_dim(1)).unwrap();
        let outside = changed.iter().zip(to_f32(&one).unwrap()).filter(|(_, mask)| *mask <= -1.0);
        assert!(outside.clone().count() == 924 && outside.clone().all(|(v, _)| *v == 0.0), "{name}");
        assert!(changed.iter().any(|v| *v > 0.0), "{name}: nothing was restored");
    }
    fs::remove_dir_all(f).unwrap();
}

#[test]
fn kernels_are_read_as_they_are_meant_or_refused() {
    let f = folder("kernels");
    write(f.join("y.png"), &photo(32));
    let plan = |code: i32, kernel: &str, more: &[&str]| {
        let args =
            ["restore", "y.png", "-o", "r.png", "--task", "deblur", "--sigma", "1", "--plan", "--kernel", kernel];
        adir(code, &f, &[&args[..], more].concat())
    };
    for missing in ["psf.png", "folder/psf", "./psf", "psf_1.5.txt"] {
        assert!(plan(3, missing, &[]).contains("no such file"), "{missing}");
    }
    assert!(plan(2, "bocks:3", &[]).contains("or the path of a file"));
    assert!(plan(2, "gaussian:5:x", &[]).contains("unknown kernel"));
    fs::write(f.join("commas.txt"), "0,25 0,5 0,25\n").unwrap();
    assert!(plan(3, "commas.txt", &[]).contains("write points"));
    fs::write(f.join("excel.csv"), "\u{feff}0,25;0,5;0,25\r\n").unwrap();
    plan(0, "excel.csv", &[]);
    fs::write(f.join("numpy.txt"), "# a header\n2.5e-01 5.0e-01 2.5e-01\n").unwrap();
    assert!(!plan(0, "numpy.txt", &[]).contains("warning"));
    let mut array = b"\x93NUMPY\x01\x00v\x00{'descr': '|u1', 'fortran_order': False, 'shape': (1, 3), }".to_vec();
    array.resize(127, b' ');
    array.extend(b"\n\x01\x02\x01");
    fs::write(f.join("psf.npy"), array).unwrap();
    plan(0, "psf.npy", &[]);
    // A spot on a grey ground, as a camera saw it; discs and Gaussians that were cut off have no ground.
    let spot = |ground: f64| -> String {
        let at = |i: i32| f64::from(i - 4).powi(2);
        let value = |i: i32| ground + 0.01 * f64::from(i % 7) * ground + (-at(i / 9) - at(i % 9)).exp();
        let rows = (0..9).map(|row| (9 * row..9 * row + 9).map(|i| value(i).to_string()).collect::<Vec<_>>().join(" "));
        rows.collect::<Vec<_>>().join("\n")
    };
    fs::write(f.join("ground.txt"), spot(0.1)).unwrap();
    assert!(plan(0, "ground.txt", &[]).contains("% of its weight is a background"));
    fs::write(f.join("black.txt"), spot(0.001)).unwrap();
    fs::write(f.join("line.txt"), "1 2 20 2 1").unwrap();
    for kernel in ["black.txt", "line.txt", "box:9", "gaussian:9:1.6", "gaussian:9:4", "gaussian:3:1", "motion:9:30"] {
        assert!(!plan(0, kernel, &[]).contains("background"), "{kernel}");
    }
    // Even sides draw a warning unless their centre is named.
    assert!(plan(0, "box:4", &[]).contains("--kernel-centre"));
    assert!(!plan(0, "box:4", &["--kernel-centre", "opencv"]).contains("warning"));
    assert!(plan(2, "box:4", &["--kernel-centre", "scipy"]).contains("symmetric"));
    fs::remove_dir_all(f).unwrap();
}

/// Black outside is black, in degrading and in restoring.
#[test]
fn a_black_outside_is_black() {
    let f = folder("black");
    let x = photo(64);
    write(f.join("x.png"), &x);
    let task = ["--task", "deblur", "--kernel", "box:7", "--boundary", "zero"];
    adir(0, &f, &[&["degrade", "x.png", "-o", "y.tif", "--sigma", "1"][..], &task].concat());
    let (y, inside) = (read(f.join("y.tif")), read(f.join("x.png")));
    let corner =
        |x: &Tensor<4>| f64::from(to_f32(&(x.clone().narrow(2, 0, 1).narrow(3, 0, 1) + 1.0).mean_dim(1)).unwrap()[0]);
    assert!(
        corner(&y) < 0.6 * corner(&inside),
        "a quarter of the kernel sees the image: {} {}",
        corner(&y),
        corner(&inside)
    );
    adir(0, &f, &[&["restore", "y.tif", "-o", "r.tif"][..], &task].concat());
    let (input, result) = (psnr(&x, &y), psnr(&x, &read(f.join("r.tif"))));
    assert!(result > input + 4.0, "{result:.2} dB, the input {input:.2} dB");
    fs::remove_dir_all(f).unwrap();
}

/// Noise that grows with the light, from degrade over plan, restoration and record to replay and compare.
#[test]
fn noise_that_grows_with_the_light_is_weighed() {
    let f = folder("gain");
    write(f.join("x.png"), &photo(64));
    let degrade = ["degrade", "x.png", "-o", "y.tif", "--task", "denoise", "--sigma", "2", "--gain", "6"];
    adir(0, &f, &degrade);
    let args = ["restore", "y.tif", "--task", "denoise", "--white", "1", "--gain", "6", "--sigma", "2"];
    let said = adir(0, &f, &[&args[..], &["-o", "r.tif", "--plan"]].concat());
    assert!(said.contains("grey levels on average"), "{said}");
    let said = adir(0, &f, &[&args[..], &["-o", "r.tif"]].concat());
    assert!(said.contains("PASS"), "{said}");
    adir(0, &f, &["restore", "y.tif", "--task", "denoise", "--white", "1", "--sigma", "auto", "-o", "even.tif"]);
    let of = |name: &str| psnr(&photo(64), &read_unit(f.join(name)));
    let (weighed, even) = (of("r.tif"), of("even.tif"));
    assert!(weighed > even + 0.3, "{weighed:.2} {even:.2}");
    let record = json(&f.join("r.tif.json"));
    assert_eq!((record["gain"].as_f64(), record["sigma"].as_f64()), (Some(6.0), Some(2.0)));
    assert!(adir(0, &f, &["replay", "r.tif.json"]).contains("the run repeats"));
    for gain in ["0", "-1", "nan", "256", "inf"] {
        let said = adir(2, &f, &["restore", "y.tif", "-o", "n.tif", "--task", "sr2", "--plan", "--gain", gain]);
        assert!(said.contains("gain"), "{said}");
    }
    let paper = ["restore", "y.tif", "-o", "n.tif", "--task", "sr2", "--plan", "--gain", "2", "--method", "few-step"];
    assert!(adir(2, &f, &paper).contains("alike everywhere"));
    let said =
        adir(0, &f, &["restore", "y.tif", "--white", "1", "-o", "p.tif", "--task", "denoise", "--plan", "--gain", "6"]);
    assert!(said.contains("besides what the gain explains"), "{said}");
    let said = adir(0, &f, &[&args[..7], &["6", "--sigma", "60", "-o", "p.tif", "--plan"]].concat());
    assert!(said.contains("smoother than need be"), "{said}");
}

/// What cannot be restored says why, and what to do.
#[test]
fn refusals_of_degradations_say_what_to_do() {
    let f = folder("refused");
    let white = from_f32(vec![1.0; 3 * 32 * 32], [1, 3, 32, 32], &cpu());
    write(f.join("white.png"), &white);
    write(f.join("x.png"), &photo(32));
    write(f.join("small.png"), &photo(2));
    let blur = ["-o", "r.png", "--task", "deblur", "--kernel", "box:5", "--plan"];
    assert!(adir(2, &f, &[&["restore", "white.png"][..], &blur].concat()).contains("--saturated keep"));
    let said = adir(2, &f, &[&["restore", "small.png"][..], &blur].concat());
    assert!(said.contains("--keep-margin") && said.contains("--boundary"), "{said}");
    let said = adir(2, &f, &["compare", "x.png", "x.png", "--sigma", "3"]);
    assert!(said.contains("--task is missing") && said.contains("Usage") && said.ends_with('\n'), "{said}");
}

/// A blur that takes little away is at least as good as none: its noise does not come back.
#[test]
fn noise_behind_a_weak_blur_is_taken_out() {
    let f = folder("weak-blur");
    write(f.join("x.png"), &photo(64));
    let blur = ["--task", "deblur", "--kernel", "gaussian:5:0.5", "--sigma", "5"];
    adir(0, &f, &[&["degrade", "x.png", "-o", "y.png"][..], &blur].concat());
    let said = adir(0, &f, &[&["restore", "y.png", "-o", "d.png"][..], &blur].concat());
    adir(0, &f, &["restore", "y.png", "-o", "n.png", "--task", "denoise", "--sigma", "5"]);
    let of = |name: &str| psnr(&photo(64), &read(f.join(name)));
    assert!(said.contains("PASS"), "{said}");
    assert!(of("d.png") > of("n.png") + 0.5, "{:.2} {:.2}", of("d.png"), of("n.png"));
}

/// An observation has the tone curve that its picture had: else its light would be another one.
#[test]
fn a_degraded_picture_keeps_its_gamma() {
    let f = folder("gamma");
    let mut options = WriteOptions::default();
    options.metadata.png_colour = vec![(*b"gAMA", 60_000_u32.to_be_bytes().to_vec())];
    write_image(&f.join("x.png"), &photo(32), &options).unwrap();
    for light in [&[][..], &["--linear-light"]] {
        let blur = ["degrade", "x.png", "-o", "y.png", "--task", "deblur", "--kernel", "box:3", "--overwrite"];
        adir(0, &f, &[&blur[..], light].concat());
        let y = read_image(&f.join("y.png"), &Limits::default()).unwrap();
        assert_eq!(y.metadata.png_colour, options.metadata.png_colour);
    }
    // Formats of light hold no encoded values; without light, they hold what the picture holds.
    for output in ["y.fits", "y.exr"] {
        let blur = ["degrade", "x.png", "-o", output, "--task", "deblur", "--kernel", "box:3"];
        assert!(adir(2, &f, &[&blur[..], &["--linear-light"]].concat()).contains("means light"));
        adir(0, &f, &blur);
    }
}

/// Light was blurred, and not the encoded values: told so, a restoration is better by far, keeps the profile whose tone
/// curves it went through, and repeats.
#[test]
fn a_blur_of_light_is_undone_in_light() {
    let f = folder("light");
    write(f.join("x.png"), &photo(64));
    let blur = ["--task", "deblur", "--kernel", "box:5", "--boundary", "replicate"];
    adir(0, &f, &[&["degrade", "x.png", "-o", "y.png", "--linear-light", "--sigma", "1"][..], &blur].concat());
    let restore = |output: &str, more: &[&str], code: i32| {
        adir(code, &f, &[&["restore", "y.png", "-o", output, "--sigma", "1"][..], &blur, more].concat())
    };
    let said = restore("light.png", &["--linear-light"], 0);
    assert!(said.contains("PASS"), "{said}");
    restore("plain.png", &[], 0);
    let of = |name: &str| psnr(&photo(64), &read(f.join(name)));
    assert!(of("light.png") > of("plain.png") + 1.0, "{:.2} {:.2}", of("light.png"), of("plain.png"));
    assert_eq!(json(&f.join("light.png.json"))["request"]["problem"]["linear_light"], true);
    assert!(adir(0, &f, &["replay", "light.png.json"]).contains("the run repeats"));
    let agreement = |more: &[&str]| {
        let args =
            ["compare", "x.png", "light.png", "--observed", "y.png", "--metric", "agreement_psnr", "--sigma", "1"];
        let said = adir(0, &f, &[&args[..], &blur, more].concat());
        said.split_whitespace().last().unwrap().parse::<f64>().unwrap()
    };
    assert!(agreement(&["--linear-light"]) > 40.0 && agreement(&[]) < 40.0);
    // What it has no meaning for, and what cannot be done in it.
    for (more, word) in [
        (&["--gain", "1"][..], "gain"),
        (&["--method", "ddnm"], "staged"),
        (&["--preset", "paper"], "staged"),
        (&["--boundary", "constant:9"], "black (0) or white"),
    ] {
        let args =
            ["restore", "y.png", "-o", "n.png", "--plan", "--linear-light", "--task", "deblur", "--kernel", "box:5"];
        let said = adir(2, &f, &[&args[..], more].concat());
        assert!(said.contains(word), "{said}");
    }
    let said = adir(2, &f, &["restore", "y.png", "-o", "n.png", "--plan", "--linear-light", "--task", "denoise"]);
    assert!(said.contains("mix pixels"), "{said}");
    // A profile that says nothing of its tones is refused by name; without the option it is only carried along.
    let mut picture = Picture::read(f.join("y.png")).unwrap();
    picture.metadata.icc = Some([&[0; 16][..], b"RGB ", &[0; 180]].concat());
    picture.write(f.join("odd.png")).unwrap();
    let odd = |more: &[&str], code: i32| {
        adir(code, &f, &[&["restore", "odd.png", "-o", "n.png", "--plan"][..], &blur, more].concat())
    };
    let said = odd(&["--linear-light"], 2);
    assert!(said.contains("odd.png") && said.contains("ICC profile"), "{said}");
    odd(&[], 0);
}

/// Floats are degraded, restored and compared in the values of their file, with the same options.
#[test]
fn the_white_of_floats_holds_through_all_commands() {
    let f = folder("white-of-floats");
    let ramp = (0..48 * 48).map(|i| 500.0 + 60.0 * (i % 48) as f32 + 300.0 * ((i / 48) as f32 / 6.0).sin());
    let counts = from_f32(ramp.map(|v| v / 0.5 - 1.0).collect(), [1, 1, 48, 48], &cpu());
    write_image(&f.join("x.tif"), &counts, &WriteOptions { bit_depth: BitDepth::Float, ..WriteOptions::default() })
        .unwrap();
    assert!(to_f32(&read_unit(f.join("x.tif"))).unwrap().iter().any(|v| *v > 1000.0));
    let white = ["--white", "4095", "--task", "sr2"];
    adir(0, &f, &[&["degrade", "x.tif", "-o", "y.tif"], &white[..]].concat());
    let said = adir(0, &f, &[&["restore", "y.tif", "-o", "r.tif", "--steps", "3"], &white[..]].concat());
    assert!(said.contains("PASS"), "{said}");
    let said = adir(0, &f, &[&["compare", "x.tif", "r.tif", "--observed", "y.tif"], &white[..]].concat());
    let psnr = said.lines().find_map(|line| line.strip_prefix("psnr_rgb")).unwrap().trim().parse::<f64>().unwrap();
    assert!(psnr > 25.0, "{said}");
    fs::remove_dir_all(f).unwrap();
}

/// What a format cannot hold, and what a factor leaves nothing of, is refused before anything is computed.
#[test]
fn sizes_that_cannot_be_are_refused() {
    let f = folder("sizes");
    write(f.join("long.png"), &Tensor::zeros([1, 1, 2, 9000], &cpu()));
    let said = adir(2, &f, &["restore", "long.png", "-o", "x.webp", "--task", "sr2", "--plan"]);
    assert!(said.contains("18000x4 pixels, this format at most 16383"), "{said}");
    write(f.join("flat.png"), &Tensor::zeros([1, 1, 5, 70], &cpu()));
    let said = adir(2, &f, &["degrade", "flat.png", "-o", "x.png", "--task", "sr7"]);
    assert!(said.contains("70x5 pixels is too small"), "{said}");
    assert!(!f.join("x.png").exists() && !f.join("x.webp").exists());
    fs::remove_dir_all(f).unwrap();
}

/// Less noise than the network knows moves no value by more than that noise; what is deterministic has one sample.
#[test]
fn weak_noise_is_not_made_strong() {
    let f = folder("weak");
    let x = photo(64);
    let options = WriteOptions { bit_depth: BitDepth::Sixteen, ..WriteOptions::default() };
    write_image(&f.join("y.png"), &with_noise(x.clone(), 0.3), &options).unwrap();
    let said = adir(0, &f, &["restore", "y.png", "-o", "r.png", "--task", "denoise", "--sigma", "0.3", "-n", "2"]);
    assert!(said.contains("samples will be the same"), "{said}");
    let (before, after) = (psnr(&x, &read(f.join("y.png"))), psnr(&x, &read(f.join("r.png"))));
    assert!(before > 58.0 && after > before - 0.1, "{before:.2} dB became {after:.2} dB");
    fs::remove_dir_all(f).unwrap();
}
