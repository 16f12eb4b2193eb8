//! The program as scripts see it: exit codes, refusals, and one whole restoration.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use adir::encode::Encoder;
use adir::io::image::{WriteOptions, read_image, write_image};
use adir::io::limits::Limits;
use adir::models::efficientnet_lite::EfficientNetLite0;

mod common;
use common::{checked, example, quarter_mask};

fn adir(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_adir")).args(args).current_dir(folder).output().unwrap()
}

/// Runs, checks the exit code, and returns what went to stdout and stderr.
#[track_caller]
fn expect(code: i32, folder: &Path, args: &[&str]) -> (String, String) {
    checked(code, args, adir(folder, args))
}

/// A folder of its own with the sample photo, cut to 64x64 and degraded, in it.
fn folder(name: &str) -> PathBuf {
    let folder = common::folder(name);
    fs::copy(example("cat_small.png"), folder.join("x.png")).unwrap();
    expect(0, &folder, &["degrade", "x.png", "-o", "y.png", "--task", "sr4"]);
    folder
}

#[test]
fn a_restoration_agrees_with_its_observation_and_repeats_byte_for_byte() {
    let f = folder("restore");
    let restore = |output: &str| {
        expect(0, &f, &["restore", "y.png", "-o", output, "--task", "sr4", "--steps", "20", "--seed", "3"]);
        fs::read(f.join(output)).unwrap()
    };
    assert_eq!(restore("a.png"), restore("b.png"));
    let (json, _) = expect(0, &f, &["compare", "x.png", "a.png", "--observed", "y.png", "--task", "sr4", "--json"]);
    let scores: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert!(scores["agreement_psnr"].as_f64().unwrap() > 40.0, "{json}");
    let record: serde_json::Value = serde_json::from_slice(&fs::read(f.join("a.png.json")).unwrap()).unwrap();
    assert_eq!(record["agreement_psnr"], scores["agreement_psnr"]);
    assert_eq!(record["seed"], 3);
    fs::remove_dir_all(f).unwrap();
}

#[test]
fn known_pixels_of_an_inpainting_are_kept_exactly() {
    let f = folder("inpaint");
    quarter_mask(&f.join("m.png"), 64);
    expect(0, &f, &["degrade", "x.png", "-o", "hole.png", "--task", "inpaint", "--mask", "m.png"]);
    let args = ["restore", "hole.png", "-o", "full.png", "--task", "inpaint", "--mask", "m.png", "--steps", "5"];
    expect(0, &f, &args);
    let scores = expect(
        0,
        &f,
        &["compare", "x.png", "full.png", "--observed", "hole.png", "--task", "inpaint", "--mask", "m.png", "--json"],
    );
    // Only known pixels count, and they are kept bit for bit: the grey of the file in the hole does not matter.
    let scores: serde_json::Value = serde_json::from_str(&scores.0).unwrap();
    assert_eq!(scores["agreement_psnr"], "inf", "{scores}");
    fs::remove_dir_all(f).unwrap();
}

#[test]
fn faults_have_their_exit_codes_and_leave_no_output() {
    let f = folder("faults");
    fs::write(f.join("text.png"), "not an image").unwrap();
    fs::write(f.join("weights.safetensors"), "not weights").unwrap();
    fs::write(f.join("weights.pt"), b"\x80\x02cos\nsystem\n.").unwrap();
    let thin = adir::tensor::from_f32(vec![0.0; 4000], [1, 1, 4000, 1], &adir::tensor::cpu());
    adir::io::image::write_image(&f.join("thin.png"), &thin, &Default::default()).unwrap();
    fs::create_dir(f.join("nothing")).unwrap();
    let cases: [(i32, &[&str], &str); 18] = [
        (2, &["restore", "y.png", "-o", "o.png"], "--task"),
        (2, &["restore", "y.png", "-o", "o.png", "--task", "sr99"], "sr2 to sr16"),
        (2, &["restore", "y.png", "-o", "o.png", "--task", "deblur"], "--kernel"),
        (2, &["restore", "y.png", "-o", "o.png", "--task", "deblur", "--kernel", "box:0"], "0x0"),
        (2, &["restore", "y.png", "-o", "o.gif", "--task", "sr4"], "o.gif"),
        (2, &["restore", "y.png", "-o", "o.png", "--task", "sr4", "--steps", "2000"], "2000"),
        (2, &["restore", "y.png", "-o", "o.png", "--task", "sr4", "--eta", "0.5"], "no effect with the method staged"),
        (2, &["restore", "y.png", "-o", "o.png", "--task", "sr4", "--device", "cuda"], "cuda"),
        (3, &["restore", "none.png", "-o", "o.png", "--task", "sr4"], "none.png"),
        (3, &["restore", "text.png", "-o", "o.png", "--task", "sr4"], "text.png"),
        (4, &["restore", "y.png", "-o", "o.png", "--task", "sr4", "-m", "weights.safetensors"], "weights.safetensors"),
        (4, &["restore", "y.png", "-o", "o.png", "--task", "sr4", "-m", "weights.pt"], "weights.pt"),
        (2, &["restore", "y.png", "-o", "y.png", "--task", "sr4", "--overwrite"], "input"),
        (3, &["restore", "y.png", "-o", "y.png/o.png", "--task", "sr4"], "y.png"),
        (3, &["index", "build", "nothing", "-o", "o.index"], "contains no images"),
        (3, &["index", "info", "text.png"], "adir index build"),
        (3, &["eval", "nothing", "-o", "o"], "contains no images"),
        (5, &["restore", "thin.png", "-o", "o.png", "--task", "sr4", "--max-memory", "0.05"], "memory"),
    ];
    for (code, args, said) in cases {
        let (_, err) = expect(code, &f, args);
        assert!(err.contains(said), "{args:?} should mention {said:?}:\n{err}");
        assert!(!f.join("o.png").exists() && !f.join("o.png.json").exists(), "{args:?}");
    }
    fs::write(f.join("o.png"), "precious").unwrap();
    expect(2, &f, &["restore", "y.png", "-o", "o.png", "--task", "sr4"]);
    assert_eq!(fs::read(f.join("o.png")).unwrap(), b"precious");
    fs::remove_dir_all(f).unwrap();
}

