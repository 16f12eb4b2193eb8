//! `adir models pull`, `where`, and the part of `list` that shows what was pulled.

use adir::Result;
use clap::Args;

use crate::hub::cache::{HubCache, bytes};
use crate::log::Log;

/// Download a model from the Hugging Face Hub into the cache that its tools share
///
/// Of a diffusers pipeline, only what is read is downloaded: configurations, tokenizer tables, and one set of weights
/// for each part. Of other models: weights and configurations. An interrupted download is continued, and every file is
/// compared with the hash that the Hub states. The folder is printed; `--model ORG/NAME` finds it.
///
/// Variables: HF_HOME or HF_HUB_CACHE (where models are kept), HF_TOKEN (for gated and private models), HF_ENDPOINT
/// (another Hub), HF_HUB_OFFLINE (no connections), HTTPS_PROXY, HTTP_PROXY, NO_PROXY, SSL_CERT_FILE (other root
/// certificates).
#[derive(Debug, Args)]
#[cfg_attr(not(feature = "download"), allow(dead_code, reason = "the command line is the same in both builds"))]
pub struct PullArgs {
    /// The model: ORG/NAME, or ORG/NAME@REVISION for a branch, a tag or a commit
    model: String,
    /// Download this file only; may be given several times
    #[arg(long, value_name = "NAME")]
    file: Vec<String>,
    /// Of weights in two precisions, download those in f16 (half the size)
    #[arg(long)]
    fp16: bool,
    /// Print the files, their sizes and the licence, and download none
    #[arg(long)]
    plan: bool,
}

/// Downloads a model.
#[cfg(feature = "download")]
pub fn pull(args: &PullArgs, log: &Log) -> Result<u8> {
    use crate::hub::pull::{Ask, run};
    run(&Ask { model: &args.model, files: &args.file, half: args.fp16, plan: args.plan }, log)?;
    Ok(crate::exit::DONE)
}

/// Says how to get a program that downloads models.
#[cfg(not(feature = "download"))]
pub fn pull(args: &PullArgs, _log: &Log) -> Result<u8> {
    let model = crate::hub::parse(&args.model)?;
    Err(adir::Error::config(format!(
        "{model}: this program was built without downloads: build it with `--features download` (on by default), or let \
         other tools download: `hf download {}`",
        model.id
    )))
}

/// Prints where a model lies.
pub fn place(model: &str, log: &Log) -> Result<u8> {
    let (path, note) = crate::hub::place_of(model)?;
    note.iter().for_each(|note| log.warn(note));
    say!("{}", path.display())?;
    Ok(crate::exit::DONE)
}

/// Lists the models in the cache.
pub fn list() -> Result<()> {
    let found = HubCache::open().and_then(|cache| Ok((cache.models()?, cache)));
    let (models, cache) = match found {
        Ok(found) => found,
        Err(error) => return say!("pulled (--model ORG/NAME): {error}"),
    };
    say!("pulled (--model ORG/NAME), in {}:", cache.root().display())?;
    if models.is_empty() {
        say!("  none; `adir models pull ORG/NAME` downloads one")?;
    }
    for model in &models {
        let revisions: Vec<_> = model.revisions.iter().map(|(name, commit)| revision(name, commit)).collect();
        let mut line = format!("  {}", model.id);
        if !revisions.is_empty() {
            line += &format!("  {}  {}", revisions.join(", "), bytes(model.bytes));
        }
        if model.unfinished > 0 {
            line += &format!("  ({} of an unfinished download)", bytes(model.unfinished));
        }
        say!("{line}")?;
    }
    Ok(())
}

/// A revision with the start of its commit.
fn revision(name: &str, commit: &str) -> String {
    if name == commit { format!("@{commit}") } else { format!("@{name} ({commit:.12})") }
}
