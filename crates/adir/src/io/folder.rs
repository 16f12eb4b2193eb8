//! The images of a folder.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::atomic::check_writable;
use super::codec::kinds::{kind_of_name, way_out};
use super::image::ImageFormat;
use super::results::{MOST_SAMPLES, RECORD_END, is_manifest_name, maps_of, sample_of, samples_in};
use super::shards::{PACKED, TAR_FILE, is_packed_name, is_tar_name};
use super::tally::{Tally, counted};
use crate::{Error, Result};

/// Folders inside folders that are followed.
const MAX_DEPTH: usize = 64;

/// The images below a folder, and what could not be looked at.
#[derive(Debug, Default)]
pub struct ImageFiles {
    /// Paths below the folder, sorted, with `/` between the names.
    pub files: Vec<String>,
    /// Folders that could not be listed, with the reason.
    pub unlisted: Vec<Error>,
    /// Images that are left out because their names are not UTF-8, or hold a backslash, which is not a plain name on
    /// every system.
    pub odd_names: Vec<PathBuf>,
    /// What looks like an image by its name and cannot be read: images of other formats, links that lead nowhere, pipes.
    pub unread: Tally,
    /// Tar files, as `files`; what is in them has not been looked at.
    pub shards: Vec<String>,
    /// Compressed tar files, of which no image can be read in its place.
    pub packed: Tally,
    /// Folders below that hold results of restorations, as `files`; they are not looked into.
    pub results: Vec<String>,
    /// Results of restorations among the images, as `files`, where they were left out: see [`images_to_learn_from`].
    pub restored: Vec<String>,
    /// Files named as a record of an image is.
    records: Vec<String>,
}

impl ImageFiles {
    /// What to say of a folder without images.
    pub fn no_images(&self) -> String {
        match (self.unread.is_empty(), self.shards.len()) {
            (true, 0) if self.packed.is_empty() => match self.results.first() {
                Some(first) => {
                    format!(
                        "contains no images but results of an earlier run, in {first}: name that folder to take those"
                    )
                }
                None => "contains no images".into(),
            },
            (true, 0) => format!("contains no images: {}", self.packed.lines().join("; ")),
            (true, count) => format!(
                "contains no images, but {}: `adir index build --shards` makes an index of the images in tar files",
                counted(count, "tar file")
            ),
            (false, _) => format!("contains no images that can be read: {}", self.unread.lines().join("; ")),
        }
    }

    /// What to say of a folder without tar files.
    pub fn no_shards(&self) -> String {
        match (self.packed.is_empty(), self.files.is_empty()) {
            (false, _) => format!("contains no .tar files: {}", self.packed.lines().join("; ")),
            (true, false) => "contains no .tar files, only images: leave out --shards".into(),
            (true, true) => "contains no .tar files".into(),
        }
    }

    /// What was left out: a line for each kind, with a count and the first of them.
    pub fn warnings(&self) -> Vec<String> {
        let first_of = |count: usize, one: &str, many: &str| match count {
            1 => format!("1 {one}"),
            _ => format!("{count} {many}, the first"),
        };
        let folders = self.unlisted.first().map(|first| {
            format!("left out: {}: {first}", first_of(self.unlisted.len(), "folder", "folders that cannot be listed"))
        });
        let names = self.odd_names.first().map(|first| {
            let count = first_of(self.odd_names.len(), "image", "images");
            format!("left out: {count}: {}: the name is not UTF-8 or holds a backslash", first.display())
        });
        let results = self.results.first().map(|first| {
            let (one, many) = ("folder with results of an earlier run", "folders with results of earlier runs");
            format!("left out: {}: {first}", first_of(self.results.len(), one, many))
        });
        let restored = self.restored.first().map(|first| {
            let (one, many) = ("image that a restoration made", "images that restorations made");
            format!("left out: {}: {first}", first_of(self.restored.len(), one, many))
        });
        let unread = self.unread.lines().into_iter().map(|line| format!("left out: {line}"));
        folders.into_iter().chain(names).chain(results).chain(restored).chain(unread).collect()
    }
}

/// The images in `folder` and in its folders, told by their endings. Links to files are followed, links to folders
/// and names that start with a dot are not. A folder below that cannot be listed, or lies more than 64 folders deep, is
/// left out, and so are images with odd names, of other formats, what is no file, and folders below with results of
/// restorations: what a restoration has made is neither an observation nor an image to learn from.
///
/// # Errors
/// As [`check_folder`], and [`Error::Input`] if `folder` itself cannot be listed.
pub fn image_files(folder: &Path) -> Result<ImageFiles> {
    check_folder(folder)?;
    let mut found = ImageFiles::default();
    list(folder, "", 0, &mut found)?;
    found.files.sort_unstable();
    found.shards.sort_unstable();
    found.results.sort_unstable();
    Ok(found)
}

