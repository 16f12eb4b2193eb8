//! Restoring all images of a folder: which files there are, how their results are called, what is done already, and
//! which part of the work this process has.
//!
//! Each file is restored as it would be alone. The model, the index of a gallery and the adapters are opened once, and
//! observations with the same nearest images share an adapter. A file is finished when its record is there and says what
//! is asked for; a manifest per shard ([`merge`] joins them) says what became of each, and which results were begun, so
//! that the same request goes on after a kill at any moment. Pages of a stack are files of their own here, and [`StackRequest`]
//! joins their results.

mod each;
mod finished;
mod groups;
mod lock;
mod manifest;
mod names;
mod run;
mod scans;
mod shard;
mod stack;

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use self::each::check_latents;
use self::finished::Asked;
use self::manifest::Manifest;
use self::names::{Names, holding};
use self::scans::Scan;
use super::event::{Event, Watch, report, warn};
use super::latent;
use super::open::Engine;
use super::outputs::Outputs;
use super::request::OutputRequest;
use crate::engine::request::Request;
use crate::io::atomic::check_writable;
use crate::io::image::{ImageFormat, Reading, read_hashed_as};
use crate::operator::Boundary;
use crate::retrieve::ContentHash;
use crate::task::Task;
use crate::{Error, Result};

pub use self::each::{Each, FilePlan};
pub use self::manifest::{FileState, ManifestEntry, ManifestHead, Merged, merge};
pub use self::run::{FileOutcome, FolderDone};
pub(super) use self::scans::label;
pub use self::shard::Shard;
pub use self::stack::{StackPlan, StackRecord, StackRequest};

/// The restoration of all images of a folder.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct FolderRequest {
    /// The folder of the observations; images in its folders count, too. With [`Self::every_page`] it may be one file.
    pub scans: PathBuf,
    /// The folder of the results, which get the names of the observations; not one that holds `scans`.
    pub output: PathBuf,
    /// What is done to each. Its input and output are replaced.
    pub each: Each,
    /// The part of the files to restore.
    pub shard: Shard,
    /// The format of the results; by default that of the observation's name, where it can hold the result.
    pub format: Option<ImageFormat>,
    /// Observations share an adapter when their nearest images overlap by at least this share on average, 0 to 1.
    pub overlap: f64,
    /// Whether results of other requests are replaced. Finished files are left alone anyway.
    pub overwrite: bool,
    /// Whether each page of a file is an observation: that of `a.tif` with ten pages have results `a.p01.tif` to `a.p10.tif`.
    pub every_page: bool,
}

impl FolderRequest {
    /// The share of nearest images in common from which observations share an adapter, by default.
    pub const OVERLAP: f64 = 0.25;

    /// The restoration of the images of `scans` into `output`, each as `each` says.
    pub fn new(scans: impl Into<PathBuf>, output: impl Into<PathBuf>, each: impl Into<Each>) -> Self {
        Self {
            scans: scans.into(),
            output: output.into(),
            each: each.into(),
            shard: Shard::WHOLE,
            format: None,
            overlap: Self::OVERLAP,
            overwrite: false,
            every_page: false,
        }
    }
}

/// A checked [`FolderRequest`], and what is done of it already.
#[derive(Debug)]
pub struct FolderPlan {
    request: FolderRequest,
    /// The folder that the scans lie in.
    root: PathBuf,
    /// All files of the folder, or their pages.
    files: Vec<Scan>,
    names: Names,
    /// The files of this shard that are finished, and those to restore, by their places in `files`.
    finished: Vec<(usize, PathBuf, ContentHash)>,
    to_do: Vec<ToDo>,
    /// What could not be listed.
    unlisted: Vec<FileFault>,
    /// The file that the results become the pages of, if they do.
    stack: Option<PathBuf>,
}

/// A file that cannot be restored.
#[derive(Debug)]
pub struct FileFault {
    /// Its path below the folder.
    pub file: String,
    /// Why.
    pub error: Error,
}

