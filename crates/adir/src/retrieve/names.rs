//! Names of embeddings that were computed elsewhere. How many there must be is known before they are read, so that no
//! file, and nothing that poses as one, is read without end.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use crate::io::tally::counted;
use crate::{Error, Result};

/// Longest name in bytes: no system has longer paths.
const MAX_NAME: usize = 4096;

/// The names of `count` embeddings, as they come in.
pub(super) struct Names {
    names: Vec<String>,
    count: usize,
}

impl Names {
    pub fn new(count: usize) -> Self {
        Self { names: Vec::new(), count }
    }

    /// Whether `found` names are as many as there must be.
    pub fn check(found: usize, count: usize) -> Result<(), String> {
        match found == count {
            true => Ok(()),
            false => Err(format!("holds {} for {}", counted(found, "name"), counted(count, "embedding"))),
        }
    }

    pub fn push(&mut self, name: &str) -> Result<(), String> {
        let count = self.count;
        if self.names.len() == count {
            return Err(format!("holds more than {} for as many embeddings", counted(count, "name")));
        }
        if name.len() > MAX_NAME {
            let number = self.names.len() + 1;
            return Err(format!("name {number} has {} bytes, at most {MAX_NAME} are allowed", name.len()));
        }
        self.names.push(name.to_owned());
        Ok(())
    }

    pub fn finish(self) -> Result<Vec<String>, String> {
        Self::check(self.names.len(), self.count)?;
        Ok(self.names)
    }
}

/// Reads the names of `count` embeddings from a text, one a line. It may be a pipe.
///
/// # Errors
/// [`Error::Input`] if it cannot be read, is not UTF-8, or has a line of more than 4096 bytes or another number of
/// lines; no more than one line too many is read.
pub fn read_names(path: &Path, count: usize) -> Result<Vec<String>> {
    let bad = |message: String| Error::input(path, message);
    let unreadable = |e: std::io::Error| bad(format!("cannot be read: {e}"));
    let mut reader = BufReader::new(File::open(path).map_err(unreadable)?);
    let mut names = Names::new(count);
    let mut line = Vec::new();
    loop {
        line.clear();
        // One byte more than a name with its line end, which tells that it is too long.
        reader.by_ref().take(MAX_NAME as u64 + 3).read_until(b'\n', &mut line).map_err(unreadable)?;
        if line.is_empty() {
            return names.finish().map_err(bad);
        }
        let text = line.strip_suffix(b"\n").map_or(&*line, |line| line.strip_suffix(b"\r").unwrap_or(line));
        let text = std::str::from_utf8(text).map_err(|_| bad("cannot be read: is not UTF-8".to_owned()))?;
        names.push(text).map_err(bad)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], count: usize) -> Result<Vec<String>, String> {
        let number = std::thread::current().id();
        let path = std::env::temp_dir().join(format!("adir-names-{}-{number:?}", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        let result = read_names(&path, count).map_err(|e| e.to_string());
        std::fs::remove_file(path).unwrap();
        result
    }

    #[test]
    fn names_are_lines() {
        assert_eq!(read(b"a.png\nb c.png\r\n\n\xc3\xa9", 4).unwrap(), ["a.png", "b c.png", "", "\u{e9}"]);
        assert_eq!(read(b"a\n", 1).unwrap(), ["a"]);
        assert_eq!(read(b"", 0).unwrap(), Vec::<String>::new());
        let longest = "n".repeat(4096);
        assert_eq!(read(format!("{longest}\r\n{longest}").as_bytes(), 2).unwrap(), [longest.clone(), longest.clone()]);
        for (bytes, count, hint) in [
            (&b"a\nb\n"[..], 3, "2 names for 3"),
            (b"a\nb\n", 1, "more than 1 name for"),
            (b"a\n\xff\n", 2, "UTF-8"),
            (format!("{longest}n\n").as_bytes(), 1, "name 1 has 4097 bytes"),
            (format!("a\n{longest}nnn").as_bytes(), 2, "name 2 has 4099 bytes"),
        ] {
            let message = read(bytes, count).unwrap_err();
            assert!(message.contains(hint), "{hint}: {message}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn endless_files_are_refused() {
        let message = read_names(Path::new("/dev/zero"), 3).unwrap_err().to_string();
        assert!(message.contains("at most 4096"), "{message}");
    }
}
