//! What a pull writes, and how it is found.

use std::fs;

use serde_json::Value;

use crate::common::{checked, folder};
use crate::server::{self, COMMIT, Files, Hub, Reply, bytes};
use crate::{check_small, expect, model, names, small, snapshot};

/// The files of a pipeline, with what is not read.
fn pipeline() -> Files {
    let table = |name: &'static str| (name, name.as_bytes().to_vec());
    vec![
        ("model_index.json", br#"{"_class_name": "StableDiffusionUpscalePipeline"}"#.to_vec()),
        table("scheduler/scheduler_config.json"),
        table("tokenizer/merges.txt"),
        table("unet/config.json"),
        ("unet/diffusion_pytorch_model.safetensors", bytes(50_000, 1)),
        ("unet/diffusion_pytorch_model.fp16.safetensors", bytes(25_000, 2)),
        ("unet/diffusion_pytorch_model.bin", bytes(50_000, 3)),
        ("safety_checker/model.safetensors", bytes(50_000, 4)),
        ("x4.ckpt", bytes(90_000, 5)),
    ]
}

#[test]
fn a_pull_writes_the_layout_that_hugging_face_tools_share() {
    let f = folder("layout");
    let hub = Hub::honest(vec![("org/small", small())]);
    let (out, err) = expect(0, &hub, &f, &["models", "pull", "org/small"]);
    check_small(&f, "org/small");
    assert_eq!(out.trim(), snapshot(&f, "org/small").to_str().unwrap());
    assert!(err.contains("licence of org/small: openrail++"), "{err}");
    let link = fs::read_link(snapshot(&f, "org/small").join("sub dir/model.safetensors")).unwrap();
    assert_eq!(link.to_str().unwrap(), format!("../../../blobs/{}", server::blob(&bytes(300_000, 1))));
    assert!(!snapshot(&f, "org/small").join("README.md").exists());
    // A second pull asks what there is, and for no file.
    let before = hub.asked().len();
    expect(0, &hub, &f, &["models", "pull", "org/small"]);
    assert_eq!(hub.asked().len(), before + 1);
    // Nothing else is written anywhere.
    assert_eq!(names(&f), ["hf"]);
    assert_eq!(names(&f.join("hf/hub")), [".locks", "models--org--small"]);
}

#[test]
fn of_a_pipeline_one_set_of_weights_is_pulled_and_the_plan_pulls_none() {
    let f = folder("pipeline");
    let hub = Hub::honest(vec![("org/pipe", pipeline())]);
    let (plan, _) = expect(0, &hub, &f, &["models", "pull", "org/pipe", "--fp16", "--plan"]);
    assert!(
        plan.contains("licence: openrail++") && plan.contains("25.0 kB  unet/diffusion_pytorch_model.fp16.safetensors")
    );
    assert!(plan.contains("in 5 files, 25.1 kB to download") && !plan.contains("x4.ckpt"), "{plan}");
    assert!(names(&f).is_empty() && hub.asked().len() == 1);
    expect(0, &hub, &f, &["models", "pull", "org/pipe", "--fp16"]);
    let unet = snapshot(&f, "org/pipe").join("unet");
    assert_eq!(names(&unet), ["config.json", "diffusion_pytorch_model.fp16.safetensors"]);
    let (plan, _) = expect(0, &hub, &f, &["models", "pull", "org/pipe", "--plan"]);
    assert!(plan.contains("50.0 kB to download") && plan.matches("(is there)").count() == 4, "{plan}");
    // A file by its name, either way.
    let (out, _) = expect(0, &hub, &f, &["models", "pull", "org/pipe", "--file", "x4.ckpt"]);
    assert_eq!(out.trim(), snapshot(&f, "org/pipe").join("x4.ckpt").to_str().unwrap());
    expect(0, &hub, &f, &["models", "pull", "org/pipe/unet/diffusion_pytorch_model.bin@main"]);
    assert_eq!(names(&unet).len(), 3);
    let (_, err) = expect(2, &hub, &f, &["models", "pull", "org/pipe/x4.ckpt", "--fp16"]);
    assert!(err.contains("--fp16 has no effect"), "{err}");
    let (_, err) = expect(2, &hub, &f, &["models", "pull", "org/pipe", "--file", "none.pt"]);
    assert!(err.contains("has no file none.pt"), "{err}");
}

#[test]
fn a_commit_is_found_by_its_hash_only() {
    let f = folder("commit");
    let hub = Hub::honest(vec![("org/small", small())]);
    let named = format!("org/small@{COMMIT}");
    expect(0, &hub, &f, &["models", "pull", &named]);
    assert!(!model(&f, "org/small").join("refs").exists());
    expect(0, &hub, &f, &["models", "where", &named]);
    let (_, err) = expect(4, &hub, &f, &["models", "where", "org/small"]);
    assert!(err.contains(&format!("but {named}")), "{err}");
}

#[test]
fn what_was_pulled_is_listed_and_found() {
    let f = folder("found");
    let hub = Hub::honest(vec![
        ("org/small", small()),
        ("org/pipe", pipeline()),
        ("org/two", vec![("a.pt", bytes(2000, 1)), ("b.pt", bytes(2000, 2))]),
    ]);
    let (out, _) = expect(0, &hub, &f, &["models", "list"]);
    assert!(out.contains("none; `adir models pull ORG/NAME`"), "{out}");
    let (_, err) = expect(4, &hub, &f, &["models", "where", "org/small"]);
    assert!(err.contains("adir models pull org/small") && !err.contains("models info"), "{err}");
    for id in ["org/small", "org/pipe", "org/two"] {
        expect(0, &hub, &f, &["models", "pull", id]);
    }
    let asked = hub.asked().len();
    let (out, _) = expect(0, &hub, &f, &["models", "list"]);
    for (id, size) in [("org/small", "300.0 kB"), ("org/pipe", "50.1 kB"), ("org/two", "4.0 kB")] {
        assert!(out.contains(&format!("  {id}  @main (0123456789ab)  {size}\n")), "{out}");
    }
    let at = |name: &str| {
        let (out, _) = expect(0, &hub, &f, &["models", "where", name]);
        out.trim().to_owned()
    };
    let path = |id: &str, name: &str| snapshot(&f, id).join(name).to_str().unwrap().to_owned();
    assert_eq!(at("org/pipe"), snapshot(&f, "org/pipe").to_str().unwrap());
    assert_eq!(at("org/small@main"), path("org/small", "sub dir/model.safetensors"));
    assert_eq!(at("org/two/b.pt"), path("org/two", "b.pt"));
    let (_, err) = expect(4, &hub, &f, &["models", "where", "org/two"]);
    assert!(err.contains("org/two/a.pt, org/two/b.pt"), "{err}");
    let (_, err) = expect(4, &hub, &f, &["models", "where", "org/two/c.pt"]);
    assert!(err.contains("adir models pull org/two --file c.pt"), "{err}");
    assert_eq!(hub.asked().len(), asked, "only a pull opens connections");
}

#[test]
fn models_are_options_by_their_names_and_paths_win() {
    let f = folder("options");
    let embedded = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/prior.safetensors");
    let files = vec![("prior.safetensors", fs::read(embedded).unwrap())];
    let hub = Hub::honest(vec![("org/prior", files)]);
    let args = ["models", "info", "--model", "org/prior"];
    let (_, err) = expect(2, &hub, &f, &args);
    assert!(err.contains("adir models pull org/prior") && hub.asked().is_empty(), "{err}");
    expect(0, &hub, &f, &["models", "pull", "org/prior"]);
    let (out, _) = expect(0, &hub, &f, &args);
    assert!(out.contains("prior.safetensors: guided-diffusion U-Net"), "{out}");
    let asked = hub.asked().len();
    // A path that is there wins, and weights that are not there are a path too.
    fs::create_dir_all(f.join("org")).unwrap();
    fs::write(f.join("org/prior"), "no weights").unwrap();
    let (_, err) = expect(4, &hub, &f, &args);
    assert!(err.contains("org/prior") && !err.contains("pull"), "{err}");
    for missing in ["org/missing.safetensors", "a/b/missing.pt", "./org/other"] {
        let (_, err) = expect(4, &hub, &f, &["models", "info", "--model", missing]);
        assert!(!err.contains("adir models pull"), "{err}");
    }
    assert_eq!(hub.asked().len(), asked);
}

#[test]
fn a_copy_is_announced_in_place_of_a_model_that_is_gone() {
    let f = folder("copies");
    let copy = "sd2-community/stable-diffusion-2-inpainting";
    let gone = "stabilityai/stable-diffusion-2-inpainting";
    let hub = Hub::honest(vec![(copy, pipeline()), ("my/copy", small())]);
    let (out, err) = expect(0, &hub, &f, &["models", "pull", gone, "--quiet"]);
    assert!(err.contains(&format!("{gone} is not on {} any more: trying its copy {copy}", hub.url)), "{err}");
    assert_eq!(out.trim(), snapshot(&f, copy).to_str().unwrap());
    let (out, err) = expect(0, &hub, &f, &["models", "where", gone, "--log-format", "json"]);
    assert_eq!(out.trim(), snapshot(&f, copy).to_str().unwrap());
    let told: Value = serde_json::from_str(err.trim()).unwrap();
    assert_eq!(told["event"], "warning");
    let (_, err) = expect(4, &hub, &f, &["models", "info", "--model", gone]);
    assert!(err.contains(&format!("warning: {gone} was not pulled: using its copy {copy}")), "{err}");
    // The user's own table.
    let (_, err) = expect(2, &hub, &f, &["models", "pull", "lost/model"]);
    assert!(err.contains("model-aliases.json"), "{err}");
    fs::create_dir_all(f.join("config/adir")).unwrap();
    fs::write(f.join("config/adir/model-aliases.json"), r#"{"lost/model": ["gone/too", "my/copy"]}"#).unwrap();
    let (_, err) = expect(0, &hub, &f, &["models", "pull", "lost/model"]);
    assert!(err.contains("trying its copy gone/too") && err.contains("trying its copy my/copy"), "{err}");
    check_small(&f, "my/copy");
    fs::write(f.join("config/adir/model-aliases.json"), "{").unwrap();
    let (_, err) = expect(2, &hub, &f, &["models", "pull", "lost/model"]);
    assert!(err.contains("model-aliases.json: is no table of aliases"), "{err}");
}

#[test]
fn two_pulls_at_once_download_each_file_once() {
    let f = folder("twice");
    let slow = |asked: &server::Asked, _| {
        let bytes = bytes(300_000, 1);
        let is_file = asked.path.ends_with(&server::sha256(&bytes));
        is_file.then(|| Reply { delay: std::time::Duration::from_millis(1500), ..Reply::new(200).body(&bytes) })
    };
    let hub = Hub::start(vec![("org/small", small())], Box::new(slow));
    let args = ["models", "pull", "org/small"];
    let start = || {
        let mut command = hub.command(&f, &args);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
    };
    let both = [start(), start()];
    let said: Vec<_> = both.map(|child| checked(0, &args, child.wait_with_output().unwrap())).into();
    assert!(said.iter().any(|(_, err)| err.contains("another program downloads")), "{said:?}");
    check_small(&f, "org/small");
    assert_eq!(hub.asked_for(&server::sha256(&bytes(300_000, 1))).len(), 1);
}

#[test]
fn without_links_the_files_lie_in_the_snapshot() {
    let f = folder("no-links");
    let hub = Hub::honest(vec![("org/small", small())]);
    let args = ["models", "pull", "org/small"];
    for requests in [3 + 1, 1] {
        let before = hub.asked().len();
        checked(0, &args, hub.command(&f, &args).env("HF_HUB_DISABLE_SYMLINKS", "1").output().unwrap());
        assert_eq!(hub.asked().len() - before, requests);
        let path = snapshot(&f, "org/small").join("sub dir/model.safetensors");
        assert!(path.symlink_metadata().unwrap().is_file());
        assert_eq!(fs::read(path).unwrap(), bytes(300_000, 1));
    }
    let (out, _) = expect(0, &hub, &f, &["models", "list"]);
    assert!(out.contains("org/small  @main"), "{out}");
}
