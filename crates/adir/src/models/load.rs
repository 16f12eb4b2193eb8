//! Reading one tensor of a weight file, checked against the shape that the network needs.

use crate::Error;
use crate::Result;
use crate::io::weights::WeightFile;
use crate::tensor::{Device, Tensor, from_f32};

/// The tensor `name` of `file` on `device`, as f32.
///
/// # Errors
/// [`Error::Model`] if it is missing, has another shape than `shape`, or is not finite.
pub(super) fn tensor<const D: usize>(
    file: &WeightFile,
    name: &str,
    shape: [usize; D],
    device: &Device,
) -> Result<Tensor<D>> {
    let found = file.info(name).map(|info| info.shape.as_slice());
    match found {
        Some(found) if found == shape => Ok(from_f32(file.read_f32(name)?, shape, device)),
        Some(found) => {
            Err(Error::model(file.path(), format!("tensor {name:?} has shape {found:?}, expected {shape:?}")))
        }
        None => Err(Error::model(file.path(), format!("has no tensor {name:?}"))),
    }
}
