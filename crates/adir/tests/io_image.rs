//! Images: read as Pillow and tifffile read them, written and read back, and clean errors otherwise.

use std::path::{Path, PathBuf};

use adir::Error;
use adir::io::hash::ContentHash;
use adir::io::image::{
    BitDepth, ImageFormat, Metadata, Picture, Reading, Samples, Scale, WriteOptions, read_hashed, read_image,
    write_image,
};
use adir::io::limits::Limits;
use adir::io::side_inputs::{read_kernel_values, read_mask};
use adir::io::weights::WeightFile;
use adir::tensor::{Tensor, cpu, from_f32, to_f32};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/io_fixtures")
}

fn read(path: &Path) -> Result<Picture, Error> {
    read_image(path, &Limits::default())
}

/// A folder of its own for each test, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("adir-image-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn max_gap(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// `io_fixtures/make.py` recorded what Pillow and tifffile read from the same files.
#[test]
fn every_kind_of_file_is_read_as_the_reference_reads_it() {
    let expected = WeightFile::open(&fixtures().join("expected.safetensors")).unwrap();
    let names: Vec<&str> = expected.names().filter_map(|name| name.strip_prefix("image.")).collect();
    assert_eq!(names.len(), 26);
    for name in names {
        let picture = read(&fixtures().join(name)).unwrap_or_else(|e| panic!("{e}"));
        let key = format!("image.{name}");
        assert_eq!(picture.tensor.dims()[1..], expected.info(&key).unwrap().shape, "{name}");
        let lossy = name.ends_with(".jpg") || name == "lossy.webp";
        // Lossy decoders may differ by rounding: two levels of 255.
        let tolerance = if lossy { 2.5 / 127.5 } else { 2e-7 };
        let gap = max_gap(&to_f32(&picture.tensor).unwrap(), &expected.read_f32(&key).unwrap());
        assert!(gap <= tolerance, "{name}: {gap}");
        let alpha = expected.read_f32(&format!("alpha.{name}")).ok();
        match (&picture.alpha, &alpha) {
            (Some(found), Some(expected)) => assert!(max_gap(found, expected) < 1e-7, "{name}"),
            (found, expected) => assert_eq!(found.is_some(), expected.is_some(), "{name}"),
        }
        let depth = match name {
            _ if name.starts_with("float") => BitDepth::Float,
            _ if name.contains("16.") => BitDepth::Sixteen,
            _ => BitDepth::Eight,
        };
        assert_eq!(picture.bit_depth, depth, "{name}");
        assert_eq!(picture.metadata.icc.is_some(), ["rgb.png", "white_is_zero.tif"].contains(&name), "{name}");
        assert_eq!(picture.metadata.exif.is_some(), name.starts_with("orientation"), "{name}");
    }
}

/// The hash is that of the file, the picture that of [`read_image`], errors included.
#[test]
fn a_picture_comes_with_the_hash_of_its_file() {
    let limits = Limits::default();
    for name in ["rgb.png", "orientation6.jpg", "lossy.webp", "white_is_zero.tif"] {
        let path = fixtures().join(name);
        let (picture, hash) = read_hashed(&path, &limits).unwrap();
        assert_eq!(hash, ContentHash::of_file(&path).unwrap(), "{name}");
        let plain = read(&path).unwrap();
        assert_eq!(to_f32(&picture.tensor).unwrap(), to_f32(&plain.tensor).unwrap(), "{name}");
        assert_eq!(picture.metadata, plain.metadata, "{name}");
    }
    let tight = Limits { max_decoded_bytes: 100, ..limits };
    for (path, limits) in
        [(fixtures(), limits), (fixtures().join("none.png"), limits), (fixtures().join("rgb.png"), tight)]
    {
        let [hashed, plain] = [read_hashed(&path, &limits).map(drop), read_image(&path, &limits).map(drop)];
        assert_eq!(hashed.unwrap_err().to_string(), plain.unwrap_err().to_string());
    }
}

