//! NumPy's `.npy` files of arrays of two dimensions, such as the embeddings that clip-retrieval writes.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use half::f16;

use crate::weights::Dtype;
use crate::{Error, Result};

const MAX_HEADER: usize = 64 << 10;

/// Reads a two-dimensional array of f2, f4 or f8 as f32: the number of rows, of columns, and the values,
/// row after row.
///
/// # Errors
/// [`Error::Unreadable`] if the file is missing; [`Error::Malformed`] if it is damaged or holds another kind of array.
pub fn read_npy(path: &Path) -> Result<(usize, usize, Vec<f32>)> {
    rows(path)?.collected()
}

/// As [`read_npy`], from the `length` bytes of anything that can be read; `path` names it in messages.
///
/// # Errors
/// [`Error::Malformed`] if they are damaged, cannot be read, or hold another kind of array.
pub fn from_reader(path: &Path, reader: impl Read, length: u64) -> Result<(usize, usize, Vec<f32>)> {
    Rows::new(path, reader, length).map_err(|message| Error::malformed(path, message))?.collected()
}

/// Reads an array of one or two dimensions of integers or floats, stored row by row or column by column: the number of
/// rows (1 for one dimension), of columns, and the values, row after row.
///
/// For small arrays: all of it is held twice.
///
/// # Errors
/// As [`from_reader`].
pub fn matrix(path: &Path, reader: impl Read, length: u64) -> Result<(usize, usize, Vec<f64>)> {
    read_matrix(reader, length).map_err(|message| Error::malformed(path, message))
}

/// The rows of an array, read one at a time.
pub struct Rows<R> {
    path: PathBuf,
    reader: R,
    kind: Kind,
    /// Number of rows.
    pub rows: usize,
    /// Numbers in each.
    pub columns: usize,
    left: usize,
}

/// Opens a two-dimensional array of f2, f4 or f8, whose rows are read as f32.
///
/// # Errors
/// As [`read_npy`].
pub fn rows(path: &Path) -> Result<Rows<BufReader<File>>> {
    let bad = |e| Error::unreadable(path, e);
    let file = crate::open_regular(path).map_err(bad)?;
    let length = file.metadata().map_err(bad)?.len();
    Rows::new(path, BufReader::with_capacity(1 << 20, file), length).map_err(|message| Error::malformed(path, message))
}

impl<R: Read> Rows<R> {
    fn new(path: &Path, mut reader: R, length: u64) -> Result<Self, String> {
        let (Header { kind, by_columns, extents }, left) = read_header(&mut reader, length)?;
        if !matches!(kind, Kind::F2 | Kind::F4 | Kind::F8) {
            return Err(format!("has element type {}, expected '<f2', '<f4' or '<f8'", kind.name()));
        }
        if by_columns {
            return Err("is stored column by column, expected row by row".into());
        }
        let &[rows, columns] = extents.as_slice() else {
            return Err(format!("has shape {}, expected (rows, columns)", shape_of(&extents)));
        };
        sized(kind, rows, columns, left)?;
        // Rows of nothing are not counted out one by one.
        let left = if columns == 0 { 0 } else { rows };
        Ok(Self { path: path.to_owned(), reader, kind, rows, columns, left })
    }

    /// The number of rows, of columns, and all values.
    fn collected(self) -> Result<(usize, usize, Vec<f32>)> {
        let (rows, columns, mut values) = (self.rows, self.columns, Vec::new());
        if values.try_reserve_exact(rows * columns).is_err() {
            let message = format!("{rows} x {columns} numbers do not fit in memory");
            return Err(Error::malformed(&self.path, message));
        }
        for row in self {
            values.extend(row?);
        }
        Ok((rows, columns, values))
    }
}

impl<R: Read> Iterator for Rows<R> {
    type Item = Result<Vec<f32>>;

    fn next(&mut self) -> Option<Result<Vec<f32>>> {
        self.left = self.left.checked_sub(1)?;
        let mut bytes = vec![0; self.columns * self.kind.size()];
        Some(match self.reader.read_exact(&mut bytes) {
            Ok(()) => Ok(bytes.chunks_exact(self.kind.size()).map(|bytes| self.kind.value(bytes) as f32).collect()),
            Err(e) => {
                self.left = 0;
                Err(Error::malformed(&self.path, cut(e)))
            }
        })
    }
}

