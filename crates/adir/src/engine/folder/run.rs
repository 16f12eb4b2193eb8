//! Carrying out the restoration of a folder.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::Serialize;

use super::manifest::{FileState, ManifestEntry, ManifestHead, Writer};
use super::{Asked, Each, FileFault, FilePlan, FolderPlan, ToDo};
use crate::engine::event::{Event, Watch, report};
use crate::engine::open::Engine;
use crate::engine::plan::Plan;
use crate::engine::record::Decibel;
use crate::retrieve::ContentHash;
use crate::{Error, Result};

/// What became of a file.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
#[non_exhaustive]
pub enum FileOutcome {
    /// It was restored.
    Restored {
        /// The result.
        output: String,
        /// The time it took.
        seconds: f64,
        /// PSNR of A x against y.
        agreement_psnr: Decibel,
    },
    /// Another process had restored it meanwhile.
    Finished,
    /// It could not be restored; the run goes on.
    Failed {
        /// Why.
        error: String,
    },
}

/// What became of the files of a shard.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct FolderDone {
    /// Files restored now.
    pub restored: usize,
    /// Files that were finished already.
    pub finished: usize,
    /// Files that could not be restored, with the reason.
    pub failed: Vec<(String, String)>,
}

/// Whether an error would be that of every further file, too.
fn concerns_all(error: &Error) -> bool {
    match error {
        Error::Interrupted | Error::Model { .. } | Error::Backend(_) => true,
        Error::Io { source, .. } => {
            matches!(source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::ReadOnlyFilesystem)
        }
        _ => false,
    }
}

impl Engine {
    /// Restores what a plan has left to do. A file that cannot be restored stops nothing. What is done is done for good:
    /// after an interruption, a new plan of the same request goes on with the next file, and a training that was
    /// interrupted from its last state in the cache.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when the watcher breaks; errors that would meet every file: [`Error::Model`],
    /// [`Error::Backend`], and [`Error::Io`] for a disk that is full; as [`Engine::gallery`].
    pub fn run_folder(&self, plan: &FolderPlan, watch: &Watch<'_>) -> Result<FolderDone> {
        let request = &plan.request;
        let mut manifest = Writer::begin(&request.output, &head(plan), &entries(plan))?;
        let mut done = FolderDone { finished: plan.finished.len(), ..FolderDone::default() };
        done.failed.extend(plan.unlisted.iter().map(|fault| (fault.file.clone(), fault.error.to_string())));
        if plan.to_do.is_empty() {
            return Ok(done);
        }
        let wanted: Vec<usize> = plan.to_do.iter().map(|to_do| to_do.k).collect();
        let adapt = match &request.each {
            Each::Pixels(each) => each.adapt.as_ref().map(|adapt| (adapt, each.sampling.preset)),
            // Each upscaling adapts to its own nearest images.
            Each::Latents(_) => None,
        };
        let shared = match adapt {
            Some((adapt, preset)) => {
                let adapt = self.plan_adaptation(adapt, preset)?;
                self.shared(&adapt, request, &plan.files, &wanted, watch)?
            }
            None => Default::default(),
        };
        let mut order: Vec<&ToDo> = plan.to_do.iter().collect();
        // Those that share an adapter follow one another.
        order.sort_by_key(|to_do| (shared.get(&to_do.k).map_or(to_do.k, |shared| shared.group), to_do.k));
        let asked = Asked::new(self, &request.each, watch)?;
        let (total, mut spent) = (order.len(), 0.0);
        for (number, to_do) in (0..).zip(order) {
            let path = plan.files[to_do.k].clone();
            let left = |done: usize| (done > 0).then(|| spent / done as f64 * (total - number) as f64);
            let seconds_left = left(number);
            report(watch, &Event::File { number: number + 1, total, path: path.clone(), seconds_left })?;
            let started = Instant::now();
            let images = shared.get(&to_do.k).map_or(&[][..], |shared| &shared.images);
            let outcome = match self.restore_file(plan, to_do, images, &asked, &mut manifest, watch) {
                Ok(outcome) => outcome,
                Err(e) if concerns_all(&e) => return Err(e),
                Err(e) => {
                    let error = e.to_string();
                    let state = FileState::Failed { error: error.clone() };
                    manifest.push(&entry(plan, to_do.k, &plan.names.outputs[to_do.k], state))?;
                    FileOutcome::Failed { error }
                }
            };
            spent += started.elapsed().as_secs_f64();
            match &outcome {
                FileOutcome::Restored { .. } => done.restored += 1,
                FileOutcome::Finished => done.finished += 1,
                FileOutcome::Failed { error } => done.failed.push((path.clone(), error.clone())),
            }
            let seconds_left = spent / (number + 1) as f64 * (total - number - 1) as f64;
            report(watch, &Event::FileDone { done: number + 1, total, path, outcome, seconds_left })?;
        }
        Ok(done)
    }

