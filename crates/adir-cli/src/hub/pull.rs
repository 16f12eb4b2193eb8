//! `adir models pull`: from a model's name to its files in the cache.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use adir::io::tally::counted;
use adir::{Error, Result};
use serde_json::json;

use super::access;
use super::address::encoded;
use super::aliases::Aliases;
use super::cache::{HubCache, MAIN, bytes};
use super::http::{Failure, Hub};
use super::id::{Reference, is_commit};
use super::listing::{Facts, Listing, Remote};
use super::place::{self, Lock};
use super::select::{Choice, choose};
use super::transfer::Transfer;
use crate::log::{Log, Progress};

/// How often progress is told where no bar is seen.
const TOLD_EVERY: Duration = Duration::from_secs(5);

/// What is to be pulled.
#[derive(Debug)]
pub struct Ask<'a> {
    /// `ORG/NAME[/FILE][@REVISION]`.
    pub model: &'a str,
    /// These files only.
    pub files: &'a [String],
    /// f16 rather than f32.
    pub half: bool,
    /// Only say what would be done.
    pub plan: bool,
}

/// A file to be had.
struct Item {
    name: String,
    facts: Facts,
    /// Where it lies in the cache.
    blob: PathBuf,
    part: PathBuf,
    /// Bytes that are there.
    there: u64,
}

/// A pull whose files are known.
struct Pull<'a> {
    hub: Hub,
    log: &'a Log,
    wanted: Reference,
    listing: Listing,
    cache: HubCache,
    items: Vec<Item>,
}

/// Pulls a model, and says where it lies.
///
/// # Errors
/// [`Error::Config`] for what is not there, may not be had, or is forbidden by the variables; [`Error::Model`] for a Hub that
/// cannot be reached or sends what it should not; [`Error::Io`] where the disk is full; [`Error::Interrupted`].
pub fn run(ask: &Ask, log: &Log) -> Result<()> {
    let wanted = super::parse(ask.model)?;
    let mut files = ask.files.to_vec();
    files.extend(wanted.file.clone());
    if ask.half && !files.is_empty() {
        return Err(Error::config("--fp16 has no effect on files that are named"));
    }
    if access::is_offline() {
        return offline(&wanted, log);
    }
    let hub = Hub::open()?;
    let (found, listing) = listed(&hub, &wanted, log)?;
    let Choice { files: chosen, notes } = choose(&found.id, &listing.files, &files, ask.half)?;
    notes.iter().for_each(|note| log.info(note));
    let mut pull = Pull { hub, log, wanted: found, listing, cache: HubCache::open()?, items: Vec::new() };
    pull.items = chosen.iter().map(|file| pull.item(file)).collect::<Result<_>>()?;
    if ask.plan {
        return pull.tell();
    }
    log.info(&format!("licence of {}: {}", pull.wanted.id, pull.listing.licence));
    let model = pull.cache.model(&pull.wanted.id);
    place::check_space(&model, pull.missing())?;
    if let Err(error) = pull.fetch(&model) {
        if pull.items.iter().any(|item| item.part.exists()) {
            log.info("what has arrived is kept: the same command goes on from there");
        }
        return Err(error);
    }
    let revision = pull.revision();
    if !is_commit(revision) {
        place::write_ref(&model, revision, &pull.listing.commit)?;
    }
    let snapshot = pull.snapshot();
    let place = match &files[..] {
        [only] => snapshot.join(only),
        _ => snapshot,
    };
    say!("{}", place.display())
}

/// With connections forbidden, what is there is all there is.
fn offline(wanted: &Reference, log: &Log) -> Result<()> {
    let forbidden = "HF_HUB_OFFLINE forbids connections to the Hub";
    let (path, note) = super::find(wanted)?
        .ok_or_else(|| Error::config(format!("{wanted} is not in the cache, and {forbidden}: unset it to download")))?;
    note.iter().for_each(|note| log.warn(note));
    log.info(&format!("{forbidden}: what was pulled before is not compared with it"));
    say!("{}", path.display())
}

/// What the Hub has under the name, or under that of a copy, with the name.
fn listed(hub: &Hub, wanted: &Reference, log: &Log) -> Result<(Reference, Listing)> {
    let absent = match listing(hub, wanted, log) {
        Err(Failure::Absent(error)) => error,
        found => return Ok((wanted.clone(), found?)),
    };
    for copy in Aliases::read()?.of(&wanted.id) {
        log.warn(&format!("{} is not on {} any more: trying its copy {copy}", wanted.id, hub.endpoint()));
        match listing(hub, &wanted.of(copy), log) {
            Err(Failure::Absent(_)) => {}
            found => return Ok((wanted.of(copy), found?)),
        }
    }
    let Some(table) = Aliases::file() else { return Err(absent) };
    let message = format!(
        "{absent}; if there is a copy under another name: {{\"{}\": [\"ORG/NAME\"]}} in {}",
        wanted.id,
        table.display()
    );
    Err(Error::config(message))
}

fn listing(hub: &Hub, wanted: &Reference, log: &Log) -> Result<Listing, Failure> {
    let revision = encoded(wanted.revision.as_deref().unwrap_or(MAIN), false);
    let url = format!("{}/api/models/{}/revision/{revision}?blobs=true", hub.endpoint(), wanted.id);
    let listing = Listing::parse(&hub.text(&url, log)?, &url)?;
    // A commit is a promise.
    match &wanted.revision {
        Some(commit) if is_commit(commit) && *commit != listing.commit => {
            Err(Failure::of(&url, format!("answers with the commit {}", listing.commit)))
        }
        _ => Ok(listing),
    }
}

