//! `adir replay` of a run that restored every page of a file.

use std::path::PathBuf;

use adir::engine::{Event, OutputRequest, Outputs, Record, StackRecord};
use adir::io::atomic::check_outputs;
use adir::io::hash::ContentHash;
use adir::io::image::ImageFormat;
use adir::io::limits::Limits;
use adir::io::stack::stack_format;
use adir::{Error, Result};

use super::replay::{
    Compared, ReplayArgs, absolute, check_format, folder_of_run, reasons, repeat, request_of, result_of, tell,
};
use super::restore::forget_place;
use crate::log::Log;
use crate::pipe::Scratch;

/// Repeats the runs of the pages, and joins them as the run did.
pub(super) fn run(args: &ReplayArgs, record: &StackRecord, log: &Log) -> Result<u8> {
    let written = record.result.path.clone().map_or_else(|| result_of(&args.record), Ok)?;
    // Before the folder changes.
    let (own, kept) = (absolute(&args.record)?, args.output.as_deref().map(absolute).transpose()?);
    let store = args.store.absolute()?;
    if let Some(folder) = folder_of_run(&own, Some(&OutputRequest::new(&written, false))) {
        std::env::set_current_dir(&folder).map_err(|e| Error::io(&folder, e))?;
    }
    if let Some(kept) = &kept {
        check_format(kept, &written)?;
        let inputs: Vec<PathBuf> = record.pages.iter().filter_map(|page| page.input.path.clone()).collect();
        let inputs = inputs.iter().chain([&own, &written]).map(PathBuf::as_path);
        let outputs = Outputs::new(kept, 1);
        check_outputs(&inputs.collect::<Vec<_>>(), &outputs.all().collect::<Vec<_>>(), args.overwrite)?;
        outputs.check_record()?;
    }
    let [first, ..] = record.pages.as_slice() else {
        return Err(Error::input(&args.record, "is the record of no pages"));
    };
    let ending = match stack_format(&written)? {
        ImageFormat::Fits => "fits",
        _ => "tif",
    };
    let scratch = Scratch::new()?;
    let engine = args.engine(first, &scratch, &store)?;
    let watcher = log.watcher();
    let (mut files, mut records, mut compared, mut found) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (number, page) in (1..).zip(&record.pages) {
        let file = scratch.file(format!("page-{number}.{ending}"));
        let request = request_of(page, &args.record)?;
        let total = record.pages.len();
        let _ = watcher.see(&Event::File { number, total, path: format!("page {number}"), seconds_left: None });
        let mut again = repeat(&engine, page, request, OutputRequest::new(&file, false), &watcher)?;
        let (then, now) = (result(page, &args.record)?, ContentHash::of_file(&file)?);
        if then != now {
            found.extend(reasons(page, &again.record).into_iter().map(|reason| format!("page {number}: {reason}")));
        }
        compared.push(Compared { name: format!("page {number}"), then, now });
        files.push(file);
        forget_place(&mut again.record);
        records.push(again.record);
    }
    watcher.finish();
    let joined = kept.clone().unwrap_or_else(|| scratch.file(format!("joined.{ending}")));
    let made = StackRecord::join(&joined, &files, records, &Limits::default())?;
    kept.map_or(Ok(()), |kept| made.write(&Outputs::new(&kept, 1).record))?;
    let name = written.file_name().unwrap_or_default().to_string_lossy().into_owned();
    compared.push(Compared { name, then: record.result.sha256, now: made.result.sha256 });
    tell(args, &compared, || found, || None)
}

/// The hash of a page's result.
fn result(page: &Record, file: &std::path::Path) -> Result<ContentHash> {
    let result = page.results.first().map(|result| result.sha256);
    result.ok_or_else(|| Error::input(file, "does not hold the results of its pages"))
}
