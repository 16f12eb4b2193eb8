//! Ctrl-C and SIGTERM: the first stops after the running step, the second ends the program at once.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use adir::{Error, Result};

/// Whether the user has asked to stop.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Installs the signal handler.
    ///
    /// # Errors
    /// [`Error::Config`] when the handler cannot be installed.
    pub fn listen() -> Result<Self> {
        let stop = Self::default();
        let asked = stop.0.clone();
        ctrlc::set_handler(move || {
            if asked.swap(true, Ordering::SeqCst) {
                std::process::exit(i32::from(crate::exit::INTERRUPTED));
            }
        })
        .map_err(|e| Error::Config(format!("cannot install a signal handler: {e}")))?;
        Ok(stop)
    }

    /// What a watcher answers.
    pub fn flow(&self) -> ControlFlow<()> {
        if self.0.load(Ordering::SeqCst) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Errors with [`Error::Interrupted`] once the user has asked to stop.
    pub fn check(&self) -> Result<()> {
        if self.flow().is_break() { Err(Error::Interrupted) } else { Ok(()) }
    }
}
