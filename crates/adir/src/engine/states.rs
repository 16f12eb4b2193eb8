//! The states of samples in files of the cache: a run that is killed or stopped goes on inside its sampling.
//!
//! A state is a function of what decides the bytes of the result, and the files lie under the hash of that. What cannot
//! be hashed (an operator, a guidance or a mask of the caller's) is not kept.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::event::{Event, Watch, report, warn};
use super::open::Engine;
use super::plan::Plan;
use super::record::AdaptationRecord;
use super::request::{Observation, Request};
use crate::io::hash::Hasher;
use crate::io::weights::{Dtype, TensorSpec, WeightFile, stream_safetensors};
use crate::models::Prior;
use crate::operator::Degradation;
use crate::optim::read_values;
use crate::retrieve::ContentHash;
use crate::sampler::Reached;
use crate::task::Settings;
use crate::tensor::{self, DType, Isa};
use crate::{Error, Result};

/// How often the states of a run are written, unless writing takes longer than a twentieth of that.
pub(super) const STATE_EVERY: Duration = Duration::from_secs(5);
/// Writing takes at most that part of the time.
const SHARE: u32 = 20;
const STATE: &str = "sampling";
const TENSORS: [&str; 2] = ["x0", "x_t"];

/// How long to wait before the next writing, when one took `took`.
pub(super) fn pause(every: Duration, took: Duration) -> Duration {
    every.max(SHARE * took)
}

/// Everything that decides the bytes of a sample.
#[derive(Serialize)]
struct Decisive<'a> {
    program: &'a str,
    request: &'a Request,
    y: ContentHash,
    masks: [Option<ContentHash>; 2],
    degradation: &'a Degradation,
    sigma: f64,
    settings: &'a Settings,
    tile: Option<usize>,
    model: String,
    /// Key of the adapter, whether it is used, and that of the adapter that it started from.
    adapter: Option<(&'a str, bool, Option<&'a str>)>,
    device: &'a str,
    dtype: String,
    instructions: String,
}

/// The hash of what decides the bytes of a plan's samples; `None` where it cannot be told.
pub(super) fn key(
    engine: &Engine,
    plan: &Plan,
    base: &Prior,
    masks: [Option<ContentHash>; 2],
    adaptation: Option<&AdaptationRecord>,
) -> Result<Option<String>> {
    let measurement = plan.restore.measurement();
    let Some(degradation) = measurement.degradation().filter(|_| plan.request.guidance.is_none()) else {
        return Ok(None);
    };
    // A sample depends neither on the number of samples nor on where it is written.
    let mut request = plan.request.clone();
    (request.input, request.output, request.sampling.samples) = (Observation::File("".into()), None, 1);
    let decisive = Decisive {
        program: concat!("adir ", env!("CARGO_PKG_VERSION")),
        request: &request,
        y: plan.content,
        masks,
        degradation,
        sigma: measurement.sigma_255(),
        settings: plan.restore.settings(),
        tile: plan.extent.tile,
        model: base.id()?.to_string(),
        adapter: adaptation.map(|done| (done.key.as_str(), done.used, done.start.as_deref())),
        device: engine.placement().0,
        dtype: engine.placement().1.to_string(),
        instructions: Isa::active().to_string(),
    };
    // A mask that is no file has no text.
    Ok(serde_json::to_vec(&decisive).ok().map(|text| crate::io::hash::sha256(&text).to_string()))
}

/// The states of the samples of one run.
pub(super) struct States<'a> {
    /// Where they lie, if they are kept.
    folder: Option<PathBuf>,
    of: String,
    every: Duration,
    engine: &'a Engine,
    watch: &'a Watch<'a>,
    progress: Mutex<Progress>,
}

struct Progress {
    /// What was reached and is not written yet.
    unwritten: BTreeMap<usize, Reached>,
    written: Instant,
    pause: Duration,
    refused: bool,
    /// Whether old states of other runs were looked for.
    tidied: bool,
}

/// What is no tensor.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    of: String,
    done: usize,
    shape: [usize; 4],
    /// SHA-256 of the values.
    sha256: ContentHash,
}