#[test]
fn explain_tells_every_setting_and_computes_nothing() {
    let f = folder("explain");
    let (out, _) = expect(
        0,
        &f,
        &["restore", "y.png", "-o", "o.png", "--task", "sr8", "--preset", "paper", "--cap", "false", "--explain"],
    );
    for line in ["strength             20", "steps                1000", "cap                  false", "given"] {
        assert!(out.contains(line), "{line:?} in\n{out}");
    }
    let memory = |more: &[&str]| -> f64 {
        let args = ["restore", "y.png", "-o", "o.png", "--task", "sr4", "--adapt", "self", "--plan"];
        let (out, _) = expect(0, &f, &[&args[..], more].concat());
        let line = out.lines().find(|l| l.starts_with("adaptation memory")).expect("a line on memory");
        line.split_whitespace().find_map(|word| word.parse().ok()).expect("a number")
    };
    assert!(memory(&[]) > memory(&["--recompute", "--adapt-micro-batch", "1"]), "recomputation takes less");
    assert!(memory(&["--full"]) > memory(&["--lora", "4"]), "LoRA takes less");
    assert!(!f.join("o.png").exists());
    fs::remove_dir_all(f).unwrap();
}

/// What is wrong with the arguments is an event, too; the hint on the task comes where the task is what lacks.
#[test]
fn usage_errors_are_events_and_hints_fit() {
    let f = folder("usage");
    let lacks_output = ["restore", "y.png", "--task", "sr2"];
    for format in [&["--log-format", "json"][..], &["--log-format=json"]] {
        let (_, err) = expect(2, &f, &[&lacks_output[..], format].concat());
        let event: serde_json::Value = serde_json::from_str(err.trim()).expect("one object on one line");
        assert_eq!((&event["event"], &event["exit_code"]), (&"error".into(), &2.into()));
        assert!(event["message"].as_str().unwrap().contains("--output"), "{err}");
    }
    let (_, err) = expect(2, &f, &lacks_output);
    assert!(err.contains("--output") && !err.contains("hint"), "{err}");
    let (_, err) = expect(2, &f, &["restore", "y.png", "-o", "x.png"]);
    assert!(err.contains("hint: the factor belongs to the task"), "{err}");
}

#[test]
fn verify_accepts_the_reference_and_refuses_other_weights() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../adir/tests/fixtures");
    let (weights, cases) = ("mini_legacy.weights.safetensors", "mini_legacy.cases.safetensors");
    let (json, _) = expect(0, &fixtures, &["-q", "verify", "--model", weights, "--cases", cases, "--json"]);
    let table: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(table["holds"], true);
    // The embedded prior is another network: its parameters are not those of the recording.
    assert_ne!(adir(&fixtures, &["-q", "verify", "--cases", cases]).status.code(), Some(0));
}

/// Six pictures in a folder: the sample photo and parts of it.
fn gallery(f: &Path) {
    let folder = f.join("photos");
    fs::create_dir_all(&folder).unwrap();
    fs::copy(f.join("x.png"), folder.join("whole.png")).unwrap();
    for (k, blur) in ["box:3", "box:5", "gaussian:7:1", "gaussian:9:2", "motion:7:30"].iter().enumerate() {
        let output = format!("photos/part{k}.png");
        expect(0, f, &["degrade", "x.png", "-o", &output, "--task", "deblur", "--kernel", blur]);
    }
}

