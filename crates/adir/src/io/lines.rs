//! Files of lines that grow while a run goes on, such as manifests.
//!
//! They begin whole, like every other file. Each further line is one write that has reached the disk when it returns. What
//! a kill leaves of a last line is left out when the file is read.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use super::{atomic, open_regular};
use crate::{Error, Result};

/// A file of lines, open at its end.
#[derive(Debug)]
pub struct Lines {
    path: PathBuf,
    file: File,
}

impl Lines {
    /// A file that begins with `lines`, in place of one that is there. Missing folders are made.
    ///
    /// # Errors
    /// [`Error::Io`] where the system refuses.
    pub fn begin(path: &Path, lines: &[String]) -> Result<Self> {
        atomic::write(path, |file| {
            lines.iter().try_for_each(|line| writeln!(file, "{line}")).map_err(|e| Error::io(path, e))
        })?;
        let file = OpenOptions::new().append(true).open(path).map_err(|e| Error::io(path, e))?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Adds a line, which must hold no line end.
    ///
    /// # Errors
    /// [`Error::Io`] where the system refuses.
    pub fn push(&mut self, line: &str) -> Result<()> {
        let written = self.file.write_all(format!("{line}\n").as_bytes()).and_then(|()| self.file.sync_data());
        written.map_err(|e| Error::io(&self.path, e))
    }
}

/// The whole lines of a file of at most `most` bytes; none if there is no such file.
///
/// # Errors
/// [`Error::Input`] when it cannot be read, is no text, or is longer.
pub fn read_lines(path: &Path, most: u64) -> Result<Vec<String>> {
    if path.symlink_metadata().is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound) {
        return Ok(Vec::new());
    }
    let mut bytes = Vec::new();
    let read = open_regular(path).and_then(|file| file.take(most + 1).read_to_end(&mut bytes));
    read.map_err(|e| Error::input(path, format!("cannot be read: {e}")))?;
    if bytes.len() as u64 > most {
        return Err(Error::input(path, format!("is longer than {most} bytes")));
    }
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    bytes.truncate(whole);
    let text = String::from_utf8(bytes).map_err(|e| {
        let before = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        Error::input(path, format!("line {line} is no text in UTF-8"))
    })?;
    Ok(text.lines().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_added_and_half_a_line_is_not_read() {
        let folder = std::env::temp_dir().join(format!("adir-lines-{}", std::process::id()));
        let path = folder.join("new/log.jsonl");
        assert!(read_lines(&path, 100).unwrap().is_empty());
        let mut lines = Lines::begin(&path, &["a".into()]).unwrap();
        lines.push("b").unwrap();
        lines.file.write_all(b"half").unwrap();
        assert_eq!(read_lines(&path, 100).unwrap(), ["a", "b"]);
        assert!(matches!(read_lines(&path, 7), Err(Error::Input { .. })), "8 bytes");
        drop(Lines::begin(&path, &["c".into()]).unwrap());
        assert_eq!(read_lines(&path, 100).unwrap(), ["c"]);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
