//! NumPy's `.npy` files of arrays of two dimensions, such as the embeddings that clip-retrieval writes.

use std::io::{BufReader, Read};
use std::path::Path;

use half::f16;

use crate::{Error, Result};

const MAX_HEADER: usize = 64 << 10;

/// Reads a two-dimensional array of f2, f4 or f8 as f32: the number of rows, of columns, and the values,
/// row after row.
///
/// # Errors
/// [`Error::Unreadable`] if the file is missing; [`Error::Malformed`] if it is damaged or holds another kind of array.
pub fn read_npy(path: &Path) -> Result<(usize, usize, Vec<f32>)> {
    let bad = |e| Error::unreadable(path, e);
    let file = crate::open_regular(path).map_err(bad)?;
    let length = file.metadata().map_err(bad)?.len();
    from_reader(path, BufReader::new(file), length)
}

/// As [`read_npy`], from the `length` bytes of anything that can be read; `path` names it in messages.
///
/// # Errors
/// [`Error::Malformed`] if they are damaged, cannot be read, or hold another kind of array.
pub fn from_reader(path: &Path, reader: impl Read, length: u64) -> Result<(usize, usize, Vec<f32>)> {
    read(reader, length).map_err(|message| Error::malformed(path, message))
}

/// The array in `length` bytes, or what is wrong with them.
fn read(mut reader: impl Read, length: u64) -> Result<(usize, usize, Vec<f32>), String> {
    let cut = |e: std::io::Error| format!("is truncated: {e}");
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
    let header = std::str::from_utf8(&header).map_err(|_| "has a header that is not text")?;
    let (kind, rows, columns) = parse(header)?;
    let count = rows.checked_mul(columns).ok_or_else(|| format!("declares {rows} x {columns} numbers"))?;
    let bytes = (count as u64).checked_mul(kind.size() as u64);
    let found = length.saturating_sub((8 + size_bytes + header_bytes) as u64);
    if bytes != Some(found) {
        return Err(format!("has {found} bytes of data, expected {rows} x {columns} x {}", kind.size()));
    }
    let mut values = Vec::new();
    if count == 0 {
        return Ok((rows, columns, values));
    }
    values.try_reserve_exact(count).map_err(|_| format!("{rows} x {columns} numbers do not fit in memory"))?;
    let mut buffer = vec![0; columns * kind.size()];
    for _ in 0..rows {
        reader.read_exact(&mut buffer).map_err(cut)?;
        kind.append(&buffer, &mut values);
    }
    Ok((rows, columns, values))
}

/// The element types that are read.
#[derive(Debug, Clone, Copy)]
enum Kind {
    F2,
    F4,
    F8,
}

impl Kind {
    fn size(self) -> usize {
        match self {
            Self::F2 => 2,
            Self::F4 => 4,
            Self::F8 => 8,
        }
    }

    fn append(self, bytes: &[u8], values: &mut Vec<f32>) {
        match self {
            Self::F2 => values.extend(bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32())),
            Self::F4 => values.extend(bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b))),
            Self::F8 => values.extend(bytes.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b) as f32)),
        }
    }
}

/// Element type, rows and columns from a header such as
/// `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 512), }`.
fn parse(header: &str) -> Result<(Kind, usize, usize), String> {
    let after = |key: &str| {
        let (_, rest) = header.split_once(&format!("'{key}':")).ok_or_else(|| format!("has no {key} in its header"))?;
        Ok::<&str, String>(rest.trim_start())
    };
    let kind = match after("descr")?.split('\'').nth(1) {
        Some("<f2") => Kind::F2,
        Some("<f4") => Kind::F4,
        Some("<f8") => Kind::F8,
        other => {
            return Err(format!("has element type {}, expected '<f2', '<f4' or '<f8'", other.unwrap_or("a structure")));
        }
    };
    if !after("fortran_order")?.starts_with("False") {
        return Err("is stored column by column, expected row by row".into());
    }
    let shape = after("shape")?.strip_prefix('(').and_then(|rest| rest.split_once(')')).map(|(shape, _)| shape);
    let shape = shape.ok_or("has a malformed shape in its header")?;
    let extents: Option<Vec<usize>> =
        shape.split(',').map(str::trim).filter(|e| !e.is_empty()).map(|e| e.parse().ok()).collect();
    match extents.as_deref() {
        Some(&[rows, columns]) => Ok((kind, rows, columns)),
        _ => Err(format!("has shape ({shape}), expected (rows, columns)")),
    }
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
        read(bytes, bytes.len() as u64)
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
    fn refuses_what_it_does_not_read() {
        let numbers = [0; 8];
        for (header, hint) in [
            ("{'descr': '<i4', 'fortran_order': False, 'shape': (1, 2), }", "<i4"),
            ("{'descr': '<f4', 'fortran_order': True, 'shape': (1, 2), }", "column"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", "(2,)"),
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
