//! Builds an index: an iterator with one event per file, driven by the caller.
//!
//! A file is known by its content, so one that was renamed or copied is not embedded again, and one that
//! was edited in place is. A file whose path, size and time of the last change are those of the index is not
//! even read. A build that stops early resumes from its own unfinished index in the same way.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rayon::prelude::*;

use super::index::{Entry, Index, Precision, Vectors};
use super::tile::TileSide;
use crate::encode::Encoder;
use crate::io::folder::images_to_learn_from;
use crate::io::hash::{ContentHash, hash_file, sha256};
use crate::io::image::{Reading, read_bytes, read_image};
use crate::io::limits::Limits;
use crate::io::shards::{Member, NO_END, Shard};
use crate::io::tally::{Tally, counted};
use crate::{Error, Result};

/// Outcome for one file.
#[derive(Debug)]
pub struct BuildEvent {
    /// The file's path below the archive's folder.
    pub path: String,
    /// What was done.
    pub outcome: BuildOutcome,
}

/// What was done with a file.
#[derive(Debug)]
pub enum BuildOutcome {
    /// It was embedded.
    Embedded,
    /// Its content was in the previous index, and so was its embedding.
    Reused,
    /// It is left out of the index, for this reason.
    Skipped(Error),
}

/// A running build: an iterator with one event per file, in the order of paths.
///
/// Files are read, decoded and embedded several at a time, on the threads of the current rayon pool.
pub struct Build<'a> {
    encoder: &'a dyn Encoder,
    root: PathBuf,
    limits: Limits,
    tiles: Option<TileSide>,
    files: Vec<Listed>,
    /// The tar files of the folder, which are looked into only if asked.
    shards: Vec<String>,
    /// Compressed ones.
    packed: Tally,
    /// What to say if there are no images, or no tar files.
    no_images: String,
    no_shards: String,
    /// What could not be looked at, in words.
    unseen: Vec<String>,
    /// What of the embedded images does not count.
    notes: Tally,
    /// Files that have been handled.
    done: usize,
    previous: Option<Index>,
    /// The entries of an image in the previous index.
    known: HashMap<ContentHash, Range<usize>>,
    /// The previous index's.
    earlier: Vec<Entry>,
    entries: Vec<Entry>,
    vectors: Vectors,
    events: VecDeque<BuildEvent>,
}

impl<'a> Build<'a> {
    /// Lists the images below `folder` (by their extension, see [`images_to_learn_from`]). Large images become one entry for
    /// each of their `tiles`. Embeddings are taken over from `previous`, an earlier index of the folder, finished or not.
    ///
    /// # Errors
    /// [`Error::Input`] if the folder cannot be listed; [`Error::Config`] if
    /// `previous` was made by another encoder, at another precision or of other tiles.
    pub fn new(
        folder: &Path,
        encoder: &'a dyn Encoder,
        precision: Precision,
        tiles: Option<TileSide>,
        limits: Limits,
        previous: Option<Index>,
    ) -> Result<Self> {
        if let Some(previous) = &previous {
            previous.check_encoder(encoder.id())?;
            if previous.precision() != precision {
                let (held, asked) = (previous.precision(), precision);
                return Err(Error::Config(format!(
                    "the existing index stores {held:?}, not {asked:?}: delete it, or write another one with --output"
                )));
            }
        }
        if let Some(previous) = &previous
            && previous.tiles() != tiles
        {
            let of = |tiles: Option<TileSide>| {
                tiles.map_or_else(|| "whole images".to_owned(), |side| format!("tiles of {side} pixels"))
            };
            return Err(Error::Config(format!(
                "the existing index is of {}, not of {}: delete it, or write another one with --output",
                of(previous.tiles()),
                of(tiles)
            )));
        }
        let listing = images_to_learn_from(folder)?;
        let unseen = listing.warnings();
        let mut known = HashMap::new();
        let earlier = previous.as_ref().map_or(Ok(Vec::new()), |index| index.entries().map(Cow::into_owned))?;
        let entries = &earlier[..];
        for same in entries.chunk_by(|a, b| a.path == b.path) {
            // The first one and its place, by the place of its slice.
            let first = entries.partition_point(|entry| entry.path < same[0].path);
            known.extend(same[0].content.map(|content| (content, first..first + same.len())));
        }
        Ok(Self {
            encoder,
            root: folder.to_owned(),
            limits,
            tiles,
            no_images: listing.no_images(),
            no_shards: listing.no_shards(),
            packed: listing.packed,
            files: listing.files.into_iter().map(|path| Listed { path, inside: None }).collect(),
            shards: listing.shards,
            unseen,
            notes: Tally::default(),
            done: 0,
            previous,
            known,
            earlier,
            entries: Vec::new(),
            vectors: Vectors::new(precision),
            events: VecDeque::new(),
        })
    }