fn read_matrix(mut reader: impl Read, length: u64) -> Result<(usize, usize, Vec<f64>), String> {
    let (Header { kind, by_columns, extents }, left) = read_header(&mut reader, length)?;
    let (rows, columns) = match extents.as_slice() {
        [columns] => (1, *columns),
        [rows, columns] => (*rows, *columns),
        _ => return Err(format!("has shape {}, expected one or two dimensions", shape_of(&extents))),
    };
    let count = sized(kind, rows, columns, left)?;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(count * kind.size()).map_err(|_| format!("{rows} x {columns} numbers are too many"))?;
    reader.take(left).read_to_end(&mut bytes).map_err(cut)?;
    let values: Vec<f64> = bytes.chunks_exact(kind.size()).map(|bytes| kind.value(bytes)).collect();
    if values.len() != count {
        return Err(format!("is cut off: {} numbers, expected {rows} x {columns}", values.len()));
    }
    if !by_columns {
        return Ok((rows, columns, values));
    }
    let by_rows = (0..rows).flat_map(|row| (0..columns).map(move |column| column * rows + row));
    Ok((rows, columns, by_rows.map(|i| values[i]).collect()))
}

fn cut(e: std::io::Error) -> String {
    match e.kind() {
        std::io::ErrorKind::UnexpectedEof => "is cut off, or is no NumPy array (.npy)".into(),
        _ => format!("cannot be read: {e}"),
    }
}

/// Number of elements of an array whose data has `left` bytes.
fn sized(kind: Kind, rows: usize, columns: usize, left: u64) -> Result<usize, String> {
    let count = rows.checked_mul(columns).ok_or_else(|| format!("declares {rows} x {columns} numbers"))?;
    let expected = (count as u64).checked_mul(kind.size() as u64);
    if expected != Some(left) {
        let cut = if expected.is_none_or(|expected| left < expected) { "is cut off: it " } else { "" };
        return Err(format!("{cut}has {left} bytes of data, expected {rows} x {columns} x {}", kind.size()));
    }
    Ok(count)
}

fn shape_of(extents: &[usize]) -> String {
    let extents: Vec<String> = extents.iter().map(ToString::to_string).collect();
    format!("({})", extents.join(", "))
}

/// What a header says.
struct Header {
    kind: Kind,
    /// Whether it is stored column by column.
    by_columns: bool,
    extents: Vec<usize>,
}

/// Most bytes of a file before its numbers.
pub(crate) const MAX_START: usize = 12 + MAX_HEADER;

/// An array by its header.
pub(crate) struct Array {
    pub dtype: Dtype,
    pub by_columns: bool,
    pub extents: Vec<usize>,
    /// Bytes before its numbers.
    pub start: u64,
}

/// The array whose file begins with `start`; `None` where its numbers are of a kind that weights do not have.
pub(crate) fn array(start: &[u8]) -> Result<Option<Array>, String> {
    let mut left = start;
    let text = header_text(&mut left)?;
    if named(&text)?.and_then(Kind::named).is_none() {
        return Ok(None);
    }
    let Header { kind, by_columns, extents } = parse(&text)?;
    let start = (start.len() - left.len()) as u64;
    Ok(kind.dtype().map(|dtype| Array { dtype, by_columns, extents, start }))
}

/// The header of an array in `length` bytes, and the number of bytes behind it.
fn read_header(reader: &mut impl Read, length: u64) -> Result<(Header, u64), String> {
    let mut counted = Counted { reader, count: 0 };
    let text = header_text(&mut counted)?;
    let count = counted.count;
    Ok((parse(&text)?, length.saturating_sub(count)))
}

/// A reader that counts what it yields.
struct Counted<'a, R> {
    reader: &'a mut R,
    count: u64,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.count += read as u64;
        Ok(read)
    }
}

/// The text that says what the numbers behind it are.
fn header_text(reader: &mut impl Read) -> Result<String, String> {
    let mut start = [0; 8];
    reader.read_exact(&mut start).map_err(cut)?;
    let [magic @ .., major, _minor] = start;
    if &magic != b"\x93NUMPY" || !(1..=3).contains(&major) {
        return Err("is not a NumPy array".into());
    }
    let mut size = [0; 4];
    let size_bytes = if major == 1 { 2 } else { 4 };
    reader.read_exact(&mut size[..size_bytes]).map_err(cut)?;
    let header_bytes = u32::from_le_bytes(size) as usize;
    if header_bytes > MAX_HEADER {
        return Err(format!("declares a header of {header_bytes} bytes, but at most {MAX_HEADER} are allowed"));
    }
    let mut header = vec![0; header_bytes];
    reader.read_exact(&mut header).map_err(cut)?;
    String::from_utf8(header).map_err(|_| "has a header that is not text".into())
}

