//! Restoring every page of a file into one file of as many pages.
//!
//! Pages are restored like the files of a folder, into a folder beside the result (`x.tif.pages`). What is finished there is
//! not made again, so that the same request goes on after a kill. At the end they become the pages of the result, and the
//! folder goes away.

use std::ffi::OsString;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::run::FolderDone;
use super::{CheckedFolder, Each, FileFault, FilePlan, FolderPlan, FolderRequest, manifest};
use crate::engine::event::Watch;
use crate::engine::open::Engine;
use crate::engine::outputs::Outputs;
use crate::engine::record::{FileRecord, Record, text_of, write_json};
use crate::engine::request::{OutputRequest, Request};
use crate::io::atomic;
use crate::io::hash::ContentHash;
use crate::io::image::ImageFormat;
use crate::io::limits::Limits;
use crate::io::stack::{Plane, check_cube, stack_format, write_stack};
use crate::io::tally::counted;
use crate::{Error, Result};

/// In the folder of the pages: the result is being made of them, and what has its name may be replaced.
const BEGUN: &str = "joining";

/// The restoration of every page of a file into one file.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct StackRequest {
    /// The file: a TIFF stack, a FITS file of several planes, an animation.
    pub input: PathBuf,
    /// The result, a TIFF file or a FITS cube.
    pub output: OutputRequest,
    /// What is done to each page. Its input and output are replaced.
    pub each: Request,
    /// As in [`FolderRequest::overlap`].
    pub overlap: f64,
}

impl StackRequest {
    /// The restoration of the pages of `input`, each as `each` says.
    pub fn new(input: impl Into<PathBuf>, output: OutputRequest, each: Request) -> Self {
        Self { input: input.into(), output, each, overlap: FolderRequest::OVERLAP }
    }
}

/// A checked [`StackRequest`], and what is done of it already.
#[derive(Debug)]
pub struct StackPlan {
    pages: FolderPlan,
    outputs: Outputs,
    overwrite: bool,
    checked: CheckedFolder,
}

impl StackPlan {
    /// The restorations of the pages.
    pub fn pages(&self) -> &FolderPlan {
        &self.pages
    }

    /// What the pages that are left to restore take, and the plan of the first one.
    pub fn checked(&self) -> &CheckedFolder {
        &self.checked
    }

    /// Where a page is restored to, below [`StackPlan::pages`]' output.
    fn page(&self, k: usize) -> Outputs {
        self.pages.outputs(&self.pages.names.outputs[k])
    }

    fn folder(&self) -> &Path {
        &self.pages.request.output
    }
}

/// What was done to the pages of a file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct StackRecord {
    /// Version of this form, [`StackRecord::SCHEMA`].
    pub schema: u32,
    /// Program and version.
    pub program: String,
    /// Results: one.
    pub samples: usize,
    /// The file that was written.
    pub result: FileRecord,
    /// The records of the pages, in their order.
    pub pages: Vec<Record>,
}

impl StackRecord {
    /// The version of the form that this program writes.
    pub const SCHEMA: u32 = 1;

    /// Makes the file `image` of `pages`, the results of the pages with these records, and returns its record.
    ///
    /// # Errors
    /// As [`write_stack`].
    pub fn join(image: &Path, pages: &[PathBuf], records: Vec<Record>, limits: &Limits) -> Result<Self> {
        write_stack(image, pages, limits)?;
        Ok(Self {
            schema: Self::SCHEMA,
            program: concat!("adir ", env!("CARGO_PKG_VERSION")).into(),
            samples: 1,
            result: FileRecord { path: Some(image.to_owned()), sha256: ContentHash::of_file(image)? },
            pages: records,
        })
    }

    /// Writes it to `path`, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] where the system refuses.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_json(path, self)
    }

    /// Reads the record in `path`; `None` for a record of another kind.
    ///
    /// # Errors
    /// [`Error::Input`] when the file cannot be read, or is one of another version.
    pub fn read(path: impl AsRef<Path>) -> Result<Option<Self>> {
        #[derive(Deserialize)]
        struct Kind {
            pages: Option<serde::de::IgnoredAny>,
        }
        let path = path.as_ref();
        let text = text_of(path)?;
        if !serde_json::from_str(&text).is_ok_and(|kind: Kind| kind.pages.is_some()) {
            return Ok(None);
        }
        let record: Self =
            serde_json::from_str(&text).map_err(|e| Error::input(path, format!("is no record of pages: {e}")))?;
        match record.schema {
            Self::SCHEMA => Ok(Some(record)),
            found => Err(Error::input(path, format!("is a record of version {found}, expected {}", Self::SCHEMA))),
        }
    }
}