    /// With the images inside the tar files of the folder, too; see [`crate::io::shards`].
    ///
    /// # Errors
    /// [`Error::Input`] if the folder has no tar files. One that cannot be read is left out, and so are members with odd names.
    pub fn with_shards(mut self) -> Result<Self> {
        if self.shards.is_empty() {
            return Err(Error::input(&self.root, &self.no_shards));
        }
        let (mut faults, mut left_out, mut endless) = (Tally::default(), Tally::default(), Tally::default());
        for name in std::mem::take(&mut self.shards) {
            let path = self.root.join(&name);
            let listed = Stat::of_file(&path).and_then(|stat| Ok((stat, Shard::open(&path)?)));
            let (stat, shard) = match listed {
                Ok(listed) => listed,
                Err(e) => {
                    faults.add("left out", e);
                    continue;
                }
            };
            left_out.join(shard.left_out, &name);
            if !shard.ends {
                endless.add(NO_END, &name);
            }
            let path = Arc::new(path);
            self.files.extend(shard.images.into_iter().map(|member| Listed {
                path: format!("{name}/{}", member.name),
                inside: Some(Inside { shard: path.clone(), modified: stat.modified, member }),
            }));
        }
        let members = left_out.lines().into_iter().map(|line| format!("left out: {line}"));
        self.no_images = "contains no images, neither as files nor in its tar files".into();
        let packed = self.packed.lines().into_iter().map(|line| format!("left out: {line}"));
        self.unseen.extend(faults.lines().into_iter().chain(members).chain(endless.lines()).chain(packed));
        self.files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(self)
    }

    /// With only those images whose names, without folders and endings, are in a list, such as Open Images' of image ids.
    /// What is said of the difference comes second.
    ///
    /// # Errors
    /// Those of `names`; [`Error::Input`] if the folder has none of them.
    pub fn only(mut self, names: impl IntoIterator<Item = Result<String>>) -> Result<(Self, Vec<String>)> {
        let stem = |listed: &Listed| {
            let name = listed.path.rsplit('/').next().unwrap_or_default();
            name.rsplit_once('.').map_or(name, |(stem, _)| stem).to_owned()
        };
        let mut places: HashMap<String, Vec<usize>> = HashMap::new();
        for (place, listed) in self.files.iter().enumerate() {
            places.entry(stem(listed)).or_default().push(place);
        }
        let mut wanted = vec![false; self.files.len()];
        let (mut count, mut missing, mut first) = (0_u64, 0_u64, None);
        for name in names {
            let name = name?;
            count += 1;
            match places.get(&name) {
                Some(places) => places.iter().for_each(|&place| wanted[place] = true),
                None => {
                    missing += 1;
                    first.get_or_insert(name);
                }
            }
        }
        let mut keep = wanted.iter();
        let before = self.files.len();
        self.files.retain(|_| keep.next().is_some_and(|&keep| keep));
        if before == 0 {
            return Err(Error::input(&self.root, self.no_images()));
        }
        if self.files.is_empty() {
            let message = format!("has none of the {} of the list", counted(count as usize, "image"));
            return Err(Error::input(&self.root, message));
        }
        let mut notes = Vec::new();
        if let Some(first) = first {
            notes
                .push(format!("{missing} of the {count} images of the list are not in the folder, the first: {first}"));
        }
        match before - self.files.len() {
            0 => {}
            unlisted => notes.push(format!("{unlisted} of {before} images are not in the list and are left out")),
        }
        Ok((self, notes))
    }

