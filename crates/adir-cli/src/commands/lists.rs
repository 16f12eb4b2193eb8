//! Lists of images: Open Images' .csv files of image ids, and text with one name per line. They are read row by row, so that
//! one of millions takes no memory.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use adir::io::open_regular;
use adir::{Error, Result};

/// Longest line of a text in bytes.
const MAX_LINE: u64 = 4096;

/// The names in some lists, one after the other: without folders, and without the ending of a file.
pub type Names = Box<dyn Iterator<Item = Result<String>>>;

/// Opens the lists.
///
/// # Errors
/// [`Error::Input`] if one cannot be read, or is a .csv file without that column.
pub fn names(lists: &[PathBuf], column: &str) -> Result<Names> {
    let lists = lists.iter().map(|list| open(list, column)).collect::<Result<Vec<_>>>()?;
    Ok(Box::new(lists.into_iter().flatten()))
}

fn open(path: &Path, column: &str) -> Result<Names> {
    let file = open_regular(path).map_err(|e| Error::input(path, format!("cannot be read: {e}")))?;
    match path.extension().is_some_and(|end| end.eq_ignore_ascii_case("csv")) {
        true => rows(path, file, column),
        false => Ok(lines(path.to_owned(), BufReader::new(file))),
    }
}

fn rows(path: &Path, file: File, column: &str) -> Result<Names> {
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(BufReader::with_capacity(1 << 20, file));
    let bad = |e: csv::Error| Error::input(path, format!("cannot be read as CSV: {e}"));
    let header = reader.byte_headers().map_err(bad)?;
    let place = header.iter().position(|name| name.trim_ascii() == column.as_bytes()).ok_or_else(|| {
        let names: Vec<_> = header.iter().take(20).map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        Error::input(path, format!("has no column {column:?} (see --list-column); it has: {}", names.join(", ")))
    })?;
    let path = path.to_owned();
    Ok(Box::new(reader.into_byte_records().map(move |record| {
        let record = record.map_err(|e| Error::input(&path, format!("cannot be read as CSV: {e}")))?;
        let number = || record.position().map_or(0, csv::Position::line);
        let name =
            record.get(place).ok_or_else(|| Error::input(&path, format!("line {} has too few columns", number())))?;
        plain(name).ok_or_else(|| Error::input(&path, format!("line {} has no name that is UTF-8", number())))
    })))
}

fn lines(path: PathBuf, mut reader: impl BufRead + 'static) -> Names {
    let (mut line, mut number) = (Vec::new(), 0_u64);
    Box::new(std::iter::from_fn(move || {
        loop {
            line.clear();
            number += 1;
            if let Err(e) = Read::by_ref(&mut reader).take(MAX_LINE + 1).read_until(b'\n', &mut line) {
                return Some(Err(Error::input(&path, format!("cannot be read: {e}"))));
            }
            if line.is_empty() {
                return None;
            }
            if line.len() as u64 > MAX_LINE {
                let message = format!("line {number} has more than {MAX_LINE} bytes: is it a list of names?");
                return Some(Err(Error::input(&path, message)));
            }
            if !line.trim_ascii().is_empty() {
                let name = plain(&line);
                return Some(name.ok_or_else(|| Error::input(&path, format!("line {number} is not UTF-8"))));
            }
        }
    }))
}

/// The name of an image in a list: `train/0123.jpg` is `0123`.
fn plain(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?.trim();
    Path::new(text).file_stem()?.to_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, content: &[u8]) -> Result<Vec<String>> {
        let path = std::env::temp_dir().join(format!("adir-lists-{}-{name}", std::process::id()));
        std::fs::write(&path, content).unwrap();
        let found = names(std::slice::from_ref(&path), "ImageID").and_then(Iterator::collect);
        std::fs::remove_file(path).unwrap();
        found
    }

    #[test]
    fn lists_are_columns_or_lines() {
        let csv = b"ImageID,Subset,OriginalURL,Title\n000026e7ee790996,train,https://a/b.jpg,\"a, b\nc\"\n000062a39995e348,train\n";
        assert_eq!(read("a.csv", csv).unwrap(), ["000026e7ee790996", "000062a39995e348"]);
        assert_eq!(read("a.CSV", b"\xef\xbb\xbfImageID\n1\n").unwrap(), ["1"]);
        assert_eq!(
            read("a.txt", b"train/f9e0434389a1d4dd\r\n\nvalidation/x.y.jpg\nlast").unwrap(),
            ["f9e0434389a1d4dd", "x.y", "last"]
        );
        for (name, content, hint) in [
            ("b.csv", &b"id,url\n1,2\n"[..], "no column \"ImageID\" (see --list-column); it has: id, url"),
            ("c.csv", b"url,ImageID\n1\n", "line 2 has too few columns"),
            ("d.csv", b"ImageID\n\xff\n", "line 2"),
            ("e.txt", b"a\n\xff\n", "line 2 is not UTF-8"),
            ("f.txt", &[b'n'; 5000], "line 1 has more than 4096 bytes"),
        ] {
            let message = read(name, content).unwrap_err().to_string();
            assert!(message.contains(hint), "{hint}: {message}");
        }
        assert!(names(&["/nowhere/x.csv".into()], "ImageID").is_err());
    }
}
