//! Weights, and the state of their training, in files.

use std::collections::BTreeMap;
use std::path::Path;

use crate::io::weights::{Dtype, TensorSpec, WeightFile, stream_safetensors};
use crate::models::params::{ParamLayout, ParamSpec, Params};
use crate::tensor::{self, Device, Tensor};
use crate::{Error, Result};

/// Writes weights in f32, or rounded to half precision. One of them is on the host at a time.
///
/// # Errors
/// As [`stream_safetensors`].
pub fn save_params(path: &Path, params: &Params, dtype: Dtype, metadata: &BTreeMap<String, String>) -> Result<()> {
    let layout = params.layout();
    let ids: Vec<_> = layout.ids().collect();
    let specs: Vec<_> =
        layout.specs().iter().map(|spec| TensorSpec { name: &spec.name, shape: &spec.shape, dtype }).collect();
    stream_safetensors(path, &specs, metadata, |index| tensor::to_f32(&params.flat(ids[index])))
}

/// Writes flat tensors in f32 under their names, with the shapes of their parameters. One of them is on the host at a time.
///
/// # Errors
/// As [`stream_safetensors`].
pub(crate) fn save_tensors(
    path: &Path,
    tensors: &[(String, &ParamSpec, Tensor<1>)],
    metadata: &BTreeMap<String, String>,
) -> Result<()> {
    let specs: Vec<_> =
        tensors.iter().map(|(name, spec, _)| TensorSpec { name, shape: &spec.shape, dtype: Dtype::F32 }).collect();
    stream_safetensors(path, &specs, metadata, |index| tensor::to_f32(&tensors[index].2))
}

/// The values of the tensor `name`, which must have that shape.
///
/// # Errors
/// [`Error::Model`] otherwise.
pub(crate) fn read_values(file: &WeightFile, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
    match file.info(name) {
        Some(info) if info.shape == shape => Ok(file.read_f32(name)?),
        Some(info) => Err(Error::model(file.path(), format!("{name} is {:?}, expected {shape:?}", info.shape))),
        None => Err(Error::model(file.path(), format!("has no {name}"))),
    }
}

/// Adam's moments of every parameter, under its name with either prefix; none for those that the file lacks.
///
/// # Errors
/// As [`read_values`].
pub(crate) fn read_moments(
    file: &WeightFile,
    layout: &ParamLayout,
    prefixes: [&str; 2],
    device: &Device,
) -> Result<Vec<Option<[Tensor<1>; 2]>>> {
    let moments = layout.specs().iter().map(|spec| {
        let [first, second] = prefixes.map(|prefix| format!("{prefix}{}", spec.name));
        let read = |name: &str| -> Result<Tensor<1>> {
            let values = read_values(file, name, &spec.shape)?;
            let count = values.len();
            Ok(tensor::from_f32(values, [count], device))
        };
        file.info(&first).map(|_| Ok([read(&first)?, read(&second)?])).transpose()
    });
    moments.collect()
}
