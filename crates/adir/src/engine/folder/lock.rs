//! One run at a time for a part of a folder: two would restore the same files, and each other's results would be in the
//! way.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use super::manifest;
use super::shard::Shard;
use crate::{Error, Result};

/// Held while a run writes the results of a shard. It is gone with the process, however that ends; what a kill leaves is an
/// empty file that locks nothing.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    file: Option<File>,
}

impl Lock {
    /// Takes the lock of a shard in the folder of results, which is made if it is missing. The results are those of the
    /// pages of `stack` if that is given.
    ///
    /// # Errors
    /// [`Error::Config`] if another run has it, [`Error::Io`] where the system refuses to write.
    pub fn take(folder: &Path, shard: Shard, stack: Option<&Path>) -> Result<Self> {
        let path = manifest::path_of(folder, shard).with_extension("lock");
        fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        loop {
            let file = File::options().create(true).append(true).open(&path).map_err(|e| Error::io(&path, e))?;
            match file.try_lock() {
                Ok(()) if is_at(&file, &path) => return Ok(Self { path, file: Some(file) }),
                // The run that had it has just removed it.
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(taken(folder, shard, stack)),
                // A file system without locks: files that both restore are told apart when they are written.
                Err(TryLockError::Error(_)) => return Ok(Self { path, file: None }),
            }
        }
    }
}

/// That another run is at work there.
fn taken(folder: &Path, shard: Shard, stack: Option<&Path>) -> Error {
    let what = match (stack, shard == Shard::WHOLE) {
        (Some(stack), _) => {
            let stack = stack.display();
            let message = "another run makes this file at this moment: wait for it, or stop it";
            return Error::config(format!("{stack}: {message}"));
        }
        (None, true) => "this folder",
        (None, false) => "this shard",
    };
    Error::config(format!(
        "{}: another run restores {what} there at this moment: wait for it, or stop it. To share the work of a folder, give \
         each run a part of it with --shard I/N",
        folder.display()
    ))
}

/// Whether an open file is the one that has that path.
fn is_at(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let identity = |found: &fs::Metadata| (found.dev(), found.ino());
        matches!((file.metadata(), fs::metadata(path)), (Ok(a), Ok(b)) if identity(&a) == identity(&b))
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        path.exists()
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Removed before it is let go: who opens it meanwhile finds that it is gone.
        let _ = fs::remove_file(&self.path);
        drop(self.file.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_locked_once_and_then_again() {
        let folder = std::env::temp_dir().join(format!("adir-lock-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        let first = Lock::take(&folder, Shard::WHOLE, None).unwrap();
        let refused = Lock::take(&folder, Shard::WHOLE, None).unwrap_err();
        assert!(matches!(&refused, Error::Config(message) if message.contains("--shard I/N")), "{refused}");
        let refused = Lock::take(&folder, Shard::WHOLE, Some(Path::new("x.tif"))).unwrap_err().to_string();
        assert!(refused.starts_with("x.tif: ") && !refused.contains("shard"), "{refused}");
        drop(Lock::take(&folder, Shard::new(1, 2).unwrap(), None).unwrap());
        drop(first);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        // What a kill leaves is in nobody's way.
        fs::write(manifest::path_of(&folder, Shard::WHOLE).with_extension("lock"), "").unwrap();
        drop(Lock::take(&folder, Shard::WHOLE, None).unwrap());
        fs::remove_dir_all(folder).unwrap();
    }
}
