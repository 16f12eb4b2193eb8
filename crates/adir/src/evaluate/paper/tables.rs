//! What the paper's tables compare, and the numbers in them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::super::method::Method;
use crate::{Error, Result};

/// A table of the paper (arXiv 2212.03221).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Table {
    /// Super-resolution by 4 and by 8 with guided diffusion.
    #[serde(rename = "table1")]
    SuperResolution,
    /// Super-resolution by 4 with Stable Diffusion.
    #[serde(rename = "table2")]
    Latent,
    /// Deblurring with guided diffusion.
    #[serde(rename = "table3")]
    Deblurring,
}

/// One task of a table.
#[derive(Debug, Clone, Copy)]
pub struct Experiment {
    /// As [`super::super::EvalTask`] is written.
    pub task: &'static str,
    /// Side of the reference in pixels.
    pub side: usize,
    /// What is compared, in the order of the table.
    pub rows: &'static [Row],
}

/// One method of a task.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The method.
    pub method: Method,
    /// In the paper's first version (all weights are trained).
    pub first: Published,
    /// In its second version (low-rank factors), as far as it is known.
    pub second: Published,
}

/// What the paper says of a row.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Published {
    /// MUSIQ that learned from KonIQ-10k.
    pub koniq: Option<f64>,
    /// MUSIQ that learned from AVA.
    pub ava: Option<f64>,
    /// LPIPS; of which network is not known.
    pub lpips: Option<f64>,
}

const NOTHING: Published = Published { koniq: None, ava: None, lpips: None };

/// Both kinds of MUSIQ.
const fn both(koniq: f64, ava: f64) -> Published {
    Published { koniq: Some(koniq), ava: Some(ava), lpips: None }
}

/// All three, as the second version has them of super-resolution.
const fn all(koniq: f64, ava: f64, lpips: f64) -> Published {
    Published { koniq: Some(koniq), ava: Some(ava), lpips: Some(lpips) }
}

/// KonIQ's alone, as the second version has it of deblurring.
const fn koniq(koniq: f64) -> Published {
    Published { koniq: Some(koniq), ava: None, lpips: None }
}

const fn row(method: Method, first: Published, second: Published) -> Row {
    Row { method, first, second }
}

const TABLE_1: [Experiment; 2] = [
    Experiment {
        task: "sr4",
        side: 512,
        rows: &[
            row(Method::Bicubic, both(29.847, 3.617), NOTHING),
            row(Method::None, both(64.630, 4.876), NOTHING),
            row(Method::Itself, both(63.973, 4.807), NOTHING),
            row(Method::Knn, both(68.756, 5.163), NOTHING),
            row(Method::Lora, NOTHING, NOTHING),
        ],
    },
    Experiment {
        task: "sr8",
        side: 512,
        rows: &[
            row(Method::Bicubic, both(17.915, 3.523), NOTHING),
            row(Method::None, both(54.406, 4.433), all(53.99, 4.36, 0.365)),
            row(Method::Knn, both(58.580, 4.476), NOTHING),
            row(Method::Lora, NOTHING, all(55.89, 4.41, 0.347)),
        ],
    },
];

const TABLE_2: [Experiment; 1] = [Experiment {
    task: "sr4",
    side: 1024,
    rows: &[
        row(Method::Bicubic, both(36.953, 4.159), NOTHING),
        row(Method::None, both(69.184, 5.073), all(69.18, 5.07, 0.331)),
        row(Method::Knn, both(72.703, 5.545), NOTHING),
        row(Method::Lora, NOTHING, all(72.56, 5.51, 0.213)),
    ],
}];

const TABLE_3: [Experiment; 3] = [
    Experiment {
        task: "deblur:box:5+10",
        side: 256,
        rows: &[
            row(Method::Observed, NOTHING, NOTHING),
            row(Method::None, both(49.195, 4.196), koniq(49.19)),
            row(Method::Knn, both(56.874, 4.403), NOTHING),
            row(Method::Lora, NOTHING, koniq(55.78)),
        ],
    },
    Experiment {
        task: "deblur:box:5+10",
        side: 512,
        rows: &[
            row(Method::Observed, NOTHING, NOTHING),
            row(Method::None, both(58.665, 4.812), koniq(58.66)),
            row(Method::Knn, both(61.655, 4.880), NOTHING),
            row(Method::Lora, NOTHING, koniq(60.13)),
        ],
    },
    Experiment {
        // The paper leaves the kernel open; this is one of its authors' earlier experiments.
        task: "deblur:gaussian:15:1.6+10",
        side: 256,
        rows: &[
            row(Method::Observed, NOTHING, NOTHING),
            row(Method::None, both(48.114, 4.013), NOTHING),
            row(Method::Knn, both(51.804, 4.194), NOTHING),
            row(Method::Lora, NOTHING, NOTHING),
        ],
    },
];

