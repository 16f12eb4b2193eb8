//! Exact search: the K images at the smallest spherical distance (Eq. 19), ties by id.
//!
//! The scan computes cosines in f32 at the speed of memory, those of a large index from [rounded copies](super::rounded) of its
//! vectors, and keeps every image that rounding could still have kept out of the first K. Only those get their distance in
//! f64, which decides. So the answer is the one a plain f64 loop gives, on every processor and for every number of threads.

use std::sync::atomic::{AtomicUsize, Ordering};

use adir_kernels::scan;
use rayon::prelude::*;

use super::ContentHash;
use super::index::{Content, Held, Index, Vectors};
use super::layout::BLOCK as STORED_BLOCK;
use super::rounded::Rounded;
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
        self.decide(values, candidates, k)
    }

    /// The `k` nearest of some images. Those of the largest cosines get their distances first, until no other can be nearer.
    fn decide(&self, query: &[f32], mut candidates: Vec<Candidate>, k: usize) -> Result<Vec<Neighbour>> {
        candidates.sort_by(|a, b| b.most.total_cmp(&a.most));
        let exact = |candidate: &Candidate| {
            let id = candidate.id;
            Ok(Neighbour { id, distance: spherical_distance(query, &self.vector(id)?) })
        };
        let mut found: Vec<Neighbour> = Vec::new();
        for part in candidates.chunks(k.max(64)) {
            if found.len() == k && found.last().is_some_and(|last| f64::from(part[0].most) < last.distance.cos()) {
                break;
            }
            found.extend(part.par_iter().map(exact).collect::<Result<Vec<Neighbour>>>()?);
            found.sort_by(|a, b| a.distance.total_cmp(&b.distance).then(a.id.cmp(&b.id)));
            found.truncate(k);
        }
        Ok(found)
    }

    /// Every image that may be among the `k` nearest.
    fn scan<T: Sync>(
        &self,
        held: &Held,
        query: &[f32],
        rows: &[T],
        dots: fn(&[f32], &[T], &mut [f32]),
        k: usize,
        exclude: &Exclude,
    ) -> Vec<Candidate> {
        let error = cosine_error(query.len());
        let left_out = |candidate: &Candidate| {
            let id = candidate.id;
            (exclude.may_be_too_close(candidate.most)
                && exclude.is_too_close(query, &held.vectors.row(id, query.len())))
                || (exclude.content.is_some() && held.entries[id].content == exclude.content)
        };
        let merged = rows
            .par_chunks(BLOCK * query.len())
            .zip(held.inverse_norms.par_chunks(BLOCK))
            .enumerate()
            .fold(
                || (Candidates::new(k), Vec::new()),
                |(mut candidates, mut cosines), (block, (rows, inverse_norms))| {
                    cosines.resize(inverse_norms.len(), 0.0);
                    dots(query, rows, &mut cosines);
                    for (i, (dot, inverse_norm)) in cosines.iter().zip(inverse_norms).enumerate() {
                        let candidate = Candidate::new(block * BLOCK + i, dot * inverse_norm, error);
                        if candidate.most >= candidates.threshold && !left_out(&candidate) {
                            candidates.push(candidate);
                        }
                    }
                    (candidates, cosines)
                },
            )
            .map(|(candidates, _)| candidates)
            .reduce(|| Candidates::new(k), Candidates::merge);
        merged.finish()
    }
}

impl Exclude {
    /// Whether a vector of at most that cosine may be closer than allowed, so that the exact distance is needed.
    fn may_be_too_close(&self, most: f32) -> bool {
        self.closer_than > 0.0 && most >= self.closer_than.cos() as f32
    }

    fn is_too_close(&self, query: &[f32], vector: &[f32]) -> bool {
        spherical_distance(query, vector) < self.closer_than
    }
}

/// What a thread reads of a file at a time, and the cosines of its images.
#[derive(Default)]
struct Pass {
    block: Block,
    rounded: Rounded,
    cosines: Vec<f32>,
    /// How far each may be from the true one.
    errors: Vec<f32>,
}

