//! Weights written to a file.

use std::collections::BTreeMap;
use std::path::Path;

use crate::Result;
use crate::io::weights::{Dtype, TensorSpec, stream_safetensors};
use crate::models::params::Params;
use crate::tensor;

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
