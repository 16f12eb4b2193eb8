//! Files as cameras, scanners, microscopes and other programs write them: read, or refused by name.

use std::fs;
use std::path::{Path, PathBuf};

use adir::Error;
use adir::io::image::{
    BitDepth, Metadata, Picture, Reading, Scale, WriteOptions, read_bytes, read_image_as, write_image,
};
use adir::io::limits::Limits;
use adir::tensor::{cpu, from_f32, to_f32};

/// A folder of its own for each test, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("adir-kinds-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn fixture(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/io_fixtures").join(name)).unwrap()
}

fn read(path: &Path) -> Result<Picture, Error> {
    Picture::read(path)
}

fn scaled(path: &Path, black: f64, white: f64) -> Picture {
    read_image_as(path, &Reading::scaled(Scale { black, white }), &Limits::default()).unwrap()
}

/// The message of an input that is refused.
fn refusal(path: &Path) -> String {
    match read(path) {
        Err(Error::Input { message, .. }) => message,
        other => panic!("{}: expected to be refused, found {other:?}", path.display()),
    }
}

/// A directory of a TIFF file: texts (2), shorts (3) and longs (4), and the data of its one strip.
#[derive(Clone)]
struct Directory {
    tags: Vec<(u16, u16, Vec<u32>)>,
    data: Vec<u8>,
}

impl Directory {
    fn new([width, height]: [u32; 2], bits: u32, photometric: u32, data: Vec<u8>) -> Self {
        let tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (278, height)];
        Self { tags: tags.into_iter().map(|(tag, value)| (tag, 4, vec![value])).collect(), data }
    }

    fn with(mut self, tag: u16, values: &[u32]) -> Self {
        self.tags.retain(|(other, ..)| *other != tag);
        let kind = match tag {
            270 => 2,
            258 | 320 | 338 | 339 => 3,
            _ => 4,
        };
        self.tags.push((tag, kind, values.to_vec()));
        self
    }

    fn described(self, text: &str) -> Self {
        self.with(270, &text.bytes().chain([0]).map(u32::from).collect::<Vec<_>>())
    }

    /// The bytes, put at `at`, with the next directory behind them if `more`.
    fn bytes(&self, at: usize, more: bool) -> Vec<u8> {
        let this = self.clone().with(273, &[0]).with(279, &[self.data.len() as u32]);
        let mut tags = this.tags;
        tags.sort_unstable();
        let mut behind = at + 2 + 12 * tags.len() + 4;
        let (mut entries, mut long) = (Vec::new(), Vec::new());
        let bytes = |kind: u16| 1_usize << (kind - 2);
        let size: usize = tags.iter().map(|(_, kind, v)| v.len() * bytes(*kind)).filter(|n| *n > 4).sum();
        let data_at = behind + size;
        for (tag, kind, values) in &mut tags {
            if *tag == 273 {
                *values = vec![data_at as u32];
            }
            let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()[..bytes(*kind)].to_vec()).collect();
            entries
                .extend([&tag.to_le_bytes()[..], &kind.to_le_bytes(), &(values.len() as u32).to_le_bytes()].concat());
            if raw.len() > 4 {
                entries.extend((behind as u32).to_le_bytes());
                behind += raw.len();
                long.extend(raw);
            } else {
                entries.extend([raw.clone(), vec![0; 4 - raw.len()]].concat());
            }
        }
        let next = if more { data_at + self.data.len() } else { 0 };
        [&(tags.len() as u16).to_le_bytes()[..], &entries, &(next as u32).to_le_bytes(), &long, &self.data].concat()
    }
}

fn tiff(directories: &[Directory]) -> Vec<u8> {
    let mut file = b"II\x2a\0\x08\0\0\0".to_vec();
    for (i, directory) in directories.iter().enumerate() {
        let bytes = directory.bytes(file.len(), i + 1 < directories.len());
        file.extend(bytes);
    }
    file
}

fn levels(picture: &Picture) -> Vec<f32> {
    to_f32(&picture.tensor).unwrap().iter().map(|v| ((v + 1.0) * 127.5).round()).collect()
}

