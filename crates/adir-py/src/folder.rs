//! The restoration of a folder, and what became of one.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use adir::engine::{self, Engine, Event, FolderRequest, Request};
use adir::io::image::ImageFormat;
use adir::{Error, Result};
use pyo3::prelude::*;

use crate::errors::exception;

/// A checked restoration of a folder.
#[pyclass(frozen, module = "adir._adir")]
pub struct FolderPlan {
    pub plan: Arc<engine::FolderPlan>,
    warnings: Vec<String>,
}

/// What is asked of a folder besides the request for each file.
pub struct Asked<'a> {
    pub scans: PathBuf,
    pub output: PathBuf,
    pub shard: &'a str,
    pub format: Option<&'a str>,
    pub overlap: Option<f64>,
    pub overwrite: bool,
}

impl FolderPlan {
    /// Checks it.
    pub fn make(engine: &Engine, request: &str, asked: Asked<'_>) -> Result<Self> {
        let mut request = FolderRequest::new(asked.scans, asked.output, Request::from_json(request)?);
        request.shard = asked.shard.parse()?;
        request.format = asked.format.map(format).transpose()?;
        request.overlap = asked.overlap.unwrap_or(request.overlap);
        request.overwrite = asked.overwrite;
        let warnings = Mutex::new(Vec::new());
        let plan = engine.plan_folder(&request, &|event| {
            if let Event::Warning { message } = event {
                warnings.lock().unwrap_or_else(PoisonError::into_inner).push(message.clone());
            }
            ControlFlow::Continue(())
        })?;
        let warnings = warnings.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(Self { plan: Arc::new(plan), warnings })
    }
}

fn format(name: &str) -> Result<ImageFormat> {
    ImageFormat::from_path(Path::new(&format!("x.{name}")))
        .map_err(|_| Error::Config(format!("the format {name:?}: expected png, tif, jpg, webp, fits or exr")))
}

#[pymethods]
impl FolderPlan {
    /// Images in the folder, in all shards.
    #[getter]
    fn files(&self) -> usize {
        self.plan.files()
    }

    /// Files of the shard that are finished.
    #[getter]
    fn finished(&self) -> usize {
        self.plan.finished()
    }

    /// Files of the shard that are to be restored, below the folder.
    #[getter]
    fn to_do(&self) -> Vec<String> {
        self.plan.to_do().map(str::to_owned).collect()
    }

    /// What is unusual.
    #[getter]
    fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }
}

/// Files with their results, failed ones with the reason, missing ones with their shard, shards without a manifest with the
/// number of their files, and the joined manifest.
type Merged = (usize, Vec<(String, String)>, Vec<(String, String)>, Vec<(String, usize)>, PathBuf);

/// Joins the manifests of all shards in a folder of results.
#[pyfunction]
pub fn merge(py: Python<'_>, output: PathBuf) -> PyResult<Merged> {
    let merged = py.detach(|| engine::merge(&output)).map_err(exception)?;
    let missing = merged.missing.into_iter().map(|(file, shard)| (file, shard.to_string())).collect();
    let absent = merged.absent.into_iter().map(|(shard, files)| (shard.to_string(), files)).collect();
    Ok((merged.done, merged.failed, missing, absent, merged.path))
}
