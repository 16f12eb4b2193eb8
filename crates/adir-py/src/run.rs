//! A plan being carried out, and its result.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use adir::engine::{self, Engine, FolderDone, FolderPlan, Plan, Watch};
use adir::io::image::Picture;
use adir::{Error, Result};
use pyo3::prelude::*;

use crate::array::{self, Array};
use crate::errors::exception;
use crate::operator::Raised;

/// Bytes of the stack of the thread that computes.
const STACK: usize = 32 << 20;

/// A computation on a thread of its own. Its events wait until they are asked for.
struct Work<T> {
    events: Mutex<Receiver<String>>,
    stop: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<Result<T>>>>,
}

impl<T: Send + 'static> Work<T> {
    /// Begins.
    fn begin(compute: impl FnOnce(&Watch<'_>) -> Result<T> + Send + 'static) -> PyResult<Self> {
        let (send, events) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let asked = stop.clone();
        let send = Mutex::new(send);
        let watched = move || {
            compute(&|event| {
                let text = serde_json::to_string(event).unwrap_or_default();
                // Nobody may be listening any more.
                let _ = send.lock().unwrap_or_else(PoisonError::into_inner).send(text);
                if asked.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
        };
        let thread = Builder::new().name("adir".into()).stack_size(STACK).spawn(watched)?;
        Ok(Self { events: Mutex::new(events), stop, thread: Mutex::new(Some(thread)) })
    }

    fn next(&self, py: Python<'_>, seconds: f64) -> Option<String> {
        py.detach(|| {
            let time = Duration::try_from_secs_f64(seconds).unwrap_or_default();
            match self.events.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(time) {
                Ok(event) => Some(event),
                Err(RecvTimeoutError::Timeout) => Some(String::new()),
                Err(RecvTimeoutError::Disconnected) => None,
            }
        })
    }

    /// Waits for the end.
    fn finish(&self, py: Python<'_>) -> PyResult<Result<T>> {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let thread = thread.ok_or_else(|| exception(Error::Config("the result was taken already".into())))?;
        let made = py.detach(|| thread.join());
        Ok(made.unwrap_or_else(|_| Err(Error::Backend("the computation broke off".into()))))
    }
}

impl<T> Work<T> {
    fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl<T> Drop for Work<T> {
    /// A run that nobody waits for ends with its present step.
    fn drop(&mut self) {
        self.stop();
    }
}

/// A run.
#[pyclass(frozen, module = "adir._adir")]
pub struct Run {
    work: Work<engine::Restored>,
    engine: Arc<Engine>,
    raised: Raised,
}

impl Run {
    /// Begins.
    pub fn start(engine: Arc<Engine>, plan: Arc<Plan>, raised: Raised) -> PyResult<Self> {
        let computing = engine.clone();
        Ok(Self { work: Work::begin(move |watch| computing.run(&plan, watch))?, engine, raised })
    }
}

#[pymethods]
impl Run {
    /// The next event in JSON, an empty text if there is none for so long, or `None` if there will be none.
    fn next(&self, py: Python<'_>, seconds: f64) -> Option<String> {
        self.work.next(py, seconds)
    }

    /// Asks it to stop after its present step.
    fn stop(&self) {
        self.work.stop();
    }

    /// Waits for the end.
    fn finish(&self, py: Python<'_>) -> PyResult<Restored> {
        let restored = self.work.finish(py)?.map_err(|error| self.raised.or(error))?;
        Ok(Restored { restored: Mutex::new(restored), engine: self.engine.clone() })
    }
}

/// A run over a folder.
#[pyclass(frozen, module = "adir._adir")]
pub struct FolderRun {
    work: Work<FolderDone>,
}

impl FolderRun {
    /// Begins.
    pub fn start(engine: Arc<Engine>, plan: Arc<FolderPlan>) -> PyResult<Self> {
        Ok(Self { work: Work::begin(move |watch| engine.run_folder(&plan, watch))? })
    }
}

#[pymethods]
impl FolderRun {
    /// The next event in JSON, an empty text if there is none for so long, or `None` if there will be none.
    fn next(&self, py: Python<'_>, seconds: f64) -> Option<String> {
        self.work.next(py, seconds)
    }

    /// Asks it to stop after the present step.
    fn stop(&self) {
        self.work.stop();
    }

    /// Waits for the end: how many files were restored, how many were finished before, and which failed and why.
    fn finish(&self, py: Python<'_>) -> PyResult<(usize, usize, Vec<(String, String)>)> {
        let done = self.work.finish(py)?.map_err(exception)?;
        Ok((done.restored, done.finished, done.failed))
    }
}

/// A result.
#[pyclass(frozen, module = "adir._adir")]
pub struct Restored {
    restored: Mutex<engine::Restored>,
    engine: Arc<Engine>,
}

impl Restored {
    fn with<T>(&self, read: impl FnOnce(&engine::Restored) -> Result<T>) -> PyResult<T> {
        read(&self.restored.lock().unwrap_or_else(PoisonError::into_inner)).map_err(exception)
    }
}

#[pymethods]
impl Restored {
    /// The samples of the result's array, their type and shape `(h, w, c)`.
    fn image<'py>(&self, py: Python<'py>) -> PyResult<Array<'py>> {
        self.with(|restored| array::samples(py, &restored.mean))
    }

    /// Those of each of the posterior's samples, if there are several.
    fn samples<'py>(&self, py: Python<'py>) -> PyResult<Vec<Array<'py>>> {
        self.with(|restored| restored.samples.iter().map(|sample| array::samples(py, sample)).collect())
    }

    /// The map of where the samples differ (standard deviation, 16 bit), and its picture in colours, if there are several.
    fn deviation<'py>(&self, py: Python<'py>) -> PyResult<Option<[Array<'py>; 2]>> {
        self.with(|restored| {
            let both = restored.deviation.as_ref().map(|deviation| [&deviation.map, &deviation.heat]);
            let [map, heat] = match both {
                Some(both) => both.map(|picture: &Picture| array::samples(py, picture)),
                None => return Ok(None),
            };
            Ok(Some([map?, heat?]))
        })
    }

    /// What was done, in JSON.
    fn record(&self) -> PyResult<String> {
        self.with(|restored| json(&restored.record))
    }

    /// What is wrong with the numbers of the result, in JSON, and whether anything is.
    fn findings(&self, py: Python<'_>) -> PyResult<(String, bool)> {
        py.detach(|| {
            self.with(|restored| {
                let findings = restored.findings()?;
                Ok((json(&findings)?, findings.pass()))
            })
        })
    }

    /// Writes the files that the request named.
    fn save(&self, py: Python<'_>) -> PyResult<()> {
        py.detach(|| {
            let mut restored = self.restored.lock().unwrap_or_else(PoisonError::into_inner);
            restored.save(&self.engine).map_err(exception)
        })
    }
}

fn json(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|e| Error::Config(format!("cannot be written as JSON: {e}")))
}
