//! The files of a result, and what they must not destroy.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::open::Engine;
use super::record::Record;
use super::request::{Observation, Request, Target};
use crate::io::atomic::check_outputs;
use crate::problem::{KernelSource, MaskSource};
use crate::{Error, Result};

/// The files of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outputs {
    /// The image.
    pub image: PathBuf,
    /// The samples, where there are several.
    pub samples: Vec<PathBuf>,
    /// The record.
    pub record: PathBuf,
}

impl Outputs {
    /// `x.png`, `x.1.png`, `x.2.png` ... and `x.png.json`.
    pub fn new(image: &Path, samples: usize) -> Self {
        let several = (1..=samples).filter(|_| samples > 1);
        let mut record = OsString::from(image);
        record.push(".json");
        Self { image: image.to_owned(), samples: several.map(|k| sample(image, k)).collect(), record: record.into() }
    }

    /// All of them, the image first.
    pub fn all(&self) -> impl Iterator<Item = &Path> {
        [&self.image, &self.record].into_iter().chain(&self.samples).map(PathBuf::as_path)
    }

    /// Refuses outputs that cannot be written, that exist, or that would destroy what is read; a record's name that
    /// belongs to something else is refused even if files are replaced. Returns samples of an earlier run that stay
    /// beside the new ones.
    pub(super) fn check(&self, inputs: &[PathBuf], overwrite: bool) -> Result<Vec<PathBuf>> {
        let inputs: Vec<&Path> = inputs.iter().map(PathBuf::as_path).collect();
        check_outputs(&inputs, &self.all().collect::<Vec<_>>(), overwrite)?;
        let Some(before) = self.check_record()? else { return Ok(Vec::new()) };
        let stale = (self.samples.len() + 1..=before).filter(|_| before > 1).map(|k| sample(&self.image, k));
        Ok(stale.filter(|path| path.is_file()).collect())
    }

    /// The number of samples in the record that will be replaced, if there is one.
    ///
    /// # Errors
    /// [`Error::Config`] when something else has its name.
    pub(super) fn check_record(&self) -> Result<Option<usize>> {
        if self.record.symlink_metadata().is_err() {
            return Ok(None);
        }
        let samples = Record::samples_in(&self.record).ok_or_else(|| {
            let record = self.record.display();
            Error::config(format!(
                "{record}: the record would replace this file, which adir did not write: move it away"
            ))
        })?;
        Ok(Some(samples))
    }
}

/// The file of the k-th sample, counted from 1.
fn sample(image: &Path, k: usize) -> PathBuf {
    let mut end = OsString::from(format!("{k}."));
    end.push(image.extension().unwrap_or_default());
    image.with_extension(end)
}

impl Engine {
    /// Files that the request or the engine reads.
    pub(super) fn files_read(&self, request: &Request) -> Vec<PathBuf> {
        let mut files = Vec::new();
        if let Observation::File(path) = &request.input {
            files.push(path.clone());
        }
        files.extend(self.model_files());
        if let Some(KernelSource::Text(text)) = &request.problem.kernel {
            files.push(text.into());
        }
        for mask in [&request.problem.mask, &request.problem.ignore] {
            if let Some(MaskSource::File(mask)) = mask {
                files.push(mask.clone());
            }
        }
        match request.adapt.as_ref().map(|adapt| &adapt.target) {
            Some(
                Target::Gallery(path)
                | Target::Text { gallery: path, .. }
                | Target::Adapter(path)
                | Target::Archive(path),
            ) => files.push(path.clone()),
            Some(Target::Images(images)) => files.extend(images.iter().cloned()),
            Some(Target::Itself) | None => {}
        }
        files.extend(request.adapt.as_ref().and_then(|adapt| adapt.start.clone()));
        files
    }
}