/// What a check of all files found.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct CheckedFolder {
    /// The plan of the first file that can be restored.
    pub first: Option<FilePlan>,
    /// The files that cannot.
    pub faults: Vec<FileFault>,
    /// What the user should know of the others before they are restored, at most [`CheckedFolder::SHOWN`] of it.
    pub warnings: Vec<String>,
    /// How much more of that there is.
    pub more_warnings: usize,
    /// Number of those that can.
    pub files: usize,
    /// Bytes of memory that they take at most.
    pub memory: u64,
    /// Products that networks add up to sample all of them, see [`Plan::products`](super::Plan::products).
    pub products: u64,
}

impl CheckedFolder {
    /// Most warnings that are kept.
    pub const SHOWN: usize = 20;

    fn warn(&mut self, warnings: Vec<String>) {
        let left = Self::SHOWN - self.warnings.len();
        self.more_warnings += warnings.len().saturating_sub(left);
        self.warnings.extend(warnings.into_iter().take(left));
    }
}

/// A file to restore.
#[derive(Debug, Clone)]
struct ToDo {
    k: usize,
    /// Whether its outputs may be replaced: an earlier run of the same request left them unfinished.
    ours: bool,
}

impl FolderPlan {
    /// What was asked for.
    pub fn request(&self) -> &FolderRequest {
        &self.request
    }

    /// Files in the folder, in all shards.
    pub fn files(&self) -> usize {
        self.files.len()
    }

    /// Files of this shard that are finished.
    pub fn finished(&self) -> usize {
        self.finished.len()
    }

    /// Files of this shard that are to be restored, below the folder.
    pub fn to_do(&self) -> impl ExactSizeIterator<Item = &str> {
        self.to_do.iter().map(|to_do| self.files[to_do.k].label.as_str())
    }

    fn input(&self, k: usize) -> PathBuf {
        self.root.join(Path::new(&self.files[k].file))
    }

    /// How an observation is read.
    fn reading(&self, k: usize) -> Reading {
        self.files[k].reading(self.request.each.reading())
    }

    fn outputs(&self, name: &Path) -> Outputs {
        Outputs::new(&self.request.output.join(name), self.request.each.samples())
    }

    /// The names that a file's result may have: the usual one, and those in formats that hold more.
    fn candidates(&self, k: usize) -> Vec<PathBuf> {
        let more = [ImageFormat::Png, ImageFormat::Tiff].map(|format| self.names.other(&self.files[k].name, format));
        let more = more.into_iter().filter(|_| self.request.format.is_none());
        std::iter::once(self.names.outputs[k].clone()).chain(more).collect()
    }

    /// What to say of results of earlier runs that lie there and are none of this one's, if there are some: the observations
    /// are gone, or pages of them.
    fn left_over(&self, manifests: &[Manifest]) -> Option<String> {
        let made = manifest::made(manifests, &self.request.scans);
        if made.is_empty() {
            return None;
        }
        let own: HashSet<PathBuf> = (0..self.files.len()).flat_map(|k| self.candidates(k)).collect();
        let stays = |name: &&str| {
            let outputs = self.outputs(Path::new(name));
            !own.contains(Path::new(name)) && outputs.image.is_file() && outputs.record.is_file()
        };
        let left: Vec<&str> = made.into_iter().filter(stays).collect();
        if left.is_empty() {
            return None;
        }
        const SHOWN: usize = 5;
        let more = if left.len() > SHOWN { format!(" and {} more", left.len() - SHOWN) } else { String::new() };
        let names = left[..left.len().min(SHOWN)].join(", ");
        let folder = self.request.output.display();
        Some(format!("{folder}: left alone, results of an earlier run that this one does not make: {names}{more}"))
    }

    /// The request for a file with its result in `name`.
    fn single(&self, to_do: &ToDo, name: &Path) -> Each {
        let mut each = self.request.each.clone();
        let overwrite = self.request.overwrite || to_do.ours;
        let (input, output) = (self.input(to_do.k), OutputRequest::new(self.request.output.join(name), overwrite));
        *each.reading_mut() = self.reading(to_do.k);
        match &mut each {
            Each::Pixels(request) => (request.input, request.output) = (input.into(), Some(output)),
            Each::Latents(request) => (request.input, request.output) = (input, Some(output)),
        }
        each
    }
}