/// The folder of the pages of a result.
fn folder_of(output: &Path) -> PathBuf {
    let mut name = OsString::from(output);
    name.push(".pages");
    name.into()
}

impl Engine {
    /// Checks the restoration of the pages of a file, as [`Engine::plan_folder`] does, but every page: one that cannot be
    /// restored leaves nothing to write.
    ///
    /// # Errors
    /// As [`Engine::plan_folder`]; [`Error::Config`] for an output that is neither a TIFF nor a FITS file, that exists
    /// or would destroy what is read, for several samples, or for pages that are no FITS cube where one is asked
    /// for; as [`Engine::plan`] for a page that cannot be restored, which the message names.
    pub fn plan_stack(&self, request: &StackRequest, watch: &Watch<'_>) -> Result<StackPlan> {
        let StackRequest { input, output, each, overlap } = request;
        let format = stack_format(&output.path)?;
        if each.sampling.samples > 1 {
            return Err(Error::config(
                "one file holds one result of each page: for several samples, name a folder as output",
            ));
        }
        let outputs = Outputs::of(output, 1);
        let folder = folder_of(&output.path);
        let mut each = each.clone();
        (each.input, each.output) = (input.clone().into(), None);
        let ours = folder.join(BEGUN).is_file();
        outputs.check(&self.files_read(&each), output.overwrite || ours)?;
        let pages = FolderRequest {
            format: Some(format),
            overlap: *overlap,
            overwrite: output.overwrite,
            every_page: true,
            ..FolderRequest::new(input.clone(), folder, Each::Pixels(each.into()))
        };
        // What is wrong with a page's own output is wrong with the file that was asked for.
        let inner = folder_of(&output.path).display().to_string();
        let of_output = |message: String| match message.strip_prefix(&inner).and_then(|rest| rest.split_once(": ")) {
            Some((_, what)) => format!("{}: {what}", output.path.display()),
            None => message,
        };
        let pages = self.plan_files(&pages, Some(&output.path), watch).map_err(|e| e.reworded(of_output))?;
        let mut first = None;
        let checked = self.check_files(&pages, watch, &mut |k, planned| {
            let (ImageFormat::Fits, FilePlan::Pixels(page)) = (format, planned) else { return Ok(()) };
            let size = page.restore().measurement().result();
            let plane = Plane { k, size, depth: page.depth(), header: page.metadata().fits };
            check_cube(&output.path, first.get_or_insert_with(|| plane.clone()), &plane)
        })?;
        if checked.faults.is_empty() {
            return Ok(StackPlan { pages, outputs, overwrite: output.overwrite || ours, checked });
        }
        let mut faults = checked.faults;
        let (count, FileFault { file, error }) = (faults.len(), faults.swap_remove(0));
        let page = file.rsplit_once(", ").map_or(&*file, |(_, page)| page);
        let more =
            if count > 1 { format!("; {} more cannot be restored", counted(count - 1, "page")) } else { String::new() };
        let way_out = "name a folder as output to restore the others";
        Err(error.reworded(|message| format!("{page}: {}{more}; {way_out}", of_output(message))))
    }

    /// Carries out what a plan has left to do. If a page cannot be restored, no file is written, and finished pages are
    /// kept for the next run of the same request.
    ///
    /// # Errors
    /// As [`Engine::run_folder`]; [`Error::Io`] where the system refuses to write the file.
    pub fn run_stack(&self, plan: &StackPlan, watch: &Watch<'_>) -> Result<FolderDone> {
        let done = self.run_folder(&plan.pages, watch)?;
        if !done.failed.is_empty() {
            return Ok(done);
        }
        plan.outputs.check_free(plan.overwrite)?;
        let pages: Vec<Outputs> = (0..plan.pages.files.len()).map(|k| plan.page(k)).collect();
        let records = pages.iter().map(|page| Record::read(&page.record)).collect::<Result<Vec<_>>>()?;
        let begun = plan.folder().join(BEGUN);
        atomic::write(&begun, |file| file.write_all(b"").map_err(|e| Error::io(&begun, e)))?;
        let files: Vec<PathBuf> = pages.iter().map(|page| page.image.clone()).collect();
        StackRecord::join(&plan.outputs.image, &files, records, self.limits())?.write(&plan.outputs.record)?;
        // What is not of this run stays.
        let own = pages.iter().flat_map(Outputs::all).map(Path::to_owned);
        let own = own.chain([manifest::path_of(plan.folder(), plan.pages.request.shard), begun]);
        own.for_each(|file| drop(fs::remove_file(file)));
        let _ = fs::remove_dir(plan.folder());
        Ok(done)
    }
}
