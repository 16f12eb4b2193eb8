//! Log on stderr: text with a progress bar, or one JSON object per event.

use std::borrow::Cow;
use std::fmt::Arguments;
use std::io::{IsTerminal, Write, stderr};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use adir::engine::Findings;
use adir::io::plain::{self, brief, one_line};
use adir_web::report::in_one_line;
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use crate::events::Kind;
use crate::stop::Stop;

/// Whether stderr takes colours: it is a terminal that knows them, and `NO_COLOR` is not set.
fn colours() -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    stderr().is_terminal() && set("NO_COLOR").is_none() && set("TERM").is_some_and(|term| term != "dumb")
}

/// Whether the log is JSON, for [`out_of_memory`].
static JSON: AtomicBool = AtomicBool::new(false);

/// Remembers the form of the log for what has no log at hand.
pub fn remember(format: Format) {
    JSON.store(format == Format::Json, Ordering::Relaxed);
}

/// The last line of a program that gets no more memory; it takes none.
pub fn out_of_memory() -> &'static str {
    match JSON.load(Ordering::Relaxed) {
        false => {
            "error: the system gives no more memory\n\
             hint: use a smaller image or fewer samples at once, or raise the limit (ulimit -v)\n"
        }
        true => {
            "{\"event\":\"error\",\"exit_code\":5,\"hint\":\"use a smaller image or fewer samples at once, or raise the \
             limit (ulimit -v)\",\"message\":\"the system gives no more memory\"}\n"
        }
    }
}

/// Most characters of a message: files may hold words of any length, which errors repeat.
const LONGEST: usize = 2000;

/// A message without its middle, if it is long, and without those of long numbers and words.
fn shortened(text: &str) -> Cow<'_, str> {
    let text = brief(text);
    let count = text.chars().count();
    if count <= LONGEST {
        return text;
    }
    let part: String = text.chars().take(LONGEST * 3 / 4).collect();
    let end: String = text.chars().skip(count - LONGEST / 4).collect();
    format!("{part} [... {} characters ...] {end}", count - LONGEST).into()
}

/// Writes a line to stderr, and one only, without control characters. Errors are ignored: stderr may be closed.
pub fn put(text: Arguments<'_>) {
    let _ = writeln!(stderr().lock(), "{}", one_line(&text.to_string()));
}

