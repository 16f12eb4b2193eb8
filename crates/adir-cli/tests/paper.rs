//! The paper's tables from end to end, with small networks of random weights: every row, refusals, parts, and going on.
#![cfg(unix)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use adir::io::image::{WriteOptions, write_image};
use adir::io::weights::{Dtype, TensorSpec, stream_safetensors};
use adir::models::PriorHeader;
use adir::models::guided_diffusion::UNetConfig;
use adir::models::stable_diffusion::{Architecture, write_random};
use adir::noise::{Noise, Stream};
use serde_json::Value;

mod common;
use common::{checked, command, expect, folder, part, square};

const NETWORK: &str = r#"{"in_channels":3,"out_channels":6,"model_channels":32,"num_res_blocks":1,"channel_mult":[1,2],
    "attention_resolutions":[2],"num_head_channels":32,"resblock_updown":true,"use_scale_shift_norm":true}"#;

/// A weight file of these names and shapes: normal numbers of about that standard deviation, around 1 for normalisations.
fn random(path: &Path, specs: &[(String, Vec<usize>)], metadata: &BTreeMap<String, String>) {
    let noise = Noise::new(1, Stream::Initialization);
    let tensors: Vec<_> = specs.iter().map(|(name, shape)| TensorSpec { name, shape, dtype: Dtype::F32 }).collect();
    let made = stream_safetensors(path, &tensors, metadata, |k| -> adir::Result<Vec<f32>> {
        let (name, shape) = &specs[k];
        let count: usize = shape.iter().product();
        let centre = if shape.len() == 1 && name.ends_with("weight") { 1.0 } else { 0.0 };
        let inputs = (shape.iter().skip(1).product::<usize>() as f32).max(100.0);
        Ok(noise.normal(k as u32, count).into_iter().map(|z| centre + z / inputs.sqrt()).collect())
    });
    made.unwrap();
}

/// A small network of guided diffusion's.
fn guided_diffusion(path: &Path) {
    let header = PriorHeader::new(UNetConfig::from_json(NETWORK).unwrap()).unwrap();
    let specs = header.network().layout().specs().iter().map(|spec| (spec.name.clone(), spec.shape.clone()));
    let metadata = BTreeMap::from([("config".to_owned(), NETWORK.to_owned())]);
    random(path, &specs.collect::<Vec<_>>(), &metadata);
}

/// A narrow MUSIQ of one block, in pyiqa's names.
fn musiq(path: &Path, outputs: usize) {
    let mut specs: Vec<(String, Vec<usize>)> = Vec::new();
    let mut add = |name: &str, shape: &[usize]| specs.push((name.to_owned(), shape.to_vec()));
    for (conv, norm, shape) in [
        ("conv_root", "gn_root", [64, 3, 7, 7]),
        ("block1.conv1", "block1.gn1", [64, 64, 1, 1]),
        ("block1.conv2", "block1.gn2", [64, 64, 3, 3]),
        ("block1.conv3", "block1.gn3", [256, 64, 1, 1]),
        ("block1.conv_proj", "block1.gn_proj", [256, 64, 1, 1]),
    ] {
        add(&format!("{conv}.weight"), &shape);
        add(&format!("{norm}.weight"), &shape[..1]);
        add(&format!("{norm}.bias"), &shape[..1]);
    }
    let mut layer = |name: &str, shape: &[usize]| {
        add(&format!("{name}.weight"), shape);
        add(&format!("{name}.bias"), &shape[..1]);
    };
    layer("embedding", &[64, 16384]);
    layer(if outputs == 1 { "head" } else { "head.0" }, &[outputs, 64]);
    layer("transformer_encoder.encoder_norm", &[64]);
    let block = "transformer_encoder.transformer.encoderblock_0";
    ["norm1", "norm2"].iter().for_each(|part| layer(&format!("{block}.{part}"), &[64]));
    ["query", "key", "value", "out"].iter().for_each(|part| layer(&format!("{block}.attention.{part}"), &[64, 64]));
    layer(&format!("{block}.mlp.fc1"), &[64, 64]);
    layer(&format!("{block}.mlp.fc2"), &[64, 64]);
    add("transformer_encoder.cls", &[1, 1, 64]);
    add("transformer_encoder.posembed_input.position_emb", &[1, 100, 64]);
    add("transformer_encoder.scaleembed_input.scale_emb", &[3, 64]);
    random(path, &specs, &BTreeMap::new());
}