impl<'a> States<'a> {
    /// Those under `key` in the cache of `engine`.
    pub fn new(engine: &'a Engine, key: Option<String>, watch: &'a Watch<'a>) -> Self {
        let folder = key.as_ref().and_then(|key| engine.cache.sampling_folder(key));
        let every = engine.state_every;
        let (unwritten, written) = (BTreeMap::new(), Instant::now());
        let progress = Progress { unwritten, written, pause: every, refused: false, tidied: false };
        Self { folder, of: key.unwrap_or_default(), every, engine, watch, progress: Mutex::new(progress) }
    }

    /// The folder, to be removed when the results are safe.
    pub fn folder(&self) -> Option<PathBuf> {
        self.folder.clone()
    }

    /// What an interrupted run had reached of a sample. A damaged file is reported and left out.
    pub fn reached(&self, sample: usize) -> Result<Option<Reached>> {
        let Some(path) = self.path(sample).filter(|path| path.symlink_metadata().is_ok()) else { return Ok(None) };
        match read(&path, &self.of) {
            Ok(reached) => Ok(Some(reached)),
            Err(e) => {
                warn(self.watch, format!("sample {} begins anew: {e}", sample + 1))?;
                Ok(None)
            }
        }
    }

    /// Takes what a sample has reached, and writes all that is new if it is time to.
    pub fn note(&self, sample: usize, reached: Reached) -> Result<()> {
        if self.folder.is_none() || reached.x_t.dtype() != DType::F32 {
            return Ok(());
        }
        let mut progress = self.progress();
        progress.unwritten.insert(sample, reached);
        if progress.written.elapsed() >= progress.pause { self.write(&mut progress) } else { Ok(()) }
    }

    /// Writes all that is new, since the run is stopped; the event says so.
    pub fn stopped(&self) -> Result<()> {
        let mut progress = self.progress();
        self.write(&mut progress)?;
        match &self.folder {
            Some(folder) if folder.is_dir() && !progress.refused => {
                report(self.watch, &Event::Kept { path: folder.to_string_lossy().into_owned() })
            }
            _ => Ok(()),
        }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, sample: usize) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.join(format!("{sample}.safetensors")))
    }

    /// Writes what is new. A cache that refuses costs no result.
    fn write(&self, progress: &mut Progress) -> Result<()> {
        let started = Instant::now();
        for (sample, reached) in std::mem::take(&mut progress.unwritten) {
            let Some(path) = self.path(sample).filter(|_| !progress.refused) else { break };
            if let Err(e) = write(&path, &self.of, &reached) {
                progress.refused = true;
                warn(self.watch, format!("the state of the sampling is not kept: {e}"))?;
            }
        }
        if !std::mem::replace(&mut progress.tidied, true) {
            self.engine.cache.forget_old_states();
        }
        progress.written = Instant::now();
        progress.pause = pause(self.every, started.elapsed());
        Ok(())
    }
}

fn values(reached: &Reached) -> Result<[Vec<f32>; 2]> {
    Ok([tensor::to_f32(&reached.x0)?, tensor::to_f32(&reached.x_t)?])
}

fn digest(values: &[Vec<f32>; 2]) -> ContentHash {
    let mut hasher = Hasher::default();
    for value in values.iter().flatten() {
        hasher.update(&value.to_le_bytes());
    }
    hasher.finish()
}

fn write(path: &Path, of: &str, reached: &Reached) -> Result<()> {
    let values = values(reached)?;
    let (shape, sha256) = (reached.x_t.dims(), digest(&values));
    let written = Written { of: of.to_owned(), done: reached.done, shape, sha256 };
    let text = serde_json::to_string(&written).map_err(|e| Error::config(format!("the state of a sample: {e}")))?;
    let specs = TENSORS.map(|name| TensorSpec { name, shape: &shape, dtype: Dtype::F32 });
    let metadata = BTreeMap::from([(STATE.to_owned(), text)]);
    stream_safetensors(path, &specs, &metadata, |index| Ok::<_, Error>(values[index].as_slice()))
}

