//! Which weights an observation is sampled with, by what it says of them.

use std::sync::Arc;

use super::by_y::{ByY, Misfit};
use super::extent::Extent;
use crate::Result;
use crate::models::Prior;
use crate::restore::RestorePlan;

/// Which weights an observation is sampled with, by what it says of them.
pub(super) struct Choice<'a> {
    pub restore: &'a RestorePlan,
    pub extent: Extent,
    pub seed: u64,
    /// Those chosen so far.
    pub sampled: Arc<Prior>,
    /// What y says of the adapter that was the start.
    pub start_by_y: Option<ByY>,
    /// What it says of the adapted weights.
    pub by_y: Option<ByY>,
}

impl Choice<'_> {
    /// Takes the weights of an adapter whatever y says of them, and lets it speak.
    pub fn adapted_as_named(&mut self, adapted: Arc<Prior>) -> Result<ByY> {
        let measure = |prior: &Prior| Misfit::measure(self.restore, prior, self.extent, self.seed);
        let by_y = measure(&adapted)?.against(&measure(&self.sampled)?);
        (self.sampled, self.by_y) = (adapted, Some(by_y));
        Ok(by_y)
    }

    /// Takes weights that were not checked on held-out images only where y is nearer to their estimates by more than the
    /// standard error; those that were (`checked`) unless y is farther from theirs by more than that. Returns whether the
    /// adapted ones are taken.
    pub fn between(&mut self, start: Option<Arc<Prior>>, adapted: Option<Arc<Prior>>, checked: bool) -> Result<bool> {
        let measure = |prior: &Prior| Misfit::measure(self.restore, prior, self.extent, self.seed);
        if start.is_none() && adapted.is_none() {
            return Ok(false);
        }
        let mut misfit = measure(&self.sampled)?;
        if let Some(start) = start {
            let other = measure(&start)?;
            let by_y = other.against(&misfit);
            self.start_by_y = Some(by_y);
            if by_y.is_better() {
                (self.sampled, misfit) = (start, other);
            }
        }
        let Some(adapted) = adapted else { return Ok(false) };
        let by_y = measure(&adapted)?.against(&misfit);
        self.by_y = Some(by_y);
        // What was checked was checked against the start.
        let start_was_left = self.start_by_y.is_some_and(|by_y| !by_y.is_better());
        let used = if checked && !start_was_left { !by_y.is_worse() } else { by_y.is_better() };
        if used {
            self.sampled = adapted;
        }
        Ok(used)
    }
}
