//! NumPy's `.npy` files of embeddings, as clip-retrieval writes them.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use adir_weights::npy::{Rows, rows};

use crate::{Error, Result};

/// The rows of a two-dimensional array of f2, f4 or f8 as f32, read one at a time.
pub struct NpyRows(Rows<BufReader<File>>);

impl NpyRows {
    /// Reads the header.
    ///
    /// # Errors
    /// [`Error::Input`] if the file is missing, malformed, or holds another kind of array.
    pub fn open(path: &Path) -> Result<Self> {
        rows(path).map(Self).map_err(input)
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.0.rows
    }

    /// The numbers in each.
    pub fn dimension(&self) -> usize {
        self.0.columns
    }
}

impl Iterator for NpyRows {
    type Item = Result<Vec<f32>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|row| row.map_err(input))
    }
}

/// Here the file is an input, not a model.
fn input(error: adir_weights::Error) -> Error {
    match error {
        adir_weights::Error::Malformed { path, message } => Error::Input { path, message },
        other => other.into(),
    }
}
