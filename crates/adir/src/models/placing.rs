//! Values of a parameter as a tensor, where and in what precision they are kept.

use burn::tensor::{DType, TensorData};
use half::{bf16, f16};
use rayon::prelude::*;

use super::params::{ParamLayout, ParamSpec, Role};
use crate::compute::WeightPrecision;
use crate::io::weights::Dtype;
use crate::tensor::{self, Compute, Tensor};
use crate::{Error, Result};

/// Whether a parameter is among those that [`Compute::kept_in`] is about: the weights of convolutions and linear layers,
/// which are nearly all there is. Biases and normalisations are few, and rounding them helps nobody.
pub(super) fn is_weight(spec: &ParamSpec) -> bool {
    matches!(spec.role, Role::Convolution | Role::Linear) && spec.shape.len() > 1
}

/// What weights are kept in that were asked for in `precision`, where that is narrower than f32; `stored` is what the file has
/// them in, which counts where all have the same.
pub(super) fn kept_in(precision: WeightPrecision, mut stored: impl Iterator<Item = Dtype>) -> Option<DType> {
    match precision {
        WeightPrecision::F32 => None,
        WeightPrecision::F16 => Some(DType::F16),
        WeightPrecision::Bf16 => Some(DType::BF16),
        WeightPrecision::File => match stored.next()? {
            Dtype::F16 if stored.all(|kind| kind == Dtype::F16) => Some(DType::F16),
            Dtype::BF16 if stored.all(|kind| kind == Dtype::BF16) => Some(DType::BF16),
            _ => None,
        },
    }
}

/// Bytes of the parameters in f32, or with weights kept in half as many bits.
pub(super) fn bytes(layout: &ParamLayout, narrow: bool) -> u64 {
    let of = |spec: &ParamSpec| if narrow && is_weight(spec) { 2 * spec.len() } else { 4 * spec.len() };
    layout.specs().iter().map(of).sum::<usize>() as u64
}

/// The values of a parameter, where and in what precision `compute` says.
///
/// # Errors
/// [`Error::Config`] for a wrong number of values, and for one that f16 cannot hold.
pub(super) fn place(spec: &ParamSpec, values: Vec<f32>, compute: &Compute) -> Result<Tensor<1>> {
    if values.len() != spec.len() {
        return Err(Error::config(format!("{}: {} values for shape {:?}", spec.name, values.len(), spec.shape)));
    }
    let (device, shape) = (&compute.device, [spec.len()]);
    let data = match compute.kept_in.filter(|_| is_weight(spec)) {
        Some(DType::F16) => {
            let rounded: Vec<f16> = values.par_iter().map(|&value| f16::from_f32(value)).collect();
            if let Some((value, _)) =
                values.iter().zip(&rounded).find(|(value, half)| half.is_infinite() && value.is_finite())
            {
                let message =
                    format!("{} holds {value}, which is beyond f16: keep the weights in bf16 or f32", spec.name);
                return Err(Error::config(message));
            }
            TensorData::new(rounded, shape)
        }
        Some(DType::BF16) => {
            TensorData::new(values.par_iter().map(|&value| bf16::from_f32(value)).collect::<Vec<_>>(), shape)
        }
        _ => return Ok(tensor::from_f32(values, shape, device).cast(compute.dtype)),
    };
    let dtype = data.dtype();
    Ok(Tensor::from_data(data, (device, dtype)))
}
