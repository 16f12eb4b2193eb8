//! Priors from weights in memory, and their estimates.

use std::borrow::Cow;
use std::sync::Arc;

use adir::Error;
use adir::io::weights::WeightFile;
use adir::models::guided_diffusion::UNetConfig;
use adir::models::{Conditioning, Denoiser, Prior as Loaded};
use adir::tensor::{Compute, Tensor};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::array;
use crate::errors::exception;

/// A loaded prior.
#[pyclass(frozen, module = "adir._adir")]
pub struct Prior {
    pub loaded: Arc<Loaded>,
}

#[pymethods]
impl Prior {
    /// The prior that is part of the module.
    #[staticmethod]
    fn embedded(py: Python<'_>) -> PyResult<Self> {
        let loaded = py.detach(Loaded::embedded).map_err(exception)?;
        Ok(Self { loaded: Arc::new(loaded) })
    }

    /// From the bytes of a safetensors file, with a configuration in JSON where its metadata holds none.
    #[staticmethod]
    #[pyo3(signature = (weights, config=None))]
    fn from_safetensors(py: Python<'_>, weights: Vec<u8>, config: Option<&str>) -> PyResult<Self> {
        let load = || -> adir::Result<Loaded> {
            let config = config.map(serde_json::from_str::<UNetConfig>).transpose();
            let config = config.map_err(|e| Error::Config(format!("an invalid network configuration: {e}")))?;
            let file = WeightFile::from_bytes("memory", Cow::<'static, [u8]>::Owned(weights))?;
            Loaded::load(&file, config, &Compute::default())
        };
        Ok(Self { loaded: Arc::new(py.detach(load).map_err(exception)?) })
    }

    /// The estimate of x0 for x0 plus white noise of standard deviation `sigma`, all in [-1, 1] units: the mean of x0 given
    /// what is seen, as the network knows it. 32-bit floats `[n, c, h, w]`.
    fn denoise<'py>(
        &self,
        py: Python<'py>,
        noisy: Vec<u8>,
        shape: [usize; 4],
        sigma: f64,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let estimate = py.detach(|| estimate(&self.loaded, &noisy, shape, sigma)).map_err(exception)?;
        array::floats(py, &estimate).map_err(exception)
    }

    /// The configuration in JSON, if it is known.
    #[getter]
    fn config(&self) -> PyResult<Option<String>> {
        let config = self.loaded.config().map(serde_json::to_string).transpose();
        config.map_err(|e| exception(Error::Config(e.to_string())))
    }

    /// SHA-256 of the weights.
    #[getter]
    fn id(&self) -> PyResult<String> {
        Ok(self.loaded.id().map_err(exception)?.to_string())
    }
}

/// x0 by the network at the noise level nearest to `sigma`.
fn estimate(prior: &Loaded, noisy: &[u8], shape: [usize; 4], sigma: f64) -> adir::Result<Tensor<4>> {
    if !(sigma.is_finite() && sigma > 0.0) {
        return Err(Error::Config(format!("noise of {sigma}: expected a number above 0")));
    }
    let noisy = array::tensor(noisy, shape)?;
    let info = prior.info();
    info.check(&noisy)?;
    let schedule = &info.schedule;
    let nearest = schedule.nearest(sigma);
    let alpha_bar = schedule.alpha_bar(nearest);
    let x_t = noisy.clone().mul_scalar(alpha_bar.sqrt());
    let eps = prior.predict(&x_t, schedule.timestep(nearest), &Conditioning::default())?.eps;
    // Eq. 3 with x_t = sqrt(alpha_bar) (x0 + sigma eps), solved for x0.
    Ok(noisy - eps.mul_scalar(schedule.ratio(nearest)))
}
