//! `adir restore FOLDER`: all images of a folder.

use std::path::Path;
use std::str::FromStr;

use adir::engine::{Each, Engine, Event, FolderDone, FolderPlan, FolderRequest, Shard};
use adir::io::image::ImageFormat;
use adir::io::tally::counted;
use adir::{Error, Result};
use clap::Args;

use super::restore::RestoreArgs;
use crate::cost;
use crate::log::Log;
use crate::out;
use crate::pipe::is_pipe;
use crate::watch::Watcher;

/// Options that only a folder takes.
#[derive(Debug, Clone, Args)]
pub struct FolderArgs {
    /// Of a folder: restore only part I of N, from 1. auto takes both from SLURM, auto/N takes I from the task number of
    /// SLURM, Kubernetes (JOB_COMPLETION_INDEX) or HyperQueue
    #[arg(long, value_name = "I/N")]
    shard: Option<ShardArg>,
    /// Of a folder: format of the results: png, tif, jpg, webp, fits or exr [default: that of each observation, where it can hold
    /// the result]
    #[arg(long, value_name = "FORMAT", value_parser = format)]
    format: Option<ImageFormat>,
    /// Of a folder with --gallery: observations share an adaptation if their nearest images overlap by at least this
    /// share on average, 0 to 1 [default: 0.25]
    #[arg(long, value_name = "SHARE", value_parser = crate::args::share)]
    overlap: Option<f64>,
}

/// What `--shard` takes.
#[derive(Debug, Clone, Copy)]
pub(super) enum ShardArg {
    Given(Shard),
    Auto(Option<usize>),
}

impl FromStr for ShardArg {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text.split_once('/') {
            None if text == "auto" => Ok(Self::Auto(None)),
            Some(("auto", of)) => {
                let of = of.parse().map_err(|_| Error::config("expected auto/N with a number of parts N"))?;
                Ok(Self::Auto(Some(of)))
            }
            _ => text.parse().map(Self::Given),
        }
    }
}

fn format(name: &str) -> Result<ImageFormat, String> {
    ImageFormat::from_path(Path::new(&format!("x.{name}")))
        .map_err(|_| "expected png, tif, jpg, webp, fits or exr".into())
}

impl FolderArgs {
    /// Refuses options that have no effect on a single file.
    pub fn refuse_for_a_file(&self, args: &RestoreArgs) -> Result<()> {
        let input = args.input()?;
        let given = [
            (self.shard.is_some(), "--shard"),
            (self.format.is_some(), "--format"),
            // Pages share adaptations, too.
            (self.overlap.is_some() && !args.every_page(), "--overlap"),
        ];
        match given.into_iter().find(|(given, _)| *given) {
            Some((_, option)) if args.every_page() => {
                Err(Error::config(format!("{option} has no effect on one stack: name a folder as output")))
            }
            // What is missing is said as it is without the option.
            Some((_, option)) if input.exists() => Err(Error::config(format!(
                "{option} has no effect on a single file, and {} is no folder",
                input.display()
            ))),
            _ => Ok(()),
        }
    }

    /// The overlap that was asked for.
    pub fn overlap(&self, args: &RestoreArgs) -> Result<Option<f64>> {
        match self.overlap {
            Some(_) if args.adaptation.gallery.is_none() => {
                Err(Error::config("--overlap has no effect without --gallery FOLDER"))
            }
            overlap => Ok(overlap),
        }
    }
}

/// The part that is asked for.
pub(super) fn shard_of(given: Option<ShardArg>) -> Result<Shard> {
    match given {
        None => Ok(Shard::WHOLE),
        Some(ShardArg::Given(shard)) => Ok(shard),
        Some(ShardArg::Auto(of)) => Shard::of_task(of, |name| std::env::var(name).ok()),
    }
}

/// Refuses a seed that the next run of the same command would not have.
pub(super) fn check_seed(args: &RestoreArgs) -> Result<()> {
    if args.sampling.seed.drawn {
        let what = noun(args.every_page());
        let message =
            format!("a seed drawn at each start would make finished {what}s count as unfinished: give --seed a number");
        return Err(Error::config(message));
    }
    Ok(())
}

