//! Trains a small prior on a folder of photographs and samples from it:
//! `cargo run --release -p adir --example train -- FOLDER prior.safetensors STEPS`.

use std::collections::BTreeMap;
use std::path::Path;

use adir::io::limits::Limits;
use adir::models::guided_diffusion::UNetConfig;
use adir::prelude::*;
use adir::tensor::Compute;
use adir::train::{Collection, Length, Tiles, TrainConfig, Trainer};

const NETWORK: &str = r#"{"in_channels": 3, "out_channels": 6, "model_channels": 32, "num_res_blocks": 1,
    "channel_mult": [1, 2], "attention_resolutions": [2], "num_head_channels": 16, "use_scale_shift_norm": true}"#;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |default: &str| arguments.next().unwrap_or_else(|| default.to_owned());
    let (folder, output, steps) = (next("examples/gallery"), next("prior.safetensors"), next("5"));
    let steps = steps.parse().map_err(|_| Error::config("the number of steps"))?;
    let network = UNetConfig::from_json(NETWORK)?;
    let config = TrainConfig { crop: 32, batch: 4, ..TrainConfig::new(network, Length::Steps(steps)) };
    let photographs =
        Collection::read(Path::new(&folder), config.crop, 1 << 30, &Limits::default(), Tiles::Auto, |_, _| Ok(()))?;
    photographs.check_trainable(Path::new(&folder))?;
    let mut trainer = Trainer::new(config, None, &Compute::default())?;
    while trainer.share() < 1.0 {
        let report = trainer.step(&trainer.draw(&photographs.training))?;
        println!("step {}: loss {:.4}", report.step, report.loss);
    }
    trainer.save_model(&trainer.averaged(), Path::new(&output), &BTreeMap::new())?;
    println!("{output}: {} parameters", Prior::open(Path::new(&output))?.layout().element_count());
    Ok(())
}
