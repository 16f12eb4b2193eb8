//! `adir adapt`: creates and manages adapters.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use adir::adapt::{Adapter, AdapterInfo, Stopped};
use adir::engine::{FolderCache, KeptAdapter};
use adir::io::atomic::check_outputs;
use adir::io::ending::{Written, check_ending};
use adir::io::tally::counted;
use adir::io::weights::{Dtype, WeightFile};
use adir::models::Prior;
use adir::optim::save_params;
use adir::{Error, Result};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::adapt_create::{CreateArgs, create};
use crate::log::Log;
use crate::model::ModelArgs;
use crate::store::Store;
use crate::time::ago;

/// Adapt the model ahead of a restoration, and manage adapters.
///
/// ADAPTER is a file, or the name or the first digits of the key of an adapter in the cache. `restore --adapter`
/// samples with it.
#[derive(Debug, Args)]
pub struct AdaptCommandArgs {
    #[command(subcommand)]
    command: AdaptCommand,
}

#[derive(Debug, Subcommand)]
enum AdaptCommand {
    /// Adapt the model to the gallery images nearest to an image, to that image itself, or to a whole archive
    ///
    /// Several observations, or a folder of them, are grouped by their nearest images. Each group shares one adapter,
    /// trained on the images that most of its members have in common. All adapters get the same name; `restore
    /// --adapter NAME` picks the one made for its observation.
    ///
    /// With --archive the model is adapted to all images of a folder, for every later restoration. Ctrl-C stops the training;
    /// the same command continues it, also with a larger --minutes or --iterations when it had ended.
    Create(Box<CreateArgs>),
    /// List the adapters in the cache
    List {
        #[command(flatten)]
        store: Store,
        /// Print one JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Show an adapter: what it was made from, the held-out loss along its training, and by noise level
    Info {
        /// Adapter: a file, or a name or key shown by `adir adapt list`
        adapter: PathBuf,
        #[command(flatten)]
        store: Store,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Rename an adapter
    Rename {
        /// Adapter: a file, or a name or key shown by `adir adapt list`
        adapter: PathBuf,
        /// New name
        name: String,
        #[command(flatten)]
        store: Store,
        #[command(flatten)]
        model: ModelArgs,
    },
    /// Copy an adapter to a file: LoRA factors under diffusers' names, or all weights
    Export(Writing),
    /// Write the model with the adapter merged in, as complete weights for --model
    Merge {
        #[command(flatten)]
        writing: Writing,
        /// Store f16 instead of f32, half the size
        #[arg(long)]
        f16: bool,
    },
    /// Delete an adapter from the cache
    Remove {
        /// Adapter: a file, or a name or key shown by `adir adapt list`
        adapter: PathBuf,
        #[command(flatten)]
        store: Store,
    },
}

/// An adapter and an output file.
#[derive(Debug, Args)]
struct Writing {
    /// Adapter: a file, or a name or key shown by `adir adapt list`
    adapter: PathBuf,
    /// File to write (.safetensors)
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
    /// The prior, the adapter and what it says of itself, once the file may be written.
    fn read(&self, log: &Log) -> Result<(Prior, Adapter, AdapterInfo)> {
        let path = self.store.find_adapter(&self.adapter)?;
        let inputs = [Some(&path), self.model.model.as_ref(), self.model.model_config.as_ref()];
        let inputs: Vec<&Path> = inputs.into_iter().flatten().map(PathBuf::as_path).collect();
        check_ending(&self.output, Written::Weights)?;
        check_outputs(&inputs, &[&self.output], self.overwrite)?;
        load(&self.model, &path, log)
    }
}

pub fn run(args: &AdaptCommandArgs, log: &Log) -> Result<u8> {
    match &args.command {
        AdaptCommand::Create(args) => return create(args, log),
        AdaptCommand::List { store, json } => {
            let (kept, broken) = store.open()?.adapters()?;
            for k in &kept {
                match json {
                    true => say!("{}", describe(&k.key, &k.path, &k.info))?,
                    false => say!("{}", summary(&k.key, &k.info))?,
                }
            }
            broken.iter().for_each(|e| log.warn(&e.to_string()));
        }
        AdaptCommand::Info { adapter, store, json } => {
            let path = store.find_adapter(adapter)?;
            let info = Adapter::info(&WeightFile::open(&path)?)?;
            let key = path.file_stem().unwrap_or_default().to_string_lossy();
            match json {
                true => say!("{:#}", describe(&key, &path, &info))?,
                false => say!("{}", in_words(&key, &path, &info))?,
            }
        }
        AdaptCommand::Rename { adapter, name, store, model } => {
            let path = store.find_adapter(adapter)?;
            let (prior, found, info) = load(model, &path, log)?;
            let name = checked_name(name)?;
            // One of several names is replaced if it was asked for by that one.
            let info = match info.also.iter().position(|also| adapter.as_path() == Path::new(also)) {
                Some(k) => {
                    let mut also = info.also;
                    also[k] = name;
                    AdapterInfo { also, ..info }
                }
                None => AdapterInfo { name, ..info },
            };
            found.save(&path, &info, &prior)?;
            if let Some(cache) = store.find().filter(|cache| path.starts_with(cache.folder())) {
                warn_of_namesakes(&cache, &path, &info, log)?;
            }
        }
        AdaptCommand::Export(writing) => {
            let (prior, found, info) = writing.read(log)?;
            found.save(&writing.output, &info, &prior)?;
        }
        AdaptCommand::Merge { writing, f16 } => {
            let (prior, found, info) = writing.read(log)?;
            let merged = format!("adapter {:?} into the weights {}", info.name, info.base);
            let adapted = found.adapt(&prior, &info)?;
            let mut metadata = adapted.metadata();
            metadata.insert("merged".to_owned(), merged);
            let dtype = if *f16 { Dtype::F16 } else { Dtype::F32 };
            save_params(&writing.output, adapted.params(), dtype, &metadata)?;
        }
        AdaptCommand::Remove { adapter, store } => {
            if adapter.is_file() {
                return Err(Error::config("remove takes the name or key of an adapter in the cache, not a file"));
            }
            let path = store.find_adapter(adapter)?;
            if !path.starts_with(store.open()?.folder()) {
                let message = "is no adapter in the cache, which remove is for: delete the file itself";
                return Err(Error::config(format!("{}: {message}", path.display())));
            }
            let info = WeightFile::open(&path).ok().and_then(|file| Adapter::info(&file).ok());
            std::fs::remove_file(&path).map_err(|e| Error::io(path, e))?;
            // It goes with all of its names.
            if let Some(AdapterInfo { name, also, .. }) = info
                && !also.is_empty()
            {
                let names = std::iter::once(name).chain(also).map(|name| format!("{name:?}")).collect::<Vec<_>>();
                log.info(&format!("removed; it was named {}", names.join(" and ")));
            }
        }
    }
    Ok(crate::exit::DONE)
}

/// An adapter, and the prior it belongs to.
fn load(args: &ModelArgs, path: &Path, log: &Log) -> Result<(Prior, Adapter, AdapterInfo)> {
    let engine = args.engine().build()?;
    let prior = engine.prior(&|_| log.flow())?;
    let file = WeightFile::open(path)?;
    Ok(((*prior).clone(), Adapter::load(&file, &prior)?, Adapter::info(&file)?))
}

/// Says which other adapters of the cache a name of that one in `path` may mean.
pub(super) fn warn_of_namesakes(cache: &FolderCache, path: &Path, info: &AdapterInfo, log: &Log) -> Result<()> {
    let (others, _) = cache.adapters()?;
    for name in std::iter::once(&info.name).chain(&info.also) {
        // Those of different observations may share a name: it means the one that was made for the observation.
        let serves_too = |other: &KeptAdapter| {
            let other = &other.info.serves;
            info.serves.is_empty() || other.is_empty() || other.iter().any(|hash| info.serves.contains(hash))
        };
        let namesake = |other: &KeptAdapter| other.path != path && other.info.is_named(name) && serves_too(other);
        if let Some(other) = others.iter().find(|other| namesake(other)) {
            log.warn(&format!(
                "another adapter is named {name:?}, too: {:.12}. Choose them by their keys, rename one, or remove it",
                other.key
            ));
        }
    }
    Ok(())
}

/// Checks a name: it must fit in a list and on a command line.
pub(super) fn checked_name(name: &str) -> Result<String> {
    let good = !name.is_empty() && name.len() <= 128 && !name.starts_with('-') && !name.contains(char::is_control);
    if !good {
        return Err(Error::config(format!(
            "invalid name {name:?}: expected 1 to 128 bytes without control characters that do not start with -"
        )));
    }
    Ok(name.to_owned())
}

/// Key, name, kind, images and verdict of an adapter.
pub(super) fn summary(key: &str, info: &AdapterInfo) -> String {
    let kind = info.lora.map_or_else(|| "all weights".into(), |(rank, alpha)| format!("LoRA {rank}, alpha {alpha}"));
    let steps = info.outcome.as_ref().and_then(|outcome| outcome.best).unwrap_or(info.provenance.settings.iterations);
    let images = info.provenance.images.len();
    let outcome = info
        .outcome
        .as_ref()
        .map_or_else(String::new, |outcome| format!("; held-out loss {:.5} -> {:.5}", outcome.before, outcome.after));
    let names = std::iter::once(&info.name).chain(&info.also).map(String::as_str).collect::<Vec<_>>().join(", ");
    let (images, steps) = (counted(images, "image"), counted(steps as usize, "step"));
    format!("{key:.12}  {names}  {kind}; {images}, {steps}{outcome}")
}

fn describe(key: &str, path: &Path, info: &AdapterInfo) -> Value {
    json!({
        "key": key, "file": path.to_string_lossy(), "name": info.name, "also": info.also, "base": info.base, "provenance": info.provenance,
        "outcome": info.outcome, "serves": info.serves,
        "lora": info.lora.map(|(rank, alpha)| json!({"rank": rank, "alpha": alpha})),
    })
}

/// What `adapt info` prints.
fn in_words(key: &str, path: &Path, info: &AdapterInfo) -> String {
    let settings = &info.provenance.settings;
    let mut text = format!(
        "{}\nfile                 {}\nbase weights         {:.12}",
        summary(key, info),
        path.display(),
        info.base
    );
    let mut line = |name: &str, value: String| {
        let _ = write!(text, "\n{name:<20} {value}");
    };
    if let Some(written) = ago(path) {
        line("written", written);
    }
    line(
        "budget",
        format!(
            "{} of {} of {} pixels",
            counted(settings.iterations as usize, "step"),
            counted(settings.batch, "crop"),
            settings.crop
        ),
    );
    let Some(outcome) = &info.outcome else {
        line("held-out images", "none: nothing is known of its worth".into());
        return text;
    };
    let change = |before: f64, after: f64| 100.0 * (after / before - 1.0);
    match outcome.stopped {
        Some(Stopped::Budget) => line("ended", "when the budget was used".into()),
        Some(Stopped::NoGain) => line("ended", "when the held-out loss had stopped falling".into()),
        None => {}
    }
    if let Some(slope) = outcome.slope {
        let (gain, error) = (slope.per_doubling, slope.standard_error);
        line("twice the steps", format!("would lower the held-out loss by about {gain:.5} +- {error:.5}"));
    }
    if !outcome.curve.is_empty() {
        let _ = write!(text, "\n\n   step   held-out loss   change\n      0   {:.5}", outcome.before);
    }
    for point in &outcome.curve {
        let kept = if outcome.best == Some(point.step) { "   kept" } else { "" };
        let (change, error) = (change(outcome.before, point.loss), 100.0 * point.standard_error / outcome.before);
        let _ = write!(text, "\n{:>7}   {:.5}         {change:+.1} +- {error:.1} %{kept}", point.step, point.loss);
    }
    if !outcome.bands.is_empty() {
        text.push_str("\n\n   timesteps   without   with      change");
    }
    for band in &outcome.bands {
        let (change, error) = (change(band.before, band.after), 100.0 * band.standard_error / band.before);
        let range = format!("{} to {}", band.from, band.to.saturating_sub(1));
        let _ = write!(text, "\n{range:>12}   {:.5}   {:.5}   {change:+.1} +- {error:.1} %", band.before, band.after);
    }
    text
}
