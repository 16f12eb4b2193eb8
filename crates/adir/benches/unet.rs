//! Times whole networks: a forward pass and a training step (l_simple, gradients, Adam).
//!
//! Prints a line `name median least` for each case, in milliseconds, in the form of the kernels' benchmark;
//! `benches/torch_unet.py` runs the same cases in PyTorch. Arguments select cases by substring; `--bf16`
//! multiplies in bfloat16.

mod time;

use std::hint::black_box;

use adir::models::guided_diffusion::UNetConfig;
use adir::models::params::Params;
use adir::models::{Prior, PriorHeader};
use adir::noise::{Noise, Stream};
use adir::optim::{Adam, AdamConfig, simple_loss};
use adir::schedule::Timestep;
use adir::tensor::{Compute, DType, cpu};
use time::time;

/// The networks: configuration and name.
const NETWORKS: [(&str, &str); 2] = [
    (
        "prior",
        r#"{"in_channels":3,"out_channels":6,"model_channels":32,"num_res_blocks":1,"channel_mult":[1,2,4,4],
            "attention_resolutions":[8],"num_head_channels":32,"resblock_updown":true,"use_scale_shift_norm":true}"#,
    ),
    (
        "unet25m",
        r#"{"in_channels":3,"out_channels":6,"model_channels":64,"num_res_blocks":2,"channel_mult":[1,2,4],
            "attention_resolutions":[2,4],"num_head_channels":64,"resblock_updown":true,"use_scale_shift_norm":true}"#,
    ),
];

fn main() {
    // As the program does.
    adir::tensor::keep_freed_memory();
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let bf16_products = std::env::args().any(|arg| arg == "--bf16");
    let compute = Compute { bf16_products, ..Compute::default() };
    let report = |name: String, run: &mut dyn FnMut()| {
        if wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str())) {
            let (median, least) = time(run);
            println!("{name} {median:.4} {least:.4}");
        }
    };
    let noise = Noise::new(0, Stream::Evaluation);
    let image = |n: usize, side: usize| noise.normal_tensor(0, [n, 3, side, side], &cpu(), DType::F32);
    for (name, config) in NETWORKS {
        let config = UNetConfig::from_json(config).expect("a valid configuration");
        let layout = PriorHeader::new(config.clone()).expect("a valid configuration").network().layout().clone();
        let mut step = 0;
        let random = Params::load(layout, &compute, |spec| {
            step += 1;
            let width = (spec.len() / spec.shape[0].max(1)).max(1) as f32;
            Ok(noise.normal(step, spec.len()).iter().map(|z| z * width.sqrt().recip()).collect())
        })
        .expect("as many values as the layout asks for");
        let prior = Prior::from_config(config, random).expect("values of its layout");
        for side in [64, 128, 256] {
            let x = image(1, side);
            report(format!("{name}-forward-1x{side}"), &mut || {
                black_box(prior.network().forward(prior.params(), x.clone(), &[Timestep(500)], &[]));
            });
        }
        for (n, side) in [(2, 64), (6, 64), (32, 64), (6, 128)] {
            let (x, mut prior, mut adam) = (image(n, side), prior.clone(), Adam::new(AdamConfig::default()));
            report(format!("{name}-step-{n}x{side}"), &mut || {
                let out = simple_loss(&prior, &x, &x, &vec![Timestep(500); n], &[]).expect("a finite loss");
                prior = prior.with_params(adam.step(prior.params(), out.gradients, 1e-4));
            });
        }
    }
}
