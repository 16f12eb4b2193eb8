//! OpenEXR files as renderers write them. The fixtures are by OpenEXR itself.

use std::fs;
use std::path::{Path, PathBuf};

use adir::Error;
use adir::io::image::{
    BitDepth, ImageFormat, Metadata, Picture, Reading, Resolution, Scale, WriteOptions, read_bytes, read_image_as,
    write_image,
};
use adir::io::light::Light;
use adir::io::limits::Limits;
use adir::tensor::{cpu, from_f32, to_f32};

fn fixture(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/io_fixtures").join(name)).unwrap()
}

fn read(bytes: &[u8]) -> Result<Picture, Error> {
    read_bytes(Path::new("y.exr"), bytes, &Reading::default(), &Limits::default()).map(|(picture, _)| picture)
}

fn refusal(bytes: &[u8]) -> String {
    match read(bytes) {
        Err(Error::Input { message, .. }) => message,
        other => panic!("expected to be refused, found {other:?}"),
    }
}

/// The values of the fixtures: of each channel, row by row.
fn values(channels: usize) -> Vec<f32> {
    let value = |c: usize, y: usize, x: usize| 0.5 + ((x / 2 + y / 3 * 5 + c * 7) % 32) as f32 / 64.0;
    let at = |i: usize| value(i / 480, i / 20 % 24, i % 20);
    (0..channels * 480).map(at).collect()
}

fn unit(picture: &Picture) -> Vec<f32> {
    to_f32(&picture.tensor).unwrap().iter().map(|v| (v + 1.0) / 2.0).collect()
}

fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("adir-exr-{}-{name}.exr", std::process::id()))
}

#[test]
fn every_compression_is_read() {
    for (name, channels) in [("piz.exr", 3), ("rle.exr", 3), ("pxr24.exr", 1), ("parts.exr", 3)] {
        let picture = read(&fixture(name)).unwrap();
        assert_eq!(unit(&picture), values(channels), "{name}");
        assert_eq!((picture.format, picture.bit_depth), (ImageFormat::OpenExr, BitDepth::Float));
        assert!(picture.alpha.is_none(), "{name}");
    }
    let parts = read(&fixture("parts.exr")).unwrap().warnings;
    assert_eq!(parts, ["the channels R, G, B of beauty only; not read: 1 more"]);
}

#[test]
fn layers_tiles_and_alpha_are_read() {
    let picture = read(&fixture("tiled.exr")).unwrap();
    let half: Vec<f32> = values(3).iter().map(|v| v / 2.0).collect();
    assert_eq!(unit(&picture), half);
    assert_eq!((picture.alpha.as_deref(), picture.associated_alpha), (Some(&[0.5; 480][..]), true));
    let named = "the channels beauty.R, beauty.G, beauty.B, beauty.A of beauty only; not read: 1 more";
    assert_eq!(picture.warnings, [named]);
    let texts: Vec<(&str, &str)> =
        picture.metadata.texts.iter().map(|text| (text.keyword.as_str(), text.text.as_str())).collect();
    assert_eq!(texts, [("Comment", "a tile"), ("Copyright", "someone")]);
    let light = Light::of(&picture.metadata, 3).unwrap();
    let grey = from_f32(vec![0.0], [1, 1, 1, 1], &cpu());
    assert!(to_f32(&light.to_light(&grey).unwrap()).unwrap()[0].abs() < 1e-6, "OpenEXR is linear");
}

#[test]
fn results_are_read_again_as_they_were() {
    let path = scratch("written");
    let mut metadata = read(&fixture("tiled.exr")).unwrap().metadata;
    metadata.resolution = Some(Resolution { x: 300.0, y: 150.0 });
    for (channels, alpha) in [(1, false), (3, false), (1, true), (3, true)] {
        let pixels: Vec<f32> = (0..channels * 37 * 41).map(|i| (i * i % 977) as f32 / 300.0 - 1.0).collect();
        let tensor = from_f32(pixels.clone(), [1, channels, 37, 41], &cpu());
        let mut options = WriteOptions { bit_depth: BitDepth::Float, ..WriteOptions::default() };
        options.metadata = metadata.clone();
        options.alpha = alpha.then(|| (0..37 * 41).map(|i| i as f32 / 1517.0).collect());
        options.associated_alpha = alpha;
        write_image(&path, &tensor, &options).unwrap();
        let as_it_is = Reading::scaled(Scale { black: 0.0, white: 1.0 });
        let back = read_image_as(&path, &as_it_is, &Limits::default()).unwrap();
        let gap = to_f32(&back.tensor).unwrap().iter().zip(&pixels).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(gap < 1e-6, "{channels} {alpha}: {gap}");
        let alphas = back.alpha.iter().flatten().zip(options.alpha.iter().flatten());
        assert!(alphas.clone().all(|(a, b)| (a - b).abs() < 1e-6) && alphas.count() == 1517 * usize::from(alpha));
        assert_eq!(back.associated_alpha, alpha);
        assert_eq!((back.metadata.texts, back.metadata.resolution), (metadata.texts.clone(), metadata.resolution));
        assert!(back.warnings.is_empty(), "{:?}", back.warnings);
    }
    // Colours that are not multiplied by alpha have no place here, but where all is opaque.
    let tensor = from_f32(vec![0.0; 4], [1, 1, 2, 2], &cpu());
    let with = |alpha: f32| {
        let alpha = Some(vec![alpha; 4]);
        write_image(&path, &tensor, &WriteOptions { bit_depth: BitDepth::Float, alpha, ..WriteOptions::default() })
    };
    assert!(matches!(with(0.5), Err(Error::Config(_))));
    with(1.0).unwrap();
    assert!(!read_image_as(&path, &Reading::default(), &Limits::default()).unwrap().associated_alpha);
    fs::remove_file(path).unwrap();
}

