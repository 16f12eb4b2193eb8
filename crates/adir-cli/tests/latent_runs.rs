//! Latent diffusion models in folders of images, with small models of random weights.
#![cfg(unix)]

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Mutex;

use adir::engine::{Engine, Event, FolderRequest, LatentRequest, OutputRequest};
use adir::models::stable_diffusion::Architecture;

mod common;
use common::{expect, picture, with_model};

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
