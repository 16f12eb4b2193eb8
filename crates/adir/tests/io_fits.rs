//! FITS files as observatories, cameras and programs write them.

use std::fs;
use std::path::{Path, PathBuf};

use adir::Error;
use adir::io::image::{
    BitDepth, ImageFormat, Picture, Reading, Scale, WriteOptions, read_bytes, read_image, read_image_as, write_image,
};
use adir::io::light::Light;
use adir::io::limits::Limits;
use adir::tensor::{cpu, from_f32, to_f32};

const BLOCK: usize = 2880;

/// A header of these cards, in whole blocks.
fn header(cards: &[&str]) -> Vec<u8> {
    let lines = cards.iter().chain(&["END"]).map(|card| format!("{card:<80}"));
    let mut bytes = lines.collect::<String>().into_bytes();
    bytes.resize(bytes.len().next_multiple_of(BLOCK), b' ');
    bytes
}

/// An image of these axes, whose header ends with `more`.
fn unit(first: &str, bits: i32, axes: &[usize], more: &[&str], data: &[u8]) -> Vec<u8> {
    let mut cards = vec![first.to_owned(), format!("BITPIX  = {bits:>20}"), format!("NAXIS   = {:>20}", axes.len())];
    cards.extend(axes.iter().zip(1..).map(|(axis, k)| format!("{:<8}= {axis:>20}", format!("NAXIS{k}"))));
    let cards: Vec<&str> = cards.iter().map(String::as_str).chain(more.iter().copied()).collect();
    let mut bytes = [header(&cards), data.to_vec()].concat();
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    bytes
}

const PRIMARY: &str = "SIMPLE  =                    T";
const IMAGE: &str = "XTENSION= 'IMAGE   '";

fn fits(bits: i32, axes: &[usize], more: &[&str], data: &[u8]) -> Vec<u8> {
    unit(PRIMARY, bits, axes, more, data)
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_be_bytes()).collect()
}

fn shorts(values: &[i16]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_be_bytes()).collect()
}

fn read(bytes: &[u8], reading: &Reading) -> Result<Picture, Error> {
    read_bytes(Path::new("y.fits"), bytes, reading, &Limits::default()).map(|(picture, _)| picture)
}

/// The values, read with white at 1 unless `white` says otherwise, as they are in the file.
fn values(bytes: &[u8], page: usize) -> Vec<f32> {
    let mut reading = Reading::scaled(Scale { black: 0.0, white: 1.0 });
    reading.page = Some(page);
    to_f32(&read(bytes, &reading).unwrap().tensor).unwrap().iter().map(|v| (v + 1.0) / 2.0).collect()
}

fn refusal(bytes: &[u8]) -> String {
    match read(bytes, &Reading::default()) {
        Err(Error::Input { message, .. }) => message,
        other => panic!("expected to be refused, found {other:?}"),
    }
}

fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("adir-fits-{}-{name}.fits", std::process::id()))
}

/// The bottom row comes first.
#[test]
fn every_kind_of_value_is_read() {
    let bytes = fits(8, &[3, 2], &[], &[10, 20, 30, 40, 50, 60]);
    let picture = read(&bytes, &Reading::default()).unwrap();
    let levels: Vec<f32> = to_f32(&picture.tensor).unwrap().iter().map(|v| ((v + 1.0) * 127.5).round()).collect();
    assert_eq!(levels, [40.0, 50.0, 60.0, 10.0, 20.0, 30.0]);
    assert_eq!((picture.format, picture.bit_depth, picture.scale), (ImageFormat::Fits, BitDepth::Eight, None));
    let whole = [-2.0, 7.0, 100.0, 5.0];
    let turned = [100.0, 5.0, -2.0, 7.0];
    let sixteen = shorts(&[-2, 7, 100, 5]);
    let four: Vec<u8> = whole.iter().flat_map(|v| (*v as i32).to_be_bytes()).collect();
    let eight: Vec<u8> = whole.iter().flat_map(|v| (*v as i64).to_be_bytes()).collect();
    let double: Vec<u8> = whole.iter().flat_map(|v| f64::from(*v).to_be_bytes()).collect();
    for (bits, data) in [(16, sixteen.clone()), (32, four), (64, eight), (-32, floats(&whole)), (-64, double)] {
        assert_eq!(values(&fits(bits, &[2, 2], &[], &data), 1), turned, "{bits}");
    }
    let scaled = fits(16, &[2, 2], &["BSCALE  = 0.5", "BZERO   = 10"], &sixteen);
    assert_eq!(values(&scaled, 1), [60.0, 12.5, 9.0, 13.5]);
    assert_eq!(values(&fits(-32, &[2, 2], &["ROWORDER= 'TOP-DOWN'"], &floats(&whole)), 1), whole);
    // A camera's 16 bits.
    let camera = |values: &[i16]| fits(16, &[2, 1], &["BZERO   = 32768", "BSCALE  = 1"], &shorts(values));
    let picture = read(&camera(&[-32768, 32767]), &Reading::default()).unwrap();
    assert_eq!((picture.bit_depth, picture.scale), (BitDepth::Sixteen, None));
    assert_eq!(to_f32(&picture.tensor).unwrap(), [-1.0, 1.0]);
    let dark = refusal(&camera(&[-32768, -30000]));
    assert!(dark.contains("unsigned 16-bit integers from 0 to 2768") && dark.contains("--white 4095"), "{dark}");
}

