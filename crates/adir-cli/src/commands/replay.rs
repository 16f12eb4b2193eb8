//! `adir replay`: repeats a run from its record and compares the bytes.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use adir::engine::{
    Engine, EngineBuilder, FileRecord, LatentRecord, Observation, OutputRequest, Outputs, Plan, Record, Request,
    Restored, StackRecord, Target,
};
use adir::io::atomic::check_outputs;
use adir::io::hash::ContentHash;
use adir::io::image::{ImageFormat, read_image};
use adir::io::limits::Limits;
use adir::problem::{KernelSource, MaskSource};
use adir::retrieve::remote_address;
use adir::tensor::{Isa, to_f64};
use adir::{Error, Result};
use clap::Args;
use serde_json::json;

use super::{replay_latent, replay_pages};
use crate::adaptation::engine_with;
use crate::log::Log;
use crate::memory;
use crate::out;
use crate::pipe::Scratch;
use crate::remote::RemoteArgs;
use crate::store::Store;
use crate::watch::Watcher;

/// Repeat a restoration from its record, and say whether the bytes agree (exit code 1 if they do not).
///
/// Relative paths in the record are taken from the folder in which the restoration was run, if the location of the
/// record reveals it, else from the current folder.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The record beside the result (x.png.json)
    pub(super) record: PathBuf,
    /// Keep the repeated result here, with its record and samples, whether the bytes agree or not [default: it is
    /// compared and thrown away]
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
    /// Replace existing outputs
    #[arg(long)]
    pub(super) overwrite: bool,
    #[command(flatten)]
    remote: RemoteArgs,
    #[command(flatten)]
    pub(super) store: Store,
    /// Use no adapted weights of earlier runs: train again
    #[arg(long)]
    pub(super) no_cache: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl ReplayArgs {
    /// An engine like that of the run.
    pub(super) fn engine(&self, record: &Record, scratch: &Scratch, store: &Store) -> Result<Engine> {
        let adapt = record.request.as_ref().and_then(|request| request.adapt.as_ref());
        self.remote.check(adapt.and_then(|adapt| adapt.target.gallery()))?;
        let builder = self.remote.engine(engine(record, scratch)?, store, self.no_cache);
        engine_with(builder, store, self.no_cache).build()
    }
}

/// A picture of the run and of its repetition.
pub(super) struct Compared {
    pub name: String,
    pub then: ContentHash,
    pub now: ContentHash,
}

pub fn run(args: &ReplayArgs, log: &Log) -> Result<u8> {
    if let Some(record) = LatentRecord::read(&args.record)? {
        return replay_latent::run(args, &record, log);
    }
    if let Some(record) = StackRecord::read(&args.record)? {
        return replay_pages::run(args, &record, log);
    }
    let record = Record::read(&args.record)?;
    let request = request_of(&record, &args.record)?;
    let asked = request.output.clone().map_or_else(|| result_of(&args.record), |output| Ok(output.path))?;
    // Before the folder changes.
    let (own, kept) = (absolute(&args.record)?, args.output.as_deref().map(absolute).transpose()?);
    let store = args.store.absolute()?;
    let folder = folder_of_run(&own, request.output.as_ref());
    if let Some(folder) = &folder {
        std::env::set_current_dir(folder).map_err(|e| Error::io(folder, e))?;
    }
    let (before, image) = before(&record, &own, &asked)?;
    if before.first().is_some_and(|then| ContentHash::of_file(&image).ok() != Some(then.sha256)) {
        let image = image.display();
        log.warn(&format!(
            "{image}: is gone, or has changed since the run: what is said below is of what the run wrote"
        ));
    }
    let scratch = Scratch::new()?;
    let output = match kept {
        Some(kept) => {
            check_format(&kept, &image)?;
            let outputs = Outputs::new(&kept, record.samples);
            check_outputs(&[&own, &image], &outputs.all().collect::<Vec<_>>(), args.overwrite)?;
            OutputRequest::new(kept, args.overwrite)
        }
        None => OutputRequest::new(scratch.file(asked.file_name().unwrap_or(OsStr::new("x.png"))), false),
    };
    let engine = args.engine(&record, &scratch, &store)?;
    let watcher = log.watcher();
    let restored = repeat(&engine, &record, request, output, &watcher)?;
    watcher.finish();
    let compared = compare(&before, &restored.record.results)?;
    let again = restored.outputs().map(|outputs| outputs.image.clone());
    tell(args, &compared, || reasons(&record, &restored.record), || largest_difference(&image, &again?))
}

