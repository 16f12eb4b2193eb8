//! Files of low-rank factors, as diffusers, PEFT and kohya's scripts write them.
//!
//! A factor's scale is alpha / rank. diffusers keeps alpha in metadata only, and takes the rank where that is missing; so
//! what is written here has the scale folded into B, and no alpha.

use std::collections::BTreeMap;
use std::path::Path;

use super::unet::ConditionalUNet;
use crate::io::weights::{Dtype, TensorSpec, WeightFile, stream_safetensors};
use crate::models::Network;
use crate::models::params::{ParamId, ParamSpec, Params};
use crate::tensor::{self, DType, Tensor};
use crate::{Error, Result};

/// Factors of one layer: A `[rank, in k k]` and B `[out, rank]` by rows, and what their product counts.
struct Factors {
    rank: usize,
    a: Vec<f32>,
    b: Vec<f32>,
    scale: f64,
}

/// `params` of `net` with the factors in `file` added, each product times `strength`. Returns the number of layers, too.
///
/// # Errors
/// [`Error::Model`] naming a tensor that belongs to no layer, a factor without its partner, or one of another shape.
pub fn add_lora(net: &ConditionalUNet, params: &Params, file: &WeightFile, strength: f64) -> Result<(Params, usize)> {
    let mut changes: BTreeMap<ParamId, Vec<f32>> = BTreeMap::new();
    for_each_layer(net, file, |id, spec, found| {
        let outputs = spec.shape[0];
        let inputs = spec.len() / outputs;
        let matrix = |values: Vec<f32>, shape: [usize; 2]| tensor::from_f32(values, shape, &tensor::cpu());
        let (a, b) = (matrix(found.a, [found.rank, inputs]), matrix(found.b, [outputs, found.rank]));
        changes.insert(id, tensor::to_f32(&(b.matmul(a) * (found.scale * strength)))?);
        Ok(())
    })?;
    let count = changes.len();
    let added = params.map(|id, value| match changes.remove(&id) {
        Some(change) => {
            let length = change.len();
            let change = tensor::from_f32(change, [length], &value.device());
            (value.cast(DType::F32) + change).cast(params.dtype())
        }
        None => value,
    });
    Ok((added, count))
}

/// Refuses a file that [`add_lora`] would refuse for `net`.
///
/// # Errors
/// As [`add_lora`].
pub fn check_lora(net: &ConditionalUNet, file: &WeightFile) -> Result<()> {
    for_each_layer(net, file, |_, _, _| Ok(()))
}

/// Gives `each` the factors of every layer of `net` that `file` has some for.
fn for_each_layer(
    net: &ConditionalUNet,
    file: &WeightFile,
    mut each: impl FnMut(ParamId, &ParamSpec, Factors) -> Result<()>,
) -> Result<()> {
    let (mut layers, mut used) = (0, 0);
    for (id, spec) in net.layout().ids().zip(net.layout().specs()).filter(|(_, spec)| spec.shape.len() > 1) {
        let Some(module) =
            net.diffusers_name(&spec.name).and_then(|name| name.strip_suffix(".weight").map(String::from))
        else {
            continue;
        };
        let Some((found, names)) = factors(file, &module, &spec.shape)? else { continue };
        layers += 1;
        used += names;
        each(id, spec, found)?;
    }
    let ignored = |name: &str| name.starts_with("text_encoder.") || name.starts_with("lora_te_");
    let held = file.names().filter(|name| !ignored(name)).count();
    match layers > 0 && used == held {
        true => Ok(()),
        false => Err(Error::model(
            file.path(),
            format!("{used} of {held} tensors belong to layers of this network: it is no LoRA for it"),
        )),
    }
}

