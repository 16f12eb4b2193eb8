//! Galleries: the index of a folder, brought up to date, with the encoder that made it.

use std::borrow::Cow;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::cache::Cache;
use super::event::{Event, Watch, report, warn};
use super::local::Local;
use super::record::ImageRecord;
use super::remote::RemoteGallery;
use crate::encode::{Embedding, Encoder};
use crate::io::limits::Limits;
use crate::io::tally::counted;
use crate::retrieve::{Build, BuildOutcome, ContentHash, Entry, Index, Neighbour, Precision, RemoteIndex, TileSide};
use crate::{Error, Result};

/// Files of a gallery that cannot be read: the first few are told of, the rest is counted.
#[derive(Debug, Default)]
pub(super) struct LeftOut(usize);

impl LeftOut {
    const SHOWN: usize = 3;

    /// Tells of one, or counts it.
    pub fn add(&mut self, error: &Error, watch: &Watch<'_>) -> Result<()> {
        self.0 += 1;
        if self.0 <= Self::SHOWN { warn(watch, format!("left out: {error}")) } else { Ok(()) }
    }

    /// Tells how many more there were.
    pub fn end(self, watch: &Watch<'_>) -> Result<()> {
        match self.0.saturating_sub(Self::SHOWN) {
            0 => Ok(()),
            more => warn(watch, format!("left out: {} that cannot be read", counted(more, "more file"))),
        }
    }
}

/// Images to choose from, and what tells their likeness.
pub struct Gallery {
    encoder: Arc<dyn Encoder>,
    place: Place,
}

/// Where the images are.
enum Place {
    /// In files, of which an index knows.
    Here(Local),
    /// On a server.
    Remote(RemoteGallery),
}

/// An image of a gallery.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Found {
    pub path: PathBuf,
    pub record: ImageRecord,
}

impl Gallery {
    /// The gallery of a folder, whose index is brought up to date in `cache`, or of an index file. Of a folder, large images
    /// count as one for each of their `tiles`.
    ///
    /// # Errors
    /// [`Error::Input`] when the folder or file cannot be read, holds no images, or was indexed by another encoder or, where
    /// `tiles` are asked for, without them;
    /// [`Error::Interrupted`] when the watcher breaks.
    pub fn open(
        path: &Path,
        tiles: Option<TileSide>,
        encoder: Arc<dyn Encoder>,
        cache: &dyn Cache,
        limits: &Limits,
        watch: &Watch<'_>,
    ) -> Result<Self> {
        if path.is_file() {
            let index = Index::open(path)?;
            if let Some(side) = tiles.filter(|_| index.tiles() != tiles) {
                let message =
                    format!("is no index of tiles of {side} pixels: make one with `adir index build --tiles {side}`");
                return Err(Error::input(path, message));
            }
            index.check_encoder(encoder.id()).map_err(|e| Error::input(path, format!("{e}; see --encoder")))?;
            return Ok(Self::of(index, encoder));
        }
        let Begun { root, before, build } = Begun::new(path, tiles, encoder.as_ref(), cache, limits, watch)?;
        let keep = |index: &Index| match cache.keep_index(&root, index) {
            Ok(()) => Ok(()),
            Err(e) => warn(watch, format!("the index is not kept: {e}")),
        };
        let index = update(&root, build, before, &keep, watch)?;
        Ok(Self::of(index, encoder))
    }

    /// How many images of a folder have to be indexed before it is [opened](Gallery::open), and about how long that takes.
    ///
    /// # Errors
    /// As [`Gallery::open`].
    pub(super) fn left_to_index(
        folder: &Path,
        tiles: Option<TileSide>,
        encoder: &dyn Encoder,
        cache: &dyn Cache,
        limits: &Limits,
    ) -> Result<(usize, Duration)> {
        let silent = |_: &Event| ControlFlow::Continue(());
        Ok(Begun::new(folder, tiles, encoder, cache, limits, &silent)?.build.left())
    }

    fn of(index: Index, encoder: Arc<dyn Encoder>) -> Self {
        Self { encoder, place: Place::Here(Local::new(index)) }
    }

    /// The gallery of an index on a server.
    ///
    /// # Errors
    /// Those of [`RemoteIndex::check_images`].
    pub fn remote(index: Box<dyn RemoteIndex>, encoder: Arc<dyn Encoder>) -> Result<Self> {
        Ok(Self { encoder, place: Place::Remote(RemoteGallery::new(index)?) })
    }