impl Engine {
    /// Checks the restoration of a folder: settings, model, files named in the request, names of the results, and what is
    /// finished. Of the observations only those are read whose results are there, to compare their hashes, and as many as
    /// it takes to find one that can be restored.
    ///
    /// # Errors
    /// [`Error::Input`] for a folder that cannot be listed or holds no image; [`Error::Config`] for settings that are
    /// wrong, folders that overlap, or results of another request in the way; as [`Engine::plan`] when no file can be
    /// planned, for reasons that do not lie in the files.
    pub fn plan_folder(&self, request: &FolderRequest, watch: &Watch<'_>) -> Result<FolderPlan> {
        self.plan_files(request, None, watch)
    }

    /// [`Engine::plan_folder`], of results that become the pages of `stack` if that is given.
    fn plan_files(&self, request: &FolderRequest, stack: Option<&Path>, watch: &Watch<'_>) -> Result<FolderPlan> {
        if !(0.0..=1.0).contains(&request.overlap) {
            return Err(Error::config(format!("an overlap of {}: expected 0 to 1", request.overlap)));
        }
        let (root, files, unlisted) = match &request.each {
            Each::Pixels(each) => {
                self.check_pixels(each)?;
                let listed = self.list(request, watch)?;
                self.check_parts(each)?;
                listed
            }
            Each::Latents(each) => {
                check_latents(each)?;
                latent::opened(each)?;
                self.list(request, watch)?
            }
        };
        check_writable(&manifest::path_of(&request.output, request.shard))?;
        let wished: Vec<&str> = files.iter().map(|scan| scan.name.as_str()).collect();
        let names = Names::new(&wished, request.format, request.each.samples());
        let mut plan = FolderPlan {
            request: request.clone(),
            root,
            files,
            names,
            finished: Vec::new(),
            to_do: Vec::new(),
            unlisted: if request.shard.index() == 1 { unlisted } else { Vec::new() },
            stack: stack.map(Path::to_owned),
        };
        let manifests = manifest::read_all(&request.output)?;
        self.sort_out(&mut plan, &manifests, watch)?;
        plan.left_over(&manifests).map_or(Ok(()), |message| warn(watch, message))?;
        self.try_one(&plan)?;
        Ok(plan)
    }

    /// Refuses settings that are wrong, or that a folder cannot have.
    fn check_pixels(&self, each: &Request) -> Result<()> {
        each.check()?;
        if each.guidance.is_some() || matches!(each.problem.task, Task::Custom { .. }) {
            return Err(Error::config(
                "a folder takes no operator or guidance of the caller's: records cannot hold it",
            ));
        }
        Ok(())
    }

    /// Refuses a model, an adaptation, or files named in the request that do not suit.
    fn check_parts(&self, each: &Request) -> Result<()> {
        if let Some(adapt) = &each.adapt {
            self.plan_adaptation(adapt, each.sampling.preset)?;
        }
        self.header()?.check_class(each.sampling.class)?;
        each.problem.degradation(Boundary::default(), &self.limits)?;
        if let Some(ignored) = &each.problem.ignore {
            ignored.read(&self.limits)?;
        }
        Ok(())
    }

    /// Tells what is finished, what is left, and what is in the way.
    fn sort_out(&self, plan: &mut FolderPlan, manifests: &[Manifest], watch: &Watch<'_>) -> Result<()> {
        let begun = manifest::begun(manifests);
        let (mut asked, mut in_the_way) = (None, Vec::new());
        for k in plan.request.shard.range(plan.files.len()) {
            let names = plan.candidates(k);
            let is_there = |path: &Path| path.symlink_metadata().is_ok();
            let there = |name: &&PathBuf| plan.outputs(name).all().any(is_there);
            let present: Vec<&PathBuf> = names.iter().filter(there).collect();
            let mut done = None;
            if !present.is_empty()
                && let Ok(content) = ContentHash::of_file(&plan.input(k))
            {
                let asked = match &mut asked {
                    Some(asked) => asked,
                    none => none.insert(Asked::new(self, &plan.request.each, watch)?),
                };
                for name in &present {
                    if asked.is_met_by(self, &plan.outputs(name), content, plan.files[k].page)? {
                        done = Some((k, (*name).clone(), content));
                        break;
                    }
                }
            }
            let is_ours = |name: &PathBuf| begun.contains(&*name.to_string_lossy());
            match done {
                Some(done) => plan.finished.push(done),
                None => {
                    let lost = |name: &PathBuf| {
                        let outputs = plan.outputs(name);
                        !is_there(&outputs.image) && matches!(outputs.check_record(), Ok(Some(_)))
                    };
                    // Where the record alone is left, its result is made again.
                    let ours = names.iter().any(|name| is_ours(name) || lost(name));
                    let usual = &plan.names.outputs[k];
                    if present.contains(&usual) && !ours && !plan.request.overwrite {
                        in_the_way.push(plan.request.output.join(usual));
                    }
                    plan.to_do.push(ToDo { k, ours });
                }
            }
        }
        let [first, more @ ..] = in_the_way.as_slice() else { return Ok(()) };
        let more = if more.is_empty() { String::new() } else { format!(" and {} more", more.len()) };
        let (first, another) = (first.display(), plan.stack.as_ref().map_or("output folder", |_| "output"));
        Err(Error::config(format!(
            "{first}{more}: made with other settings, from another file, or not by adir: use --overwrite to replace such \
             files, or another {another}"
        )))
    }