/// A folder with two images, the index of a gallery, networks and metrics.
fn set_up(name: &str) -> PathBuf {
    let f = folder(name);
    part(&f.join("images/0801.png"), 40, 40, 96);
    write_image(&f.join("images/0802.png"), &square(120, 90, 100).narrow(2, 0, 80), &WriteOptions::default()).unwrap();
    // Copies of a photograph, stored in other ways, which nothing is to be adapted to.
    part(&f.join("photos/copy.png"), 40, 40, 96);
    part(&f.join("photos/copy.jpg"), 40, 40, 96);
    for k in 0..3 {
        part(&f.join(format!("photos/{k}.png")), 8 + 60 * k, 130 - 50 * k, 90);
    }
    expect(0, &f, &["index", "build", "photos", "-o", "photos.index"]);
    guided_diffusion(&f.join("gd.safetensors"));
    musiq(&f.join("koniq.safetensors"), 1);
    musiq(&f.join("ava.safetensors"), 10);
    f
}

const JUDGED: [&str; 4] = ["--metric", "musiq=koniq.safetensors", "--metric", "musiq-ava=ava.safetensors"];

/// What makes a table of pixels small.
const SMALL: [&str; 12] = [
    "--images",
    "images",
    "--count",
    "2",
    "--crop",
    "64",
    "--gallery",
    "photos.index",
    "-k",
    "2",
    "--adapt-crop",
    "16",
];
const SHORT: [&str; 6] = ["--steps", "6", "--iterations", "3", "--adapt-batch", "2"];

fn args<'a>(table: &'a str, output: &'a str, model: &'a str) -> Vec<&'a str> {
    [&["eval", "--paper", table, "-o", output, "--model", model][..], &SMALL, &SHORT].concat()
}

/// The lines of `cells.jsonl` without their times.
fn cells(output: &Path) -> Vec<Value> {
    let text = fs::read_to_string(output.join("cells.jsonl")).unwrap();
    let timeless = |line: &str| {
        let mut cell: Value = serde_json::from_str(line).unwrap();
        cell.as_object_mut().unwrap().remove("seconds").unwrap();
        cell
    };
    text.lines().map(timeless).collect()
}

/// The kept pictures.
fn pictures(output: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(output.join("cells")).unwrap().map(|entry| entry.unwrap().path());
    let pictures = files.filter(|path| path.extension().is_some_and(|e| e == "png"));
    pictures.map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap())).collect()
}

/// The rows of the tables in a text, by their first cells.
fn rows(text: &str) -> Vec<Vec<&str>> {
    let lines = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ---"));
    let rows = lines.map(|line| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>());
    rows.filter(|row| row[0] != "row").collect()
}