    /// The encoder.
    pub fn encoder(&self) -> &Arc<dyn Encoder> {
        &self.encoder
    }

    /// The index, where it is not on a server.
    ///
    /// # Errors
    /// [`Error::Config`] where it is: what all its images are cannot be told.
    pub fn index(&self) -> Result<&Index> {
        match &self.place {
            Place::Here(local) => Ok(&local.index),
            Place::Remote(remote) => {
                let address = remote.root().display();
                Err(Error::config(format!(
                    "{address}: is on a server, and this needs all images: give a folder or an index file"
                )))
            }
        }
    }

    /// Refuses a gallery of which no image can be used as it was indexed. Nothing is asked of a server.
    pub(super) fn check(&self, limits: &Limits) -> Result<()> {
        match &self.place {
            Place::Here(local) => local.check(limits),
            Place::Remote(_) => Ok(()),
        }
    }

    /// The folder of the images, or the address of the index on a server.
    pub fn root(&self) -> &Path {
        match &self.place {
            Place::Here(local) => local.index.root(),
            Place::Remote(remote) => remote.root(),
        }
    }

    /// The side that large images were divided by.
    pub fn tiles(&self) -> Option<TileSide> {
        self.index().ok().and_then(Index::tiles)
    }

    /// The file of an image that a search has found.
    ///
    /// # Errors
    /// As [`Index::entry`].
    pub(super) fn file(&self, id: usize) -> Result<PathBuf> {
        match &self.place {
            Place::Here(local) => local.index.file(id),
            Place::Remote(remote) => Ok(remote.image(id)?.file),
        }
    }

    /// The SHA-256 of an image that a search has found, if it is known.
    ///
    /// # Errors
    /// As [`Index::entry`].
    pub(super) fn content(&self, id: usize) -> Result<Option<ContentHash>> {
        match &self.place {
            Place::Here(local) => Ok(local.index.entry(id)?.content),
            Place::Remote(remote) => Ok(Some(remote.image(id)?.content)),
        }
    }

    /// What a record calls the image in a file: its path below the folder, or its address.
    pub(super) fn name_of(&self, file: &Path) -> Option<PathBuf> {
        match &self.place {
            Place::Here(local) => file.strip_prefix(local.index.root()).ok().map(Path::to_owned),
            Place::Remote(remote) => remote.place_of(file),
        }
    }

    /// The `count` images nearest to `query`, nearest first, without those in `exclude`, and not closer than
    /// `closer_than` radians. Of several files with one content, or whose embeddings are the same, it is the nearest. The
    /// next nearest images take the place of files that are gone or have changed since they were indexed: a warning says
    /// so.
    ///
    /// # Errors
    /// [`Error::Input`] when no image is left; [`Error::Config`] for a query of another encoder;
    /// [`Error::Interrupted`] when the watcher breaks.
    pub fn nearest(
        &self,
        query: &Embedding,
        count: usize,
        closer_than: f64,
        exclude: &[ContentHash],
        limits: &Limits,
        watch: &Watch<'_>,
    ) -> Result<Vec<Neighbour>> {
        match &self.place {
            Place::Here(local) => local.nearest(query, count, closer_than, exclude, limits, watch),
            Place::Remote(remote) => remote.nearest(query, count, closer_than, exclude, watch),
        }
    }

    /// Files and records of images that a search has found.
    pub(super) fn describe(&self, images: &[Neighbour], limits: &Limits) -> Result<Vec<Found>> {
        match &self.place {
            Place::Here(local) => local.describe(images, limits),
            Place::Remote(remote) => remote.describe(images),
        }
    }
}

/// An index from the cache, if it is what it should be: that of `root` by `encoder`.
/// An index in the cache that is to be brought up to date.
struct Begun<'a> {
    root: PathBuf,
    /// The images in the cache, if that index is complete.
    before: Option<Vec<Entry>>,
    build: Build<'a>,
}

