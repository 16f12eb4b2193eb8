//! The Python module `adir._adir`: the engine's objects, with arrays as bytes and requests as JSON. What people call is
//! `python/adir`, which turns numpy arrays and keywords into these.

mod array;
mod engine;
mod errors;
mod folder;
mod operator;
mod prior;
mod run;

use pyo3::prelude::*;

#[pymodule]
mod _adir {
    use super::*;
    #[pymodule_export]
    use crate::engine::{Engine, Plan};
    #[pymodule_export]
    use crate::errors::{AdirError, BackendError, ConfigError, InputError, LimitsError, ModelError, NumericalError};
    #[pymodule_export]
    use crate::folder::{FolderPlan, merge};
    #[pymodule_export]
    use crate::operator::dot_test;
    #[pymodule_export]
    use crate::prior::Prior;
    #[pymodule_export]
    use crate::run::{FolderRun, Restored, Run};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
