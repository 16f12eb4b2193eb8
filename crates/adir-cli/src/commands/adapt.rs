//! `adir adapt`: creates and manages adapters.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use adir::adapt::{Adapter, AdapterInfo, Stopped};
use adir::engine::{AdaptPlan, AdapterFound, Cache, Engine, FolderRequest, Label, Observed, Target};
use adir::io::atomic::check_outputs;
use adir::io::ending::{Written, check_ending};
use adir::io::folder::{check_output_folder, image_files};
use adir::io::image::{Reading, read_hashed_as};
use adir::io::tally::Tally;
use adir::io::weights::{Dtype, WeightFile};
use adir::models::Prior;
use adir::optim::save_params;
use adir::retrieve::ContentHash;
use adir::task::Preset;
use adir::tensor::Tensor;
use adir::{Error, Result};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::adaptation::AdaptArgs;
use crate::args::preset;
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

#[derive(Debug, Args)]
struct CreateArgs {
    /// The observation, or any image like those to restore; several images or folders are allowed
    #[arg(required_unless_present = "archive", conflicts_with = "archive")]
    images: Vec<PathBuf>,
    /// Adapt to all images of this folder
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["gallery", "adapt", "prompt", "encoder", "neighbours", "closer_than", "gallery_tiles", "overlap"])]
    archive: Option<PathBuf>,
    /// Name of the adapter [default: the name of the first image or folder]
    #[arg(long)]
    name: Option<String>,
    /// Also write the adapter to this file (.safetensors); for several observations, to files in this folder
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// Group observations whose nearest images overlap by at least this share on average, 0 to 1 [default: 0.25]
    #[arg(long, value_name = "SHARE", value_parser = crate::args::share)]
    overlap: Option<f64>,
    /// Replace an existing file
    #[arg(long)]
    overwrite: bool,
    /// Preset: fast, or paper (400 steps on all weights)
    #[arg(long, default_value = "fast", value_parser = preset())]
    preset: Preset,
    #[command(flatten)]
    adaptation: AdaptArgs,
    #[command(flatten)]
    model: ModelArgs,
}

