//! The server's folder: uploads, jobs and their results, under ids.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use adir::io::atomic;
use adir::{Error, Result};
use serde::{Deserialize, Serialize};

use super::error::Fault;
use super::id::Id;
use super::jobs::Job;

/// Uploads that no job has taken are kept for so long, and only so many.
const KEPT: Duration = Duration::from_secs(24 * 3600);
const MOST_IMAGES: usize = 2000;
/// Numbers of jobs are smaller.
const MOST_NUMBERS: u64 = 1 << 53;

/// A picture that was sent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Upload {
    /// What the client calls it.
    pub name: String,
    /// The ending of its file.
    pub ending: String,
}

/// The folder. One server at a time has it.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    _lock: File,
}

impl Store {
    /// Opens or makes the folder.
    ///
    /// # Errors
    /// [`Error::Config`] where another server has it; [`Error::Io`] where the system refuses.
    pub fn open(folder: &Path) -> Result<Self> {
        for part in ["images", "jobs"] {
            let part = folder.join(part);
            fs::create_dir_all(&part).map_err(|e| Error::io(&part, e))?;
        }
        let path = folder.join("lock");
        let lock = File::options().create(true).append(true).open(&path).map_err(|e| Error::io(&path, e))?;
        lock.try_lock().map_err(|_| {
            let folder = folder.display();
            Error::config(format!("{folder}: another server uses this folder; give another with --data FOLDER"))
        })?;
        let folder = std::path::absolute(folder).map_err(|e| Error::io(folder, e))?;
        #[cfg(unix)]
        {
            // Pictures are their owner's.
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::Permissions::from_mode(0o700);
            fs::set_permissions(&folder, mode).map_err(|e| Error::io(&folder, e))?;
        }
        Ok(Self { folder, _lock: lock })
    }

    fn image_folder(&self, id: Id) -> PathBuf {
        self.folder.join("images").join(id.to_string())
    }

    /// The folder of a job.
    pub fn job_folder(&self, id: Id) -> PathBuf {
        self.folder.join("jobs").join(id.to_string())
    }

    /// A file for an upload that is being received, and its path.
    pub fn begin(&self, id: Id, name: &str) -> Result<(File, PathBuf), Fault> {
        let folder = self.image_folder(id);
        fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
        let path = folder.join(format!("file{}", ending(name)));
        let file = File::create(&path).map_err(|e| Error::io(&path, e))?;
        Ok((file, path))
    }

    /// Keeps an upload that was received.
    pub fn keep(&self, id: Id, name: &str) -> Result<(), Fault> {
        let upload = Upload { name: name.to_owned(), ending: ending(name).to_owned() };
        self.write(&self.image_folder(id).join("about.json"), &upload)
    }

    /// Drops an upload.
    pub fn drop_image(&self, id: Id) {
        // It may not be there.
        let _ = fs::remove_dir_all(self.image_folder(id));
    }

    /// An upload and its file.
    pub fn image(&self, id: Id) -> Result<(Upload, PathBuf), Fault> {
        let folder = self.image_folder(id);
        let text = fs::read(folder.join("about.json")).map_err(|_| Fault::not_found("picture"))?;
        let upload: Upload = serde_json::from_slice(&text).map_err(|_| Fault::not_found("picture"))?;
        let file = folder.join(format!("file{}", ending(&format!("x{}", upload.ending))));
        Ok((upload, file))
    }

    /// Drops uploads that are old, and the oldest where there are many.
    pub fn tidy(&self) {
        let Ok(entries) = fs::read_dir(self.folder.join("images")) else { return };
        let mut all: Vec<(SystemTime, PathBuf)> = entries
            .flatten()
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        all.sort();
        let surplus = all.len().saturating_sub(MOST_IMAGES);
        for (k, (time, path)) in all.into_iter().enumerate() {
            if k < surplus || time.elapsed().is_ok_and(|age| age > KEPT) {
                let _ = fs::remove_dir_all(path);
            }
        }
    }

