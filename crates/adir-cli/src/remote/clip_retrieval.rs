//! clip-retrieval's server (`clip-retrieval back`): `GET /indices-list` tells the names of its indexes, and
//! `POST /knn-service` finds the nearest. It does not tell the dimension of its vectors.

use adir::encode::Embedding;
use adir::retrieve::RemoteHit;
use adir::{Error, Result};
use serde_json::{Value, json};

use super::address::Address;
use super::client::Client;
use super::open::{angle, place};

/// An index.
pub struct ClipRetrieval {
    address: Address,
    client: Client,
    fields: Vec<String>,
}

impl ClipRetrieval {
    /// Asks for the names of the indexes.
    ///
    /// # Errors
    /// As [`Client::json`]; [`Error::Input`] if there is no such index.
    pub fn open(address: Address, fields: Vec<String>) -> Result<Self> {
        let client = Client::new(&address.text, None)?;
        let answer = client.json(&address.url(&["indices-list"]), None)?;
        let names: Option<Vec<&str>> = answer.as_array().and_then(|all| all.iter().map(Value::as_str).collect());
        match names {
            None => Err(client.fault("answers with what is no list of indexes")),
            Some(names) if names.contains(&address.name.as_str()) => Ok(Self { address, client, fields }),
            Some(names) => Err(client.fault(format!("there is no such index; there are: {}", names.join(", ")))),
        }
    }

    /// See [`RemoteIndex::nearest`](adir::retrieve::RemoteIndex::nearest).
    pub fn nearest(&self, query: &Embedding, count: usize) -> Result<Vec<RemoteHit>> {
        let question = json!({
            "text": null, "image": null, "image_url": null, "embedding_input": query.values(),
            "modality": "image", "num_images": count, "num_result_ids": count, "indice_name": self.address.name,
            "use_mclip": false, "deduplicate": false, "use_safety_model": false, "use_violence_detector": false,
        });
        let answer =
            self.client.json(&self.address.url(&["knn-service"]), Some(&question)).map_err(|error| match error {
                Error::Input { path, message } if message.starts_with("answers 500") => {
                    let dimension = query.encoder().dimension;
                    let message =
                        format!("{message} (are its vectors of {dimension} numbers, as the encoder's? see --encoder)");
                    Error::Input { path, message }
                }
                other => other,
            })?;
        let images = answer.as_array().ok_or_else(|| self.client.fault("answers with what is no list of images"))?;
        images.iter().map(|image| self.hit(image)).collect()
    }

    fn hit(&self, image: &Value) -> Result<RemoteHit> {
        let bad = |message: &str| self.client.fault(format!("answers with an image {message}"));
        let key = image["id"].as_u64().ok_or_else(|| bad("without an id"))?.to_string();
        let cosine = image["similarity"].as_f64().ok_or_else(|| bad("without a similarity"))?;
        let distance = angle(cosine).ok_or_else(|| bad(&format!("of similarity {cosine}, which is no cosine")))?;
        Ok(RemoteHit { place: place(image, &self.fields, &key), key, distance })
    }
}
