//! Latent diffusion models in folders of images, and by the presets, with small models of random weights.
#![cfg(unix)]

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Mutex;

use adir::engine::{Engine, Event, FolderRequest, LatentRequest, OutputRequest};
use adir::models::stable_diffusion::{Architecture, write_random};

mod common;
use common::{expect, json, picture, with_model};

/// Upscales `scans` into `out` with so much memory, and returns the parts that were loaded.
fn upscaled(f: &Path, out: &str, memory: Option<u64>) -> Vec<String> {
    let mut each = LatentRequest::upscale("", f.join("model"));
    (each.sampling.steps, each.prompt) = (2, "a cat".into());
    let engine = Engine::builder().memory(memory).build().unwrap();
    let loaded = Mutex::new(Vec::new());
    let watch = |event: &Event| {
        if let Event::Loading { name } = event {
            let part = name.rsplit_once(" (").map_or(name.as_str(), |(_, part)| part.trim_end_matches(')'));
            loaded.lock().unwrap().push(part.to_owned());
        }
        ControlFlow::Continue(())
    };
    let plan = engine.plan_folder(&FolderRequest::new(f.join("scans"), f.join(out), each), &watch).unwrap();
    let done = engine.run_folder(&plan, &watch).unwrap();
    assert_eq!((done.restored, done.failed.len()), (3, 0));
    loaded.into_inner().unwrap()
}

/// Parts are loaded once where there is room for all of them, the text is encoded once in any case, and the results are those of
/// single runs.
#[test]
fn a_folder_loads_the_model_once() {
    let f = with_model("once", Architecture::Upscaler);
    fs::create_dir(f.join("scans")).unwrap();
    for (name, height, width) in [("a.png", 11, 18), ("b.png", 16, 16), ("c.png", 8, 24)] {
        picture(&f.join("scans").join(name), height, width);
    }
    assert_eq!(upscaled(&f, "kept", None), ["text encoder", "U-Net", "autoencoder"]);
    let engine = Engine::builder().build().unwrap();
    let mut needed = 0;
    for name in ["a.png", "b.png", "c.png"] {
        let mut request = LatentRequest::upscale(f.join("scans").join(name), f.join("model"));
        (request.sampling.steps, request.prompt) = (2, "a cat".into());
        request.output = Some(OutputRequest::new(f.join(name), false));
        let plan = engine.plan_latent(&request).unwrap();
        needed = plan.memory().max(needed);
        engine.run_latent(&plan, &|_| ControlFlow::Continue(())).unwrap().save(&engine, &plan).unwrap();
        assert_eq!(fs::read(f.join(name)).unwrap(), fs::read(f.join("kept").join(name)).unwrap(), "{name}");
    }
    // As much as a single run needs: one part after the other.
    let loaded = upscaled(&f, "apart", Some(needed));
    assert_eq!(loaded.iter().filter(|part| *part == "text encoder").count(), 1, "{loaded:?}");
    assert_eq!(loaded.iter().filter(|part| *part == "U-Net").count(), 3, "{loaded:?}");
    assert_eq!(loaded.len(), 7, "{loaded:?}");
    for name in ["a.png", "b.png", "c.png"] {
        assert_eq!(fs::read(f.join(name)).unwrap(), fs::read(f.join("apart").join(name)).unwrap(), "{name}");
    }
    fs::remove_dir_all(f).unwrap();
}

/// Each file adapts to its own nearest images, from the same base.
#[test]
fn a_folder_of_adapted_upscalings_is_that_of_single_runs() {
    let f = with_model("adapted", Architecture::Upscaler);
    fs::create_dir(f.join("scans")).unwrap();
    fs::create_dir(f.join("g")).unwrap();
    (0..3).for_each(|i| drop(picture(&f.join(format!("g/{i}.png")), 70 + 8 * i, 96 - i)));
    picture(&f.join("scans/a.png"), 11, 18);
    picture(&f.join("scans/b.png"), 16, 16);
    let options =
        ["--task", "sr4", "--model", "model", "--steps", "2", "--gallery", "g", "--adapt", "gallery", "-k", "2"];
    let small = ["--iterations", "2", "--adapt-crop", "64", "--adapt-batch", "1", "--adapt-rate", "1e-3", "--no-cache"];
    let (_, said) = expect(0, &f, &[&["-v", "restore", "scans", "-o", "out"][..], &options, &small].concat());
    assert_eq!(said.matches("loading").count(), 3, "{said}");
    for name in ["a.png", "b.png"] {
        let scan = format!("scans/{name}");
        expect(0, &f, &[&["restore", scan.as_str(), "-o", name][..], &options, &small].concat());
        assert_eq!(fs::read(f.join(name)).unwrap(), fs::read(f.join("out").join(name)).unwrap(), "{name}");
    }
    fs::remove_dir_all(f).unwrap();
}

