//! Addresses: who they lead to, and how names stand in them.

use adir::{Error, Result};
use ureq::http::Uri;

/// Who a connection is opened to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub scheme: String,
    pub host: String,
    pub port: u16,
}

impl Origin {
    /// Of an address.
    ///
    /// # Errors
    /// [`Error::Config`] if it is none of a web server.
    pub fn of(url: &str) -> Result<Self> {
        let found = url.parse::<Uri>().ok().and_then(|uri| {
            let scheme = uri.scheme_str()?.to_lowercase();
            let usual = match scheme.as_str() {
                "https" => 443,
                "http" => 80,
                _ => return None,
            };
            Some(Self { host: uri.host()?.to_lowercase(), port: uri.port_u16().unwrap_or(usual), scheme })
        });
        found.ok_or_else(|| Error::config(format!("{url}: is no address of a web server")))
    }

    /// Where a redirect from here leads.
    pub fn target(&self, location: &str) -> Option<String> {
        let Self { scheme, host, port } = self;
        match location {
            _ if location.starts_with("https://") || location.starts_with("http://") => Some(location.to_owned()),
            _ if location.starts_with("//") => Some(format!("{scheme}:{location}")),
            _ if location.starts_with('/') => Some(format!("{scheme}://{host}:{port}{location}")),
            _ => None,
        }
    }
}

/// A text as a part of an address; `/` stays if `with_slashes`.
pub fn encoded(text: &str, with_slashes: bool) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || (with_slashes && byte == b'/');
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_where_they_say() {
        let from = Origin::of("https://A.org/x/y").unwrap();
        assert_eq!((from.host.as_str(), from.port), ("a.org", 443));
        assert_eq!(from, Origin::of("https://a.org:443").unwrap());
        assert_ne!(from, Origin::of("http://a.org").unwrap());
        assert_ne!(from, Origin::of("https://a.org.evil.com").unwrap());
        assert_ne!(from, Origin::of("https://a.org@evil.com").unwrap());
        assert_eq!(from.target("/z").as_deref(), Some("https://a.org:443/z"));
        assert_eq!(from.target("//b.org/z").as_deref(), Some("https://b.org/z"));
        assert_eq!(from.target("http://b.org/z").as_deref(), Some("http://b.org/z"));
        assert_eq!(from.target("ftp://b.org/z"), None);
        assert!(Origin::of("file:///etc/passwd").is_err() && Origin::of("").is_err());
    }

    #[test]
    fn names_are_encoded() {
        assert_eq!(encoded("unet/a b?#é.bin", true), "unet/a%20b%3F%23%C3%A9.bin");
        assert_eq!(encoded("refs/pr/1", false), "refs%2Fpr%2F1");
    }
}
