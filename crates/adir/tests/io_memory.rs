//! Bombs: small files that ask for much. One test alone in its process, which watches the process's own
//! peak memory (Linux only; elsewhere only the errors are checked).

#[path = "../../adir-weights/tests/common/process.rs"]
mod process;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use adir::io::image::read_image;
use adir::io::limits::Limits;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use process::{computing, peak};

const MIB: u64 = 1 << 20;

/// Runs `work` and checks how long it computed and by how much it raised the peak.
fn within<T>(name: &str, most_bytes: u64, most_time: Duration, work: impl FnOnce() -> T) -> T {
    // Resets the peak to the present use.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    let (before, start) = (peak(), computing());
    let result = work();
    if let (Some(start), Some(end)) = (start, computing()) {
        assert!(end - start <= most_time, "{name}: {:?}", end - start);
    }
    if let (Some(before), Some(after)) = (before, peak()) {
        let grown = after.saturating_sub(before);
        assert!(grown <= most_bytes, "{name}: {} MiB", grown / MIB);
    }
    result
}

fn png_chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut crc = flate2::Crc::new();
    crc.update(kind);
    crc.update(data);
    [&(data.len() as u32).to_be_bytes(), &kind[..], data, &crc.sum().to_be_bytes()].concat()
}

/// A PNG of these dimensions, depth and colour type, with chunks between header and end.
fn png(width: u32, height: u32, depth: u8, color: u8, chunks: &[Vec<u8>]) -> Vec<u8> {
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[depth, color, 0, 0, 0]].concat();
    let mut file = b"\x89PNG\r\n\x1a\n".to_vec();
    file.extend(png_chunk(b"IHDR", &header));
    chunks.iter().for_each(|chunk| file.extend(chunk));
    file.extend(png_chunk(b"IEND", b""));
    file
}

fn zeros_deflated(len: u64) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
    let block = vec![0; MIB as usize];
    for _ in 0..len / MIB {
        encoder.write_all(&block).unwrap();
    }
    encoder.write_all(&block[..(len % MIB) as usize]).unwrap();
    encoder.finish().unwrap()
}

/// An uncompressed little-endian TIFF header with these tags and no data.
fn tiff(tags: &[(u16, u16, u32, u32)]) -> Vec<u8> {
    let mut file = b"II\x2a\0\x08\0\0\0".to_vec();
    file.extend((tags.len() as u16).to_le_bytes());
    for (tag, kind, count, value) in tags {
        file.extend([&tag.to_le_bytes()[..], &kind.to_le_bytes(), &count.to_le_bytes(), &value.to_le_bytes()].concat());
    }
    file.extend([0; 4]);
    file
}

/// A TIFF of 8x8 pixels, whose one tile claims 16384x32768, and as many bytes in runs of 128 KiB.
fn zstd_tile() -> Vec<u8> {
    // A frame without its size, with a window of 128 KiB.
    let mut data = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 0x38];
    let blocks = 512 * MIB / (128 << 10);
    for block in 1..=blocks {
        let head = u32::from(block == blocks) | 1 << 1 | (128 << 10) << 3;
        data.extend(&head.to_le_bytes()[..3]);
        data.push(7);
    }
    let tags = |at: u32| {
        tiff(&[
            (256, 4, 1, 8),
            (257, 4, 1, 8),
            (258, 3, 1, 8),
            (259, 3, 1, 50000),
            (262, 3, 1, 1),
            (322, 4, 1, 16384),
            (323, 4, 1, 32768),
            (324, 4, 1, at),
            (325, 4, 1, data.len() as u32),
        ])
    };
    let at = tags(0).len() as u32;
    [tags(at), data.clone()].concat()
}

/// An OpenEXR header of tiled floats and no data.
fn exr(window: [i32; 4], tile: [u32; 2]) -> Vec<u8> {
    let mut file = b"v/1\x01\x02\x02\0\0".to_vec();
    let mut put = |name: &[u8], value: &[u8]| file.extend([name, &(value.len() as u32).to_le_bytes(), value].concat());
    put(b"channels\0chlist\0", b"Y\0\x02\0\0\0\0\0\0\0\x01\0\0\0\x01\0\0\0\0");
    put(b"compression\0compression\0", &[3]);
    let window = window.map(i32::to_le_bytes).concat();
    put(b"dataWindow\0box2i\0", &window);
    put(b"displayWindow\0box2i\0", &window);
    put(b"tiles\0tiledesc\0", &[&tile.map(u32::to_le_bytes).concat()[..], &[0]].concat());
    file.push(0);
    file
}

/// A FITS header of these axes and no data.
fn fits(axes: &[&str]) -> Vec<u8> {
    let mut cards = vec!["SIMPLE  = T".to_owned(), "BITPIX  = 8".to_owned(), format!("NAXIS   = {}", axes.len())];
    cards.extend(axes.iter().zip(1..).map(|(axis, k)| format!("NAXIS{k}  = {axis}")));
    cards.push("END".into());
    format!("{:<2880}", cards.iter().map(|card| format!("{card:<80}")).collect::<String>()).into_bytes()
}

