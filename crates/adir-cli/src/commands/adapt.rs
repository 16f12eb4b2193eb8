//! `adir adapt`: adapters made, listed, named, taken along, merged.

use std::path::{Path, PathBuf};

use adir::adapt::{AdaptConfig, Adapter, AdapterInfo, save_params};
use adir::io::folder::image_files;
use adir::io::image::read_image;
use adir::io::limits::Limits;
use adir::io::weights::{Dtype, WeightFile};
use adir::models::Prior;
use adir::retrieve::{ContentHash, group_by_neighbours};
use adir::task::Preset;
use adir::{Error, Result};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::adaptation::{AdaptArgs, Base, Found, Label, Mode, Observed, in_words, verdict_of};
use crate::args::PresetName;
use crate::log::Log;
use crate::model::ModelArgs;
use crate::out::check_output;
use crate::stop;
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
    ///
    /// Several observations (or a folder of them) are put into groups by what they have among their nearest images, and
    /// each group shares one adaptation, to the images that most of it have among theirs. All adapters get the same name;
    /// `restore --adapter NAME` takes the one that was made for its observation.
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
    fn read(&self) -> Result<(Prior, Adapter, AdapterInfo)> {
        let path = self.store.resolve(&self.adapter)?;
        check_output(&path, &self.output, self.overwrite)?;
        load(&self.model, &path)
    }
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// The observation, or any image like those to restore; several of them, or folders
    #[arg(required = true)]
    images: Vec<PathBuf>,
    /// What to call the adapter [default: the name of the first image or folder]
    #[arg(long)]
    name: Option<String>,
    /// Also write it to this file (.safetensors); for several observations, to files in this folder
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// Of several observations, those share an adaptation that on average have so much of their nearest images in
    /// common, 0 to 1
    #[arg(long, default_value_t = 0.25, value_name = "SHARE", value_parser = crate::args::share)]
    overlap: f64,
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
fn load(args: &ModelArgs, path: &Path) -> Result<(Prior, Adapter, AdapterInfo)> {
    let (model, sha256) = args.load()?;
    let (adapter, info) = Base { model: &model, sha256: &sha256 }.read_adapter(path)?;
    Ok((model, adapter, info))
}

fn create(args: &CreateArgs, log: &Log) -> Result<()> {
    if args.adaptation.no_cache && args.output.is_none() {
        return Err(Error::config("with --no-cache the adapter needs a file: give one with -o"));
    }
    let name = args.name.as_deref().map(checked_name).transpose()?;
    let preset: Preset = args.preset.into();
    let mode = args.adaptation.mode(preset)?;
    // What is asked for is made, whatever held-out images say of it.
    if mode == Mode::None {
        return Err(Error::config("nothing to adapt to: give --gallery FOLDER, or --adapt self"));
    }
    let config = args.adaptation.config(mode, preset, args.seed);
    match args.images.as_slice() {
        [image] if !image.is_dir() => create_one(args, image, name, mode, config, log),
        _ => create_shared(args, name, mode, config, log),
    }
}

fn create_one(
    args: &CreateArgs,
    image: &Path,
    name: Option<String>,
    mode: Mode,
    config: AdaptConfig,
    log: &Log,
) -> Result<()> {
    if let Some(output) = &args.output {
        check_output(image, output, args.overwrite)?;
    }
    let y = read_image(image, &Limits::default())?.tensor;
    let (model, sha256) = args.model.load()?;
    let base = Base { model: &model, sha256: &sha256 };
    let gallery = args.adaptation.open_gallery(mode, log)?;
    let mut found = args.adaptation.find(&base, gallery.as_ref(), &Observed { file: image, y: &y }, config, log)?;
    let label = Label {
        name: name.unwrap_or_else(|| found.info.name.clone()),
        serves: vec![ContentHash::of_file(image)?.to_string()],
    };
    relabel(args, &mut found, label, &model)?;
    if let Some(output) = &args.output {
        found.adapter.save(output, &found.info, &model)?;
    }
    told(&found, log)
}

/// One adapter for every group of observations that have much of their nearest images in common.
fn create_shared(args: &CreateArgs, name: Option<String>, mode: Mode, config: AdaptConfig, log: &Log) -> Result<()> {
    let observations = observations(&args.images)?;
    let first = args.images[0].canonicalize().map_err(|e| Error::input(&args.images[0], e.to_string()))?;
    let own = if first.is_dir() { first.file_name() } else { first.file_stem() };
    let name = name.unwrap_or_else(|| own.unwrap_or_default().to_string_lossy().into_owned());
    let Some(gallery) = args.adaptation.open_gallery(mode, log)? else {
        return Err(Error::config("--adapt self adapts to one observation: give one, or --gallery"));
    };
    let progress = log.progress("finding neighbours", observations.len());
    let nearest = observations.iter().map(|file| {
        let y = read_image(file, &Limits::default())?.tensor;
        let nearest = gallery.nearest(&Observed { file, y: &y }, &args.adaptation)?;
        progress.step("", json!({"path": file}));
        stop::check()?;
        Ok(nearest)
    });
    let nearest = nearest.collect::<Result<Vec<_>>>()?;
    drop(progress);
    let groups = group_by_neighbours(&nearest, args.overlap);
    let output = |number: usize| args.output.as_ref().map(|folder| folder.join(format!("{name}-{number}.safetensors")));
    if let Some(folder) = &args.output {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
    }
    for file in (1..=groups.len()).filter_map(output) {
        check_output(&args.images[0], &file, args.overwrite)?;
    }
    let (model, sha256) = args.model.load()?;
    let base = Base { model: &model, sha256: &sha256 };
    for (number, group) in (1..).zip(&groups) {
        let members: Vec<&PathBuf> = group.members.iter().map(|&m| &observations[m]).collect();
        let serves = members.iter().map(|file| Ok(ContentHash::of_file(file)?.to_string()));
        let label = Label { name: name.clone(), serves: serves.collect::<Result<_>>()? };
        let files = gallery.files(&group.neighbours);
        let mut found = args.adaptation.adapted_to(&base, &files, label.clone(), config.clone(), log)?;
        relabel(args, &mut found, label, &model)?;
        if let Some(file) = output(number) {
            found.adapter.save(&file, &found.info, &model)?;
        }
        told(&found, log)?;
        for file in members {
            say!("              for {}", file.display())?;
        }
    }
    Ok(())
}

/// The images, and those in the folders, among `paths`.
fn observations(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for path in paths {
        if path.is_dir() {
            let names = image_files(path)?;
            if names.is_empty() {
                return Err(Error::input(path, "holds no images"));
            }
            all.extend(names.iter().map(|name| path.join(name)));
        } else {
            all.push(path.clone());
        }
    }
    Ok(all)
}

/// Gives an adapter another name, and adds the observations it serves, in the cache too.
fn relabel(args: &CreateArgs, found: &mut Found, label: Label, model: &Prior) -> Result<()> {
    let mut info = AdapterInfo { name: label.name, ..found.info.clone() };
    info.serves.extend(label.serves);
    info.serves.sort();
    info.serves.dedup();
    if info != found.info {
        found.info = info;
        if !args.adaptation.no_cache {
            args.adaptation.store.keep(&found.key, &found.adapter, &found.info, model)?;
        }
    }
    Ok(())
}

fn told(found: &Found, log: &Log) -> Result<()> {
    if found.from_cache {
        log.info("found in the cache: nothing was trained");
    }
    say!("{}", line(&found.key, &found.info))
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
        "serves": info.serves, "lora": info.lora.map(|(rank, alpha)| json!({"rank": rank, "alpha": alpha})),
    })
}
