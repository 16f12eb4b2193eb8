//! JPEG XL files that libjxl wrote, by `io_fixtures/jxl.py`.

use std::fs;
use std::path::{Path, PathBuf};

use adir::io::image::{BitDepth, ImageFormat, Picture, Reading, read_bytes, read_image_as};
use adir::io::limits::Limits;
use adir::tensor::to_f32;

const SIZE: [usize; 2] = [17, 23];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/io_fixtures").join(name)
}

fn level(k: usize, row: usize, column: usize) -> usize {
    (row * 7 + column * 13 + k * 29 + row * column % 101) % 256
}

/// The values of a picture as those of its file.
fn values(picture: &Picture) -> Vec<f32> {
    let white = match picture.bit_depth {
        BitDepth::Eight => 255.0,
        BitDepth::Sixteen => 65535.0,
        _ => 1.0,
    };
    to_f32(&picture.tensor).unwrap().into_iter().map(|v| (v + 1.0) / 2.0 * white).collect()
}

#[track_caller]
fn assert_values(picture: &Picture, channels: usize, expected: impl Fn(usize, usize, usize) -> f32, most: f32) {
    let [height, width] = SIZE;
    assert_eq!(picture.tensor.dims(), [1, channels, height, width]);
    for (n, found) in values(picture).into_iter().enumerate() {
        let (k, row, column) = (n / (height * width), n / width % height, n % width);
        let expected = expected(k, row, column);
        assert!((found - expected).abs() <= most, "{k} {row} {column}: {found} instead of {expected}");
    }
}

#[test]
fn lossless_files_hold_what_was_written() {
    let read = |name: &str| Picture::read(fixture(name)).unwrap();
    let eight = |k: usize, row: usize, column: usize| level(k, row, column) as f32;
    let rgb = read("jxl_rgb8.jxl");
    assert_values(&rgb, 3, eight, 0.01);
    assert_eq!((rgb.format, rgb.bit_depth, rgb.metadata.icc), (ImageFormat::JpegXl, BitDepth::Eight, None));
    let rgba = read("jxl_rgba8.jxl");
    assert_values(&rgba, 3, eight, 0.01);
    let alpha = rgba.alpha.unwrap();
    assert!((alpha[23 + 5] - level(3, 1, 5) as f32 / 255.0).abs() < 1e-6);
    let grey = read("jxl_grey16.jxl");
    assert_values(&grey, 1, |_, row, column| ((row * 4099 + column * 257 + 77) % 65536) as f32, 0.01);
    let float = read("jxl_float.jxl");
    assert_values(&float, 1, |_, row, column| (row * 23 + column) as f32 / 391.0, 1e-6);
    // The second frame of an animation.
    let mut second = Reading::default();
    second.page = Some(2);
    let frame = read_image_as(&fixture("jxl_frames.jxl"), &second, &Limits::default()).unwrap();
    assert_eq!(frame.pages, 2);
    assert_values(&frame, 3, |k, row, column| 255.0 - eight(k, row, column), 0.01);
    second.page = Some(3);
    let message = read_image_as(&fixture("jxl_frames.jxl"), &second, &Limits::default()).unwrap_err().to_string();
    assert!(message.contains("page 3 of a file of 2 pages"), "{message}");
}

/// libjxl's own decoding lies beside it.
#[test]
fn lossy_files_are_decoded_as_by_libjxl() {
    let ours = Picture::read(fixture("jxl_lossy.jxl")).unwrap();
    let theirs = values(&Picture::read(fixture("jxl_lossy.png")).unwrap());
    let [_, width] = SIZE;
    let at = |k: usize, row: usize, column: usize| theirs[(k * SIZE[0] + row) * width + column];
    assert_values(&ours, 3, at, 1.01);
}

/// What EXIF says of the orientation does not count; the rest of it is kept.
#[test]
fn metadata_come_from_the_container() {
    let picture = Picture::read(fixture("jxl_exif.jxl")).unwrap();
    assert_values(&picture, 3, |k, row, column| level(k, row, column) as f32, 0.01);
    let exif = picture.metadata.exif.unwrap();
    assert!(exif.windows(5).any(|part| part == b"maker"));
}

#[test]
fn damaged_files_are_refused() {
    for name in ["jxl_rgb8.jxl", "jxl_exif.jxl", "jxl_lossy.jxl", "jxl_frames.jxl"] {
        let good = fs::read(fixture(name)).unwrap();
        let read = |bytes: &[u8]| read_bytes(Path::new(name), bytes, &Reading::default(), &Limits::default());
        for length in (2..good.len()).step_by(7) {
            let message = read(&good[..length]).unwrap_err().to_string();
            assert!(
                message.contains("cut off") || message.contains("damaged") || message.contains("not a"),
                "{message}"
            );
        }
        // Changed bytes may go unnoticed, but nothing panics.
        let mut state = 9_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize
        };
        for _ in 0..300 {
            let mut bytes = good.clone();
            let at = next() % bytes.len();
            bytes[at] = next() as u8;
            let _ = read(&bytes);
        }
    }
    // A few bytes that declare an enormous image.
    let small = Limits::within(8000);
    let bytes = fs::read(fixture("jxl_rgb8.jxl")).unwrap();
    let refused = read_bytes(Path::new("x.jxl"), &bytes, &Reading::default(), &small);
    assert!(matches!(refused, Err(adir::Error::TooLarge { .. })), "{refused:?}");
}

#[test]
fn it_is_not_written() {
    let picture = Picture::read(fixture("jxl_rgb8.jxl")).unwrap();
    let message = picture.write(std::env::temp_dir().join("x.jxl")).unwrap_err().to_string();
    assert!(message.contains("read, not written"), "{message}");
}