fn image_bombs() -> Vec<(&'static str, Vec<u8>)> {
    let pixels = png_chunk(b"IDAT", &zeros_deflated(100));
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/io_fixtures");
    let mut jpeg = std::fs::read(fixtures.join("orientation1.jpg")).unwrap();
    let frame = jpeg.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    let mut within_limits = jpeg.clone();
    jpeg[frame + 5..frame + 9].fill(0xff);
    within_limits[frame + 5..frame + 9].copy_from_slice(&[0x20, 0, 0x20, 0]);
    let cut_short: Vec<u8> = within_limits[..within_limits.len() / 2].to_vec();
    let mut webp = std::fs::read(fixtures.join("lossless.webp")).unwrap();
    let image = webp.windows(4).position(|w| w == b"VP8L").unwrap();
    webp[image + 9..image + 12].fill(0xff);
    let mut animated = std::fs::read(fixtures.join("animated.webp")).unwrap();
    let canvas = animated.windows(4).position(|w| w == b"VP8X").unwrap();
    animated[canvas + 12..canvas + 18].fill(0xff);
    let tags = |width, height, bits| {
        tiff(&[
            (256, 4, 1, width),
            (257, 4, 1, height),
            (258, 3, 1, bits),
            (259, 3, 1, 1),
            (262, 3, 1, 1),
            (273, 4, 1, 8),
            (278, 4, 1, height),
            (279, 4, 1, u32::MAX),
        ])
    };
    let icc = png_chunk(b"iCCP", &[b"p\0\0", &zeros_deflated(512 * MIB)[..]].concat());
    vec![
        ("PNG of 100,000 a side", png(100_000, 100_000, 8, 2, std::slice::from_ref(&pixels))),
        ("PNG of the largest size", png(0x7fff_ffff, 0x7fff_ffff, 16, 6, std::slice::from_ref(&pixels))),
        ("PNG, 16-bit RGBA, too large", png(8192, 8193, 16, 6, std::slice::from_ref(&pixels))),
        ("PNG, 16-bit RGBA, no data", png(8192, 8192, 16, 6, &[])),
        ("PNG, 16-bit RGBA, little data", png(8192, 8192, 16, 6, std::slice::from_ref(&pixels))),
        ("PNG, palette, large", png(8192, 8192, 1, 3, &[png_chunk(b"PLTE", &[0; 6]), pixels.clone()])),
        ("PNG, profile of 512 MiB and no pixels", png(8, 8, 8, 0, &[icc])),
        ("PNG, animated, of 100,000 a side", {
            let control = png_chunk(b"acTL", &[0, 1, 0, 0, 0, 0, 0, 0]);
            png(100_000, 100_000, 8, 2, &[control, pixels])
        }),
        ("JPEG of 65,535 a side", jpeg),
        ("JPEG, cut off", cut_short),
        ("WebP of 16,384 a side", webp),
        ("WebP, animated, of 16,777,216 a side", animated),
        ("TIFF of 4,294,967,295 a side", tags(u32::MAX, u32::MAX, 8)),
        ("TIFF within the limits and without data", tags(8192, 8192, 8)),
        ("OpenEXR of 2^31 a side", exr([0, 0, i32::MAX, i32::MAX], [64, 64])),
        ("OpenEXR within the limits and without data", exr([0, 0, 8191, 8191], [64, 64])),
        ("OpenEXR, huge tiles", exr([0, 0, 7, 7], [u32::MAX, u32::MAX])),
        ("FITS of 10^9 a side", fits(&["1000000000", "1000000000"])),
        ("FITS within the limits and without data", fits(&["8192", "8192"])),
        ("FITS, many pages", fits(&["8", "8", "9000000000000000000"])),
        (
            "FITS with a header of 64 MiB",
            format!("{:<80}", "SIMPLE  = T").repeat((64 * MIB / 80) as usize).into_bytes(),
        ),
        ("TIFF, a tile of ZSTD that becomes 512 MiB", zstd_tile()),
        ("TIFF with a value of 4 GiB", tiff(&[(256, 4, u32::MAX, 8), (257, 4, 1, 8)])),
    ]
}

fn scratch(name: &str, content: &[u8]) -> PathBuf {
    let path = std::env::temp_dir().join(format!("adir-memory-{}-{name}", std::process::id()));
    std::fs::write(&path, content).unwrap();
    path
}

#[test]
fn bombs_end_in_an_error_soon_and_in_little_memory() {
    let second = Duration::from_secs(1);
    // The first look at a file sets up what stays: not the bomb's doing.
    let _ = read_image(&scratch("image", b""), &Limits::default());
    for (name, bytes) in image_bombs() {
        let path = scratch("image", &bytes);
        let result = within(name, 64 * MIB, second, || read_image(&path, &Limits::default()).map(|_| ()));
        assert!(result.is_err() || name.contains("no pixels"), "{name} is accepted");
    }

    // Text that would inflate to 1 GiB beside real pixels: the picture is read, the text is not.
    let text = png_chunk(b"zTXt", &[b"k\0\0", &zeros_deflated(1024 * MIB)[..]].concat());
    let pixels = png_chunk(b"IDAT", &zeros_deflated(64 * 65));
    let file = png(64, 64, 8, 0, &[text.clone(), pixels, text]);
    assert!(file.len() as u64 > 4 * MIB);
    let path = scratch("image", &file);
    let picture = within("zTXt", 16 * MIB, second, || read_image(&path, &Limits::default())).unwrap();
    assert_eq!(picture.tensor.dims(), [1, 1, 64, 64]);

    std::fs::remove_file(scratch("image", b"")).unwrap();
}