const SMALL_NETWORK: &str = r#"{"in_channels":3,"out_channels":6,"model_channels":32,"num_res_blocks":1,
    "channel_mult":[1,1],"attention_resolutions":[2],"num_head_channels":16,"resblock_updown":true,"use_scale_shift_norm":true}"#;

/// A training repeats itself to the byte, goes on where it stopped, and its model restores; what stands in the way
/// is refused.
/// bfloat16 products keep to the looser limits, where the processor has them; elsewhere they are refused.
#[test]
fn bf16_keeps_to_its_limits_or_is_refused() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../adir/tests/fixtures");
    let args = ["verify", "-m", "mini_legacy.weights.safetensors", "--cases", "mini_legacy.cases.safetensors"];
    let args = [&args[..], &["--dtype", "bf16"]].concat();
    match adir::tensor::Isa::has_bf16_products() {
        true => assert!(expect(0, &fixtures, &args).0.contains("all hold")),
        false => assert!(expect(2, &fixtures, &args).1.contains("use f32")),
    }
    let (_, err) = expect(2, &fixtures, &["verify", "--cases", "mini_legacy.cases.safetensors", "--dtype", "f16"]);
    assert!(err.contains("GPU"), "{err}");
}

#[test]
fn a_prior_is_trained_resumed_and_used() {
    let f = folder("train");
    gallery(&f);
    fs::write(f.join("net.json"), SMALL_NETWORK).unwrap();
    let train = |output: &str, steps: &str, more: &[&str]| {
        let args = ["train", "photos", "-o", output, "--steps", steps, "--validation-crops", "16"];
        let options = ["--model-config", "net.json", "--crop", "16", "--batch", "4", "--warm-up", "2"];
        let options: &[&str] = if more.contains(&"--resume") { &[] } else { &options };
        expect(0, &f, &[&args, options, more].concat())
    };
    train("a.safetensors", "6", &["--sheet", "sheet.png"]);
    train("b.safetensors", "3", &[]);
    let (code, err) = expect(2, &f, &["train", "photos", "-o", "b.safetensors", "--steps", "6"]);
    assert!(code.is_empty() && err.contains("--overwrite"), "{err}");
    assert!(fs::read_to_string(f.join("a.md")).unwrap().contains("Held-out l_simple on 16 crops of 16x16"));
    assert!(f.join("sheet.png").is_file());
    train("c.safetensors", "6", &["--checkpoint-every", "0.01"]);
    assert_eq!(fs::read(f.join("a.safetensors")).unwrap(), fs::read(f.join("c.safetensors")).unwrap());
    train("b.safetensors", "6", &["--resume"]);
    expect(0, &f, &["restore", "y.png", "-o", "r.png", "--task", "sr4", "--steps", "4", "--model", "a.safetensors"]);
    let measure = ["models", "measure", "photos", "--model", "a.safetensors", "--crop", "16", "--crops", "32"];
    let (out, _) = expect(0, &f, &[&measure[..], &["--write", "m.safetensors"]].concat());
    expect(2, &f, &[&measure[..], &["--write", "m.safetensors"]].concat());
    let errors = |model: &str| -> String {
        let (info, _) = expect(0, &f, &["models", "info", "--model", model, "--json"]);
        let info: serde_json::Value = serde_json::from_str(&info).unwrap();
        info["metadata"]["estimate_errors"].as_str().unwrap().to_owned()
    };
    let [trained, measured] = ["a.safetensors", "m.safetensors"].map(errors);
    let entries: Vec<(f64, f64)> = serde_json::from_str(&measured).unwrap();
    assert!(entries.len() == 8 && trained != measured, "{trained}, then {measured}");
    assert!(out.contains(&format!("{:.3e}", entries[3].1)), "{out}: {measured}");
    fs::write(f.join("bad.json"), "{}").unwrap();
    let (_, err) = expect(4, &f, &["train", "photos", "-o", "d.safetensors", "--model-config", "bad.json"]);
    assert!(err.contains("bad.json"), "{err}");
    let (_, err) = expect(3, &f, &["train", "nowhere", "-o", "d.safetensors", "--steps", "1"]);
    assert!(err.contains("nowhere"), "{err}");
    assert!(!f.join("d.safetensors").exists() && !f.join("d.md").exists());
    expect(2, &f, &["train", "photos", "-o", "d.safetensors", "--crop", "20"]);
    fs::remove_dir_all(f).unwrap();
}

