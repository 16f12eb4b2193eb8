//! One result: what was made and how good it is.

use std::collections::BTreeMap;
use std::path::Path;

use adir::adapt::HeldOut;
use adir::metric::{Case, Metric};
use adir::tensor::Tensor;
use adir::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::method::Made;
use super::task::EvalTask;
use crate::record;

/// A measured result.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cell {
    pub set: String,
    pub task: String,
    pub image: String,
    pub method: String,
    pub seed: u64,
    pub seconds: f64,
    pub held_out: Option<HeldOut>,
    /// By the name of the metric.
    pub measured: BTreeMap<String, Measurement>,
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

/// Measures what was made against the truth `x` and the observation `y`.
pub fn measure(
    metrics: &[Box<dyn Metric>],
    made: &Made,
    task: &EvalTask,
    x: &Tensor<4>,
    y: &Tensor<4>,
) -> Result<BTreeMap<String, Measurement>> {
    let operator = task.operator(x)?;
    let case = |restored| {
        Case::new(restored).with_truth(x).with_observation(operator.as_ref(), y).with_border(task.factor().unwrap_or(0))
    };
    let mut measured = BTreeMap::new();
    for metric in metrics {
        let mut found = Measurement::default();
        if metric.over().samples() {
            let values = made.samples.iter().map(|sample| metric.value(&case(sample)));
            let values: Option<Vec<f64>> = values.collect::<Result<_>>()?;
            found.one = values.map(|values| values.iter().sum::<f64>() / values.len() as f64);
        }
        if metric.over().mean() {
            found.mean = metric.value(&case(&made.mean))?;
        }
        measured.insert(metric.name().to_owned(), found);
    }
    Ok(measured)
}

impl Cell {
    /// The cell kept in that file, if there is one.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        match std::fs::read_to_string(path) {
            Ok(text) => {
                let cell = serde_json::from_str(&text);
                cell.map(Some).map_err(|e| {
                    Error::input(path, format!("is no result of adir eval (delete it to measure again): {e}"))
                })
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io(path, e)),
        }
    }

    /// Keeps it.
    pub fn write(&self, path: &Path) -> Result<()> {
        record::write(path, &serde_json::to_value(self).map_err(|e| Error::config(format!("a result: {e}")))?)
    }

    /// In one line.
    pub fn line(&self, metrics: &[Box<dyn Metric>]) -> String {
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
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Stored {
        Number(f64),
        Text(String),
    }

    #[allow(clippy::ref_option)] // as serde calls it
    pub fn serialize<S: Serializer>(value: &Option<f64>, to: S) -> Result<S::Ok, S::Error> {
        value.map(crate::record::number).serialize(to)
    }

    pub fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Option<f64>, D::Error> {
        match Stored::deserialize(from)? {
            Stored::Number(value) => Ok(Some(value)),
            Stored::Text(text) => text.parse().map(Some).map_err(serde::de::Error::custom),
        }
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
