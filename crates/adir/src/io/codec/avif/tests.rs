//! AVIF files against what libavif decodes of them (without libyuv, whose arithmetic is coarser). The files were written by
//! Pillow and libavif, those of 10 and 12 bits by rav1e. A file's `.raw` has its samples, of 16 bits with the low byte first.

use std::path::{Path, PathBuf};

use super::{decode, is_avif};
use crate::io::codec::{Decoded, Raster, Samples};
use crate::io::limits::Limits;
use crate::{Error, Result};

fn bytes(name: &str) -> Vec<u8> {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests", "io_fixtures", "avif", name].iter().collect();
    std::fs::read(path).unwrap()
}

fn decoded(bytes: &[u8]) -> Result<Decoded> {
    decode(Path::new("y.avif"), bytes, 1, &Limits::default())
}

fn message(bytes: &[u8]) -> String {
    decoded(bytes).err().expect("refused").to_string()
}

/// The file with what `from` is replaced by `to`, once.
fn patched(name: &str, from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut bytes = bytes(name);
    let at = bytes.windows(from.len()).position(|window| window == from).expect("in the file");
    bytes.splice(at..at + from.len(), to.iter().copied());
    bytes
}

fn values(samples: &Samples) -> Vec<f64> {
    match samples {
        Samples::Eight(samples) => samples.iter().map(|v| f64::from(*v)).collect(),
        Samples::Sixteen(samples) => samples.iter().map(|v| f64::from(*v)).collect(),
        Samples::Float(_) => unreachable!(),
    }
}

#[test]
fn samples_are_those_of_libavif() {
    let files = [
        ("400", 5 * 7, 8),
        ("420", 5 * 7 * 3, 8),
        ("422", 5 * 7 * 3, 8),
        ("444", 5 * 7 * 3, 8),
        ("alpha", 5 * 7 * 4, 8),
        ("prem", 5 * 7 * 4, 8),
        ("rgb", 5 * 7 * 3, 8),
        ("ycgco", 5 * 7 * 3, 8),
        ("bt2020", 5 * 7 * 3, 8),
        ("p3", 5 * 7 * 3, 8),
        ("icc", 5 * 7 * 3, 8),
        ("film", 5 * 7 * 3, 8),
        ("turned6", 5 * 7 * 3, 8),
        ("ten", 17 * 19 * 3, 16),
        ("ten422", 17 * 19 * 3, 16),
        ("twelve", 17 * 19 * 2, 16),
    ];
    for (name, count, depth) in files {
        let found = decoded(&bytes(&format!("{name}.avif"))).unwrap();
        let found = values(&found.raster.samples);
        let raw = bytes(&format!("{name}.raw"));
        let expected: Vec<f64> = match depth {
            8 => raw.iter().map(|v| f64::from(*v)).collect(),
            _ => raw.chunks_exact(2).map(|pair| f64::from(u16::from_le_bytes([pair[0], pair[1]]))).collect(),
        };
        assert_eq!([found.len(), expected.len()], [count; 2], "{name}");
        let most = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        // Sums round differently in 32 bits.
        assert!(most <= 1.0, "{name}: {most}");
    }
}

#[test]
fn tiles_are_put_side_by_side() {
    let found = decoded(&bytes("grid.avif")).unwrap().raster;
    assert_eq!((found.width, found.height, found.channels), (110, 70, 4));
    let Samples::Eight(samples) = found.samples else { panic!("8 bits") };
    let every_tenth = (0..70).step_by(10).flat_map(|y| (0..110).step_by(10).map(move |x| (y * 110 + x) * 4));
    let some: Vec<u8> = every_tenth.flat_map(|at| samples[at..at + 4].to_vec()).collect();
    let raw = bytes("grid.raw");
    assert_eq!(some.len(), raw.len());
    assert!(some.iter().zip(&raw).all(|(a, b)| a.abs_diff(*b) <= 1));
    assert!(message(&patched("grid.avif", b"grid", b"iovl")).contains("an overlay of pictures"));
}

#[test]
fn samples_of_more_bits_span_all_sixteen() {
    // 4:0:0 in the full range: v / 4095 * 65535, to the nearest.
    let Samples::Sixteen(samples) = decoded(&bytes("twelve.avif")).unwrap().raster.samples else { panic!("16 bits") };
    assert!(samples.iter().all(|v| {
        let of = (u32::from(*v) * 4095 + 32767) / 65535;
        u32::from(*v) == (of * 65535 * 2 + 4095) / (2 * 4095)
    }));
}

#[test]
fn properties_turn_the_picture_and_exif_does_not() {
    for orientation in 1..=8 {
        let found = decoded(&bytes(&format!("turned{orientation}.avif"))).unwrap();
        assert_eq!(found.orientation.to_exif(), orientation);
        let exif = found.metadata.exif.unwrap();
        assert!(exif.starts_with(b"II*\0") || exif.starts_with(b"MM\0*"));
        let mut again = exif.clone();
        let left = image::metadata::Orientation::remove_from_exif_chunk(&mut again);
        assert!(left.is_none_or(|left| left == image::metadata::Orientation::NoTransforms));
    }
}

