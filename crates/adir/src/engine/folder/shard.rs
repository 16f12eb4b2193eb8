//! Parts of a folder, one for each of several processes, and the task numbers of schedulers.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Most parts of a folder.
const MOST: usize = 100_000;

/// One of several parts of a folder: consecutive files of its sorted list. Every file belongs to one part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// Which one, counted from 1.
    index: usize,
    /// Of how many.
    of: usize,
}

impl Shard {
    /// All files.
    pub const WHOLE: Self = Self { index: 1, of: 1 };

    /// Part `index` of `of`, counted from 1.
    ///
    /// # Errors
    /// [`Error::Config`] unless 1 <= index <= of <= 100000.
    pub fn new(index: usize, of: usize) -> Result<Self> {
        if index == 0 || index > of || of > MOST {
            return Err(Error::config(format!(
                "shard {index}/{of}: expected I/N with I from 1 to N, and N up to {MOST}"
            )));
        }
        Ok(Self { index, of })
    }

    /// Which one, counted from 1.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The number of parts.
    pub fn of(&self) -> usize {
        self.of
    }

    /// Its part of `files` files.
    pub fn range(&self, files: usize) -> Range<usize> {
        let start = |k: usize| (files as u128 * k as u128 / self.of as u128) as usize;
        start(self.index - 1)..start(self.index)
    }

    /// The part of a scheduler's task, by the variables of its environment.
    ///
    /// With a number of parts given, the number of the task modulo `of` decides. Any `of` consecutive numbers then make
    /// all parts, from wherever a scheduler counts: `HQ_TASK_ID` of HyperQueue, `JOB_COMPLETION_INDEX` of a Kubernetes
    /// Job, or `SLURM_ARRAY_TASK_ID`. Without one, only SLURM says how many tasks there are: the parts are those of
    /// `SLURM_ARRAY_TASK_MIN`, `_COUNT` and `_STEP`, the first task having the first part.
    ///
    /// # Errors
    /// [`Error::Config`] when no variable is set, one is no number, the number of parts is not known, or the numbers of
    /// a SLURM array are not evenly spaced.
    pub fn of_task(of: Option<usize>, variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let number = |name: &str| -> Result<Option<usize>> {
            let Some(text) = variable(name) else { return Ok(None) };
            let found = text.trim().parse();
            found.map(Some).map_err(|_| Error::config(format!("--shard auto: {name} is {text:?}, expected a number")))
        };
        // A task of HyperQueue may run within one of SLURM: the inner one counts.
        for name in ["HQ_TASK_ID", "JOB_COMPLETION_INDEX"] {
            if let Some(task) = number(name)? {
                let of = of.ok_or_else(|| {
                    Error::config(format!(
                        "--shard auto: {name} is {task}, but nothing says how many tasks there are: give \
                         --shard auto/N"
                    ))
                })?;
                return Self::modulo(task, of);
            }
        }
        let task = number("SLURM_ARRAY_TASK_ID")?.ok_or_else(|| {
            Error::config(
                "--shard auto: none of HQ_TASK_ID, JOB_COMPLETION_INDEX and SLURM_ARRAY_TASK_ID is set: give \
                 --shard I/N",
            )
        })?;
        let step = number("SLURM_ARRAY_TASK_STEP")?.unwrap_or(1).max(1);
        if let Some(of) = of {
            return Self::modulo(task / step, of);
        }
        let said = |name: &str| {
            number(name)?.ok_or_else(|| Error::config(format!("--shard auto: {name} is not set: give --shard auto/N")))
        };
        let (first, count) = (said("SLURM_ARRAY_TASK_MIN")?, said("SLURM_ARRAY_TASK_COUNT")?);
        let last = number("SLURM_ARRAY_TASK_MAX")?.unwrap_or(task);
        let place = |number: usize| Some(number.checked_sub(first)? / step).filter(|place| *place < count);
        let even = last >= first && (number("SLURM_ARRAY_TASK_MAX")?.is_none() || (last - first) / step + 1 == count);
        match place(task) {
            Some(place) if even && (task - first) % step == 0 => Self::new(place + 1, count),
            _ => Err(Error::config(format!(
                "--shard auto: task {task} of {count} from {first} on by steps of {step} leaves gaps: use an array \
                 without gaps, or give --shard I/N"
            ))),
        }
    }

    /// The part of the task with that number, of `of`.
    fn modulo(task: usize, of: usize) -> Result<Self> {
        if of == 0 {
            return Err(Error::config("--shard auto/0: expected 1 part or more"));
        }
        // Tasks that count from 1 get the parts of their numbers.
        Self::new((task + of - 1) % of + 1, of)
    }
}