impl Pull<'_> {
    fn revision(&self) -> &str {
        self.wanted.revision.as_deref().unwrap_or(MAIN)
    }

    fn snapshot(&self) -> PathBuf {
        self.cache.model(&self.wanted.id).join("snapshots").join(&self.listing.commit)
    }

    /// The address of a file.
    fn url(&self, name: &str) -> String {
        format!("{}/{}/resolve/{}/{}", self.hub.endpoint(), self.wanted.id, self.listing.commit, encoded(name, true))
    }

    fn item(&self, file: &Remote) -> Result<Item> {
        let facts = match &file.facts {
            Some(facts) => facts.clone(),
            None => self.hub.facts(&self.url(&file.name), self.log)?,
        };
        let blob = self.cache.model(&self.wanted.id).join("blobs").join(facts.digest.name());
        let part = blob.with_extension("incomplete");
        let is_there = place::is_whole(&blob, &facts) || place::is_whole(&self.snapshot().join(&file.name), &facts);
        let there = match is_there {
            true => facts.size,
            false => part.metadata().map_or(0, |about| about.len().min(facts.size)),
        };
        Ok(Item { name: file.name.clone(), facts, blob, part, there })
    }

    fn total(&self) -> u64 {
        self.items.iter().map(|item| item.facts.size).fold(0, u64::saturating_add)
    }

    /// Bytes that are not there.
    fn missing(&self) -> u64 {
        self.items.iter().map(|item| item.facts.size - item.there).fold(0, u64::saturating_add)
    }

    /// Says what would be done.
    fn tell(&self) -> Result<()> {
        let Self { wanted, listing, .. } = self;
        say!("{}@{}, commit {}", wanted.id, self.revision(), listing.commit)?;
        say!("licence: {}", listing.licence)?;
        if listing.is_gated && !self.hub.has_token() {
            say!(
                "gated: sign in and agree to the conditions at {}/{}, then set HF_TOKEN",
                self.hub.endpoint(),
                wanted.id
            )?;
        }
        for item in &self.items {
            let state = match item.there {
                there if there == item.facts.size => "  (is there)".to_owned(),
                0 => String::new(),
                there => format!("  ({} are there)", bytes(there)),
            };
            say!("{:>9}  {}{state}", bytes(item.facts.size), item.name)?;
        }
        let (total, missing) = (bytes(self.total()), bytes(self.missing()));
        say!("{total} in {}, {missing} to download", counted(self.items.len(), "file"))?;
        say!("into {}", self.snapshot().display())
    }

    /// Downloads what is missing, and puts all into the snapshot.
    fn fetch(&self, model: &Path) -> Result<()> {
        let mut meter = Meter::new(self.log, self.total(), self.total() - self.missing());
        let locks = self.cache.root().join(".locks").join(model.file_name().unwrap_or_default());
        let snapshot = self.snapshot();
        let mut before = 0;
        for item in &self.items {
            let lock_file = locks.join(format!("{}.lock", item.facts.digest.name()));
            let lock = Lock::take(&lock_file, &item.name, self.log)?;
            let place = snapshot.join(&item.name);
            if !place::is_whole(&place, &item.facts) {
                if !place::is_whole(&item.blob, &item.facts) {
                    place::make_folder_of(&item.blob)?;
                    let url = self.url(&item.name);
                    let transfer =
                        Transfer { hub: &self.hub, log: self.log, name: &item.name, url: &url, facts: &item.facts };
                    transfer.run(&item.part, &item.blob, &mut |at| meter.at(before + at, &item.name))?;
                }
                place::put(&item.blob, &snapshot, &item.name)?;
            }
            drop(lock);
            before += item.facts.size;
            meter.at(before, &item.name);
            self.log.check()?;
        }
        Ok(())
    }
}

/// The progress of a download, in MB.
struct Meter {
    progress: Progress,
    total: u64,
    /// Bytes that an earlier run got.
    earlier: u64,
    begun: Instant,
    told: Instant,
}

impl Meter {
    fn new(log: &Log, total: u64, earlier: u64) -> Self {
        let progress = log.progress("", "downloading (MB)", megabytes(total));
        progress.skip(megabytes(earlier));
        Self { progress, total, earlier, begun: Instant::now(), told: Instant::now() }
    }

    fn at(&mut self, done: u64, name: &str) {
        self.progress.at(megabytes(done), megabytes(self.total));
        if self.told.elapsed() < TOLD_EVERY {
            return;
        }
        self.told = Instant::now();
        let speed = done.saturating_sub(self.earlier) as f64 / self.begun.elapsed().as_secs_f64();
        let text = format!("{} of {}, {}/s, {name}", bytes(done), bytes(self.total), bytes(speed as u64));
        let detail = json!({"file": name, "bytes": done, "total_bytes": self.total, "bytes_per_second": speed});
        self.progress.tell(&text, &detail);
    }
}

/// In whole MB, rounded up: the least file is progress.
fn megabytes(bytes: u64) -> usize {
    bytes.div_ceil(1_000_000) as usize
}
