//! Galleries of files: the nearest images that are there as they were indexed.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use super::event::{Watch, warn};
use super::gallery::Found;
use super::record::ImageRecord;
use crate::encode::{Embedding, spherical_distance};
use crate::io::limits::Limits;
use crate::io::tally::counted;
use crate::io::{open_regular, shards};
use crate::retrieve::{ContentHash, Entry, Exclude, Index, Neighbour, Stat};
use crate::{Error, Result};

/// Images whose embeddings are closer than this, in radians, are one: rounding to f16 moves an embedding by 3e-4, and two
/// photographs of one scene are a hundred times as far apart.
const SAME_IMAGE: f64 = 1e-3;

/// An index, and what was said of its files.
pub(super) struct Local {
    pub index: Index,
    /// Images whose absence was reported.
    told: Mutex<BTreeSet<usize>>,
}

impl Local {
    pub fn new(index: Index) -> Self {
        Self { index, told: Mutex::default() }
    }

    /// Refuses an index of which no image can be used as it was indexed. Of a large one that is left to the search.
    pub fn check(&self, limits: &Limits) -> Result<()> {
        const MOST: usize = 1000;
        let mut gone = Vec::new();
        for id in 0..self.index.len().min(MOST) {
            match self.fault(&self.index.entry(id)?, limits) {
                Some(fault) => gone.push((id, fault)),
                None => return Ok(()),
            }
        }
        if gone.len() < self.index.len() { Ok(()) } else { Err(self.nothing_left(&gone)) }
    }

    /// That no image is left, because of those faults.
    fn nothing_left(&self, gone: &[(usize, Error)]) -> Error {
        let message = match gone.first() {
            Some((_, first)) => {
                let count = counted(gone.len(), "image");
                format!(
                    "contains no images to adapt to: {count} of the index cannot be used; build the index again (adir index \
                         build) if images were moved or changed. The first: {first}"
                )
            }
            None => "contains no images to adapt to besides the observation itself".into(),
        };
        Error::input(self.index.root(), message)
    }

    /// As [`Gallery::nearest`](super::gallery::Gallery::nearest).
    pub fn nearest(
        &self,
        query: &Embedding,
        count: usize,
        closer_than: f64,
        exclude: &[ContentHash],
        limits: &Limits,
        watch: &Watch<'_>,
    ) -> Result<Vec<Neighbour>> {
        let exclusion = Exclude { closer_than, content: exclude.first().copied() };
        let (mut left, mut gone) = (Vec::<(Neighbour, Entry)>::new(), Vec::new());
        let (mut wanted, mut seen) = (count, 0);
        while left.len() < count {
            let found = self.index.nearest(query, wanted, &exclusion)?;
            let exhausted = found.len() < wanted;
            for n in found.into_iter().skip(std::mem::replace(&mut seen, wanted)) {
                if left.len() == count {
                    break;
                }
                let entry = self.index.entry(n.id)?;
                if entry.content.is_some_and(|content| exclude.contains(&content)) {
                    continue;
                }
                match self.fault(&entry, limits) {
                    Some(fault) => gone.push((n.id, fault)),
                    None if self.is_copy((&n, &entry), &left)? => {}
                    None => left.push((n, entry)),
                }
            }
            if exhausted {
                break;
            }
            wanted = wanted.saturating_mul(2);
        }
        if left.is_empty() {
            if gone.is_empty() && closer_than > 0.0 {
                let message = format!(
                    "contains no images to adapt to that are {closer_than} radians or more from the observation"
                );
                return Err(Error::input(self.index.root(), message));
            }
            return Err(self.nothing_left(&gone));
        }
        self.tell(gone, watch)?;
        Ok(left.into_iter().map(|(n, _)| n).collect())
    }

    /// Whether an image is in `nearer` already, under another name or stored in another way.
    fn is_copy(&self, (n, entry): (&Neighbour, &Entry), nearer: &[(Neighbour, Entry)]) -> Result<bool> {
        let same = |a: &Entry, b: &Entry| a.content.is_some() && (a.content, a.tile) == (b.content, b.tile);
        if nearer.iter().any(|(_, other)| same(other, entry)) {
            return Ok(true);
        }
        // Copies are as far from the query as one another.
        for (other, _) in nearer.iter().rev().take_while(|(other, _)| n.distance - other.distance < SAME_IMAGE) {
            if spherical_distance(&self.index.vector(n.id)?, &self.index.vector(other.id)?) < SAME_IMAGE {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What keeps the file of an image from being used as it was indexed.
    fn fault(&self, entry: &Entry, limits: &Limits) -> Option<Error> {
        let path = self.index.root().join(&entry.path);
        let Some(content) = entry.content else {
            // The embedding came from elsewhere: whether there is an image has never been looked at.
            return shards::read_image_in(&path, limits).err();
        };
        if shards::split(&path).is_none() {
            let stat = match Stat::of_file(&path) {
                Ok(stat) => stat,
                Err(e) => return Some(e),
            };
            if stat.modified.is_some() && (stat.size, stat.modified) == (entry.size, entry.modified) {
                return open_regular(&path).err().map(|e| Error::input(&path, format!("cannot be read: {e}")));
            }
        }
        match shards::hash_in(&path, limits) {
            Ok(found) if found == content => None,
            Ok(_) => Some(Error::input(&path, "has changed since it was indexed")),
            Err(e) => Some(e),
        }
    }

    /// Warns of images that are gone, of each once.
    fn tell(&self, gone: Vec<(usize, Error)>, watch: &Watch<'_>) -> Result<()> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let new: Vec<Error> = gone.into_iter().filter(|(id, _)| told.insert(*id)).map(|(_, error)| error).collect();
        let Some(first) = new.first() else { return Ok(()) };
        let count = match new.len() {
            1 => "one of the nearest images is".to_owned(),
            more => format!("{more} of the nearest images are"),
        };
        warn(
            watch,
            format!(
                "{count} left out, and the next nearest taken: {first} (`adir index build` brings an index up to date)"
            ),
        )
    }

    /// Files and records of images.
    pub fn describe(&self, images: &[Neighbour], limits: &Limits) -> Result<Vec<Found>> {
        let describe = |n: &Neighbour| {
            let entry = self.index.entry(n.id)?;
            let path = self.index.root().join(&entry.path);
            let sha256 = match entry.content {
                Some(content) => content,
                // An index of embeddings from elsewhere knows no contents.
                None => shards::hash_in(&path, limits)?,
            };
            let distance = Some(n.distance);
            let record = ImageRecord { path: Some(entry.path.into()), sha256, tile: entry.tile, distance };
            Ok(Found { path, record })
        };
        images.iter().map(describe).collect()
    }
}