/// The same, without results of restorations among other images: x.png beside its record x.png.json, and its samples and
/// maps. Where there are no other images, they are what is meant.
///
/// # Errors
/// As [`image_files`].
pub fn images_to_learn_from(folder: &Path) -> Result<ImageFiles> {
    let mut found = image_files(folder)?;
    let mut made = HashSet::new();
    for record in &found.records {
        let image = record.strip_suffix(RECORD_END).map(Path::new);
        let (Some(image), Some(samples)) = (image, samples_in(&folder.join(record))) else { continue };
        made.insert(image.to_owned());
        made.extend((1..=samples.min(MOST_SAMPLES)).map(|k| sample_of(image, k)));
        made.extend(maps_of(image));
    }
    let (restored, files): (Vec<_>, _) = found.files.drain(..).partition(|file| made.contains(Path::new(file)));
    (found.files, found.restored) = if files.is_empty() { (restored, files) } else { (files, restored) };
    Ok(found)
}

/// Refuses what is no folder, where one is read.
///
/// # Errors
/// [`Error::Input`] if it is missing, or something else.
pub fn check_folder(path: &Path) -> Result<()> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) if is_tar_name(path) => Err(Error::input(path, TAR_FILE)),
        Ok(_) if is_packed_name(path) => Err(Error::input(path, PACKED)),
        Ok(found) if !found.is_file() => Err(Error::input(path, "is a device, a pipe or a socket, expected a folder")),
        Ok(_) => Err(Error::input(path, "is a file, expected a folder")),
        Err(e) => Err(Error::input(path, format!("cannot be opened: {e}"))),
    }
}

/// Refuses a place for results that is taken by something else than a folder, or cannot be made.
///
/// # Errors
/// [`Error::Config`] if it is taken; as [`check_writable`].
pub fn check_output_folder(path: &Path) -> Result<()> {
    if fs::metadata(path).is_ok_and(|found| !found.is_dir()) {
        return Err(Error::config(format!("{}: is a file, expected a folder for the results", path.display())));
    }
    Ok(check_writable(&path.join("x"))?)
}

/// Whether a path stays below its folder on every system: parts that are names, `/` between them.
pub fn is_plain(path: &str) -> bool {
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    !path.contains(['\\', '\0']) && path.split('/').all(plain)
}

/// Whether a file name ends like an image that can be read.
pub(super) fn is_image_name(name: &Path) -> bool {
    ImageFormat::reads(name)
}