#[test]
fn the_paper_is_a_preset_of_both_tasks() {
    let f = with_model("preset", Architecture::Upscaler);
    write_random(Architecture::Inpainting1, true, 1, &f.join("edits")).unwrap();
    fs::create_dir(f.join("g")).unwrap();
    (0..2).for_each(|i| drop(picture(&f.join(format!("g/{i}.png")), 70 + 8 * i, 96 - i)));
    picture(&f.join("y.png"), 16, 16);
    let sr4 = ["restore", "y.png", "-o", "x.png", "--task", "sr4", "--model", "model"];
    let edit = ["edit", "y.png", "-o", "x.png", "--model", "edits", "--box", "2,2,8,8"];
    let plan = |args: &[&str], more: &[&str]| expect(0, &f, &[args, more, &["--plan"]].concat()).0;
    for (args, steps, trained) in [(&sr4[..], "75 steps", "400 steps"), (&edit[..], "50 steps", "1000 steps")] {
        let usual = plan(args, &["--gallery", "g"]);
        assert!(usual.contains("fast") && usual.contains(steps) && usual.contains("rank 16"), "{usual}");
        assert!(!usual.contains("given"), "{usual}");
        let paper = plan(args, &["--gallery", "g", "--preset", "paper"]);
        assert!(paper.contains("paper: Table 4") && paper.contains("500 steps"), "{paper}");
        assert!(paper.contains(trained) && paper.contains("all weights") && !paper.contains("given"), "{paper}");
        let given =
            plan(args, &["--gallery", "g", "--preset", "paper", "--steps", "9", "--lora", "4", "--adapt-crop", "128"]);
        assert!(given.contains("given: steps, weights trained, factors, crops") && given.contains("rank 4"), "{given}");
        let (_, said) = expect(
            2,
            &f,
            &[args, &["--gallery", "g", "--preset", "paper", "--save-adapter", "a.safetensors"]].concat(),
        );
        assert!(said.contains("--lora"), "{said}");
    }
    // From files to a picture, and again from the record.
    let small = ["--preset", "paper", "--steps", "2", "--iterations", "2", "--adapt-crop", "64", "--adapt-batch", "1"];
    for (args, gallery) in [(&sr4[..], "g"), (&edit[..], "g")] {
        expect(0, &f, &[args, &small, &["--gallery", gallery, "--adapt-rate", "1e-3", "--overwrite"]].concat());
        let record = json(&f.join("x.png.json"));
        let training = &record["latent"]["adapt"]["training"];
        assert_eq!((&record["latent"]["preset"], &training["full"]), (&"paper".into(), &true.into()), "{record}");
        assert_eq!((&training["held_out"], &record["adaptation"]["used"]), (&false.into(), &true.into()), "{record}");
        expect(0, &f, &["replay", "x.png.json"]);
    }
    fs::remove_dir_all(f).unwrap();
}

/// What does not fit into memory is refused before anything is computed: training all weights takes much more than factors.
#[test]
fn what_does_not_fit_is_refused_first() {
    let f = with_model("memory", Architecture::Inpainting2);
    fs::create_dir(f.join("g")).unwrap();
    (0..2).for_each(|i| drop(picture(&f.join(format!("g/{i}.png")), 70 + 8 * i, 96 - i)));
    picture(&f.join("y.png"), 16, 16);
    let args = [
        "edit",
        "y.png",
        "-o",
        "x.png",
        "--model",
        "model",
        "--box",
        "2,2,8,8",
        "--gallery",
        "g",
        "--adapt-crop",
        "64",
    ];
    let announced = |more: &[&str]| -> f64 {
        let (plan, _) = expect(0, &f, &[&args[..], more, &["--plan"]].concat());
        let line = plan.lines().find(|line| line.starts_with("memory")).unwrap();
        line.split_whitespace().nth(2).unwrap().parse().unwrap()
    };
    let (factors, all) = (announced(&[]), announced(&["--full"]));
    assert!(all > factors, "{all} GB for all weights, {factors} for factors");
    let most = format!("{:.2}", (factors + all) / 2.0);
    for plan in [&["--plan"][..], &[]] {
        let (_, said) = expect(5, &f, &[&args[..], &["--full", "--max-memory", &most], plan].concat());
        assert!(said.contains("memory") && !f.join("x.png").exists(), "{said}");
    }
    fs::remove_dir_all(f).unwrap();
}

/// An edit's record may lie elsewhere, and its page speaks of a picture, not of an observation.
#[test]
fn an_edit_has_a_record_and_a_page() {
    let f = with_model("page", Architecture::Inpainting1);
    picture(&f.join("y.png"), 16, 16);
    let args = ["edit", "y.png", "-o", "x.png", "--model", "model", "--box", "2,2,8,8", "--steps", "2", "-n", "2"];
    expect(0, &f, &[&args[..], &["--prompt", "a <cat>", "--record", "r.json", "--report", "x.html"]].concat());
    assert!(!f.join("x.png.json").exists());
    assert_eq!(json(&f.join("r.json"))["results"].as_array().unwrap().len(), 2);
    let page = fs::read_to_string(f.join("x.html")).unwrap();
    assert!(page.contains("Picture and result") && page.contains("a &lt;cat&gt;"), "{page}");
    assert!(!page.contains("bservation") && !page.contains("Agreement"), "{page}");
    let (said, _) = expect(0, &f, &["replay", "r.json"]);
    assert_eq!(said.matches("the same bytes").count(), 2, "{said}");
    // One result has the name that is asked for; of two, none has.
    let (one, two) = (["-o", "z.png", "--overwrite"], ["-o", "z.png", "--overwrite", "-n", "2"]);
    let args = ["edit", "y.png", "--model", "model", "--box", "2,2,8,8", "--steps", "2"];
    let (_, said) = expect(0, &f, &[&args[..], &one].concat());
    assert!(said.contains("z.png: ") && !said.contains("left alone"), "{said}");
    let (_, said) = expect(0, &f, &[&args[..], &two].concat());
    assert!(
        said.contains("left alone: 1 result of an earlier run, from z.png on") && said.contains("z.1.png: "),
        "{said}"
    );
    let (_, said) = expect(0, &f, &[&args[..], &one].concat());
    assert!(said.contains("left alone: 2 results of an earlier run, from z.1.png on"), "{said}");
    let (_, said) = expect(0, &f, &[&args[..], &["-o", "z.jpg"]].concat());
    assert!(said.contains("JPEG changes all pixels"), "{said}");
    fs::remove_dir_all(f).unwrap();
}
