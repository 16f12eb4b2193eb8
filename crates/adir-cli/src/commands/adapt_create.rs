//! `adir adapt create`: adapters ahead of the restorations that they serve.

use std::path::{Path, PathBuf};

use adir::adapt::{Adapter, AdapterInfo};
use adir::engine::{AdaptPlan, AdapterFound, Cache, Engine, FolderCache, FolderRequest, Label, Observed, Target};
use adir::io::atomic::check_outputs;
use adir::io::ending::{Written, check_ending};
use adir::io::folder::{check_output_folder, image_files};
use adir::io::image::{Reading, read_hashed_as};
use adir::io::tally::Tally;
use adir::io::weights::WeightFile;
use adir::retrieve::ContentHash;
use adir::task::Preset;
use adir::tensor::Tensor;
use adir::{Error, Result};
use clap::{ArgGroup, Args};

use super::adapt::{checked_name, summary, warn_of_namesakes};
use crate::adaptation::AdaptArgs;
use crate::args::preset;
use crate::log::Log;
use crate::model::ModelArgs;
use crate::out;

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("images to adapt to").args(["images", "archive"]).required(true))]
pub struct CreateArgs {
    /// The observation, or any image like those to restore; several images or folders are allowed
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

/// Makes the adapters that `args` ask for.
pub fn create(args: &CreateArgs, log: &Log) -> Result<u8> {
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
    if !request.query.is_usual() {
        return Err(Error::config("--query first and both need a restoration, and here nothing is restored"));
    }
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
    args.adaptation.remote.check(None)?;
    let own = folder.canonicalize().map_err(|e| Error::input(folder, e.to_string()))?;
    let name = name.unwrap_or_else(|| own.file_name().unwrap_or_default().to_string_lossy().into_owned());
    let request = args.adaptation.to_archive(folder, args.preset);
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
            say!("              serves {}", out::name(&image.file.to_string_lossy()))?;
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

/// Gives the adapters that the same training had made after fewer steps names of their own.
fn take_over_name(cache: &FolderCache, engine: &Engine, of: (&Path, &AdapterInfo), log: &Log) -> Result<()> {
    let (path, info) = of;
    let training = info.provenance.key_without_budget()?;
    for other in cache.adapters()?.0 {
        let is_earlier = other.path != path
            && other.info.name == info.name
            && other.info.provenance.settings.iterations < info.provenance.settings.iterations
            && other.info.provenance.key_without_budget()? == training;
        if !is_earlier {
            continue;
        }
        let name = format!("{}-{}", info.name, other.info.provenance.settings.iterations);
        let prior = engine.prior(&|_| log.flow())?;
        let earlier = Adapter::load(&WeightFile::open(&other.path)?, &prior)?;
        log.info(&format!("the adapter of an earlier run of this command is now named {name:?}"));
        earlier.save(&other.path, &AdapterInfo { name, ..other.info }, &prior)?;
    }
    Ok(())
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
    if keep && found.info.serves.is_empty() {
        let cache = args.adaptation.store.open()?;
        let path = cache.find_adapter(Path::new(&found.key), None)?;
        take_over_name(&cache, engine, (&path, &found.info), log)?;
        warn_of_namesakes(&cache, &path, &found.info, log)?;
    }
    if found.info.name != asked_for {
        log.info(&format!("this adapter was made as {:?}; {asked_for:?} is a further name of it", found.info.name));
    }
    if found.from_cache {
        log.info("found in the cache; nothing was trained");
    }
    say!("{}", summary(&found.key, &found.info))
}
