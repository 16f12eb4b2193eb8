//! Exact search: the K images at the smallest spherical distance (Eq. 19), ties by id.
//!
//! The scan computes cosines in f32 at the speed of memory, and keeps every image that rounding could still
//! have kept out of the first K. Only those get their distance in f64, which decides. So the answer is the
//! one a plain f64 loop gives, on every processor and for every number of threads.

use std::sync::atomic::{AtomicUsize, Ordering};

use adir_kernels::scan;
use rayon::prelude::*;

use super::ContentHash;
use super::index::{Content, Held, Index, Vectors};
use super::layout::BLOCK as STORED_BLOCK;
use super::stored::{Block, Rows, Stored};
use crate::Result;
use crate::encode::Embedding;
use crate::encode::spherical_distance;

/// Rows that one thread scans at a time.
const BLOCK: usize = 1024;

/// An image and how far it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Neighbour {
    /// Its place in [`Index::entries`].
    pub id: usize,
    /// Spherical distance in radians (Eq. 19), 0 to pi.
    pub distance: f64,
}

/// Images to leave out.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Exclude {
    /// Those closer than this, in radians: near-duplicates of the query. 0 leaves out none.
    pub closer_than: f64,
    /// Those with this content: the query's own file.
    pub content: Option<ContentHash>,
}

impl Index {
    /// The `k` nearest images that `exclude` does not leave out, nearest first, ties by id; fewer only if
    /// there are no more.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) if `query` comes from another encoder than the index;
    /// [`Error::Input`](crate::Error::Input) if the file of a large one cannot be read or is damaged.
    pub fn nearest(&self, query: &Embedding, k: usize, exclude: &Exclude) -> Result<Vec<Neighbour>> {
        self.check_encoder(query.encoder())?;
        if k == 0 {
            return Ok(Vec::new());
        }
        let values = query.values();
        let candidates = match &*self.content {
            Content::Memory(held) => match &held.vectors {
                Vectors::F16(all) => self.scan(held, values, all, scan::dots_f16, k, exclude),
                Vectors::F32(all) => self.scan(held, values, all, scan::dots_f32, k, exclude),
            },
            Content::File(file) => file.scan(values, k, exclude)?,
        };
        let exact = |(_, id)| Ok(Neighbour { id, distance: spherical_distance(values, &self.vector(id)?) });
        let mut found = candidates.into_par_iter().map(exact).collect::<Result<Vec<Neighbour>>>()?;
        found.sort_by(|a, b| a.distance.total_cmp(&b.distance).then(a.id.cmp(&b.id)));
        found.truncate(k);
        Ok(found)
    }

    /// Every image that may be among the `k` nearest, with its cosine.
    fn scan<T: Sync>(
        &self,
        held: &Held,
        query: &[f32],
        rows: &[T],
        dots: fn(&[f32], &[T], &mut [f32]),
        k: usize,
        exclude: &Exclude,
    ) -> Vec<(f32, usize)> {
        let error = cosine_error(query.len());
        let left_out = |id: usize, cosine: f32| {
            exclude.is_too_close(query, cosine, || held.vectors.row(id, query.len()))
                || (exclude.content.is_some() && held.entries[id].content == exclude.content)
        };
        let merged = rows
            .par_chunks(BLOCK * query.len())
            .zip(held.inverse_norms.par_chunks(BLOCK))
            .enumerate()
            .fold(
                || (Candidates::new(k, error), Vec::new()),
                |(mut candidates, mut cosines), (block, (rows, inverse_norms))| {
                    cosines.resize(inverse_norms.len(), 0.0);
                    dots(query, rows, &mut cosines);
                    for (i, (dot, inverse_norm)) in cosines.iter().zip(inverse_norms).enumerate() {
                        let cosine = dot * inverse_norm;
                        if cosine >= candidates.threshold && !left_out(block * BLOCK + i, cosine) {
                            candidates.push(cosine, block * BLOCK + i);
                        }
                    }
                    (candidates, cosines)
                },
            )
            .map(|(candidates, _)| candidates)
            .reduce(|| Candidates::new(k, error), Candidates::merge);
        merged.finish()
    }
}

