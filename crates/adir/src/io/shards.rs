//! Images inside tar files, as WebDataset packs them: found by their headers, read in place, never unpacked.
//!
//! An image in `0001.tar` under the name `a/b.jpg` has the path `0001.tar/a/b.jpg`. Links, folders, devices and sparse
//! members are no images; names that leave the archive are left out. What a header declares is compared with the file
//! before it is believed.

use std::collections::HashSet;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::folder::{is_image_name, is_plain};
use super::hash::{ContentHash, sha256};
use super::image::{Picture, Reading, read_bytes, read_image};
use super::limits::Limits;
use super::open_regular;
use super::tally::Tally;
use super::tar::Headers;
use crate::{Error, Result};

/// Most members of a shard; each takes a header in the file, too.
const MAX_MEMBERS: usize = 10_000_000;

/// An image in a tar file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name in the archive, with `/` between its parts.
    pub name: String,
    /// Where its bytes begin in the file.
    pub offset: u64,
    /// How many they are.
    pub size: u64,
}

/// The images of a tar file, and what was left out.
#[derive(Debug, Default)]
pub struct Shard {
    /// In the order of their names.
    pub images: Vec<Member>,
    /// What looks like an image and is not read, with the reason.
    pub left_out: Tally,
    /// Whether the archive has the mark of its end. Without it, it may have been cut off between two members.
    pub ends: bool,
}

impl Shard {
    /// Lists the images of the tar file at `path`, told by the endings of their names.
    ///
    /// # Errors
    /// [`Error::Input`] if it cannot be read, is no tar file, is cut off, or has a damaged header.
    pub fn open(path: &Path) -> Result<Self> {
        let file = open_regular(path).map_err(|e| Error::input(path, format!("cannot be read: {e}")))?;
        let length = file.metadata().map_err(|e| Error::input(path, format!("cannot be read: {e}")))?.len();
        Self::read(BufReader::with_capacity(16 << 10, file), length).map_err(|message| Error::input(path, message))
    }

    fn read(reader: impl Read + Seek, length: u64) -> Result<Self, String> {
        let mut headers = Headers::new(reader, length);
        let (mut shard, mut seen) = (Self::default(), HashSet::new());
        while let Some(found) = headers.next()? {
            let name = found.name.trim_start_matches("./").to_owned();
            if !is_image_name(Path::new(&name)) || is_hidden(&name) {
                continue;
            }
            let fault = match found.kind {
                b'0' | b'\0' | b'7' if !is_plain(&name) => Some(fault_of(&name)),
                b'0' | b'\0' | b'7' if !seen.insert(name.clone()) => Some("has the name of another member"),
                b'0' | b'\0' | b'7' => None,
                b'1' | b'2' => Some("is a link"),
                b'5' => continue,
                b'3' | b'4' | b'6' => Some("is a device or a pipe"),
                b'S' => Some("is stored sparsely, which is not read"),
                _ => Some("is of an unknown kind"),
            };
            match fault {
                Some(fault) => shard.left_out.add(fault, &name),
                None if shard.images.len() == MAX_MEMBERS => return Err(format!("has more than {MAX_MEMBERS} images")),
                None => shard.images.push(Member { name, offset: found.offset, size: found.size }),
            }
        }
        shard.ends = headers.ended();
        shard.images.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(shard)
    }

    /// The image of that name.
    fn find(&self, name: &str) -> Option<&Member> {
        self.images.binary_search_by(|member| member.name.as_str().cmp(name)).ok().map(|at| &self.images[at])
    }
}

impl Member {
    /// Its bytes in the tar file `shard`.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if they are more than `limits` allow; [`Error::Input`] if the file cannot be read or has become
    /// shorter.
    pub fn bytes(&self, shard: &Path, limits: &Limits) -> Result<Vec<u8>> {
        let path = shard.join(&self.name);
        if self.size > limits.max_decoded_bytes {
            return Err(limits.refused(&path, "the file has", self.size));
        }
        let bad = |e: std::io::Error| Error::input(&path, format!("cannot be read: {e}"));
        let mut file = open_regular(shard).map_err(bad)?;
        file.seek(SeekFrom::Start(self.offset)).map_err(bad)?;
        let mut bytes = Vec::new();
        Read::by_ref(&mut file).take(self.size).read_to_end(&mut bytes).map_err(bad)?;
        match bytes.len() as u64 == self.size {
            true => Ok(bytes),
            false => Err(Error::input(&path, "is cut off: the tar file has become shorter")),
        }
    }
}

/// Whether a part of the name starts with a dot, as what macOS adds to archives does.
fn is_hidden(name: &str) -> bool {
    name.split('/').any(|part| part.starts_with('.') && part != "..")
}

/// Why a name is not plain.
fn fault_of(name: &str) -> &'static str {
    match name {
        _ if name.contains('\\') => "has a name that is not UTF-8 or holds a backslash",
        _ if name.starts_with('/') || name.split('/').any(|part| part == "..") => {
            "has a name that leads out of the archive"
        }
        _ => "has a name with an empty part",
    }
}