    /// What to say if it has no images.
    pub fn no_images(&self) -> &str {
        if self.total() == 0 { &self.no_images } else { "contains no image that can be read" }
    }

    /// The number of files, and so of events.
    pub fn total(&self) -> usize {
        self.files.len()
    }

    /// How many files the previous index does not hold as they are, and about how long it takes to index them: as it takes for a
    /// few of them, as many as there are threads, which this reads and embeds.
    pub fn left(&self) -> (usize, Duration) {
        let is_left = |listed: &&Listed| {
            let stat = listed.stat(&self.root);
            !stat.is_ok_and(|stat| self.previous.is_some() && self.unchanged(&listed.path, stat).is_some())
        };
        let left: Vec<&Listed> = self.files.iter().filter(is_left).collect();
        let tried: Vec<&Listed> =
            left.iter().step_by(left.len().div_ceil(rayon::current_num_threads()).max(1)).copied().collect();
        let started = Instant::now();
        tried.par_iter().for_each(|listed| drop(self.handle(listed)));
        let each = started.elapsed().as_secs_f64() / tried.len().max(1) as f64;
        (left.len(), Duration::from_secs_f64(each * left.len() as f64))
    }

    /// What of the folder could not be looked at: folders and names, a line for each kind.
    pub fn unseen(&self) -> &[String] {
        &self.unseen
    }

    /// What of the images embedded so far does not count, such as pages and transparency: a line for each kind.
    pub fn notes(&self) -> Vec<String> {
        self.notes.lines()
    }

    /// The index of what has been handled so far. It counts as complete only at the end of the iteration;
    /// before, it keeps the previous index's images that are still to be visited.
    ///
    /// # Errors
    /// Never fails for a consistent build.
    pub fn index(&self) -> Result<Index> {
        let (mut entries, mut vectors) = (self.entries.clone(), self.vectors.clone());
        let complete = self.done == self.files.len();
        if let (false, Some(previous)) = (complete, &self.previous) {
            let visited = self.done.checked_sub(1).map(|last| self.files[last].path.as_str());
            for (id, entry) in self.earlier.iter().enumerate() {
                if visited.is_none_or(|visited| entry.path.as_str() > visited) {
                    vectors.push(&previous.vector(id)?);
                    entries.push(entry.clone());
                }
            }
        }
        Index::new(self.encoder.id().clone(), self.root.clone(), complete, self.tiles, entries, vectors)
    }

    /// Handles the next few files at once.
    fn advance(&mut self) {
        let batch = (2 * rayon::current_num_threads()).min(self.files.len() - self.done);
        let files = &self.files[self.done..self.done + batch];
        let results: Vec<Result<Found>> = files.par_iter().map(|listed| self.handle(listed)).collect();
        self.done += batch;
        for (Listed { path, .. }, result) in files.iter().zip(results) {
            let outcome = match result {
                Ok(found) => {
                    found.notes.into_iter().for_each(|note| self.notes.add(note, path));
                    for (entry, values) in found.entries {
                        self.vectors.push(&values);
                        self.entries.push(entry);
                    }
                    found.outcome
                }
                Err(error) => BuildOutcome::Skipped(error),
            };
            self.events.push_back(BuildEvent { path: path.clone(), outcome });
        }
    }

    /// The entries of the previous index with this path, size and time.
    fn unchanged(&self, path: &str, stat: Stat) -> Option<Range<usize>> {
        let entries = &self.earlier;
        let first = entries.partition_point(|entry| entry.path.as_str() < path);
        let count = entries[first..].iter().take_while(|entry| entry.path == path).count();
        let entry = entries[first..first + count].first()?;
        let known = entry.content.is_some() && stat.modified.is_some();
        (known && (entry.size, entry.modified) == (stat.size, stat.modified)).then_some(first..first + count)
    }