#[test]
fn few_bits_and_palettes_are_read() {
    let f = Scratch::new("bits");
    // 10 pixels a row: 1010101010 and its complement, with bits of padding.
    let bits = vec![0b1010_1010, 0b1011_1111, 0b0101_0101, 0b0100_0000];
    let black_is_zero = f.file("b.tif", &tiff(&[Directory::new([10, 2], 1, 1, bits.clone())]));
    let first = [255.0, 0.0].repeat(5);
    let second = [0.0, 255.0].repeat(5);
    assert_eq!(levels(&read(&black_is_zero).unwrap()), [first.clone(), second.clone()].concat());
    let white_is_zero = f.file("w.tif", &tiff(&[Directory::new([10, 2], 1, 0, bits)]));
    assert_eq!(levels(&read(&white_is_zero).unwrap()), [second, first].concat());
    let nibbles = f.file("n.tif", &tiff(&[Directory::new([3, 1], 4, 1, vec![0x0f, 0x80])]));
    assert_eq!(levels(&read(&nibbles).unwrap()), [0.0, 255.0, 136.0]);
    let map: Vec<u32> = [[0, 255, 10, 0], [0, 0, 20, 0], [0, 0, 30, 255]].concat().iter().map(|v| v * 257).collect();
    let palette = Directory::new([4, 1], 2, 3, vec![0b0001_1011]).with(320, &map);
    let picture = read(&f.file("p.tif", &tiff(std::slice::from_ref(&palette)))).unwrap();
    assert_eq!(levels(&picture), [0.0, 255.0, 10.0, 0.0, 0.0, 0.0, 20.0, 0.0, 0.0, 0.0, 30.0, 255.0]);
    let beyond = Directory::new([1, 1], 8, 3, vec![4]).with(320, &map);
    assert!(refusal(&f.file("beyond.tif", &tiff(&[beyond]))).contains("palette of 4"));
}

#[test]
fn other_types_of_numbers_are_read_or_ask_for_white() {
    let f = Scratch::new("types");
    let signed: Vec<u8> = [-1000_i16, 0, 1000, 3000].iter().flat_map(|v| v.to_le_bytes()).collect();
    let path = f.file("i16.tif", &tiff(&[Directory::new([4, 1], 16, 1, signed).with(339, &[2])]));
    let message = refusal(&path);
    assert!(message.contains("signed 16-bit") && message.contains("--black -1000 --white 3000"), "{message}");
    let picture = scaled(&path, -1000.0, 3000.0);
    assert_eq!(to_f32(&picture.tensor).unwrap(), [-1.0, -0.5, 0.0, 1.0]);
    // In the values of the file again.
    picture.write(f.0.join("again.tif")).unwrap();
    assert_eq!(to_f32(&scaled(&f.0.join("again.tif"), 0.0, 1.0).tensor).unwrap(), [-2001.0, -1.0, 1999.0, 5999.0]);
    let half: Vec<u8> = [0x0000_u16, 0x3800, 0x3c00].iter().flat_map(|v| v.to_le_bytes()).collect();
    let half = f.file("f16.tif", &tiff(&[Directory::new([3, 1], 16, 1, half).with(339, &[3])]));
    assert_eq!(to_f32(&read(&half).unwrap().tensor).unwrap(), [-1.0, 0.0, 1.0]);
    let wide = |values: [u32; 2]| {
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        f.file("u32.tif", &tiff(&[Directory::new([2, 1], 32, 1, data)]))
    };
    assert_eq!(to_f32(&read(&wide([0, u32::MAX])).unwrap().tensor).unwrap(), [-1.0, 1.0]);
    assert!(refusal(&wide([0, 4000])).contains("32-bit integers from 0 to 4000"));
}

/// 12 bits in 16, and floats of 0 to 255: values are mapped to black and white, and written as they came.
#[test]
fn results_are_in_the_values_of_the_file() {
    let f = Scratch::new("scale");
    let twelve: Vec<u8> = [0_u16, 819, 4095, 5000].iter().flat_map(|v| v.to_le_bytes()).collect();
    let path = f.file("12.tif", &tiff(&[Directory::new([4, 1], 16, 1, twelve.clone())]));
    let picture = scaled(&path, 0.0, 4095.0);
    let values = to_f32(&picture.tensor).unwrap();
    assert!((values[1] + 0.6).abs() < 1e-6 && (values[2] - 1.0).abs() < 1e-6 && values[3] > 1.0, "{values:?}");
    assert!((picture.rounding().0 - 2.0 / 4095.0 / 12.0_f64.sqrt()).abs() < 1e-12);
    for name in ["x.tif", "x.png"] {
        picture.write(f.0.join(name)).unwrap();
        let again = read(&f.0.join(name)).unwrap();
        let stored: Vec<f32> = to_f32(&again.tensor).unwrap().iter().map(|v| ((v + 1.0) * 32767.5).round()).collect();
        assert_eq!(stored, [0.0, 819.0, 4095.0, 5000.0], "{name}");
    }
    picture.write(f.0.join("x.jpg")).unwrap();
    assert!(levels(&read(&f.0.join("x.jpg")).unwrap())[2] > 240.0, "8 bits have a white of their own");
    let floats: Vec<u8> = [28.0_f32, 145.0, 176.0].iter().flat_map(|v| v.to_le_bytes()).collect();
    let path = f.file("255.tif", &tiff(&[Directory::new([3, 1], 32, 1, floats).with(339, &[3])]));
    assert!(refusal(&path).contains("28 to 176") && refusal(&path).contains("--white 255"));
    let picture = scaled(&path, 0.0, 255.0);
    assert_eq!((levels(&picture), picture.bit_depth), (vec![28.0, 145.0, 176.0], BitDepth::Float));
}