fn request(args: &RestoreArgs, each: Each) -> Result<FolderRequest> {
    check_seed(args)?;
    let overlap = args.folder.overlap(args)?;
    if overlap.is_some() && matches!(each, Each::Latents(_)) {
        return Err(Error::config("--overlap has no effect here: each upscaling adapts to its own nearest images"));
    }
    let mut request = FolderRequest::new(args.input()?, &args.output, each);
    request.shard = shard_of(args.folder.shard)?;
    request.format = args.folder.format;
    request.overlap = overlap.unwrap_or(request.overlap);
    request.every_page = args.every_page();
    request.overwrite = args.overwrite;
    Ok(request)
}

/// Restores the images of the folder, each as `each` says.
pub fn run(args: &RestoreArgs, each: impl FnOnce() -> Result<Each>, log: &Log) -> Result<u8> {
    if is_pipe(&args.output) {
        return Err(Error::config("-o - holds one picture, but there are several observations: give -o FOLDER"));
    }
    args.check_for_folder()?;
    let request = request(args, each()?)?;
    let engine = args.engine().build()?;
    let watcher = log.watcher();
    let watch = |event: &Event| watcher.see(event);
    let plan = engine.plan_folder(&request, &watch)?;
    if args.explain {
        return explain(&engine, &plan, &watcher, log);
    }
    if args.every_page() && !args.input()?.is_dir() {
        // Of one file it is soon known which pages cannot be restored; the others are, nevertheless.
        let checked = engine.check_folder(&plan, &watch)?;
        watcher.finish();
        checked.faults.iter().for_each(|fault| log.warn(&named(&fault.file, fault.error.to_string())));
    }
    log.info(&in_words(&plan));
    let done = engine.run_folder(&plan, &watch);
    ended(args, done, &watcher, log)
}

/// What is restored one by one.
fn noun(every_page: bool) -> &'static str {
    if every_page { "page" } else { "file" }
}

/// Shows the plan of the first file, what all take, and what cannot be restored.
fn explain(engine: &Engine, plan: &FolderPlan, watcher: &Watcher, log: &Log) -> Result<u8> {
    let checked = engine.check_folder(plan, &|event| watcher.see(event))?;
    watcher.finish();
    let noun = noun(plan.request().every_page);
    log.no_longer_heard()?;
    cost::say_folder(engine, &checked, noun, log)?;
    say!("{}", out::name(&in_words(plan)))?;
    Ok(told(checked.faults.into_iter().map(|fault| (fault.file, fault.error.to_string())).collect(), noun, log))
}

/// Says what became of the files; the exit code.
pub(super) fn ended(args: &RestoreArgs, done: Result<FolderDone>, watcher: &Watcher, log: &Log) -> Result<u8> {
    watcher.finish();
    if let Err(error) = &done {
        let what = noun(args.every_page());
        let begun = if watcher.kept() { " and the one that was begun" } else { "" };
        let how = if matches!(error, Error::Interrupted) { "stopped" } else { "stopped by an error" };
        log.warn(&format!("{how}: finished {what}s{begun} are kept, and the same command goes on"));
    }
    let FolderDone { restored, finished, failed, .. } = done?;
    let code = told(failed, noun(args.every_page()), log);
    log.info(&format!("{}: {restored} restored, {finished} finished before", args.output.display()));
    Ok(code)
}

/// How many files there are, and what is left to do.
pub(super) fn in_words(plan: &FolderPlan) -> String {
    let shard = plan.request().shard;
    let part = if shard == Shard::WHOLE { String::new() } else { format!(", shard {shard} of them") };
    let (finished, to_do, scans) = (plan.finished(), plan.to_do().len(), plan.request().scans.display());
    let files = counted(plan.files(), if plan.request().every_page { "page" } else { "image" });
    format!("{scans}: {files}{part}: {finished} finished, {to_do} to restore")
}

/// Names the files, or pages, that failed; the exit code.
fn told(failed: Vec<(String, String)>, noun: &str, log: &Log) -> u8 {
    if failed.is_empty() {
        return crate::exit::DONE;
    }
    log.warn(&format!("{} not restored:", counted(failed.len(), noun)));
    failed.into_iter().for_each(|(file, error)| log.warn(&named(&file, error)));
    crate::exit::SOME_FAILED
}

/// An error with the name of its file before it, unless it says that already.
fn named(file: &str, error: String) -> String {
    if error.contains(file) { error } else { format!("{file}: {error}") }
}