#[test]
fn table_1_has_every_row_beside_the_published_numbers() {
    let f = set_up("one");
    let run = [args("table1", "out", "gd.safetensors"), JUDGED.to_vec()].concat();
    let (plan, _) = expect(0, &f, &[&run[..], &["--plan"]].concat());
    assert!(!f.join("out").exists(), "a plan writes nothing");
    assert_eq!(rows(&plan).len(), 10, "nine rows and their heading: {plan}");
    assert!(plan.contains("hours") && plan.contains("GB") && plan.contains("steps of sampling: 6 (1000)"), "{plan}");

    let (text, said) = expect(0, &f, &run);
    assert_eq!(text.trim_end(), fs::read_to_string(f.join("out/table.md")).unwrap().trim_end());
    let found = rows(&text);
    let labels: Vec<&str> = found.iter().map(|row| row[0]).collect();
    let v1 = "ADIR v1 (all weights)";
    assert_eq!(labels, ["bicubic", "GD", "IA", v1, "ADIR v2 (LoRA)", "bicubic", "GD", v1, "ADIR v2 (LoRA)"], "{text}");
    assert!(found.iter().all(|row| *row.last().unwrap() == "2 of 2" && !row.contains(&"not measured")), "{text}");
    // Beside each other: what was measured, and what is published.
    let published = |row: usize| found[row].iter().filter(|cell| ["68.756", "5.163"].contains(cell)).count();
    assert_eq!((published(3), published(4), published(7)), (2, 0, 0), "{text}");
    assert!(found[8].contains(&"55.89") && found[6].contains(&"53.99") && found[6].contains(&"54.406"), "{text}");
    for difference in [
        "images: 2, 0801.png to 0802.png (50, 0801 to 0850 of DIV2K)",
        "side of the largest references: 64 (512)",
        "(552814086)",
        "steps of adaptation: 3 (400, of IA 100)",
        "nearest images: 2 (20)",
        "(CLIP)",
    ] {
        assert!(text.contains(difference) && said.contains(difference), "{difference}: {text}{said}");
    }

    let found = cells(&f.join("out"));
    assert_eq!((found.len(), pictures(&f.join("out")).len()), (18, 18));
    let metrics = ["agreement_psnr", "musiq", "musiq_ava", "psnr_rgb", "psnr_y", "ssim_rgb", "ssim_y"];
    for cell in &found {
        let measured = cell["measured"].as_object().unwrap();
        assert_eq!(measured.keys().collect::<Vec<_>>(), metrics, "{cell}");
        // A border of 8 pixels leaves enough of 64 for all of them.
        assert!(measured.values().all(|measured| measured["value"].as_f64().is_some()), "{cell}");
        let neighbours = cell.get("neighbours").map_or(0, |images| images.as_array().unwrap().len());
        let adapted = ["knn", "lora"].contains(&cell["method"].as_str().unwrap());
        assert_eq!(neighbours, if adapted { 2 } else { 0 }, "{cell}");
        let is_copied = adapted && cell["image"] == "0801.png";
        assert_eq!(cell.get("copies").and_then(Value::as_u64), is_copied.then_some(2), "{cell}");
        assert!(cell["image"] != "0801.png" || !cell.to_string().contains("copy."), "{cell}");
    }
    // Interpolation agrees with what was seen better than what a network of random weights adds; all rows differ.
    let of = |method: &str| found.iter().find(|cell| cell["method"] == method).unwrap()["measured"].clone();
    let mut values: Vec<String> =
        ["bicubic", "none", "self", "knn", "lora"].map(|m| of(m)["psnr_rgb"].to_string()).into();
    values.dedup();
    assert_eq!(values.len(), 5, "{values:?}");
    assert!(!f.join("out/unfinished").exists(), "adapters and states are gone");

    // What is there is taken as it is.
    let before = pictures(&f.join("out"));
    let (again, said) = expect(0, &f, &run);
    assert!(again == text && pictures(&f.join("out")) == before && !said.contains("adapting"), "{said}");
    let (plan, _) = expect(0, &f, &[&run[..], &["--plan"]].concat());
    assert!(rows(&plan)[1..].iter().all(|row| row[6] == "0"), "{plan}");
    fs::remove_dir_all(f).unwrap();
}

#[test]
fn table_2_and_table_3_have_every_row() {
    let f = set_up("others");
    write_random(Architecture::Upscaler, true, 1, &f.join("x4")).unwrap();
    let small = ["--images", "images", "--count", "2", "--crop", "64", "--gallery", "photos.index", "-k", "2"];
    let run = ["eval", "--paper", "table2", "-o", "two", "--model", "x4", "--adapt-crop", "64"];
    let (text, _) = expect(0, &f, &[&run[..], &small, &SHORT, &JUDGED].concat());
    let labels = |text: &str| rows(text).iter().map(|row| row[0].to_owned()).collect::<Vec<_>>();
    assert_eq!(labels(&text), ["bicubic", "SD", "ADIR v1 (all weights)", "ADIR v2 (LoRA)"], "{text}");
    assert!(text.contains("72.703") && text.contains("72.56") && !text.contains("not measured"), "{text}");
    let found = cells(&f.join("two"));
    assert_eq!(found.len(), 8);
    let different: std::collections::BTreeSet<Vec<u8>> = pictures(&f.join("two")).into_values().collect();
    assert_eq!(different.len(), 8, "all weights and factors make other pictures than the model as it is");
    let full = |cell: &Value| cell["made_from"]["method"]["settings"]["adaptation"]["full"] == true;
    assert_eq!(found.iter().filter(|cell| full(cell)).count(), 2);
    assert!(!f.join("two/unfinished").exists(), "adapters and states are gone");

    let (text, _) = expect(0, &f, &[args("table3", "three", "gd.safetensors"), JUDGED.to_vec()].concat());
    let of_task = ["observation", "GD", "ADIR v1 (all weights)", "ADIR v2 (LoRA)"];
    assert_eq!(labels(&text), [of_task, of_task, of_task].concat(), "{text}");
    for size in
        ["box:5+10, references of 32x32", "box:5+10, references of 64x64", "gaussian:15:1.6+10, references of 32x32"]
    {
        assert!(text.contains(size), "{text}");
    }
    assert_eq!(cells(&f.join("three")).len(), 24);
    fs::remove_dir_all(f).unwrap();
}