/// The second restoration with the same gallery trains nothing and gives the same bytes, nor does another seed of the
/// sampling; another setting adapts anew; without a gallery nothing is adapted.
#[test]
fn an_adaptation_is_cached_by_what_determined_it() {
    let f = folder("adapt");
    gallery(&f);
    let restore = |output: &str, more: &[&str]| {
        let args = ["restore", "y.png", "-o", output, "--task", "sr4", "--steps", "4", "--cache", "cache"];
        let adapt = ["--gallery", "photos", "-k", "5", "--iterations", "3", "--adapt-crop", "16"];
        expect(0, &f, &[&args[..], &adapt, more].concat());
        let record = fs::read(f.join(format!("{output}.json"))).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        (fs::read(f.join(output)).unwrap(), record["adaptation"].clone())
    };
    for mode in [&["--adapt", "gallery", "--full"][..], &["--adapt", "gallery", "--lora", "4"], &["--adapt", "self"]] {
        let ((first, before), (second, after)) = (
            restore("a.png", &[mode, &["--overwrite"]].concat()),
            restore("b.png", &[mode, &["--overwrite"]].concat()),
        );
        assert_eq!(first, second);
        assert_eq!((&before["from_cache"], &after["from_cache"]), (&false.into(), &true.into()));
        let (_, fresh) = restore("c.png", &[mode, &["--overwrite", "--no-cache"]].concat());
        assert_eq!(fresh["from_cache"], false);
        assert_eq!(fs::read(f.join("c.png")).unwrap(), first);
    }
    let (reseeded, again) = restore("h.png", &["--adapt", "gallery", "--lora", "4", "--seed", "2"]);
    assert_eq!(again["from_cache"], true, "the seed of the sampling trains nothing again");
    assert_ne!(reseeded, fs::read(f.join("a.png")).unwrap());
    let (_, other) = restore("i.png", &["--adapt", "gallery", "--lora", "4", "--adapt-seed", "2"]);
    assert_eq!(other["from_cache"], false);
    let (_, other) = restore("d.png", &["--adapt", "gallery", "--adapt-rate", "1e-3"]);
    assert_eq!(other["from_cache"], false);
    let (_, auto) = restore("e.png", &[]);
    assert_eq!(auto["keep"], "if_held_out_improves");
    assert!(auto["outcome"]["before"].as_f64().unwrap() > 0.0, "{auto}");
    let (plain, none) = restore("f.png", &["--adapt", "none"]);
    assert!(none.is_null());
    assert_ne!(plain, fs::read(f.join("a.png")).unwrap());
    expect(2, &f, &["restore", "y.png", "-o", "g.png", "--task", "sr4", "--adapt", "gallery"]);
    expect(2, &f, &["restore", "y.png", "-o", "g.png", "--task", "sr4", "--gallery", "photos", "--adapt", "text"]);
    assert!(!f.join("g.png").exists());
    fs::remove_dir_all(f).unwrap();
}

