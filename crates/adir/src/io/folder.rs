//! The images of a folder.

use std::fs;
use std::path::{Path, PathBuf};

use super::image::ImageFormat;
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
}

impl ImageFiles {
    /// What was left out: a line for each kind, with a count and the first of them.
    pub fn warnings(&self) -> Vec<String> {
        let counted = |count: usize, one: &str, many: &str| match count {
            1 => format!("1 {one}"),
            _ => format!("{count} {many}, the first"),
        };
        let folders = self.unlisted.first().map(|first| {
            format!("left out: {}: {first}", counted(self.unlisted.len(), "folder", "folders that cannot be listed"))
        });
        let names = self.odd_names.first().map(|first| {
            let count = counted(self.odd_names.len(), "image", "images");
            format!("left out: {count}: {}: the name is not UTF-8 or holds a backslash", first.display())
        });
        folders.into_iter().chain(names).collect()
    }
}

/// The images in `folder` and in its folders, told by their endings. Links to files are followed, links to folders
/// and names that start with a dot are not. A folder below that cannot be listed, or lies more than 64 folders deep, is
/// left out, and so are images with odd names.
///
/// # Errors
/// [`Error::Input`] if `folder` itself cannot be listed.
pub fn image_files(folder: &Path) -> Result<ImageFiles> {
    let mut found = ImageFiles::default();
    list(folder, "", 0, &mut found)?;
    found.files.sort_unstable();
    Ok(found)
}

/// Whether a path stays below its folder on every system: parts that are names, `/` between them.
pub fn is_plain(path: &str) -> bool {
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    !path.contains(['\\', '\0']) && path.split('/').all(plain)
}

/// Whether a file name ends like an image that can be read.
fn is_image_name(name: &Path) -> bool {
    ImageFormat::from_path(name).is_ok()
}

/// Adds the images in `folder/below` and its folders to `found`. Only this folder's own fault is an error.
fn list(folder: &Path, below: &str, depth: usize, found: &mut ImageFiles) -> Result<()> {
    let here = folder.join(below);
    let bad = |e: std::io::Error| Error::input(&here, format!("cannot be listed: {e}"));
    if depth > MAX_DEPTH {
        return Err(Error::input(&here, format!("is nested more than {MAX_DEPTH} folders deep")));
    }
    for item in fs::read_dir(&here).map_err(bad)? {
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
        } else if is_image_name(Path::new(&name)) && (kind.is_file() || is_file_behind_link(&item.path())) {
            match path {
                Some(path) => found.files.push(path),
                None => found.odd_names.push(item.path()),
            }
        }
    }
    Ok(())
}

/// Whether a link leads to a file; one that cannot be followed is no image.
fn is_file_behind_link(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file())
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
        std::os::unix::fs::symlink("nowhere", f.join("link.png")).unwrap();
        std::os::unix::fs::symlink("a.png", f.join("good.png")).unwrap();
        let found = image_files(&f).unwrap();
        assert_eq!(found.files, ["a.png", "good.png"]);
        assert_eq!((found.unlisted.len(), found.odd_names.len()), (2, 2));
        let warnings = found.warnings();
        assert_eq!(warnings.len(), 2, "a line a kind: {warnings:?}");
        assert!(warnings[0].contains("2 folders") && warnings[1].contains("2 images"), "{warnings:?}");
        fs::remove_dir_all(f).unwrap();
    }
}