/// Carrying both the turned pixels and the tag would turn the output twice.
#[test]
fn the_orientation_is_applied_once() {
    let scratch = Scratch::new("orientation");
    let picture = read(&fixtures().join("orientation6.jpg")).unwrap();
    let options = WriteOptions { metadata: picture.metadata.clone(), ..WriteOptions::default() };
    for name in ["out.png", "out.webp"] {
        let path = scratch.0.join(name);
        write_image(&path, &picture.tensor, &options).unwrap();
        let again = read(&path).unwrap();
        assert_eq!(again.tensor.dims(), picture.tensor.dims());
        assert_eq!(to_f32(&again.tensor).unwrap(), to_f32(&picture.tensor).unwrap());
        let exif = again.metadata.exif.unwrap();
        assert_eq!(exif, picture.metadata.exif.clone().unwrap());
        assert!(exif.windows(6).any(|text| text == b"a test"), "the rest of it is untouched");
    }
}

/// Kernels are turned upright as images are.
#[test]
fn kernels_are_turned_as_images_are() {
    for k in 1..=8 {
        let path = fixtures().join(format!("orientation{k}.jpg"));
        let kernel = read_kernel_values(&path, &Limits::default()).unwrap();
        let picture = read(&path).unwrap().tensor;
        assert_eq!([kernel.height, kernel.width], [picture.dims()[2], picture.dims()[3]]);
        let expected = to_f32(&((picture.mean_dim(1) + 1.0) / 2.0)).unwrap();
        assert!(kernel.values.iter().zip(&expected).all(|(a, b)| (a - f64::from(*b)).abs() < 1e-5), "{k}");
    }
}

/// Every value of the format, from black to white.
fn ramp(channels: usize, levels: usize) -> Tensor<4> {
    let (height, width) = (levels / 64, 64);
    let values = (0..channels * levels).map(|v| ((v * 7 + v / levels) % levels) as f32);
    let values = values.map(|v| (v / (levels - 1) as f32) * 2.0 - 1.0).collect();
    from_f32(values, [1, channels, height, width], &cpu())
}

#[test]
fn what_is_written_is_read_back() {
    let scratch = Scratch::new("round");
    let icc = std::fs::read(fixtures().join("make.py")).unwrap();
    let exif = b"II\x2a\0\x08\0\0\0\0\0\0\0\0\0".to_vec();
    let mut metadata = Metadata::default();
    (metadata.icc, metadata.exif) = (Some(icc.clone()), Some(exif.clone()));
    for (name, depth, levels, tolerance) in [
        ("a.png", BitDepth::Eight, 256, 0.0),
        ("a.tif", BitDepth::Eight, 256, 0.0),
        ("a.webp", BitDepth::Eight, 256, 0.0),
        ("a.jpg", BitDepth::Eight, 256, 0.5),
        ("b.png", BitDepth::Sixteen, 65536, 0.0),
        ("b.tiff", BitDepth::Sixteen, 65536, 0.0),
        ("c.tif", BitDepth::Float, 65536, 1.5e-7),
    ] {
        for channels in [1, 3] {
            for with_alpha in [false, true] {
                let tensor = ramp(channels, levels);
                let alpha = with_alpha.then(|| (0..levels).map(|v| v as f32 / (levels - 1) as f32).collect::<Vec<_>>());
                let options = WriteOptions {
                    bit_depth: depth,
                    alpha: alpha.clone(),
                    metadata: metadata.clone(),
                    ..WriteOptions::default()
                };
                let path = scratch.0.join(name);
                let written = write_image(&path, &tensor, &options);
                if with_alpha && name == "a.jpg" {
                    assert!(matches!(written, Err(Error::Config(_))));
                    continue;
                }
                written.unwrap();
                let picture = read(&path).unwrap();
                assert_eq!(picture.format, ImageFormat::from_path(&path).unwrap());
                assert_eq!(picture.bit_depth, depth);
                let mut found = to_f32(&picture.tensor).unwrap();
                if picture.tensor.dims()[1] > channels {
                    assert_eq!(picture.format, ImageFormat::WebP, "which has no grey");
                    found.truncate(levels);
                }
                let tolerance = tolerance + f32::EPSILON;
                assert!(max_gap(&found, &to_f32(&tensor).unwrap()) <= tolerance, "{name} {channels} {with_alpha}");
                match (&picture.alpha, &alpha) {
                    (Some(found), Some(alpha)) => assert!(max_gap(found, alpha) <= tolerance, "{name}"),
                    (found, alpha) => assert_eq!(found, alpha, "{name}"),
                }
                assert_eq!(picture.metadata.icc.as_ref(), Some(&icc), "{name}");
                let tiff = picture.format == ImageFormat::Tiff;
                assert_eq!(picture.metadata.exif.as_ref(), (!tiff).then_some(&exif), "{name}");
            }
        }
    }
}

