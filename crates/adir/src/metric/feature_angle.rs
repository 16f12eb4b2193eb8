//! The angle between the features of an image and those of the truth.

use std::fmt::{Debug, Formatter};
use std::sync::{Arc, Mutex, PoisonError};

use super::pixels::check_same_shape;
use super::{Better, Case, Metric, Needs, Over};
use crate::encode::{Embedding, Encoder};
use crate::models::efficientnet_lite::EfficientNetLite0;
use crate::tensor::{self, Tensor, cpu};
use crate::{Error, Result};

/// The spherical distance (Eq. 19) between an encoder's features of the restored image, limited to [-1, 1], and of the
/// truth: 0 for equal images. No published quality metric; it tells whether the content is the same.
pub struct FeatureAngle {
    encoder: Arc<dyn Encoder>,
    /// The truth that was asked for last, and its features: many results are compared with one truth.
    truth: Mutex<Option<(Picture, Embedding)>>,
}

/// Shape and values of an image.
type Picture = ([usize; 4], Vec<f32>);

impl FeatureAngle {
    /// By the features of `encoder`.
    pub fn new(encoder: Arc<dyn Encoder>) -> Self {
        Self { encoder, truth: Mutex::new(None) }
    }

    /// By the features of the embedded EfficientNet-Lite0, on the CPU.
    ///
    /// # Errors
    /// Those of [`EfficientNetLite0::embedded`].
    pub fn embedded() -> Result<Self> {
        Ok(Self::new(Arc::new(EfficientNetLite0::embedded(&cpu())?)))
    }

    fn of_truth(&self, truth: &Tensor<4>) -> Result<Embedding> {
        let picture = (truth.dims(), tensor::to_f32(truth)?);
        let mut kept = self.truth.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Some((last, features)) if *last == picture => Ok(features.clone()),
            _ => {
                let features = self.encoder.image(truth)?;
                *kept = Some((picture, features.clone()));
                Ok(features)
            }
        }
    }
}

impl Debug for FeatureAngle {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FeatureAngle").field("encoder", self.encoder.id()).finish_non_exhaustive()
    }
}

impl Metric for FeatureAngle {
    fn name(&self) -> &str {
        "feature_angle"
    }

    fn describe(&self) -> &str {
        "0 to pi radians; angle between EfficientNet-Lite0 features and those of the truth, no published quality metric"
    }

    fn better(&self) -> Better {
        Better::Lower
    }

    fn needs(&self) -> Needs {
        Needs::Truth
    }

    fn unit(&self) -> &str {
        "rad"
    }

    fn over(&self) -> Over {
        Over::Samples
    }

    fn value(&self, case: &Case<'_>) -> Result<Option<f64>> {
        let Some(truth) = case.truth else { return Ok(None) };
        check_same_shape(case.restored, truth)?;
        if !case.has_luma() {
            return Ok(None);
        }
        tensor::check_finite(case.restored, "the image")?;
        tensor::check_finite(truth, "the truth")?;
        if case.restored.dims()[0] != 1 {
            return Err(Error::config(format!(
                "a metric takes one image at a time, found {}",
                case.restored.dims()[0]
            )));
        }
        let restored = self.encoder.image(&case.restored.clone().clamp(-1.0, 1.0))?;
        Ok(Some(self.of_truth(truth)?.distance(&restored)?))
    }
}