/// Declares the element types that are read, each with NumPy's name and how its bytes become a number.
macro_rules! kinds {
    ($($kind:ident $name:literal $type:ty, $value:expr;)*) => {
        /// The element types that are read.
        #[derive(Debug, Clone, Copy)]
        enum Kind { $($kind,)* }

        impl Kind {
            fn named(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$kind),)* _ => None }
            }

            fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }

            fn size(self) -> usize {
                match self { $(Self::$kind => size_of::<$type>(),)* }
            }

            /// The number in as many bytes as one takes.
            fn value(self, bytes: &[u8]) -> f64 {
                match self {
                    $(Self::$kind => {
                        let mut own = [0; size_of::<$type>()];
                        own.copy_from_slice(bytes);
                        $value(<$type>::from_le_bytes(own))
                    })*
                }
            }
        }
    };
}

impl Kind {
    /// That of weights, where they have it.
    fn dtype(self) -> Option<Dtype> {
        match self {
            Self::F2 => Some(Dtype::F16),
            Self::F4 => Some(Dtype::F32),
            Self::F8 => Some(Dtype::F64),
            Self::Bool => Some(Dtype::Bool),
            Self::U1 => Some(Dtype::U8),
            Self::I1 => Some(Dtype::I8),
            Self::I2 => Some(Dtype::I16),
            Self::I4 => Some(Dtype::I32),
            Self::I8 => Some(Dtype::I64),
            Self::U2 | Self::U4 | Self::U8 => None,
        }
    }
}

kinds! {
    F2 "<f2" f16, f64::from;
    F4 "<f4" f32, f64::from;
    F8 "<f8" f64, f64::from;
    Bool "|b1" u8, f64::from;
    U1 "|u1" u8, f64::from;
    U2 "<u2" u16, f64::from;
    U4 "<u4" u32, f64::from;
    U8 "<u8" u64, |v| v as f64;
    I1 "|i1" i8, f64::from;
    I2 "<i2" i16, f64::from;
    I4 "<i4" i32, f64::from;
    I8 "<i8" i64, |v| v as f64;
}

/// What stands behind a key of a header.
fn after<'a>(header: &'a str, key: &str) -> Result<&'a str, String> {
    let (_, rest) = header.split_once(&format!("'{key}':")).ok_or_else(|| format!("has no {key} in its header"))?;
    Ok(rest.trim_start())
}

/// The name of the element type, where there is one.
fn named(header: &str) -> Result<Option<&str>, String> {
    Ok(after(header, "descr")?.split('\'').nth(1))
}