#[test]
fn pages_are_whole_images() {
    let f = Scratch::new("pages");
    let page = |level: u8| Directory::new([2, 2], 8, 1, vec![level; 4]);
    let small = Directory::new([1, 1], 8, 1, vec![9]).with(254, &[1]);
    let path = f.file("stack.tif", &tiff(&[small.clone(), page(10), page(20), small.clone(), page(30)]));
    let first = read(&path).unwrap();
    assert_eq!(levels(&first), [10.0; 4]);
    assert!(first.warnings[0].contains("page 1 of 3 only"), "{:?}", first.warnings);
    let mut reading = Reading::default();
    reading.page = Some(3);
    let third = read_image_as(&path, &reading, &Limits::default()).unwrap();
    assert_eq!((levels(&third), third.warnings.len()), (vec![30.0; 4], 0));
    reading.page = Some(4);
    assert!(matches!(read_image_as(&path, &reading, &Limits::default()), Err(Error::Config(_))));
    // One image and smaller versions of it are one page.
    let pyramid = read(&f.file("pyramid.tif", &tiff(&[page(10), small]))).unwrap();
    assert!(pyramid.warnings.is_empty());
    // An animation: its frames are counted, too.
    let animated = f.file("a.webp", &fixture("animated.webp"));
    assert!(read(&animated).unwrap().warnings[0].contains("page 1 of"));
}

/// Images behind the one of a page, which have none of their own: large stacks of ImageJ, what tifffile truncates, volumes. A page
/// that was taken out of a stack with its description is what it is.
#[test]
fn images_without_a_page_are_refused() {
    let f = Scratch::new("hidden");
    let page = |count: usize| Directory::new([2, 2], 8, 1, vec![7; 4 * count]);
    let imagej = "ImageJ=1.54f\nimages=3\nslices=3\n";
    let shaped = "{\"shape\": [3, 2, 2], \"truncated\": true}";
    for (name, directory) in [
        ("imagej.tif", page(3).described(imagej)),
        ("shaped.tif", page(3).described(shaped)),
        ("volume.tif", page(3).with(32997, &[3])),
    ] {
        let message = refusal(&f.file(name, &tiff(&[directory])));
        assert!(message.contains("holds 3 images in one page"), "{name}: {message}");
    }
    let pages = [page(1).described(imagej), page(1), page(1)];
    assert_eq!(read(&f.file("stack.tif", &tiff(&pages))).unwrap().pages, 3);
    for directory in [page(1).described(imagej), page(1).described("{\"shape\": [2, 2]}"), page(1).with(32997, &[1])] {
        assert_eq!(levels(&read(&f.file("one.tif", &tiff(&[directory]))).unwrap()), [7.0; 4]);
    }
}

#[test]
fn channels_without_meaning_are_refused() {
    let f = Scratch::new("channels");
    let channels = |n: u32, photometric: u32, extra: &[u32]| {
        let directory = Directory::new([1, 1], 8, photometric, vec![7; n as usize]).with(277, &[n]);
        let directory = directory.with(258, &vec![8; n as usize]);
        let directory = if extra.is_empty() { directory } else { directory.with(338, extra) };
        f.file(&format!("{n}.tif"), &tiff(&[directory]))
    };
    assert!(refusal(&channels(2, 1, &[])).contains("2 channels"));
    assert!(refusal(&channels(2, 1, &[0])).contains("2 channels"));
    assert!(refusal(&channels(4, 2, &[0])).contains("4 channels"));
    assert!(refusal(&channels(4, 2, &[])).contains("4 channels"));
    assert!(refusal(&channels(5, 2, &[2, 0])).contains("5 channels"));
    for (path, associated) in [(channels(2, 1, &[2]), false), (channels(4, 2, &[1]), true)] {
        let picture = read(&path).unwrap();
        assert_eq!((picture.alpha.is_some(), picture.associated_alpha), (true, associated));
        let output = f.0.join("x.tif");
        picture.write(&output).unwrap();
        assert_eq!(read(&output).unwrap().associated_alpha, associated);
        assert_eq!(picture.write(f.0.join("x.png")).is_err(), associated, "which PNG cannot say");
    }
}

