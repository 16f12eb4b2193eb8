//! Indexes of vectors that were computed elsewhere, written as they come.

use std::path::Path;
use std::sync::Arc;

use super::index::{Entry, Index, Precision, Vectors};
use super::index_file::{IN_MEMORY, header};
use super::writer::Writer;
use crate::encode::{Embedding, EncoderId};
use crate::io::atomic;
use crate::{Error, Result};

impl Index {
    /// Writes an index of vectors computed elsewhere, such as clip-retrieval's, to `path`: for each of `names` the next of
    /// `rows`. The caller vouches that they come from `encoder`. If the names are in order, no more is in memory than they
    /// take; else the vectors are, too.
    ///
    /// # Errors
    /// Those of `rows`; [`Error::Config`] if these are fewer or more than the names, if a name comes twice or is not a plain
    /// path below a folder, or if features are not of the encoder's dimension; [`Error::Numerical`] if they are zero or not
    /// finite; as [`Index::save`].
    pub fn import(
        path: &Path,
        encoder: &Arc<EncoderId>,
        precision: Precision,
        root: &Path,
        names: Vec<String>,
        rows: impl Iterator<Item = Result<Vec<f32>>>,
    ) -> Result<()> {
        let header = header(encoder, precision, names.len(), root, path)?;
        let mut rows = rows.map(|row| Ok(Embedding::new(encoder.clone(), row?)?.values().to_vec()));
        let missing = |count: usize| Error::Config(format!("there are {count} names, and fewer embeddings"));
        let entry = |path: &str| Entry { path: path.to_owned(), size: 0, content: None, modified: None, tile: None };
        let count = names.len();
        atomic::write(path, |file| {
            let mut writer = Writer::new(path, file, &header, IN_MEMORY)?;
            if names.is_sorted() {
                for name in &names {
                    writer.push(&entry(name), &rows.next().ok_or_else(|| missing(count))??)?;
                }
            } else {
                let mut vectors = Vectors::new(precision);
                vectors.reserve(count.saturating_mul(encoder.dimension))?;
                for _ in &names {
                    vectors.push(&rows.next().ok_or_else(|| missing(count))??);
                }
                let mut order: Vec<usize> = (0..count).collect();
                order.sort_unstable_by(|&a, &b| names[a].cmp(&names[b]));
                for id in order {
                    writer.push(&entry(&names[id]), &vectors.row(id, encoder.dimension))?;
                }
            }
            match rows.next() {
                None => writer.finish(),
                Some(row) => row.and(Err(Error::Config(format!("there are {count} names, and more embeddings")))),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_written_as_they_come_or_in_order() {
        let f = std::env::temp_dir().join(format!("adir-index-import-{}", std::process::id()));
        std::fs::create_dir_all(&f).unwrap();
        let id = EncoderId { name: "t".into(), weights: "".into(), preprocessing: "".into(), dimension: 2 };
        let encoder = Arc::new(id);
        let import = |names: &[&str], rows: &[[f32; 2]]| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            let rows = rows.iter().map(|row| Ok(row.to_vec()));
            Index::import(&f.join("x.index"), &encoder, Precision::F32, Path::new("/archive"), names, rows)?;
            Index::open(&f.join("x.index"))
        };
        let sorted = import(&["a", "b/c", "d"], &[[3.0, 4.0], [0.0, 8.0], [1.0, 0.0]]).unwrap();
        let shuffled = import(&["d", "a", "b/c"], &[[1.0, 0.0], [3.0, 4.0], [0.0, 8.0]]).unwrap();
        for index in [&sorted, &shuffled] {
            assert_eq!(index.entry(1).unwrap().path, "b/c");
            assert_eq!(index.vector(0).unwrap(), [0.6, 0.8]);
            assert_eq!(index.vector(1).unwrap(), [0.0, 1.0]);
        }
        for (names, rows, hint) in [
            (&["a", "a"][..], &[[1.0, 0.0]; 2][..], "ascending"),
            (&["a", "b"], &[[1.0, 0.0]; 1], "fewer"),
            (&["a", "b"], &[[1.0, 0.0]; 3], "more"),
            (&["b", "a"], &[[1.0, 0.0]; 1], "fewer"),
            (&["../a"], &[[1.0, 0.0]; 1], "inside the folder"),
            (&["a"], &[[0.0, 0.0]; 1], "length 0"),
            (&["a"], &[[f32::NAN, 0.0]; 1], "length NaN"),
        ] {
            let message = import(names, rows).unwrap_err().to_string();
            assert!(message.contains(hint), "{hint}: {message}");
        }
        std::fs::remove_dir_all(f).unwrap();
    }
}