#[test]
fn tones_are_told_from_light() {
    let lost = |metadata: &Metadata, format| metadata.fitted(format, 3).1.join(", ");
    assert!(lost(&Metadata::default(), ImageFormat::OpenExr).contains("the tone curve"));
    let light = read(&fixture("rle.exr")).unwrap().metadata;
    assert_eq!(lost(&light, ImageFormat::OpenExr), "");
    let (png, lost) = light.fitted(ImageFormat::Png, 3);
    assert!(lost.is_empty() && png.png_colour[0].0 == *b"gAMA");
    // What a PNG says of its gamma is enough to make an OpenEXR file of it.
    assert!(png.fitted(ImageFormat::OpenExr, 3).1.is_empty());
}

/// A file of one part, from its channels (name, type, sampling), compression, and window.
fn file(channels: &[(&str, i32, i32)], compression: u8, window: [i32; 4], more: &[u8]) -> Vec<u8> {
    let mut bytes = b"v/1\x01\x02\0\0\0".to_vec();
    let mut put = |name: &str, kind: &str, value: &[u8]| {
        bytes.extend(
            [name.as_bytes(), b"\0", kind.as_bytes(), b"\0", &(value.len() as u32).to_le_bytes(), value].concat(),
        );
    };
    let mut list = Vec::new();
    for (name, kind, sampling) in channels {
        let numbers = [*kind, 0, *sampling, *sampling].map(i32::to_le_bytes).concat();
        list.extend([name.as_bytes(), b"\0", &numbers].concat());
    }
    list.push(0);
    let window = window.map(i32::to_le_bytes).concat();
    put("channels", "chlist", &list);
    put("compression", "compression", &[compression]);
    put("dataWindow", "box2i", &window);
    put("displayWindow", "box2i", &window);
    [&bytes, &b"\0"[..], more].concat()
}

#[test]
fn what_is_no_picture_is_refused_by_name() {
    let small = [0, 0, 1, 0];
    for (bytes, named) in [
        (file(&[("Z", 2, 1)], 0, small, &[]), "no channels R, G, B or Y, but Z"),
        (file(&[("BY", 1, 2), ("RY", 1, 2), ("Y", 1, 1)], 0, small, &[]), "luminance and chroma"),
        (file(&[("Y", 0, 1)], 0, small, &[]), "whole numbers"),
        (file(&[("Y", 2, 1), ("Z", 2, 2)], 0, small, &[]), "fewer samples"),
        (file(&[("Y", 1, 1)], 6, small, &[]), "B44 compression"),
        (file(&[("Y", 1, 1)], 8, small, &[]), "DWA compression"),
        (file(&[("Y", 2, 1)], 0, [0, 0, 0, -1], &[]), "damaged or cut off"),
        (file(&[("Y", 2, 1)], 0, [i32::MIN, 0, i32::MAX, 0], &[]), "damaged or cut off"),
        (file(&[("Y", 2, 1)], 3, [0, 0, 9999, 9999], &[0; 100]), "damaged or cut off"),
        (b"v/1\x01\x02\x08\0\0".to_vec(), "damaged or cut off"),
    ] {
        let message = refusal(&bytes);
        assert!(message.contains(named), "{named}: {message}");
    }
    let infinite = file(&[("Y", 2, 1)], 0, [0, 0, 0, 0], &[]);
    let at = infinite.len() as u64 + 8;
    let chunk = [&at.to_le_bytes()[..], &[0; 4], &4_u32.to_le_bytes(), &f32::INFINITY.to_le_bytes()].concat();
    assert!(refusal(&[infinite, chunk].concat()).contains("1 sample not finite"));
}

#[test]
fn damaged_files_are_errors_or_images() {
    for name in ["piz.exr", "rle.exr", "pxr24.exr", "tiled.exr", "parts.exr"] {
        let whole = fixture(name);
        for cut in 0..whole.len() {
            assert!(read(&whole[..cut]).is_err(), "{name} cut at {cut}");
        }
        for (at, value) in (0..whole.len()).flat_map(|at| [0, 1, 0x7f, 0x80, 0xff].map(|value| (at, value))) {
            let mut damaged = whole.clone();
            damaged[at] = value;
            let _ = read(&damaged);
        }
    }
}
