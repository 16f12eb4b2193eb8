//! NumPy's `.npy` files of embeddings, as clip-retrieval writes them.

use std::path::Path;

use adir_weights::Error::Malformed;

use crate::{Error, Result};

/// Reads a two-dimensional array of f2, f4 or f8 as f32: the number of rows, of columns, and the values,
/// row after row.
///
/// # Errors
/// [`Error::Input`] if the file is missing, malformed, or holds another kind of array.
pub fn read_npy(path: &Path) -> Result<(usize, usize, Vec<f32>)> {
    adir_weights::npy::read_npy(path).map_err(|error| match error {
        // Here it is an input, not a model.
        Malformed { path, message } => Error::Input { path, message },
        other => other.into(),
    })
}