#[test]
fn values_are_rounded_and_clamped_but_floats_are_kept() {
    let scratch = Scratch::new("clamp");
    // Levels 126.4, 126.6, 127.5 (a half), then beyond both ends.
    let values = vec![126.4 / 127.5 - 1.0, 126.6 / 127.5 - 1.0, 0.0, -1.7, 1.7];
    let tensor = from_f32(values.clone(), [1, 1, 1, 5], &cpu());
    let png = scratch.0.join("a.png");
    write_image(&png, &tensor, &WriteOptions::default()).unwrap();
    let levels: Vec<f32> = to_f32(&read(&png).unwrap().tensor).unwrap().iter().map(|v| (v + 1.0) * 127.5).collect();
    assert!(max_gap(&levels, &[126.0, 127.0, 128.0, 0.0, 255.0]) < 1e-4);
    let tiff = scratch.0.join("a.tif");
    write_image(&tiff, &tensor, &WriteOptions { bit_depth: BitDepth::Float, ..WriteOptions::default() }).unwrap();
    assert!(max_gap(&to_f32(&read(&tiff).unwrap().tensor).unwrap(), &values) < 2e-7);
}

#[test]
fn what_a_format_cannot_hold_is_refused_before_anything_is_written() {
    let scratch = Scratch::new("refused");
    let grey = from_f32(vec![0.0; 4], [1, 1, 2, 2], &cpu());
    let depth = |bit_depth| WriteOptions { bit_depth, ..WriteOptions::default() };
    let alpha = WriteOptions { alpha: Some(vec![1.0; 3]), ..WriteOptions::default() };
    let wide = from_f32(vec![0.0; 16400], [1, 1, 1, 16400], &cpu());
    let cases: [(&str, &Tensor<4>, WriteOptions); 10] = [
        ("a.jpg", &grey, depth(BitDepth::Sixteen)),
        ("a.webp", &grey, depth(BitDepth::Sixteen)),
        ("a.png", &grey, depth(BitDepth::Float)),
        ("a.bmp", &grey, WriteOptions::default()),
        ("a", &grey, WriteOptions::default()),
        ("a.png", &grey, alpha),
        ("a.png", &from_f32(vec![0.0; 8], [1, 2, 2, 2], &cpu()), WriteOptions::default()),
        ("a.png", &from_f32(vec![0.0; 8], [2, 1, 2, 2], &cpu()), WriteOptions::default()),
        ("a.png", &from_f32(vec![f32::NAN; 4], [1, 1, 2, 2], &cpu()), WriteOptions::default()),
        ("a.webp", &wide, WriteOptions::default()),
    ];
    for (number, (name, tensor, options)) in cases.iter().enumerate() {
        let result = write_image(&scratch.0.join(name), tensor, options);
        assert!(matches!(result, Err(Error::Config(_) | Error::Numerical(_))), "case {number}: {result:?}");
    }
    assert_eq!(std::fs::read_dir(&scratch.0).unwrap().count(), 0);
    let written = |name: &str| write_image(&scratch.0.join(name), &grey, &WriteOptions::default());
    written("absent/a.png").unwrap();
    assert!(matches!(written("absent/a.png/a.png"), Err(Error::Io { .. })));
}

/// All image fixtures.
fn corpus() -> Vec<(String, Vec<u8>)> {
    let mut corpus = Vec::new();
    for entry in std::fs::read_dir(fixtures()).unwrap() {
        let path = entry.unwrap().path();
        if read(&path).is_ok() {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            corpus.push((name, std::fs::read(&path).unwrap()));
        }
    }
    assert!(corpus.len() >= 26);
    corpus
}

