//! Carrying out jobs, one at a time on each device.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use adir::Error;
use adir::engine::{Engine, Event, Findings, Plan, Restored};
use adir::models::{Conditioning, speed_of};

use super::error::{Fault, Kind};
use super::jobs::{Job, Jobs, Progress, Size, State, fail};
use super::restoration::Files;
use super::work::Work;
use super::{Notice, Tell};
use crate::picture::at_most;
use crate::report::{Report, in_one_line};

/// Pixels of a thumbnail's longer side, and of a preview's.
const THUMBNAIL: usize = 160;
const PREVIEW: usize = 512;
/// Progress is told so often at most.
const OFTEN: Duration = Duration::from_millis(150);
/// The share of the time that may be spent on previews.
const SHARE: u32 = 50;
/// Side of the image by which the speed of a model is found.
const PROBE: usize = 64;

/// A model on a device.
pub struct Served {
    /// What clients call it.
    pub name: String,
    /// It.
    pub engine: Engine,
    /// Products of its network per second, where they are known.
    speed: Mutex<Option<f64>>,
}

impl Served {
    /// Of which no speed is known yet.
    pub fn new(name: impl Into<String>, engine: Engine) -> Self {
        Self { name: name.into(), engine, speed: Mutex::default() }
    }

    /// The time that so many products take.
    pub fn seconds(&self, products: u64) -> Option<f64> {
        let speed = *self.speed.lock().unwrap_or_else(PoisonError::into_inner);
        speed.map(|speed| products as f64 / speed)
    }

    fn learn(&self, speed: f64) {
        *self.speed.lock().unwrap_or_else(PoisonError::into_inner) = Some(speed);
    }

    /// Loads the weights, and finds how fast the network is. What is wrong with them, a job will tell.
    fn warm_up(&self) -> adir::Result<()> {
        let prior = self.engine.prior(&|_| ControlFlow::Continue(()))?;
        self.learn(speed_of(&prior, &Conditioning::default(), PROBE)?);
        Ok(())
    }
}

/// Computes jobs with those models until the server ends.
pub fn run(models: &[Served], work: &Work, tell: &Tell) {
    // What is wrong with a model, its first job says.
    let _ = models.first().map(Served::warm_up);
    let jobs = &work.jobs;
    let model_of = |job: &Job| {
        let asked = job.restoration.model.as_ref();
        models.iter().find(|model| asked.is_none_or(|name| model.name == *name))
    };
    while let Some(begun) = jobs.begin(|job| model_of(job).is_some()) {
        let (job, started) = (begun.job, Instant::now());
        tell(&Notice::Began { number: job.number, name: job.name.clone() });
        let done = catch_unwind(AssertUnwindSafe(|| {
            let model = model_of(&job).ok_or_else(|| Fault::not_found("model"))?;
            compute(&job, model, work, &begun.stop)
        }));
        let done = done.unwrap_or_else(|_| {
            Err(Fault::new(axum::http::StatusCode::INTERNAL_SERVER_ERROR, Kind::Backend, "the computation broke off"))
        });
        let seconds = started.elapsed().as_secs_f64();
        let stopped = begun.stop.load(Ordering::Relaxed);
        if done.is_err() && stopped && jobs.is_ending() {
            jobs.put_back(job.id);
            return;
        }
        let outcome = match &done {
            Ok(_) => "done".into(),
            Err(_) if stopped => "cancelled".into(),
            Err(fault) => format!("failed: {}", fault.told.message),
        };
        jobs.end(job.id, |job| {
            job.seconds = Some(seconds);
            match done {
                Ok(made) => made.into_job(job),
                Err(_) if stopped => job.state = State::Cancelled,
                Err(fault) => fail(job, fault.told),
            }
        });
        tell(&Notice::Ended { number: job.number, name: job.name, outcome, seconds });
    }
}

/// What came of a job.
struct Made {
    warnings: Vec<String>,
    findings: Findings,
    summary: String,
    result: Size,
    files: Vec<String>,
}