/// Said of a tar file that does not [end](Shard::ends).
pub const NO_END: &str = "has no mark of its end: it may be cut off after its last member";
/// Said of a tar file in the place of a folder or an index.
pub(super) const TAR_FILE: &str =
    "is a tar file: `adir index build FOLDER --shards` makes an index of the images in the tar files of a folder";
/// Said of a compressed one.
pub(super) const PACKED: &str = "is a compressed tar file, of which no image can be read in its place: decompress it (gunzip, xz -d, zstd -d), and give \
     its folder to `adir index build --shards`";

/// Whether a name ends like that of a compressed tar file.
pub(super) fn is_packed_name(name: &Path) -> bool {
    let name = name.file_name().map(|name| name.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let endings = [".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.zst", ".tzst", ".tar.bz2", ".tbz2", ".tar.lz4"];
    endings.iter().any(|ending| name.ends_with(ending))
}

/// Refuses a tar file where an index is read.
///
/// # Errors
/// [`Error::Input`] saying how an index of its images is made.
pub(crate) fn check_no_shard(path: &Path) -> Result<()> {
    match (is_tar_name(path), is_packed_name(path)) {
        (true, _) => Err(Error::input(path, TAR_FILE)),
        (_, true) => Err(Error::input(path, PACKED)),
        _ => Ok(()),
    }
}

/// Whether a name ends like that of a tar file.
pub fn is_tar_name(name: &Path) -> bool {
    name.extension().is_some_and(|end| end.eq_ignore_ascii_case("tar"))
}

/// The tar file and the member that a path leads to, if it leads into a tar file.
pub fn split(path: &Path) -> Option<(PathBuf, String)> {
    if path.is_file() {
        return None;
    }
    let shard = path.ancestors().skip(1).find(|above| is_tar_name(above) && above.is_file())?;
    let inner: Vec<&str> = path.strip_prefix(shard).ok()?.iter().map(|part| part.to_str()).collect::<Option<_>>()?;
    Some((shard.to_owned(), inner.join("/")))
}

/// The bytes of the image at `path`, if it is one in a tar file.
///
/// # Errors
/// As [`Shard::open`] and [`Member::bytes`]; [`Error::Input`] if the tar file has no such member.
pub fn member_bytes(path: &Path, limits: &Limits) -> Result<Option<Vec<u8>>> {
    let Some((shard, name)) = split(path) else { return Ok(None) };
    let listed = Shard::open(&shard)?;
    let member = listed.find(&name).ok_or_else(|| Error::input(path, "is not in the tar file any more"))?;
    member.bytes(&shard, limits).map(Some)
}

/// The image at `path`, a file or in a tar file.
///
/// # Errors
/// As [`read_image`] and [`member_bytes`].
pub fn read_image_in(path: &Path, limits: &Limits) -> Result<Picture> {
    match member_bytes(path, limits)? {
        Some(bytes) => read_bytes(path, &bytes, &Reading::default(), limits)?.0.whole(path),
        None => read_image(path, limits),
    }
}

/// The SHA-256 of the image at `path`, a file or in a tar file.
///
/// # Errors
/// As [`ContentHash::of_file`] and [`member_bytes`].
pub fn hash_in(path: &Path, limits: &Limits) -> Result<ContentHash> {
    match member_bytes(path, limits)? {
        Some(bytes) => Ok(sha256(&bytes)),
        None => Ok(ContentHash::of_file(path)?),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// A member with that header; `size` may lie.
    pub(crate) fn member(name: &[u8], kind: u8, content: &[u8], size: u64) -> Vec<u8> {
        let mut header = vec![0; 512];
        header[..name.len()].copy_from_slice(name);
        header[100..108].copy_from_slice(b"0000644\0");
        header[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
        header[156] = kind;
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        header.extend(content);
        header.resize(header.len().next_multiple_of(512), 0);
        header
    }

    fn file(name: &str, content: &[u8]) -> Vec<u8> {
        member(name.as_bytes(), b'0', content, content.len() as u64)
    }

    fn read(parts: &[Vec<u8>]) -> Result<Shard, String> {
        let bytes = parts.concat();
        let length = bytes.len() as u64;
        Shard::read(Cursor::new(bytes), length)
    }

    fn names(shard: &Shard) -> Vec<&str> {
        shard.images.iter().map(|member| member.name.as_str()).collect()
    }

    #[test]
    fn images_are_found_and_the_rest_is_passed_over() {
        let long = format!("{}/long.png", "d".repeat(150));
        let pax = |records: &[u8]| member(b"PaxHeaders/x", b'x', records, records.len() as u64);
        let parts = [
            file("0001.txt", b"a caption"),
            file("./0001.jpg", b"JPEG"),
            file("0000.json", &[b'{'; 600]),
            member(b"folder.png", b'5', b"", 0),
            member(b"././@LongLink", b'L', long.as_bytes(), long.len() as u64),
            file("cut.png", b"PNG"),
            pax("25 path=caf\u{e9}/other.webp\n".as_bytes()),
            file("other", b"WEBP!"),
            file("__MACOSX/._0001.jpg", b"not one"),
            vec![0; 1024],
            file("after.jpg", b"beyond the end"),
        ];
        let shard = read(&parts).unwrap();
        assert_eq!(names(&shard), ["0001.jpg", "caf\u{e9}/other.webp", &long]);
        assert!(shard.left_out.is_empty(), "{:?}", shard.left_out.lines());
        let bytes = parts.concat();
        for (member, content) in shard.images.iter().zip([&b"JPEG"[..], b"WEBP!", b"PNG"]) {
            assert_eq!(&bytes[member.offset as usize..][..member.size as usize], content, "{}", member.name);
        }
        assert!(shard.ends);
        // No end, and no padding.
        let cut = read(&[file("a.png", b"1")[..513].to_vec()]).unwrap();
        assert!(names(&cut) == ["a.png"] && !cut.ends);
    }

    #[test]
    fn hostile_members_are_left_out() {
        let link = |kind| member(format!("link{}.png", kind as char).as_bytes(), kind, b"", 0);
        let shard = read(&[
            file("a.png", b"1"),
            file("../b.png", b"2"),
            file("/etc/c.png", b"3"),
            file("d/../../e.png", b"4"),
            file("f\\g.png", b"5"),
            file("h//i.png", b"5"),
            member(b"\xff.png", b'0', b"6", 1),
            file("a.png", b"another"),
            link(b'1'),
            link(b'2'),
            link(b'3'),
            link(b'S'),
        ])
        .unwrap();
        assert_eq!(names(&shard), ["a.png"]);
        assert_eq!(shard.images[0].size, 1, "the first of two");
        let lines = shard.left_out.lines().join("; ");
        for hint in [
            "3 files, the first: ../b.png: has a name that leads out",
            "is a link",
            "name of another",
            "device",
            "2 files, the first: f\\g.png: has a name that is not UTF-8",
            "h//i.png: has a name with an empty part",
            "sparsely",
        ] {
            assert!(lines.contains(hint), "{hint}: {lines}");
        }
    }

    #[test]
    fn damage_is_refused() {
        let good = [file("a.png", &[7; 600]), file("b.png", b"x"), vec![0; 1024]].concat();
        for (bytes, hint) in [
            (Vec::new(), "no tar file"),
            (b"\x1f\x8b".repeat(500), "unpacked"),
            (good[..700].to_vec(), "cut off"),
            (good[..1536 + 100].to_vec(), "cut off: a header at byte 1536"),
            ([file("a.png", b"1"), vec![b'x'; 512]].concat(), "damaged"),
            (member(b"a.png", b'0', b"1", 1 << 32), "cut off"),
            (member(b"x", b'L', b"1", 1 << 30), "extended headers"),
            (member(b"x", b'x', b"99 path=a\n", 10), "extended header"),
            (member(b"x", b'x', b"0 path=a\n", 9), "extended header"),
            (member(b"x", b'x', b"18446744073709551615 path=a\n", 28), "extended header"),
            ([member(b"x", b'x', b"21 size=99999999999\n", 20), file("a.png", b"1")].concat(), "extended header"),
            ([member(b"x", b'x', b"20 size=99999999999\n", 20), file("a.png", b"1")].concat(), "cut off"),
            ([member(b"l", b'L', &[b'n'; 5000], 5000), file("a.png", b"1")].concat(), "5000 bytes"),
        ] {
            let message = read(&[bytes]).unwrap_err();
            assert!(message.contains(hint), "{hint}: {message}");
        }
        // Whatever is cut or changed, nothing panics.
        for at in 0..good.len() {
            let _ = read(&[good[..at].to_vec()]);
            let mut bytes = good.clone();
            bytes[at] ^= 0xff;
            let _ = read(&[bytes]);
        }
    }

    #[test]
    fn members_have_paths() {
        let folder = std::env::temp_dir().join(format!("adir-shards-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(folder.join("dir.tar")).unwrap();
        let shard = folder.join("dir.tar/0.tar");
        std::fs::write(&shard, [file("a/b.png", b"bytes"), vec![0; 1024]].concat()).unwrap();
        let path = shard.join("a/b.png");
        assert_eq!(split(&path), Some((shard.clone(), "a/b.png".into())));
        assert_eq!((split(&shard), split(&folder.join("dir.tar/x.png"))), (None, None));
        let limits = Limits::default();
        assert_eq!(member_bytes(&path, &limits).unwrap().unwrap(), b"bytes");
        assert_eq!(hash_in(&path, &limits).unwrap(), sha256(b"bytes"));
        let small = Limits { max_decoded_bytes: 4, ..limits };
        assert!(matches!(member_bytes(&path, &small), Err(Error::TooLarge { .. })));
        let missing = member_bytes(&shard.join("c.png"), &limits).unwrap_err().to_string();
        assert!(missing.contains("0.tar/c.png: is not in the tar file"), "{missing}");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
