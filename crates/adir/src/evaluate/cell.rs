//! One result: what was made and how good it is.

use std::collections::BTreeMap;
use std::path::Path;

use crate::adapt::HeldOut;
use crate::engine::write_json;
use crate::metric::{Case, Metric, Needs};
use crate::tensor::Tensor;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::method::Made;
use super::task::EvalTask;

/// A measured result.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cell {
    /// The folder of the image.
    pub set: String,
    /// The task, as it was written.
    pub task: String,
    /// The image.
    pub image: String,
    /// The method.
    pub method: String,
    /// The seed.
    pub seed: u64,
    /// How long it took.
    pub seconds: f64,
    /// What held-out images say of the adaptation, if there was one and any were held out.
    pub held_out: Option<HeldOut>,
    /// By the name of the metric.
    pub measured: BTreeMap<String, Measurement>,
    /// What determined it.
    pub made_from: Value,
}

/// What a metric says of the samples; absent where it says nothing, or is not asked ([`Metric::over`]).
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measurement {
    /// The mean over the samples of the number of each.
    #[serde(default, with = "number", skip_serializing_if = "Option::is_none")]
    pub one: Option<f64>,
    /// The number of the mean of the samples.
    #[serde(default, with = "number", skip_serializing_if = "Option::is_none")]
    pub mean: Option<f64>,
}

/// Measures what was made against the truth `x` and the observation `y`, `[1, c, h, w]` both.
///
/// # Errors
/// Those of the metrics.
pub fn measure(
    metrics: &[Box<dyn Metric>],
    made: &Made,
    task: &EvalTask,
    x: &Tensor<4>,
    y: &Tensor<4>,
) -> Result<BTreeMap<String, Measurement>> {
    measure_by(metrics.iter().map(AsRef::as_ref), made, task, x, y)
}

/// [`measure`] by metrics of a list that holds others, too.
pub(super) fn measure_by<'m>(
    metrics: impl Iterator<Item = &'m dyn Metric>,
    made: &Made,
    task: &EvalTask,
    x: &Tensor<4>,
    y: &Tensor<4>,
) -> Result<BTreeMap<String, Measurement>> {
    let compared = task.measured(x, y)?;
    let (operator, y) = match &compared {
        None => (task.operator(x)?, y.clone()),
        Some(compared) => compared.judged()?,
    };
    let value = |metric: &dyn Metric, restored: &Tensor<4>| match (metric.needs(), &compared) {
        // What is compared with the observation is what A acts on, which may be light.
        (Needs::Observation, Some(compared)) => {
            metric.value(&Case::new(&compared.compared(restored)?).with_observation(operator.as_ref(), &y))
        }
        _ => {
            let case = Case::new(restored).with_truth(x).with_observation(operator.as_ref(), &y);
            metric.value(&case.with_border(task.factor().unwrap_or(0)))
        }
    };
    let mut measured = BTreeMap::new();
    for metric in metrics {
        let mut found = Measurement::default();
        if metric.over().samples() {
            let values = made.samples.iter().map(|sample| value(metric, sample));
            let values: Option<Vec<f64>> = values.collect::<Result<_>>()?;
            found.one = values.map(|values| values.iter().sum::<f64>() / values.len() as f64);
        }
        if metric.over().mean() {
            found.mean = value(metric, &made.mean)?;
        }
        measured.insert(metric.name().to_owned(), found);
    }
    Ok(measured)
}

impl Cell {
    /// The cell kept in that file, if there is one.
    ///
    /// # Errors
    /// [`Error::Input`] when the file is no cell; [`Error::Io`] when it cannot be read.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        match std::fs::read_to_string(path) {
            Ok(text) => {
                let cell = serde_json::from_str(&text);
                cell.map(Some).map_err(|e| {
                    Error::input(path, format!("is not a result of adir eval (delete it to measure again): {e}"))
                })
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io(path, e)),
        }
    }

    /// Keeps it.
    ///
    /// # Errors
    /// [`Error::Io`] where the system refuses.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_json(path, self)
    }

    /// Whether the metric says nothing of it.
    pub fn lacks(&self, metric: &dyn Metric) -> bool {
        let over = metric.over();
        let lacks = |found: &Measurement| over.samples() && found.one.is_none() || over.mean() && found.mean.is_none();
        self.measured.get(metric.name()).is_none_or(lacks)
    }

    /// Set, task, image, method and numbers in one line.
    pub fn summary(&self, metrics: &[Box<dyn Metric>]) -> String {
        let numbers = metrics.iter().filter_map(|metric| {
            let (found, digits) = (self.measured.get(metric.name())?, metric.digits());
            let one = found.one.map(|v| format!(" {v:.digits$}"));
            let mean = found.mean.map(|v| format!(" mean {v:.digits$}"));
            (one.is_some() || mean.is_some())
                .then(|| format!("{}{}{}", metric.name(), one.unwrap_or_default(), mean.unwrap_or_default()))
        });
        let numbers = numbers.collect::<Vec<_>>().join(", ");
        format!("{} {} {} {}: {numbers}", self.set, self.task, self.image, self.method)
    }
}

/// Numbers that may be infinite, which JSON has no word for: then as text.
mod number {
    use crate::engine::Decibel;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[allow(clippy::ref_option)] // as serde calls it
    pub fn serialize<S: Serializer>(value: &Option<f64>, to: S) -> Result<S::Ok, S::Error> {
        value.map(Decibel).serialize(to)
    }

    pub fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Option<f64>, D::Error> {
        Ok(Option::<Decibel>::deserialize(from)?.map(|value| value.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_survives_being_kept_where_it_is_perfect_and_where_it_is_missing() {
        for (one, mean, text) in
            [(Some(0.1), None, r#"{"one":0.1}"#), (None, Some(f64::INFINITY), r#"{"mean":"inf"}"#), (None, None, "{}")]
        {
            let kept = Measurement { one, mean };
            assert_eq!(serde_json::to_string(&kept).unwrap(), text);
            assert_eq!(serde_json::from_str::<Measurement>(text).unwrap(), kept);
        }
        assert!(serde_json::from_str::<Measurement>(r#"{"one":"much"}"#).is_err());
        assert!(serde_json::from_str::<Measurement>("21.5").is_err(), "as results before behaviour 2 have them");
    }
}
