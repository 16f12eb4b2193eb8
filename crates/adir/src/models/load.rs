//! Reading one tensor of a weight file, checked against the shape that the network needs, and whose fault it is.

use std::path::Path;

use crate::Error;
use crate::Result;
use crate::io::weights::WeightFile;

/// The values of the tensor `name` of `file`, as f32.
///
/// # Errors
/// [`Error::Model`] if it is missing, has another shape than `shape`, or is not finite.
pub(super) fn values(file: &WeightFile, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
    match file.info(name).map(|info| info.shape.as_slice()) {
        Some(found) if found == shape => Ok(file.read_f32(name)?),
        Some(found) => {
            Err(Error::model(file.path(), format!("tensor {name:?} has shape {found:?}, expected {shape:?}")))
        }
        None => Err(Error::model(file.path(), format!("has no tensor {name:?}"))),
    }
}

/// What is wrong with a configuration is wrong with its file.
pub(super) fn fault_of(path: &Path) -> impl Fn(Error) -> Error + '_ {
    move |e| match e {
        Error::Config(message) => Error::model(path, message),
        other => other,
    }
}
