//! LPIPS and ST-LPIPS against the truth.

use super::pixels::{check_same_shape, rgb};
use super::{Better, Case, Metric, Needs, Over};
use crate::Result;
use crate::models::lpips::Lpips as Network;

/// The distance of a learned network, from the user's file, between the restored image and the truth.
#[derive(Debug)]
pub struct Lpips {
    network: Network,
}

impl Lpips {
    /// By that network, in tables by its [name](Network::name).
    pub fn new(network: Network) -> Self {
        Self { network }
    }
}

impl Metric for Lpips {
    fn name(&self) -> &str {
        self.network.name()
    }

    fn identity(&self) -> String {
        format!("{} {}", self.name(), self.network.weights())
    }

    fn describe(&self) -> &str {
        "0 and above; distance of learned features to those of the truth (arXiv 1801.03924; stlpips: 2207.13686), from the given file"
    }

    fn better(&self) -> Better {
        Better::Lower
    }

    fn needs(&self) -> Needs {
        Needs::Truth
    }

    fn digits(&self) -> usize {
        4
    }

    fn bytes_per_pixel(&self) -> u64 {
        match self.network.name() {
            "lpips_alex" => 400,
            _ => 4000,
        }
    }

    fn over(&self) -> Over {
        Over::Samples
    }

    fn takes(&self) -> String {
        format!("images of at least {side}x{side} pixels", side = self.network.least_side())
    }

    fn value(&self, case: &Case<'_>) -> Result<Option<f64>> {
        let Some(truth) = case.truth else { return Ok(None) };
        check_same_shape(case.restored, truth)?;
        if !case.has_luma() || case.inner(0).into_iter().min() < Some(self.network.least_side()) {
            return Ok(None);
        }
        let [restored, truth] = [rgb(case.restored, "the image")?, rgb(truth, "the truth")?];
        self.network.distance(&restored, &truth).map(Some)
    }
}
