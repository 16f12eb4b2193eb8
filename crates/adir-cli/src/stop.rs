//! Ctrl-C and SIGTERM: the first stops after the running step, the second ends the program at once. So does the first where
//! the program does not work in steps: while it plans, compares or reads.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use adir::{Error, Result};

use crate::log::{Format, Level, Log};

/// Whether the user has asked to stop.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<Asked>);

#[derive(Debug, Default)]
struct Asked {
    to_stop: AtomicBool,
    /// Whether the program has begun to ask, which it does after every step.
    is_heard: AtomicBool,
}

impl Stop {
    /// Installs the signal handler.
    ///
    /// # Errors
    /// [`Error::Limits`] when the handler cannot be installed, for which the system must give a thread.
    pub fn listen(format: Format) -> Result<Self> {
        let stop = Self::default();
        let asked = stop.0.clone();
        ctrlc::set_handler(move || {
            let again = asked.to_stop.swap(true, Ordering::SeqCst);
            if again || !asked.is_heard.load(Ordering::SeqCst) {
                let log = Log::new(format, Level::Usual, Self::default());
                log.error(&Error::Interrupted.to_string(), None, crate::exit::INTERRUPTED);
                std::process::exit(i32::from(crate::exit::INTERRUPTED));
            }
        })
        .map_err(|e| Error::Limits(format!("cannot install a signal handler: {e}")))?;
        Ok(stop)
    }

    /// What a watcher answers.
    pub fn flow(&self) -> ControlFlow<()> {
        self.0.is_heard.store(true, Ordering::SeqCst);
        if self.0.to_stop.load(Ordering::SeqCst) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// The program no longer asks after every step: a signal ends it at once again.
    ///
    /// # Errors
    /// [`Error::Interrupted`] if the user has asked to stop before.
    pub fn no_longer_heard(&self) -> Result<()> {
        self.check()?;
        self.0.is_heard.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// Errors with [`Error::Interrupted`] once the user has asked to stop.
    pub fn check(&self) -> Result<()> {
        if self.flow().is_break() { Err(Error::Interrupted) } else { Ok(()) }
    }
}
