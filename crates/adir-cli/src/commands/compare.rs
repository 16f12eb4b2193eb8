//! `adir compare`: how near a result is to the truth, and how well it agrees with what was measured.

use std::path::PathBuf;

use adir::io::image::read_image;
use adir::io::limits::Limits;
use adir::metric::{psnr_rgb, psnr_y, ssim_rgb, ssim_y};
use adir::task::Task;
use adir::{Error, Result};
use clap::Args;
use serde_json::{Map, Value, json};

use crate::args::{DegradationArgs, agreement_psnr};

/// Compare a result with its reference, and with the observation it was made from.
#[derive(Debug, Args)]
pub struct CompareArgs {
    /// The true image x
    reference: PathBuf,
    /// The restored image
    result: PathBuf,
    /// The observation y: also tells how well A x agrees with it (needs --task)
    #[arg(long, value_name = "IMAGE", requires = "task")]
    observed: Option<PathBuf>,
    #[command(flatten)]
    degradation: Option<DegradationArgs>,
    /// Pixels left out at each border of the luma metrics; by default the factor of srN, else 0
    #[arg(long, value_name = "PIXELS")]
    border: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(args: &CompareArgs) -> Result<u8> {
    let limits = Limits::default();
    let reference = read_image(&args.reference, &limits)?.tensor;
    let result = read_image(&args.result, &limits)?.tensor;
    let factor = match args.degradation.as_ref().map(|d| d.task) {
        Some(Task::SuperResolution { factor }) => factor,
        _ => 0,
    };
    let border = args.border.unwrap_or(factor);
    let sizes = || format!("{} against {}", args.reference.display(), args.result.display());
    let one = |values: Result<Vec<f64>>| -> Result<f64> {
        match values {
            Ok(values) => values.first().copied().ok_or_else(|| Error::config(sizes())),
            Err(Error::Config(message)) => Err(Error::config(format!("{}: {message}", sizes()))),
            Err(other) => Err(other),
        }
    };
    let mut values = vec![
        ("psnr_rgb", one(psnr_rgb(&reference, &result))?),
        ("psnr_y", one(psnr_y(&reference, &result, border))?),
        ("ssim_rgb", one(ssim_rgb(&reference, &result))?),
        ("ssim_y", one(ssim_y(&reference, &result, border))?),
    ];
    if let (Some(observed), Some(degradation)) = (&args.observed, &args.degradation) {
        let y = read_image(observed, &limits)?.tensor;
        values.push(("agreement_psnr", agreement_psnr(&degradation.problem()?, &result, &y, &limits)?));
    }
    if args.json {
        let object: Map<String, Value> =
            values.iter().map(|(name, value)| ((*name).to_owned(), crate::record::number(*value))).collect();
        say!("{}", json!(object))?;
    } else {
        for (name, value) in values {
            say!("{name:<16} {value:.4}")?;
        }
    }
    Ok(crate::exit::DONE)
}