    /// Refuses a request by which no file can be restored, for a reason that does not lie in the files.
    fn try_one(&self, plan: &FolderPlan) -> Result<()> {
        if !plan.finished.is_empty() {
            return Ok(());
        }
        let mut first = None;
        for to_do in &plan.to_do {
            match self.plan_file(plan, to_do) {
                Ok(_) => return Ok(()),
                Err(e @ (Error::Config(_) | Error::Model { .. })) => first = first.or(Some(e)),
                Err(_) => {}
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// The plan for a file, in a format that can hold its result.
    fn plan_file(&self, plan: &FolderPlan, to_do: &ToDo) -> Result<FilePlan> {
        let name = &plan.names.outputs[to_do.k];
        let request = plan.single(to_do, name);
        let planned = self.plan_each(&request);
        let format = ImageFormat::from_path(name)?;
        let suits = match &planned {
            Ok(planned) => holding(planned.picture(), format),
            // It may be the format that does not suit.
            Err(Error::Config(_)) => match read_hashed_as(&plan.input(to_do.k), request.reading(), &self.limits) {
                Ok((picture, _)) => holding(&picture, format),
                Err(_) => format,
            },
            Err(_) => format,
        };
        if suits == format || plan.request.format.is_some() {
            return planned;
        }
        self.plan_each(&plan.single(to_do, &plan.names.other(&plan.files[to_do.k].name, suits)))
    }

    /// Plans every file that is to be restored, and computes nothing.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when the watcher breaks.
    pub fn check_folder(&self, plan: &FolderPlan, watch: &Watch<'_>) -> Result<CheckedFolder> {
        self.check_files(plan, watch, &mut |_, _| Ok(()))
    }

    /// The same with another check of each file, which counts from 0.
    fn check_files(
        &self,
        plan: &FolderPlan,
        watch: &Watch<'_>,
        check: &mut dyn FnMut(usize, &FilePlan) -> Result<()>,
    ) -> Result<CheckedFolder> {
        let mut checked = CheckedFolder::default();
        let total = plan.to_do.len();
        for (done, to_do) in (1..).zip(&plan.to_do) {
            let file = plan.files[to_do.k].label.clone();
            report(watch, &Event::Checking { done, total, path: file.clone() })?;
            match self.plan_file(plan, to_do) {
                Ok(planned) => {
                    check(to_do.k, &planned)?;
                    checked.files += 1;
                    let named = |text: String| if text.contains(&file) { text } else { format!("{file}: {text}") };
                    checked.warn(planned.warnings().into_iter().map(named).collect());
                    checked.memory = checked.memory.max(planned.memory());
                    checked.products = checked.products.saturating_add(planned.products());
                    checked.first.get_or_insert(planned);
                }
                Err(error) => checked.faults.push(FileFault { file, error }),
            }
        }
        let same = |fault: &FileFault| match &fault.error {
            Error::Input { path, message } => Some((fault.file.clone(), Error::input(path, message.clone()))),
            _ => None,
        };
        let unlisted = plan.unlisted.iter().filter_map(same);
        checked.faults.extend(unlisted.map(|(file, error)| FileFault { file, error }));
        Ok(checked)
    }
}