#[test]
fn what_the_file_says_of_its_colours_is_kept() {
    let of = |name| decoded(&bytes(name)).unwrap();
    let found = of("icc.avif").metadata;
    assert_eq!(found.icc.unwrap().get(36..40), Some(&b"acsp"[..]));
    assert_eq!(found.xmp.unwrap(), b"<x:xmpmeta xmlns:x=\"adobe:ns:meta/\"/>");
    assert!(of("420.avif").metadata.png_colour.is_empty(), "sRGB goes without saying");
    assert_eq!(of("p3.avif").metadata.png_colour, [(*b"cICP", vec![12, 13, 0, 1])]);
    // The curve of BT.2020 is that of BT.709.
    assert_eq!(of("bt2020.avif").metadata.png_colour, [(*b"cICP", vec![9, 1, 0, 1])]);
    assert!(of("prem.avif").raster.associated && !of("alpha.avif").raster.associated);
    assert!(message(&bytes("pq.avif")).contains("high dynamic range"));
    let found = of("film.avif");
    assert_eq!((found.pages, found.metadata.left_out), (1, vec!["a film"]));
}

#[test]
fn what_is_not_read_is_named() {
    let page = decode(Path::new("y.avif"), &*bytes("420.avif"), 2, &Limits::default());
    assert!(matches!(page, Err(Error::Config(said)) if said.contains("page 2 of a file of one page")));
    assert!(message(&patched("420.avif", b"av01", b"hvc1")).contains("a picture of kind hvc1"));
    assert!(message(&patched("turned6.avif", b"irot", b"clap")).contains("cropped"));
    // What says that it is essential: a picture is turned with a property that nobody knows.
    assert!(message(&patched("turned6.avif", b"irot", b"what")).contains("the unknown property what"));
    // 14 is ICtCp.
    let matrix = patched("420.avif", b"nclx\0\x01\0\x0d\0\x06", b"nclx\0\x01\0\x0d\0\x0e");
    assert!(message(&matrix).contains("matrix 14"), "{}", message(&matrix));
}

#[test]
fn sizes_are_checked_before_memory_is_taken() {
    // 110x70 of four channels.
    let refused = decode(
        Path::new("y.avif"),
        &bytes("grid.avif")[..],
        1,
        &Limits { max_decoded_bytes: 30_799, ..Limits::default() },
    );
    assert!(matches!(refused, Err(Error::TooLarge { .. })));
    // The size that the container announces, and the picture's own, have to be one.
    let announced = b"ispe\0\0\0\0\0\0\0\x07\0\0\0\x05";
    let of = |width: u32| [&b"ispe\0\0\0\0"[..], &width.to_be_bytes(), &[0, 0, 0, 5]].concat();
    assert!(message(&patched("420.avif", announced, &of(8))).contains("two sizes"));
    assert!(message(&patched("420.avif", announced, &of(u32::MAX))).contains("two sizes"));
    assert!(message(&patched("420.avif", announced, &of(0))).contains("damaged"));
}

#[test]
fn what_is_cut_off_is_an_error() {
    for name in ["420.avif", "alpha.avif", "grid.avif", "turned6.avif", "ten.avif", "icc.avif"] {
        let bytes = bytes(name);
        for length in 0..bytes.len() {
            assert!(decoded(&bytes[..length]).is_err(), "{name} {length}");
        }
    }
    assert!(message(&bytes("420.avif")[..300]).contains("is cut off"));
}

#[test]
fn files_are_known_by_their_brands() {
    assert!(is_avif(&bytes("420.avif")) && is_avif(&bytes("film.avif")));
    assert!(!is_avif(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic") && !is_avif(b"\0\0\0\x20ftyp"));
}

/// Files with random damage are pictures or errors: bytes changed, boxes cut out, ends cut off.
#[test]
fn damage_is_an_error_or_another_picture() {
    let mut state = 1_u64;
    let mut random = |below: usize| {
        // Xorshift, of which the upper half is good enough.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as usize % below
    };
    let (mut pictures, mut errors) = (0, 0);
    for name in ["420.avif", "422.avif", "alpha.avif", "film.avif", "grid.avif", "icc.avif", "ten.avif", "turned6.avif"]
    {
        let whole = bytes(name);
        for _ in 0..250 {
            let mut damaged = whole.clone();
            for _ in 0..=random(4) {
                let at = random(damaged.len());
                match random(4) {
                    0 => damaged[at] ^= 1 << random(8),
                    1 => damaged[at] = random(256) as u8,
                    2 => damaged.truncate(at.max(1)),
                    _ => drop(damaged.drain(at..(at + random(16)).min(damaged.len()).max(at))),
                }
                if damaged.is_empty() {
                    damaged.push(0);
                }
            }
            match decoded(&damaged) {
                Ok(found) => {
                    let Raster { width, height, channels, samples, .. } = found.raster;
                    assert_eq!(values(&samples).len(), width as usize * height as usize * channels, "{name}");
                    pictures += 1;
                }
                Err(_) => errors += 1,
            }
        }
    }
    assert!(pictures > 100 && errors > 100, "{pictures} pictures, {errors} errors");
}
