//! Files that are no images this program reads, by name, so that a message can say what they are.

use std::path::Path;

/// Extensions of camera raw files.
const RAW_EXTENSIONS: [&str; 33] = [
    "3fr", "arw", "cr2", "cr3", "crw", "dcr", "dng", "erf", "fff", "gpr", "iiq", "k25", "kdc", "mdc", "mef", "mos",
    "mrw", "nef", "nrw", "orf", "pef", "raf", "raw", "rw2", "rwl", "sr2", "srf", "srw", "x3f", "cap", "eip", "bay",
    "dcs",
];

/// What camera raw files are called.
const RAW: &str = "camera raw";

/// What to do with a camera raw file.
pub const DEVELOP: &str = "is a camera raw file, which is not read (nor is the preview in it): develop it first, for \
                           example to a 16-bit TIFF with darktable, RawTherapee or dcraw -6 -T";

/// Extensions of other images, with what [`other_kind`] calls them.
const OTHER_EXTENSIONS: [(&str, &str); 21] = [
    ("bmp", "BMP"),
    ("dib", "BMP"),
    ("gif", "GIF"),
    ("heic", "HEIF"),
    ("heif", "HEIF"),
    ("jp2", "JPEG 2000"),
    ("j2k", "JPEG 2000"),
    ("jpf", "JPEG 2000"),
    ("psd", "Photoshop"),
    ("psb", "Photoshop"),
    ("hdr", "Radiance HDR"),
    ("pgm", "Netpbm"),
    ("ppm", "Netpbm"),
    ("pbm", "Netpbm"),
    ("pnm", "Netpbm"),
    ("pfm", "Netpbm"),
    ("dcm", "DICOM"),
    ("tga", "Targa"),
    ("ico", "Windows icon"),
    ("xcf", "GIMP"),
    ("svg", "SVG"),
];

/// The extension of a name in small letters.
fn extension(path: &Path) -> String {
    path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase()
}

/// What a file is by its name that is an image which cannot be read.
pub fn kind_of_name(path: &Path) -> Option<&'static str> {
    let extension = extension(path);
    if RAW_EXTENSIONS.contains(&extension.as_str()) {
        return Some(RAW);
    }
    OTHER_EXTENSIONS.iter().find(|(end, _)| *end == extension).map(|(_, kind)| *kind)
}

/// Whether first bytes or the name are those of a camera raw file.
pub fn is_raw(path: &Path, start: &[u8]) -> bool {
    RAW_EXTENSIONS.contains(&extension(path).as_str())
        || matches!(
            start,
            [b'I', b'I', 42, 0, _, _, _, _, b'C', b'R', ..]
                | [b'I', b'I', b'R', b'O' | b'S', ..]
                | [b'M', b'M', b'O', b'R', ..]
                | [b'I', b'I', b'U', 0, ..]
                | [b'I', b'I', 0x1a, 0, 0, 0, b'H', b'E', b'A', b'P', ..]
                | [b'F', b'U', b'J', b'I', b'F', b'I', b'L', b'M', b'C', b'C', b'D', b'-', ..]
                | [b'F', b'O', b'V', b'b', ..]
                | [0, b'M', b'R', b'M', ..]
                | [_, _, _, _, b'f', b't', b'y', b'p', b'c', b'r', b'x', b' ', ..]
        )
}

/// What a file is that is no image which can be read, if its first bytes tell.
pub fn other_kind(start: &[u8]) -> Option<&'static str> {
    Some(match start {
        [b'G', b'I', b'F', b'8', ..] => "GIF",
        [b'B', b'M', ..] if start.len() >= 12 && start[6..10] == [0; 4] => "BMP",
        [_, _, _, _, b'f', b't', b'y', b'p', b'h' | b'm', ..] => "HEIF",
        [0, 0, 0, 12, b'j', b'P', ..] | [0xff, 0x4f, 0xff, 0x51, ..] => "JPEG 2000",
        [b'8', b'B', b'P', b'S', ..] => "Photoshop",
        [b'%', b'P', b'D', b'F', ..] => "PDF",
        [b'#', b'?', b'R', b'A', b'D' | b'G', ..] => "Radiance HDR",
        [b'P', b'1'..=b'7' | b'F' | b'f', b' ' | b'\n' | b'\r' | b'\t', ..] => "Netpbm",
        [b'D', b'I', b'C', b'M', ..] => "DICOM",
        [0x1f, 0x8b, ..] => "gzip",
        _ => return None,
    })
}

/// What to do with a file of that kind.
pub fn way_out(kind: &str) -> &'static str {
    match kind {
        "HEIF" => "convert it first, for example with heif-convert x.heic x.png",
        "gzip" => "unpack it first with gunzip",
        RAW => "develop it first, for example to a 16-bit TIFF with darktable or RawTherapee",
        _ => "convert it first",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_images_are_known_by_their_names() {
        let kind = |name: &str| kind_of_name(Path::new(name));
        assert_eq!([kind("a.BMP"), kind("b.x.heic"), kind("c.NEF")], [Some("BMP"), Some("HEIF"), Some(RAW)]);
        assert_eq!([kind("a.png"), kind("bmp"), kind("notes.txt")], [None; 3]);
    }

    #[test]
    fn camera_raw_is_known_by_name_and_by_content() {
        for name in ["a.DNG", "b.cr2", "c.nef", "d.ARW", "e.orf", "f.rw2", "g.raf"] {
            assert!(is_raw(Path::new(name), b"anything"), "{name}");
        }
        let starts: [&[u8]; 5] = [
            b"II*\0\x10\0\0\0CR\x02\0",
            b"IIRO\x08\0\0\0",
            b"IIU\0\x18\0\0\0",
            b"FUJIFILMCCD-RAW",
            b"\0\0\0\x18ftypcrx ",
        ];
        for start in starts {
            assert!(is_raw(Path::new("renamed.tif"), start), "{start:?}");
        }
        for start in [&b"II*\0\x08\0\0\0\x01\0CR"[..], b"MM\0*\0\0\0\x08....", b"\x89PNG\r\n\x1a\n....", b""] {
            assert!(!is_raw(Path::new("a.tif"), start), "{start:?}");
        }
    }
}
