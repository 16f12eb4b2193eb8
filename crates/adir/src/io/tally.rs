//! What is said of many files: a line for each kind, with their number and the first of them.

use std::collections::BTreeMap;
use std::fmt::Display;

/// A number of things with their `noun`, which is given in the singular and takes an s in the plural: `1 page`, `2 pages`.
pub fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Files counted by what is said of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    kinds: BTreeMap<String, (usize, String)>,
}

impl Tally {
    /// Counts a file, of which `what` is said.
    pub fn add(&mut self, what: impl Into<String>, file: impl Display) {
        let (count, first) = self.kinds.entry(what.into()).or_default();
        *count += 1;
        if *count == 1 {
            *first = file.to_string();
        }
    }

    /// Counts what another has counted of files in `folder`.
    pub fn join(&mut self, other: Self, folder: &str) {
        for (what, (more, file)) in other.kinds {
            let (count, first) = self.kinds.entry(what).or_default();
            if *count == 0 {
                *first = format!("{folder}/{file}");
            }
            *count += more;
        }
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    /// The lines, such as `2 files, the first: b.png: is blue`.
    pub fn lines(&self) -> Vec<String> {
        let line = |(what, (count, first)): (&String, &(usize, String))| match count {
            1 => format!("{first}: {what}"),
            _ => format!("{count} files, the first: {first}: {what}"),
        };
        self.kinds.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_no_plural() {
        assert_eq!([0, 1, 2].map(|count| counted(count, "tar file")), ["0 tar files", "1 tar file", "2 tar files"]);
    }

    #[test]
    fn a_kind_is_a_line() {
        let mut tally = Tally::default();
        assert!(tally.is_empty());
        for (what, file) in [("is blue", "b"), ("is red", "a"), ("is blue", "a")] {
            tally.add(what, file);
        }
        assert_eq!(tally.lines(), ["2 files, the first: b: is blue", "a: is red"]);
        let mut all = Tally::default();
        all.add("is red", "c");
        all.join(tally, "f");
        assert_eq!(all.lines(), ["2 files, the first: f/b: is blue", "2 files, the first: c: is red"]);
    }
}