    /// Gives a job a file of an upload, under a name of its own.
    pub fn take(&self, image: Id, job: Id, name: &str) -> Result<(PathBuf, String), Fault> {
        let (upload, from) = self.image(image)?;
        let folder = self.job_folder(job);
        fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
        let to = folder.join(format!("{name}{}", ending(&format!("x{}", upload.ending))));
        fs::hard_link(&from, &to).or_else(|_| fs::copy(&from, &to).map(drop)).map_err(|e| Error::io(&to, e))?;
        Ok((to, upload.name))
    }

    /// The file of a job with that stem, if there is one.
    pub fn taken(&self, job: Id, name: &str) -> Option<PathBuf> {
        let folder = self.job_folder(job);
        ENDINGS.iter().map(|ending| folder.join(format!("{name}{ending}"))).find(|path| path.is_file())
    }

    /// Writes what is known of a job.
    pub fn save(&self, job: &Job) -> Result<(), Fault> {
        self.write(&self.job_folder(job.id).join("job.json"), job)
    }

    /// Removes a job with its files.
    pub fn remove(&self, job: Id) -> Result<(), Fault> {
        let folder = self.job_folder(job);
        if folder.exists() {
            self.disown(job)?;
            fs::remove_dir_all(&folder).map_err(|e| Error::io(&folder, e))?;
        }
        Ok(())
    }

    /// Removes what makes a folder a job: it is none after a restart.
    pub fn disown(&self, job: Id) -> Result<(), Fault> {
        let path = self.job_folder(job).join("job.json");
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(&path, e).into()),
            _ => Ok(()),
        }
    }

    /// Removes what a killed server has left: jobs that were not yet any, and uploads that did not come to their end.
    pub fn sweep(&self) {
        for (part, whole) in [("jobs", "job.json"), ("images", "about.json")] {
            let entries = fs::read_dir(self.folder.join(part)).into_iter().flatten().flatten();
            let names = entries.filter(|e| e.file_name().into_string().is_ok_and(|name| Id::try_from(name).is_ok()));
            for folder in names.map(|entry| entry.path()) {
                if !folder.join(whole).exists() {
                    let _ = fs::remove_dir_all(&folder);
                }
            }
        }
    }

    /// All jobs of earlier servers; what cannot be read, or has a number that cannot be, is left alone.
    pub fn jobs(&self) -> Vec<Job> {
        let entries = fs::read_dir(self.folder.join("jobs")).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| {
                let job: Job = serde_json::from_slice(&fs::read(entry.path().join("job.json")).ok()?).ok()?;
                let is_its = entry.file_name().to_str() == Some(&job.id.to_string());
                (is_its && job.number < MOST_NUMBERS).then_some(job)
            })
            .collect()
    }

    fn write(&self, path: &Path, value: &impl Serialize) -> Result<(), Fault> {
        let text = serde_json::to_vec(value).map_err(|e| Fault::failed(e.to_string()))?;
        Ok(atomic::write(path, |file| file.write_all(&text).map_err(|e| Error::io(path, e)))?)
    }
}

/// Endings that files may have. The last is that of a file whose format its content tells.
const ENDINGS: [&str; 14] =
    [".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".fits", ".fit", ".exr", ".jxl", ".avif", ".npy", ".txt", ""];

/// The ending of a name, where it is one of those.
fn ending(name: &str) -> &'static str {
    let name = name.to_ascii_lowercase();
    ENDINGS.iter().find(|ending| name.ends_with(*ending)).copied().unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_name_but_a_known_ending_reaches_the_disk() {
        for (name, kept) in
            [("a.PNG", ".png"), ("a.png/../../x", ""), ("..", ""), ("a.tif\0", ""), ("scan.TIFF", ".tiff")]
        {
            assert_eq!(ending(name), kept, "{name:?}");
        }
    }
}
