//! Observations of a folder that share an adapter, as their nearest images are the same.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::FolderPlan;
use crate::engine::adapt::{AdaptPlan, Observed};
use crate::engine::event::{Event, Watch, report};
use crate::engine::open::Engine;
use crate::io::image::read_hashed_as;
use crate::retrieve::group_by_neighbours;
use crate::{Error, Result};

/// Files that are grouped together: consecutive ones, whatever shards they belong to, so that every shard finds the same
/// groups. The time for grouping grows with the cube.
const BLOCK: usize = 500;

/// What a file shares with others.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    /// The group, by its first member.
    pub group: usize,
    /// The images of the gallery that the group adapts to.
    pub images: Vec<PathBuf>,
}

impl Engine {
    /// The groups of two or more of `files`, by member, as far as those in `wanted` need them. A file that cannot be read,
    /// or for which the gallery holds nothing, is in none.
    pub(super) fn shared(
        &self,
        plan: &AdaptPlan,
        folder: &FolderPlan,
        wanted: &[usize],
        watch: &Watch<'_>,
    ) -> Result<BTreeMap<usize, Shared>> {
        let mut shared = BTreeMap::new();
        let Some(gallery) = plan.request().target.gallery() else { return Ok(shared) };
        // What is shared is named by its file, which a tile is not, and nothing is restored yet.
        if plan.request().tiles.is_some() || !plan.request().query.is_usual() {
            return Ok(shared);
        }
        let gallery = self.gallery(gallery, None, watch)?;
        let mut blocks: Vec<usize> = wanted.iter().map(|k| k / BLOCK).collect();
        blocks.dedup();
        let ranges = blocks.into_iter().map(|block| block * BLOCK..((block + 1) * BLOCK).min(folder.files.len()));
        let ranges: Vec<_> = ranges.collect();
        let (total, mut done) = (ranges.iter().map(|range| range.len()).sum(), 0);
        for range in ranges {
            let (mut members, mut contents, mut nearest) = (Vec::new(), Vec::new(), Vec::new());
            for k in range {
                let path = folder.input(k);
                if let Ok((picture, content)) = read_hashed_as(&path, &folder.reading(k), &self.limits) {
                    let observed = Observed { y: &picture.tensor, file: Some(&path), content };
                    match self.nearest(&gallery, plan.request(), &observed, None, watch) {
                        Ok(found) => {
                            nearest.push(found);
                            members.push(k);
                            contents.push(content);
                        }
                        // Its own restoration says so, and stops no other.
                        Err(Error::Input { .. }) => {}
                        Err(e) => return Err(e),
                    }
                }
                done += 1;
                report(watch, &Event::Searching { done, total })?;
            }
            for group in group_by_neighbours(&nearest, folder.request.overlap) {
                if group.members.len() < 2 {
                    continue;
                }
                // No observation is adapted to itself, nor to one that shares its adapter.
                let mut images = Vec::new();
                for n in &group.neighbours {
                    let content = gallery.content(n.id)?;
                    if !group.members.iter().any(|&m| Some(contents[m]) == content) {
                        images.push(gallery.file(n.id)?);
                    }
                }
                if images.is_empty() {
                    continue;
                }
                let first = members[group.members[0]];
                for &m in &group.members {
                    shared.insert(members[m], Shared { group: first, images: images.clone() });
                }
            }
        }
        Ok(shared)
    }
}