/// A cut file is refused, or, where only a trailer is lost, gives the same pixels.
#[test]
fn files_cut_at_any_byte_are_refused() {
    let scratch = Scratch::new("cut");
    for (name, bytes) in corpus() {
        let whole = to_f32(&read(&fixtures().join(&name)).unwrap().tensor).unwrap();
        let cuts = (0..bytes.len()).filter(|cut| *cut <= 4096 || cut % 37 == 0);
        for cut in cuts {
            match read(&scratch.file("cut", &bytes[..cut])) {
                Err(e) => assert!(
                    matches!(e, Error::Input { .. } | Error::TooLarge { .. } | Error::Limits(_)),
                    "{name} cut at {cut}: {e:?}"
                ),
                Ok(picture) => assert!(to_f32(&picture.tensor).unwrap() == whole, "{name} cut at {cut}"),
            }
        }
    }
}

#[test]
fn damaged_files_never_panic() {
    let scratch = Scratch::new("damage");
    let mut state = 11_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    // Small limits, so that a damaged size costs no time.
    let limits = Limits { max_decoded_bytes: 1 << 20, ..Limits::default() };
    for (name, bytes) in corpus() {
        for _ in 0..150 {
            let mut damaged = bytes.clone();
            for _ in 0..1 + next() % 3 {
                let at = next() % damaged.len();
                damaged[at] = next() as u8;
            }
            if let Err(e) = read_image(&scratch.file("damaged", &damaged), &limits) {
                assert!(matches!(e, Error::Input { .. } | Error::TooLarge { .. } | Error::Limits(_)), "{name}: {e:?}");
            }
        }
    }
}

/// Sides have no limit of their own.
#[test]
fn long_images_are_read_and_written() {
    let scratch = Scratch::new("long");
    let values = (0..70_000).map(|i| (i % 256) as f32 / 127.5 - 1.0).collect();
    let picture = Picture::from_tensor(from_f32(values, [1, 1, 1, 70_000], &cpu()));
    for name in ["long.png", "long.tif"] {
        let path = scratch.0.join(name);
        picture.write(&path).unwrap();
        assert_eq!(read(&path).unwrap().tensor.dims(), [1, 1, 1, 70_000], "{name}");
    }
}

