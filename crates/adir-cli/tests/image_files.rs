//! Image files as people have them, through the program: each test is a fault that a user met.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use adir::io::image::{BitDepth, Picture, Reading, Resolution, Scale, WriteOptions, read_image_as, write_image};
use adir::io::limits::Limits;
use adir::tensor::{Tensor, cpu, from_f32, to_f32};

mod common;
use common::folder;

fn run(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_adir")).args(args).current_dir(folder).output().unwrap()
}

/// What a run that succeeds says on stderr.
fn done(folder: &Path, args: &[&str]) -> String {
    let output = run(folder, args);
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{args:?}: {err}");
    err
}

/// What a run says that ends with that code and writes nothing.
fn refused(folder: &Path, code: i32, args: &[&str]) -> String {
    let before = fs::read_dir(folder).unwrap().count();
    let output = run(folder, args);
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {err}");
    assert_eq!(fs::read_dir(folder).unwrap().count(), before, "{args:?}");
    err
}

/// A smooth grey picture of 32x32 pixels from 0.2 to 0.7, with black at -1.
fn picture(channels: usize) -> Tensor<4> {
    let value = |i: usize| -0.6 + (i % 32 + i / 32 % 32) as f32 / 62.0;
    from_f32((0..channels * 1024).map(value).collect(), [1, channels, 32, 32], &cpu())
}

fn float(scale: Option<Scale>) -> WriteOptions {
    WriteOptions { bit_depth: BitDepth::Float, scale, ..WriteOptions::default() }
}

/// Values of a float file as they are.
fn values(path: &Path) -> Vec<f32> {
    let reading = Reading::scaled(Scale { black: 0.0, white: 1.0 });
    let picture = read_image_as(path, &reading, &Limits::default()).unwrap();
    to_f32(&picture.tensor).unwrap().iter().map(|v| (v + 1.0) / 2.0).collect()
}

#[test]
fn values_beyond_white_are_kept_and_named() {
    let f = folder("beyond");
    let mut y = to_f32(&picture(1)).unwrap();
    for i in (10..16).flat_map(|row| (10..16).map(move |column| row * 32 + column)) {
        y[i] = 5.0; // 3.0 with black at 0 and white at 1
    }
    write_image(&f.join("y.tif"), &from_f32(y, [1, 1, 32, 32], &cpu()), &float(None)).unwrap();
    let args = ["restore", "y.tif", "-o", "x.tif", "--task", "denoise", "--sigma", "2"];
    let said = done(&f, &args);
    assert!(said.contains("3.0000") && said.contains("not clipped"), "{said}");
    let x = values(&f.join("x.tif"));
    assert!((x[12 * 32 + 12] - 3.0).abs() < 0.05, "{}", x[12 * 32 + 12]);
    let plan = run(&f, &[&args[..], &["--plan", "--overwrite"]].concat());
    let shown = String::from_utf8_lossy(&plan.stdout).into_owned();
    assert!(shown.contains("beyond black and white"), "{shown}");
    assert!(done(&f, &[&args[..3], &["p.png"], &args[4..]].concat()).contains("cut off in the result"));
    // Of a folder it is said once that results are coarser than their observations.
    let rounded = "results are rounded to 8 bits";
    fs::create_dir(f.join("s")).unwrap();
    for name in ["s/a.tif", "s/b.tif"] {
        fs::copy(f.join("y.tif"), f.join(name)).unwrap();
    }
    let folder = |output: &str, more: &[&str]| done(&f, &[&["restore", "s", "-o", output], &args[4..], more].concat());
    assert_eq!(folder("o", &["--format", "png"]).matches(rounded).count(), 1);
    assert!(!folder("p", &[]).contains(rounded) && !said.contains(rounded));
    // Where nothing lies beyond, nothing changes.
    write_image(&f.join("z.tif"), &picture(1), &float(None)).unwrap();
    let plan = run(&f, &["restore", "z.tif", "-o", "w.tif", "--task", "denoise", "--sigma", "2", "--plan"]);
    assert!(!String::from_utf8_lossy(&plan.stdout).contains("beyond"));
    fs::remove_dir_all(f).unwrap();
}

