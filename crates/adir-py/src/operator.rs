//! Operators written in Python.

use std::fmt;
use std::sync::{Arc, Mutex};

use adir::operator::{self, ImageShape, LinearOperator};
use adir::tensor::{Tensor, cpu, from_f64, to_f64};
use adir::{Error, Result};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::errors::exception;

/// The exception that a function of Python raised while the library called it.
#[derive(Debug, Clone, Default)]
pub struct Raised(Arc<Mutex<Option<PyErr>>>);

impl Raised {
    /// That exception, or that of the error.
    pub fn or(&self, error: Error) -> PyErr {
        self.take().unwrap_or_else(|| exception(error))
    }

    fn take(&self) -> Option<PyErr> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
    }

    /// Keeps an exception, unless there is one already.
    fn keep(&self, error: PyErr) {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(error);
    }
}

/// A and A^T as functions of Python: each takes the bytes of 64-bit floats and their shape `(n, c, h, w)`, and returns such
/// bytes.
pub struct PythonOperator {
    apply: Py<PyAny>,
    adjoint: Py<PyAny>,
    domain: ImageShape,
    range: ImageShape,
    norm_squared: f64,
    pub raised: Raised,
}

/// How Python describes an operator: A, A^T, and the shapes `(c, h, w)` of x and y.
pub type Described = (Py<PyAny>, Py<PyAny>, [usize; 3], [usize; 3]);

impl PythonOperator {
    /// An operator whose norm is not known.
    pub fn new((apply, adjoint, domain, range): Described) -> Result<Self> {
        let shape = |[channels, height, width]: [usize; 3]| ImageShape { channels, height, width };
        let (domain, range) = (shape(domain), shape(range));
        domain.check()?;
        range.check()?;
        Ok(Self { apply, adjoint, domain, range, norm_squared: f64::NAN, raised: Raised::default() })
    }

    /// The same with its norm, which is found by iteration.
    pub fn with_norm(mut self) -> Result<Self> {
        self.norm_squared = operator::iterated_norm_squared(&self)?;
        Ok(self)
    }

    fn call(&self, function: &Py<PyAny>, x: &Tensor<4>, to: ImageShape) -> Result<Tensor<4>> {
        let [n, c, h, w] = x.dims();
        let values = to_f64(x)?;
        let returned = Python::attach(|py| -> PyResult<Vec<f64>> {
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_ne_bytes()).collect();
            let returned = function.call1(py, (PyBytes::new(py, &bytes), (n, c, h, w)))?;
            let returned = returned.bind(py).cast::<PyBytes>()?.as_bytes();
            Ok(returned.as_chunks::<8>().0.iter().map(|chunk| f64::from_ne_bytes(*chunk)).collect())
        });
        let returned = returned.map_err(|error| {
            let message = format!("a function of the operator failed: {error}");
            self.raised.keep(error);
            Error::Config(message)
        })?;
        if returned.len() != n * to.elements() {
            let message =
                format!("a function of the operator returned {} values: expected {n} times {to}", returned.len());
            return Err(Error::Config(message));
        }
        let shape = [n, to.channels, to.height, to.width];
        Ok(from_f64(returned, shape, &cpu()).cast(x.dtype()).to_device(&x.device()))
    }
}

impl fmt::Debug for PythonOperator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PythonOperator")
            .field("domain", &self.domain)
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}

impl LinearOperator for PythonOperator {
    fn domain(&self) -> ImageShape {
        self.domain
    }

    fn range(&self) -> ImageShape {
        self.range
    }

    fn apply(&self, x: &Tensor<4>) -> Result<Tensor<4>> {
        self.call(&self.apply, x, self.range)
    }

    fn adjoint(&self, y: &Tensor<4>) -> Result<Tensor<4>> {
        self.call(&self.adjoint, y, self.domain)
    }

    fn norm_squared(&self) -> f64 {
        self.norm_squared
    }
}

/// The worst relative gap between <A x, y> and <x, A^T y> over `draws` random pairs; below 1e-12 for an exact transpose.
#[pyfunction]
pub fn dot_test(py: Python<'_>, operator: Described, seed: u64, draws: usize) -> PyResult<f64> {
    let operator = PythonOperator::new(operator).map_err(exception)?;
    py.detach(|| operator::dot_test(&operator, seed, draws)).map_err(|error| operator.raised.or(error))
}