/// Repeats the run of a record into `output`.
pub(super) fn repeat(
    engine: &Engine,
    record: &Record,
    request: Request,
    output: OutputRequest,
    watcher: &Watcher,
) -> Result<Restored> {
    let mut again = request;
    make_absolute(&mut again)?;
    by_keys(&mut again, record, engine);
    if let Observation::File(file) = &again.input
        && file.to_string_lossy().contains(char::REPLACEMENT_CHARACTER)
        && !file.exists()
    {
        let message = "is not there: its name was probably not UTF-8, which a record cannot hold; rename it, and restore it again";
        return Err(Error::input(file, message));
    }
    again.output = Some(output);
    let plan = engine.plan(&again)?;
    check_inputs(record, &plan)?;
    let id = engine.prior(&|event| watcher.see(event))?.id()?.to_string();
    if id != record.model.sha256 {
        let message = format!("holds other weights (SHA-256 {id:.12}) than the run used ({:.12})", record.model.sha256);
        return Err(Error::model(&record.model.name, message));
    }
    let mut restored = engine.run(&plan, &|event| watcher.see(event))?;
    restored.save(engine)?;
    Ok(restored)
}

/// Says which files agree; if some do not, why, and by how much the first result differs. Returns the exit code.
pub(super) fn tell(
    args: &ReplayArgs,
    compared: &[Compared],
    reasons: impl FnOnce() -> Vec<String>,
    difference: impl FnOnce() -> Option<f64>,
) -> Result<u8> {
    let agree = compared.iter().all(|picture| picture.then == picture.now);
    let reasons = if agree { Vec::new() } else { reasons() };
    if args.json {
        let rows: Vec<_> = compared
            .iter()
            .map(|c| json!({"name": c.name, "recorded": c.then, "repeated": c.now, "agrees": c.then == c.now}))
            .collect();
        say!(
            "{}",
            json!({"record": args.record.to_string_lossy(), "files": rows, "agree": agree, "differences": reasons})
        )?;
    } else {
        for Compared { name, then, now } in compared {
            let verdict = if then == now { "the same bytes" } else { "DIFFERENT bytes" };
            say!("{:<30} {verdict}, SHA-256 {:.12}", out::name(name), now.to_string())?;
        }
        reasons.iter().try_for_each(|reason| say!("  {reason}"))?;
        if let Some(most) = (!agree).then(difference).flatten().filter(|most| *most > 0.0) {
            say!("  the values of the result differ by up to {most:.2} grey levels")?;
        }
        say!("{}", if agree { "the run repeats" } else { "the run does NOT repeat" })?;
    }
    Ok(if agree { crate::exit::DONE } else { crate::exit::SOME_FAILED })
}

/// The request of a record, which the file `path` holds.
pub(super) fn request_of(record: &Record, path: &Path) -> Result<Request> {
    record.request.clone().ok_or_else(|| {
        let message = "does not hold its request: the observation came from a pipe or from memory, or the operator from a \
                       program";
        Error::input(path, message)
    })
}

pub(super) fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|e| Error::io(path, e))
}