fn read(path: &Path, of: &str) -> Result<Reached> {
    let file = WeightFile::open(path)?;
    let fault = |message: String| Error::model(path, message);
    let text = file.metadata().get(STATE).ok_or_else(|| fault("is no state of a sample".into()))?;
    let written: Written = serde_json::from_str(text).map_err(|e| fault(format!("is no state of a sample: {e}")))?;
    if written.of != of {
        return Err(fault("is the state of another restoration".into()));
    }
    let shape = written.shape;
    let [x0, x_t] = TENSORS.map(|name| read_values(&file, name, &shape));
    let values = [x0?, x_t?];
    if digest(&values) != written.sha256 {
        return Err(fault("is damaged: its values are not those that were written".into()));
    }
    let [x0, x_t] = values.map(|values| tensor::from_f32(values, shape, &tensor::cpu()));
    Ok(Reached { done: written.done, x_t, x0 })
}

/// Removes the states of a run whose results are safe.
pub(super) fn forget(folder: Option<&Path>) {
    // What is left is removed when it is old.
    folder.iter().for_each(|folder| drop(std::fs::remove_dir_all(folder)));
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::engine::tests::{folder, go, picture};
    use crate::engine::{FolderCache, Restored};
    use crate::problem::Problem;
    use crate::task::{Method, Preset};

    fn engine(cache: &Path) -> Engine {
        Engine::builder().cache(FolderCache::new(cache)).state_every(Duration::ZERO).build().unwrap()
    }

    fn request(method: Method) -> Request {
        let mut request = Request::new(picture(3), Problem::super_resolution(2)).steps(4).samples(2);
        request.sampling.overrides.method = Some(method);
        if method == Method::Staged {
            request.sampling.overrides.aim = Some(1.0);
        }
        if method == Method::Ancestral {
            request.sampling.preset = Preset::Paper;
        }
        request
    }

    /// Runs, stops at the `at`-th step, and counts the samples that went on.
    fn stopped(engine: &Engine, request: &Request, at: usize) -> (Result<Restored>, usize, Vec<String>) {
        let (steps, resumed, warnings) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(Vec::new()));
        let watch = |event: &Event| {
            match event {
                Event::Resumed { .. } => drop(resumed.fetch_add(1, Ordering::SeqCst)),
                Event::Warning { message } => warnings.lock().unwrap().push(message.clone()),
                Event::Sampling { .. } if steps.fetch_add(1, Ordering::SeqCst) + 1 >= at => {
                    return ControlFlow::Break(());
                }
                _ => {}
            }
            ControlFlow::Continue(())
        };
        let done = engine.run(&engine.plan(request).unwrap(), &watch);
        (done, resumed.into_inner(), warnings.into_inner().unwrap())
    }

    fn values_of(restored: &Restored) -> Vec<Vec<f32>> {
        restored.samples.iter().map(|sample| tensor::to_f32(&sample.tensor).unwrap()).collect()
    }

    fn states(cache: &Path) -> Vec<PathBuf> {
        let inner = |path: PathBuf| std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
        inner(cache.join("sampling")).flat_map(inner).collect()
    }

    /// Whatever the solver and wherever it is stopped, the values are those of a run that nobody stopped.
    #[test]
    fn a_run_that_is_stopped_anywhere_goes_on_to_the_same_values() {
        let f = folder("states");
        let engine = engine(&f);
        for method in [Method::Staged, Method::FewStep, Method::Ancestral, Method::Ddrm, Method::Diffpir] {
            let request = request(method);
            let whole = values_of(&Engine::builder().build().map(|e| e.run(&e.plan(&request)?, &go)).unwrap().unwrap());
            let mut gone_on = 0;
            // One more step each time: every border between stages and between samples is met.
            let done = loop {
                let (done, resumed, warnings) = stopped(&engine, &request, 2);
                assert!(warnings.is_empty(), "{warnings:?}");
                gone_on += resumed;
                match done {
                    Ok(done) => break done,
                    Err(Error::Interrupted) => assert!(!states(&f).is_empty()),
                    Err(e) => panic!("{e}"),
                }
                assert!(gone_on < 100, "makes no progress");
            };
            assert!(gone_on > 1, "{method:?}: nothing went on");
            assert!(values_of(&done) == whole, "{method:?}");
            assert!(states(&f).is_empty(), "states outlive their run");
        }
        std::fs::remove_dir_all(f).unwrap();
    }

    /// A state that is damaged or belongs to another request costs a warning and nothing else.
    #[test]
    fn damaged_and_foreign_states_are_left_out() {
        let f = folder("damaged-states");
        let (engine, request) = (engine(&f), request(Method::Staged).samples(1));
        let whole = tensor::to_f32(&engine.run(&engine.plan(&request).unwrap(), &go).unwrap().mean.tensor).unwrap();
        assert!(matches!(stopped(&engine, &request.clone().seed(7), 2).0, Err(Error::Interrupted)));
        let foreign = std::fs::read(&states(&f)[0]).unwrap();
        std::fs::remove_dir_all(f.join("sampling")).unwrap();
        assert!(matches!(stopped(&engine, &request, 2).0, Err(Error::Interrupted)));
        let path = states(&f).remove(0);
        let good = std::fs::read(&path).unwrap();
        let damaged = |at: usize| {
            let mut bytes = good.clone();
            bytes[at] ^= 4;
            bytes
        };
        let middle = good.len() / 2;
        for bytes in [foreign, damaged(3), damaged(100), damaged(middle), good[..middle].to_vec(), Vec::new()] {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, bytes).unwrap();
            let (done, resumed, warnings) = stopped(&engine, &request, usize::MAX);
            assert_eq!((resumed, warnings.len()), (0, 1), "{warnings:?}");
            assert!(warnings[0].contains("begins anew"), "{warnings:?}");
            assert!(tensor::to_f32(&done.unwrap().mean.tensor).unwrap() == whole);
        }
        // As it was, it is used.
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, good).unwrap();
        let (done, resumed, warnings) = stopped(&engine, &request, usize::MAX);
        assert_eq!((resumed, warnings.len()), (1, 0), "{warnings:?}");
        assert!(tensor::to_f32(&done.unwrap().mean.tensor).unwrap() == whole);
        std::fs::remove_dir_all(f).unwrap();
    }

    /// What decides the bytes is in the key; what does not is not.
    #[test]
    fn states_belong_to_what_decides_the_bytes() {
        let f = folder("state-keys");
        let engine = engine(&f);
        let key = |request: &Request| {
            let plan = engine.plan(request).unwrap();
            key(&engine, &plan, &engine.prior(&go).unwrap(), [None, None], None).unwrap().unwrap()
        };
        let base = Request::new(picture(3), Problem::super_resolution(2)).steps(4);
        let same = base.clone().samples(3).output(f.join("x.png"));
        assert_eq!(key(&base), key(&same));
        let others = [
            base.clone().seed(1),
            base.clone().steps(5),
            Request::new(picture(4), Problem::super_resolution(2)).steps(4),
            Request::new(picture(3), Problem::super_resolution(2).sigma(3.0)).steps(4),
            Request::new(picture(3), Problem::deblur("box:3")).steps(4),
            Request::new(picture(3), Problem::deblur("box:5")).steps(4),
        ];
        let mut keys: Vec<String> = others.iter().map(key).collect();
        keys.push(key(&base));
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), others.len() + 1);
        std::fs::remove_dir_all(f).unwrap();
    }

    #[test]
    fn what_was_interrupted_long_ago_is_removed() {
        let f = folder("old-states");
        let (engine, request) = (engine(&f), request(Method::Staged));
        let aged = |path: &Path, days: u64| {
            let day = Duration::from_secs(24 * 3600);
            let modified = std::time::SystemTime::now() - day * days as u32;
            std::fs::File::open(path).unwrap().set_modified(modified).unwrap();
        };
        for (name, days) in [("old", 31), ("young", 29)] {
            std::fs::create_dir_all(f.join("sampling").join(name)).unwrap();
            aged(&f.join("sampling").join(name), days);
            std::fs::create_dir_all(f.join("adapters")).unwrap();
            for file in [format!("{name}.running.checkpoint"), format!("{name}.checkpoint")] {
                std::fs::write(f.join("adapters").join(&file), "x").unwrap();
                aged(&f.join("adapters").join(&file), days);
            }
        }
        assert!(stopped(&engine, &request, 1).0.is_err());
        let there = |name: &str| f.join(name).exists();
        assert!(!there("sampling/old") && there("sampling/young"));
        assert!(!there("adapters/old.running.checkpoint") && there("adapters/young.running.checkpoint"));
        assert!(there("adapters/old.checkpoint"), "kept for good");
        std::fs::remove_dir_all(f).unwrap();
    }
}
