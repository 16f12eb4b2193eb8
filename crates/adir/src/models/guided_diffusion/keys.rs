//! Recognises the network of a checkpoint by its parameter names and shapes.
//!
//! Names and shapes fix everything but the split of attention into heads, the qkv order and the noise
//! schedule; these are taken from the published model of the same structure, and a structure that was
//! never published is refused with a request for its configuration rather than guessed.

use std::collections::BTreeMap;

use super::config::{NoiseSchedule, UNetConfig};
use crate::{Error, Result};

/// Names and shapes found in a checkpoint.
pub type Shapes = BTreeMap<String, Vec<usize>>;

/// Whether the names are those of a guided-diffusion U-Net.
pub fn is_guided_diffusion(shapes: &Shapes) -> bool {
    ["input_blocks.0.0.weight", "time_embed.0.weight", "out.2.weight", "middle_block.1.qkv.weight"]
        .iter()
        .all(|name| shapes.contains_key(*name))
}

/// The configuration of a published checkpoint with these names and shapes.
///
/// # Errors
/// [`Error::Config`] when the names are not those of this network, or its structure is none of the
/// published ones, so that the heads cannot be known.
pub fn infer(shapes: &Shapes) -> Result<UNetConfig> {
    let structure = structure(shapes)?;
    published(&structure).ok_or_else(|| {
        Error::config(format!(
            "this guided-diffusion network ({} channels x {:?}) is not one of the published models, and its attention \
             heads cannot be inferred from names and shapes: put a .json configuration beside the weights, or use \
             --model-config",
            structure.model_channels, structure.channel_mult
        ))
    })
}

/// The configuration as far as names and shapes determine it; heads, qkv order and schedule keep their defaults.
fn structure(shapes: &Shapes) -> Result<UNetConfig> {
    let shape = |name: &str, rank: usize| -> Result<&[usize]> {
        match shapes.get(name) {
            Some(s) if s.len() == rank => Ok(s),
            Some(s) => Err(Error::config(format!("{name} has shape {s:?}, expected {rank} dimensions"))),
            None => Err(Error::config(format!("{name} is missing: not a guided-diffusion network"))),
        }
    };
    let stem = shape("input_blocks.0.0.weight", 4)?;
    let model_channels = shape("time_embed.0.weight", 2)?[1];
    let out_channels = shape("out.2.weight", 4)?[0];
    if model_channels == 0 {
        return Err(Error::config("time_embed.0.weight is empty"));
    }
    let has = |name: String| shapes.contains_key(&name);
    let count = |prefix: &str| (0..256).take_while(|i| has(format!("{prefix}.{i}.0.in_layers.0.weight"))).count();
    // Every output block begins with a residual block, so their number is the number of skips.
    let blocks = count("output_blocks");
    let resampled = |i: usize| {
        (1..=2).any(|k| {
            has(format!("output_blocks.{i}.{k}.in_layers.0.weight"))
                || has(format!("output_blocks.{i}.{k}.conv.weight"))
        })
    };
    let per_level = match (0..blocks).find(|&i| resampled(i)) {
        Some(first) => first + 1,
        // Up-sampling has no parameters; input blocks without parameters mark the levels.
        None => (1..blocks).find(|i| !has(format!("input_blocks.{i}.0.in_layers.0.weight"))).unwrap_or(blocks),
    };
    if blocks == 0 || per_level < 2 || blocks % per_level != 0 {
        return Err(Error::config(format!("{blocks} output blocks cannot be divided into levels of {per_level}")));
    }
    let levels = blocks / per_level;
    let mut channel_mult = Vec::new();
    let mut attention_resolutions = Vec::new();
    for level in 0..levels {
        let first = 1 + level * per_level;
        let width = shape(&format!("input_blocks.{first}.0.out_layers.3.weight"), 4)?[0];
        channel_mult.push(width as f64 / model_channels as f64);
        if has(format!("input_blocks.{first}.1.qkv.weight")) {
            attention_resolutions.push(1 << level);
        }
    }
    let first_width = shape("input_blocks.1.0.out_layers.3.weight", 4)?[0];
    let emb_width = shape("input_blocks.1.0.emb_layers.1.weight", 2)?[0];
    Ok(UNetConfig {
        image_size: None,
        in_channels: stem[1],
        model_channels,
        out_channels,
        num_res_blocks: per_level - 1,
        attention_resolutions,
        channel_mult,
        num_classes: shapes.get("label_emb.weight").map(|s| s.first().copied().unwrap_or(0)),
        num_heads: 1,
        num_head_channels: -1,
        use_scale_shift_norm: emb_width == 2 * first_width,
        resblock_updown: has(format!("input_blocks.{per_level}.0.in_layers.0.weight")),
        conv_resample: levels == 1 || has(format!("input_blocks.{per_level}.0.op.weight")),
        use_new_attention_order: false,
        noise_schedule: NoiseSchedule::Linear,
        diffusion_steps: 1000,
    })
}