/// Makes the files of a request those of the current folder wherever a record of it is read.
fn make_absolute(request: &mut Request) -> Result<()> {
    let make = |path: &mut PathBuf| -> Result<()> {
        *path = absolute(path)?;
        Ok(())
    };
    if let Observation::File(path) = &mut request.input {
        make(path)?;
    }
    if let Some(MaskSource::File(path)) = &mut request.problem.mask {
        make(path)?;
    }
    if let Some(KernelSource::Text(text)) = &mut request.problem.kernel
        && Path::new(text).is_file()
    {
        let mut path = PathBuf::from(&text);
        make(&mut path)?;
        *text = path.to_string_lossy().into_owned();
    }
    let Some(adapt) = &mut request.adapt else { return Ok(()) };
    // An adapter may be named otherwise than by its file.
    adapt.start.iter_mut().filter(|start| start.exists()).try_for_each(make)?;
    match &mut adapt.target {
        Target::Gallery(path) | Target::Text { gallery: path, .. } if remote_address(path).is_some() => Ok(()),
        Target::Gallery(path) | Target::Text { gallery: path, .. } | Target::Archive(path) => make(path),
        Target::Adapter(path) if path.exists() => make(path),
        Target::Images(images) => images.iter_mut().try_for_each(make),
        _ => Ok(()),
    }
}

/// Names adapters by the keys that the record holds, where the cache has those: their names may have changed since.
fn by_keys(request: &mut Request, record: &Record, engine: &Engine) {
    let (Some(adapt), Some(then)) = (&mut request.adapt, &record.adaptation) else { return };
    let name = |reference: &mut PathBuf, key: &str| {
        if !reference.exists() && engine.cache().find_adapter(Path::new(key), None).is_ok() {
            *reference = key.into();
        }
    };
    if let Target::Adapter(reference) = &mut adapt.target {
        name(reference, &then.key);
    }
    if let (Some(reference), Some(key)) = (&mut adapt.start, &then.start) {
        name(reference, key);
    }
}

/// The result that a record lies beside.
pub(super) fn result_of(record: &Path) -> Result<PathBuf> {
    match record.extension().is_some_and(|extension| extension == "json") {
        true => Ok(record.with_extension("")),
        false => Err(Error::input(record, "does not say which result it belongs to")),
    }
}

/// The folder that a run was started in, where the places of its record, then and now, tell it.
pub(super) fn folder_of_run(record: &Path, output: Option<&OutputRequest>) -> Option<PathBuf> {
    let output = output?;
    let mut then = output.path.clone().into_os_string();
    then.push(".json");
    let then = output.record.clone().unwrap_or(then.into());
    if then.is_absolute() {
        return None;
    }
    let plain = |part: &std::path::Component<'_>| matches!(part, std::path::Component::Normal(_));
    let parts: Vec<_> = then.components().filter(|part| !matches!(part, std::path::Component::CurDir)).collect();
    let folder = record.ancestors().nth(parts.len())?;
    (parts.iter().all(plain) && record.ends_with(parts.iter().collect::<PathBuf>())).then(|| folder.to_owned())
}

/// The pictures of the run with their hashes: as the record has them, or in records of earlier versions as the files
/// are; and the file of the result.
fn before(record: &Record, own: &Path, asked: &Path) -> Result<(Vec<FileRecord>, PathBuf)> {
    let beside = result_of(own).ok().filter(|beside| beside.is_file());
    let image = if asked.is_file() { asked.to_owned() } else { beside.unwrap_or_else(|| asked.to_owned()) };
    if !record.results.is_empty() {
        return Ok((record.results.clone(), image));
    }
    let outputs = Outputs::new(&image, record.samples);
    // Earlier versions drew no maps.
    let files = std::iter::once(&outputs.image).chain(&outputs.samples);
    let hashed = |path: &PathBuf| Ok(FileRecord { path: Some(path.clone()), sha256: ContentHash::of_file(path)? });
    Ok((files.map(hashed).collect::<Result<_>>()?, image))
}

/// Refuses a place whose format is another one: its bytes could not agree.
pub(super) fn check_format(output: &Path, image: &Path) -> Result<()> {
    if ImageFormat::from_path(output)? == ImageFormat::from_path(image)? {
        return Ok(());
    }
    let (output, image) = (output.display(), image.display());
    Err(Error::config(format!("{output}: the bytes are to be those of {image}: choose a name of the same format")))
}