impl CreateArgs {
    /// The files and folders that are read.
    fn inputs(&self) -> Vec<&Path> {
        let AdaptArgs { gallery, settings, .. } = &self.adaptation;
        let named = [&self.archive, gallery, &settings.encoder, &self.model.model, &self.model.model_config];
        self.images.iter().chain(named.into_iter().flatten()).map(PathBuf::as_path).collect()
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
            std::fs::remove_file(&path).map_err(|e| Error::io(path, e))?;
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

/// An observation of `adapt create`.
struct Image {
    file: PathBuf,
    y: Tensor<4>,
    content: ContentHash,
    /// What of the file does not count.
    notes: Vec<String>,
}

impl Image {
    fn read(file: &Path, engine: &Engine) -> Result<Self> {
        let (picture, content) = read_hashed_as(file, &Reading::default(), engine.limits())?;
        Ok(Self { file: file.to_owned(), notes: picture.notes_on_colours(), y: picture.tensor, content })
    }

    fn observed(&self) -> Observed<'_> {
        Observed { y: &self.y, file: Some(&self.file), content: self.content }
    }
}

fn create(args: &CreateArgs, log: &Log) -> Result<u8> {
    if args.output.is_none() {
        if args.adaptation.no_cache {
            return Err(Error::config("--no-cache needs a file for the adapter: give one with -o"));
        }
        // Nothing else would hold the adapter.
        args.adaptation.store.open()?.check()?;
    }
    let name = args.name.as_deref().map(checked_name).transpose()?;
    if let Some(folder) = &args.archive {
        create_for_archive(args, folder, name, log)?;
        return Ok(crate::exit::DONE);
    }
    // `create` keeps the adapter whatever the held-out images say.
    let request = args.adaptation.request(args.preset)?;
    let request =
        request.ok_or_else(|| Error::config("nothing to adapt to: give --gallery FOLDER, or --adapt self"))?;
    let engine = args.adaptation.engine(args.model.engine()).build()?;
    let plan = engine.plan_adaptation(&request, args.preset)?;
    match args.images.as_slice() {
        [image] if !image.is_dir() && args.overlap.is_some() => {
            let message = "--overlap has no effect on one observation: give several, or a folder of them";
            Err(Error::config(format!("{}: {message}", image.display())))
        }
        [image] if !image.is_dir() => create_one(args, &engine, &plan, image, name, log).map(|()| crate::exit::DONE),
        _ => create_shared(args, &engine, &plan, name, log),
    }
}

/// One adapter for all images of a folder.
fn create_for_archive(args: &CreateArgs, folder: &Path, name: Option<String>, log: &Log) -> Result<()> {
    // The state of the training lies beside the file, and the same command continues it.
    let state = args.output.as_ref().map(|output| output.with_extension("checkpoint"));
    if let (Some(output), Some(state)) = (&args.output, &state) {
        check_ending(output, Written::Weights)?;
        check_outputs(&args.inputs(), &[output, state], args.overwrite || state.is_file())?;
    }
    let own = folder.canonicalize().map_err(|e| Error::input(folder, e.to_string()))?;
    let name = name.unwrap_or_else(|| own.file_name().unwrap_or_default().to_string_lossy().into_owned());
    let request = args.adaptation.to_archive(folder);
    let engine = args.adaptation.engine(args.model.engine()).build()?;
    let plan = engine.plan_adaptation(&request, args.preset)?;
    let watcher = log.watcher();
    let found = engine.adapt_to_archive(&plan, name.clone(), state.as_deref(), &|event| watcher.see(event));
    watcher.finish();
    if matches!(found, Err(Error::Interrupted)) {
        log.warn("stopped; the same command continues");
    }
    finish(args, &engine, found?, Label { name, serves: Vec::new() }, args.output.as_deref(), log)
}

fn create_one(
    args: &CreateArgs,
    engine: &Engine,
    plan: &AdaptPlan,
    file: &Path,
    name: Option<String>,
    log: &Log,
) -> Result<()> {
    if let Some(output) = &args.output {
        check_ending(output, Written::Weights)?;
        check_outputs(&args.inputs(), &[output], args.overwrite)?;
    }
    let image = Image::read(file, engine)?;
    image.notes.iter().for_each(|note| log.warn(&format!("{}: {note}", file.display())));
    let watcher = log.watcher();
    let found = engine.adapt(plan, &image.observed(), &|event| watcher.see(event))?;
    watcher.finish();
    let name = name.unwrap_or_else(|| found.info.name.clone());
    finish(args, engine, found, Label { name, serves: vec![image.content.to_string()] }, args.output.as_deref(), log)
}

/// One adapter per group of observations with similar neighbours. Observations that cannot be read stop nothing.
fn create_shared(args: &CreateArgs, engine: &Engine, plan: &AdaptPlan, name: Option<String>, log: &Log) -> Result<u8> {
    if plan.request().target == Target::Itself {
        return Err(Error::config("--adapt self takes a single observation: give only one, or use --gallery"));
    }
    if let Some(output) = &args.output {
        check_ending(output, Written::Folder)?;
        check_output_folder(output)?;
    }
    let files = observations(&args.images, log)?;
    let first = args.images[0].canonicalize().map_err(|e| Error::input(&args.images[0], e.to_string()))?;
    let own = if first.is_dir() { first.file_name() } else { first.file_stem() };
    let name = name.unwrap_or_else(|| own.unwrap_or_default().to_string_lossy().into_owned());
    let (mut images, mut notes) = (Vec::new(), Tally::default());
    for file in &files {
        match Image::read(file, engine) {
            Ok(image) => {
                image.notes.iter().for_each(|note| notes.add(note, file.display()));
                images.push(image);
            }
            Err(e @ (Error::Input { .. } | Error::TooLarge { .. } | Error::Limits(_))) if files.len() > 1 => {
                log.warn(&format!("left out: {e}"));
            }
            Err(e) => return Err(e),
        }
    }
    notes.lines().iter().for_each(|note| log.warn(note));
    if images.is_empty() {
        return Err(Error::input(&args.images[0], "none of the observations can be read"));
    }
    let observed: Vec<_> = images.iter().map(Image::observed).collect();
    let watcher = log.watcher();
    let groups =
        engine.group(plan, &observed, args.overlap.unwrap_or(FolderRequest::OVERLAP), &|event| watcher.see(event))?;
    let output = |number: usize| args.output.as_ref().map(|folder| folder.join(format!("{name}-{number}.safetensors")));
    let outputs: Vec<PathBuf> = (1..=groups.len()).filter_map(output).collect();
    check_outputs(&args.inputs(), &outputs.iter().map(PathBuf::as_path).collect::<Vec<_>>(), args.overwrite)?;
    for (number, (group, neighbours)) in (1..).zip(&groups) {
        let members: Vec<&Image> = group.members.iter().map(|&m| &images[m]).collect();
        let serves = members.iter().map(|image| image.content.to_string()).collect();
        let label = Label { name: name.clone(), serves };
        let found = engine.adapt_to_files(plan, neighbours, label.clone(), &|event| watcher.see(event))?;
        watcher.finish();
        finish(args, engine, found, label, output(number).as_deref(), log)?;
        for image in members {
            say!("              serves {}", image.file.display())?;
        }
    }
    Ok(if images.len() == files.len() { crate::exit::DONE } else { crate::exit::SOME_FAILED })
}

/// The images, and those in the folders, among `paths`.
fn observations(paths: &[PathBuf], log: &Log) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for path in paths {
        if path.is_dir() {
            let listing = image_files(path)?;
            listing.warnings().iter().for_each(|message| log.warn(message));
            if listing.files.is_empty() {
                return Err(Error::input(path, listing.no_images()));
            }
            all.extend(listing.files.iter().map(|name| path.join(name)));
        } else {
            all.push(path.clone());
        }
    }
    Ok(all)
}

