//! The embedded encoder against the published network in PyTorch (`fixtures/retrieve/efficientnet_lite0.py`).

use std::path::Path;

use adir::encode::{Encoder, spherical_distance};
use adir::io::weights::WeightFile;
use adir::models::efficientnet_lite::EfficientNetLite0;
use adir::tensor::{cpu, from_f32};

#[test]
fn features_are_those_of_the_published_network() {
    let (h, w) = (300, 400);
    let byte = |c: usize, y: usize, x: usize| match c {
        0 => x * y / 7 % 256,
        1 => (x * 3 + y) % 256,
        _ => (x / 16 + y / 24) % 2 * 255,
    };
    let values = (0..3).flat_map(|c| (0..h).flat_map(move |y| (0..w).map(move |x| byte(c, y, x))));
    let picture = from_f32(values.map(|v| v as f32 / 127.5 - 1.0).collect(), [1, 3, h, w], &cpu());
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/retrieve/efficientnet_lite0.safetensors");
    let expected = WeightFile::open(&fixture).unwrap().read_f32("features").unwrap();

    let encoder = EfficientNetLite0::embedded(&cpu()).unwrap();
    let embedding = encoder.image(&picture).unwrap();
    assert_eq!((embedding.values().len(), expected.len()), (1280, 1280));
    let cosine = spherical_distance(embedding.values(), &expected).cos();
    assert!(cosine > 0.9999, "cosine {cosine}: the weights are f16, the rest must agree");
}

#[test]
fn a_text_is_refused() {
    let message = EfficientNetLite0::embedded(&cpu()).unwrap().text("a cat").unwrap_err().to_string();
    assert!(message.contains("cannot embed text"), "{message}");
}