/// An adapter made ahead, under a name, in another file and merged into the weights restores what the adaptation
/// itself restores, to the byte.
#[test]
fn adapters_are_made_named_taken_along_and_merged() {
    let f = folder("adapters");
    gallery(&f);
    let adapt = ["--gallery", "photos", "--adapt", "gallery", "-k", "5", "--iterations", "3", "--adapt-crop", "16"];
    let cache = ["--cache", "cache"];
    let restore = |output: &str, more: &[&str]| {
        expect(0, &f, &[&["restore", "y.png", "-o", output, "--task", "sr4", "--steps", "4"], more].concat());
        fs::read(f.join(output)).unwrap()
    };
    for (kind, lora) in [("full", &["--full"][..]), ("factors", &["--lora", "4"])] {
        let (out, _) =
            expect(0, &f, &[&["adapt", "create", "y.png", "--name", kind], &adapt[..], &cache, lora].concat());
        let key = out.split_whitespace().next().unwrap().to_owned();
        let (list, _) = expect(0, &f, &["adapt", "list", "--cache", "cache"]);
        assert!(list.contains(&key) && list.contains(kind) && list.contains("5 images, 3 steps"), "{list}");
        let name = |what: &str| format!("{kind}-{what}.png");
        let itself = restore(&name("itself"), &[&adapt[..], &cache, lora].concat());
        assert_eq!(restore(&name("named"), &[&["--adapter", kind], &cache[..]].concat()), itself);
        assert_eq!(restore(&name("by-key"), &[&["--adapter", &key], &cache[..]].concat()), itself);
        let (file, whole) = (format!("{kind}.safetensors"), format!("{kind}-whole.safetensors"));
        expect(0, &f, &[&["adapt", "export", kind, "-o", &file], &cache[..]].concat());
        assert_eq!(restore(&name("file"), &["--adapter", &file]), itself);
        // y decides.
        let auto = restore(&name("auto"), &["--adapter", &file, "--adapt", "auto"]);
        let record = fs::read(f.join(format!("{}.json", name("auto")))).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        let (by_y, used) = (&record["adaptation"]["by_y"], record["adaptation"]["used"].as_bool().unwrap());
        assert_eq!(used, by_y["gain"].as_f64().unwrap() > by_y["standard_error"].as_f64().unwrap(), "{by_y}");
        let plain = restore(&name("plain"), &[]);
        assert!(plain != itself && auto == if used { itself.clone() } else { plain }, "{used}");
        expect(0, &f, &["adapt", "merge", &file, "-o", &whole]);
        assert_eq!(restore(&name("merged"), &["--model", &whole]), itself);
        // Merged weights are other weights: the adapter does not belong to them.
        let other = ["restore", "y.png", "-o", "g.png", "--task", "sr4", "--model", &whole, "--adapter", &file];
        let (_, err) = expect(4, &f, &other);
        assert!(err.contains("was made for the weights"), "{err}");
        expect(2, &f, &["adapt", "merge", &file, "-o", &whole]);
    }
    assert_ne!(fs::read(f.join("full-itself.png")).unwrap(), fs::read(f.join("factors-itself.png")).unwrap());
    let measure = ["models", "measure", "photos", "--crop", "16", "--crops", "16", "--used"];
    let (plain, _) = expect(0, &f, &measure);
    let (adapted, _) = expect(0, &f, &[&measure[..], &["--adapter", "full", "--cache", "cache"]].concat());
    assert!(plain.lines().count() == 19 && adapted.lines().count() == 19 && plain != adapted, "{plain}\n{adapted}");
    // One photograph is enough to measure on; it is held out, not used.
    fs::create_dir_all(f.join("one")).unwrap();
    fs::copy(f.join("x.png"), f.join("one/x.png")).unwrap();
    let one = ["models", "measure", "one", "--crop", "16", "--crops", "16"];
    assert_eq!(expect(0, &f, &one).0.lines().count(), 19);
    let (_, err) = expect(3, &f, &[&one[..], &["--used"]].concat());
    assert!(err.contains("without --used"), "{err}");
    let (_, err) = expect(3, &f, &["train", "one", "-o", "m.safetensors", "--steps", "1"]);
    assert!(err.contains("two photographs"), "{err}");
    expect(0, &f, &["adapt", "rename", "full", "all of it", "--cache", "cache"]);
    let (out, _) = expect(0, &f, &["adapt", "info", "all of it", "--json", "--cache", "cache"]);
    let info: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&info["name"], &info["lora"]), (&"all of it".into(), &serde_json::Value::Null));
    let (_, err) = expect(0, &f, &["adapt", "rename", "factors", "all of it", "--cache", "cache"]);
    assert!(err.contains("another adapter is named \"all of it\", too: "), "{err}");
    let (_, err) = expect(2, &f, &["adapt", "remove", "all of it", "--cache", "cache"]);
    assert!(err.contains("2 adapters"), "{err}");
    expect(0, &f, &["adapt", "remove", info["key"].as_str().unwrap(), "--cache", "cache"]);
    let (_, err) = expect(2, &f, &["adapt", "info", "full", "--cache", "cache"]);
    assert!(err.contains("adir adapt list"), "{err}");
    expect(2, &f, &["adapt", "create", "y.png", "--cache", "cache"]);
    assert!(!f.join("g.png").exists());
    fs::remove_dir_all(f).unwrap();
}

/// An archive's adapter: made once, continued with a larger budget, described, sampled with, and refined.
#[test]
fn an_archive_has_an_adapter_of_its_own() {
    let f = folder("archive");
    gallery(&f);
    let create = |steps: &str, code: i32, more: &[&str]| {
        let args = ["adapt", "create", "--archive", "photos", "--name", "all", "--lora", "4", "--adapt-crop", "16"];
        expect(code, &f, &[&args[..], &["--iterations", steps, "--cache", "cache"], more].concat())
    };
    let (_, err) = create("25", 0, &[]);
    assert!(err.contains("adapting rank 4, 25 steps: held-out loss"), "{err}");
    let (_, err) = create("25", 0, &[]);
    assert!(err.contains("nothing was trained"), "{err}");
    let (_, err) = create("30", 0, &["-o", "all.safetensors"]);
    assert!(err.contains("30 steps") && err.contains("25 steps"), "another state, beside the file: {err}");
    assert!(f.join("all.checkpoint").is_file());
    // The name goes to the adapter that was trained on.
    assert!(err.contains("now named \"all-25\"") && !err.contains("another adapter"), "{err}");
    let (list, _) = expect(0, &f, &["adapt", "list", "--cache", "cache"]);
    let steps = |name: &str| list.lines().find(|line| line.split_whitespace().nth(1) == Some(name)).unwrap_or_default();
    assert!(steps("all").contains("30 steps") && steps("all-25").contains("25 steps"), "{list}");
    let (out, _) = expect(0, &f, &["adapt", "info", "all.safetensors"]);
    for part in ["25   ", "30   ", "kept", "timesteps", "800 to 999"] {
        assert!(out.contains(part), "{part}: {out}");
    }
    let restore = |output: &str, more: &[&str]| {
        let args = ["restore", "y.png", "-o", output, "--task", "sr4", "--steps", "3", "--cache", "cache"];
        expect(0, &f, &[&args[..], &["--adapter", "all.safetensors"], more].concat());
        let record = fs::read(f.join(format!("{output}.json"))).unwrap();
        let record: serde_json::Value = serde_json::from_slice(&record).unwrap();
        record["adaptation"].clone()
    };
    let plain = restore("a.png", &[]);
    let refined = restore("b.png", &["--gallery", "photos", "-k", "5", "--iterations", "2", "--adapt-crop", "16"]);
    assert!(plain["start"].is_null() && refined["start"] == plain["key"], "{refined}");
    assert_eq!(refined["settings"]["trained"]["lora"]["rank"], 16);
    let (_, err) = create("2", 2, &["y.png"]);
    assert!(err.contains("--archive"), "{err}");
    fs::remove_dir_all(f).unwrap();
}

