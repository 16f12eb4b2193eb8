//! Reading a configuration that diffusers or transformers wrote: what matters is taken, the rest must be as supported.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{Error, Result};

/// The settings of a configuration that nothing has asked for yet.
pub(super) struct Settings {
    /// What it is a configuration of, for messages.
    what: &'static str,
    class: Option<String>,
    left: Map<String, Value>,
}

impl Settings {
    /// Of a JSON object. Names that begin with `_` tell of the program that wrote it, and are left out.
    ///
    /// # Errors
    /// [`Error::Config`] for anything else.
    pub fn parse(what: &'static str, text: &str) -> Result<Self> {
        let found: Value =
            serde_json::from_str(text).map_err(|e| Error::config(format!("the configuration of the {what}: {e}")))?;
        let Value::Object(mut left) = found else {
            return Err(Error::config(format!("the configuration of the {what} is no JSON object")));
        };
        let class = left.get("_class_name").and_then(Value::as_str).map(String::from);
        left.retain(|name, _| !name.starts_with('_'));
        Ok(Self { what, class, left })
    }

    /// The class of the program that wrote it, where it says so.
    pub fn class(&self) -> Option<&str> {
        self.class.as_deref()
    }

    /// The value of `name`, or `default` where it is absent or null.
    ///
    /// # Errors
    /// [`Error::Config`] for a value of another type.
    pub fn take<T: DeserializeOwned>(&mut self, name: &str, default: T) -> Result<T> {
        match self.left.remove(name) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => serde_json::from_value(value.clone())
                .map_err(|e| Error::config(format!("the configuration of the {}: {name} = {value}: {e}", self.what))),
        }
    }

    /// The ends of betas that are linear in their roots, the only ones supported.
    ///
    /// # Errors
    /// [`Error::Config`] for others.
    pub fn take_betas(&mut self) -> Result<[f64; 2]> {
        let kind: String = self.take("beta_schedule", "linear".to_owned())?;
        if kind != "scaled_linear" {
            return Err(Error::config(format!("beta_schedule = {kind:?}: expected \"scaled_linear\"")));
        }
        Ok([self.take("beta_start", 1e-4)?, self.take("beta_end", 0.02)?])
    }

    /// Checks that all that is left has the value named here, the only one supported, or is null; the names in `unused`
    /// may have any.
    ///
    /// # Errors
    /// [`Error::Config`] naming every setting that has another value or is not known.
    pub fn finish(self, supported: &[(&str, Value)], unused: &[&str]) -> Result<()> {
        let complaint = |(name, value): (String, Value)| {
            if value.is_null() || unused.contains(&name.as_str()) {
                return None;
            }
            let expected = supported.iter().find(|(known, _)| *known == name).map(|(_, expected)| expected);
            match expected {
                Some(expected) if same(expected, &value) => None,
                Some(expected) => Some(format!("{name} = {value} is not supported, only {expected}")),
                None => Some(format!("{name} = {value} is not known")),
            }
        };
        let complaints: Vec<_> = self.left.into_iter().filter_map(complaint).collect();
        if complaints.is_empty() {
            return Ok(());
        }
        Err(Error::config(format!("the configuration of the {}: {}", self.what, complaints.join("; "))))
    }
}

/// Refuses a number that is not from 1 to `most`.
///
/// # Errors
/// [`Error::Config`] naming `what` it belongs to.
pub(super) fn within(what: &str, name: &str, value: usize, most: usize) -> Result<()> {
    if (1..=most).contains(&value) {
        return Ok(());
    }
    Err(Error::config(format!("the {what}'s {name} = {value}: expected 1 to {most}")))
}

/// Whether two values are equal, numbers by their value.
fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

/// One value for all levels, or one for each.
#[derive(serde::Deserialize)]
#[serde(untagged)]
pub(super) enum PerLevel<T> {
    All(T),
    Each(Vec<T>),
}

impl<T: Clone> PerLevel<T> {
    /// The values of `levels` levels.
    ///
    /// # Errors
    /// [`Error::Config`] for another number of values.
    pub fn of(self, name: &str, levels: usize) -> Result<Vec<T>> {
        match self {
            Self::All(value) => Ok(vec![value; levels]),
            Self::Each(values) if values.len() == levels => Ok(values),
            Self::Each(values) => Err(Error::config(format!("{name} has {} values for {levels} levels", values.len()))),
        }
    }
}
