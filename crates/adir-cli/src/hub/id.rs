//! How a model of the Hub is named: `ORG/NAME[/FILE][@REVISION]`.

use std::fmt;

/// Longest name of an organisation or a model.
const LONGEST: usize = 96;

/// A model of the Hub, or one file of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// `ORG/NAME`.
    pub id: String,
    /// The file inside the repository.
    pub file: Option<String>,
    /// A branch, a tag, `refs/pr/N` or a commit.
    pub revision: Option<String>,
}

impl Reference {
    /// Reads `ORG/NAME[/FILE][@REVISION]`; `None` if the text cannot be that.
    pub fn parse(text: &str) -> Option<Self> {
        let (path, revision) = match text.split_once('@') {
            Some((path, revision)) => (path, Some(revision.to_owned())),
            None => (text, None),
        };
        let mut parts = path.splitn(3, '/');
        let (org, name, file) = (parts.next()?, parts.next()?, parts.next().map(str::to_owned));
        let fits = is_name(org)
            && is_name(name)
            && file.as_deref().is_none_or(is_inside)
            && revision.as_deref().is_none_or(is_revision);
        fits.then(|| Self { id: format!("{org}/{name}"), file, revision })
    }

    /// Without the file.
    pub fn model(&self) -> Self {
        Self { file: None, ..self.clone() }
    }

    /// The same of another model.
    pub fn of(&self, id: &str) -> Self {
        Self { id: id.to_owned(), ..self.clone() }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |f: &mut fmt::Formatter<'_>, before, text: &Option<String>| match text {
            Some(text) => write!(f, "{before}{text}"),
            None => Ok(()),
        };
        f.write_str(&self.id)?;
        part(f, '/', &self.file)?;
        part(f, '@', &self.revision)
    }
}

/// Whether the Hub takes this for `ORG` or `NAME`. Two hyphens in a row separate them in the cache.
fn is_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
    text.len() <= LONGEST
        && text.chars().all(plain)
        && ends(text.chars().next())
        && ends(text.chars().last())
        && !text.contains("--")
        && !text.contains("..")
}

/// Whether the text is `ORG/NAME`.
pub fn is_id(text: &str) -> bool {
    Reference::parse(text).is_some_and(|found| found.id == text)
}

/// Whether a path with `/` stays in the folder that it starts from, on every system.
pub fn is_inside(path: &str) -> bool {
    let odd = |c: char| c.is_control() || matches!(c, '\\' | ':');
    !path.contains(odd) && path.split('/').all(|part| !matches!(part, "" | "." | "..") && part.len() <= 255)
}

/// Whether the text can name a revision, and a file below `refs`.
pub fn is_revision(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    text.chars().all(plain) && is_inside(text)
}

/// Whether the text is the hash of a commit.
pub fn is_commit(text: &str) -> bool {
    is_hex(text, 40)
}

/// Whether the text is a number of that many hexadecimal digits, as hashes are written.
pub fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_as_they_are_written() {
        let commit = "26636ef000000000000000000000000000000000";
        for text in [
            "stabilityai/stable-diffusion-x4-upscaler",
            "a/b@main",
            "a/b@refs/pr/11",
            "a/b.c_d/unet/config.json@v1.5",
            &format!("a/b@{commit}"),
        ] {
            assert_eq!(Reference::parse(text).unwrap().to_string(), text);
        }
        let found = Reference::parse("a/b/c/d.bin@refs/pr/1").unwrap();
        assert_eq!((found.id.as_str(), found.file.as_deref()), ("a/b", Some("c/d.bin")));
        assert_eq!(found.revision.as_deref(), Some("refs/pr/1"));
    }

    #[test]
    fn paths_are_no_references() {
        for text in [
            "", "a", "a/", "/a/b", "./a/b", "../a", "a/..", "a/b/../c", "a//b", "a\\b/c", "C:/a", "a b/c", "a--b/c",
            ".a/b", "a/b@", "a/b@../x", "a/b@x//y", "a/b@x y", "é/b", "a/b/c\nd", "~/b", "a/b@.",
        ] {
            assert!(Reference::parse(text).is_none(), "{text:?}");
        }
        assert!(is_id("a/b") && !is_id("a/b/c") && !is_id("a/b@main"));
        assert!(is_commit(&"0f".repeat(20)) && !is_commit(&"0F".repeat(20)) && !is_commit("0f"));
    }
}
