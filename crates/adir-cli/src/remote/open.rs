//! Opens a gallery by its address, and keeps what its server says within bounds.

use std::collections::HashSet;
use std::path::PathBuf;

use adir::Result;
use adir::encode::{Embedding, EncoderId};
use adir::retrieve::{RemoteHit, RemoteIndex, Remotes};
use serde_json::Value;

use super::RemoteArgs;
use super::address::{Address, Kind};
use super::clip_retrieval::ClipRetrieval;
use super::images::Images;
use super::qdrant::Qdrant;

/// What servers call the place of an image.
const FIELDS: [&str; 5] = ["path", "image_path", "file", "url", "image_url"];
/// How far a cosine may be beyond 1 by rounding.
const BEYOND: f64 = 1e-3;

/// Galleries on servers.
pub struct Servers {
    pub args: RemoteArgs,
    /// Where fetched images are kept.
    pub cache: Option<PathBuf>,
}

impl Remotes for Servers {
    fn open(&self, address: &str, encoder: &EncoderId) -> Result<Box<dyn RemoteIndex>> {
        let address = Address::parse(address)?;
        let text = address.text.clone();
        let images = Images::new(&text, &self.args, self.cache.clone())?;
        let fields = match &self.args.gallery_field {
            Some(field) => vec![field.clone()],
            None => FIELDS.map(str::to_owned).to_vec(),
        };
        let server = match address.kind {
            Kind::Qdrant => Server::Qdrant(Qdrant::open(address, fields, encoder)?),
            Kind::ClipRetrieval => Server::ClipRetrieval(ClipRetrieval::open(address, fields)?),
        };
        Ok(Box::new(Gallery { text, server, images }))
    }
}

enum Server {
    Qdrant(Qdrant),
    ClipRetrieval(ClipRetrieval),
}

struct Gallery {
    text: String,
    server: Server,
    images: Images,
}

impl RemoteIndex for Gallery {
    fn address(&self) -> &str {
        &self.text
    }

    fn nearest(&self, query: &Embedding, count: usize) -> Result<Vec<RemoteHit>> {
        let mut hits = match &self.server {
            Server::Qdrant(server) => server.nearest(query, count)?,
            Server::ClipRetrieval(server) => server.nearest(query, count)?,
        };
        let mut seen = HashSet::new();
        hits.retain(|hit| seen.insert(hit.key.clone()));
        hits.sort_by(|a, b| a.distance.total_cmp(&b.distance));
        hits.truncate(count);
        Ok(hits)
    }

    fn check_images(&self) -> Result<()> {
        self.images.check()
    }

    fn file(&self, hit: &RemoteHit) -> Result<PathBuf> {
        self.images.file(&hit.place)
    }
}

/// The angle of a cosine in radians, if it is one.
pub fn angle(cosine: f64) -> Option<f64> {
    (cosine.abs() <= 1.0 + BEYOND).then(|| cosine.clamp(-1.0, 1.0).acos())
}

/// The place of an image: the first of the fields that holds a text, else its number.
pub fn place(payload: &Value, fields: &[String], key: &str) -> String {
    let texts = fields.iter().filter_map(|field| payload[field.as_str()].as_str());
    texts.into_iter().find(|text| !text.is_empty()).map_or_else(|| format!("#{key}"), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn scores_are_angles_and_nothing_else_is() {
        assert_eq!(angle(1.000_000_1), Some(0.0));
        assert!((angle(0.5).unwrap() - std::f64::consts::FRAC_PI_3).abs() < 1e-12);
        for score in [1.1, -7.0, f64::NAN, f64::INFINITY] {
            assert_eq!(angle(score), None);
        }
    }

    #[test]
    fn the_first_field_that_holds_a_text_is_the_place() {
        let fields = ["path".to_owned(), "url".to_owned()];
        assert_eq!(place(&json!({"url": "u", "path": "p"}), &fields, "1"), "p");
        assert_eq!(place(&json!({"url": "u", "path": ""}), &fields, "1"), "u");
        assert_eq!(place(&json!({"path": 7}), &fields, "1"), "#1");
        assert_eq!(place(&json!(null), &fields, "1"), "#1");
    }
}
