//! CLIP against transformers on small random models (`fixtures/retrieve/clip.py`), in every naming scheme.

use std::fs;
use std::path::{Path, PathBuf};

use adir::encode::Encoder;
use adir::io::weights::WeightFile;
use adir::models::clip::{Activation, Clip};
use adir::tensor::{cpu, from_f32};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/retrieve").join(name)
}

/// Relative L2 distance of what the model at `path` computes for the case of `folder`: image, text.
fn errors(folder: &str, path: &Path, activation: Option<Activation>) -> [f64; 2] {
    let clip = Clip::open(path, activation, &cpu()).unwrap();
    let case = WeightFile::open(&fixture(folder).join("case.safetensors")).unwrap();
    let shape: [usize; 4] = case.info("pixels").unwrap().shape.as_slice().try_into().unwrap();
    let pixels = from_f32(case.read_f32("pixels").unwrap(), shape, &cpu());
    let tokens: Vec<u32> = case.read_i64("tokens").unwrap().iter().map(|&t| t as u32).collect();
    let found = [clip.image_features(pixels).unwrap(), clip.token_features(&tokens).unwrap()];
    let expected = ["image_features", "text_features"].map(|name| case.read_f32(name).unwrap());
    [0, 1].map(|i| {
        assert_eq!(found[i].len(), expected[i].len());
        let square = |v: f32| f64::from(v).powi(2);
        let gap: f64 = found[i].iter().zip(&expected[i]).map(|(a, b)| square(a - b)).sum();
        (gap / expected[i].iter().map(|&v| square(v)).sum::<f64>()).sqrt()
    })
}

#[test]
fn every_scheme_gives_the_features_of_transformers() {
    for folder in ["clip_quick", "clip_gelu"] {
        for file in ["", "model.safetensors", "renamed.safetensors"] {
            let errors = errors(folder, &fixture(folder).join(file), None);
            assert!(errors.iter().all(|&e| e < 1e-5), "{folder}/{file}: {errors:?}");
        }
    }
}

#[test]
fn the_activations_are_told_apart() {
    let path = fixture("clip_gelu");
    let errors = errors("clip_gelu", &path, Some(Activation::QuickGelu));
    assert!(errors.iter().all(|&e| e > 1e-3), "the wrong activation shows: {errors:?}");
    let id = |folder| Clip::open(&fixture(folder), None, &cpu()).unwrap().id().name.clone();
    assert_eq!(id("clip_quick"), "clip-vit-48x2-8-24-quickgelu");
    assert_eq!(id("clip_gelu"), "clip-vit-32x3-7-28-gelu");
}

/// A folder with a copy of `file` alone.
fn alone(name: &str, file: &Path) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("adir-clip-{}-{name}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let copy = folder.join(file.file_name().unwrap());
    fs::copy(file, &copy).unwrap();
    copy
}

#[test]
fn without_configuration_the_activation_is_asked_for() {
    let copy = alone("bare", &fixture("clip_quick/renamed.safetensors"));
    let message = Clip::open(&copy, None, &cpu()).unwrap_err().to_string();
    assert!(message.contains("activation") && message.contains("open_clip_config.json"), "{message}");
    let folder = copy.parent().unwrap();
    fs::write(
        folder.join("open_clip_config.json"),
        r#"{"model_cfg": {"quick_gelu": true, "vision_cfg":
        {"width": 48, "head_width": 16}, "text_cfg": {"heads": 4}}}"#,
    )
    .unwrap();
    assert!(errors("clip_quick", &copy, None).iter().all(|&e| e < 1e-5));
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn an_archive_of_openai_is_read() {
    let errors = errors("clip_quick", &fixture("clip_quick/openai.pt"), None);
    assert!(errors.iter().all(|&e| e < 1e-5), "{errors:?}");
}

#[test]
fn what_does_not_fit_is_refused() {
    let clip = Clip::open(&fixture("clip_quick"), None, &cpu()).unwrap();
    for tokens in [&[][..], &[99], &[1; 13]] {
        assert!(clip.token_features(tokens).is_err(), "{tokens:?}");
    }
    let message = clip.text("a cat").unwrap_err().to_string();
    assert!(message.contains("99 tokens"), "{message}");
    let other = fixture("efficientnet_lite0.safetensors");
    assert!(Clip::open(&other, None, &cpu()).unwrap_err().to_string().contains("not a CLIP"));
    assert!(Clip::open(&fixture("."), None, &cpu()).unwrap_err().to_string().contains("model.safetensors"));
}