impl Made {
    fn into_job(self, job: &mut Job) {
        job.state = State::Done;
        job.verdict = Some(if self.findings.pass() { "PASS" } else { "WARN" }.into());
        job.summary = Some(self.summary);
        job.warnings = self.warnings;
        job.result = Some(self.result);
        job.files = self.files;
    }
}

fn compute(job: &Job, model: &Served, work: &Work, stop: &AtomicBool) -> Result<Made, Fault> {
    let files = work.files_of(job)?;
    let told = |error: Error| Fault::of(&error, &names(&files, &job.name, &work.galleries));
    let gallery = work.gallery(job.restoration.gallery.as_deref())?;
    let request = job.restoration.request(&files, gallery, model.engine.limits())?;
    let plan = model.engine.plan(&request).map_err(told)?;
    let watcher = Watcher::new(job, &work.jobs, stop, model, plan.products());
    let sampled = model.engine.run(&plan, &|event| watcher.see(event));
    let mut restored = sampled.map_err(told)?;
    let (products, seconds) = (plan.products(), restored.record.seconds.sample);
    if products > 0 && seconds > 0.0 {
        model.learn(products as f64 / seconds);
    }
    work.jobs.update(job.id, |job| {
        let previews = job.progress.as_ref().map_or(0, |progress| progress.previews);
        job.progress =
            Some(Progress { phase: "saving".into(), text: "saving".into(), previews, ..Progress::default() });
    });
    restored.save(&model.engine).map_err(told)?;
    let warnings = watcher.warnings.into_inner().unwrap_or_else(PoisonError::into_inner);
    finish(job, &plan, &restored, warnings, work).map_err(told)
}

/// Writes report and thumbnail, and says what there is.
fn finish(job: &Job, plan: &Plan, restored: &Restored, warnings: Vec<String>, work: &Work) -> adir::Result<Made> {
    let findings = restored.findings()?;
    let folder = work.store.job_folder(job.id);
    Report { plan, restored, findings: &findings, warnings: &warnings, name: &job.name }
        .write(&folder.join("x.html"))?;
    at_most(&restored.mean, THUMBNAIL)?.0.write(folder.join("thumbnail.png"))?;
    let [_, _, height, width] = restored.mean.tensor.dims();
    let mut files: Vec<String> = ["image", "record", "report", "observation", "thumbnail"].map(Into::into).into();
    files.extend(job.restoration.mask.map(|_| "mask".into()));
    files.extend(job.restoration.ignore.map(|_| "ignore".into()));
    files.extend((1..=restored.samples.len()).map(|k| format!("sample-{k}")));
    if restored.deviation.is_some() {
        files.extend(["deviation", "heat"].map(Into::into));
    }
    let summary = in_one_line(&job.name, &findings);
    let summary = summary.strip_prefix(&format!("{}: ", job.name)).unwrap_or(&summary).to_owned();
    Ok(Made { warnings, findings, summary, result: Size { width, height }, files })
}

/// Files by the names that clients know. The first are those that errors are about most closely.
pub fn names<'a>(files: &'a Files, name: &'a str, galleries: &'a [(String, PathBuf)]) -> Vec<(&'a Path, &'a str)> {
    let mut names = vec![(files.image.as_path(), name)];
    for (file, name) in
        [(&files.mask, "the mask"), (&files.ignore, "the ignored pixels"), (&files.kernel, "the kernel")]
    {
        names.extend(file.as_deref().map(|file| (file, name)));
    }
    names.extend(files.output.as_deref().map(|output| (output, "the result")));
    names.extend(galleries.iter().map(|(name, path)| (path.as_path(), name.as_str())));
    names
}

/// Turns events into progress and previews.
struct Watcher<'a> {
    job: &'a Job,
    jobs: &'a Jobs,
    stop: &'a AtomicBool,
    /// The time that sampling will take.
    expected: Option<f64>,
    warnings: Mutex<Vec<String>>,
    seen: Mutex<Seen>,
}

