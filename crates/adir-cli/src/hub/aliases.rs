//! Models that left the Hub, and where copies of them are: a table in the repository, and one of the user's.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use adir::{Error, Result};

use super::environment;
use super::id::is_id;

/// The program's own table.
const KNOWN: &str = include_str!("aliases.json");

/// Name of the user's table in the folder of his settings.
const FILE: &str = "model-aliases.json";

/// Copies of each model, the best first.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Aliases(BTreeMap<String, Vec<String>>);

impl Aliases {
    /// The user's table before the program's own.
    ///
    /// # Errors
    /// [`Error::Config`] naming the user's file if it is no table.
    pub fn read() -> Result<Self> {
        let own = Self::parse(KNOWN, Path::new("aliases.json"))?;
        let Some(path) = Self::file().filter(|path| path.is_file()) else { return Ok(own) };
        let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
        Ok(Self::parse(&text, &path)?.before(own))
    }

    /// Where the user's table is looked for.
    pub fn file() -> Option<PathBuf> {
        Some(environment::settings()?.join(FILE))
    }

    fn parse(text: &str, path: &Path) -> Result<Self> {
        let expected = "expected {\"ORG/NAME\": [\"ORG/NAME\", ...], ...}";
        let table: BTreeMap<String, Vec<String>> = serde_json::from_str(text)
            .map_err(|e| Error::config(format!("{}: is no table of aliases: {e}; {expected}", path.display())))?;
        let mut names = table.iter().flat_map(|(id, copies)| std::iter::once(id).chain(copies));
        match names.find(|name| !is_id(name)) {
            Some(name) => Err(Error::config(format!("{}: {name:?} is no model's name; {expected}", path.display()))),
            None => Ok(Self(table)),
        }
    }

    /// Both tables, with the copies of this one first.
    fn before(mut self, other: Self) -> Self {
        for (id, copies) in other.0 {
            let known = self.0.entry(id).or_default();
            let more: Vec<_> = copies.into_iter().filter(|copy| !known.contains(copy)).collect();
            known.extend(more);
        }
        self
    }

    /// The copies of a model.
    pub fn of(&self, id: &str) -> &[String] {
        self.0.get(id).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Result<Aliases> {
        Aliases::parse(text, Path::new("mine.json"))
    }

    #[test]
    fn the_known_table_can_be_read() {
        let known = table(KNOWN).unwrap();
        let copies = known.of("runwayml/stable-diffusion-inpainting");
        assert_eq!(copies[0], "stable-diffusion-v1-5/stable-diffusion-inpainting");
        assert!(known.of("a/b").is_empty());
    }

    #[test]
    fn the_user_s_copies_come_first_and_none_twice() {
        let mine = table(r#"{"a/b": ["x/y"], "m/n": ["o/p"]}"#).unwrap();
        let both = mine.before(table(r#"{"a/b": ["u/v", "x/y"]}"#).unwrap());
        assert_eq!(both.of("a/b"), ["x/y", "u/v"]);
        assert_eq!(both.of("m/n"), ["o/p"]);
    }

    #[test]
    fn what_is_no_table_is_refused_with_its_file() {
        for text in ["", "[]", r#"{"a/b": "x/y"}"#, r#"{"a/b": ["../x"]}"#, r#"{"ab": []}"#] {
            let refused = table(text).unwrap_err().to_string();
            assert!(refused.starts_with("mine.json: ") && refused.contains("expected {"), "{refused}");
        }
    }
}