#[test]
fn floats_of_another_scale_are_refused_or_mapped_and_written_as_they_came() {
    let f = folder("scale");
    write_image(&f.join("y.tif"), &picture(1), &float(Some(Scale { black: 0.0, white: 255.0 }))).unwrap();
    let args = ["restore", "y.tif", "-o", "x.tif", "--task", "denoise", "--sigma", "2"];
    let said = refused(&f, 3, &args);
    assert!(said.contains("y.tif") && said.contains("--white 255"), "{said}");
    refused(&f, 3, &[&args[..], &["--plan"]].concat());
    refused(&f, 2, &[&args[..], &["--white", "-1"]].concat());
    done(&f, &[&args[..], &["--white", "255"]].concat());
    let (y, x) = (values(&f.join("y.tif")), values(&f.join("x.tif")));
    let gap = y.iter().zip(&x).map(|(y, x)| (y - x).abs()).fold(0.0, f32::max);
    assert!(gap < 8.0, "{gap} of 255");
    let record: serde_json::Value = serde_json::from_slice(&fs::read(f.join("x.tif.json")).unwrap()).unwrap();
    assert!(record["agreement_psnr"].as_f64().unwrap() > 35.0, "{}", record["agreement_psnr"]);
    assert_eq!(record["request"]["reading"]["white"], 255.0);
    done(&f, &["compare", "y.tif", "x.tif", "--white", "255"]);
    fs::remove_dir_all(f).unwrap();
}

/// WebP stores grey in three channels; the record is written all the same.
#[test]
fn a_grey_observation_may_become_any_format() {
    let f = folder("grey");
    write_image(&f.join("y.png"), &picture(1), &WriteOptions::default()).unwrap();
    for name in ["x.webp", "x2.jpg", "x3.tif"] {
        done(&f, &["restore", "y.png", "-o", name, "--task", "sr2", "--steps", "2"]);
        let record: serde_json::Value =
            serde_json::from_slice(&fs::read(f.join(format!("{name}.json"))).unwrap()).unwrap();
        assert!(record["agreement_psnr"].as_f64().unwrap() > 25.0, "{name}: {}", record["agreement_psnr"]);
    }
    fs::remove_dir_all(f).unwrap();
}

/// Scans are stored as RGB. Their profile, of grey, does not go with colours.
#[test]
fn grey_stored_as_rgb_is_coloured_without_a_grey_profile() {
    let f = folder("colourise");
    let grey = picture(1).repeat_dim(1, 3);
    let mut profile = vec![0; 128];
    profile[16..20].copy_from_slice(b"GRAY");
    let mut options = WriteOptions::default();
    write_image(&f.join("rgb.jpg"), &grey, &options).unwrap();
    options.metadata.icc = Some(profile);
    write_image(&f.join("grey.png"), &picture(1), &options).unwrap();
    let args = |input| ["restore", input, "-o", "x.png", "--task", "colourise", "--steps", "2", "--overwrite"];
    done(&f, &args("rgb.jpg"));
    assert_eq!(Picture::read(f.join("x.png")).unwrap().tensor.dims(), [1, 3, 32, 32]);
    let said = done(&f, &args("grey.png"));
    assert!(said.contains("ICC profile"), "{said}");
    assert!(Picture::read(f.join("x.png")).unwrap().metadata.icc.is_none());
    let colours = from_f32((0..3072).map(|i| (i % 97) as f32 / 97.0).collect(), [1, 3, 32, 32], &cpu());
    write_image(&f.join("colours.png"), &colours, &WriteOptions::default()).unwrap();
    let said = refused(&f, 2, &args("colours.png"));
    assert!(said.contains("colours.png") && said.contains("convert it to grey"), "{said}");
    fs::remove_dir_all(f).unwrap();
}

#[test]
fn resolution_follows_the_factor() {
    let f = folder("resolution");
    let mut options = WriteOptions::default();
    options.metadata.resolution = Some(Resolution { x: 300.0, y: 300.0 });
    write_image(&f.join("y.png"), &picture(1), &options).unwrap();
    for (task, expected) in [(["--task", "sr2"], 600.0), (["--task", "denoise"], 300.0)] {
        for name in ["x.png", "x.jpg", "x.tif"] {
            done(&f, &[&["restore", "y.png", "-o", name, "--sigma", "1", "--overwrite"], &task[..]].concat());
            let found = Picture::read(f.join(name)).unwrap().metadata.resolution.unwrap();
            assert!((found.x - expected).abs() < 0.01 && (found.y - expected).abs() < 0.01, "{name}: {found:?}");
        }
    }
    let said = done(&f, &["restore", "y.png", "-o", "w.webp", "--task", "denoise", "--sigma", "1", "--plan"]);
    assert!(said.contains("not carried over to the result") && said.contains("resolution"), "{said}");
    fs::remove_dir_all(f).unwrap();
}

