//! One number of a table for one image, in a file of its own beside its picture.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::Measurement;
use super::super::cell::measure_by;
use super::super::method::Made;
use super::plan::Observation;
use super::tables::Table;
use crate::engine::{Decibel, ImageRecord, write_json};
use crate::metric::Metric;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// A restored image of a table, measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PaperCell {
    /// The table.
    pub table: Table,
    /// The task, as evaluations write it.
    pub task: String,
    /// Side of the reference.
    pub side: usize,
    /// The method.
    pub method: String,
    /// The image, below its folder.
    pub image: String,
    /// The seed.
    pub seed: u64,
    /// How long the last run took that worked on it: all, unless one before was interrupted.
    pub seconds: f64,
    /// What the model was adapted to, nearest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub neighbours: Vec<ImageRecord>,
    /// Images of the gallery that show what the photograph shows, which were left out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub copies: usize,
    /// By the names of the metrics.
    pub measured: BTreeMap<String, Measured>,
    /// What determined the picture.
    pub made_from: Value,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// A number, and what measured it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The number; absent where the metric does not apply.
    pub value: Option<Decibel>,
    /// What tells it from those of other networks: [`Metric::identity`].
    pub by: String,
}

impl PaperCell {
    /// The number of a metric, where it applies.
    pub fn value(&self, metric: &str) -> Option<f64> {
        Some(self.measured.get(metric)?.value?.0)
    }

    /// Those metrics whose numbers it lacks, or has of another network.
    pub(super) fn lacks<'a>(&self, metrics: &'a [Box<dyn Metric>]) -> Vec<&'a dyn Metric> {
        let known = |metric: &&dyn Metric| {
            self.measured.get(metric.name()).is_some_and(|measured| measured.by == metric.identity())
        };
        metrics.iter().map(AsRef::as_ref).filter(|metric| !known(metric)).collect()
    }

    /// Measures what it lacks of `metrics` on its picture.
    pub(super) fn measure(
        &mut self,
        metrics: &[Box<dyn Metric>],
        picture: &Tensor<4>,
        seen: &Observation,
    ) -> Result<()> {
        let made = Made { samples: vec![picture.clone()], mean: picture.clone(), seconds: 0.0, held_out: None };
        let found = measure_by(self.lacks(metrics).into_iter(), &made, &seen.task, &seen.x, &seen.y)?;
        for metric in self.lacks(metrics) {
            // Of one picture both are the same.
            let Measurement { one, mean } = found.get(metric.name()).copied().unwrap_or_default();
            let measured = Measured { value: one.or(mean).map(Decibel), by: metric.identity() };
            self.measured.insert(metric.name().to_owned(), measured);
        }
        Ok(())
    }

    /// The cell kept in that file, if there is one.
    pub(super) fn read(path: &Path) -> Result<Option<Self>> {
        match std::fs::read_to_string(path) {
            Ok(text) => serde_json::from_str(&text).map(Some).map_err(|e| {
                Error::input(path, format!("is no result of adir eval --paper (delete it to make it again): {e}"))
            }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io(path, e)),
        }
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        write_json(path, self)
    }

    /// Task, image, method and numbers in one line.
    pub fn summary(&self, metrics: &[Box<dyn Metric>]) -> String {
        let numbers = metrics.iter().filter_map(|metric| {
            let (value, digits) = (self.value(metric.name())?, metric.digits());
            Some(format!("{} {value:.digits$}", metric.name()))
        });
        let numbers = numbers.collect::<Vec<_>>().join(", ");
        format!("{} {} {} {}: {numbers}", self.task, self.side, self.image, self.method)
    }
}
