//! One pass of a latent diffusion model's U-Net and one decoding, timed: `latent_step FOLDER SIDE [both|unet|decode] [WEIGHTS]`,
//! SIDE being that of the latents, WEIGHTS what weights are kept in (f32, f16, bf16, file). Prints seconds of each of three passes, of a decoding, and the peak of memory.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use adir::compute::WeightPrecision;
use adir::models::stable_diffusion::LatentFiles;
use adir::models::{Conditioning, Conditions, Denoiser, Space};
use adir::noise::{Noise, Stream};
use adir::schedule::Timestep;
use adir::tensor::{Compute, DType, Tensor, cpu, to_f32};

fn peak() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or("").split_whitespace().nth(1).unwrap_or("?").into()
}

fn main() -> adir::Result<()> {
    adir::tensor::keep_freed_memory();
    let arguments: Vec<String> = std::env::args().collect();
    let [_, folder, side, rest @ ..] = arguments.as_slice() else {
        eprintln!("usage: latent_step FOLDER SIDE [both|unet|decode] [WEIGHTS]");
        std::process::exit(2);
    };
    let side: usize = side.parse().unwrap_or(64);
    let what = rest.first().map_or("both", String::as_str);
    let weights: WeightPrecision = rest.get(1).map_or(Ok(WeightPrecision::F32), |name| name.parse())?;
    let files = LatentFiles::open(Path::new(folder))?.keeping(weights);
    let noise = Noise::new(1, Stream::Evaluation);
    let normal = |k: u32, channels: usize| noise.normal_tensor(k, [1, channels, side, side], &cpu(), DType::F32);
    if what != "decode" {
        let started = Instant::now();
        let unet = files.load_unet(&Compute::default())?;
        println!("load {:.3} s, peak {} kB", started.elapsed().as_secs_f64(), peak());
        let config = files.unet().config();
        let states = |width: usize| -> Tensor<3> { noise.normal_tensor(9, [1, 77, width], &cpu(), DType::F32) };
        let text = config.text_width.map(states);
        let beside = Some(normal(1, config.in_channels - config.out_channels));
        let conditions = Conditions { text, class: config.classes.map(|_| 20), beside };
        let told = Conditioning::Several(Arc::new(conditions));
        let x_t = normal(0, config.out_channels);
        for _ in 0..3 {
            let started = Instant::now();
            let eps = unet.predict(&x_t, Timestep(500), &told)?.eps;
            let sum: f32 = to_f32(&eps)?.iter().sum();
            println!("unet {:.3} s, sum {sum}", started.elapsed().as_secs_f64());
        }
        println!("unet peak {} kB", peak());
    }
    if what != "unet" {
        let autoencoder = files.load_autoencoder(&Compute::default())?;
        let latents = normal(2, files.autoencoder().config().latent_channels) * autoencoder.scale();
        let started = Instant::now();
        let image = autoencoder.decode(&latents)?;
        let sum: f32 = to_f32(&image)?.iter().sum();
        println!("decode {:.3} s, {:?}, sum {sum}, peak {} kB", started.elapsed().as_secs_f64(), image.dims(), peak());
    }
    Ok(())
}