/// Physical values, blank pixels, and the header of a FITS file.
#[test]
fn a_fits_observation_becomes_a_fits_result() {
    let f = folder("fits");
    let card = |text: String| format!("{text:<80}");
    let cards = [
        "SIMPLE  = T",
        "BITPIX  = -32",
        "NAXIS   = 2",
        "NAXIS1  = 32",
        "NAXIS2  = 32",
        "OBJECT  = 'M 31'",
        "CRPIX1  = 4.0",
        "END",
    ];
    let mut file = format!("{:<2880}", cards.map(|text| card(text.into())).concat()).into_bytes();
    let mut light: Vec<f32> = to_f32(&picture(1)).unwrap().iter().map(|v| 1500.0 * (v + 1.0)).collect();
    light[40..44].fill(f32::NAN);
    file.extend(light.iter().flat_map(|v| v.to_be_bytes()));
    file.resize(file.len().next_multiple_of(2880), 0);
    fs::write(f.join("y.fits"), file).unwrap();
    let args = ["restore", "y.fits", "-o", "x.fits", "--task", "sr2", "--sigma", "1"];
    let said = refused(&f, 3, &args);
    assert!(said.contains("y.fits") && said.contains("which value is white"), "{said}");
    let said = done(&f, &[&args[..], &["--white", "3000"]].concat());
    assert!(said.contains("BLANK or NaN): 4"), "{said}");
    let reading = Reading::scaled(Scale { black: 0.0, white: 3000.0 });
    let x = read_image_as(&f.join("x.fits"), &reading, &Limits::default()).unwrap();
    assert_eq!(x.tensor.dims(), [1, 1, 64, 64]);
    let header = x.metadata.fits.unwrap();
    assert!(header.cards().any(|card| card.starts_with("OBJECT  = 'M 31'")));
    assert!(header.cards().any(|card| card.starts_with("CRPIX1  =                  7.5")));
    let record: serde_json::Value = serde_json::from_slice(&fs::read(f.join("x.fits.json")).unwrap()).unwrap();
    assert!(record["agreement_psnr"].as_f64().unwrap() > 35.0, "{}", record["agreement_psnr"]);
    // Half the truth is no truth.
    let said = refused(&f, 3, &["compare", "y.fits", "y.fits", "--white", "3000"]);
    assert!(said.contains("BLANK or NaN): 4"), "{said}");
    let white = ["--white", "3000", "--metric", "agreement_psnr"];
    done(&f, &[&["compare", "x.fits", "x.fits", "--observed", "y.fits", "--task", "sr2"], &white[..]].concat());
    let said = refused(&f, 2, &["restore", "y.fits", "-o", "w.exr", "--task", "sr2", "--page", "2", "--plan"]);
    assert!(said.contains("page 2 of a file of one page"), "{said}");
    fs::remove_dir_all(f).unwrap();
}

/// Light beyond white, and colours multiplied by alpha, through a folder of OpenEXR files.
#[test]
fn openexr_stays_openexr() {
    let f = folder("exr");
    let mut options = float(None);
    (options.alpha, options.associated_alpha) = (Some(vec![0.5; 1024]), true);
    fs::create_dir(f.join("scans")).unwrap();
    let mut y = to_f32(&picture(3)).unwrap();
    for i in (0..3 * 1024).filter(|i| (10..16).contains(&(i % 32)) && (10..16).contains(&(i / 32 % 32))) {
        y[i] = 5.0; // 3.0 with black at 0 and white at 1
    }
    write_image(&f.join("scans/y.exr"), &from_f32(y, [1, 3, 32, 32], &cpu()), &options).unwrap();
    let task = ["--task", "denoise", "--sigma", "2"];
    done(&f, &[&["restore", "scans", "-o", "out"], &task[..]].concat());
    let x = Picture::read(f.join("out/y.exr")).unwrap();
    assert!(x.associated_alpha && x.alpha.unwrap().iter().all(|alpha| (alpha - 0.5).abs() < 1e-4));
    let most = to_f32(&x.tensor).unwrap().into_iter().fold(0.0, f32::max);
    assert!((most - 5.0).abs() < 0.2, "{most}");
    let said = refused(&f, 2, &[&["restore", "scans/y.exr", "-o", "x.png", "--plan"], &task[..]].concat());
    assert!(said.contains("only .tif and .exr can say"), "{said}");
    write_image(&f.join("grey.png"), &picture(1), &WriteOptions::default()).unwrap();
    let said = done(&f, &[&["restore", "grey.png", "-o", "x.exr"], &task[..]].concat());
    assert!(said.contains("OpenEXR means light"), "{said}");
    fs::remove_dir_all(f).unwrap();
}

