//! What files call the parameters, and how they lay out their values: pyiqa's state dict, and the `.npz` of the authors, whose
//! names are those of old flax.

use crate::io::weights::WeightFile;
use crate::models::load::values;
use crate::{Error, Result};

/// What files of pyiqa put before every name, and those of flax.
const PYIQA: [&str; 3] = ["", "params.", "module."];
const FLAX: [&str; 2] = ["opt/target/", ""];
/// What flax calls the attention of a block, which depends on how the layer was made.
const ATTENTION: [&str; 2] = ["SelfAttention_1", "MultiHeadDotProductAttention_1"];

/// The names of a file.
#[derive(Debug, Clone, Copy)]
pub(super) enum Names {
    /// Those of the network, behind a prefix.
    Pyiqa(&'static str),
    /// Kernels have their outputs last, and heads an axis of their own.
    Flax { prefix: &'static str, attention: &'static str },
}

impl Names {
    /// Those of `file`.
    ///
    /// # Errors
    /// [`Error::Model`] if it has neither.
    pub fn of(file: &WeightFile) -> Result<Self> {
        let has = |name: String| file.info(&name).is_some();
        if let Some(prefix) = PYIQA.into_iter().find(|prefix| has(format!("{prefix}conv_root.weight"))) {
            return Ok(Self::Pyiqa(prefix));
        }
        let prefix = FLAX.into_iter().find(|prefix| has(format!("{prefix}conv_root/kernel"))).ok_or_else(|| {
            let message = "is no MUSIQ with the names of pyiqa or of the authors: there is neither the tensor \
                           \"conv_root.weight\" nor \"opt/target/conv_root/kernel\"";
            Error::model(file.path(), message)
        })?;
        let used = |attention: &&str| has(format!("{prefix}Transformer/encoderblock_0/{attention}/query/kernel"));
        Ok(Self::Flax { prefix, attention: ATTENTION.into_iter().find(used).unwrap_or(ATTENTION[0]) })
    }

    /// What the file calls a parameter of the network.
    pub fn in_file(self, name: &str, dimensions: usize) -> String {
        let (prefix, attention) = match self {
            Self::Pyiqa(prefix) => return format!("{prefix}{name}"),
            Self::Flax { prefix, attention } => (prefix, attention),
        };
        let part = |part: &str| match part {
            "transformer_encoder" => Some("Transformer".into()),
            "transformer" | "0" => None,
            "block1" => Some("block1/unit1".into()),
            "position_emb" => Some("pos_embedding".into()),
            "scale_emb" => Some("scale_embedding".into()),
            "norm1" => Some("LayerNorm_0".into()),
            "attention" => Some(attention.to_owned()),
            "norm2" => Some("LayerNorm_2".into()),
            "mlp" => Some("MlpBlock_3".into()),
            "fc1" => Some("Dense_0".into()),
            "fc2" => Some("Dense_1".into()),
            "weight" => Some(if dimensions > 1 { "kernel".into() } else { "scale".into() }),
            other => Some(other.to_owned()),
        };
        let parts: Vec<String> = name.split('.').filter_map(part).collect();
        format!("{prefix}{}", parts.join("/"))
    }

    /// Whether a name of the file is outside of the network: the state of an optimiser.
    pub fn is_beside(self, name: &str) -> bool {
        match self {
            Self::Pyiqa(_) => false,
            Self::Flax { prefix, .. } => !name.starts_with(prefix),
        }
    }

    /// The shape of a parameter of that many dimensions, as the network has it.
    ///
    /// # Errors
    /// [`Error::Model`] if it is missing.
    pub fn shape(self, file: &WeightFile, name: &str, dimensions: usize) -> Result<Vec<usize>> {
        let stored = self.in_file(name, dimensions);
        let info = file.info(&stored).ok_or_else(|| Error::model(file.path(), format!("has no tensor {stored:?}")))?;
        Ok(info.shape.clone())
    }

