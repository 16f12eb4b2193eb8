//! Galleries: the index of a folder, brought up to date, with the encoder that made it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::cache::Cache;
use super::event::{Event, Watch, report, warn};
use super::record::ImageRecord;
use crate::encode::{Embedding, Encoder};
use crate::io::limits::Limits;
use crate::retrieve::{Build, BuildOutcome, ContentHash, Exclude, Index, Neighbour, Precision};
use crate::{Error, Result};

/// Warnings about files of a gallery that are shown one by one; the rest is counted.
const SHOWN_WARNINGS: usize = 20;

/// Images to choose from, and what tells their likeness.
pub struct Gallery {
    encoder: Arc<dyn Encoder>,
    index: Index,
}

/// An image of a gallery.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Found {
    pub path: PathBuf,
    pub record: ImageRecord,
}

impl Gallery {
    /// The gallery of a folder, whose index is brought up to date in `cache`, or of an index file.
    ///
    /// # Errors
    /// [`Error::Input`] when the folder or file cannot be read, holds no images, or was indexed by another encoder;
    /// [`Error::Interrupted`] when the watcher breaks.
    pub fn open(
        path: &Path,
        encoder: Arc<dyn Encoder>,
        cache: &dyn Cache,
        limits: &Limits,
        watch: &Watch<'_>,
    ) -> Result<Self> {
        if path.is_file() {
            let index = Index::open(path)?;
            index.check_encoder(encoder.id()).map_err(|e| Error::input(path, format!("{e}; see --encoder")))?;
            return Ok(Self { encoder, index });
        }
        let root = path.canonicalize().map_err(|e| Error::input(path, format!("cannot be opened: {e}")))?;
        let previous = match cache.index(&root, encoder.id()) {
            Ok(previous) => previous,
            Err(e) => {
                warn(watch, format!("the kept index is made anew: {e}"))?;
                None
            }
        };
        let keep = |index: &Index| match cache.keep_index(&root, index) {
            Ok(()) => Ok(()),
            Err(e) => warn(watch, format!("the index is not kept: {e}")),
        };
        let index = update(&root, encoder.as_ref(), Precision::F16, previous, limits, &keep, watch)?;
        Ok(Self { encoder, index })
    }

    /// The encoder.
    pub fn encoder(&self) -> &Arc<dyn Encoder> {
        &self.encoder
    }

    /// The index.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The `count` images nearest to `query`, nearest first, without those in `exclude`, and not closer than
    /// `closer_than` radians.
    ///
    /// # Errors
    /// [`Error::Input`] when no image is left; [`Error::Config`] for a query of another encoder.
    pub fn nearest(
        &self,
        query: &Embedding,
        count: usize,
        closer_than: f64,
        exclude: &[ContentHash],
    ) -> Result<Vec<Neighbour>> {
        let entries = self.index.entries();
        let is_excluded = |n: &Neighbour| entries[n.id].content.is_some_and(|content| exclude.contains(&content));
        // Excluded files may be several times in the gallery.
        let mut wanted = count;
        loop {
            let exclusion = Exclude { closer_than, content: exclude.first().copied() };
            let found = self.index.nearest(query, wanted, &exclusion)?;
            let exhausted = found.len() < wanted;
            let mut left: Vec<_> = found.into_iter().filter(|n| !is_excluded(n)).collect();
            if left.len() >= count || exhausted {
                left.truncate(count);
                return if left.is_empty() {
                    Err(Error::input(self.index.root(), "contains no images to adapt to"))
                } else {
                    Ok(left)
                };
            }
            wanted += exclude.len().max(1);
        }
    }

    /// Files and records of images.
    pub(super) fn describe(&self, images: &[Neighbour]) -> Result<Vec<Found>> {
        let describe = |n: &Neighbour| {
            let entry = &self.index.entries()[n.id];
            let path = self.index.root().join(&entry.path);
            let sha256 = match entry.content {
                Some(content) => content,
                // An index of embeddings from elsewhere knows no contents.
                None => ContentHash::of_file(&path)?,
            };
            let record = ImageRecord { path: Some(entry.path.clone().into()), sha256, distance: Some(n.distance) };
            Ok(Found { path, record })
        };
        images.iter().map(describe).collect()
    }
}

/// Brings the index file at `path` up to date with `folder`. What was embedded before an interruption is kept.
///
/// # Errors
/// [`Error::Input`] when the folder or the file cannot be read, or the folder holds no images; [`Error::Config`] when
/// the file was made by another encoder or at another precision; [`Error::Interrupted`] when the watcher breaks.
pub fn build_index(
    folder: &Path,
    encoder: &dyn Encoder,
    precision: Precision,
    path: &Path,
    limits: &Limits,
    watch: &Watch<'_>,
) -> Result<Index> {
    let root = folder.canonicalize().map_err(|e| Error::input(folder, format!("cannot be opened: {e}")))?;
    let previous = if path.is_file() { Some(Index::open(path)?) } else { None };
    update(&root, encoder, precision, previous, limits, &|index: &Index| index.save(path), watch)
}

/// The index of a folder, from what an earlier one knows; kept when it changed, and when the watcher breaks.
fn update(
    root: &Path,
    encoder: &dyn Encoder,
    precision: Precision,
    previous: Option<Index>,
    limits: &Limits,
    keep: &dyn Fn(&Index) -> Result<()>,
    watch: &Watch<'_>,
) -> Result<Index> {
    let before = previous.as_ref().filter(|index| index.is_complete()).map(|index| index.entries().to_vec());
    let mut build = Build::new(root, encoder, precision, *limits, previous)?;
    let total = build.total();
    let (mut done, mut skipped) = (0, 0);
    while let Some(event) = build.next() {
        done += 1;
        let mut reported = Ok(());
        if let BuildOutcome::Skipped(error) = event.outcome {
            skipped += 1;
            if skipped <= SHOWN_WARNINGS {
                reported = warn(watch, format!("left out: {error}"));
            }
        }
        reported = reported.and_then(|()| report(watch, &Event::Indexing { done, total, path: event.path }));
        if reported.is_err() {
            keep(&build.index()?)?;
            reported?;
        }
    }
    if skipped > SHOWN_WARNINGS {
        warn(watch, format!("left out: {} more files", skipped - SHOWN_WARNINGS))?;
    }
    let index = build.index()?;
    if index.entries().is_empty() {
        return Err(Error::input(root, "contains no images"));
    }
    // Entries carry the hashes of their files: equal ones have equal embeddings.
    if before.as_deref() != Some(index.entries()) {
        keep(&index)?;
    }
    Ok(index)
}