#[test]
fn what_is_white_is_asked_for() {
    for (bytes, named) in [
        (fits(16, &[2, 1], &[], &shorts(&[0, 900])), "16-bit integers from 0 to 900"),
        (fits(-32, &[2, 1], &[], &floats(&[0.0, 1e-17])), "for example --white 0.00000000000000001"),
        (fits(-32, &[2, 1], &[], &floats(&[12.0, 60000.0])), "--white 65535"),
        (fits(8, &[2, 1], &["BZERO   = -128.0"], &[1, 2]), "scaled 8-bit integers from -127 to -126"),
    ] {
        let message = refusal(&bytes);
        assert!(message.contains(named), "{named}: {message}");
    }
    read(&fits(-32, &[2, 1], &[], &floats(&[0.1, 0.9])), &Reading::default()).unwrap();
}

#[test]
fn blank_pixels_are_not_observed() {
    let blank = fits(16, &[2, 2], &["BLANK   = -99"], &shorts(&[1, -99, 3, 9]));
    let nan = fits(-32, &[2, 2], &[], &floats(&[1.0, f32::NAN, 3.0, 9.0]));
    let reading = Reading::scaled(Scale { black: 0.0, white: 10.0 });
    for bytes in [blank, nan] {
        let picture = read(&bytes, &reading).unwrap();
        assert_eq!(picture.observed.as_ref().unwrap().known(), [true, true, true, false]);
        assert!(picture.warnings[0].ends_with("(BLANK or NaN): 1"), "{:?}", picture.warnings);
        // The median of the others stands there.
        let levels: Vec<f32> = to_f32(&picture.tensor).unwrap().iter().map(|v| ((v + 1.0) * 5.0).round()).collect();
        assert_eq!(levels, [3.0, 9.0, 1.0, 3.0]);
        let path = scratch("blank");
        fs::write(&path, &bytes).unwrap();
        let refused = read_image_as(&path, &reading, &Limits::default()).unwrap_err().to_string();
        assert!(refused.contains("(BLANK or NaN): 1 here"), "{refused}");
        fs::remove_file(path).unwrap();
    }
    assert!(refusal(&fits(-32, &[1, 1], &[], &floats(&[f32::NAN]))).contains("all are BLANK or NaN"));
    assert!(refusal(&fits(-32, &[2, 1], &[], &floats(&[f32::INFINITY, 0.5]))).contains("1 sample not finite"));
}