    fn restore_file(
        &self,
        plan: &FolderPlan,
        to_do: &ToDo,
        images: &[PathBuf],
        asked: &Asked,
        manifest: &mut Writer,
        watch: &Watch<'_>,
    ) -> Result<FileOutcome> {
        let began = Instant::now();
        if let Some(finished) = self.meanwhile(plan, to_do, asked)? {
            manifest.push(&finished)?;
            return Ok(FileOutcome::Finished);
        }
        let single = self.plan_file(plan, to_do)?;
        let output = single.outputs().map(|outputs| outputs.image.clone()).unwrap_or_default();
        let name = output.strip_prefix(&plan.request.output).unwrap_or(&output).to_owned();
        let mut started = || manifest.push(&entry(plan, to_do.k, &name, FileState::Started));
        let (input_sha256, agreement_psnr) = match single {
            FilePlan::Pixels(mut single) => {
                single.share(images);
                let mut restored = self.run(&single, watch)?;
                started()?;
                restored.save(self)?;
                (restored.record.input.sha256, restored.record.agreement_psnr)
            }
            FilePlan::Latents(single) => {
                let mut restored = self.run_latent(&single, watch)?;
                started()?;
                restored.save(self, &single)?;
                let agreement = restored.record.agreement_psnr.unwrap_or(Decibel(f64::INFINITY));
                (restored.record.input.sha256, agreement)
            }
        };
        manifest.push(&entry(plan, to_do.k, &name, FileState::Done { input_sha256 }))?;
        Ok(FileOutcome::Restored {
            output: output.to_string_lossy().into_owned(),
            seconds: began.elapsed().as_secs_f64(),
            agreement_psnr,
        })
    }

    /// The entry of a file that another process has finished since the plan was made.
    fn meanwhile(&self, plan: &FolderPlan, to_do: &ToDo, asked: &Asked) -> Result<Option<ManifestEntry>> {
        for name in plan.candidates(to_do.k) {
            let outputs = plan.outputs(&name);
            if outputs.record.is_file()
                && let Ok(content) = ContentHash::of_file(&plan.input(to_do.k))
                && asked.is_met_by(self, &outputs, content)?
            {
                let state = FileState::Done { input_sha256: content };
                return Ok(Some(entry(plan, to_do.k, &name, state)));
            }
        }
        Ok(None)
    }
}

impl Plan {
    /// Adapts to `images` of the gallery in place of those nearest to the observation, if there are some.
    fn share(&mut self, images: &[PathBuf]) {
        if !images.is_empty() {
            if let Some(adapt) = &mut self.request.adapt {
                adapt.shared = images.to_vec();
            }
            if let Some(adapt) = &mut self.adapt {
                adapt.share(images);
            }
        }
    }
}

fn head(plan: &FolderPlan) -> ManifestHead {
    ManifestHead {
        schema: 1,
        program: concat!("adir ", env!("CARGO_PKG_VERSION")).into(),
        scans: plan.request.scans.to_string_lossy().into_owned(),
        files: plan.files.len(),
        shard: plan.request.shard,
        samples: plan.request.each.samples(),
    }
}

fn entry(plan: &FolderPlan, k: usize, output: &Path, state: FileState) -> ManifestEntry {
    let output = output.to_string_lossy().into_owned();
    ManifestEntry { file: plan.files[k].clone(), output, state }
}

/// What is known of each file before the run.
fn entries(plan: &FolderPlan) -> Vec<ManifestEntry> {
    let finished = plan
        .finished
        .iter()
        .map(|(k, output, content)| (*k, entry(plan, *k, output, FileState::Done { input_sha256: *content })));
    let to_do = plan.to_do.iter().map(|to_do| {
        let state = if to_do.ours { FileState::Started } else { FileState::Pending };
        (to_do.k, entry(plan, to_do.k, &plan.names.outputs[to_do.k], state))
    });
    let mut all: Vec<_> = finished.chain(to_do).collect();
    all.sort_by_key(|(k, _)| *k);
    let unlisted = plan.unlisted.iter().map(|FileFault { file, error }| {
        let (file, output) = (file.clone(), file.replace(['\\', '\0'], "_"));
        ManifestEntry { file, output, state: FileState::Failed { error: error.to_string() } }
    });
    all.into_iter().map(|(_, entry)| entry).chain(unlisted).collect()
}