impl Stored {
    /// As [`Index::scan`], block by block from the file. Each thread takes the next block that no other has.
    fn scan(&self, query: &[f32], k: usize, exclude: &Exclude) -> Result<Vec<Candidate>> {
        let (layout, next) = (self.layout(), AtomicUsize::new(0));
        let scan_some = |_| {
            let (mut candidates, mut pass) = (Candidates::new(k), Pass::default());
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= layout.blocks() {
                    return Ok(candidates);
                }
                self.cosines(query, number, &mut pass)?;
                for (i, (cosine, error)) in pass.cosines.iter().zip(&pass.errors).enumerate() {
                    let candidate = Candidate::new(number * STORED_BLOCK + i, *cosine, *error);
                    if candidate.most >= candidates.threshold && !self.is_left_out(query, &candidate, exclude)? {
                        candidates.push(candidate);
                    }
                }
            }
        };
        let threads = rayon::current_num_threads().min(layout.blocks()).max(1);
        let found: Vec<Result<Candidates>> = (0..threads).into_par_iter().with_max_len(1).map(scan_some).collect();
        let found = found.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(found.into_iter().fold(Candidates::new(k), Candidates::merge).finish())
    }

    /// The cosines of a block, from its rounded copies where there are some.
    fn cosines(&self, query: &[f32], number: usize, pass: &mut Pass) -> Result<()> {
        let layout = self.layout();
        if layout.rounded {
            self.rounded(number, &mut pass.rounded)?;
            pass.rounded.cosines(query, layout, &mut pass.cosines, &mut pass.errors);
            return Ok(());
        }
        self.block(number, &mut pass.block)?;
        let inverse_norms = pass.block.inverse_norms();
        pass.cosines.resize(inverse_norms.len(), 0.0);
        match pass.block.vectors(layout) {
            Rows::F16(all) => scan::dots_f16(query, all, &mut pass.cosines),
            Rows::F32(all) => scan::dots_f32(query, all, &mut pass.cosines),
        }
        pass.cosines.iter_mut().zip(inverse_norms).for_each(|(cosine, inverse_norm)| *cosine *= inverse_norm);
        pass.errors.clear();
        pass.errors.resize(inverse_norms.len(), cosine_error(query.len()));
        Ok(())
    }

    fn is_left_out(&self, query: &[f32], candidate: &Candidate, exclude: &Exclude) -> Result<bool> {
        let is_own = exclude.content.is_some() && self.entry(candidate.id)?.content == exclude.content;
        let may_be = exclude.may_be_too_close(candidate.most);
        Ok(is_own || (may_be && exclude.is_too_close(query, &self.row(candidate.id)?)))
    }
}

/// How far a scanned cosine may be from the true one: the scan's own rounding, and that of the query's and
/// the row's scaling to length one.
fn cosine_error(dimension: usize) -> f32 {
    scan::relative_error(dimension) + 8.0 * f32::EPSILON
}

/// An image, and what its cosine is at least and at most.
#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: usize,
    least: f32,
    most: f32,
}

impl Candidate {
    fn new(id: usize, cosine: f32, error: f32) -> Self {
        Self { id, least: cosine - error, most: cosine + error }
    }
}

/// The images that may be among the `k` of largest cosine.
///
/// If k images have a cosine of at least c, one whose cosine is below c is not among the first k.
struct Candidates {
    k: usize,
    /// No image below this cosine is among the first k.
    threshold: f32,
    kept: Vec<Candidate>,
    /// Length of `kept` at which to look for a better threshold.
    limit: usize,
}

impl Candidates {
    fn new(k: usize) -> Self {
        Self { k, threshold: f32::NEG_INFINITY, kept: Vec::new(), limit: k.saturating_mul(4).max(64) }
    }

    fn push(&mut self, candidate: Candidate) {
        self.kept.push(candidate);
        if self.kept.len() >= self.limit {
            self.prune();
        }
    }

    /// Raises the threshold to what the kept cosines allow, and drops what falls below.
    fn prune(&mut self) {
        if self.kept.len() < self.k {
            return;
        }
        let (_, kth, _) = self.kept.select_nth_unstable_by(self.k - 1, |a, b| b.least.total_cmp(&a.least));
        self.threshold = self.threshold.max(kth.least);
        self.kept.retain(|candidate| candidate.most >= self.threshold);
        // Many may be equally near: doubling keeps the work linear.
        self.limit = self.limit.max(self.kept.len().saturating_mul(2));
    }

    fn merge(mut self, other: Self) -> Self {
        self.threshold = self.threshold.max(other.threshold);
        self.kept.extend(other.kept);
        self.prune();
        self
    }

    fn finish(mut self) -> Vec<Candidate> {
        self.prune();
        self.kept
    }
}
