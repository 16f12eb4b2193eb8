//! The engine, and what it is about to do.

use std::path::PathBuf;
use std::sync::Arc;

use adir::engine::{self, FolderCache, NoCache, Observation, Request};
use adir::io::image::{Picture, Reading};
use adir::operator::Mask;
use adir::problem::{MaskSource, Problem};
use adir::task::Hint;
use adir::{Error, Result};
use pyo3::prelude::*;

use crate::array;
use crate::errors::exception;
use crate::folder::{Asked, FolderPlan};
use crate::operator::{Described, PythonOperator, Raised};
use crate::prior::Prior;
use crate::run::{FolderRun, Run};

/// An engine.
#[pyclass(frozen, module = "adir._adir")]
pub struct Engine {
    engine: Arc<engine::Engine>,
}

/// Samples of an array: bytes, type, `(h, w, c)`.
type Given = (Vec<u8>, String, [usize; 3]);
/// What an operator measured: the bytes of 32-bit floats and their shape `(1, c, h, w)`.
type Measured = (Vec<u8>, [usize; 4]);
/// Flags of pixels, one byte each, and `(h, w)`.
type Flags = (Vec<u8>, usize, usize);

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (prior=None, model=None, config=None, device="cpu", precision="f32", clip=None, cache=None, memory=None))]
    #[expect(clippy::too_many_arguments, reason = "keywords of Python")]
    fn new(
        prior: Option<&Prior>,
        model: Option<PathBuf>,
        config: Option<PathBuf>,
        device: &str,
        precision: &str,
        clip: Option<PathBuf>,
        cache: Option<PathBuf>,
        memory: Option<u64>,
    ) -> PyResult<Self> {
        let make = || -> Result<engine::Engine> {
            let mut builder = engine::Engine::builder().device(device).precision(precision.parse()?).memory(memory);
            if let Some(prior) = prior {
                builder = builder.prior(prior.loaded.clone());
            }
            if let Some(model) = model {
                builder = builder.model(model, config);
            }
            if let Some(clip) = clip {
                builder = builder.clip(clip);
            }
            let builder = match cache {
                Some(folder) => builder.cache(FolderCache::new(folder)),
                None => builder.cache(NoCache),
            };
            builder.build()
        };
        Ok(Self { engine: Arc::new(make().map_err(exception)?) })
    }

    /// Checks a request in JSON. What JSON cannot hold is given beside it: the samples of y, the pixels of masks that are not
    /// 0, and an operator with what is known of it and what it measured.
    #[pyo3(signature = (request, input=None, mask=None, ignore=None, operator=None, hint="unknown", measured=None))]
    #[expect(clippy::too_many_arguments, reason = "keywords of Python")]
    fn plan(
        &self,
        py: Python<'_>,
        request: &str,
        input: Option<Given>,
        mask: Option<Flags>,
        ignore: Option<Flags>,
        operator: Option<Described>,
        hint: &str,
        measured: Option<Measured>,
    ) -> PyResult<Plan> {
        let mut raised = Raised::default();
        let plan = py.detach(|| -> Result<engine::Plan> {
            let mut request = Request::from_json(request)?;
            if let Some((bytes, kind, shape)) = input {
                request.input = Observation::from(array::picture(&bytes, &kind, shape, &request)?);
                // The picture was read by it.
                request.reading = Reading::default();
            }
            if let Some((bytes, shape)) = measured {
                request.input = Observation::from(Picture::from_tensor(array::tensor(&bytes, shape)?));
            }
            let marked = |(flags, height, width): Flags| -> Result<MaskSource> {
                Ok(Mask::new(height, width, flags.into_iter().map(|flag| flag == 0).collect())?.into())
            };
            if let Some(mask) = mask {
                request.problem.mask = Some(marked(mask)?);
            }
            if let Some(ignore) = ignore {
                request.problem.ignore = Some(marked(ignore)?);
            }
            if let Some(operator) = operator {
                let operator = PythonOperator::new(operator)?;
                raised = operator.raised.clone();
                let custom = Problem::with_operator(Arc::new(operator.with_norm()?), read_hint(hint)?);
                let named = std::mem::replace(&mut request.problem, custom);
                request.problem.sigma = named.sigma;
                request.problem.gain = named.gain;
                request.problem.ignore = named.ignore;
                request.problem.saturated = named.saturated;
            }
            self.engine.plan(&request)
        });
        let plan = Arc::new(plan.map_err(|error| raised.or(error))?);
        Ok(Plan { plan, raised })
    }

    /// Begins to carry out a plan, on a thread of its own.
    fn start(&self, plan: &Plan) -> PyResult<Run> {
        Run::start(self.engine.clone(), plan.plan.clone(), plan.raised.clone())
    }

    /// Checks the restoration of all images of a folder, each as a request in JSON says.
    #[pyo3(signature = (request, scans, output, shard="1/1", format=None, overlap=None, overwrite=false))]
    #[expect(clippy::too_many_arguments, reason = "keywords of Python")]
    fn plan_folder(
        &self,
        py: Python<'_>,
        request: &str,
        scans: PathBuf,
        output: PathBuf,
        shard: &str,
        format: Option<&str>,
        overlap: Option<f64>,
        overwrite: bool,
    ) -> PyResult<FolderPlan> {
        let asked = Asked { scans, output, shard, format, overlap, overwrite };
        py.detach(|| FolderPlan::make(&self.engine, request, asked)).map_err(exception)
    }

    /// Begins to restore what such a plan has left to do.
    fn start_folder(&self, plan: &FolderPlan) -> PyResult<FolderRun> {
        FolderRun::start(self.engine.clone(), plan.plan.clone())
    }

    /// Device and precision.
    #[getter]
    fn placement(&self) -> (String, String) {
        let (device, precision) = self.engine.placement();
        (device.to_owned(), precision.to_string())
    }

    /// The model's name.
    #[getter]
    fn model(&self) -> String {
        self.engine.model_name()
    }
}

/// What is known of an operator: a word, or `shrinks:FACTOR`.
fn read_hint(text: &str) -> Result<Hint> {
    if let Some(factor) = text.strip_prefix("shrinks:").and_then(|factor| factor.parse().ok()) {
        return Ok(Hint::ShrinksBy(factor));
    }
    match text {
        "unknown" => Ok(Hint::Unknown),
        "blurs" => Ok(Hint::Blurs),
        "hides" => Ok(Hint::Hides),
        "drops_colour" => Ok(Hint::DropsColour),
        "identity" => Ok(Hint::Identity),
        _ => Err(Error::Config(format!(
            "the hint {text:?}: expected unknown, blurs, hides, drops_colour, identity or shrinks:FACTOR"
        ))),
    }
}

/// A checked request.
#[pyclass(frozen, module = "adir._adir")]
pub struct Plan {
    plan: Arc<engine::Plan>,
    raised: Raised,
}

#[pymethods]
impl Plan {
    /// Every setting with its source, and the memory: a line each.
    fn __str__(&self) -> String {
        self.plan.to_string()
    }

    /// What is unusual about the request.
    #[getter]
    fn warnings(&self) -> Vec<String> {
        self.plan.warnings().to_vec()
    }

    /// The bytes of memory that it takes at most.
    #[getter]
    fn memory(&self) -> u64 {
        self.plan.memory().most()
    }
}
