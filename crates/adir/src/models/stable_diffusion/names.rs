//! The names of parameters in diffusers' files, from those of latent diffusion.
//!
//! Inside a block the two differ by the tables below; where a block stands is counted differently. The direction is always
//! from the names we have: the other one is ambiguous for weights averaged during training, whose names have no dots.

use super::autoencoder_config::AutoencoderConfig;
use super::config::ConditionalConfig;
use super::part::Place;

/// Parts of a residual block of the U-Net.
const RESIDUAL: [(&str, &str); 6] = [
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
    ("skip_connection", "conv_shortcut"),
];

/// Layers of the U-Net outside of its blocks.
const OUTSIDE: [(&str, &str); 6] = [
    ("time_embed.0", "time_embedding.linear_1"),
    ("time_embed.2", "time_embedding.linear_2"),
    ("label_emb", "class_embedding"),
    ("input_blocks.0.0", "conv_in"),
    ("out.0", "conv_norm_out"),
    ("out.2", "conv_out"),
];

/// Parts of the attention of an autoencoder, and of a U-Net without a text, and what older files of diffusers call them.
const ATTENTION: [(&str, &str, &str); 5] = [
    ("norm", "group_norm", "group_norm"),
    ("q", "to_q", "query"),
    ("k", "to_k", "key"),
    ("v", "to_v", "value"),
    ("proj_out", "to_out.0", "proj_attn"),
];

/// Layers of an autoencoder's half outside of its blocks.
const HALF: [(&str, &str); 3] = [("conv_in", "conv_in"), ("norm_out", "conv_norm_out"), ("conv_out", "conv_out")];

fn translated<'a>(table: &[(&str, &'a str)], part: &str) -> Option<&'a str> {
    table.iter().find(|(ldm, _)| *ldm == part).map(|(_, diffusers)| *diffusers)
}

/// `a.b.c` as (`a.b`, `c`).
fn apart(name: &str) -> (&str, &str) {
    name.rsplit_once('.').unwrap_or((name, ""))
}

/// The number at the front of a name, and what is behind its dot.
fn number(name: &str) -> Option<(usize, &str)> {
    let (number, rest) = name.split_once('.')?;
    Some((number.parse().ok()?, rest))
}

/// The name in diffusers of the U-Net's parameter with that name in latent diffusion; `old` as in [`of_autoencoder`].
pub(super) fn of_unet(config: &ConditionalConfig, name: &str, old: bool) -> Option<String> {
    let (layer, kind) = apart(name);
    if let Some(outside) = translated(&OUTSIDE, layer) {
        return Some(format!("{outside}.{kind}"));
    }
    let per_level = config.layers_per_block + 1;
    let (place, part) = if let Some(rest) = layer.strip_prefix("input_blocks.") {
        let (n, rest) = number(rest)?;
        let ((level, k), (slot, rest)) = (((n - 1) / per_level, (n - 1) % per_level), slot(rest));
        let block = format!("down_blocks.{level}");
        if k == config.layers_per_block {
            return Some(format!("{block}.downsamplers.0.conv.{kind}"));
        }
        (format!("{block}.{}.{k}", kind_of(slot)), rest)
    } else if let Some(rest) = layer.strip_prefix("output_blocks.") {
        let (n, rest) = number(rest)?;
        let ((block, k), (slot, rest)) = ((n / per_level, n % per_level), slot(rest));
        if rest == "conv" {
            return Some(format!("up_blocks.{block}.upsamplers.0.conv.{kind}"));
        }
        (format!("up_blocks.{block}.{}.{k}", kind_of(slot)), rest)
    } else {
        let (n, rest) = number(layer.strip_prefix("middle_block.")?)?;
        let place = ["resnets.0", "attentions.0", "resnets.1"].get(n)?;
        (format!("mid_block.{place}"), rest)
    };
    let part = match place.contains("resnets") {
        true => translated(&RESIDUAL, part)?,
        false if config.text_width.is_none() => of_attention(part, old)?,
        false => part,
    };
    Some(format!("{place}.{part}.{kind}"))
}

fn of_attention(part: &str, old: bool) -> Option<&'static str> {
    let (_, new, before) = ATTENTION.iter().find(|(ldm, ..)| *ldm == part)?;
    Some(if old { before } else { new })
}

/// The place in latent diffusion's files of a parameter of a U-Net: attention without a text has queries, keys and values of
/// all heads in one layer there.
pub(super) fn of_fused_unet(config: &ConditionalConfig, name: &str) -> Place {
    let (layer, kind) = apart(name);
    let parts = ["q", "k", "v"].into_iter().enumerate();
    let found = parts.into_iter().find_map(|(part, own)| Some((part, layer.strip_suffix(own)?.strip_suffix('.')?)));
    match found.filter(|_| config.text_width.is_none()) {
        Some((part, attention)) => Place { name: format!("{attention}.qkv.{kind}"), part: Some(part) },
        None => Place::whole(name),
    }
}

/// The layer of a block, and what is behind it.
fn slot(rest: &str) -> (usize, &str) {
    number(rest).unwrap_or((0, rest))
}

fn kind_of(slot: usize) -> &'static str {
    if slot == 0 { "resnets" } else { "attentions" }
}

