//! Names of files to write whose endings say that they are something else.

use std::path::Path;

use super::image::ImageFormat;
use crate::{Error, Result};

/// What a file or folder to write is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// Weights, as safetensors.
    Weights,
    /// A record.
    Json,
    /// A page.
    Html,
    /// An index of images.
    Index,
    /// A folder.
    Folder,
}

impl Written {
    /// In words, and the endings that suit it.
    fn described(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Weights => ("weights are written as safetensors", &["safetensors"]),
            Self::Json => ("a record is written as JSON", &["json"]),
            Self::Html => ("a page is written as HTML", &["html", "htm", "xhtml"]),
            Self::Index => ("an index of images is written", &["index"]),
            Self::Folder => ("a folder is written", &[]),
        }
    }
}

/// Endings that say what a file is, besides those of images.
const KNOWN: [&str; 20] = [
    "safetensors",
    "checkpoint",
    "ckpt",
    "pt",
    "pth",
    "bin",
    "onnx",
    "npy",
    "npz",
    "parquet",
    "index",
    "json",
    "jsonl",
    "html",
    "htm",
    "xhtml",
    "md",
    "txt",
    "csv",
    "pdf",
];

/// Refuses a name whose ending says that the file is something else than what will be written there, and `-`, which means a
/// pipe elsewhere. Endings that say nothing are left alone, and so is a folder that is there.
///
/// # Errors
/// [`Error::Config`] naming the file.
pub fn check_ending(path: &Path, written: Written) -> Result<()> {
    let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    let (what, suiting) = written.described();
    if path == Path::new("-") {
        return Err(Error::config(format!(
            "-: {what} under a name, not to a pipe: give one (./- is a file of that name)"
        )));
    }
    let says_something = KNOWN.contains(&ending.as_str()) || ImageFormat::from_path(path).is_ok();
    if !says_something || suiting.contains(&ending.as_str()) || (written == Written::Folder && path.is_dir()) {
        return Ok(());
    }
    let advice = match suiting.first() {
        Some(right) => format!("give a name that ends in .{right}"),
        None => "give another name".into(),
    };
    Err(Error::config(format!("{}: {what}, which .{ending} contradicts: {advice}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ending_may_say_nothing_but_nothing_wrong() {
        let check = |name: &str, written| check_ending(Path::new(name), written);
        for (name, written) in [
            ("a.safetensors", Written::Weights),
            ("a", Written::Weights),
            ("a.v1.2", Written::Weights),
            ("a.JSON", Written::Json),
            ("a.htm", Written::Html),
            ("a.index", Written::Index),
            ("scans.2024", Written::Folder),
            ("./-", Written::Json),
        ] {
            check(name, written).unwrap();
        }
        for (name, written) in [
            ("x.png", Written::Weights),
            ("x.pt", Written::Weights),
            ("x.TIFF", Written::Json),
            ("x.json", Written::Html),
            ("x.jpg", Written::Html),
            ("o.png", Written::Index),
            ("o.png", Written::Folder),
            ("-", Written::Json),
            ("-", Written::Folder),
        ] {
            let refused = check(name, written).unwrap_err();
            assert!(matches!(&refused, Error::Config(message) if message.starts_with(name)), "{refused}");
        }
    }
}