impl<'a> Begun<'a> {
    fn new(
        folder: &Path,
        tiles: Option<TileSide>,
        encoder: &'a dyn Encoder,
        cache: &dyn Cache,
        limits: &Limits,
        watch: &Watch<'_>,
    ) -> Result<Self> {
        let root = folder.canonicalize().map_err(|e| Error::input(folder, format!("cannot be opened: {e}")))?;
        let found = cache.index(&root, encoder.id(), tiles);
        let previous = match found.and_then(|index| checked(index, &root, tiles, encoder)) {
            Ok(previous) => previous,
            Err(e) => {
                warn(watch, format!("the index in the cache is made anew: {e}"))?;
                None
            }
        };
        let before = finished(previous.as_ref())?;
        let build = Build::new(&root, encoder, Precision::F16, tiles, *limits, previous)?;
        Ok(Self { root, before, build })
    }
}

fn checked(index: Option<Index>, root: &Path, tiles: Option<TileSide>, encoder: &dyn Encoder) -> Result<Option<Index>> {
    if let Some(index) = &index {
        index.check_encoder(encoder.id())?;
        if index.precision() != Precision::F16
            || index.tiles() != tiles
            || index.root().canonicalize().ok().as_deref() != Some(root)
        {
            return Err(Error::input(index.root(), "its index is in the place of another folder's"));
        }
    }
    Ok(index)
}

/// Brings the index file at `path` up to date with `folder`, or with what of it is `chosen`. What was embedded before an
/// interruption is kept.
///
/// # Errors
/// [`Error::Input`] when the folder or the file cannot be read, or the folder holds no images; [`Error::Config`] when
/// the file was made by another encoder, at another precision or of other tiles; [`Error::Interrupted`] when the watcher breaks.
pub fn build_index(
    folder: &Path,
    encoder: &dyn Encoder,
    precision: Precision,
    chosen: Chosen<'_>,
    path: &Path,
    limits: &Limits,
    watch: &Watch<'_>,
) -> Result<Index> {
    let root = folder.canonicalize().map_err(|e| Error::input(folder, format!("cannot be opened: {e}")))?;
    let previous = if path.is_file() { Some(Index::open(path)?) } else { None };
    let before = finished(previous.as_ref())?;
    let Chosen { tiles, shards, names } = chosen;
    let build = Build::new(&root, encoder, precision, tiles, *limits, previous)?;
    let build = if shards { build.with_shards()? } else { build };
    let build = match names {
        None => build,
        Some(names) => {
            let (build, notes) = build.only(names)?;
            notes.into_iter().try_for_each(|note| warn(watch, note))?;
            build
        }
    };
    update(&root, build, before, &|index: &Index| index.save(path), watch)
}

/// Which images of a folder are indexed, and how; by default those that are files of their own, as a whole.
#[derive(Default)]
pub struct Chosen<'a> {
    /// Large ones divided into tiles of about this side.
    pub tiles: Option<TileSide>,
    /// Those in tar files, too.
    pub shards: bool,
    /// Only those whose names, without folders and endings, are among these.
    pub names: Option<Box<dyn Iterator<Item = Result<String>> + 'a>>,
}

/// The images of a complete index.
fn finished(index: Option<&Index>) -> Result<Option<Vec<Entry>>> {
    let complete = index.filter(|index| index.is_complete());
    complete.map(|index| index.entries().map(Cow::into_owned)).transpose()
}

/// The index of the folder `root`; kept when it is not that of the entries `before`, and when the watcher breaks.
fn update(
    root: &Path,
    mut build: Build<'_>,
    before: Option<Vec<Entry>>,
    keep: &dyn Fn(&Index) -> Result<()>,
    watch: &Watch<'_>,
) -> Result<Index> {
    for message in build.unseen() {
        warn(watch, message)?;
    }
    let total = build.total();
    let (mut done, mut left_out) = (0, LeftOut::default());
    while let Some(event) = build.next() {
        done += 1;
        let mut reported = Ok(());
        if let BuildOutcome::Skipped(error) = event.outcome {
            reported = left_out.add(&error, watch);
        }
        reported = reported.and_then(|()| report(watch, &Event::Indexing { done, total, path: event.path }));
        if reported.is_err() {
            keep(&build.index()?)?;
            reported?;
        }
    }
    left_out.end(watch)?;
    for note in build.notes() {
        warn(watch, note)?;
    }
    let index = build.index()?;
    if index.is_empty() {
        return Err(Error::input(root, build.no_images()));
    }
    // Entries carry the hashes of their files: equal ones have equal embeddings.
    if before.as_deref() != Some(&*index.entries()?) {
        keep(&index)?;
    }
    Ok(index)
}