/// Labels an adapter, writes it where that was asked for, and prints its line.
fn finish(
    args: &CreateArgs,
    engine: &Engine,
    mut found: AdapterFound,
    label: Label,
    output: Option<&Path>,
    log: &Log,
) -> Result<()> {
    let watcher = log.watcher();
    let watch = |event: &adir::engine::Event| watcher.see(event);
    let (asked_for, keep) = (label.name.clone(), found.kept && !args.adaptation.no_cache);
    engine.relabel(&mut found, label, keep, &watch)?;
    if let Some(output) = output {
        found.adapter.save(output, &found.info, &*engine.prior(&watch)?)?;
    } else if !found.kept {
        let folder = args.adaptation.store.open()?;
        let message = "the cache does not take the adapter, which is lost: give a file with -o, or another --cache";
        return Err(Error::input(folder.folder(), message));
    }
    if found.info.name != asked_for {
        log.info(&format!("this adapter was made as {:?}; {asked_for:?} is a further name of it", found.info.name));
    }
    if found.from_cache {
        log.info("found in the cache; nothing was trained");
    }
    say!("{}", summary(&found.key, &found.info))
}

/// Checks a name: it must fit in a list and on a command line.
fn checked_name(name: &str) -> Result<String> {
    let good = !name.is_empty() && name.len() <= 128 && !name.starts_with('-') && !name.contains(char::is_control);
    if !good {
        return Err(Error::config(format!(
            "invalid name {name:?}: expected 1 to 128 bytes without control characters that do not start with -"
        )));
    }
    Ok(name.to_owned())
}

/// Key, name, kind, images and verdict of an adapter.
fn summary(key: &str, info: &AdapterInfo) -> String {
    let kind = info.lora.map_or_else(|| "all weights".into(), |(rank, alpha)| format!("LoRA {rank}, alpha {alpha}"));
    let steps = info.outcome.as_ref().and_then(|outcome| outcome.best).unwrap_or(info.provenance.settings.iterations);
    let images = info.provenance.images.len();
    let outcome = info
        .outcome
        .as_ref()
        .map_or_else(String::new, |outcome| format!("; held-out loss {:.5} -> {:.5}", outcome.before, outcome.after));
    let names = std::iter::once(&info.name).chain(&info.also).map(String::as_str).collect::<Vec<_>>().join(", ");
    let images = if images == 1 { "1 image".to_owned() } else { format!("{images} images") };
    format!("{key:.12}  {names}  {kind}; {images}, {steps} steps{outcome}")
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
    line("budget", format!("{} steps of {} crops of {} pixels", settings.iterations, settings.batch, settings.crop));
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
