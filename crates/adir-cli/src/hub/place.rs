//! Writing into the cache: locks, links from snapshots to files, and what a branch was at.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use adir::io::atomic;
use adir::{Error, Result};

use super::access::is_on;
use super::cache::bytes;
use super::listing::Facts;
use crate::log::Log;

/// The right to write one file of the cache, among all programs that ask for it here; given back when dropped.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code, reason = "holds the lock")] File);

impl Lock {
    /// Waits until no other program has it.
    ///
    /// # Errors
    /// [`Error::Io`] if the lock file cannot be made; [`Error::Interrupted`].
    pub fn take(path: &Path, name: &str, log: &Log) -> Result<Self> {
        let failed = |e| Error::io(path, e);
        make_folder_of(path)?;
        let mut told = false;
        loop {
            let file = File::options().write(true).create(true).truncate(false).open(path).map_err(failed)?;
            match file.try_lock() {
                // Another program may have removed the file that it had locked.
                Ok(()) if is_at(&file, path) => return Ok(Self(file)),
                Ok(()) => continue,
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => {
                    log.warn(&format!(
                        "{}: this file system has no locks: let one program write at a time",
                        path.display()
                    ));
                    return Ok(Self(file));
                }
                Err(TryLockError::Error(e)) => return Err(failed(e)),
            }
            if !std::mem::replace(&mut told, true) {
                log.info(&format!("another program downloads {name}: waiting"));
            }
            log.check()?;
            sleep(Duration::from_millis(100));
        }
    }
}

/// Whether the file is still the one at `path`.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    matches!((file.metadata(), path.metadata()), (Ok(a), Ok(b)) if (a.dev(), a.ino()) == (b.dev(), b.ino()))
}

#[cfg(not(unix))]
fn is_at(_file: &File, _path: &Path) -> bool {
    true
}

/// Makes the folder that a file is to lie in.
pub fn make_folder_of(path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))
}

/// Whether a whole file is at `path`, itself or by a link.
pub fn is_whole(path: &Path, facts: &Facts) -> bool {
    path.metadata().is_ok_and(|about| about.is_file() && about.len() == facts.size)
}

/// Puts a file of the cache into a snapshot: as a link, or where there are none, itself.
///
/// # Errors
/// [`Error::Io`].
pub fn put(blob: &Path, snapshot: &Path, name: &str) -> Result<()> {
    let place = snapshot.join(name);
    make_folder_of(&place)?;
    if place.symlink_metadata().is_ok() {
        fs::remove_file(&place).map_err(|e| Error::io(&place, e))?;
    }
    let up = "../".repeat(2 + name.matches('/').count());
    let file = blob.file_name().unwrap_or_default().to_string_lossy();
    let target = PathBuf::from(format!("{up}blobs/{file}"));
    if !is_on("HF_HUB_DISABLE_SYMLINKS") && link(&target, &place).is_ok() {
        return Ok(());
    }
    fs::rename(blob, &place).map_err(|e| Error::io(&place, e))
}

#[cfg(unix)]
fn link(target: &Path, place: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, place)
}

#[cfg(windows)]
fn link(target: &Path, place: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, place)
}

#[cfg(not(any(unix, windows)))]
fn link(_target: &Path, _place: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Writes down at which commit a branch or tag was.
///
/// # Errors
/// [`Error::Io`].
pub fn write_ref(model: &Path, revision: &str, commit: &str) -> Result<()> {
    let path = model.join("refs").join(revision);
    atomic::write::<Error>(&path, |file| file.write_all(commit.as_bytes()).map_err(|e| Error::io(&path, e)))
}

/// Refuses what does not fit on the disk that `folder` is or will be on.
///
/// # Errors
/// [`Error::Io`] with both numbers.
pub fn check_space(folder: &Path, need: u64) -> Result<()> {
    match free(folder) {
        Some(free) if need > free => {
            let message = format!(
                "{} more are needed, and {} are free; HF_HUB_CACHE names another folder",
                bytes(need),
                bytes(free)
            );
            Err(Error::io(folder, io::Error::new(io::ErrorKind::StorageFull, message)))
        }
        _ => Ok(()),
    }
}

/// Bytes that the disk of a folder can take, where the system says so.
#[cfg(unix)]
fn free(folder: &Path) -> Option<u64> {
    let there = folder.ancestors().find(|folder| folder.is_dir())?;
    let about = nix::sys::statvfs::statvfs(there).ok()?;
    // The types of both differ between systems.
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast, reason = "u32 on some systems")]
    let (blocks, size) = (about.blocks_available() as u64, about.fragment_size() as u64);
    Some(blocks.saturating_mul(size))
}

#[cfg(not(unix))]
fn free(_folder: &Path) -> Option<u64> {
    None
}
