//! `adir restore STACK -o x.tif --page all`: every page of a file, into one file.

use std::path::Path;

use adir::engine::{Event, OutputRequest, StackRequest};
use adir::io::image::ImageFormat;
use adir::{Error, Result};

use super::restore::RestoreArgs;
use super::restore_folder::{check_seed, ended, in_words};
use crate::cost;
use crate::log::Log;
use crate::out;

/// Whether an output is one file for all pages, and not a folder.
pub(super) fn is_stack(output: &Path) -> bool {
    let says_folder = output.as_os_str().as_encoded_bytes().ends_with(b"/");
    ImageFormat::reads(output) && !says_folder && !output.is_dir()
}

fn request(args: &RestoreArgs) -> Result<StackRequest> {
    check_seed(args)?;
    if args.report.is_some() {
        return Err(Error::config(
            "--report is about one picture: name a folder as output, and restore a page by itself",
        ));
    }
    let mut output = OutputRequest::new(&args.output, args.overwrite);
    output.record.clone_from(&args.record);
    let mut request = StackRequest::new(args.input()?, output, args.request(&args.output)?);
    request.overlap = args.folder.overlap(args)?.unwrap_or(request.overlap);
    Ok(request)
}

/// Restores the pages of the input.
pub fn run(args: &RestoreArgs, log: &Log) -> Result<u8> {
    let request = request(args)?;
    let engine = args.engine().build()?;
    let watcher = log.watcher();
    let watch = |event: &Event| watcher.see(event);
    let plan = engine.plan_stack(&request, &watch)?;
    if args.explain {
        watcher.finish();
        log.no_longer_heard()?;
        cost::say_folder(&engine, plan.checked(), "page", log)?;
        say!("{}", out::name(&in_words(plan.pages())))?;
        return Ok(crate::exit::DONE);
    }
    watcher.finish();
    log.info(&in_words(plan.pages()));
    let done = engine.run_stack(&plan, &watch);
    if done.as_ref().is_ok_and(|done| !done.failed.is_empty()) {
        let (output, pages) = (args.output.display(), plan.pages().request().output.display());
        log.warn(&format!("{output}: not written; the pages that were restored are in {pages}"));
    }
    ended(args, done, &watcher, log)
}
