//! The files of a result, and what they must not destroy.

use std::path::{Path, PathBuf};

use super::open::Engine;
use super::record::FileRecord;
use super::request::{Observation, OutputRequest, Request, Target};
use crate::io::atomic::check_outputs;
use crate::io::ending::{Written, check_ending};
use crate::io::hash::ContentHash;
use crate::io::results::{maps_of, record_of, sample_of, samples_in};
use crate::problem::{KernelSource, MaskSource};
use crate::{Error, Result};

/// The files of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outputs {
    /// The name that was asked for.
    named: PathBuf,
    /// The image.
    pub image: PathBuf,
    /// The samples, where there are several.
    pub samples: Vec<PathBuf>,
    /// Where they differ, where there are several.
    pub deviation: Option<DeviationFiles>,
    /// The record.
    pub record: PathBuf,
    /// The page about the run, which the caller writes.
    pub report: Option<PathBuf>,
}

/// The two pictures of where samples differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviationFiles {
    /// Standard deviations.
    pub map: PathBuf,
    /// The mean of the samples with the deviations in colour over it.
    pub heat: PathBuf,
}

/// What stays of an earlier run that had more samples.
#[derive(Debug, Clone, Default)]
pub(super) struct Stale {
    /// Samples.
    pub samples: Vec<PathBuf>,
    /// Maps of where they differ, if now there is one sample.
    pub maps: Vec<PathBuf>,
}

impl Outputs {
    /// `x.png`, `x.1.png`, `x.2.png` ..., `x.std.png`, `x.heat.png` and `x.png.json`.
    pub fn new(image: &Path, samples: usize) -> Self {
        let several = (1..=samples).filter(|_| samples > 1);
        Self {
            named: image.to_owned(),
            image: image.to_owned(),
            samples: several.map(|k| sample_of(image, k)).collect(),
            deviation: (samples > 1).then(|| deviation_of(image)),
            record: record_of(image),
            report: None,
        }
    }

    /// Those of a request.
    pub(super) fn of(asked: &OutputRequest, samples: usize) -> Self {
        let outputs = Self::new(&asked.path, samples);
        let record = asked.record.clone().unwrap_or_else(|| outputs.record.clone());
        Self { record, report: asked.report.clone(), ..outputs }
    }

    /// The same of results that are not averaged: `x.png`, or `x.1.png`, `x.2.png` ... where there are several.
    pub(super) fn of_results(asked: &OutputRequest, count: usize) -> Self {
        let mut outputs = Self { deviation: None, ..Self::of(asked, count) };
        if count > 1 {
            outputs.image = outputs.samples.remove(0);
        }
        outputs
    }

    /// The pictures, the image first.
    pub fn pictures(&self) -> impl Iterator<Item = &Path> {
        let files = [&self.image].into_iter().chain(&self.samples).chain(self.maps());
        files.map(PathBuf::as_path)
    }

    fn maps(&self) -> impl Iterator<Item = &PathBuf> {
        self.deviation.iter().flat_map(|files| [&files.map, &files.heat])
    }

    /// All of them, the image first.
    pub fn all(&self) -> impl Iterator<Item = &Path> {
        self.pictures().chain([&self.record].into_iter().chain(&self.report).map(PathBuf::as_path))
    }

    /// Refuses outputs that cannot be written, that exist, or that would destroy what is read; a record's name that
    /// belongs to something else is refused even if files are replaced. Returns what of an earlier run stays beside
    /// the new files.
    pub(super) fn check(&self, inputs: &[PathBuf], overwrite: bool) -> Result<Stale> {
        let inputs: Vec<&Path> = inputs.iter().map(PathBuf::as_path).collect();
        let before = self.check_record();
        // --overwrite does not help where the record would replace a file of another program.
        check_outputs(&inputs, &self.all().collect::<Vec<_>>(), overwrite || before.is_err())?;
        check_ending(&self.record, Written::Json)?;
        self.report.as_ref().map_or(Ok(()), |report| check_ending(report, Written::Html))?;
        let Some(before) = before? else { return Ok(Stale::default()) };
        // Where results are not averaged, the first of several is a sample, too, and none has the name that was asked for.
        let by_number = self.image != self.named;
        let count = self.samples.len() + usize::from(by_number);
        let stale = (count + 1..=before).filter(|_| before > 1).map(|k| sample_of(&self.named, k));
        let stale = by_number.then(|| self.named.clone()).into_iter().chain(stale);
        let maps = (before > 1 && self.deviation.is_none()).then(|| maps_of(&self.named));
        let is_there = |path: &PathBuf| path.is_file();
        Ok(Stale {
            samples: stale.filter(is_there).collect(),
            maps: maps.into_iter().flatten().filter(is_there).collect(),
        })
    }

    /// Refuses files that came to be since the outputs were checked, unless they may be replaced.
    pub(super) fn check_free(&self, overwrite: bool) -> Result<()> {
        let is_there = |path: &&Path| path.symlink_metadata().is_ok();
        match self.all().find(is_there).filter(|_| !overwrite) {
            None => Ok(()),
            Some(path) => {
                let message = "was made by something else meanwhile; use --overwrite to replace it, or another output";
                Err(Error::config(format!("{}: {message}", path.display())))
            }
        }
    }

    /// The records of the pictures, once they are written.
    pub(super) fn written(&self) -> Result<Vec<FileRecord>> {
        let written = |path: &Path| -> Result<FileRecord> {
            Ok(FileRecord { path: Some(path.to_owned()), sha256: ContentHash::of_file(path)? })
        };
        self.pictures().map(written).collect()
    }

    /// The number of samples in the record that will be replaced, if there is one.
    ///
    /// # Errors
    /// [`Error::Config`] when something else has its name.
    pub fn check_record(&self) -> Result<Option<usize>> {
        if self.record.symlink_metadata().is_err() {
            return Ok(None);
        }
        let samples = samples_in(&self.record).ok_or_else(|| {
            let record = self.record.display();
            Error::config(format!(
                "{record}: the record would replace this file, which adir did not write: move it away"
            ))
        })?;
        Ok(Some(samples))
    }
}

/// The pictures of where samples differ.
fn deviation_of(image: &Path) -> DeviationFiles {
    let [map, heat] = maps_of(image);
    DeviationFiles { map, heat }
}

impl Engine {
    /// Files that the request or the engine reads.
    pub(super) fn files_read(&self, request: &Request) -> Vec<PathBuf> {
        let mut files = Vec::new();
        if let Observation::File(path) = &request.input {
            files.push(path.clone());
        }
        files.extend(self.model_files());
        files.extend(request.problem.kernel.as_ref().and_then(KernelSource::path).map(Path::to_owned));
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