impl Table {
    /// All of them, with their names.
    pub const ALL: [(Self, &'static str); 3] =
        [(Self::SuperResolution, "table1"), (Self::Latent, "table2"), (Self::Deblurring, "table3")];

    /// Images of the paper: the first of DIV2K's validation set.
    pub const IMAGES: usize = 50;

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(table, _)| *table == self).map_or("", |(_, name)| name)
    }

    /// What it is about.
    pub fn title(self) -> &'static str {
        match self {
            Self::SuperResolution => "super-resolution with guided diffusion",
            Self::Latent => "super-resolution with Stable Diffusion",
            Self::Deblurring => "deblurring with guided diffusion",
        }
    }

    /// Its tasks.
    pub fn experiments(self) -> &'static [Experiment] {
        match self {
            Self::SuperResolution => &TABLE_1,
            Self::Latent => &TABLE_2,
            Self::Deblurring => &TABLE_3,
        }
    }

    /// Whether its model samples in latents.
    pub fn is_latent(self) -> bool {
        self == Self::Latent
    }

    /// Number of nearest images that models are adapted to (Table 4).
    pub fn neighbours(self) -> usize {
        if self.is_latent() { 50 } else { 20 }
    }

    /// Steps of sampling (Table 4).
    pub fn steps(self) -> usize {
        if self.is_latent() { 500 } else { 1000 }
    }

    /// Side of the crops that models are adapted to.
    pub fn adaptation_crop(self) -> usize {
        if self.is_latent() { 512 } else { 256 }
    }

    /// The methods of its rows.
    pub fn methods(self) -> Vec<Method> {
        let rows = || self.experiments().iter().flat_map(|experiment| experiment.rows);
        Method::ALL.map(|(method, _)| method).into_iter().filter(|m| rows().any(|row| row.method == *m)).collect()
    }

    /// How the paper calls a method.
    pub fn label(self, method: Method) -> &'static str {
        match (method, self.is_latent()) {
            (Method::Observed, _) => "observation",
            (Method::Bicubic, _) => "bicubic",
            (Method::None, false) => "GD",
            (Method::None, true) => "SD",
            (Method::Itself, _) => "IA",
            (Method::Knn, _) => "ADIR v1 (all weights)",
            (Method::Lora, _) => "ADIR v2 (LoRA)",
            (other, _) => other.name(),
        }
    }
}

impl FromStr for Table {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let found = Self::ALL.into_iter().find(|(_, name)| *name == text);
        found
            .map(|(table, _)| table)
            .ok_or_else(|| Error::config(format!("unknown table {text:?}: expected table1 to table3")))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::EvalTask;
    use super::*;
    use crate::task::Task;

    /// The gains that the paper's abstract and text speak of follow from its tables: digits are not swapped.
    #[test]
    fn published_numbers_are_those_of_the_paper() {
        let of = |table: Table, experiment: usize, method: Method| {
            table.experiments()[experiment].rows.iter().find(|row| row.method == method).copied().unwrap()
        };
        let first = of(Table::SuperResolution, 0, Method::Knn).first;
        assert_eq!((first.koniq, first.ava), (Some(68.756), Some(5.163)));
        let second = of(Table::SuperResolution, 1, Method::Lora).second;
        assert_eq!(second, all(55.89, 4.41, 0.347));
        assert_eq!(of(Table::Latent, 0, Method::Knn).first, both(72.703, 5.545));
        assert_eq!(of(Table::Deblurring, 1, Method::None).first, both(58.665, 4.812));
        // Adaptation to neighbours is the best row everywhere, that to the observation is none.
        for (table, _) in Table::ALL {
            for experiment in table.experiments() {
                let value = |method| experiment.rows.iter().find(|row| row.method == method)?.first.koniq;
                assert!(value(Method::Knn) > value(Method::None) && value(Method::Itself) < value(Method::None));
            }
        }
    }

    #[test]
    fn tasks_are_those_that_evaluations_know() {
        for (table, name) in Table::ALL {
            assert_eq!(name.parse::<Table>().unwrap(), table);
            for experiment in table.experiments() {
                let task: EvalTask = experiment.task.parse().unwrap();
                let blurs = task.task == Task::Deblur;
                assert_eq!((blurs, task.sigma.to_255()), (table == Table::Deblurring, if blurs { 10.0 } else { 0.0 }));
                assert!(experiment.rows.iter().all(|row| row.method.suits(&task)), "{name}");
            }
        }
        assert!("table4".parse::<Table>().is_err());
        assert_eq!(Table::Latent.methods(), [Method::Bicubic, Method::None, Method::Knn, Method::Lora]);
    }
}
