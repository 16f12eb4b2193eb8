//! Carrying out the restoration of a folder.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::lock::Lock;
use super::manifest::{FileState, ManifestEntry, ManifestHead, Writer};
use super::{Asked, Each, FileFault, FilePlan, FolderPlan, Scan, ToDo};
use crate::compute::no_thread;
use crate::engine::event::{Event, Watch, report};
use crate::engine::latent::{LatentPlan, LatentRestored, Parts};
use crate::engine::open::Engine;
use crate::engine::plan::Plan;
use crate::engine::record::Decibel;
use crate::engine::report::Findings;
use crate::engine::run::Restored;
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
        /// The numbers behind the verdict; absent of upscalings with Stable Diffusion.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        findings: Option<Findings>,
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

/// Results that wait to be written, at most.
const BEHIND: usize = 4;
/// Values of the samples of a small file, at most: what is planned and written beside it is small beside its sampling, too.
const SMALL: usize = 3 * 256 * 256;

/// Whether the next file is planned, and this one written, while others are sampled. Adaptations depend on each other.
fn is_small(single: &FilePlan) -> bool {
    let FilePlan::Pixels(single) = single else { return false };
    let canvas = single.restore.canvas();
    single.adapt.is_none() && single.request.sampling.samples * canvas.pixels() * canvas.channels <= SMALL
}

/// A file before it is sampled.
enum Prepared {
    Plan(FilePlan),
    /// Another process has restored it.
    Finished(ManifestEntry),
}

/// What became of it then.
enum Made {
    Restored(Box<Restored>),
    Upscaled(Box<(LatentRestored, LatentPlan)>),
    Finished(ManifestEntry),
}

/// A file to be written.
struct Job {
    /// Its place in the order of the run.
    number: usize,
    made: Result<Made>,
    /// The time that it took so far.
    spent: Duration,
}

/// What became of the files so far, in the order of the run.
struct Tally<'a> {
    plan: &'a FolderPlan,
    order: &'a [&'a ToDo],
    started: Instant,
    ended: usize,
    done: FolderDone,
    watch: &'a Watch<'a>,
}

impl Tally<'_> {
    fn path(&self, number: usize) -> String {
        self.plan.files[self.order[number].k].label.clone()
    }

    /// The time that the files from `number` on will take, by that of those that have ended.
    fn left_from(&self, number: usize) -> Option<f64> {
        let each = || self.started.elapsed().as_secs_f64() / self.ended as f64;
        (self.ended > 0).then(|| each() * (self.order.len() - number) as f64)
    }

    fn begin(&self, number: usize) -> Result<()> {
        let (total, seconds_left) = (self.order.len(), self.left_from(number));
        report(self.watch, &Event::File { number: number + 1, total, path: self.path(number), seconds_left })
    }

    /// Takes the outcome of the next file.
    fn take(&mut self, outcome: FileOutcome) -> Result<()> {
        let path = self.path(self.ended);
        self.ended += 1;
        match &outcome {
            FileOutcome::Restored { .. } => self.done.restored += 1,
            FileOutcome::Finished => self.done.finished += 1,
            FileOutcome::Failed { error } => self.done.failed.push((path.clone(), error.clone())),
        }
        let (done, total) = (self.ended, self.order.len());
        let seconds_left = self.left_from(done).unwrap_or_default();
        report(self.watch, &Event::FileDone { done, total, path, outcome, seconds_left })
    }
}

/// A thread of the run is gone, which only a panic explains.
fn ended() -> Error {
    Error::Backend("a thread of the run has ended".into())
}