/// Writes an object of the JSON log.
fn put_json(value: &Value) {
    let _ = writeln!(stderr().lock(), "{}", plain::json(&value.to_string()));
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Level {
    /// Errors and warnings.
    Quiet,
    /// Messages and progress.
    #[default]
    Usual,
    /// Settings, files and times too.
    Verbose,
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
    level: Level,
    stop: Stop,
    /// The file that it is about, where there are several.
    file: Option<Arc<str>>,
}

impl Log {
    /// A log of that form.
    pub fn new(format: Format, level: Level, stop: Stop) -> Self {
        Self { format, level, stop, file: None }
    }

    /// The same log about one of several files, which JSON events name and warnings too.
    pub fn of_file(&self, file: &str) -> Self {
        Self { file: Some(file.into()), ..self.clone() }
    }

    /// Writes an event: its kind, its file where there are several, and then the fields of `rest`.
    fn event(&self, kind: Kind, rest: Value) {
        let mut fields = serde_json::Map::from_iter([("event".to_owned(), json!(kind.name()))]);
        fields.extend(self.file.iter().map(|file| ("file".to_owned(), json!(**file))));
        if let Value::Object(rest) = rest {
            fields.extend(rest);
        }
        put_json(&Value::Object(fields));
    }

    fn is_quiet(&self) -> bool {
        self.level == Level::Quiet
    }

    /// Whether details are wanted.
    pub fn is_verbose(&self) -> bool {
        self.level == Level::Verbose
    }

    /// What a watcher answers.
    pub fn flow(&self) -> ControlFlow<()> {
        self.stop.flow()
    }

    /// Errors with [`adir::Error::Interrupted`] once the user has asked to stop.
    pub fn check(&self) -> adir::Result<()> {
        self.stop.check()
    }

    /// What follows is not done in steps.
    ///
    /// # Errors
    /// As [`Log::check`].
    pub fn no_longer_heard(&self) -> adir::Result<()> {
        self.stop.no_longer_heard()
    }

    /// Logs a message.
    pub fn info(&self, text: &str) {
        if !self.is_quiet() {
            self.line(Kind::Info, text);
        }
    }

    /// Logs what only `-v` shows.
    pub fn detail(&self, text: &str) {
        if self.is_verbose() {
            self.line(Kind::Detail, text);
        }
    }

    /// Logs what became of a file: an event in the JSON log.
    pub fn file(&self, text: &str, event: &adir::engine::Event) {
        match self.format {
            _ if self.is_quiet() => {}
            Format::Text => put(format_args!("{text}")),
            Format::Json => put_json(&serde_json::to_value(event).unwrap_or_default()),
        }
    }

    /// Logs a warning, with the file before it where there are several and it names none.
    pub fn warn(&self, text: &str) {
        match &self.file {
            Some(file) if !text.contains(&**file) => self.line(Kind::Warning, &format!("{file}: {text}")),
            _ => self.line(Kind::Warning, text),
        }
    }

    /// Logs what the numbers of the result `name` say. A quiet log leaves out that nothing is wrong, and so does text where
    /// there are several files.
    pub fn verdict(&self, name: &str, findings: &Findings) {
        let pass = findings.pass();
        let word = if pass { "PASS" } else { "WARN" };
        match self.format {
            _ if pass && self.is_quiet() => {}
            Format::Json => {
                let mut fields = json!({"verdict": word, "findings": findings});
                if self.file.is_none() {
                    fields["file"] = json!(name);
                }
                self.event(Kind::Verdict, fields);
            }
            Format::Text if pass && self.file.is_some() && !self.is_verbose() => {}
            Format::Text => {
                let colour = if pass { "32" } else { "33" };
                // The text's own control characters are written out; these are ours.
                let word = if colours() { format!("\u{1b}[{colour}m{word}\u{1b}[0m") } else { word.into() };
                let _ = writeln!(stderr().lock(), "{word} {}", one_line(&in_one_line(name, findings)));
            }
        }
    }

    /// Logs an error with a hint.
    pub fn error(&self, text: &str, hint: Option<&str>, code: u8) {
        let text = &*shortened(text);
        match self.format {
            Format::Text => {
                put(format_args!("error: {text}"));
                if let Some(hint) = hint {
                    put(format_args!("hint: {hint}"));
                }
            }
            Format::Json => {
                self.event(Kind::Error, json!({"message": text, "hint": hint, "exit_code": code}));
            }
        }
    }

    fn line(&self, kind: Kind, text: &str) {
        let text = &*shortened(text);
        match self.format {
            Format::Text if kind == Kind::Warning => put(format_args!("warning: {text}")),
            Format::Text => put(format_args!("{text}")),
            Format::Json => self.event(kind, json!({"message": text})),
        }
    }

    /// Progress over `total` steps of `what`; `place` is shown before that.
    pub fn progress(&self, place: &str, what: &str, total: usize) -> Progress {
        let bar = if self.is_quiet() || self.format == Format::Json {
            ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::hidden())
        } else {
            ProgressBar::new(total as u64)
        };
        let style = ProgressStyle::with_template("{prefix} [{bar:30}] {pos}/{len} {elapsed}, {eta} left {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.progress_chars("=> "));
        bar.set_prefix(format!("{place}{what}"));
        // The ticks come from a thread, and a library that panics where the system refuses one.
        let threads = || std::thread::Builder::new().spawn(|| ()).is_ok_and(|thread| thread.join().is_ok());
        if !bar.is_hidden() && threads() {
            bar.enable_steady_tick(Duration::from_millis(500));
        }
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

    /// Advances by steps that an earlier run took.
    pub fn skip(&self, steps: usize) {
        self.bar.inc(steps as u64);
        // The time left is that of the steps that are taken now.
        self.bar.reset_eta();
    }

    /// Reports a status: beside the bar if it is visible, else as a log line.
    pub fn tell(&self, text: &str, detail: &Value) {
        self.bar.set_message(text.to_owned());
        match self.log.format {
            _ if self.log.is_quiet() => {}
            Format::Json => {
                let eta = self.bar.eta().as_secs_f64();
                self.log.event(Kind::Progress, json!({"of": self.what, "eta_s": eta, "detail": detail}));
            }
            Format::Text if self.bar.is_hidden() => put(format_args!("{}: {text}", self.what)),
            Format::Text => {}
        }
    }

    /// Prints a line that stays above the bar; `detail` goes into the JSON log.
    pub fn line(&self, text: &str, detail: &Value) {
        match self.log.format {
            _ if self.log.is_quiet() => {}
            Format::Json => self.log.event(Kind::Measured, json!({"of": self.what, "detail": detail})),
            Format::Text => self.bar.suspend(|| put(format_args!("{text}"))),
        }
    }

    /// Advances by one step; `detail` goes into the JSON log.
    pub fn step(&self, text: &str, detail: Value) {
        self.bar.set_message(text.to_owned());
        self.bar.inc(1);
        if self.log.format == Format::Json && !self.log.is_quiet() {
            let (done, total) = (self.bar.position(), self.bar.length());
            let eta = self.bar.eta().as_secs_f64();
            let fields = json!({"of": self.what, "done": done, "total": total, "eta_s": eta, "detail": detail});
            self.log.event(Kind::Step, fields);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_lose_their_middle() {
        assert_eq!(shortened("short"), "short");
        let long = format!("start {} end", "é ".repeat(50_000));
        let cut = shortened(&long);
        assert!(cut.chars().count() < 2100 && cut.starts_with("start é") && cut.ends_with("é  end"), "{cut}");
        assert!(cut.contains("[... 98010 characters ...]"), "{cut}");
        let word = shortened(&long.replace(' ', "")).into_owned();
        assert!(word.chars().count() < 300 && word.contains("more characters"), "{word}");
    }

    #[test]
    fn the_last_line_without_memory_is_what_an_error_says() {
        remember(Format::Json);
        let told: Value = serde_json::from_str(out_of_memory()).unwrap();
        remember(Format::Text);
        assert_eq!((&told["event"], &told["exit_code"]), (&json!("error"), &json!(5)));
        let text = out_of_memory();
        assert!(text.contains(told["message"].as_str().unwrap()) && text.contains(told["hint"].as_str().unwrap()));
    }
}
