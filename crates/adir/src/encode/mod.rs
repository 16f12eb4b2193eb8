//! Encoders: pictures and texts as directions in a space where likeness is a small angle.
//!
//! The surprising decision: an embedding knows its encoder, down to the hash of its weights and of its
//! preprocessing. Angles between different encoders' embeddings are numbers without meaning, and nothing else
//! would notice.

mod distance;
mod pillow;
mod preprocess;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::tensor::Tensor;
use crate::{Error, Result};

pub(crate) use distance::norm;
pub use distance::spherical_distance;
pub(crate) use preprocess::MAX_ASPECT;
pub use preprocess::Preprocess;

/// Turns pictures and texts into directions that can be compared.
pub trait Encoder: Send + Sync {
    /// What this encoder is; embeddings compare only under equal ids.
    fn id(&self) -> &Arc<EncoderId>;

    /// Embeds a picture `[1, c, h, w]` in [-1, 1], c = 1 or 3, of any size.
    ///
    /// # Errors
    /// [`Error::Config`] for another shape, [`Error::Numerical`] if the network's answer is not finite.
    fn image(&self, picture: &Tensor<4>) -> Result<Embedding>;

    /// Embeds a text.
    ///
    /// # Errors
    /// [`Error::Config`] where the encoder has no text tower.
    fn text(&self, text: &str) -> Result<Embedding>;
}

/// Identity of an encoder: everything an embedding depends on besides the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderId {
    /// The network, as `clip-vit-b-32`.
    pub name: String,
    /// SHA-256 of the weight file, in hexadecimal.
    pub weights: String,
    /// [`Preprocess::hash`] of what is done to a picture before the network.
    pub preprocessing: String,
    /// Numbers in an embedding.
    pub dimension: usize,
}

impl fmt::Display for EncoderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |hash: &str| hash.chars().take(8).collect::<String>();
        write!(
            f,
            "{} ({} numbers, weights {}, preprocessing {})",
            self.name,
            self.dimension,
            short(&self.weights),
            short(&self.preprocessing)
        )
    }
}

/// A picture's or a text's direction: a vector of length one.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedding {
    encoder: Arc<EncoderId>,
    values: Vec<f32>,
}

impl Embedding {
    /// Scales `features` to length one.
    ///
    /// # Errors
    /// [`Error::Config`] if their number is not the encoder's dimension, [`Error::Numerical`] if one is not
    /// finite or all are zero: then there is no direction.
    pub fn new(encoder: Arc<EncoderId>, mut features: Vec<f32>) -> Result<Self> {
        if features.len() != encoder.dimension {
            return Err(Error::Config(format!("{} features do not match the encoder {encoder}", features.len())));
        }
        let norm = distance::norm(&features);
        if !norm.is_finite() || norm == 0.0 {
            return Err(Error::Numerical(format!("an embedding of {encoder} has length {norm}")));
        }
        for value in &mut features {
            *value = (f64::from(*value) / norm) as f32;
        }
        Ok(Self { encoder, values: features })
    }

    /// The mean of some directions.
    ///
    /// # Errors
    /// [`Error::Config`] if there are none, or they come from different encoders; [`Error::Numerical`] if they are opposite.
    pub fn mean(all: &[Self]) -> Result<Self> {
        let [first, others @ ..] = all else { return Err(Error::config("the mean of no embeddings")) };
        if others.is_empty() {
            return Ok(first.clone());
        }
        let mut sum = first.values.clone();
        for other in others {
            first.distance(other)?;
            sum.iter_mut().zip(&other.values).for_each(|(sum, value)| *sum += value);
        }
        Self::new(first.encoder.clone(), sum)
    }

    /// The encoder that made it.
    pub fn encoder(&self) -> &Arc<EncoderId> {
        &self.encoder
    }

    /// The direction, of length one to rounding.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The angle to `other` in radians (Eq. 19), see [`spherical_distance`].
    ///
    /// # Errors
    /// [`Error::Config`] if the two come from different encoders.
    pub fn distance(&self, other: &Embedding) -> Result<f64> {
        if self.encoder != other.encoder {
            return Err(Error::Config(format!(
                "embeddings of {} and {} cannot be compared",
                self.encoder, other.encoder
            )));
        }
        Ok(spherical_distance(&self.values, &other.values))
    }
}