/// AVIF is read, with its alpha, alone and in a folder, and told by its content; it is not written.
#[test]
fn avif_becomes_png() {
    let f = folder("avif");
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../adir/tests/io_fixtures/avif");
    fs::create_dir(f.join("scans")).unwrap();
    fs::copy(fixtures.join("grid.avif"), f.join("scans/y.avif")).unwrap();
    fs::copy(fixtures.join("grid.avif"), f.join("renamed.png")).unwrap();
    let task = ["--task", "denoise", "--sigma", "5"];
    done(&f, &[&["restore", "scans", "-o", "out"], &task[..]].concat());
    let x = Picture::read(f.join("out/y.png")).unwrap();
    assert_eq!((x.tensor.dims(), x.alpha.map(|alpha| alpha.len())), ([1, 3, 70, 110], Some(7700)));
    done(&f, &[&["restore", "renamed.png", "-o", "x.png"], &task[..]].concat());
    assert_eq!(fs::read(f.join("x.png")).unwrap(), fs::read(f.join("out/y.png")).unwrap());
    let said = refused(&f, 2, &[&["restore", "scans/y.avif", "-o", "x.avif", "--plan"], &task[..]].concat());
    assert!(said.contains("AVIF is read, not written"), "{said}");
    fs::remove_dir_all(f).unwrap();
}

/// Values above a white that was named are kept in 16 bits, and nothing says otherwise.
#[test]
fn values_above_a_named_white_are_kept_in_16_bits() {
    let f = folder("named-white");
    let mut y = to_f32(&picture(1)).unwrap();
    y.iter_mut().for_each(|v| *v = (*v + 1.0) / 16.0 - 1.0);
    for i in (10..16).flat_map(|row| (10..16).map(move |column| row * 32 + column)) {
        y[i] = 0.5;
    }
    let sixteen = WriteOptions { bit_depth: BitDepth::Sixteen, ..WriteOptions::default() };
    write_image(&f.join("y.tif"), &from_f32(y, [1, 1, 32, 32], &cpu()), &sixteen).unwrap();
    let args = ["restore", "y.tif", "-o", "x.tif", "--task", "denoise", "--sigma", "2", "--white", "4095"];
    let said = done(&f, &args);
    assert!(said.contains("are kept") && !said.contains("cut off"), "{said}");
    assert!(values(&f.join("x.tif")).into_iter().fold(0.0, f32::max) > 0.7);
    // 16 bits are lost in a .jpg, and not without a word.
    for (output, coarser) in [("x.png", false), ("x.jpg", true), ("x.webp", true)] {
        let said = done(&f, &[&args[..3], &[output], &args[4..8]].concat());
        assert_eq!(said.contains("results are rounded to 8 bits"), coarser, "{output}: {said}");
    }
    fs::remove_dir_all(f).unwrap();
}

/// The faults that were reported, where their files are.
#[test]
fn reported_files_are_treated_as_expected() {
    // Beside the repository, or beside the folder of its working trees.
    let beside = |above: &Path| Some(above.join("shared/faults")).filter(|faults| faults.is_dir());
    let Some(faults) = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().skip(3).take(2).find_map(beside) else {
        eprintln!("skipped: the reported files are not here");
        return;
    };
    let plan = |file: &str, task: &[&str]| {
        let input = faults.join(file);
        let output = std::env::temp_dir().join(format!("adir-files-{}-plan.tif", std::process::id()));
        let named = ["restore", input.to_str().unwrap(), "-o", output.to_str().unwrap(), "--plan"];
        let output = run(&faults, &[&named[..], task].concat());
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let denoise = ["--task", "denoise", "--sigma", "2"];
    for (file, task, code, text) in [
        ("04-float-tiff-0-to-255/y.tif", &denoise[..], 3, "--white 255"),
        ("05-float-values-above-1-are-lost/y.tif", &denoise, 0, "not clipped"),
        ("10-cmyk-jpeg-keeps-cmyk-profile/cmyk.jpg", &denoise, 0, "ICC profile"),
        ("12-only-the-first-page-of-a-stack/stack.tif", &denoise, 0, "page 1 of 3 only"),
        ("13-extra-tiff-channels-become-alpha-or-vanish/two_channels.tif", &denoise, 3, "2 channels"),
        ("30-jpeg-end-marker/cut_but_closed.jpg", &denoise, 3, "cut off"),
        ("32-tiff-kinds-refused/g4.tif", &denoise, 0, ""),
        ("32-tiff-kinds-refused/i16.tif", &denoise, 3, "signed 16-bit"),
        ("37-colourise-refuses-grey-rgb/grey_as_rgb.jpg", &["--task", "colourise"], 0, ""),
    ] {
        let (found, said) = plan(file, task);
        assert!(found == code && said.contains(text), "{file}: {found} {said}");
    }
}
