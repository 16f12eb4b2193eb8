//! The score of a MUSIQ network.

use super::pixels::rgb;
use super::{Better, Case, Metric, Needs, Over};
use crate::Result;
use crate::models::musiq::{Form, Musiq as Network};

/// What a MUSIQ network (Ke et al., arXiv 2108.05997) from the user's file says of the restored image alone.
#[derive(Debug)]
pub struct Musiq {
    network: Network,
    name: String,
}

impl Musiq {
    /// By that network, in tables as `name`.
    pub fn new(network: Network, name: impl Into<String>) -> Self {
        Self { network, name: name.into() }
    }
}

impl Metric for Musiq {
    fn name(&self) -> &str {
        &self.name
    }

    fn identity(&self) -> String {
        let form = match self.network.form() {
            Form::Authors => " in the authors' form",
            Form::Pyiqa => "",
        };
        format!("{} {}{form}", self.name(), self.network.weights())
    }

    fn describe(&self) -> &str {
        match (self.network.gives_marks(), self.network.form()) {
            (true, Form::Pyiqa) => {
                "1 to 10 on photographs; mean mark of MUSIQ (arXiv 2108.05997) from the given file, with pyiqa's bicubic resize"
            }
            (false, Form::Pyiqa) => {
                "0 to 100 on photographs; score of MUSIQ (arXiv 2108.05997) from the given file, with pyiqa's bicubic resize"
            }
            (true, Form::Authors) => {
                "1 to 10 on photographs; mean mark of MUSIQ (arXiv 2108.05997) from the given file, with the authors' Gaussian resize"
            }
            (false, Form::Authors) => {
                "0 to 100 on photographs; score of MUSIQ (arXiv 2108.05997) from the given file, with the authors' Gaussian resize"
            }
        }
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

    fn value(&self, case: &Case<'_>) -> Result<Option<f64>> {
        if !case.has_luma() {
            return Ok(None);
        }
        self.network.score(&rgb(case.restored, "the image")?).map(Some)
    }
}