/// A folder of observations: those with the same neighbours share an adapter, and each is restored with its own.
#[test]
fn a_folder_of_observations_shares_adapters_by_its_neighbours() {
    let f = folder("shared");
    gallery(&f);
    fs::create_dir_all(f.join("scans")).unwrap();
    // Another kind of picture: rings of several widths.
    let rings = |name: &str, width: usize| {
        let values = (0..3 * 64 * 64).map(|i| {
            let (x, y) = ((i % 64) as f32 - 31.5, (i / 64 % 64) as f32 - 31.5);
            if (x.hypot(y) as usize / width).is_multiple_of(2) { 0.8 } else { -0.8 }
        });
        let picture = adir::tensor::from_f32(values.collect(), [1, 3, 64, 64], &adir::tensor::cpu());
        write_image(&f.join(name), &picture, &WriteOptions::default()).unwrap();
    };
    (2..8).for_each(|width| rings(&format!("photos/rings{width}.png"), width));
    rings("rings.png", 9);
    for (from, to) in [("x.png", "cat.png"), ("photos/part0.png", "cat2.png"), ("rings.png", "rings.png")] {
        expect(0, &f, &["degrade", from, "-o", &format!("scans/{to}"), "--task", "sr4"]);
    }
    let settings = ["--gallery", "photos", "-k", "4", "--iterations", "2", "--adapt-crop", "16", "--cache", "cache"];
    let create =
        |code: i32, more: &[&str]| expect(code, &f, &[&["adapt", "create", "scans"], &settings[..], more].concat());
    let (out, _) = create(0, &[]);
    let lines: Vec<&str> = out.lines().collect();
    let for_whom = |n: usize| lines[n].trim().strip_prefix("serves scans/");
    assert_eq!(
        (for_whom(1), for_whom(2), for_whom(4)),
        (Some("cat.png"), Some("cat2.png"), Some("rings.png")),
        "{out}"
    );
    assert!(lines.len() == 5 && lines[0].contains("  scans  ") && lines[0].contains("4 images"), "{out}");
    let restore = |input: &str, output: &str, adapter: &str, code: i32| {
        let args = ["restore", input, "-o", output, "--task", "sr4", "--steps", "3", "--adapter", adapter];
        expect(code, &f, &[&args[..], &["--cache", "cache", "--overwrite"]].concat())
    };
    let used = |input: &str, adapter: &str| {
        restore(input, "r.png", adapter, 0);
        let record: serde_json::Value = serde_json::from_slice(&fs::read(f.join("r.png.json")).unwrap()).unwrap();
        (record["adaptation"]["key"].clone(), fs::read(f.join("r.png")).unwrap())
    };
    let (cat, cat2, other) =
        (used("scans/cat.png", "scans"), used("scans/cat2.png", "scans"), used("scans/rings.png", "scans"));
    assert!(cat.0 == cat2.0 && cat.0 != other.0);
    assert!(used("y.png", "scans") == cat, "y.png is scans/cat.png");
    let (_, err) = restore("rings.png", "g.png", "scans", 2);
    assert!(err.contains("was made for this observation"), "{err}");
    // The same in a folder, without training again.
    create(0, &["-o", "adapters"]);
    assert!(used("scans/rings.png", "adapters") == other);
    create(2, &["-o", "adapters"]);
    let (_, err) = create(0, &["-o", "adapters", "--overwrite"]);
    assert_eq!(err.matches("nothing was trained").count(), 2, "{err}");
    let (all, _) = create(0, &["--overlap", "0"]);
    assert_eq!(all.matches("  serves scans/").count(), 3, "{all}");
    assert_eq!(all.lines().count(), 4, "one group: {all}");
    // Most of that group are cats, whose images it is adapted to: the first adapter, which now serves the rings too.
    let (_, err) = restore("scans/rings.png", "g.png", "scans", 2);
    assert!(err.contains("2 adapters are named"), "{err}");
    assert!(used("scans/cat.png", "scans").1 == cat.1);
    // A folder's name is the whole of it.
    fs::rename(f.join("scans"), f.join("scans.2")).unwrap();
    let (out, _) = expect(0, &f, &[&["adapt", "create", "scans.2"], &settings[..]].concat());
    assert!(out.contains("  scans, scans.2  "), "{out}");
    fs::rename(f.join("scans.2"), f.join("scans")).unwrap();
    expect(2, &f, &["adapt", "create", "scans", "--adapt", "self", "--cache", "cache"]);
    create(2, &["--overlap", "2"]);
    fs::create_dir_all(f.join("empty")).unwrap();
    expect(3, &f, &[&["adapt", "create", "empty"], &settings[..]].concat());
    fs::remove_dir_all(f).unwrap();
}