impl Engine {
    /// Restores what a plan has left to do. A file that cannot be restored stops nothing. What is done is done for good:
    /// after an interruption, a new plan of the same request goes on with the next file, and a training that was
    /// interrupted from its last state in the cache. While a small file is sampled, the next one is planned and the one
    /// before is written.
    ///
    /// # Errors
    /// [`Error::Config`] while another run restores the same shard there; [`Error::Interrupted`] when the watcher breaks;
    /// errors that would meet every file: [`Error::Model`], [`Error::Backend`], and [`Error::Io`] for a disk that is full;
    /// as [`Engine::gallery`].
    pub fn run_folder(&self, plan: &FolderPlan, watch: &Watch<'_>) -> Result<FolderDone> {
        let request = &plan.request;
        let _lock = Lock::take(&request.output, request.shard, plan.stack.as_deref())?;
        let manifest = Writer::begin(&request.output, &head(plan), &entries(plan))?;
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
                self.shared(&adapt, plan, &wanted, watch)?
            }
            None => Default::default(),
        };
        let mut order: Vec<&ToDo> = plan.to_do.iter().collect();
        // Those that share an adapter follow one another.
        order.sort_by_key(|to_do| (shared.get(&to_do.k).map_or(to_do.k, |shared| shared.group), to_do.k));
        let asked = Asked::new(self, &request.each, watch)?;
        let mut tally = Tally { plan, order: &order, started: Instant::now(), ended: 0, done, watch };
        let prepare = |number: usize| {
            let started = Instant::now();
            let images = shared.get(&order[number].k).map_or(&[][..], |shared| &shared.images);
            (self.prepare(plan, order[number], images, &asked), started.elapsed())
        };
        let write = |job: Job, manifest: &mut Writer| self.write(plan, order[job.number], job, &asked, manifest);
        thread::scope(|scope| {
            let (ask, wanted) = mpsc::channel::<usize>();
            let (answer, prepared) = mpsc::channel();
            let (jobs, to_write) = mpsc::sync_channel::<Job>(BEHIND);
            let (tell, told) = mpsc::channel();
            // A thread that the system refuses is an error and no panic.
            let preparing = move || {
                // It ends, too, when nobody waits for its answers.
                let _ = wanted.into_iter().try_for_each(|number| answer.send(prepare(number)));
            };
            thread::Builder::new().spawn_scoped(scope, preparing).map_err(no_thread)?;
            let writing = move || {
                let mut manifest = manifest;
                for job in to_write {
                    let outcome = write(job, &mut manifest);
                    // After an error that concerns all files, nothing more is written.
                    if outcome.is_err() | tell.send(outcome).is_err() {
                        break;
                    }
                }
            };
            thread::Builder::new().spawn_scoped(scope, writing).map_err(no_thread)?;
            let ahead = |number: usize| {
                if number < order.len() {
                    // A thread that is gone is noticed where its answer is missed.
                    let _ = ask.send(number);
                }
            };
            ahead(0);
            let mut parts = Parts::default();
            let mut told_of_rounding = false;
            let sampled = (0..order.len()).try_for_each(|number| {
                told.try_iter().try_for_each(|outcome| tally.take(outcome?))?;
                tally.begin(number)?;
                let (prepared, spent) = prepared.recv().map_err(|_| ended())?;
                let is_small = matches!(&prepared, Ok(Prepared::Plan(single)) if is_small(single));
                if is_small {
                    ahead(number + 1);
                }
                let started = Instant::now();
                let made = match prepared {
                    Ok(Prepared::Plan(FilePlan::Pixels(mut single))) => {
                        single.say_once(&mut told_of_rounding);
                        self.run(&single, watch).map(|restored| Made::Restored(restored.into()))
                    }
                    Ok(Prepared::Plan(FilePlan::Latents(single))) => {
                        let upscaled = self.run_latent_with(&single, &mut parts, watch);
                        upscaled.map(|restored| Made::Upscaled((restored, *single).into()))
                    }
                    Ok(Prepared::Finished(entry)) => Ok(Made::Finished(entry)),
                    Err(e) => Err(e),
                };
                let made = match made {
                    Err(e) if concerns_all(&e) => return Err(e),
                    made => made,
                };
                let job = Job { number, made, spent: spent + started.elapsed() };
                // Where it cannot be sent, the last outcome says why.
                let sent = jobs.send(job).is_ok();
                if !is_small || !sent {
                    while tally.ended <= number {
                        tally.take(told.recv().map_err(|_| ended())??)?;
                    }
                    ahead(number + 1);
                }
                Ok(())
            });
            drop((ask, jobs));
            // What was sampled is written, whatever came then.
            told.iter().map(|outcome| tally.take(outcome?)).fold(sampled, Result::and)
        })?;
        Ok(tally.done)
    }

    /// Plans a file, unless another process has finished it since the plan was made.
    fn prepare(&self, plan: &FolderPlan, to_do: &ToDo, images: &[PathBuf], asked: &Asked) -> Result<Prepared> {
        if let Some(finished) = self.meanwhile(plan, to_do, asked)? {
            return Ok(Prepared::Finished(finished));
        }
        let mut single = self.plan_file(plan, to_do)?;
        if let FilePlan::Pixels(single) = &mut single {
            single.share(images);
        }
        Ok(Prepared::Plan(single))
    }

    /// Writes what was made of a file, and says so in the manifest.
    fn write(
        &self,
        plan: &FolderPlan,
        to_do: &ToDo,
        job: Job,
        asked: &Asked,
        manifest: &mut Writer,
    ) -> Result<FileOutcome> {
        let error = match job.made.and_then(|made| self.save(plan, to_do.k, made, job.spent, manifest)) {
            Err(e) if !concerns_all(&e) => e.to_string(),
            outcome => return outcome,
        };
        if let Some(finished) = self.meanwhile(plan, to_do, asked)? {
            // A run of other shards was faster.
            manifest.push(&finished)?;
            return Ok(FileOutcome::Finished);
        }
        let state = FileState::Failed { error: error.clone() };
        manifest.push(&entry(plan, to_do.k, &plan.names.outputs[to_do.k], state))?;
        Ok(FileOutcome::Failed { error })
    }

    fn save(
        &self,
        plan: &FolderPlan,
        k: usize,
        made: Made,
        spent: Duration,
        manifest: &mut Writer,
    ) -> Result<FileOutcome> {
        let started = Instant::now();
        let outputs = match &made {
            Made::Restored(restored) => restored.outputs(),
            Made::Upscaled(upscaled) => upscaled.1.outputs(),
            Made::Finished(entry) => return manifest.push(entry).map(|()| FileOutcome::Finished),
        };
        let output = outputs.map(|outputs| outputs.image.clone()).unwrap_or_default();
        let name = output.strip_prefix(&plan.request.output).unwrap_or(&output);
        manifest.push(&entry(plan, k, name, FileState::Started))?;
        let (input_sha256, agreement_psnr, findings) = match made {
            Made::Restored(mut restored) => {
                restored.save(self)?;
                let findings = restored.findings()?;
                (restored.record.input.sha256, restored.record.agreement_psnr, Some(findings))
            }
            Made::Upscaled(upscaled) => {
                let (mut restored, single) = *upscaled;
                restored.save(self, &single)?;
                let agreement = restored.record.agreement_psnr.unwrap_or(Decibel(f64::INFINITY));
                (restored.record.input.sha256, agreement, None)
            }
            Made::Finished(entry) => return manifest.push(&entry).map(|()| FileOutcome::Finished),
        };
        manifest.push(&entry(plan, k, name, FileState::Done { input_sha256 }))?;
        Ok(FileOutcome::Restored {
            output: output.to_string_lossy().into_owned(),
            seconds: (spent + started.elapsed()).as_secs_f64(),
            agreement_psnr,
            findings,
        })
    }

    /// The entry of a file that another process has finished since the plan was made.
    fn meanwhile(&self, plan: &FolderPlan, to_do: &ToDo, asked: &Asked) -> Result<Option<ManifestEntry>> {
        for name in plan.candidates(to_do.k) {
            let outputs = plan.outputs(&name);
            if outputs.record.is_file()
                && let Ok(content) = ContentHash::of_file(&plan.input(to_do.k))
                && asked.is_met_by(self, &outputs, content, plan.files[to_do.k].page)?
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
    let Scan { file, page, .. } = plan.files[k].clone();
    ManifestEntry { file, page, output, state }
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
        ManifestEntry { file, page: None, output, state: FileState::Failed { error: error.to_string() } }
    });
    all.into_iter().map(|(_, entry)| entry).chain(unlisted).collect()
}