/// Adds the images in `folder/below` and its folders to `found`. Only this folder's own fault is an error.
fn list(folder: &Path, below: &str, depth: usize, found: &mut ImageFiles) -> Result<()> {
    let here = folder.join(below);
    let bad = |e: std::io::Error| Error::input(&here, format!("cannot be listed: {e}"));
    if depth > MAX_DEPTH {
        return Err(Error::input(&here, format!("is nested more than {MAX_DEPTH} folders deep")));
    }
    let items: Vec<_> = fs::read_dir(&here).map_err(bad)?.collect();
    let is_manifest = |item: &fs::DirEntry| item.file_name().to_str().is_some_and(is_manifest_name);
    if depth > 0 && items.iter().flatten().any(is_manifest) {
        found.results.push(below.to_owned());
        return Ok(());
    }
    for item in items {
        let item = match item {
            Ok(item) => item,
            Err(e) => {
                // What has been listed is good; the rest of this folder is lost.
                found.unlisted.push(bad(e));
                break;
            }
        };
        let (name, Ok(kind)) = (item.file_name(), item.file_type()) else { continue };
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let plain = name.to_str().filter(|name| is_plain(name));
        let path = plain.map(|name| if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") });
        if kind.is_dir() {
            let listed = match path {
                Some(path) => list(folder, &path, depth + 1, found),
                None => Err(Error::input(item.path(), "has a name that is not UTF-8 or holds a backslash")),
            };
            found.unlisted.extend(listed.err());
            continue;
        }
        match (fault(&item.path(), kind), path) {
            (Some(Fault::NoImage), Some(path)) if is_tar_name(&item.path()) && item.path().is_file() => {
                found.shards.push(path);
            }
            (Some(Fault::NoImage), path) if is_packed_name(&item.path()) && item.path().is_file() => {
                found.packed.add(PACKED, path.unwrap_or_else(|| item.path().display().to_string()));
            }
            (Some(Fault::NoImage), Some(path))
                if path.strip_suffix(RECORD_END).is_some_and(|image| is_image_name(Path::new(image))) =>
            {
                found.records.push(path);
            }
            (Some(Fault::NoImage), _) => {}
            (Some(Fault::Unread(why)), path) => {
                found.unread.add(why, path.unwrap_or_else(|| item.path().display().to_string()));
            }
            (None, Some(path)) => found.files.push(path),
            (None, None) => found.odd_names.push(item.path()),
        }
    }
    Ok(())
}

/// Why something in a folder is not among its images.
enum Fault {
    /// It does not look like one.
    NoImage,
    /// It does.
    Unread(String),
}

/// What keeps an entry of a folder, which is no folder itself, from being read as an image, if something does.
fn fault(path: &Path, kind: fs::FileType) -> Option<Fault> {
    let (image, other) = (is_image_name(path), kind_of_name(path));
    if kind.is_symlink() && fs::metadata(path).is_ok_and(|target| target.is_dir()) {
        return Some(Fault::Unread("is a link to a folder, which is not followed".into()));
    }
    if !image && other.is_none() {
        return Some(Fault::NoImage);
    }
    let target = if kind.is_symlink() { fs::metadata(path).map(|target| target.file_type()) } else { Ok(kind) };
    match (target, other) {
        (Err(_), _) => Some(Fault::Unread("is a link that leads nowhere".into())),
        (Ok(target), _) if !target.is_file() => Some(Fault::Unread("is a pipe, a socket or a device".into())),
        (Ok(_), Some(kind)) if !image => Some(Fault::Unread(format!("is a {kind} file: {}", way_out(kind)))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("adir-folder-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn images_are_found_below_and_nothing_else() {
        let f = folder("below");
        fs::create_dir_all(f.join("b/c")).unwrap();
        fs::create_dir_all(f.join(".hidden")).unwrap();
        fs::create_dir_all(f.join("folder.png")).unwrap();
        for name in ["z.png", "b/a.JPG", "b/c/d.webp", "b/notes.txt", ".x.png", ".hidden/y.png"] {
            fs::write(f.join(name), "x").unwrap();
        }
        let found = image_files(&f).unwrap();
        assert_eq!(found.files, ["b/a.JPG", "b/c/d.webp", "z.png"]);
        assert!(found.warnings().is_empty());
        assert!(matches!(image_files(&f.join("none")), Err(Error::Input { .. })));
        fs::remove_dir_all(f).unwrap();
    }

    /// Results of restorations below are left out, and taken where their folder is named.
    #[test]
    fn results_below_are_left_out() {
        let f = folder("results");
        fs::create_dir_all(f.join("b/done")).unwrap();
        for name in ["b/done/x.png", "b/done/adir-manifest-1-of-1.jsonl"] {
            fs::write(f.join(name), "x").unwrap();
        }
        let said = image_files(&f).unwrap().no_images();
        assert!(said.contains("in b/done"), "{said}");
        fs::write(f.join("b/y.png"), "x").unwrap();
        let found = image_files(&f).unwrap();
        assert_eq!((&found.files[..], &found.results[..]), (&["b/y.png".to_owned()][..], &["b/done".to_owned()][..]));
        assert_eq!(found.warnings(), ["left out: 1 folder with results of an earlier run: b/done"]);
        assert_eq!(image_files(&f.join("b/done")).unwrap().files, ["x.png"]);
        fs::remove_dir_all(f).unwrap();
    }

    /// Results beside other images are nothing to learn from; a folder of nothing else is meant as it is. The JSON files of
    /// other programs are no records.
    #[test]
    fn results_beside_images_are_left_out_of_what_is_learned_from() {
        let f = folder("restored");
        let learned = || images_to_learn_from(&f).unwrap();
        let record = r#"{"schema": 2, "program": "adir 0.2.0", "samples": 2}"#;
        for (name, text) in [("b/x.tif.json", record), ("photo.png.json", r#"{"title": "photo.png"}"#)] {
            fs::create_dir_all(f.join("b")).unwrap();
            fs::write(f.join(name), text).unwrap();
        }
        let results = ["b/x.1.tif", "b/x.2.tif", "b/x.heat.png", "b/x.std.png", "b/x.tif"];
        results.iter().for_each(|name| fs::write(f.join(name), "x").unwrap());
        assert_eq!((&learned().files[..], learned().restored.len()), (&results.map(str::to_owned)[..], 0));
        for name in ["b/x.3.tif", "photo.png"] {
            fs::write(f.join(name), "x").unwrap();
        }
        assert_eq!(learned().files, ["b/x.3.tif", "photo.png"]);
        assert_eq!(learned().warnings(), ["left out: 5 images that restorations made, the first: b/x.1.tif"]);
        assert_eq!(image_files(&f).unwrap().files.len(), 7);
        fs::remove_dir_all(f).unwrap();
    }

    /// A folder of tar files says how their images are found.
    #[test]
    fn tar_files_are_no_images_but_hold_some() {
        let f = folder("tars");
        fs::write(f.join("0.tar.gz"), "x").unwrap();
        let found = image_files(&f).unwrap();
        for said in [found.no_images(), found.no_shards()] {
            assert!(said.contains("0.tar.gz: ") && said.contains("gunzip"), "{said}");
        }
        fs::write(f.join("1.tar"), "x").unwrap();
        let said = image_files(&f).unwrap().no_images();
        assert!(said.contains("but 1 tar file: ") && said.contains("--shards"), "{said}");
        fs::remove_file(f.join("0.tar.gz")).unwrap();
        fs::write(f.join("a.png"), "x").unwrap();
        assert!(image_files(&f).unwrap().no_shards().contains("leave out --shards"));
        for (name, hint) in [("1.tar", "--shards"), ("2.TGZ", "gunzip"), ("a.png", "expected a folder")] {
            fs::write(f.join(name), "x").unwrap();
            let refused = check_folder(&f.join(name)).unwrap_err().to_string();
            assert!(refused.contains(hint), "{refused}");
        }
        fs::remove_dir_all(f).unwrap();
    }

    /// Odd names and folders too deep are counted, whatever their number, and nothing else is lost.
    #[cfg(unix)]
    #[test]
    fn one_odd_thing_stops_nothing() {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        let f = folder("odd");
        let name = |bytes: &[u8]| f.join(OsStr::from_bytes(bytes));
        fs::write(f.join("a.png"), "x").unwrap();
        fs::write(name(b"caf\xe9.txt"), "no image, no warning").unwrap();
        assert!(image_files(&f).unwrap().warnings().is_empty());
        fs::write(name(b"caf\xe9.png"), "x").unwrap();
        fs::write(name(b"back\\slash.jpg"), "x").unwrap();
        fs::create_dir(name(b"\xff")).unwrap();
        fs::write(name(b"\xff/b.png"), "x").unwrap();
        fs::create_dir_all(f.join(["d"; MAX_DEPTH + 1].join("/"))).unwrap();
        std::os::unix::fs::symlink("a.png", f.join("good.png")).unwrap();
        let found = image_files(&f).unwrap();
        assert_eq!(found.files, ["a.png", "good.png"]);
        assert_eq!((found.unlisted.len(), found.odd_names.len()), (2, 2));
        let warnings = found.warnings();
        assert_eq!(warnings.len(), 2, "a line a kind: {warnings:?}");
        assert!(warnings[0].contains("2 folders") && warnings[1].contains("2 images"), "{warnings:?}");
        fs::remove_dir_all(f).unwrap();
    }

    /// What looks like an image and cannot be read is told, a line a kind; what does not is nobody's business.
    #[cfg(unix)]
    #[test]
    fn what_is_left_out_is_told_by_its_kind() {
        use std::os::unix::fs::symlink;
        let f = folder("unread");
        fs::create_dir_all(f.join("below")).unwrap();
        for name in ["a.png", "1.bmp", "below/2.BMP", "3.gif", "4.heic", "5.cr2", "notes.txt", "a.png.json"] {
            fs::write(f.join(name), "x").unwrap();
        }
        symlink("nowhere", f.join("gone.png")).unwrap();
        symlink("nowhere", f.join("gone.txt")).unwrap();
        symlink("1.bmp", f.join("link.bmp")).unwrap();
        symlink("below", f.join("link")).unwrap();
        let _pipe = std::os::unix::net::UnixListener::bind(f.join("pipe.tif")).unwrap();
        let found = image_files(&f).unwrap();
        assert_eq!(found.files, ["a.png"]);
        let warnings = found.warnings();
        assert_eq!(warnings.len(), 7, "{warnings:#?}");
        assert!(warnings.iter().all(|line| line.starts_with("left out: ")), "{warnings:#?}");
        for part in
            ["3 files, the first: ", "3.gif: ", "4.heic: ", "5.cr2: ", "gone.png: ", "link: is a link", "pipe.tif: "]
        {
            assert_eq!(warnings.iter().filter(|line| line.contains(part)).count(), 1, "{part}: {warnings:#?}");
        }
        fs::remove_dir_all(f).unwrap();
    }
}