impl Default for Shard {
    fn default() -> Self {
        Self::WHOLE
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}

impl FromStr for Shard {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts = text.split_once('/').and_then(|(index, of)| Some((index.parse().ok()?, of.parse().ok()?)));
        let (index, of) =
            parts.ok_or_else(|| Error::config(format!("shard {text:?}: expected I/N, for example 1/4")))?;
        Self::new(index, of)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn parts_cover_every_file_once() {
        for (files, of) in [(0, 3), (1, 4), (7, 3), (12, 12), (100, 7)] {
            let all: Vec<usize> = (1..=of).flat_map(|index| Shard::new(index, of).unwrap().range(files)).collect();
            assert_eq!(all, (0..files).collect::<Vec<_>>(), "{files} files in {of} parts");
            let sizes = (1..=of).map(|index| Shard::new(index, of).unwrap().range(files).len());
            assert!(sizes.clone().max().unwrap() - sizes.min().unwrap() <= 1);
        }
        assert_eq!("2/3".parse::<Shard>().unwrap().to_string(), "2/3");
        for bad in ["0/3", "4/3", "1", "1/0", "a/2", "-1/2", "1/2/3", "1/999999999"] {
            assert!(bad.parse::<Shard>().is_err(), "{bad}");
        }
    }

    fn task(of: Option<usize>, set: &[(&str, &str)]) -> Result<Shard> {
        let set: Vec<(String, String)> = set.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        Shard::of_task(of, |name| set.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone()))
    }

    fn slurm(id: usize, first: usize, count: usize, step: usize) -> Result<Shard> {
        let last = (first + (count - 1) * step).to_string();
        let [id, first, count, step] = [id, first, count, step].map(|n| n.to_string());
        task(
            None,
            &[
                ("SLURM_ARRAY_TASK_ID", &id),
                ("SLURM_ARRAY_TASK_MIN", &first),
                ("SLURM_ARRAY_TASK_MAX", &last),
                ("SLURM_ARRAY_TASK_COUNT", &count),
                ("SLURM_ARRAY_TASK_STEP", &step),
            ],
        )
    }

    #[test]
    fn slurm_arrays_count_from_anywhere() {
        for (first, count, step) in [(0, 4, 1), (1, 4, 1), (5, 3, 1), (10, 4, 5), (7, 1, 1)] {
            for k in 0..count {
                let found = slurm(first + k * step, first, count, step).unwrap();
                assert_eq!((found.index(), found.of()), (k + 1, count), "from {first} by {step}");
            }
        }
        assert!(slurm(3, 5, 3, 1).is_err() && slurm(6, 5, 3, 2).is_err(), "no task of that array");
        // --array=1,2,9: three tasks, with gaps.
        for id in ["1", "2", "9"] {
            let gaps = [
                ("SLURM_ARRAY_TASK_ID", id),
                ("SLURM_ARRAY_TASK_MIN", "1"),
                ("SLURM_ARRAY_TASK_MAX", "9"),
                ("SLURM_ARRAY_TASK_COUNT", "3"),
                ("SLURM_ARRAY_TASK_STEP", "1"),
            ];
            assert!(task(None, &gaps).unwrap_err().to_string().contains("gaps"));
        }
        assert!(task(None, &[("SLURM_ARRAY_TASK_ID", "1")]).unwrap_err().to_string().contains("_MIN"));
    }

    #[test]
    fn a_given_number_of_parts_fits_any_consecutive_numbers() {
        for name in ["HQ_TASK_ID", "JOB_COMPLETION_INDEX", "SLURM_ARRAY_TASK_ID"] {
            for first in [0, 1, 5] {
                let parts = (first..first + 4).map(|id| task(Some(4), &[(name, &id.to_string())]).unwrap().index());
                assert_eq!(parts.collect::<BTreeSet<_>>().len(), 4, "{name} from {first}");
            }
            assert_eq!(task(Some(4), &[(name, "1")]).unwrap().index(), 1);
            assert!(task(Some(4), &[(name, "x")]).is_err() && task(Some(0), &[(name, "1")]).is_err());
        }
        let inner = task(Some(3), &[("SLURM_ARRAY_TASK_ID", "1"), ("HQ_TASK_ID", "2")]).unwrap();
        assert_eq!(inner.index(), 2, "the inner scheduler counts");
        assert!(task(None, &[("HQ_TASK_ID", "2")]).unwrap_err().to_string().contains("auto/N"));
        assert!(task(Some(3), &[]).unwrap_err().to_string().contains("--shard I/N"));
    }
}