#[test]
fn camera_raw_and_unknown_kinds_are_refused_by_name() {
    let f = Scratch::new("raw");
    let preview = Directory::new([2, 2], 8, 1, vec![1; 4]);
    let negative = preview.clone().with(254, &[1]).with(50706, &[0x0000_0401]);
    let sensor = Directory::new([4, 4], 8, 32803, vec![1; 16]);
    for directories in [vec![negative], vec![preview.clone(), sensor.clone()], vec![sensor]] {
        assert!(refusal(&f.file("renamed.tif", &tiff(&directories))).contains("camera raw"));
    }
    assert!(refusal(&f.file("photo.NEF", &tiff(std::slice::from_ref(&preview)))).contains("camera raw"));
    assert!(refusal(&f.file("x.tif", b"FUJIFILMCCD-RAW 0201")).contains("camera raw"));
    let kinds =
        [(259, 50000, "ZSTD"), (259, 34925, "LZMA"), (259, 3, "Group 3"), (262, 5, "CMYK"), (258, 12, "12 bits")];
    for (tag, value, name) in kinds {
        let message = refusal(&f.file("k.tif", &tiff(&[preview.clone().with(tag, &[value])])));
        assert!(message.contains(name), "{message}");
    }
    assert!(refusal(&f.file("y.png", b"8BPS\0\x01....")).contains("Photoshop"));
}

/// Data that lack pixels are refused, with and without an end marker; a marker that is all that lacks is no loss.
#[test]
fn jpeg_files_are_whole_by_their_data() {
    let f = Scratch::new("jpeg");
    for name in ["orientation1.jpg", "progressive_grey.jpg"] {
        let whole = fixture(name);
        let end = whole.windows(2).rposition(|pair| pair == [0xff, 0xd9]).unwrap();
        let expected = levels(&read(&f.file(name, &whole)).unwrap());
        let open = read(&f.file(name, &whole[..end])).unwrap();
        assert!(levels(&open) == expected && open.warnings[0].contains("marker is missing"), "{name}");
        let trailing = [&whole[..], b"and more \xff\xd9"].concat();
        assert!(levels(&read(&f.file(name, &trailing)).unwrap()) == expected);
        let scan = whole.windows(2).rposition(|pair| pair == [0xff, 0xda]).unwrap() + 12;
        for part in [0.2, 0.5, 0.8] {
            let cut = scan + ((end - scan) as f64 * part) as usize;
            let closed = [&whole[..cut], &[0xff, 0xd9]].concat();
            assert!(refusal(&f.file(name, &closed)).contains("cut off"), "{name} at {cut}, closed");
            assert!(refusal(&f.file(name, &whole[..cut])).contains("cut off"), "{name} at {cut}");
        }
    }
}

#[test]
fn metadata_go_where_the_format_has_a_place() {
    let f = Scratch::new("metadata");
    let tensor = from_f32(vec![0.0; 12], [1, 3, 2, 2], &cpu());
    let mut metadata = Metadata::default();
    let text = |keyword: &str, text: &str| adir::io::image::Text { keyword: keyword.into(), text: text.into() };
    metadata.resolution = Some(adir::io::image::Resolution { x: 300.0, y: 150.0 });
    metadata.xmp = Some(b"<x:xmpmeta/>".to_vec());
    metadata.texts = vec![text("Description", "a scan"), text("Author", "A. Uthor")];
    metadata.png_colour = vec![(*b"gAMA", 100_000_u32.to_be_bytes().to_vec())];
    for name in ["a.png", "a.jpg", "a.tif", "a.webp"] {
        let path = f.0.join(name);
        write_image(&path, &tensor, &WriteOptions { metadata: metadata.clone(), ..WriteOptions::default() }).unwrap();
        let found = read(&path).unwrap().metadata;
        assert_eq!(found.xmp, metadata.xmp, "{name}");
        assert_eq!(found.png_colour, if name == "a.png" { metadata.png_colour.clone() } else { Vec::new() });
        let texts = match name {
            "a.webp" => Vec::new(),
            "a.jpg" => vec![text("Comment", "a scan"), text("Comment", "Author: A. Uthor")],
            _ => metadata.texts.clone(),
        };
        assert_eq!(found.texts, texts, "{name}");
        let resolution = found.resolution.map(|r| [r.x.round(), r.y.round()]);
        assert_eq!(resolution, (name != "a.webp").then_some([300.0, 150.0]), "{name}");
    }
}

