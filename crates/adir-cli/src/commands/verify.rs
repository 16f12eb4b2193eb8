//! `adir verify`: checks that a checkpoint computes the same as the reference on this device.

use std::path::PathBuf;

use adir::io::weights::WeightFile;
use adir::models::Prior;
use adir::models::guided_diffusion::UNetConfig;
use adir::verify::{Check, Limits, verify};
use adir::{Error, Result};
use clap::Args;
use serde_json::json;

use crate::log::Log;
use crate::model::ModelArgs;

/// Run recorded inputs through a network and compare with the reference's outputs.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Recorded inputs and outputs (NAME.cases.safetensors)
    #[arg(long, value_name = "CASES")]
    cases: PathBuf,
    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,
}

pub fn run(args: &VerifyArgs, log: &Log) -> Result<u8> {
    let cases = WeightFile::open(&args.cases)?;
    let engine = args.model.engine().build()?;
    let (file, config) = engine.weights()?;
    // The recordings name the configuration they were made with, for weights that come without one.
    let config = match (config, cases.metadata().get("config")) {
        (Some(config), _) => Some(config),
        (None, Some(text)) if !file.metadata().contains_key("config") => {
            let config = UNetConfig::from_json(text).map_err(|e| Error::model(&args.cases, e.to_string()))?;
            Some(config)
        }
        (None, _) => None,
    };
    let model = Prior::load(&file, config, engine.compute())?;
    let limits = if args.model.dtype.is_half() { Limits::BF16 } else { Limits::F32 };
    let checks = verify(&model, &cases, limits, |check| log.info(&format!("{}: {:.1e}", check.name, check.error)))?;
    if checks.is_empty() {
        return Err(Error::input(&args.cases, "contains no recordings"));
    }
    let holds = checks.iter().all(Check::holds);
    if args.json {
        let rows: Vec<_> = checks
            .iter()
            .map(|c| json!({"name": c.name, "tensors": c.tensors, "error": c.error, "limit": c.limit, "holds": c.holds()}))
            .collect();
        say!("{}", json!({"model": engine.model_name(), "checks": rows, "holds": holds}))?;
    } else {
        say!("{:<46} {:>7} {:>10} {:>10}", "check", "tensors", "error", "at most")?;
        for c in &checks {
            let verdict = if c.holds() { "holds" } else { "FAILS" };
            say!("{:<46} {:>7} {:>10.2e} {:>10.0e}  {verdict}", c.name, c.tensors, c.error, c.limit)?;
        }
        say!("{}", if holds { "all hold" } else { "DIFFERS from the reference" })?;
    }
    Ok(if holds { crate::exit::DONE } else { crate::exit::SOME_FAILED })
}
