//! Columns of Parquet files: names and embeddings, as clip-retrieval and Hugging Face's `datasets` write them.
//!
//! The reader is Apache's, without Arrow. It panics on some damaged files; that ends here, as an error like any other.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;
use parquet::record::reader::RowIter;
use parquet::schema::types::Type;

use crate::{Error, Result};

/// Reads the texts in `column`, one a row.
///
/// # Errors
/// [`Error::Input`] if the file is missing, malformed, compressed otherwise than by Snappy, or has no such column of
/// texts without gaps.
pub fn read_parquet_texts(path: &Path, column: &str) -> Result<Vec<String>> {
    let mut texts = Vec::new();
    each(path, column, |row, field| match field {
        Field::Str(text) => {
            texts.push(text);
            Ok(())
        }
        other => Err(format!("{column:?} holds {} in row {row}, expected a text", kind(&other))),
    })?;
    Ok(texts)
}

/// Reads the lists of numbers in `column` as f32: the number of rows, of numbers in each, and the values, row after
/// row.
///
/// # Errors
/// As [`read_parquet_texts`], for a column of lists of floats that are all of the same length.
pub fn read_parquet_vectors(path: &Path, column: &str) -> Result<(usize, usize, Vec<f32>)> {
    let (mut rows, mut values) = (0, Vec::new());
    each(path, column, |row, field| {
        let Field::ListInternal(list) = field else {
            return Err(format!("{column:?} holds {} in row {row}, expected a list of floats", kind(&field)));
        };
        let length = list.elements().len();
        if rows > 0 && length * rows != values.len() {
            let others = values.len() / rows;
            return Err(format!("{column:?} holds {length} numbers in row {row}, {others} in those before"));
        }
        for element in list.elements() {
            values.push(match element {
                Field::Float16(value) => value.to_f32(),
                Field::Float(value) => *value,
                Field::Double(value) => *value as f32,
                other => return Err(format!("{column:?} holds {} in row {row}, expected floats", kind(other))),
            });
        }
        rows += 1;
        Ok(())
    })?;
    Ok((rows, values.len().checked_div(rows).unwrap_or(0), values))
}

/// Calls `take` with the number of every row and what it has in `column`.
fn each(path: &Path, column: &str, take: impl FnMut(usize, Field) -> Result<(), String>) -> Result<()> {
    let read = AssertUnwindSafe(|| each_unguarded(path, column, take));
    catch_unwind(read).unwrap_or_else(|_| Err(Error::input(path, "is a damaged Parquet file")))
}

fn each_unguarded(path: &Path, column: &str, mut take: impl FnMut(usize, Field) -> Result<(), String>) -> Result<()> {
    let bad = |message: String| Error::input(path, message);
    let malformed = |e: parquet::errors::ParquetError| bad(format!("cannot be read as Parquet: {e}"));
    let file = File::open(path).map_err(|e| bad(format!("cannot be read: {e}")))?;
    let reader = SerializedFileReader::new(file).map_err(malformed)?;
    let schema = reader.metadata().file_metadata().schema();
    let Some(field) = schema.get_fields().iter().find(|field| field.name() == column) else {
        let names: Vec<_> = schema.get_fields().iter().map(|field| field.name()).collect();
        return Err(bad(format!("has no column {column:?}; it has: {}", names.join(", "))));
    };
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
