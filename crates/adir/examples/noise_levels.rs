//! How well noise is estimated: white noise is added to the images of folders, which are then cut off at black and white and
//! rounded to 8 bits: `cargo run --release -p adir --example noise_levels -- FOLDER...`.
//!
//! Errors are relative to the noise added together with what is found in the image before, at least that of rounding. An
//! image where too little is left to tell counts as a miss.

use adir::noise::{Noise, Stream};
use adir::prelude::*;
use adir::problem::estimate_noise;
use adir::tensor::{Tensor, cpu};

const LEVELS: [f64; 8] = [0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 35.0, 50.0];

/// Standard deviation in grey levels of what is found after noise of `sigma`.
fn found(x: &Tensor<4>, sigma: f64, seed: u64) -> Result<Option<f64>> {
    let noise = Noise::new(seed, Stream::Degradation).normal_tensor(0, x.dims(), &cpu(), x.dtype());
    let noisy = (x.clone() + noise * (sigma / 127.5)).clamp(-1.0, 1.0);
    let rounded = ((noisy + 1.0) * 127.5).round() / 127.5 - 1.0;
    Ok(estimate_noise(&rounded, None)?.map(|noise| noise.to_255()))
}

fn main() -> Result<()> {
    println!("| images | n | sigma added | median found | median error | within 10 % | within 20 % |");
    println!("|---|---|---|---|---|---|---|");
    for folder in std::env::args().skip(1) {
        let entries = std::fs::read_dir(&folder).map_err(|e| Error::config(format!("{folder}: {e}")))?;
        let mut paths: Vec<_> =
            entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_file()).collect();
        paths.sort();
        let images = paths.iter().map(|path| Ok(Picture::read(path)?.tensor)).collect::<Result<Vec<_>>>()?;
        let own = images.iter().map(|x| Ok(found(x, 0.0, 0)?.unwrap_or(0.0).max(1.0 / 12f64.sqrt())));
        let own = own.collect::<Result<Vec<_>>>()?;
        for sigma in LEVELS {
            let estimates =
                images.iter().enumerate().map(|(i, x)| found(x, sigma, i as u64)).collect::<Result<Vec<_>>>()?;
            let error = |(found, own): (&Option<f64>, &f64)| {
                found.map_or(f64::INFINITY, |found| (found / sigma.hypot(*own) - 1.0).abs())
            };
            let mut errors: Vec<f64> = estimates.iter().zip(&own).map(error).collect();
            let mut estimates: Vec<f64> = estimates.into_iter().flatten().collect();
            errors.sort_by(f64::total_cmp);
            estimates.sort_by(f64::total_cmp);
            let median = |sorted: &[f64]| sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN);
            let within =
                |limit: f64| 100.0 * errors.iter().filter(|e| **e <= limit).count() as f64 / errors.len() as f64;
            let judged = match sigma {
                0.0 => "| | |".into(),
                _ => format!("{:.1} % | {:.0} % | {:.0} %", 100.0 * median(&errors), within(0.1), within(0.2)),
            };
            println!("| {folder} | {} | {sigma} | {:.2} | {judged} |", images.len(), median(&estimates));
        }
    }
    Ok(())
}