    /// The values of a parameter of that shape, as the network has them.
    ///
    /// # Errors
    /// [`Error::Model`] if it is missing, misshapen or not finite.
    pub fn read(self, file: &WeightFile, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let stored = self.in_file(name, shape.len());
        let is_kernel = name.ends_with(".weight") && shape.len() > 1;
        match (self, shape) {
            (Self::Pyiqa(_), _) => values(file, &stored, shape),
            // Rows, columns, inputs, outputs.
            (Self::Flax { .. }, &[outputs, inputs, rows, columns]) if is_kernel => {
                let kernel = values(file, &stored, &[rows, columns, inputs, outputs])?;
                let place = |[o, i, y, x]: [usize; 4]| ((y * columns + x) * inputs + i) * outputs + o;
                let axes = |k: usize| {
                    [k / (inputs * rows * columns), k / (rows * columns) % inputs, k / columns % rows, k % columns]
                };
                Ok((0..kernel.len()).map(|k| kernel[place(axes(k))]).collect())
            }
            // Inputs, outputs.
            (Self::Flax { .. }, &[outputs, inputs]) if is_kernel => {
                let kernel = flat(file, &stored, shape, [inputs, outputs])?;
                Ok((0..kernel.len()).map(|k| kernel[k % inputs * outputs + k / inputs]).collect())
            }
            _ => flat(file, &stored, shape, [1, shape.iter().product()]),
        }
    }
}

/// The values of a matrix of which an axis may be divided by heads, and of what may have further axes of 1.
fn flat(file: &WeightFile, name: &str, shape: &[usize], [rows, columns]: [usize; 2]) -> Result<Vec<f32>> {
    let found = file.info(name).ok_or_else(|| Error::model(file.path(), format!("has no tensor {name:?}")))?;
    let cut = |k: usize| [found.shape[..k].iter().product::<usize>(), found.shape[k..].iter().product()];
    if !(0..=found.shape.len()).any(|k| cut(k) == [rows, columns]) {
        let message = format!("tensor {name:?} has shape {:?}, which does not fit {shape:?}", found.shape);
        return Err(Error::model(file.path(), message));
    }
    Ok(file.read_f32(name)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_published_code() {
        let names = Names::Flax { prefix: "opt/target/", attention: ATTENTION[0] };
        for (name, dimensions, stored) in [
            ("conv_root.weight", 4, "conv_root/kernel"),
            ("gn_root.weight", 1, "gn_root/scale"),
            ("block1.conv_proj.weight", 4, "block1/unit1/conv_proj/kernel"),
            ("block1.gn3.bias", 1, "block1/unit1/gn3/bias"),
            ("embedding.weight", 2, "embedding/kernel"),
            ("transformer_encoder.cls", 3, "Transformer/cls"),
            ("transformer_encoder.posembed_input.position_emb", 3, "Transformer/posembed_input/pos_embedding"),
            ("transformer_encoder.scaleembed_input.scale_emb", 2, "Transformer/scaleembed_input/scale_embedding"),
            ("transformer_encoder.encoder_norm.weight", 1, "Transformer/encoder_norm/scale"),
            (
                "transformer_encoder.transformer.encoderblock_3.attention.query.weight",
                2,
                "Transformer/encoderblock_3/SelfAttention_1/query/kernel",
            ),
            (
                "transformer_encoder.transformer.encoderblock_3.mlp.fc2.bias",
                1,
                "Transformer/encoderblock_3/MlpBlock_3/Dense_1/bias",
            ),
            (
                "transformer_encoder.transformer.encoderblock_13.norm2.weight",
                1,
                "Transformer/encoderblock_13/LayerNorm_2/scale",
            ),
            ("head.0.weight", 2, "head/kernel"),
            ("head.bias", 1, "head/bias"),
        ] {
            assert_eq!(names.in_file(name, dimensions), format!("opt/target/{stored}"));
        }
        assert!(names.is_beside("opt/state/step") && !names.is_beside("opt/target/cls"));
    }
}
