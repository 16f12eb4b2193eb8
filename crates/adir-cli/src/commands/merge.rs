//! `adir merge`: what became of a folder whose shards were restored by several processes.

use std::path::PathBuf;

use adir::Result;
use adir::engine::{Shard, merge};
use adir::io::tally::counted;
use clap::Args;

use crate::log::Log;
use crate::out::name;

/// Join the manifests of all shards of a folder of results, and say what is missing.
///
/// Looks whether every result and its record are in place, and writes OUTPUT/adir-manifest.jsonl, a JSON object per file.
/// Exit code 1: files are missing or failed.
#[derive(Debug, Args)]
pub struct MergeArgs {
    /// Folder of results that `adir restore FOLDER -o OUTPUT` wrote
    output: PathBuf,
}

pub fn run(args: &MergeArgs, log: &Log) -> Result<u8> {
    let merged = merge(&args.output)?;
    for (shard, files) in &merged.absent {
        say!("missing: shard {shard} with {} has not run (--shard {shard})", counted(*files, "file"))?;
    }
    for (file, shard) in &merged.missing {
        match *shard {
            Shard::WHOLE => say!("missing: {}", name(file))?,
            shard => say!("missing: {} (--shard {shard})", name(file))?,
        }
    }
    for (file, error) in &merged.failed {
        say!("failed: {}: {}", name(file), name(error))?;
    }
    let absent: usize = merged.absent.iter().map(|(_, files)| files).sum();
    let missing = merged.missing.len() + absent;
    log.info(&format!(
        "{}: {} restored, {missing} missing, {} failed",
        merged.path.display(),
        counted(merged.done, "file"),
        merged.failed.len()
    ));
    Ok(if merged.is_complete() { crate::exit::DONE } else { crate::exit::SOME_FAILED })
}