/// An engine like that of the run.
fn engine(record: &Record, scratch: &Scratch) -> Result<EngineBuilder> {
    let precision = record.dtype.parse()?;
    let mut builder = Engine::builder().device(&record.device).precision(precision).memory(memory::available());
    let name = &record.model.name;
    if name != "embedded prior" {
        let weights = Path::new(name);
        if !weights.is_file() {
            return Err(Error::model(weights, "is not there, and the run used it"));
        }
        // The configuration may have come from a file that the record does not name.
        let config = record.model.config.as_ref().map(|config| -> Result<PathBuf> {
            let path = scratch.file("model.json");
            adir::engine::write_json(&path, config)?;
            Ok(path)
        });
        builder = builder.model(absolute(weights)?, config.transpose()?);
    }
    if let Some(encoder) = record.adaptation.as_ref().and_then(|adaptation| adaptation.encoder_file.as_ref()) {
        builder = builder.clip(absolute(encoder)?);
    }
    Ok(builder)
}

/// Refuses inputs that are not those of the run.
fn check_inputs(record: &Record, plan: &Plan) -> Result<()> {
    let changed = |path: Option<&Path>, now: &ContentHash, then: &ContentHash| {
        let message = format!("is not the file of the run: its SHA-256 is {:.12}, and was {then:.12}", now.to_string());
        Err(Error::input(path.unwrap_or(Path::new("the input")), message))
    };
    let now = plan.observed().content;
    if now != record.input.sha256 {
        return changed(record.input.path.as_deref(), &now, &record.input.sha256);
    }
    if let Some(FileRecord { path: Some(path), sha256 }) = &record.mask {
        let now = ContentHash::of_file(path)?;
        if now != *sha256 {
            return changed(Some(path), &now, sha256);
        }
    }
    if plan.restore().measurement().degradation() != record.degradation.as_ref() {
        return Err(Error::config("the degradation is not that of the run: the file of the kernel has changed"));
    }
    Ok(())
}

/// Pairs the pictures of the run with those of its repetition.
pub(super) fn compare(before: &[FileRecord], now: &[FileRecord]) -> Result<Vec<Compared>> {
    if before.len() > now.len() {
        return Err(Error::config("the run made other files than its repetition"));
    }
    let pair = |(then, now): (&FileRecord, &FileRecord)| {
        let name = then.path.as_deref().and_then(Path::file_name).unwrap_or(OsStr::new("<stdout>"));
        Compared { name: name.to_string_lossy().into_owned(), then: then.sha256, now: now.sha256 }
    };
    Ok(before.iter().zip(now).map(pair).collect())
}

/// What was otherwise than in the run.
pub(super) fn reasons(then: &Record, now: &Record) -> Vec<String> {
    let mut reasons = Vec::new();
    let mut tell = |what: &str, then: &str, now: &str| {
        if then != now {
            reasons.push(format!("{what}: {then} then, {now} now"));
        }
    };
    tell("program", &then.program, &now.program);
    let unknown = "unknown".to_owned();
    tell("instruction set", then.instructions.as_ref().unwrap_or(&unknown), &Isa::active().to_string());
    if then.settings != now.settings {
        reasons.push("settings: this version settles them in another way".into());
    }
    if let (Some(then), Some(now)) = (&then.adaptation, &now.adaptation) {
        if then.images != now.images && then.gallery.is_some() {
            reasons.push("adaptation: to other images; the gallery has changed".into());
        }
        if then.key != now.key {
            reasons.push(format!("adaptation: adapter {:.12} then, {:.12} now", then.key, now.key));
        }
        if then.used != now.used {
            reasons.push("adaptation: used in only one of the runs".into());
        }
    }
    if reasons.is_empty() {
        reasons.push("nothing that the record holds was otherwise: was the result changed after the run?".into());
    }
    reasons
}

/// The largest difference between the result as it lies there and its repetition, in grey levels of 0..255.
pub(super) fn largest_difference(image: &Path, again: &Path) -> Option<f64> {
    let read = |path: &Path| to_f64(&read_image(path, &Limits::default()).ok()?.tensor).ok();
    let (then, now) = (read(image)?, read(again)?);
    let differences = then.iter().zip(&now).map(|(a, b)| (a - b).abs() * 127.5);
    (then.len() == now.len()).then(|| differences.fold(0.0, f64::max))
}
