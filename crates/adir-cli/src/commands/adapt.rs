//! `adir adapt`: adapters made, listed, named, taken along, merged.

use std::path::{Path, PathBuf};

use adir::adapt::{Adapter, AdapterInfo, save_params};
use adir::io::image::read_image;
use adir::io::limits::Limits;
use adir::io::weights::{Dtype, WeightFile};
use adir::models::guided_diffusion::GuidedDiffusion;
use adir::task::Preset;
use adir::{Error, Result};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::adaptation::{AdaptArgs, Base, Mode, Observed, in_words, verdict_of};
use crate::args::PresetName;
use crate::log::Log;
use crate::model::ModelArgs;
use crate::out::check_output;
use crate::store::Store;

/// Adapt the model ahead of a restoration, and manage what adaptations left behind.
///
/// An ADAPTER is a file, or the name or the first digits of the key of one in the cache; `restore --adapter`
/// samples with it.
#[derive(Debug, Args)]
pub struct AdaptCommandArgs {
    #[command(subcommand)]
    command: AdaptCommand,
}

#[derive(Debug, Subcommand)]
enum AdaptCommand {
    /// Adapt the model to the images of a gallery that are nearest to an image, or to that image itself
    Create(Box<CreateArgs>),
    /// List the adapters in the cache
    List {
        #[command(flatten)]
        store: Store,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Print all that an adapter says of itself, as JSON
    Info {
        adapter: PathBuf,
        #[command(flatten)]
        store: Store,
    },
    /// Give an adapter another name
    Rename {
        adapter: PathBuf,
        name: String,
        #[command(flatten)]
        store: Store,
        #[command(flatten)]
        model: ModelArgs,
    },
    /// Copy an adapter to a file: LoRA factors under diffusers' names, or all weights
    Export(Writing),
    /// Write the model with the adapter in it, as weights of their own for --model
    Merge {
        #[command(flatten)]
        writing: Writing,
        /// Half the size: numbers are rounded to f16
        #[arg(long)]
        f16: bool,
    },
    /// Delete an adapter from the cache
    Remove {
        adapter: PathBuf,
        #[command(flatten)]
        store: Store,
    },
}

/// An adapter, and the file to write from it.
#[derive(Debug, Args)]
struct Writing {
    adapter: PathBuf,
    /// The file (.safetensors)
    #[arg(short, long)]
    output: PathBuf,
    /// Replace an existing file
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    store: Store,
    #[command(flatten)]
    model: ModelArgs,
}

impl Writing {
    /// The model, the adapter and what it says, once the file may be written.
    fn read(&self) -> Result<(GuidedDiffusion, Adapter, AdapterInfo)> {
        let path = self.store.resolve(&self.adapter)?;
        check_output(&path, &self.output, self.overwrite)?;
        load(&self.model, &path)
    }
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// The observation, or any image like those to restore
    image: PathBuf,
    /// What to call the adapter [default: the image's name]
    #[arg(long)]
    name: Option<String>,
    /// Also write it to this file (.safetensors)
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// Replace an existing file
    #[arg(long)]
    overwrite: bool,
    /// Named settings
    #[arg(long, value_enum, default_value = "fast")]
    preset: PresetName,
    /// Seed of crops, timesteps and noise
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    adaptation: AdaptArgs,
    #[command(flatten)]
    model: ModelArgs,
}

pub fn run(args: &AdaptCommandArgs, log: &Log) -> Result<u8> {
    match &args.command {
        AdaptCommand::Create(args) => create(args, log)?,
        AdaptCommand::List { store, json } => {
            let (kept, broken) = store.adapters()?;
            for k in &kept {
                match json {
                    true => say!("{}", described(&k.key, &k.path, &k.info))?,
                    false => say!("{}", line(&k.key, &k.info))?,
                }
            }
            broken.iter().for_each(|e| log.warn(&e.to_string()));
        }
        AdaptCommand::Info { adapter, store } => {
            let path = store.resolve(adapter)?;
            let info = Adapter::info(&WeightFile::open(&path)?)?;
            let key = path.file_stem().unwrap_or_default().to_string_lossy();
            say!("{:#}", described(&key, &path, &info))?;
        }
        AdaptCommand::Rename { adapter, name, store, model } => {
            let path = store.resolve(adapter)?;
            let (model, found, info) = load(model, &path)?;
            found.save(&path, &AdapterInfo { name: checked_name(name)?, ..info }, &model)?;
        }
        AdaptCommand::Export(writing) => {
            let (model, found, info) = writing.read()?;
            found.save(&writing.output, &info, &model)?;
        }
        AdaptCommand::Merge { writing, f16 } => {
            let (model, found, info) = writing.read()?;
            let merged = format!("adapter {:?} into the weights {}", info.name, info.base);
            let mut metadata = model.metadata();
            metadata.insert("merged".to_owned(), merged);
            let dtype = if *f16 { Dtype::F16 } else { Dtype::F32 };
            save_params(&writing.output, &found.apply(model.params())?, dtype, &metadata)?;
        }
        AdaptCommand::Remove { adapter, store } => {
            if adapter.is_file() {
                return Err(Error::config("expected the name or key of an adapter in the cache, not a file"));
            }
            let path = store.resolve(adapter)?;
            std::fs::remove_file(&path).map_err(|e| Error::io(path, e))?;
        }
    }
    Ok(crate::exit::DONE)
}

/// An adapter, and the model it belongs to.
fn load(args: &ModelArgs, path: &Path) -> Result<(GuidedDiffusion, Adapter, AdapterInfo)> {
    let (model, sha256) = args.load()?;
    let (adapter, info) = Base { model: &model, sha256: &sha256 }.read_adapter(path)?;
    Ok((model, adapter, info))
}

fn create(args: &CreateArgs, log: &Log) -> Result<()> {
    if args.adaptation.no_cache && args.output.is_none() {
        return Err(Error::config("with --no-cache the adapter needs a file: give one with -o"));
    }
    if let Some(output) = &args.output {
        check_output(&args.image, output, args.overwrite)?;
    }
    let name = args.name.as_deref().map(checked_name).transpose()?;
    let preset: Preset = args.preset.into();
    let mode = args.adaptation.mode(preset)?;
    // What is asked for is made, whatever held-out images say of it.
    if mode == Mode::None {
        return Err(Error::config("nothing to adapt to: give --gallery FOLDER, or --adapt self"));
    }
    let y = read_image(&args.image, &Limits::default())?.tensor;
    let config = args.adaptation.config(mode, preset, args.seed);
    let (model, sha256) = args.model.load()?;
    let base = Base { model: &model, sha256: &sha256 };
    let mut found = args.adaptation.find(&base, &Observed { file: &args.image, y: &y }, mode, config, log)?;
    if let Some(name) = name.filter(|name| *name != found.info.name) {
        found.info.name = name;
        if !args.adaptation.no_cache {
            args.adaptation.store.keep(&found.key, &found.adapter, &found.info, &model)?;
        }
    }
    if let Some(output) = &args.output {
        found.adapter.save(output, &found.info, &model)?;
    }
    if found.from_cache {
        log.info("found in the cache: nothing was trained");
    }
    say!("{}", line(&found.key, &found.info))?;
    Ok(())
}

/// Names are shown in lines of a list and given on command lines.
fn checked_name(name: &str) -> Result<String> {
    let good = !name.is_empty() && name.len() <= 128 && !name.starts_with('-') && !name.contains(char::is_control);
    if !good {
        return Err(Error::config(format!(
            "the name {name:?}: expected 1 to 128 bytes without control characters, not starting with -"
        )));
    }
    Ok(name.to_owned())
}

/// Key, name, kind, images and verdict of an adapter.
fn line(key: &str, info: &AdapterInfo) -> String {
    let kind = info.lora.map_or_else(|| "all weights".into(), |(rank, alpha)| format!("LoRA {rank}, alpha {alpha}"));
    let images = info.made_from["images"].as_array().map_or(0, Vec::len);
    let steps = &info.made_from["settings"]["iterations"];
    let verdict = verdict_of(info).map_or_else(String::new, |v| format!("; {}", in_words(&v)));
    format!("{key:.12}  {}  {kind}; {images} images, {steps} steps{verdict}", info.name)
}

fn described(key: &str, path: &Path, info: &AdapterInfo) -> Value {
    json!({
        "key": key, "file": path, "name": info.name, "base": info.base, "made_from": info.made_from,
        "lora": info.lora.map(|(rank, alpha)| json!({"rank": rank, "alpha": alpha})),
    })
}