#[test]
fn planes_and_extensions_are_pages() {
    let colour = fits(8, &[2, 1, 3], &[], &[1, 2, 3, 4, 5, 6]);
    let picture = read(&colour, &Reading::default()).unwrap();
    assert_eq!(picture.tensor.dims(), [1, 3, 1, 2]);
    assert_eq!(
        (to_f32(&(picture.tensor * 127.5 + 127.5)).unwrap(), picture.pages),
        (vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 1)
    );
    // Who asks for a page of them gets a plane.
    assert_eq!([1, 2, 3].map(|page| values(&colour, page)), [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]);
    let mut second = Reading::default();
    second.page = Some(2);
    let plane = read(&colour, &second).unwrap();
    assert_eq!((plane.pages, plane.warnings), (3, vec!["page 2 is plane 2 of 3 of the primary image".to_owned()]));
    // Two planes of a cube, nothing above, then an extension.
    let file = [
        unit(PRIMARY, 8, &[], &["OBJECT  = 'M 31'"], &[]),
        unit(IMAGE, 8, &[2, 1, 2, 1], &["EXTNAME = 'CUBE'", "CRPIX3  = 1.0"], &[1, 2, 3, 4]),
        unit("XTENSION= 'BINTABLE'", 8, &[4, 1], &["PCOUNT  = 3000", "GCOUNT  = 1"], &[0; 3004]),
        unit(IMAGE, -32, &[1, 1], &[], &floats(&[0.5])),
    ]
    .concat();
    assert_eq!((values(&file, 1), values(&file, 2), values(&file, 3)), (vec![1.0, 2.0], vec![3.0, 4.0], vec![0.5]));
    let mut reading = Reading::default();
    reading.white = Some(255.0);
    let first = read(&file, &reading).unwrap();
    assert_eq!(first.warnings, ["page 1 is plane 1 of 2 of extension 1 (CUBE)", "page 1 of 3 only"]);
    let cards: Vec<&str> = first.metadata.fits.as_ref().unwrap().cards().collect();
    assert!(cards[0].starts_with("OBJECT  = 'M 31'"), "{cards:?}");
    let mut second = Reading::default();
    second.page = Some(4);
    assert!(matches!(read(&file, &second), Err(Error::Config(m)) if m.contains("page 4 of a file of 3 pages")));
    for (bytes, named) in [
        (unit(PRIMARY, 8, &[], &[], &[]), "no image"),
        (fits(8, &[9], &[], &[0; 9]), "one dimension"),
        ([unit(PRIMARY, 8, &[], &[], &[]), unit("XTENSION= 'BINTABLE'", 8, &[4, 1], &[], &[0; 4])].concat(), "tables"),
        (
            [unit(PRIMARY, 8, &[], &[], &[]), unit("XTENSION= 'BINTABLE'", 8, &[8, 1], &["ZIMAGE  = T"], &[0; 8])]
                .concat(),
            "funpack",
        ),
        (fits(16, &[2, 1], &["BAYERPAT= 'RGGB'"], &[0; 4]), "debayer"),
        (fits(8, &[0, 3], &["GROUPS  = T"], &[]), "random groups"),
    ] {
        let message = refusal(&bytes);
        assert!(message.contains(named), "{named}: {message}");
    }
}