    fn handle(&self, listed: &Listed) -> Result<Found> {
        let Listed { path, inside } = listed;
        let file = self.root.join(path);
        let stat = listed.stat(&self.root)?;
        // What the previous index knows, as the entries of a file.
        let stored = |previous: &Index, ids: Range<usize>, of: &dyn Fn(&Entry) -> Entry| {
            let entries = ids.map(|id| Ok((of(&self.earlier[id]), previous.vector(id)?))).collect::<Result<_>>()?;
            Ok(Found { entries, notes: Vec::new(), outcome: BuildOutcome::Reused })
        };
        if let (Some(previous), Some(ids)) = (&self.previous, self.unchanged(path, stat)) {
            return stored(previous, ids, &Entry::clone);
        }
        let bytes = inside.as_ref().map(|inside| inside.member.bytes(&inside.shard, &self.limits)).transpose()?;
        let (size, content) = match &bytes {
            Some(bytes) => (bytes.len() as u64, sha256(bytes)),
            None => hash_file(&file)?,
        };
        let entry = |tile| Entry { path: path.to_owned(), size, content: Some(content), modified: stat.modified, tile };
        if let (Some(previous), Some(ids)) = (&self.previous, self.known.get(&content)) {
            return stored(previous, ids.clone(), &|of| entry(of.tile));
        }
        let picture = match &bytes {
            Some(bytes) => read_bytes(&file, bytes, &Reading::default(), &self.limits)?.0.whole(&file)?,
            None => read_image(&file, &self.limits)?,
        };
        let (notes, picture) = (picture.notes_on_colours(), picture.tensor);
        let [.., height, width] = picture.dims();
        let tiles = self.tiles.map(|side| side.tiles(height, width)).unwrap_or_default();
        let mut entries = Vec::with_capacity(tiles.len().max(1));
        if tiles.is_empty() {
            entries.push((entry(None), self.encoder.image(&picture)?.values().to_vec()));
        }
        for tile in tiles {
            entries.push((entry(Some(tile)), self.encoder.image(&tile.cut(&picture)?)?.values().to_vec()));
        }
        Ok(Found { entries, notes, outcome: BuildOutcome::Embedded })
    }
}

/// What a file's directory entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    pub size: u64,
    /// See [`Entry::modified`].
    pub modified: Option<u64>,
}

/// A file that was changed less long ago, in nanoseconds, may change again without another time.
const SETTLED: u64 = 2_000_000_000;

impl Stat {
    /// # Errors
    /// [`Error::Input`] if there is no such file, or something else in its place: a pipe might never answer.
    pub fn of_file(path: &Path) -> Result<Self> {
        let metadata = fs::metadata(path).map_err(|e| Error::input(path, format!("cannot be read: {e}")))?;
        if !metadata.is_file() {
            return Err(Error::input(path, "is no file any more"));
        }
        let since =
            |time: SystemTime| time.duration_since(UNIX_EPOCH).ok().and_then(|d| u64::try_from(d.as_nanos()).ok());
        let (changed, now) = (metadata.modified().ok().and_then(since), since(SystemTime::now()));
        let settled = |changed: &u64| now.is_some_and(|now| changed.saturating_add(SETTLED) < now);
        Ok(Self { size: metadata.len(), modified: changed.filter(settled) })
    }
}

impl Iterator for Build<'_> {
    type Item = BuildEvent;

    fn next(&mut self) -> Option<BuildEvent> {
        if self.events.is_empty() && self.done < self.files.len() {
            self.advance();
        }
        self.events.pop_front()
    }
}

/// An image to index: its path, and where it is in a tar file, if it is in one.
struct Listed {
    path: String,
    inside: Option<Inside>,
}

impl Listed {
    fn stat(&self, root: &Path) -> Result<Stat> {
        match &self.inside {
            Some(inside) => Ok(Stat { size: inside.member.size, modified: inside.modified }),
            None => Stat::of_file(&root.join(&self.path)),
        }
    }
}

/// The place of an image in a tar file.
struct Inside {
    shard: Arc<PathBuf>,
    /// See [`Stat`], of the tar file.
    modified: Option<u64>,
    member: Member,
}

/// The entries of a file with their vectors.
struct Found {
    entries: Vec<(Entry, Vec<f32>)>,
    notes: Vec<String>,
    outcome: BuildOutcome,
}
