//! Writing files whole or not at all, and not over another.

use std::path::{Path, PathBuf};

pub use adir_weights::atomic::{AtomicFile, check_writable, write};

use super::image::ImageFormat;
use crate::{Error, Result};

/// Checks the outputs of a run before it: each can be written, no two are one file, and none would destroy something. An
/// output that is one of `inputs`, however it is spelled, or an image in a folder among them, is refused always; any other
/// existing file unless `overwrite` is set.
///
/// # Errors
/// [`Error::Config`] naming the file; [`Error::Io`] where the system takes no files.
pub fn check_outputs(inputs: &[&Path], outputs: &[&Path], overwrite: bool) -> Result<()> {
    for (k, output) in outputs.iter().enumerate() {
        if outputs[..k].iter().any(|other| place(other) == place(output)) {
            let message = format!("{}: two outputs of this run would be this one file", output.display());
            return Err(Error::config(message));
        }
        refuse_overwrite(inputs, output, overwrite)?;
        check_writable(output)?;
    }
    Ok(())
}

fn refuse_overwrite(inputs: &[&Path], output: &Path, overwrite: bool) -> Result<()> {
    if output.symlink_metadata().is_err() {
        return Ok(());
    }
    if let Some(input) = inputs.iter().find(|input| same_file(input, output)) {
        let (output, input) = (output.display(), input.display());
        return Err(Error::config(format!("{output}: would replace the input {input}: choose another output")));
    }
    let is_image_in = |folder: &Path| {
        let below = matches!((folder.canonicalize(), output.canonicalize()), (Ok(a), Ok(b)) if b.starts_with(&a));
        folder.is_dir() && ImageFormat::from_path(output).is_ok() && below
    };
    if let Some(folder) = inputs.iter().find(|input| is_image_in(input)) {
        let (output, folder) = (output.display(), folder.display());
        return Err(Error::config(format!(
            "{output}: would replace an image of the input folder {folder}: choose another output"
        )));
    }
    if output.is_dir() {
        return Err(Error::config(format!("{} is a folder, expected a file name", output.display())));
    }
    if !overwrite {
        return Err(Error::config(format!("{} already exists; use --overwrite to replace it", output.display())));
    }
    Ok(())
}

/// Where a path leads, whether something is there or not.
fn place(path: &Path) -> PathBuf {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return path.to_owned() };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    folder.canonicalize().unwrap_or_else(|_| place(folder)).join(name)
}

/// Whether two paths lead to one file: through links, spelling or (on Unix) a second hard link.
fn same_file(a: &Path, b: &Path) -> bool {
    let canonical = matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b);
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let identity = |path: &Path| path.metadata().map(|m| (m.dev(), m.ino()));
        canonical || matches!((identity(a), identity(b)), (Ok(a), Ok(b)) if a == b)
    }
    #[cfg(not(unix))]
    canonical
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_output_is_never_the_input_however_it_is_spelled() {
        let folder = std::env::temp_dir().join(format!("adir-overwrite-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let input = folder.join("in.png");
        fs::write(&input, b"x").unwrap();
        fs::create_dir(folder.join("sub")).unwrap();
        let other = folder.join("other.png");
        fs::write(&other, b"y").unwrap();
        let mut spellings = vec![input.clone(), folder.join("sub/../in.png"), folder.join("./in.png")];
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(&input, folder.join("link.png")).unwrap();
            std::os::unix::fs::symlink(&folder, folder.join("sub/up")).unwrap();
            spellings.extend([folder.join("link.png"), folder.join("sub/up/in.png")]);
        }
        fs::hard_link(&input, folder.join("hard.png")).unwrap();
        #[cfg(unix)]
        spellings.push(folder.join("hard.png"));
        for output in spellings {
            assert!(check_outputs(&[&other, &input], &[&output], true).is_err(), "{}", output.display());
        }
        assert!(check_outputs(&[&input], &[&other], false).is_err());
        assert!(check_outputs(&[&input], &[&other], true).is_ok());
        assert!(check_outputs(&[&input], &[&folder.join("new.png")], false).is_ok());
        let is_folder = check_outputs(&[&input], &[&folder.join("sub")], false).unwrap_err().to_string();
        assert!(is_folder.ends_with("sub is a folder, expected a file name"), "{is_folder}");
        // An image of a folder that is read, but nothing else in it.
        let text = folder.join("notes.txt");
        fs::write(&text, b"z").unwrap();
        let refused = check_outputs(&[&folder.join("sub/..")], &[&other], true).unwrap_err().to_string();
        assert!(refused.contains("an image of the input folder"), "{refused}");
        check_outputs(&[&folder], &[&text, &folder.join("new.png")], true).unwrap();
        // Two outputs in one place, whether it is there or not.
        for (a, b) in [("new.png", "sub/../new.png"), ("n/x.png", "./n/x.png")] {
            let refused = check_outputs(&[], &[&folder.join(a), &folder.join(b)], true).unwrap_err().to_string();
            assert!(refused.contains("two outputs"), "{refused}");
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}