/// The factors of a module, under any of the names in use, and how many tensors they take.
fn factors(file: &WeightFile, module: &str, shape: &[usize]) -> Result<Option<(Factors, usize)>> {
    let flat = format!("lora_unet_{}", module.replace('.', "_"));
    let names = [
        (
            format!("unet.{module}.lora_A.weight"),
            format!("unet.{module}.lora_B.weight"),
            format!("unet.{module}.alpha"),
        ),
        (format!("{module}.lora_A.weight"), format!("{module}.lora_B.weight"), format!("{module}.alpha")),
        (
            format!("base_model.model.{module}.lora_A.weight"),
            format!("base_model.model.{module}.lora_B.weight"),
            format!("base_model.model.{module}.alpha"),
        ),
        (format!("{flat}.lora_down.weight"), format!("{flat}.lora_up.weight"), format!("{flat}.alpha")),
    ];
    for (a_name, b_name, alpha_name) in names {
        let (Some(a), Some(b)) = (file.info(&a_name), file.info(&b_name)) else {
            if let Some(lonely) = [&a_name, &b_name].into_iter().find(|name| file.info(name).is_some()) {
                return Err(Error::model(file.path(), format!("{lonely} has no partner")));
            }
            continue;
        };
        let (rank, inputs): (usize, usize) = (a.shape.first().copied().unwrap_or(0), shape[1..].iter().product());
        let fits = |found: &[usize], first: usize, rest: usize| {
            found.first() == Some(&first) && found[1..].iter().product::<usize>() == rest
        };
        if rank == 0 || !fits(&a.shape, rank, inputs) || !fits(&b.shape, shape[0], rank) {
            let message =
                format!("{a_name} {:?} and {b_name} {:?} are no factors of a weight {shape:?}", a.shape, b.shape);
            return Err(Error::model(file.path(), message));
        }
        let alpha = match file.info(&alpha_name) {
            Some(_) => file.read_f32(&alpha_name)?.first().copied().map(f64::from),
            None => None,
        };
        let alpha = alpha.or_else(|| metadata_alpha(file, module)).unwrap_or(rank as f64);
        let used = 2 + usize::from(file.info(&alpha_name).is_some());
        let scale = alpha / rank as f64;
        return Ok(Some((Factors { rank, a: file.read_f32(&a_name)?, b: file.read_f32(&b_name)?, scale }, used)));
    }
    Ok(None)
}

/// alpha as diffusers keeps it: JSON in the metadata, with a value for all and some for modules.
fn metadata_alpha(file: &WeightFile, module: &str) -> Option<f64> {
    let text = file.metadata().get("lora_adapter_metadata")?;
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    let patterns = value.get("unet.alpha_pattern").and_then(serde_json::Value::as_object);
    let own = patterns.and_then(|patterns| patterns.get(module)).and_then(serde_json::Value::as_f64);
    own.or_else(|| value.get("unet.lora_alpha").and_then(serde_json::Value::as_f64))
}

/// Writes factors as diffusers reads them: `layers` are the weights with their A `[rank, in, k..]`, B `[out, rank, 1..]`, and
/// what the products count, which is folded into B.
///
/// # Errors
/// [`Error::Io`] where the system refuses.
pub fn save_lora(
    path: &Path,
    net: &ConditionalUNet,
    layers: &[(ParamId, Tensor<1>, Tensor<1>)],
    rank: usize,
    scale: f64,
) -> Result<()> {
    let mut tensors: Vec<(String, Vec<usize>, Tensor<1>)> = Vec::new();
    for (id, a, b) in layers {
        let spec = net.layout().spec(*id);
        let module = net.diffusers_name(&spec.name).unwrap_or_else(|| spec.name.clone());
        let module = module.trim_end_matches(".weight");
        let of_a = [&[rank], &spec.shape[1..]].concat();
        let of_b: Vec<usize> = [spec.shape[0], rank].into_iter().chain(spec.shape[2..].iter().map(|_| 1)).collect();
        tensors.push((format!("unet.{module}.lora_A.weight"), of_a, a.clone()));
        tensors.push((format!("unet.{module}.lora_B.weight"), of_b, b.clone() * scale));
    }
    let specs: Vec<_> = tensors.iter().map(|(name, shape, _)| TensorSpec { name, shape, dtype: Dtype::F32 }).collect();
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    stream_safetensors(path, &specs, &metadata, |k| tensor::to_f32(&tensors[k].2))
}
