//! `adir replay` of a run with a latent diffusion model.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use adir::engine::{Engine, FileRecord, LatentPlan, LatentRecord, LatentRequest, LatentTask, OutputRequest, Region};
use adir::io::hash::ContentHash;
use adir::tensor::Isa;
use adir::{Error, Result};

use super::replay::{ReplayArgs, absolute, check_format, compare, folder_of_run, largest_difference, result_of, tell};
use crate::adaptation::engine_with;
use crate::log::Log;
use crate::memory;
use crate::pipe::Scratch;

/// Repeats the run of `record`.
pub(super) fn run(args: &ReplayArgs, record: &LatentRecord, log: &Log) -> Result<u8> {
    let asked = record.latent.output.as_ref();
    let asked_path = asked.map_or_else(|| result_of(&args.record), |output| Ok(output.path.clone()))?;
    // Before the folder changes.
    let (own, kept) = (absolute(&args.record)?, args.output.as_deref().map(absolute).transpose()?);
    let store = args.store.absolute()?;
    if let Some(folder) = folder_of_run(&own, asked) {
        std::env::set_current_dir(&folder).map_err(|e| Error::io(&folder, e))?;
    }
    let image = first_result(record, &own, &asked_path);
    let scratch = Scratch::new()?;
    let output = match kept {
        Some(kept) => {
            check_format(&kept, &image)?;
            OutputRequest::new(kept, args.overwrite)
        }
        None => OutputRequest::new(scratch.file(asked_path.file_name().unwrap_or(OsStr::new("x.png"))), false),
    };
    let mut builder =
        Engine::builder().device(&record.device).precision(record.dtype.parse()?).memory(memory::available());
    if let Some(encoder) = record.adaptation.as_ref().and_then(|adaptation| adaptation.encoder_file.as_ref()) {
        builder = builder.clip(absolute(encoder)?);
    }
    let engine = engine_with(builder, &store, args.no_cache).build()?;
    let plan = engine.plan_latent(&again(&record.latent, output)?)?;
    check_inputs(record, &plan)?;
    let watcher = log.watcher();
    let mut restored = engine.run_latent(&plan, &|event| watcher.see(event))?;
    watcher.finish();
    restored.save(&engine, &plan)?;
    let compared = compare(&record.results, &restored.record.results)?;
    let now = plan.outputs().map(|outputs| outputs.image.clone());
    tell(args, &compared, || reasons(record, &restored.record), || largest_difference(&image, &now?))
}

/// The first result of the run: where it was written, or beside the record.
fn first_result(record: &LatentRecord, own: &Path, asked: &Path) -> PathBuf {
    let written = record.results.first().and_then(|file| file.path.clone()).unwrap_or_else(|| asked.to_owned());
    let beside = result_of(own).ok().filter(|beside| beside.is_file());
    if written.is_file() { written } else { beside.unwrap_or(written) }
}

/// The request with files that are those of the current folder wherever a record of it is read, and another output.
fn again(request: &LatentRequest, output: OutputRequest) -> Result<LatentRequest> {
    let mut again = request.clone();
    let mut paths: Vec<&mut PathBuf> = vec![&mut again.input, &mut again.model];
    if let LatentTask::Edit { region: Region::Mask(mask) } = &mut again.task {
        paths.push(mask);
    }
    paths.extend(again.lora.as_mut());
    if let Some(adapt) = &mut again.adapt {
        // The factors were written by the run.
        adapt.save = None;
        paths.push(&mut adapt.gallery);
    }
    for path in paths {
        *path = absolute(path)?;
    }
    again.output = Some(output);
    Ok(again)
}

/// Refuses files that are not those of the run.
fn check_inputs(record: &LatentRecord, plan: &LatentPlan) -> Result<()> {
    let changed = |path: &Path, now: &str, then: &str| {
        Error::input(path, format!("is not the file of the run: its SHA-256 is {now:.12}, and was {then:.12}"))
    };
    let (input, content) = (&record.input, plan.content());
    if content != input.sha256 {
        return Err(changed(&plan.request().input, &content.to_string(), &input.sha256.to_string()));
    }
    for FileRecord { path, sha256 } in &record.others {
        let Some(path) = path else { continue };
        let now = ContentHash::of_file(path)?;
        if now != *sha256 {
            return Err(changed(path, &now.to_string(), &sha256.to_string()));
        }
    }
    let model = plan.files().hash()?;
    if model != record.model {
        let message = format!("holds other weights (SHA-256 {model:.12}) than the run used ({:.12})", record.model);
        return Err(Error::model(plan.files().path(), message));
    }
    Ok(())
}

/// What was otherwise than in the run.
fn reasons(then: &LatentRecord, now: &LatentRecord) -> Vec<String> {
    let mut reasons = Vec::new();
    let mut tell = |what: &str, then: &str, now: &str| {
        if then != now {
            reasons.push(format!("{what}: {then} then, {now} now"));
        }
    };
    tell("program", &then.program, &now.program);
    tell("instruction set", &then.instructions, &Isa::active().to_string());
    if let (Some(then), Some(now)) = (&then.adaptation, &now.adaptation) {
        if then.images != now.images {
            reasons.push("adaptation: to other images; the gallery has changed".into());
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
