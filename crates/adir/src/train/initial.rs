//! Initial weights, drawn from the distributions of PyTorch's layers.

use std::sync::Arc;

use burn::tensor::DType;

use crate::Result;
use crate::models::params::{ParamLayout, Params};
use crate::noise::{Noise, Stream};
use crate::tensor::Device;

/// Weights of an untrained guided-diffusion network.
///
/// Convolutions and linear layers are uniform within 1 / sqrt(fan in), weights and biases alike; normalisations
/// are 1 and 0; the last layer of each residual and attention branch, and of the network, is zero.
pub(super) fn initial(layout: Arc<ParamLayout>, seed: u64, device: &Device) -> Result<Params> {
    let noise = Noise::new(seed, Stream::Initialization);
    let names = layout.clone();
    let mut step = 0;
    Params::load(layout, device, DType::F32, |spec| {
        step += 1;
        let (layer, is_weight) = match spec.name.rsplit_once('.') {
            Some((layer, "weight")) => (layer, true),
            Some((layer, _)) => (layer, false),
            None => (spec.name.as_str(), true),
        };
        let weight = names.find(&format!("{layer}.weight")).map(|id| names.spec(id).shape.as_slice());
        let shape = weight.unwrap_or(&spec.shape);
        if shape.len() == 1 {
            return Ok(vec![f32::from(u8::from(is_weight)); spec.len()]);
        }
        if ["out_layers.3", "proj_out"].iter().any(|end| layer.ends_with(end)) || layer == "out.2" {
            return Ok(vec![0.0; spec.len()]);
        }
        let bound = (shape[1..].iter().product::<usize>() as f64).sqrt().recip();
        let value = |i: usize| (bound * (2.0 * noise.uniform(step, i as u32) - 1.0)) as f32;
        Ok((0..spec.len()).map(value).collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::guided_diffusion::{UNet, UNetConfig};
    use crate::tensor::{cpu, to_f64};

    #[test]
    fn layers_begin_as_pytorch_s_do() {
        let config = UNetConfig::from_json(
            r#"{"in_channels":3,"out_channels":6,"model_channels":32,"num_res_blocks":1,"channel_mult":[1,2],
                "attention_resolutions":[2],"num_head_channels":32,"resblock_updown":true,"use_scale_shift_norm":true}"#,
        )
        .unwrap();
        let (_, layout) = UNet::new(&config).unwrap();
        let params = initial(Arc::new(layout), 3, &cpu()).unwrap();
        let values = |name: &str| to_f64(&params.flat(params.layout().find(name).unwrap())).unwrap();
        assert!(values("input_blocks.1.0.in_layers.0.weight").iter().all(|v| *v == 1.0));
        for zero in
            ["input_blocks.1.0.in_layers.0.bias", "out.2.weight", "out.2.bias", "middle_block.1.proj_out.weight"]
        {
            assert!(values(zero).iter().all(|v| *v == 0.0), "{zero}");
        }
        for (name, fan_in) in [
            ("input_blocks.1.0.in_layers.2.weight", 32 * 9),
            ("input_blocks.1.0.in_layers.2.bias", 32 * 9),
            ("time_embed.0.weight", 32),
            ("middle_block.1.qkv.weight", 64),
        ] {
            let (values, bound) = (values(name), f64::from(fan_in).sqrt().recip());
            let largest = values.iter().fold(0.0_f64, |m, v| m.max(v.abs()));
            assert!(largest <= bound * 1.000001 && largest > 0.8 * bound, "{name}: {largest} of {bound}");
            let variance = values.iter().map(|v| v * v).sum::<f64>() / values.len() as f64;
            // Uniform: a third of the square of the bound; loosely for the 32 numbers of a bias.
            assert!((variance * 3.0 / bound / bound - 1.0).abs() < 0.5, "{name}: {variance}");
        }
    }
}
