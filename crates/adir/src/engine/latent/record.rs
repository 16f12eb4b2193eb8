//! The record of a run with a latent diffusion model: enough to repeat it.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::super::record::{Decibel, FileRecord, Seconds, is_latent, text_of};
use super::adapt::LatentAdaptationRecord;
use super::request::LatentRequest;
use crate::{Error, Result};

/// What was done with a latent diffusion model.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LatentRecord {
    /// Version of this form.
    pub schema: u32,
    /// Program and version.
    pub program: String,
    /// What was asked for.
    pub latent: LatentRequest,
    /// The image.
    pub input: FileRecord,
    /// Other files that were read besides the model: a mask, factors.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<FileRecord>,
    /// SHA-256 of the U-Net's weights.
    pub model: String,
    /// The device that computed.
    pub device: String,
    /// The precision it computed in.
    pub dtype: String,
    /// Number of results.
    pub samples: usize,
    /// Times.
    pub seconds: Seconds,
    /// Of an upscaling, the PSNR of A x against y of the first result as it was saved, A being bicubic scaling.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreement_psnr: Option<Decibel>,
    /// The adaptation, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adaptation: Option<LatentAdaptationRecord>,
    /// The widest instruction set of the processor.
    pub instructions: String,
    /// The pictures that were written.
    #[serde(default)]
    pub results: Vec<FileRecord>,
}

impl LatentRecord {
    /// The version of this form.
    pub const SCHEMA: u32 = 1;

    /// Reads the record in `path`; `None` where that is something else.
    ///
    /// # Errors
    /// [`Error::Input`] when the file is missing, or is a record of another version.
    pub fn read(path: impl AsRef<Path>) -> Result<Option<Self>> {
        let path = path.as_ref();
        let text = text_of(path)?;
        if !is_latent(&text) {
            return Ok(None);
        }
        let record: Self = serde_json::from_str(&text)
            .map_err(|e| Error::input(path, format!("is no record of a latent diffusion model: {e}")))?;
        if record.schema != Self::SCHEMA {
            let message = format!("is a record of version {}, expected {}", record.schema, Self::SCHEMA);
            return Err(Error::input(path, message));
        }
        Ok(Some(record))
    }
}