/// EXIF goes from TIFF to the others and back, upright and without maker notes.
#[test]
fn exif_crosses_tiff() {
    let scratch = Scratch::new("exif");
    // Make, a time, a place, an orientation, and pointers to directories of the file, which come first.
    let mut file = b"II\x2a\0\0\0\0\0".to_vec();
    let directory = |entries: &[(u16, u16, u32, [u8; 4])]| {
        let entries = entries.iter().map(|(tag, kind, count, value)| {
            [&tag.to_le_bytes()[..], &kind.to_le_bytes(), &count.to_le_bytes(), value].concat()
        });
        let entries: Vec<Vec<u8>> = entries.collect();
        [&(entries.len() as u16).to_le_bytes()[..], &entries.concat(), &[0; 4]].concat()
    };
    let exif_at = file.len() as u32;
    file.extend(directory(&[(34855, 3, 1, [200, 0, 0, 0]), (36864, 7, 4, *b"0230"), (37500, 7, 4, *b"NOTE")]));
    let gps_at = file.len() as u32;
    file.extend(directory(&[(1, 2, 2, *b"N\0\0\0")]));
    let main_at = file.len() as u32;
    file[4..8].copy_from_slice(&main_at.to_le_bytes());
    let number = |value: u32| value.to_le_bytes();
    file.extend(directory(&[
        (256, 4, 1, number(2)),
        (257, 4, 1, number(1)),
        (258, 3, 1, number(8)),
        (259, 3, 1, number(1)),
        (262, 3, 1, number(1)),
        (271, 2, 4, *b"Cam\0"),
        (273, 4, 1, number(8)),
        (274, 3, 1, number(6)),
        (278, 4, 1, number(1)),
        (279, 4, 1, number(2)),
        (34665, 4, 1, number(exif_at)),
        (34853, 4, 1, number(gps_at)),
    ]));
    let source = scratch.file("y.tif", &file);
    let picture = read(&source).unwrap();
    assert_eq!(picture.tensor.dims(), [1, 1, 2, 1], "turned");
    let exif = picture.metadata.exif.clone().unwrap();
    let holds = |exif: &[u8], bytes: &[u8]| exif.windows(bytes.len()).any(|window| window == bytes);
    for (bytes, there) in
        [(&b"Cam\0"[..], true), (b"0230", true), (&[1, 0, 2, 0, 2, 0, 0, 0, b'N'], true), (b"NOTE", false)]
    {
        assert_eq!(holds(&exif, bytes), there, "{bytes:?}");
    }
    assert_eq!(picture.metadata.left_out, ["parts of EXIF, such as the maker note"]);
    let mut options = WriteOptions { metadata: picture.metadata.clone(), ..WriteOptions::default() };
    for name in ["x.png", "x.jpg", "x.webp", "x.tif", "again.tif"] {
        let path = scratch.0.join(name);
        write_image(&path, &picture.tensor, &options).unwrap();
        let back = read(&path).unwrap();
        assert_eq!(back.metadata.exif.as_ref(), Some(&exif), "{name}");
        assert_eq!(back.tensor.dims(), [1, if name == "x.webp" { 3 } else { 1 }, 2, 1], "{name} is upright");
        options.metadata = back.metadata;
    }
}

/// ZSTD strips and tiles, little and big endian, with predictors and palettes: by tifffile.
#[test]
fn zstd_is_read() {
    let expect = |name: &str, values: &dyn Fn(usize) -> f32| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/io_fixtures").join(name);
        let picture = scaled(&path, 0.0, 1.0);
        let found: Vec<f32> = to_f32(&picture.tensor).unwrap().iter().map(|v| (v + 1.0) / 2.0).collect();
        let expected: Vec<f32> = (0..found.len()).map(values).collect();
        assert_eq!(found, expected, "{name}");
    };
    // Channel, row and column of a value of an image of 20 columns and 30 rows.
    let rgb = |i: usize| ((i % 20) * 3 + i / 20 % 30 * 5 + i / 600 * 7) as f32;
    expect("zstd_rgb.tif", &rgb);
    expect("zstd_tiles16.tif", &|i| 256.0 * rgb(i));
    expect("zstd_float.tif", &|i| rgb(i) / 8.0);
    let mut damaged = fixture("zstd_rgb.tif");
    for at in 8..damaged.len() {
        let byte = std::mem::replace(&mut damaged[at], 0xff);
        let _ = read_bytes(Path::new("y.tif"), &damaged, &Reading::default(), &Limits::default());
        damaged[at] = byte;
    }
    for cut in 0..damaged.len() {
        assert!(read_bytes(Path::new("y.tif"), &damaged[..cut], &Reading::default(), &Limits::default()).is_err());
    }
}
