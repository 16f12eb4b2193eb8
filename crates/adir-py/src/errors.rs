//! The library's errors as exceptions, one for each fault.

use adir::Error;
use pyo3::create_exception;
use pyo3::exceptions::{PyException, PyKeyboardInterrupt, PyOSError};
use pyo3::prelude::*;

create_exception!(adir, AdirError, PyException, "An error of adir.");
create_exception!(adir, ConfigError, AdirError, "A setting is invalid by itself or does not fit the input.");
create_exception!(
    adir,
    InputError,
    AdirError,
    "An image, a mask, a kernel or a gallery is missing, damaged or of the wrong kind."
);
create_exception!(adir, ModelError, AdirError, "Weights are missing, damaged, or do not fit the network.");
create_exception!(adir, LimitsError, AdirError, "The work does not fit the machine or exceeds a limit.");
create_exception!(adir, NumericalError, AdirError, "A value is not finite.");
create_exception!(adir, BackendError, AdirError, "The device failed.");

/// The exception for an error.
pub fn exception(error: Error) -> PyErr {
    let message = error.to_string();
    match error {
        Error::Config(_) => ConfigError::new_err(message),
        Error::Input { .. } => InputError::new_err(message),
        Error::Model { .. } => ModelError::new_err(message),
        Error::Limits(_) | Error::TooLarge { .. } => LimitsError::new_err(message),
        Error::Numerical(_) => NumericalError::new_err(message),
        Error::Backend(_) => BackendError::new_err(message),
        Error::Interrupted => PyKeyboardInterrupt::new_err(message),
        Error::Io { source, .. } => match source.raw_os_error() {
            Some(code) => PyOSError::new_err((code, message)),
            None => PyOSError::new_err(message),
        },
        _ => AdirError::new_err(message),
    }
}
