//! What became of each file: one JSON object a line, for each shard a file of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::scans::label;
use super::shard::Shard;
use crate::engine::outputs::Outputs;
use crate::io::atomic;
use crate::io::folder::{check_folder, is_plain};
use crate::io::lines::{Lines, read_lines};
use crate::io::plain;
use crate::io::results::{MANIFEST_END as END, MANIFEST_START as START, is_manifest_name, samples_in};
use crate::retrieve::ContentHash;
use crate::{Error, Result};

/// A line has some hundred bytes; nobody restores ten million images by one process.
const MOST_BYTES: u64 = 1 << 32;

/// The first line of a manifest: which files it is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ManifestHead {
    /// Version of this form, 1.
    pub schema: u32,
    /// Program and version.
    pub program: String,
    /// The folder of the observations.
    pub scans: String,
    /// Files in all shards.
    pub files: usize,
    /// The shard.
    #[serde(flatten)]
    pub shard: Shard,
    /// Samples per file.
    pub samples: usize,
}

/// What became of a file; the last line about it counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ManifestEntry {
    /// The observation, below its folder.
    pub file: String,
    /// Its page, where each is an observation of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub page: Option<usize>,
    /// The result, below the folder of results.
    pub output: String,
    /// Where it is.
    #[serde(flatten)]
    pub state: FileState,
}

/// Where the work on a file is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
#[non_exhaustive]
pub enum FileState {
    /// Not begun.
    Pending,
    /// Begun: what lies in the place of its results may be replaced.
    Started,
    /// Restored.
    Done {
        /// SHA-256 of the observation.
        input_sha256: ContentHash,
    },
    /// Not restored.
    Failed {
        /// Why.
        error: String,
    },
}

impl FileState {
    /// Which of two manifests knows more.
    fn rank(&self) -> u8 {
        match self {
            Self::Pending => 0,
            Self::Started => 1,
            Self::Failed { .. } => 2,
            Self::Done { .. } => 3,
        }
    }
}

/// The manifest of a shard.
#[derive(Debug, Clone)]
pub(super) struct Manifest {
    head: ManifestHead,
    entries: BTreeMap<(String, Option<usize>), ManifestEntry>,
}

/// The file of a shard's manifest.
pub(super) fn path_of(folder: &Path, shard: Shard) -> PathBuf {
    folder.join(format!("{START}-{}-of-{}{END}", shard.index(), shard.of()))
}

impl Manifest {
    /// What the lines of a file say; `unread` gets the number of a line that says nothing, and why.
    fn of(lines: &[String], mut unread: impl FnMut(usize, serde_json::Error) -> Result<()>) -> Result<Option<Self>> {
        let Some(first) = lines.first() else { return Ok(None) };
        let head = match serde_json::from_str::<ManifestHead>(first) {
            Ok(head) => head,
            Err(e) => return unread(1, e).map(|()| None),
        };
        let mut entries = BTreeMap::new();
        for (number, line) in (2..).zip(&lines[1..]) {
            match serde_json::from_str::<ManifestEntry>(line) {
                Ok(entry) if is_plain(&entry.output) => drop(entries.insert((entry.file.clone(), entry.page), entry)),
                Ok(_) => {}
                Err(e) => unread(number, e)?,
            }
        }
        Ok(Some(Self { head, entries }))
    }

    /// The files of the manifests of shards in a folder, sorted by their names.
    fn files(folder: &Path) -> Result<Vec<PathBuf>> {
        let listed = match std::fs::read_dir(folder) {
            Ok(listed) => listed,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(Error::input(folder, format!("cannot be listed: {e}"))),
        };
        let names = listed.filter_map(|item| item.ok()?.file_name().into_string().ok());
        let names: BTreeSet<String> = names.filter(|name| is_manifest_name(name)).collect();
        Ok(names.into_iter().filter(|name| *name != merged_name()).map(|name| folder.join(name)).collect())
    }
}

/// The manifests of the shards in a folder. What cannot be read is taken as not said: the records beside the results
/// decide.
pub(super) fn read_all(folder: &Path) -> Result<Vec<Manifest>> {
    let read = |path: &PathBuf| Manifest::of(&read_lines(path, MOST_BYTES).ok()?, |_, _| Ok(())).ok()?;
    Ok(Manifest::files(folder)?.iter().filter_map(read).collect())
}

/// Outputs that some run has begun.
pub(super) fn begun(manifests: &[Manifest]) -> BTreeSet<&str> {
    let entries = manifests.iter().flat_map(|manifest| manifest.entries.values());
    entries.filter(|entry| entry.state == FileState::Started).map(|entry| &*entry.output).collect()
}

/// Outputs that runs have made of the observations of `scans`, or begun to.
pub(super) fn made<'a>(manifests: &'a [Manifest], scans: &Path) -> BTreeSet<&'a str> {
    let scans = scans.to_string_lossy();
    let ours = manifests.iter().filter(|manifest| manifest.head.scans == scans);
    ours.flat_map(|manifest| manifest.entries.values()).map(|entry| &*entry.output).collect()
}