#[test]
fn limits_and_other_files_are_refused_with_the_reason() {
    let scratch = Scratch::new("limits");
    let rgb = fixtures().join("rgb.png");
    let with = |limits| read_image(&rgb, &limits);
    assert!(matches!(with(Limits { max_decoded_bytes: 104, ..Limits::default() }), Err(Error::TooLarge { .. })));
    let lean = with(Limits { max_metadata: 100, ..Limits::default() }).unwrap();
    assert!(lean.metadata.icc.is_none(), "a larger profile is left behind");
    for content in [&b"GIF89a.........."[..], b"not an image", b"<svg xmlns='x'>"] {
        let path = scratch.file("other.png", content);
        assert!(matches!(read(&path), Err(Error::Input { message, .. }) if message.contains("is not a PNG")));
    }
    let empty = scratch.file("empty.png", b"");
    assert!(matches!(read(&empty), Err(Error::Input { message, .. }) if message == "is empty"));
    assert!(matches!(read(&scratch.0.join("absent.png")), Err(Error::Input { .. })));
    assert!(matches!(read(&scratch.0), Err(Error::Input { .. })));
    let not_finite = Limits::default();
    let mut tiff = std::fs::read(fixtures().join("float_grey.tif")).unwrap();
    let end = tiff.len();
    tiff[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    assert!(
        matches!(read_image(&scratch.file("nan.tif", &tiff), &not_finite), Err(Error::Input { message, .. }) if message.contains("not finite"))
    );
}

#[test]
fn masks_are_black_or_white() {
    let scratch = Scratch::new("mask");
    let path = scratch.0.join("mask.png");
    let levels = [0.0, 127.0, 128.0, 255.0].map(|v| v / 127.5 - 1.0).to_vec();
    write_image(&path, &from_f32(levels, [1, 1, 2, 2], &cpu()), &WriteOptions::default()).unwrap();
    let mask = read_mask(&path, &Limits::default()).unwrap();
    assert_eq!((mask.height(), mask.width()), (2, 2));
    assert_eq!(mask.known(), [true, true, false, false]);
    // Colour counts by its mean: two of three channels white is white, one is black.
    let rgb = from_f32(vec![1.0, 1.0, 1.0, -1.0, -1.0, -1.0], [1, 3, 1, 2], &cpu());
    write_image(&path, &rgb, &WriteOptions::default()).unwrap();
    assert_eq!(read_mask(&path, &Limits::default()).unwrap().known(), [false, true]);
}

/// A photograph is no mask; soft edges, and two greys, are.
#[test]
fn a_picture_is_no_mask() {
    let scratch = Scratch::new("picture");
    let path = scratch.0.join("mask.png");
    let read = |level: &dyn Fn(usize) -> f32| {
        let levels = (0..900).map(|i| level(i) * 2.0 - 1.0).collect();
        write_image(&path, &from_f32(levels, [1, 1, 30, 30], &cpu()), &WriteOptions::default()).unwrap();
        read_mask(&path, &Limits::default()).map(|mask| mask.known().iter().filter(|known| !**known).count())
    };
    let picture = read(&|i| 0.2 + (i % 30) as f32 / 50.0).unwrap_err();
    assert!(
        matches!(&picture, Error::Input { message, .. } if message.contains("neither black nor white")),
        "{picture}"
    );
    let soft = |i: usize| (((i % 30) as f32 - 10.0) / 12.0).clamp(0.0, 1.0);
    assert_eq!(read(&soft).unwrap(), 14 * 30, "a wide soft edge");
    assert_eq!(read(&|i| if i < 90 { 0.8 } else { 0.3 }).unwrap(), 90, "two greys");
}

/// As numpy, editors and labelling programs write masks.
#[test]
fn masks_are_understood_however_they_mark_pixels() {
    let scratch = Scratch::new("masks");
    let path = scratch.0.join("mask.png");
    let write = |colour: [f64; 4], alpha: Option<[f32; 4]>, bit_depth: BitDepth| {
        let colour = colour.map(|v| (v * 2.0 - 1.0) as f32).to_vec();
        let options = WriteOptions { alpha: alpha.map(Vec::from), bit_depth, ..WriteOptions::default() };
        write_image(&path, &from_f32(colour, [1, 1, 2, 2], &cpu()), &options).unwrap();
        read_mask(&path, &Limits::default()).map(|mask| mask.known().to_vec())
    };
    let expected = [true, false, true, true];
    let (one, deep) = (1.0 / 255.0, 1.0 / 65535.0);
    assert_eq!(write([0.0, one, 0.0, 0.0], None, BitDepth::Eight).unwrap(), expected, "0 and 1");
    assert_eq!(write([0.0, deep, 0.0, 0.0], None, BitDepth::Sixteen).unwrap(), expected, "0 and 1 of 65535");
    assert_eq!(write([0.0, 0.3, 0.0, 0.0], None, BitDepth::Eight).unwrap(), expected, "an entry of a palette");
    let painted = Some([0.0, 1.0, 0.0, 0.0]);
    for colour in [0.0, 0.5, 1.0] {
        assert_eq!(write([colour; 4], painted, BitDepth::Eight).unwrap(), expected, "painted in {colour}");
    }
    assert_eq!(write([0.0, 1.0, 0.0, 0.0], Some([1.0; 4]), BitDepth::Eight).unwrap(), expected, "alpha says nothing");
    assert_eq!(write([0.0, 1.0, 0.0, 0.0], Some([0.0, 1.0, 1.0, 0.0]), BitDepth::Eight).unwrap(), expected);
    // Of three levels, half of white decides, and nothing is marked here.
    assert_eq!(write([0.0, one, 2.0 * one, 0.0], None, BitDepth::Eight).unwrap(), [true; 4]);
    assert!(
        matches!(write([1.0; 4], None, BitDepth::Eight), Err(Error::Config(message)) if message.contains("mask.png"))
    );
}

#[test]
fn kernels_come_from_text_and_from_images() {
    let scratch = Scratch::new("kernel");
    let read = |path: &Path| read_kernel_values(path, &Limits::default());
    let kernel = read(&scratch.file("k.txt", "0.25, 0.5 ,1e-1\r\n\n-1\t2 3\n")).unwrap();
    assert_eq!((kernel.height, kernel.width), (2, 3));
    assert_eq!(kernel.values, [0.25, 0.5, 0.1, -1.0, 2.0, 3.0]);
    let path = scratch.0.join("k.png");
    let grey = from_f32([0.0, 1.0, 65535.0].map(|v| v / 32767.5 - 1.0).to_vec(), [1, 1, 1, 3], &cpu());
    write_image(&path, &grey, &WriteOptions { bit_depth: BitDepth::Sixteen, ..WriteOptions::default() }).unwrap();
    let kernel = read(&path).unwrap();
    assert_eq!((kernel.height, kernel.width), (1, 3));
    assert_eq!(kernel.values, [0.0, 1.0 / 65535.0, 1.0]);
    let painted = WriteOptions { alpha: Some(vec![0.0, 1.0, 0.5]), ..WriteOptions::default() };
    write_image(&path, &from_f32(vec![1.0; 3], [1, 1, 1, 3], &cpu()), &painted).unwrap();
    assert!(matches!(read(&path), Err(Error::Input { message, .. }) if message.contains("transparency alone")));
    let opaque = WriteOptions { alpha: Some(vec![1.0; 3]), ..WriteOptions::default() };
    write_image(&path, &from_f32(vec![1.0; 3], [1, 1, 1, 3], &cpu()), &opaque).unwrap();
    assert_eq!(read(&path).unwrap().values, [1.0; 3]);
    for (text, reason) in
        [("1 2\n3\n", "line 2"), ("1 x\n", "\"x\""), ("nan\n", "nan"), ("1e999", "1e999"), ("\n", "no numbers")]
    {
        let error = read(&scratch.file("bad.txt", text)).unwrap_err();
        assert!(matches!(&error, Error::Input { message, .. } if message.contains(reason)), "{error}");
    }
    assert!(read(&scratch.file("bad.txt", [0xff, 0xfe])).is_err());
}

/// Samples in memory become the picture that a file of them becomes, and are given back as they were.
#[test]
fn samples_in_memory_are_those_of_a_file() {
    let scratch = Scratch::new("samples");
    for channels in 1..=4 {
        let shape = [3, 5, channels];
        let count = 15 * channels as u32;
        for (samples, name) in [
            (Samples::Eight((0..count).map(|i| (i * 37) as u8).collect()), "x.png"),
            (Samples::Sixteen((0..count).map(|i| (i * 9377) as u16).collect()), "x.png"),
            (Samples::Float((0..count).map(|i| i as f32 / 64.0).collect()), "x.tif"),
        ] {
            let picture = Picture::from_samples(samples.clone(), shape, &Reading::default()).unwrap();
            assert_eq!(picture.samples().unwrap(), (samples, shape));
            let file = scratch.0.join(name);
            picture.write(&file).unwrap();
            let read = Picture::read(&file).unwrap();
            assert_eq!(
                to_f32(&read.tensor).unwrap(),
                to_f32(&picture.tensor).unwrap(),
                "{channels} channels in {name}"
            );
            assert_eq!((read.alpha, read.bit_depth), (picture.alpha, picture.bit_depth));
            std::fs::remove_file(file).unwrap();
        }
    }
    let twelve = |values: Vec<u16>| {
        let reading = Reading::scaled(Scale { black: 0.0, white: 4095.0 });
        Picture::from_samples(Samples::Sixteen(values), [1, 2, 1], &reading).unwrap()
    };
    assert_eq!(to_f32(&twelve(vec![0, 4095]).tensor).unwrap(), [-1.0, 1.0]);
    assert_eq!(twelve(vec![7, 4000]).samples().unwrap().0, Samples::Sixteen(vec![7, 4000]));
    let refused = |samples, shape| Picture::from_samples(samples, shape, &Reading::default()).unwrap_err();
    for shape in [[2, 2, 1], [1, 2, 5], [0, 0, 1], [usize::MAX, usize::MAX, 2]] {
        assert!(matches!(refused(Samples::Eight(vec![0; 10]), shape), Error::Config(_)), "{shape:?}");
    }
    for bad in [300.0, f32::NAN] {
        assert!(matches!(refused(Samples::Float(vec![0.0, bad]), [1, 2, 1]), Error::Input { .. }), "{bad}");
    }
}