/// Metrics are no part of what determines a picture.
#[test]
fn what_is_measured_later_is_measured_on_the_pictures_that_are_there() {
    let f = set_up("later");
    let run = [args("table1", "out", "gd.safetensors"), vec!["--methods", "bicubic,none"]].concat();
    let (text, said) = expect(0, &f, &run);
    assert!(text.contains("not measured") && said.contains("--metric musiq=FILE"), "{text}{said}");
    let (before, first) = (pictures(&f.join("out")), cells(&f.join("out")));
    let (text, said) = expect(0, &f, &[&run[..], &JUDGED].concat());
    assert!(!text.contains("not measured") && pictures(&f.join("out")) == before, "{text}{said}");
    let second = cells(&f.join("out"));
    for (first, second) in first.iter().zip(&second) {
        assert_eq!(first["measured"]["psnr_rgb"], second["measured"]["psnr_rgb"]);
        assert!(first["measured"].get("musiq").is_none() && second["measured"]["musiq"]["value"].is_f64());
    }
    // What such a file is for, and what no metric is.
    for (file, metric) in [("koniq.safetensors", "musiq"), ("ava.safetensors", "musiq-ava")] {
        let (told, _) = expect(0, &f, &["models", "info", "--model", file]);
        assert!(told.contains(&format!("MUSIQ, the network of a metric (--metric {metric}={file} ")), "{told}");
        let (told, _) = expect(0, &f, &["models", "info", "--model", file, "--json"]);
        assert_eq!(serde_json::from_str::<Value>(&told).unwrap()["kind"], "MUSIQ");
    }
    fs::write(f.join("bad.safetensors"), "no weights").unwrap();
    let (_, err) = expect(4, &f, &["models", "info", "--model", "bad.safetensors"]);
    assert!(err.contains("`adir models list`") && !err.contains("models info"), "{err}");
    // Another network's numbers take the place of these.
    musiq(&f.join("koniq.safetensors"), 1);
    let mut bytes = fs::read(f.join("koniq.safetensors")).unwrap();
    let last = bytes.len() - 2;
    bytes[last] ^= 0x10;
    fs::write(f.join("koniq.safetensors"), bytes).unwrap();
    expect(0, &f, &[&run[..], &JUDGED].concat());
    for (second, third) in second.iter().zip(cells(&f.join("out"))) {
        assert_ne!(second["measured"]["musiq"]["by"], third["measured"]["musiq"]["by"]);
        assert_eq!(second["measured"]["musiq_ava"], third["measured"]["musiq_ava"]);
    }
    fs::remove_dir_all(f).unwrap();
}

