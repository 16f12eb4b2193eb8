//! Events of the engine, as progress bars and lines of the log.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use adir::engine::{Event, FileOutcome};
use serde_json::json;

use crate::log::{Log, Progress};
use crate::time::in_words;

/// What a run that samples is called.
fn restoring(samples: usize) -> String {
    if samples == 1 { "restoring".into() } else { format!("{samples} samples") }
}

/// A file among several.
struct Place {
    /// What is shown before its bars.
    shown: String,
    log: Log,
}

/// Shows what an engine reports, and tells it to stop once the user has asked to.
pub struct Watcher {
    log: Log,
    bar: Mutex<Option<(String, Progress)>>,
    warnings: Mutex<Vec<String>>,
    /// Where the run is in a folder, and the log of its file.
    place: Mutex<Place>,
    /// Whether a run that was stopped goes on from its state.
    kept: AtomicBool,
}

impl Log {
    /// A watcher that shows events in this log.
    pub fn watcher(&self) -> Watcher {
        Watcher {
            log: self.clone(),
            bar: Mutex::default(),
            warnings: Mutex::default(),
            place: Mutex::new(Place { shown: String::new(), log: self.clone() }),
            kept: AtomicBool::default(),
        }
    }
}

impl Watcher {
    /// Shows an event.
    pub fn see(&self, event: &Event) -> ControlFlow<()> {
        match event {
            Event::Loading { .. } => self.log_here().detail(&event.to_string()),
            Event::Warning { message } => {
                self.warnings.lock().unwrap_or_else(PoisonError::into_inner).push(message.clone());
                self.log_here().warn(message);
            }
            Event::Indexing { done, total, path } => {
                self.step("indexing".into(), (*done, *total), "", json!({"path": path}));
            }
            Event::Checking { done, total, path } => {
                self.step("checking".into(), (*done, *total), "", json!({"path": path}));
            }
            Event::File { number, total, path, seconds_left } => {
                let left = seconds_left.map(|seconds| format!(", {} left", in_words(seconds)));
                let shown = format!("[{number}/{total}{}] ", left.unwrap_or_default());
                let place = Place { shown, log: self.log.of_file(path) };
                *self.place.lock().unwrap_or_else(PoisonError::into_inner) = place;
                self.finish();
            }
            Event::FileDone { done, total, path, outcome, seconds_left, .. } => {
                self.finish();
                let left =
                    if done == total { String::new() } else { format!("; about {} left", in_words(*seconds_left)) };
                self.log.file(&format!("{event}{left}"), event);
                if let FileOutcome::Restored { findings: Some(findings), .. } = outcome {
                    self.log.of_file(path).verdict(path, findings);
                }
            }
            Event::Encoding { done, total } => {
                self.step("encoding crops".into(), (*done, *total), "", json!(null));
            }
            Event::Searching { done, total } => {
                self.step("finding neighbours".into(), (*done, *total), "", json!(null));
            }
            Event::Adapting { step, total, timestep, loss } => {
                let detail = json!({"t": timestep, "loss": loss});
                self.step("adapting".into(), (*step as usize, *total as usize), &format!("loss {loss:.4}"), detail);
            }
            Event::Measured { measured } => {
                let detail = serde_json::to_value(measured).unwrap_or_default();
                self.tell(&event.to_string(), &detail);
            }
            Event::Adapted { .. } => {
                self.finish();
                self.log_here().info(&event.to_string());
            }
            Event::Resumed { samples, step, steps, .. } => {
                self.log_here().info(&event.to_string());
                self.ahead(restoring(*samples), samples * steps, *step);
            }
            Event::Kept { .. } => {
                self.kept.store(true, Ordering::Relaxed);
                self.log_here().detail(&event.to_string());
            }
            Event::Sampling { sample, samples, steps, timestep, residual_255, .. } => {
                let detail = json!({"sample": sample + 1, "t": timestep, "residual_255": residual_255});
                let text = residual_255.map_or_else(String::new, |residual| format!("residual {residual:.2}"));
                // Samples that are computed at the same time report in turns: the bar counts their steps together.
                self.step(restoring(*samples), (0, samples * steps), &text, detail);
            }
            _ => {}
        }
        self.log.flow()
    }

    /// The log of the file that is being restored, where there are several.
    fn log_here(&self) -> Log {
        self.place.lock().unwrap_or_else(PoisonError::into_inner).log.clone()
    }

    /// One more step of `what`; `done` of `total`, or 0 to count them here.
    fn step(&self, what: String, (done, total): (usize, usize), text: &str, detail: serde_json::Value) {
        self.on_bar(what, total, |progress| {
            if done > 0 {
                progress.at(done - 1, total);
            }
            progress.step(text, detail);
        });
    }

    /// `steps` more of `what`, taken by an earlier run.
    fn ahead(&self, what: String, total: usize, steps: usize) {
        self.on_bar(what, total, |progress| progress.skip(steps));
    }

    /// Shows something on the bar of `what`, which becomes the only one.
    fn on_bar(&self, what: String, total: usize, show: impl FnOnce(&Progress)) {
        let mut bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        if bar.as_ref().is_none_or(|(shown, _)| *shown != what) {
            // The old bar goes before the new one comes.
            *bar = None;
            let place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
            let progress = place.log.progress(&place.shown, &what, total);
            *bar = Some((what, progress));
        }
        if let Some((_, progress)) = bar.as_ref() {
            show(progress);
        }
    }

    /// A line that stays, above the bar.
    fn tell(&self, text: &str, detail: &serde_json::Value) {
        let bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, progress)) = bar.as_ref() {
            progress.line(text, detail);
        }
    }

    /// Whether the state of what was stopped is kept, for the same command to go on from.
    pub fn kept(&self) -> bool {
        self.kept.load(Ordering::Relaxed)
    }

    /// The warnings so far.
    pub fn warnings(&self) -> Vec<String> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        *self.bar.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
