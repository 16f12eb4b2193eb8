//! CLIP-IQA: how much more like a good photograph than like a bad one.

use std::fmt;
use std::sync::Arc;

use super::{Better, Case, Metric, Needs, Over};
use crate::Result;
use crate::encode::{Embedding, Encoder, MAX_ASPECT, Preprocess};

/// The texts of the two directions, as published.
const GOOD: &str = "Good photo.";
const BAD: &str = "Bad photo.";
/// What CLIP multiplies cosines by.
const SCALE: f64 = 100.0;

/// CLIP-IQA (Wang et al., arXiv 2207.12396) of the restored image alone, by a CLIP from the user's file: the share of the
/// softmax that belongs to "Good photo." beside "Bad photo.".
pub struct ClipIqa {
    encoder: Arc<dyn Encoder>,
    good: Embedding,
    bad: Embedding,
}

impl ClipIqa {
    /// By an encoder of images and texts.
    ///
    /// # Errors
    /// Those of [`Encoder::text`].
    pub fn new(encoder: Arc<dyn Encoder>) -> Result<Self> {
        let (good, bad) = (encoder.text(GOOD)?, encoder.text(BAD)?);
        Ok(Self { encoder, good, bad })
    }
}

impl fmt::Debug for ClipIqa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClipIqa").field("encoder", self.encoder.id()).finish_non_exhaustive()
    }
}

impl Metric for ClipIqa {
    fn name(&self) -> &str {
        "clip_iqa"
    }

    fn identity(&self) -> String {
        let id = self.encoder.id();
        format!("{} {} {}", self.name(), id.weights, id.preprocessing)
    }

    fn describe(&self) -> &str {
        "0 to 1; CLIP-IQA (arXiv 2207.12396) by the given CLIP, of the centre square at its side; values of different CLIPs do not compare"
    }

    fn better(&self) -> Better {
        Better::Higher
    }

    fn needs(&self) -> Needs {
        Needs::Nothing
    }

    fn over(&self) -> Over {
        Over::Samples
    }

    fn takes(&self) -> String {
        format!("images whose sides are at most {MAX_ASPECT} times apart")
    }

    fn value(&self, case: &Case<'_>) -> Result<Option<f64>> {
        let [height, width] = case.inner(0);
        if !case.has_luma() || !Preprocess::accepts(width, height) {
            return Ok(None);
        }
        let image = self.encoder.image(case.restored)?;
        let cosine = |text: &Embedding| image.distance(text).map(f64::cos);
        Ok(Some(1.0 / (1.0 + (SCALE * (cosine(&self.bad)? - cosine(&self.good)?)).exp())))
    }
}