/// The published model of the same structure, which defines heads, qkv order and schedule.
fn published(s: &UNetConfig) -> Option<UNetConfig> {
    let plain = s.in_channels == 3 && s.out_channels == 6 && s.use_scale_shift_norm && s.resblock_updown;
    let wide = s.model_channels == 256 && s.num_res_blocks == 2;
    let with = |image_size: usize, heads: (usize, i64), new_order: bool, noise_schedule| UNetConfig {
        image_size: Some(image_size),
        num_heads: heads.0,
        num_head_channels: heads.1,
        use_new_attention_order: new_order,
        noise_schedule,
        conv_resample: true,
        ..s.clone()
    };
    let heads_of_64 = (4, 64);
    match (s.channel_mult.as_slice(), s.attention_resolutions.as_slice()) {
        // 64x64_diffusion.pt
        ([1.0, 2.0, 3.0, 4.0], [2, 4, 8]) if plain && s.model_channels == 192 && s.num_res_blocks == 3 => {
            Some(with(64, heads_of_64, true, NoiseSchedule::Cosine))
        }
        // 128x128_diffusion.pt
        ([1.0, 1.0, 2.0, 3.0, 4.0], [4, 8, 16]) if plain && wide => {
            Some(with(128, (4, -1), false, NoiseSchedule::Linear))
        }
        // 256x256_diffusion{,_uncond}.pt, lsun_{bedroom,cat,horse}.pt
        ([1.0, 1.0, 2.0, 2.0, 4.0, 4.0], [8, 16, 32]) if plain && wide => {
            Some(with(256, heads_of_64, false, NoiseSchedule::Linear))
        }
        // 512x512_diffusion.pt
        ([0.5, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0], [16, 32, 64]) if plain && wide => {
            Some(with(512, heads_of_64, false, NoiseSchedule::Linear))
        }
        // ffhq_10m.pt (DPS)
        ([1.0, 1.0, 2.0, 2.0, 4.0, 4.0], [16]) if plain && s.model_channels == 128 && s.num_res_blocks == 1 => {
            Some(with(256, heads_of_64, false, NoiseSchedule::Linear))
        }
        _ => None,
    }
}

/// How a checkpoint differs from what a network expects; empty when it fits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyReport {
    /// Expected and absent.
    pub missing: Vec<String>,
    /// Present and not expected.
    pub unexpected: Vec<String>,
    /// Name, expected shape, found shape.
    pub mismatched: Vec<(String, Vec<usize>, Vec<usize>)>,
}

impl KeyReport {
    /// Compares what a network expects with what was found.
    pub fn compare<'a>(expected: impl Iterator<Item = (&'a str, &'a [usize])>, found: &Shapes) -> Self {
        let mut report = Self::default();
        let mut seen = std::collections::BTreeSet::new();
        for (name, shape) in expected {
            seen.insert(name);
            match found.get(name) {
                None => report.missing.push(name.into()),
                Some(s) if s != shape => report.mismatched.push((name.into(), shape.to_vec(), s.clone())),
                Some(_) => {}
            }
        }
        report.unexpected = found.keys().filter(|name| !seen.contains(name.as_str())).cloned().collect();
        report
    }

    /// Whether everything fits.
    pub fn is_clean(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.mismatched.is_empty()
    }
}

impl std::fmt::Display for KeyReport {
    /// One line: the first differences of each kind.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const SHOWN: usize = 8;
        let shape = |(name, expected, found): &(String, Vec<usize>, Vec<usize>)| {
            format!("{name} is {found:?}, expected {expected:?}")
        };
        let shapes: Vec<String> = self.mismatched.iter().take(SHOWN).map(shape).collect();
        let kinds = [
            ("missing", &self.missing[..], self.missing.len()),
            ("unexpected", &self.unexpected[..], self.unexpected.len()),
            ("of another shape", &shapes[..], self.mismatched.len()),
        ];
        for (k, (kind, names, count)) in kinds.into_iter().filter(|(_, _, count)| *count > 0).enumerate() {
            let names = &names[..names.len().min(SHOWN)];
            write!(f, "{}{kind}: {}", if k > 0 { "; " } else { "" }, names.join(", "))?;
            if count > names.len() {
                write!(f, " and {} more", count - names.len())?;
            }
        }
        Ok(())
    }
}
