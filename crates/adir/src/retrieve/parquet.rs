//! Columns of Parquet files: names and embeddings, as clip-retrieval and Hugging Face's `datasets` write them.
//!
//! The reader is Apache's, without Arrow. It panics on some damaged files; that ends here, as an error like any other.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::record::reader::RowIter;
use parquet::schema::types::Type;

use super::names::Names;
use crate::io::open_regular;
use crate::{Error, Result};

/// Most values that a column may have for each byte of the file. Columns of equal values compress without bound, but
/// names are not equal and embeddings hardly compress.
const MAX_VALUES_PER_BYTE: u64 = 16;

/// Reads the names of `count` embeddings from `column`, one a row.
///
/// # Errors
/// [`Error::Input`] if the file is missing, malformed, compressed otherwise than by Snappy, or has no such column of
/// texts without gaps; if it has another number of rows, which is known before they are read; if a name is longer than
/// 4096 bytes.
pub fn read_parquet_names(path: &Path, column: &str, count: usize) -> Result<Vec<String>> {
    let mut names = Names::new(count);
    each(path, column, Some(count), |row, field| match field {
        Field::Str(text) => names.push(&text),
        other => Err(format!("column {column:?} has {} in row {row}, expected text", kind(&other))),
    })?;
    names.finish().map_err(|message| Error::input(path, message))
}

/// Reads the lists of numbers in `column` as f32: the number of rows, of numbers in each, and the values, row after
/// row.
///
/// # Errors
/// As [`read_parquet_names`], for a column of lists of floats that are all of the same length.
pub fn read_parquet_vectors(path: &Path, column: &str) -> Result<(usize, usize, Vec<f32>)> {
    let (mut rows, mut values) = (0, Vec::new());
    each(path, column, None, |row, field| {
        let Field::ListInternal(list) = field else {
            return Err(format!("column {column:?} has {} in row {row}, expected a list of floats", kind(&field)));
        };
        let length = list.elements().len();
        if rows > 0 && length * rows != values.len() {
            let others = values.len() / rows;
            return Err(format!(
                "column {column:?} has {length} numbers in row {row}, but {others} in the rows before"
            ));
        }
        for element in list.elements() {
            values.push(match element {
                Field::Float16(value) => value.to_f32(),
                Field::Float(value) => *value,
                Field::Double(value) => *value as f32,
                other => return Err(format!("column {column:?} has {} in row {row}, expected floats", kind(other))),
            });
        }
        rows += 1;
        Ok(())
    })?;
    Ok((rows, values.len().checked_div(rows).unwrap_or(0), values))
}

/// The number of rows that a file declares.
///
/// # Errors
/// [`Error::Input`] if it is missing or malformed.
pub fn count_parquet_rows(path: &Path) -> Result<usize> {
    let count = || {
        let file = open_regular(path).map_err(|e| Error::input(path, format!("cannot be read: {e}")))?;
        let reader = SerializedFileReader::new(file);
        let reader = reader.map_err(|e| Error::input(path, format!("cannot be read as Parquet: {e}")))?;
        let rows = reader.metadata().file_metadata().num_rows();
        usize::try_from(rows).map_err(|_| Error::input(path, format!("declares {rows} rows")))
    };
    catch_unwind(AssertUnwindSafe(count)).unwrap_or_else(|_| Err(Error::input(path, "is a damaged Parquet file")))
}

/// Calls `take` with the number of every row and what it has in `column`. Refuses a file that has not `count` rows.
fn each(
    path: &Path,
    column: &str,
    count: Option<usize>,
    take: impl FnMut(usize, Field) -> Result<(), String>,
) -> Result<()> {
    let read = AssertUnwindSafe(|| each_unguarded(path, column, count, take));
    catch_unwind(read).unwrap_or_else(|_| Err(Error::input(path, "is a damaged Parquet file")))
}

fn each_unguarded(
    path: &Path,
    column: &str,
    count: Option<usize>,
    mut take: impl FnMut(usize, Field) -> Result<(), String>,
) -> Result<()> {
    let bad = |message: String| Error::input(path, message);
    let malformed = |e: parquet::errors::ParquetError| bad(format!("cannot be read as Parquet: {e}"));
    let file = open_regular(path).map_err(|e| bad(format!("cannot be read: {e}")))?;
    let bytes = file.metadata().map_err(|e| bad(format!("cannot be read: {e}")))?.len();
    let reader = SerializedFileReader::new(file).map_err(malformed)?;
    let schema = reader.metadata().file_metadata().schema();
    let Some(field) = schema.get_fields().iter().find(|field| field.name() == column) else {
        let names: Vec<_> = schema.get_fields().iter().map(|field| field.name()).collect();
        return Err(bad(format!("has no column {column:?}; it has: {}", names.join(", "))));
    };
    if let Some(count) = count {
        let rows = reader.metadata().file_metadata().num_rows();
        Names::check(usize::try_from(rows).unwrap_or(0), count).map_err(bad)?;
    }
    let groups = reader.metadata().row_groups().iter();
    let columns = groups
        .flat_map(|group| group.columns())
        .filter(|c| c.column_path().parts().first() == Some(&column.to_owned()));
    let values = columns.map(|column| u64::try_from(column.num_values()).unwrap_or(0)).fold(0, u64::saturating_add);
    if values > bytes.saturating_mul(MAX_VALUES_PER_BYTE) {
        return Err(bad(format!("declares {values} values of {column:?} in {bytes} bytes: too many")));
    }
    let only = Type::group_type_builder(schema.name()).with_fields(vec![field.clone()]).build().map_err(malformed)?;
    let rows = RowIter::from_file(Some(only), &reader).map_err(malformed)?;
    for (number, row) in rows.enumerate() {
        let columns = row.map_err(malformed)?.into_columns();
        let (_, field) = columns.into_iter().next().ok_or_else(|| bad(format!("row {number} is empty")))?;
        take(number, field).map_err(bad)?;
    }
    Ok(())
}

fn kind(field: &Field) -> &'static str {
    match field {
        Field::Null => "nothing",
        Field::Str(_) => "a text",
        Field::ListInternal(_) => "a list",
        Field::Group(_) | Field::MapInternal(_) => "a structure",
        Field::Float16(_) | Field::Float(_) | Field::Double(_) => "a float",
        _ => "something else",
    }
}
