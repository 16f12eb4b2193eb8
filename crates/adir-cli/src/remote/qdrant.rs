//! Qdrant over REST: <https://api.qdrant.tech>. `GET /collections/NAME` tells the vectors of a collection, and
//! `POST /collections/NAME/points/query` (version 1.10 and later) finds the nearest.

use adir::encode::{Embedding, EncoderId};
use adir::retrieve::RemoteHit;
use adir::{Error, Result};
use serde_json::{Value, json};

use super::address::Address;
use super::client::{Client, Key};
use super::open::{angle, place};

/// A collection.
pub struct Qdrant {
    address: Address,
    client: Client,
    fields: Vec<String>,
}

impl Qdrant {
    /// Asks for the vectors of the collection, and compares them with those of the encoder.
    ///
    /// # Errors
    /// As [`Client::json`]; [`Error::Input`] for vectors of another dimension, or that are compared otherwise.
    pub fn open(address: Address, fields: Vec<String>, encoder: &EncoderId) -> Result<Self> {
        let client = Client::new(&address.text, Some(Key::of("api-key", "QDRANT_API_KEY")?))?;
        let answer = client.json(&address.url(&["collections", &address.name]), None)?;
        let vectors = &answer["result"]["config"]["params"]["vectors"];
        let vector = match (&address.vector, vectors.get("size").is_some()) {
            (None, true) => vectors,
            (Some(name), false) if vectors.get(name).is_some() => &vectors[name],
            (_, is_one) => {
                let names = vectors.as_object().map(|all| all.keys().cloned().collect::<Vec<_>>().join(", "));
                return Err(client.fault(match (is_one, names) {
                    (true, _) => "has one vector for each image, without a name".to_owned(),
                    (false, Some(names)) if !names.is_empty() => {
                        format!(
                            "has several vectors for each image: name one of {names} behind the collection, after a /"
                        )
                    }
                    _ => "answers with what is no description of a collection".to_owned(),
                }));
            }
        };
        let (size, distance) = (vector["size"].as_u64(), vector["distance"].as_str());
        let (Some(size), Some(distance)) = (size, distance) else {
            return Err(client.fault("answers with what is no description of a collection"));
        };
        if size != encoder.dimension as u64 {
            return Err(
                client.fault(format!("has vectors of {size} numbers; the encoder {encoder} does not; see --encoder"))
            );
        }
        if !matches!(distance, "Cosine" | "Dot") {
            return Err(client.fault(format!("compares vectors by {distance}, expected Cosine")));
        }
        Ok(Self { address, client, fields })
    }

    /// See [`RemoteIndex::nearest`](adir::retrieve::RemoteIndex::nearest).
    pub fn nearest(&self, query: &Embedding, count: usize) -> Result<Vec<RemoteHit>> {
        let mut question = json!({"query": query.values(), "limit": count, "with_payload": self.fields});
        if let Some(vector) = &self.address.vector {
            question["using"] = json!(vector);
        }
        let url = self.address.url(&["collections", &self.address.name, "points", "query"]);
        let answer = self.client.json(&url, Some(&question))?;
        let points = answer["result"]["points"].as_array();
        let points = points.ok_or_else(|| self.client.fault("answers with what is no list of points"))?;
        points.iter().map(|point| self.hit(point)).collect()
    }

    fn hit(&self, point: &Value) -> Result<RemoteHit> {
        let bad = |message: &str| -> Error { self.client.fault(format!("answers with a point {message}")) };
        let key = match &point["id"] {
            Value::Number(number) => number.to_string(),
            Value::String(text) => text.clone(),
            _ => return Err(bad("without an id")),
        };
        let score = point["score"].as_f64().ok_or_else(|| bad("without a score"))?;
        let distance = angle(score).ok_or_else(|| {
            bad(&format!("of score {score}, which is no cosine: the collection must compare vectors by Cosine"))
        })?;
        Ok(RemoteHit { place: place(&point["payload"], &self.fields, &key), key, distance })
    }
}
