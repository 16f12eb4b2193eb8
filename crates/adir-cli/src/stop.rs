//! Ctrl-C and SIGTERM: the first asks the running step to be the last, the second ends the program at once.

use std::sync::atomic::{AtomicBool, Ordering};

use adir::{Error, Result};

static ASKED: AtomicBool = AtomicBool::new(false);

/// Listens from now on.
///
/// # Errors
/// [`Error::Config`] when the system does not let the program listen.
pub fn listen() -> Result<()> {
    ctrlc::set_handler(|| {
        if ASKED.swap(true, Ordering::SeqCst) {
            std::process::exit(i32::from(crate::exit::INTERRUPTED));
        }
    })
    .map_err(|e| Error::Config(format!("cannot listen for signals: {e}")))
}

/// Errors with [`Error::Interrupted`] once the user has asked to stop.
pub fn check() -> Result<()> {
    if ASKED.load(Ordering::SeqCst) { Err(Error::Interrupted) } else { Ok(()) }
}
