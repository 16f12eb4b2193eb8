//! Addresses of galleries on servers: `KIND://HOST[:PORT]/NAME`, over http, or `KIND+https://` over https.

use adir::{Error, Result};

use crate::hub::address::{Origin, encoded};

/// What a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Qdrant,
    ClipRetrieval,
}

/// The address of a gallery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub kind: Kind,
    /// As it was given.
    pub text: String,
    /// The server: `http://HOST:PORT`.
    pub server: String,
    /// The collection or index.
    pub name: String,
    /// Of a collection with several vectors for each image, the one that is compared.
    pub vector: Option<String>,
}

impl Address {
    /// # Errors
    /// [`Error::Config`] if it is none, or holds a password.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |message: &str| Error::config(format!("{}: {message}", shown(text)));
        let expected =
            "expected qdrant://HOST/COLLECTION or clip-retrieval://HOST/INDEX, with +https before :// for https";
        let (kind, rest) = text.split_once("://").ok_or_else(|| bad(expected))?;
        let (kind, scheme) = match kind.split_once('+') {
            None => (kind, "http"),
            Some((kind, scheme @ ("http" | "https"))) => (kind, scheme),
            Some(_) => return Err(bad(expected)),
        };
        let (kind, port) = match kind {
            "qdrant" => (Kind::Qdrant, 6333),
            "clip-retrieval" if scheme == "https" => (Kind::ClipRetrieval, 443),
            "clip-retrieval" => (Kind::ClipRetrieval, 1234),
            _ => return Err(bad(expected)),
        };
        let (host, names) = rest.split_once('/').ok_or_else(|| bad(expected))?;
        if host.contains('@') {
            return Err(bad(
                "an address is kept in records, so it holds no user and no password: QDRANT_API_KEY holds a key",
            ));
        }
        let mut names = names.trim_end_matches('/').split('/').map(str::to_owned);
        let (name, vector, more) = (names.next().unwrap_or_default(), names.next(), names.next());
        let takes_vector = kind == Kind::Qdrant;
        let is_name = |name: &str| !name.is_empty() && name != "." && name != ".." && !name.contains(['?', '#']);
        let names_are_good = is_name(&name) && vector.as_deref().is_none_or(|name| takes_vector && is_name(name));
        if host.is_empty() || !names_are_good || more.is_some() {
            return Err(bad(expected));
        }
        let given = Origin::of(&format!("{scheme}://{host}/")).map_err(|_| bad(expected))?;
        let stated =
            host.rsplit_once(':').map(|(_, port)| port).filter(|port| !port.is_empty() && !port.ends_with(']'));
        // Addresses may have ports that are no numbers, which are then passed over.
        let port = stated.map_or(Ok(port), |port| port.parse::<u16>().map_err(|_| bad(expected)))?;
        let server = format!("{scheme}://{}:{port}", given.host);
        Ok(Self { kind, text: text.to_owned(), server, name, vector })
    }

    /// An address on the server; what stands in it is encoded.
    pub fn url(&self, parts: &[&str]) -> String {
        let parts: Vec<String> = parts.iter().map(|part| encoded(part, false)).collect();
        format!("{}/{}", self.server, parts.join("/"))
    }
}

/// An address in messages: without what may be a password.
fn shown(text: &str) -> String {
    match (text.split_once("://"), text.rsplit_once('@')) {
        (Some((kind, _)), Some((_, host))) => format!("{kind}://...@{host}"),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_name_servers() {
        let parsed = |text| {
            let Address { server, name, vector, .. } = Address::parse(text).unwrap();
            (server, name, vector)
        };
        let none = None::<String>;
        assert_eq!(parsed("qdrant://a.org/photos"), ("http://a.org:6333".into(), "photos".into(), none.clone()));
        assert_eq!(
            parsed("qdrant+https://A.org:99/p/clip"),
            ("https://a.org:99".into(), "p".into(), Some("clip".into()))
        );
        assert_eq!(parsed("clip-retrieval://127.0.0.1/x"), ("http://127.0.0.1:1234".into(), "x".into(), none.clone()));
        assert_eq!(parsed("clip-retrieval+https://a/x/"), ("https://a:443".into(), "x".into(), none.clone()));
        assert_eq!(parsed("qdrant://[::1]/x"), ("http://[::1]:6333".into(), "x".into(), none));
        assert_eq!(
            Address::parse("qdrant://a/b c").unwrap().url(&["collections", "b c/d"]),
            "http://a:6333/collections/b%20c%2Fd"
        );
    }

    #[test]
    fn others_are_refused_without_their_passwords() {
        for text in [
            "qdrant://",
            "qdrant://a",
            "qdrant://a/",
            "qdrant:///x",
            "qdrant://a/b/c/d",
            "qdrant://a/..",
            "qdrant://a/x?y",
            "clip-retrieval://a/b/c",
            "qdrant+ftp://a/b",
            "milvus://a/b",
            "qdrant://a:x/b",
            "qdrant://a:99999/b",
            "a/b",
        ] {
            let message = Address::parse(text).unwrap_err().to_string();
            assert!(message.contains("expected qdrant://"), "{text}: {message}");
        }
        let message = Address::parse("qdrant://user:secret@a/b").unwrap_err().to_string();
        assert!(
            message.contains("QDRANT_API_KEY") && !message.contains("secret") && !message.contains("user:"),
            "{message}"
        );
    }
}