/// What has seen enough of the answer may leave: no failure, no panic.
#[test]
fn a_closed_pipe_is_no_failure() {
    let f = folder("pipe");
    for args in [
        &["models", "list"][..],
        &["models", "info", "--json"],
        &["restore", "y.png", "-o", "r.png", "--task", "sr4", "--explain"],
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_adir"));
        let done = command.args(args).current_dir(&f).stdout(writer).output().unwrap();
        assert_eq!(done.status.code(), Some(0), "{args:?} {}", String::from_utf8_lossy(&done.stderr));
        assert!(done.stderr.is_empty(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    fs::remove_dir_all(f).unwrap();
}

#[test]
fn an_index_is_built_searched_and_described() {
    let f = folder("index");
    gallery(&f);
    expect(0, &f, &["index", "build", "photos", "-o", "p.index"]);
    let (out, _) = expect(0, &f, &["index", "search", "p.index", "photos/whole.png", "-k", "2"]);
    // The file itself is left out; the least blurred are nearest.
    assert!(out.contains("part0.png") && out.contains("part2.png") && out.lines().count() == 2, "{out}");
    let (out, _) = expect(0, &f, &["index", "info", "p.index"]);
    assert!(out.contains("images     6") && out.contains("efficientnet-lite0"), "{out}");
    let (_, err) = expect(2, &f, &["index", "search", "p.index", "--text", "a cat"]);
    assert!(err.contains("CLIP"), "{err}");
    fs::remove_dir_all(f).unwrap();
}

/// Embeddings from elsewhere make the index that the images themselves would, and serve as a gallery.
#[test]
fn embeddings_are_imported() {
    let f = folder("import");
    gallery(&f);
    let encoder = EfficientNetLite0::embedded(&adir::tensor::cpu()).unwrap();
    let names: Vec<String> = adir::io::folder::image_files(&f.join("photos")).unwrap().files;
    let write = |from: usize, to: usize| {
        let mut npy = format!(
            "{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}",
            to - from,
            encoder.id().dimension
        );
        npy.extend(std::iter::repeat_n(' ', 117 - npy.len()).chain(['\n']));
        let mut bytes = [b"\x93NUMPY\x01\x00v\x00", npy.as_bytes()].concat();
        for name in &names[from..to] {
            let picture = read_image(&f.join("photos").join(name), &Limits::default()).unwrap().tensor;
            bytes.extend(encoder.image(&picture).unwrap().values().iter().flat_map(|v| (3.0 * v).to_le_bytes()));
        }
        fs::write(f.join(format!("{from}.npy")), bytes).unwrap();
        fs::write(
            f.join(format!("{from}.txt")),
            names[from..to].iter().map(|n| format!("photos/{n}\n")).collect::<String>(),
        )
        .unwrap();
    };
    write(0, 4);
    write(4, 6);
    let import = |code: i32, more: &[&str]| {
        expect(code, &f, &[&["index", "import", "--folder", "photos", "-o", "i.index"], more].concat())
    };
    import(0, &["4.npy", "0.npy", "--names", "4.txt", "0.txt"]);
    expect(0, &f, &["index", "build", "photos", "-o", "p.index"]);
    let search = |index: &str| expect(0, &f, &["index", "search", index, "y.png", "-k", "9"]).0;
    assert_eq!(search("i.index"), search("p.index"));
    assert_eq!(search("i.index").lines().count(), 6);
    let restore = |gallery: &str, output: &str| {
        let args = ["restore", "y.png", "-o", output, "--task", "sr4", "--steps", "3", "--gallery", gallery];
        expect(0, &f, &[&args[..], &["--iterations", "2", "--adapt-crop", "16", "--cache", "cache"]].concat());
        fs::read(f.join(output)).unwrap()
    };
    assert!(restore("i.index", "a.png") == restore("photos", "b.png"));
    let refused = |code: i32, more: &[&str], hint: &str| {
        let (_, err) = import(code, &[&["--overwrite"], more].concat());
        assert!(err.contains(hint), "{hint}: {err}");
    };
    let parquet = Path::new(env!("CARGO_MANIFEST_DIR")).join("../adir/tests/fixtures/retrieve/embeddings.parquet");
    let parquet = parquet.to_str().unwrap();
    refused(2, &["0.npy", "4.npy", "--names", "0.txt"], "one per embeddings file");
    refused(3, &["0.npy", "--names", "4.txt"], "2 names for 4");
    refused(3, &[parquet], "3 numbers per row");
    refused(3, &["0.npy", "--names", parquet], "7 names for 4");
    refused(3, &[parquet, "--vector-column", "vector"], "image_path, caption, embedding");
    let (_, err) = import(2, &["0.npy", "--names", "0.txt"]);
    assert!(err.contains("overwrite"), "{err}");
    fs::remove_dir_all(f).unwrap();
}

/// Every result is kept: what is missing is computed again with the same numbers, and a longer run adds to a shorter one.
#[test]
fn an_evaluation_goes_on_where_it_stopped() {
    let f = folder("eval");
    gallery(&f);
    let eval = |methods: &str, more: &[&str]| {
        let args = [
            "eval",
            "photos",
            "-o",
            "ev",
            "--count",
            "2",
            "--crop",
            "32",
            "--tasks",
            "sr4,deblur:box:3+10",
            "--steps",
            "2",
            "-n",
            "2",
            "--cache",
            "cache",
        ];
        let adapt = ["--gallery", "photos", "-k", "2", "--iterations", "2", "--adapt-crop", "16"];
        let adapt = if methods.contains("knn") { &adapt[..] } else { &[] };
        expect(0, &f, &[&args[..], adapt, &["--methods", methods], more].concat());
        let csv = fs::read_to_string(f.join("ev/cells.csv")).unwrap();
        // All but the seconds.
        csv.lines().map(|line| line.rsplit_once(',').unwrap().0.to_owned()).collect::<Vec<_>>()
    };
    let cells = || {
        let files = fs::read_dir(f.join("ev/cells")).unwrap().map(|e| e.unwrap().path());
        files.filter(|p| p.extension().unwrap() == "json").collect::<Vec<_>>()
    };
    let short = eval("bicubic,wiener,none", &[]);
    assert_eq!((short.len(), cells().len()), (1 + 2 * 4, 8));
    fs::remove_file(&cells()[0]).unwrap();
    fs::remove_file(cells()[1].with_extension("png")).unwrap();
    assert_eq!(eval("bicubic,wiener,none", &[]), short);
    let long = eval("bicubic,wiener,none,knn,auto", &[]);
    assert!(cells().len() == 16 && short.iter().all(|line| long.contains(line)));
    let table = fs::read_to_string(f.join("ev/table.md")).unwrap();
    assert!(table.contains("### photos, deblur:box:3+10 (2 images)") && table.contains("| knn | "), "{table}");
    // Adapted weights restore otherwise.
    let of = |method: &str| long.iter().filter(|l| l.contains(method)).map(|l| l.split(',').nth(6)).collect::<Vec<_>>();
    assert_ne!(of(",knn,"), of(",none,"));
    expect(
        0,
        &f,
        &[
            "adapt",
            "create",
            "y.png",
            "--adapt",
            "self",
            "--iterations",
            "2",
            "--adapt-crop",
            "16",
            "-o",
            "a.safetensors",
            "--no-cache",
        ],
    );
    let with = eval("none,adapter", &["--adapter", "a.safetensors"]);
    let psnr =
        |method: &str| with.iter().find(|l| l.contains(method)).and_then(|l| l.split(',').nth(6)).map(str::to_owned);
    assert!(psnr(",adapter,").is_some() && psnr(",adapter,") != psnr(",none,"), "{with:?}");
    eval("bicubic,wiener,none,knn,auto", &[]);
    assert_eq!(image_size(&f.join("ev/sheet.png")), (36 * 6, 36 * 4));
    fs::write(&cells()[0], "{").unwrap();
    let base = ["eval", "photos", "-o", "ev", "--count", "2", "--crop", "32", "--steps", "2", "-n", "2"];
    expect(2, &f, &[&base[..], &["--methods", "knn"]].concat());
    expect(2, &f, &[&base[..], &["--methods", "adapter"]].concat());
    expect(2, &f, &[&base[..], &["--tasks", "deblur"]].concat());
    expect(2, &f, &[&base[..], &["--tasks", "denoise"]].concat());
    expect(0, &f, &[&base[..], &["--tasks", "sr4:box:3", "--methods", "none"]].concat());
    let (_, err) = expect(3, &f, &["eval", "nowhere", "-o", "ev"]);
    assert!(err.contains("nowhere"), "{err}");
    fs::remove_dir_all(f).unwrap();
}

/// Width and height of a PNG.
fn image_size(path: &Path) -> (u32, u32) {
    let bytes = fs::read(path).unwrap();
    let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    (number(16), number(20))
}