/// Element type, order and extents from a header such as
/// `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 512), }`.
fn parse(header: &str) -> Result<Header, String> {
    let name = named(header)?;
    let kind = name.and_then(Kind::named);
    let kind = kind.ok_or_else(|| {
        let name = name.unwrap_or("a structure");
        format!(
            "has element type {name}, expected little-endian integers or floats: convert it with numpy's astype, for \
             example to '<f4'"
        )
    })?;
    let by_columns = !after(header, "fortran_order")?.starts_with("False");
    let shape = after(header, "shape")?.strip_prefix('(').and_then(|rest| rest.split_once(')')).map(|(shape, _)| shape);
    let shape = shape.ok_or("has a malformed shape in its header")?;
    let extents: Option<Vec<usize>> =
        shape.split(',').map(str::trim).filter(|e| !e.is_empty()).map(|e| e.parse().ok()).collect();
    let extents = extents.ok_or_else(|| format!("has shape ({shape}), expected whole numbers"))?;
    Ok(Header { kind, by_columns, extents })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An array as NumPy writes it.
    fn npy(major: u8, header: &str, numbers: &[u8]) -> Vec<u8> {
        let size = header.len() as u32;
        let size = if major == 1 { size.to_le_bytes()[..2].to_vec() } else { size.to_le_bytes().to_vec() };
        [b"\x93NUMPY", &[major, 0][..], &size, header.as_bytes(), numbers].concat()
    }

    fn read_bytes(bytes: &[u8]) -> Result<(usize, usize, Vec<f32>), String> {
        from_reader(Path::new("x.npy"), bytes, bytes.len() as u64).map_err(|e| e.to_string())
    }

    // import numpy as np, io
    // f = io.BytesIO(); np.save(f, np.array([[1, -2.5], [0.125, 3]], np.float16)); print(f.getvalue())
    #[test]
    fn reads_what_numpy_wrote() {
        let mut bytes = b"\x93NUMPY\x01\x00v\x00{'descr': '<f2', 'fortran_order': False, 'shape': (2, 2), }".to_vec();
        bytes.resize(127, b' ');
        bytes.extend(b"\n\x00<\x00\xc1\x000\x00B");
        assert_eq!(read_bytes(&bytes), Ok((2, 2, vec![1.0, -2.5, 0.125, 3.0])));
    }

    #[test]
    fn reads_every_kind_and_version() {
        let f4: Vec<u8> = [1.5f32, 2.0, -3.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        let f8: Vec<u8> = [1.5f64, 2.0, -3.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        let header = |kind| format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': (1, 3), }}\n");
        assert_eq!(read_bytes(&npy(2, &header("<f4"), &f4)), Ok((1, 3, vec![1.5, 2.0, -3.0])));
        assert_eq!(read_bytes(&npy(3, &header("<f8"), &f8)), Ok((1, 3, vec![1.5, 2.0, -3.0])));
    }

    #[test]
    fn a_small_matrix_is_read_whatever_its_numbers_and_order() {
        let matrix = |header: &str, numbers: &[u8]| {
            let bytes = npy(1, header, numbers);
            read_matrix(&bytes[..], bytes.len() as u64)
        };
        let f8: Vec<u8> = [0.1f64, 0.2, 0.3, 0.4].iter().flat_map(|v| v.to_le_bytes()).collect();
        let rows = "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 2), }";
        assert_eq!(matrix(rows, &f8), Ok((2, 2, vec![0.1, 0.2, 0.3, 0.4])), "all digits");
        let columns = "{'descr': '<f8', 'fortran_order': True, 'shape': (2, 2), }";
        assert_eq!(matrix(columns, &f8), Ok((2, 2, vec![0.1, 0.3, 0.2, 0.4])));
        let line = "{'descr': '|u1', 'fortran_order': False, 'shape': (3,), }";
        assert_eq!(matrix(line, &[1, 2, 255]), Ok((1, 3, vec![1.0, 2.0, 255.0])));
        let negative = "{'descr': '<i8', 'fortran_order': False, 'shape': (1, 1), }";
        assert_eq!(matrix(negative, &(-7i64).to_le_bytes()), Ok((1, 1, vec![-7.0])));
        for (header, part) in [
            ("{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), }", "32 bytes of data"),
            ("{'descr': '>f8', 'fortran_order': False, 'shape': (2, 2), }", ">f8"),
            ("{'descr': '<f8', 'fortran_order': False, 'shape': (2, 2, 1), }", "(2, 2, 1)"),
            ("{'descr': '<f8', 'fortran_order': False, 'shape': (), }", "()"),
        ] {
            let message = matrix(header, &f8).unwrap_err();
            assert!(message.contains(part), "{header}: {message}");
        }
        let bytes = npy(1, rows, &f8);
        assert!((0..bytes.len()).all(|n| read_matrix(&bytes[..n], n as u64).is_err()));
        assert!(read_matrix(&bytes[..40], bytes.len() as u64).is_err());
    }

    #[test]
    fn refuses_what_it_does_not_read() {
        let numbers = [0; 8];
        for (header, hint) in [
            ("{'descr': '<i4', 'fortran_order': False, 'shape': (1, 2), }", "<i4"),
            ("{'descr': '<f4', 'fortran_order': True, 'shape': (1, 2), }", "column"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", "(2)"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 3), }", "8 bytes"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807, 4), }", "declares"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 2), }", "(-1, 2)"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': ", "malformed"),
            ("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1, 2), }", "has element type a"),
            ("{}", "descr"),
        ] {
            let message = read_bytes(&npy(1, header, &numbers)).unwrap_err();
            assert!(message.contains(hint), "{header}: {message}");
        }
        let good = npy(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }", &numbers);
        assert!(read_bytes(&good).is_ok());
        for length in 0..good.len() {
            assert!(read_bytes(&good[..length]).is_err(), "cut at {length}");
        }
        let empty = npy(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 9223372036854775807), }", &[]);
        assert!(read_bytes(&empty).is_ok_and(|(_, _, values)| values.is_empty()));
        assert!(read_bytes(b"PK\x03\x04 and more").is_err());
        assert!(read_bytes(&npy(2, "", &[])[..10]).is_err());
    }
}