/// A manifest that is being written.
#[derive(Debug)]
pub(super) struct Writer(Lines);

fn line(value: &impl Serialize) -> Result<String> {
    let line = serde_json::to_string(value).map_err(|e| Error::config(format!("a manifest: {e}")))?;
    Ok(plain::json(&line).into_owned())
}

impl Writer {
    /// Begins the manifest in `folder` anew, with what is known.
    pub fn begin(folder: &Path, head: &ManifestHead, entries: &[ManifestEntry]) -> Result<Self> {
        let lines = std::iter::once(line(head)).chain(entries.iter().map(line)).collect::<Result<Vec<_>>>()?;
        Ok(Self(Lines::begin(&path_of(folder, head.shard), &lines)?))
    }

    /// Says what became of a file.
    pub fn push(&mut self, entry: &ManifestEntry) -> Result<()> {
        self.0.push(&line(entry)?)
    }
}

/// What the manifests of all shards say together.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Merged {
    /// Files with their results in place.
    pub done: usize,
    /// Files that could not be restored, with the reason.
    pub failed: Vec<(String, String)>,
    /// Files without a result, with the shard that has them.
    pub missing: Vec<(String, Shard)>,
    /// Shards without a manifest, and the number of their files.
    pub absent: Vec<(Shard, usize)>,
    /// The joined manifest.
    pub path: PathBuf,
}

impl Merged {
    /// Whether every file has its result.
    pub fn is_complete(&self) -> bool {
        self.failed.is_empty() && self.missing.is_empty() && self.absent.is_empty()
    }
}

fn merged_name() -> String {
    format!("{START}{END}")
}

/// Joins the manifests of all shards in a folder of results into `adir-manifest.jsonl` there, and looks whether the
/// results that they name are in place. Of runs with different numbers of shards, all files count, and one number whose
/// manifests are all there is enough.
///
/// # Errors
/// [`Error::Input`] when the folder holds no manifest, or one cannot be read; [`Error::Io`] where the system refuses.
pub fn merge(folder: &Path) -> Result<Merged> {
    check_folder(folder)?;
    let again = "run the restoration that wrote it again: it leaves finished files alone and writes the manifest anew";
    let read = |path: &PathBuf| {
        let damaged = |message: String| Error::input(path, format!("{message}; {again}"));
        let lines = read_lines(path, MOST_BYTES).map_err(|e| match e {
            Error::Input { message, .. } => damaged(message),
            other => other,
        })?;
        Manifest::of(&lines, |line, e| Err(damaged(format!("line {line} is none of a manifest ({e})"))))
    };
    let manifests =
        Manifest::files(folder)?.iter().map(read).filter_map(Result::transpose).collect::<Result<Vec<_>>>()?;
    let Some(first) = manifests.first() else {
        return Err(Error::input(folder, "holds no manifest of a folder's restoration (adir-manifest-1-of-1.jsonl)"));
    };
    let mut merged = Merged { path: folder.join(merged_name()), ..Merged::default() };
    let mut head = first.head.clone();
    let mut entries: BTreeMap<_, (&ManifestEntry, &ManifestHead)> = BTreeMap::new();
    let mut numbers: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for manifest in &manifests {
        numbers.entry(manifest.head.shard.of()).or_default().insert(manifest.head.shard.index());
        head.files = head.files.max(manifest.head.files);
        for (file, entry) in &manifest.entries {
            let known = entries.entry(file).or_insert((entry, &manifest.head));
            if entry.state.rank() > known.0.state.rank() {
                *known = (entry, &manifest.head);
            }
        }
    }
    if numbers.iter().all(|(of, present)| present.len() < *of)
        && let Some((&of, present)) = numbers.iter().max_by_key(|(_, present)| present.len())
    {
        for index in (1..=of).filter(|index| !present.contains(index)) {
            let shard = Shard::new(index, of)?;
            // A part without files has nothing to do.
            let files = shard.range(head.files).len();
            merged.absent.extend((files > 0).then_some((shard, files)));
        }
    }
    for (entry, of) in entries.values() {
        let file = label(&entry.file, entry.page);
        let outputs = Outputs::new(&folder.join(&entry.output), of.samples);
        match &entry.state {
            FileState::Done { .. } if is_in_place(&outputs) => merged.done += 1,
            FileState::Failed { error } => merged.failed.push((file, error.clone())),
            _ => merged.missing.push((file, of.shard)),
        }
    }
    head.shard = Shard::WHOLE;
    let joined = entries.values().map(|(entry, _)| line(entry));
    let lines = std::iter::once(line(&head)).chain(joined).collect::<Result<Vec<_>>>()?;
    atomic::write(&merged.path, |file| {
        use std::io::Write;
        lines.iter().try_for_each(|line| writeln!(file, "{line}")).map_err(|e| Error::io(&merged.path, e))
    })?;
    Ok(merged)
}

/// Whether images and record are there.
pub(super) fn is_in_place(outputs: &Outputs) -> bool {
    let images = std::iter::once(&outputs.image).chain(&outputs.samples);
    images.into_iter().all(|image| image.is_file()) && samples_in(&outputs.record).is_some()
}
