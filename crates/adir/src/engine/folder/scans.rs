//! The observations of a folder: its images, or every page of them.

use std::path::{Path, PathBuf};

use super::{FileFault, FolderRequest};
use crate::engine::event::{Event, Watch, report, warn};
use crate::engine::open::Engine;
use crate::io::ending::{Written, check_ending};
use crate::io::folder::{check_folder, check_output_folder, image_files, is_plain};
use crate::io::image::{Reading, read_hashed_as};
use crate::{Error, Result};

/// Most pages of a file.
const MOST_PAGES: usize = 1 << 16;

/// An observation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scan {
    /// Its file, below the folder.
    pub file: String,
    /// Its page, if the file has several and each is an observation.
    pub page: Option<usize>,
    /// The name of a file that it could be: `a.p03.tif` is page 3 of `a.tif`, which has ten or more.
    pub name: String,
    /// What it is called in messages.
    pub label: String,
}

/// What an observation is called in messages.
pub(in crate::engine) fn label(file: &str, page: Option<usize>) -> String {
    page.map_or_else(|| file.to_owned(), |page| format!("{file}, page {page}"))
}

impl Scan {
    fn of(file: String, page: Option<usize>, pages: usize) -> Self {
        let name = page.map_or_else(|| file.clone(), |page| page_name(&file, page, pages));
        Self { label: label(&file, page), file, page, name }
    }

    /// How it is read, if files are read as `reading` says.
    pub fn reading(&self, reading: &Reading) -> Reading {
        Reading { page: self.page.or(reading.page), ..*reading }
    }
}

/// The name of a page, with as many digits as the last one has, so that names sort as pages do.
fn page_name(file: &str, page: usize, pages: usize) -> String {
    let digits = pages.to_string().len();
    let path = Path::new(file);
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or("tif");
    path.with_extension(format!("p{page:0digits$}.{ending}")).to_string_lossy().into_owned()
}

/// The folder of the observations, these, and what could not be listed.
type Listed = (PathBuf, Vec<Scan>, Vec<FileFault>);

impl Engine {
    /// The observations of a request, and what could not be listed.
    pub(super) fn list(&self, request: &FolderRequest, watch: &Watch<'_>) -> Result<Listed> {
        let FolderRequest { scans, output, .. } = request;
        check_ending(output, Written::Folder)?;
        check_output_folder(output)?;
        if request.every_page && scans.is_file() {
            return Ok((parent(scans), self.pages_of_file(request)?, Vec::new()));
        }
        check_folder(scans)?;
        let root = scans.canonicalize().map_err(|e| Error::input(scans, format!("cannot be opened: {e}")))?;
        let results = output.canonicalize().ok();
        if let Some(results) = &results
            && root.starts_with(results)
        {
            let (output, scans) = (output.display(), scans.display());
            let message = "results there could replace observations: choose another folder";
            return Err(Error::config(format!("{output}: is or holds the input folder {scans}, and {message}")));
        }
        let mut listing = image_files(scans)?;
        // Results within the folder are no observations.
        if let Some(below) = results.as_ref().and_then(|results| results.strip_prefix(&root).ok()) {
            listing.results.retain(|folder| !Path::new(folder).starts_with(below));
            listing.files.retain(|file| !Path::new(file).starts_with(below));
        }
        for message in listing.warnings() {
            warn(watch, message)?;
        }
        let no_images = listing.no_images();
        let files = listing.files;
        if files.is_empty() && listing.odd_names.is_empty() {
            return Err(Error::input(scans, no_images));
        }
        let shown = |path: &Path| path.strip_prefix(scans).unwrap_or(path).to_string_lossy().into_owned();
        let folders = listing.unlisted.into_iter().map(|error| match &error {
            Error::Input { path, .. } => FileFault { file: shown(path), error },
            _ => FileFault { file: String::new(), error },
        });
        let mut faults: Vec<FileFault> = folders.collect();
        faults.extend(listing.odd_names.iter().map(|path| {
            let error = Error::input(path, "the name is not UTF-8 or holds a backslash: restore it by itself");
            FileFault { file: shown(path), error }
        }));
        let scans = match request.every_page {
            false => files.into_iter().map(|file| Scan::of(file, None, 1)).collect(),
            true => self.every_page(request, files, watch)?,
        };
        Ok((request.scans.clone(), scans, faults))
    }

    /// The pages of all files. One that cannot be read counts as one page, and is named when it is its turn.
    fn every_page(&self, request: &FolderRequest, files: Vec<String>, watch: &Watch<'_>) -> Result<Vec<Scan>> {
        let (mut scans, total) = (Vec::new(), files.len());
        for (done, file) in (1..).zip(files) {
            report(watch, &Event::Checking { done, total, path: file.clone() })?;
            let pages = self.pages(&request.scans.join(Path::new(&file)), request).unwrap_or(1);
            scans.extend(pages_of(&file, pages));
        }
        Ok(scans)
    }

    fn pages(&self, path: &Path, request: &FolderRequest) -> Result<usize> {
        let read = |page: usize| {
            let reading = Reading { page: Some(page), ..*request.each.reading() };
            read_hashed_as(path, &reading, &self.limits).map(|(picture, _)| picture.pages)
        };
        // A first page that cannot be read is no reason to leave out the others.
        match read(1).or_else(|error| read(2).map_err(|_| error))? {
            pages if pages > MOST_PAGES => {
                let message =
                    format!("has {pages} pages, at most {MOST_PAGES} are restored together: --page N takes one");
                Err(Error::input(path, message))
            }
            pages => Ok(pages),
        }
    }

    /// The pages of a request's one file.
    fn pages_of_file(&self, request: &FolderRequest) -> Result<Vec<Scan>> {
        let path = &request.scans;
        let name = path.file_name().and_then(|name| name.to_str()).filter(|name| is_plain(name)).ok_or_else(|| {
            Error::input(path, "the name is not UTF-8 or holds a backslash: its pages can be restored one by one")
        })?;
        Ok(pages_of(name, self.pages(path, request)?))
    }
}

fn pages_of(file: &str, pages: usize) -> Vec<Scan> {
    match pages {
        0 | 1 => vec![Scan::of(file.to_owned(), None, 1)],
        _ => (1..=pages).map(|page| Scan::of(file.to_owned(), Some(page), pages)).collect(),
    }
}

/// The folder that a file lies in.
pub(super) fn parent(file: &Path) -> PathBuf {
    file.parent().map(Path::to_owned).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_have_names_that_sort_as_they_do() {
        let names = |file, pages| pages_of(file, pages).into_iter().map(|scan| scan.name).collect::<Vec<_>>();
        assert_eq!(names("a/b.tif", 2), ["a/b.p1.tif", "a/b.p2.tif"]);
        assert_eq!(names("b.c.fits", 10)[..2], ["b.c.p01.fits", "b.c.p02.fits"]);
        assert_eq!(names("b.tif", 1), ["b.tif"]);
        let last = pages_of("b.tif", 12).pop().unwrap();
        assert_eq!((last.page, last.label.as_str()), (Some(12), "b.tif, page 12"));
    }
}