/// Killed and stopped at any moment, and in parts: the same pictures, numbers and table.
#[test]
fn a_table_goes_on_where_it_was_stopped() {
    let f = set_up("goes-on");
    write_random(Architecture::Upscaler, true, 1, &f.join("x4")).unwrap();
    let small = ["--images", "images", "--count", "2", "--crop", "64", "--gallery", "photos.index", "-k", "2"];
    let long = ["--steps", "24", "--iterations", "8", "--adapt-batch", "2", "--checkpoint-seconds", "0"];
    let run = |table: &'static str, output: &'static str| {
        let (model, crop) = if table == "table2" { ("x4", "64") } else { ("gd.safetensors", "16") };
        let first = ["eval", "--paper", table, "-o", output, "--model", model, "--adapt-crop", crop];
        [&first[..], &small, &long, &JUDGED].concat()
    };
    for (table, whole, broken, parts) in [("table1", "1", "1b", "1p"), ("table2", "2", "2b", "2p")] {
        let (text, _) = expect(0, &f, &run(table, whole));
        let (pictures_of_whole, cells_of_whole) = (pictures(&f.join(whole)), cells(&f.join(whole)));

        // Where the machine is so quick or slow that all kills fall between pictures, it is tried again at other times.
        let (mut went_on, mut kills, mut tries) = (false, 0, 0);
        while tries < 8 && !(kills > 2 && went_on) {
            let _ = fs::remove_dir_all(f.join(broken));
            (went_on, kills, tries) = (false, 0, tries + 1);
            let mut wait = 300 + 23 * tries;
            loop {
                let mut child =
                    command(&f, &run(table, broken)).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
                std::thread::sleep(Duration::from_millis(wait));
                // A kill, and then a request to stop, in turns.
                let signal = if kills % 2 == 0 { "-KILL" } else { "-INT" };
                let ended = child.try_wait().unwrap().is_some();
                let _ = Command::new("kill")
                    .args([signal, &child.id().to_string()])
                    .stderr(Stdio::null())
                    .status()
                    .unwrap();
                let output = child.wait_with_output().unwrap();
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                went_on |= said.contains("goes on after step");
                if ended || output.status.success() {
                    assert!(output.status.success(), "{said}");
                    break;
                }
                assert!(!said.contains("panicked"), "{said}");
                (kills, wait) = (kills + 1, wait + 100);
            }
        }
        assert!(kills > 2 && went_on, "{table}: {kills} kills, none of them within a picture");
        let (again, _) = expect(0, &f, &run(table, broken));
        assert!(pictures(&f.join(broken)) == pictures_of_whole, "{table}: other pictures after kills");
        assert_eq!(cells(&f.join(broken)), cells_of_whole, "{table}");
        assert_eq!(again, text, "{table}");
        assert!(!f.join(broken).join("unfinished").exists(), "{table}");

        let (first, _) = expect(0, &f, &[&run(table, parts)[..], &["--shard", "2/2"]].concat());
        assert!(first.contains("Not finished: ") && first.contains("| 1 of 2 |"), "{first}");
        let (second, _) = expect(0, &f, &[&run(table, parts)[..], &["--shard", "1/2"]].concat());
        assert_eq!((second, pictures(&f.join(parts)) == pictures_of_whole), (text, true), "{table}");
        assert_eq!(cells(&f.join(parts)), cells_of_whole, "{table}");
    }
    fs::remove_dir_all(f).unwrap();
}

