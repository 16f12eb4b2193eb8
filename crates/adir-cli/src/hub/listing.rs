//! What a model consists of, by the Hub's answer.

use adir::{Error, Result};
use serde::Deserialize;
use serde_json::Value;

use super::blob::Digest;
use super::id::is_commit;

/// A model at one commit.
#[derive(Debug)]
pub struct Listing {
    pub commit: String,
    pub files: Vec<Remote>,
    /// What the model's card says of its licence.
    pub licence: String,
    /// Whether users must agree to conditions first.
    pub is_gated: bool,
}

/// A file of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    pub name: String,
    /// Its bytes and hash, where the listing has them.
    pub facts: Option<Facts>,
}

/// What must be true of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub size: u64,
    pub digest: Digest,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    sha: String,
    siblings: Vec<Sibling>,
    #[serde(default)]
    card_data: Value,
    #[serde(default)]
    tags: Vec<String>,
    #[serde(default)]
    gated: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Large>,
}

#[derive(Deserialize)]
struct Large {
    #[serde(alias = "oid")]
    sha256: String,
    size: u64,
}

impl Listing {
    /// Reads the answer of `source`.
    ///
    /// # Errors
    /// [`Error::Model`] if it is none.
    pub fn parse(json: &[u8], source: &str) -> Result<Self> {
        let answer: Answer =
            serde_json::from_slice(json).map_err(|e| Error::model(source, format!("is no answer of a Hub: {e}")))?;
        if !is_commit(&answer.sha) {
            return Err(Error::model(source, format!("names the commit {:?}, which is no hash", answer.sha)));
        }
        Ok(Self {
            licence: licence(&answer.card_data, &answer.tags),
            is_gated: !matches!(answer.gated, Value::Null | Value::Bool(false)),
            files: answer.siblings.into_iter().map(Remote::from).collect(),
            commit: answer.sha,
        })
    }
}

impl From<Sibling> for Remote {
    fn from(found: Sibling) -> Self {
        let facts = match (found.lfs, found.size, found.blob_id) {
            (Some(large), ..) => Digest::parse(&large.sha256).map(|digest| Facts { size: large.size, digest }),
            (None, Some(size), Some(blob)) => Digest::parse(&blob).map(|digest| Facts { size, digest }),
            _ => None,
        };
        Self { name: found.rfilename, facts }
    }
}

/// The licence in words: names, and where the text is if the name is the model's own.
fn licence(card: &Value, tags: &[String]) -> String {
    let words = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(list) => {
            let names: Vec<_> = list.iter().filter_map(Value::as_str).collect();
            (!names.is_empty()).then(|| names.join(", "))
        }
        _ => None,
    };
    let of_tag = || Some(tags.iter().find_map(|tag| tag.strip_prefix("license:"))?.to_owned());
    let found = words(&card["license"]).or_else(of_tag);
    let more: Vec<_> = ["license_name", "license_link"].iter().filter_map(|key| words(&card[*key])).collect();
    match found {
        Some(name) if more.is_empty() => name,
        Some(name) => format!("{name} ({})", more.join(", ")),
        None => "not stated".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read() {
        let hash = "ab".repeat(32);
        let commit = "c0".repeat(20);
        let json = format!(
            r#"{{"sha": "{commit}", "gated": "auto", "cardData": {{"license": "other", "license_name": "mine"}}, "siblings": [
            {{"rfilename": "a.json", "size": 3, "blobId": "{commit}"}},
            {{"rfilename": "b.bin", "size": 9, "blobId": "{commit}", "lfs": {{"sha256": "{hash}", "size": 9, "pointerSize": 1}}}},
            {{"rfilename": "c.bin"}}]}}"#
        );
        let found = Listing::parse(json.as_bytes(), "x").unwrap();
        assert!(found.is_gated && found.licence == "other (mine)" && found.commit == commit);
        let digests: Vec<_> = found.files.iter().map(|file| file.facts.clone().map(|facts| facts.digest)).collect();
        assert_eq!(digests, [Some(Digest::Git(commit)), Some(Digest::Sha256(hash)), None]);
        for bad in ["", "{}", r#"{"sha": "../x", "siblings": []}"#, r#"{"sha": "x", "siblings": 3}"#] {
            assert!(matches!(Listing::parse(bad.as_bytes(), "x"), Err(Error::Model { .. })), "{bad}");
        }
    }

    #[test]
    fn the_licence_is_found_in_the_card_or_the_tags() {
        let card = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert_eq!(licence(&card(r#"{"license": ["mit", "cc0"]}"#), &[]), "mit, cc0");
        assert_eq!(licence(&Value::Null, &["x".into(), "license:openrail++".into()]), "openrail++");
        assert_eq!(licence(&card("{}"), &[]), "not stated");
    }
}