impl Exclude {
    /// Whether a vector with that cosine, as scanned, is closer than allowed.
    fn is_too_close(&self, query: &[f32], cosine: f32, vector: impl FnOnce() -> Vec<f32>) -> bool {
        // At least this cosine: close enough to need the exact distance.
        let close = || self.closer_than.cos() as f32 - cosine_error(query.len());
        self.closer_than > 0.0 && cosine >= close() && spherical_distance(query, &vector()) < self.closer_than
    }
}

impl Stored {
    /// As [`Index::scan`], block by block from the file. Each thread takes the next block that no other has.
    fn scan(&self, query: &[f32], k: usize, exclude: &Exclude) -> Result<Vec<(f32, usize)>> {
        let error = cosine_error(query.len());
        let (layout, next) = (self.layout(), AtomicUsize::new(0));
        let scan_some = |_| {
            let (mut candidates, mut cosines) = (Candidates::new(k, error), Vec::new());
            let mut block = Block::default();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= layout.blocks() {
                    return Ok(candidates);
                }
                self.block(number, &mut block)?;
                let (rows, inverse_norms) = (block.vectors(layout), block.inverse_norms());
                cosines.resize(inverse_norms.len(), 0.0);
                match &rows {
                    Rows::F16(all) => scan::dots_f16(query, all, &mut cosines),
                    Rows::F32(all) => scan::dots_f32(query, all, &mut cosines),
                }
                for (i, (dot, inverse_norm)) in cosines.iter().zip(inverse_norms).enumerate() {
                    let (id, cosine) = (number * STORED_BLOCK + i, dot * inverse_norm);
                    if cosine < candidates.threshold || cosine.is_nan() {
                        continue;
                    }
                    let is_own = exclude.content.is_some() && self.entry(id)?.content == exclude.content;
                    if !is_own && !exclude.is_too_close(query, cosine, || rows.row(i, query.len())) {
                        candidates.push(cosine, id);
                    }
                }
            }
        };
        let threads = rayon::current_num_threads().min(layout.blocks()).max(1);
        let found: Vec<Result<Candidates>> = (0..threads).into_par_iter().with_max_len(1).map(scan_some).collect();
        let found = found.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(found.into_iter().fold(Candidates::new(k, error), Candidates::merge).finish())
    }
}

/// How far a scanned cosine may be from the true one: the scan's own rounding, and that of the query's and
/// the row's scaling to length one.
fn cosine_error(dimension: usize) -> f32 {
    scan::relative_error(dimension) + 8.0 * f32::EPSILON
}

/// The images that may be among the `k` of largest cosine, when cosines are known to `error`.
///
/// Where k computed cosines are at least c, the k-th largest true one is at least `c - error`; so an image
/// computed below `c - 2 error` is not among the first k.
struct Candidates {
    k: usize,
    error: f32,
    /// No image below this cosine is among the first k.
    threshold: f32,
    kept: Vec<(f32, usize)>,
    /// Length of `kept` at which to look for a better threshold.
    limit: usize,
}

impl Candidates {
    fn new(k: usize, error: f32) -> Self {
        Self { k, error, threshold: f32::NEG_INFINITY, kept: Vec::new(), limit: k.saturating_mul(4).max(64) }
    }

    fn push(&mut self, cosine: f32, id: usize) {
        self.kept.push((cosine, id));
        if self.kept.len() >= self.limit {
            self.prune();
        }
    }

    /// Raises the threshold to what the kept cosines allow, and drops what falls below.
    fn prune(&mut self) {
        if self.kept.len() < self.k {
            return;
        }
        let (_, kth, _) = self.kept.select_nth_unstable_by(self.k - 1, |a, b| b.0.total_cmp(&a.0));
        self.threshold = self.threshold.max(kth.0 - 2.0 * self.error);
        self.kept.retain(|(cosine, _)| *cosine >= self.threshold);
        // Many may be equally near: doubling keeps the work linear.
        self.limit = self.limit.max(self.kept.len().saturating_mul(2));
    }

    fn merge(mut self, other: Self) -> Self {
        self.threshold = self.threshold.max(other.threshold);
        self.kept.extend(other.kept);
        self.prune();
        self
    }

    fn finish(mut self) -> Vec<(f32, usize)> {
        self.prune();
        self.kept
    }
}
