//! Log on stderr: text with a progress bar, or one JSON object per event.

use std::fmt::Arguments;
use std::io::{Write, stderr};
use std::ops::ControlFlow;
use std::time::Duration;

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use crate::out::escaped;
use crate::stop::Stop;

/// Writes a line to stderr, without control characters. Errors are ignored: stderr may be closed.
pub fn put(text: Arguments<'_>) {
    let _ = writeln!(stderr().lock(), "{}", escaped(&text.to_string()));
}

/// Format of the log on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// Text for people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// The log, and whether the user has asked to stop.
#[derive(Debug, Clone)]
pub struct Log {
    format: Format,
    quiet: bool,
    stop: Stop,
}

impl Log {
    /// A log of that form; a quiet one prints only errors and warnings.
    pub fn new(format: Format, quiet: bool, stop: Stop) -> Self {
        Self { format, quiet, stop }
    }

    /// What a watcher answers.
    pub fn flow(&self) -> ControlFlow<()> {
        self.stop.flow()
    }

    /// Errors with [`adir::Error::Interrupted`] once the user has asked to stop.
    pub fn check(&self) -> adir::Result<()> {
        self.stop.check()
    }

    /// Logs a message.
    pub fn info(&self, text: &str) {
        if !self.quiet {
            self.line("info", text);
        }
    }

    /// Logs what became of a file: an event in the JSON log.
    pub fn file(&self, text: &str, event: &adir::engine::Event) {
        match self.format {
            _ if self.quiet => {}
            Format::Text => put(format_args!("{text}")),
            Format::Json => put(format_args!("{}", serde_json::to_value(event).unwrap_or_default())),
        }
    }

    /// Logs a warning.
    pub fn warn(&self, text: &str) {
        self.line("warning", text);
    }

    /// Logs an error with a hint.
    pub fn error(&self, text: &str, hint: Option<&str>, code: u8) {
        match self.format {
            Format::Text => {
                put(format_args!("error: {text}"));
                if let Some(hint) = hint {
                    put(format_args!("hint: {hint}"));
                }
            }
            Format::Json => {
                put(format_args!("{}", json!({"event": "error", "message": text, "hint": hint, "exit_code": code})))
            }
        }
    }

    fn line(&self, level: &str, text: &str) {
        match self.format {
            Format::Text if level == "info" => put(format_args!("{text}")),
            Format::Text => put(format_args!("{level}: {text}")),
            Format::Json => put(format_args!("{}", json!({"event": level, "message": text}))),
        }
    }

    /// Progress over `total` steps of `what`; `place` is shown before that.
    pub fn progress(&self, place: &str, what: &str, total: usize) -> Progress {
        let bar = if self.quiet || self.format == Format::Json {
            ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::hidden())
        } else {
            ProgressBar::new(total as u64)
        };
        let style = ProgressStyle::with_template("{prefix} [{bar:30}] {pos}/{len} {elapsed}, {eta} left {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("=> "));
        bar.set_prefix(format!("{place}{what}"));
        bar.enable_steady_tick(Duration::from_millis(500));
        Progress { log: self.clone(), bar, what: what.to_owned() }
    }
}

/// A progress bar, or one JSON line per step.
pub struct Progress {
    log: Log,
    bar: ProgressBar,
    what: String,
}

impl Progress {
    /// Sets the position to `done` of `all`.
    pub fn at(&self, done: usize, all: usize) {
        self.bar.set_length(all as u64);
        self.bar.set_position(done as u64);
    }

    /// Reports a status: beside the bar if it is visible, else as a log line.
    pub fn tell(&self, text: &str, detail: &Value) {
        self.bar.set_message(text.to_owned());
        match self.log.format {
            _ if self.log.quiet => {}
            Format::Json => {
                let eta = self.bar.eta().as_secs_f64();
                put(format_args!("{}", json!({"event": "progress", "of": self.what, "eta_s": eta, "detail": detail})));
            }
            Format::Text if self.bar.is_hidden() => put(format_args!("{}: {text}", self.what)),
            Format::Text => {}
        }
    }

    /// Prints a line that stays above the bar; `detail` goes into the JSON log.
    pub fn line(&self, text: &str, detail: &Value) {
        match self.log.format {
            _ if self.log.quiet => {}
            Format::Json => put(format_args!("{}", json!({"event": "measured", "of": self.what, "detail": detail}))),
            Format::Text => self.bar.suspend(|| put(format_args!("{text}"))),
        }
    }

    /// Advances by one step; `detail` goes into the JSON log.
    pub fn step(&self, text: &str, detail: Value) {
        self.bar.set_message(text.to_owned());
        self.bar.inc(1);
        if self.log.format == Format::Json && !self.log.quiet {
            let (done, total) = (self.bar.position(), self.bar.length());
            let eta = self.bar.eta().as_secs_f64();
            put(format_args!(
                "{}",
                json!({"event": "step", "of": self.what, "done": done, "total": total, "eta_s": eta, "detail": detail})
            ));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