/// What can be refused is refused before anything is computed, with or without --plan.
#[test]
fn what_does_not_fit_is_refused_before_anything_is_computed() {
    let f = set_up("refused");
    write_random(Architecture::Upscaler, true, 1, &f.join("x4")).unwrap();
    write_random(Architecture::SuperResolution, true, 1, &f.join("ldm")).unwrap();
    write_random(Architecture::Inpainting1, true, 1, &f.join("fills")).unwrap();
    fs::create_dir(f.join("empty")).unwrap();
    fs::write(f.join("broken.index"), "no index").unwrap();
    let given = |changes: &[(&str, Option<&'static str>)]| {
        let mut options = BTreeMap::from([
            ("--paper", "table1"),
            ("--images", "images"),
            ("--count", "2"),
            ("--crop", "64"),
            ("--gallery", "photos.index"),
            ("--model", "gd.safetensors"),
            ("-o", "out"),
            // What is not refused ends soon.
            ("--steps", "2"),
            ("--iterations", "1"),
            ("--adapt-crop", "16"),
        ]);
        for (name, value) in changes {
            match value {
                Some(value) => drop(options.insert(name, value)),
                None => drop(options.remove(name)),
            }
        }
        let options = options.into_iter().flat_map(|(name, value)| [name, value]);
        std::iter::once("eval").chain(options).map(str::to_owned).collect::<Vec<_>>()
    };
    for (code, changes, hint) in [
        (2, &[("--model", None)][..], "256x256_diffusion_uncond.pt"),
        (4, &[("--model", Some("absent.pt"))], "absent.pt"),
        (4, &[("--model", Some("koniq.safetensors"))], "koniq.safetensors"),
        (2, &[("--model", Some("x4"))], "latent diffusion model"),
        (2, &[("--paper", Some("table2"))], "gd.safetensors"),
        (2, &[("--paper", Some("table2")), ("--model", Some("fills"))], "fills in parts"),
        (2, &[("--paper", Some("table2")), ("--model", Some("ldm"))], "--methods bicubic,none"),
        (2, &[("--gallery", None)], "--gallery INDEX"),
        (2, &[("--gallery", Some("photos"))], "adir index build"),
        (3, &[("--gallery", Some("absent.index"))], "absent.index"),
        (3, &[("--gallery", Some("broken.index"))], "broken.index"),
        (3, &[("--count", Some("50"))], "holds 2 images"),
        (3, &[("--images", Some("empty"))], "no images"),
        (3, &[("--images", Some("absent"))], "absent"),
        // 80 pixels are too few for a reference of 96.
        (3, &[("--crop", Some("96"))], "has 100x80 pixels"),
        (3, &[("--crop", Some("96")), ("--preparation", Some("crop"))], "has 100x80 pixels"),
        (3, &[("--crop", None)], "0801.png"),
        (2, &[("--crop", Some("60"))], "multiple of 8"),
        (2, &[("--methods", Some("wiener"))], "no row of the method wiener"),
        (2, &[("--steps", Some("0"))], "no sampling steps"),
        (2, &[("--steps", Some("1001"))], "1000"),
        (2, &[("--adapt-crop", Some("15"))], "crop 15"),
        (2, &[("--noise-level", Some("20"))], "x4 upscaler's"),
        (2, &[("--adapt-minutes", Some("1"))], "--paper"),
        (2, &[("--preset", Some("fast"))], "--paper"),
        (2, &[("--samples", Some("2"))], "--paper"),
        (2, &[("--metric", Some("musiq-ava=koniq.safetensors"))], "not one for musiq-ava"),
        (2, &[("--metric", Some("musiq=ava.safetensors"))], "not one for musiq"),
        (4, &[("--metric", Some("musiq=gd.safetensors"))], "no MUSIQ"),
        (2, &[("--paper", Some("table4"))], "table3"),
        (2, &[("--paper", None)], "--paper"),
        (2, &[("-o", Some("images/out"))], "images"),
        (5, &[("--max-memory", Some("0.01"))], "memory"),
    ] {
        for plan in [false, true] {
            let mut args = given(changes);
            args.extend(plan.then(|| "--plan".to_owned()));
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let (out, said) = checked(code, &args, command(&f, &args).output().unwrap());
            assert!(said.contains(hint), "{args:?}: {out}{said}");
            assert!(code == 5 || !said.contains("is not measured"), "before a refusal: {said}");
            assert!(!f.join("out").exists() && !f.join("images/out").exists(), "{args:?}");
        }
    }
    // What is too small is taken if it is said, and latent diffusion's own super-resolution has two rows.
    let args = given(&[("--crop", Some("96")), ("--methods", Some("bicubic")), ("--model", None), ("--gallery", None)]);
    let args: Vec<&str> = args.iter().map(String::as_str).chain(["--enlarge"]).collect();
    let (text, _) = expect(0, &f, &args);
    assert!(text.contains("references of 96x96") && rows(&text).len() == 2, "{text}");
    let changes = [("--paper", Some("table2")), ("--model", Some("ldm")), ("--methods", Some("bicubic,none"))];
    let args = given(&[&changes[..], &[("--steps", Some("2")), ("-o", Some("ldm-out")), ("--gallery", None)]].concat());
    let (text, _) = expect(0, &f, &args.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(rows(&text).iter().map(|row| row[0]).collect::<Vec<_>>(), ["bicubic", "SD"], "{text}");
    fs::remove_dir_all(f).unwrap();
}