/// Headers that promise what is not there, and headers without end.
#[test]
fn hostile_headers_are_refused() {
    let claims = |axes: &[&str]| {
        let mut cards = vec![PRIMARY.to_owned(), "BITPIX  = -64".to_owned(), format!("NAXIS   = {}", axes.len())];
        cards.extend(axes.iter().zip(1..).map(|(axis, k)| format!("{:<8}= {axis}", format!("NAXIS{k}"))));
        header(&cards.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let huge = i64::MAX.to_string();
    let refused = |bytes: &[u8]| match read(bytes, &Reading::default()) {
        Err(Error::Input { .. } | Error::TooLarge { .. } | Error::Limits(_)) => {}
        other => panic!("{other:?}"),
    };
    refused(&claims(&["8", "8"]));
    refused(&claims(&[&huge, &huge]));
    refused(&claims(&["4000", &huge]));
    refused(&claims(&["8", "8", &huge, &huge]));
    refused(&claims(&["-1", "8"]));
    refused(&claims(&["8", "1e3"]));
    refused(&header(&[PRIMARY, "BITPIX  = 7", "NAXIS   = 2", "NAXIS1  = 1", "NAXIS2  = 1"]));
    refused(&header(&[PRIMARY, "BITPIX  = 8", "NAXIS   = 1000000"]));
    refused(&header(&[PRIMARY, "BITPIX  = 8", "NAXIS   = 2", "NAXIS1  = 1"]));
    refused(&[fits(8, &[1, 1], &["BSCALE  = 0.0"], &[1])].concat());
    let endless = format!("{PRIMARY:<80}{}", format!("{:<80}", "COMMENT on and on").repeat(20_000));
    refused(endless.as_bytes());
    // A last page of a stack that is not there.
    let mut last = Reading::scaled(Scale { black: 0.0, white: 1.0 });
    last.page = Some(usize::MAX);
    assert!(read(&claims(&["8", "8", &huge, &huge]), &last).is_err());
}

#[test]
fn damaged_files_are_errors_or_images() {
    let file = [
        unit(PRIMARY, 8, &[], &["OBJECT  = 'a'"], &[]),
        unit(IMAGE, -32, &[5, 3, 3], &["CRPIX1  = 2.0", "CD1_1   = 1.0"], &floats(&[0.5; 45])),
    ]
    .concat();
    read(&file, &Reading::default()).unwrap();
    for cut in (0..file.len()).step_by(7) {
        let _ = read(&file[..cut], &Reading::default());
    }
    let text = (0..3 * BLOCK).filter(|at| file[*at] != b' ');
    for (at, value) in text.flat_map(|at| [0, b' ', b'9', b'-', b'\'', 0xff].map(|value| (at, value))) {
        let mut damaged = file.clone();
        damaged[at] = value;
        let _ = read(&damaged, &Reading::default());
    }
}

#[test]
fn results_are_written_as_they_came() {
    let path = scratch("written");
    let pixels: Vec<f32> = (0..12).map(|k| k as f32 / 6.0 - 1.0).collect();
    let header =
        ["OBJECT  = 'M 31    '           / where", "EXPTIME =                 30.0", "HISTORY dark subtracted"];
    let bytes = fits(-32, &[4, 3], &header, &floats(&[0.5; 12]));
    let source = read(&bytes, &Reading::default()).unwrap();
    for (channels, depth, scale) in [
        (1, BitDepth::Eight, None),
        (1, BitDepth::Sixteen, Some(Scale { black: 100.0, white: 4095.0 })),
        (3, BitDepth::Sixteen, None),
        (1, BitDepth::Float, Some(Scale { black: -50.0, white: 3000.0 })),
        (3, BitDepth::Float, None),
    ] {
        let [h, w] = [12 / channels / 2, 2];
        let tensor = from_f32(pixels.clone(), [1, channels, h, w], &cpu());
        let mut options = WriteOptions { bit_depth: depth, scale, ..WriteOptions::default() };
        options.metadata = source.metadata.clone();
        write_image(&path, &tensor, &options).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len() % BLOCK as u64, 0);
        let reading = Reading::scaled(scale.unwrap_or(depth.scale()));
        let back = read_image_as(&path, &reading, &Limits::default()).unwrap();
        assert_eq!((back.bit_depth, back.scale, back.tensor.dims()), (depth, scale, [1, channels, h, w]));
        let step = if depth == BitDepth::Eight { 0.004 } else { 0.0003 };
        let gap = pixels.iter().zip(to_f32(&back.tensor).unwrap()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(gap < step, "{depth:?}: {gap}");
        let cards: Vec<String> = back.metadata.fits.unwrap().cards().map(|card| card.trim_end().to_owned()).collect();
        assert_eq!(cards, header, "{depth:?}");
    }
    fs::remove_file(&path).unwrap();
    let alpha = WriteOptions { alpha: Some(vec![1.0; 12]), ..WriteOptions::default() };
    let tensor = from_f32(pixels, [1, 1, 4, 3], &cpu());
    assert!(matches!(write_image(&path, &tensor, &alpha), Err(Error::Config(_))));
}

/// Values of light stay light.
#[test]
fn fits_is_linear() {
    let picture = read(&fits(8, &[2, 1], &[], &[0, 255]), &Reading::default()).unwrap();
    let light = Light::of(&picture.metadata, 1).unwrap();
    let grey = from_f32(vec![0.0], [1, 1, 1, 1], &cpu());
    assert!(to_f32(&light.to_light(&grey).unwrap()).unwrap()[0].abs() < 1e-6);
    let (kept, lost) = picture.metadata.fitted(ImageFormat::Png, 1);
    assert_eq!(kept.png_colour, [(*b"gAMA", 100_000_u32.to_be_bytes().to_vec())]);
    assert_eq!(lost, ["the FITS header"]);
    assert_eq!(picture.metadata.fitted(ImageFormat::Tiff, 1).1, ["the FITS header", "gamma and primaries"]);
}

/// Masks of whole numbers, as pipelines write them, and images of kernels.
#[test]
fn masks_and_kernels_may_be_fits() {
    use adir::io::side_inputs::{read_kernel_values, read_mask};
    let path = scratch("mask");
    fs::write(&path, fits(16, &[2, 2], &[], &shorts(&[0, 1, 0, 0]))).unwrap();
    assert_eq!(read_mask(&path, &Limits::default()).unwrap().known(), [true, true, true, false]);
    fs::write(&path, fits(-32, &[2, 2], &[], &floats(&[1.0, 2.0, 3e-4, 4.0]))).unwrap();
    let kernel = read_kernel_values(&path, &Limits::default()).unwrap();
    assert_eq!(kernel.values, [f64::from(3e-4_f32), 4.0, 1.0, 2.0]);
    fs::write(&path, fits(-32, &[2, 1], &[], &floats(&[1.0, f32::NAN]))).unwrap();
    assert!(read_kernel_values(&path, &Limits::default()).is_err());
    assert!(read_image(&path, &Limits::default()).is_err());
    fs::remove_file(path).unwrap();
}