struct Seen {
    phase: &'static str,
    since: Instant,
    told: Option<Instant>,
    /// When there may be another preview.
    preview: Instant,
    previews: usize,
    /// Steps of all samples in this phase, and those of them that an earlier run had taken.
    steps: usize,
    before: usize,
}

impl<'a> Watcher<'a> {
    fn new(job: &'a Job, jobs: &'a Jobs, stop: &'a AtomicBool, model: &Served, products: u64) -> Self {
        let now = Instant::now();
        let seen = Seen { phase: "", since: now, told: None, preview: now, previews: 0, steps: 0, before: 0 };
        let (warnings, seen) = (Mutex::default(), Mutex::new(seen));
        Self { job, jobs, stop, expected: model.seconds(products), warnings, seen }
    }

    fn see(&self, event: &Event) -> ControlFlow<()> {
        match event {
            Event::Warning { message } => {
                let message = message.clone();
                self.warnings.lock().unwrap_or_else(PoisonError::into_inner).push(message.clone());
                self.jobs.update(self.job.id, |job| {
                    if !job.warnings.contains(&message) {
                        job.warnings.push(message);
                    }
                });
            }
            Event::Loading { .. } => self.tell("loading", (0, 0), event),
            Event::Indexing { done, total, .. } => self.tell("indexing", (*done, *total), event),
            Event::Searching { done, total } => self.tell("searching", (*done, *total), event),
            Event::Adapting { step, total, .. } => self.tell("adapting", (*step as usize, *total as usize), event),
            Event::Sampling { samples, steps, estimate, .. } => {
                if let Some(estimate) = estimate {
                    self.preview(|| at_most(&estimate.picture()?, PREVIEW)?.0.to_png());
                }
                self.tell("sampling", (0, samples * steps), event);
            }
            Event::Resumed { samples, steps, step, .. } => {
                self.enter("sampling");
                {
                    let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                    (seen.steps, seen.before) = (seen.steps + step, seen.before + step);
                }
                self.tell("sampling", (usize::MAX, samples * steps), event);
            }
            _ => {}
        }
        if self.stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn enter(&self, phase: &'static str) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.phase != phase {
            (seen.phase, seen.since, seen.told, seen.steps, seen.before) = (phase, Instant::now(), None, 0, 0);
        }
    }

    /// Tells of a step, unless one was told a moment ago. `done` is 0 where steps are counted here.
    fn tell(&self, phase: &'static str, (done, total): (usize, usize), event: &Event) {
        self.enter(phase);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if done == 0 && total > 0 {
            seen.steps += 1;
        }
        let done = if done == 0 || done == usize::MAX { seen.steps } else { done };
        if seen.told.is_some_and(|told| told.elapsed() < OFTEN) && done < total {
            return;
        }
        seen.told = Some(Instant::now());
        let elapsed = seen.since.elapsed().as_secs_f64();
        let taken = done.saturating_sub(seen.before);
        let left = total.saturating_sub(done) as f64;
        let seconds_left = match phase {
            "sampling" if taken < 3 => self.expected.map(|expected| expected * left / total.max(1) as f64),
            // The first steps are no measure.
            _ if taken > 2 && total > 0 => Some(elapsed / taken as f64 * left),
            _ => None,
        };
        let (phase, text, previews) = (phase.to_owned(), event.to_string(), seen.previews);
        drop(seen);
        let progress = Progress { phase, done, total, text, seconds_left, previews };
        self.jobs.update(self.job.id, |job| job.progress = Some(progress));
    }

    /// Makes a preview where somebody watches, if there was none for a while.
    fn preview(&self, make: impl FnOnce() -> adir::Result<Vec<u8>>) {
        let started = Instant::now();
        if !self.jobs.is_watched() || started < self.seen.lock().unwrap_or_else(PoisonError::into_inner).preview {
            return;
        }
        // A preview that cannot be made is none; the run finds out what is wrong.
        if let Ok(png) = make() {
            self.jobs.show(self.job.id, png);
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.previews += 1;
            seen.preview = Instant::now() + (started.elapsed() * SHARE).max(Duration::from_millis(300));
        }
    }
}