/// The name in diffusers of the autoencoder's parameter with that name in latent diffusion; `old` for that of files written
/// before its attention was renamed.
pub(super) fn of_autoencoder(config: &AutoencoderConfig, name: &str, old: bool) -> Option<String> {
    let (layer, kind) = apart(name);
    let Some((half, layer)) = layer.split_once('.').filter(|(half, _)| ["encoder", "decoder"].contains(half)) else {
        return Some(name.to_owned()); // quant_conv, post_quant_conv, quantize.embedding
    };
    if let Some(outside) = translated(&HALF, layer) {
        return Some(format!("{half}.{outside}.{kind}"));
    }
    if let Some(part) = layer.strip_prefix("mid.attn_1.") {
        return Some(format!("{half}.mid_block.attentions.0.{}.{kind}", of_attention(part, old)?));
    }
    let shortcut = |part: &str| if part == "nin_shortcut" { "conv_shortcut".to_owned() } else { part.to_owned() };
    if let Some(rest) = layer.strip_prefix("mid.block_") {
        let (n, part) = number(rest)?;
        return Some(format!("{half}.mid_block.resnets.{}.{}.{kind}", n - 1, shortcut(part)));
    }
    let (level, rest) = number(layer.strip_prefix("down.").or(layer.strip_prefix("up."))?)?;
    // The decoder counts from full size in one, from the latents in the other.
    let block = if half == "encoder" {
        format!("encoder.down_blocks.{level}")
    } else {
        format!("decoder.up_blocks.{}", config.widths.len() - 1 - level)
    };
    match rest {
        "downsample.conv" => Some(format!("{block}.downsamplers.0.conv.{kind}")),
        "upsample.conv" => Some(format!("{block}.upsamplers.0.conv.{kind}")),
        _ => {
            let (k, part) = number(rest.strip_prefix("block.")?)?;
            Some(format!("{block}.resnets.{k}.{}.{kind}", shortcut(part)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_as_diffusers_counts_them() {
        let unet = ConditionalConfig::inpainting(false);
        for (ldm, diffusers) in [
            ("input_blocks.0.0.weight", "conv_in.weight"),
            ("input_blocks.2.0.in_layers.2.bias", "down_blocks.0.resnets.1.conv1.bias"),
            ("input_blocks.3.0.op.weight", "down_blocks.0.downsamplers.0.conv.weight"),
            ("input_blocks.4.1.proj_in.weight", "down_blocks.1.attentions.0.proj_in.weight"),
            ("middle_block.1.norm.weight", "mid_block.attentions.0.norm.weight"),
            ("middle_block.2.emb_layers.1.weight", "mid_block.resnets.1.time_emb_proj.weight"),
            ("output_blocks.2.1.conv.weight", "up_blocks.0.upsamplers.0.conv.weight"),
            ("output_blocks.5.2.conv.bias", "up_blocks.1.upsamplers.0.conv.bias"),
            (
                "output_blocks.11.1.transformer_blocks.0.attn2.to_out.0.bias",
                "up_blocks.3.attentions.2.transformer_blocks.0.attn2.to_out.0.bias",
            ),
            ("output_blocks.8.0.skip_connection.weight", "up_blocks.2.resnets.2.conv_shortcut.weight"),
            ("out.0.weight", "conv_norm_out.weight"),
        ] {
            assert_eq!(of_unet(&unet, ldm, false).as_deref(), Some(diffusers));
        }
        let plain = ConditionalConfig::super_resolution();
        for (ldm, new, before) in [
            (
                "input_blocks.10.1.q.weight",
                "down_blocks.3.attentions.0.to_q.weight",
                "down_blocks.3.attentions.0.query.weight",
            ),
            (
                "middle_block.1.norm.bias",
                "mid_block.attentions.0.group_norm.bias",
                "mid_block.attentions.0.group_norm.bias",
            ),
            (
                "output_blocks.1.1.proj_out.bias",
                "up_blocks.0.attentions.1.to_out.0.bias",
                "up_blocks.0.attentions.1.proj_attn.bias",
            ),
            ("output_blocks.2.2.conv.bias", "up_blocks.0.upsamplers.0.conv.bias", "up_blocks.0.upsamplers.0.conv.bias"),
        ] {
            assert_eq!(of_unet(&plain, ldm, false).as_deref(), Some(new));
            assert_eq!(of_unet(&plain, ldm, true).as_deref(), Some(before));
        }
        let Place { name, part } = of_fused_unet(&plain, "middle_block.1.v.bias");
        assert_eq!((name.as_str(), part), ("middle_block.1.qkv.bias", Some(2)));
        assert_eq!(of_fused_unet(&plain, "out.2.weight").part, None);
        let vae = AutoencoderConfig::upscaler();
        for (ldm, diffusers) in [
            ("encoder.down.1.block.0.nin_shortcut.weight", "encoder.down_blocks.1.resnets.0.conv_shortcut.weight"),
            ("encoder.down.0.downsample.conv.bias", "encoder.down_blocks.0.downsamplers.0.conv.bias"),
            ("decoder.up.2.block.1.conv2.weight", "decoder.up_blocks.0.resnets.1.conv2.weight"),
            ("decoder.up.1.upsample.conv.bias", "decoder.up_blocks.1.upsamplers.0.conv.bias"),
            ("decoder.mid.block_2.norm1.bias", "decoder.mid_block.resnets.1.norm1.bias"),
            ("decoder.norm_out.bias", "decoder.conv_norm_out.bias"),
            ("post_quant_conv.weight", "post_quant_conv.weight"),
        ] {
            assert_eq!(of_autoencoder(&vae, ldm, false).as_deref(), Some(diffusers));
        }
        let q = |old| of_autoencoder(&vae, "encoder.mid.attn_1.proj_out.weight", old);
        assert_eq!(q(false).as_deref(), Some("encoder.mid_block.attentions.0.to_out.0.weight"));
        assert_eq!(q(true).as_deref(), Some("encoder.mid_block.attentions.0.proj_attn.weight"));
    }
}
