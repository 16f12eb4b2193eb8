//! Writing files whole or not at all, and not over another.

use std::path::Path;

pub use adir_weights::atomic::{AtomicFile, check_writable, write};

use crate::{Error, Result};

/// Refuses an output that would destroy something: one that is the input itself, however it is spelled,
/// always; any other existing file unless `overwrite` is set.
///
/// # Errors
/// [`Error::Config`] naming the file.
pub fn refuse_overwrite(input: &Path, output: &Path, overwrite: bool) -> Result<()> {
    if output.symlink_metadata().is_err() {
        return Ok(());
    }
    if same_file(input, output) {
        return Err(Error::config(format!("{}: the output is the input file itself", output.display())));
    }
    if !overwrite {
        return Err(Error::config(format!("{} already exists; use --overwrite to replace it", output.display())));
    }
    Ok(())
}

/// Refuses an output that is one of `inputs`, however they are spelled.
///
/// # Errors
/// [`Error::Config`] naming both files.
pub fn refuse_inputs<'a>(inputs: impl IntoIterator<Item = &'a Path>, output: &Path) -> Result<()> {
    match inputs.into_iter().find(|input| output.symlink_metadata().is_ok() && same_file(input, output)) {
        None => Ok(()),
        Some(input) => Err(Error::config(format!(
            "{}: would replace the input {}; choose another output",
            output.display(),
            input.display()
        ))),
    }
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
            assert!(refuse_overwrite(&input, &output, true).is_err(), "{}", output.display());
        }
        assert!(refuse_overwrite(&input, &other, false).is_err());
        assert!(refuse_overwrite(&input, &other, true).is_ok());
        assert!(refuse_overwrite(&input, &folder.join("new.png"), false).is_ok());
        fs::remove_dir_all(&folder).unwrap();
    }
}
