//! The images of a folder.

use std::fs;
use std::path::Path;

use super::image::ImageFormat;
use crate::{Error, Result};

/// Folders inside folders that are followed.
const MAX_DEPTH: usize = 64;

/// Paths below `folder` of the images in it and in its folders, told by their endings, sorted, with `/`
/// between the names. Links to files are followed, links to folders and names that start with a dot are not.
///
/// # Errors
/// [`Error::Input`] if the folder cannot be listed, a name in it is not UTF-8, or folders lie too deep.
pub fn image_files(folder: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    list(folder, "", 0, &mut files)?;
    files.sort_unstable();
    Ok(files)
}

/// Whether a file name ends like an image that can be read.
fn is_image_name(name: &str) -> bool {
    ImageFormat::from_path(Path::new(name)).is_ok()
}

/// Adds the images in `folder/below` and its folders to `files`. Links to files are followed, links to
/// folders and names that start with a dot are not.
fn list(folder: &Path, below: &str, depth: usize, files: &mut Vec<String>) -> Result<()> {
    let here = folder.join(below);
    let bad = |e: std::io::Error| Error::input(&here, format!("cannot be listed: {e}"));
    if depth > MAX_DEPTH {
        return Err(Error::input(&here, format!("is nested more than {MAX_DEPTH} folders deep")));
    }
    for item in fs::read_dir(&here).map_err(bad)? {
        let item = item.map_err(bad)?;
        let name = item
            .file_name()
            .into_string()
            .map_err(|name| Error::input(here.join(name), "has a name that is not UTF-8"))?;
        if name.starts_with('.') {
            continue;
        }
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        if item.file_type().map_err(bad)?.is_dir() {
            list(folder, &path, depth + 1, files)?;
        } else if is_image_name(&path) && fs::metadata(item.path()).is_ok_and(|m| m.is_file()) {
            files.push(path);
        }
    }
    Ok(())
}
