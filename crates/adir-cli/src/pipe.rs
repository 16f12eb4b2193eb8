//! `-` in place of a file: an image from stdin, a PNG to stdout.

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io::{IsTerminal, Read, Write, stdin, stdout};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use adir::engine::Observation;
use adir::io::limits::Limits;
use adir::{Error, Result};

/// What messages call the observation.
const STDIN: &str = "<stdin>";

/// Whether a path means stdin or stdout; `./-` is a file.
pub fn is_pipe(path: &Path) -> bool {
    path.as_os_str() == OsStr::new("-")
}

/// The observation: a file, or what stdin holds.
///
/// # Errors
/// [`Error::Config`] where stdin is a terminal, [`Error::Input`] when it cannot be read or is empty, [`Error::TooLarge`]
/// for more bytes than an image may have.
pub fn observation(path: &Path) -> Result<Observation> {
    if !is_pipe(path) {
        return Ok(path.into());
    }
    if stdin().is_terminal() {
        return Err(Error::config("- reads the observation from a pipe, but stdin is a terminal"));
    }
    let (limits, mut bytes) = (Limits::default(), Vec::new());
    let most = limits.max_decoded_bytes;
    let read = stdin().lock().take(most.saturating_add(1)).read_to_end(&mut bytes);
    read.map_err(|e| Error::input(STDIN, format!("cannot be read: {e}")))?;
    if bytes.len() as u64 > most {
        return Err(limits.refused(Path::new(STDIN), "there are at least", bytes.len() as u64));
    }
    Ok(Observation::Bytes { name: STDIN.into(), bytes: Arc::new(bytes) })
}

/// A folder of the program's own, gone with this value. What a run left that was killed is removed by the next.
#[derive(Debug)]
pub struct Scratch {
    folder: PathBuf,
    /// Locked as long as the process lives.
    _lock: File,
}

/// The names of such folders.
const SCRATCH: &str = "adir-pipe-";
/// A file in them, which their process has locked.
const LOCK: &str = "lock";

/// Removes the folders of processes that are gone. What cannot be told or removed stays.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_scratch = entry.file_name().to_string_lossy().starts_with(SCRATCH);
        if is_scratch
            && entry.path().join(LOCK).symlink_metadata().is_ok_and(|found| found.is_file())
            && let Ok(lock) = File::open(entry.path().join(LOCK))
            && lock.try_lock().is_ok()
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

impl Scratch {
    /// A new folder among the system's temporary ones, which only the user can read.
    ///
    /// # Errors
    /// [`Error::Io`] where the system refuses.
    pub fn new() -> Result<Self> {
        let parent = std::env::temp_dir();
        sweep(&parent);
        for attempt in 0_u32.. {
            let folder = parent.join(format!("{SCRATCH}{}-{attempt}", std::process::id()));
            let mut builder = fs::DirBuilder::new();
            #[cfg(unix)]
            std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
            match builder.create(&folder) {
                Ok(()) => {
                    let lock = File::create_new(folder.join(LOCK)).map_err(|e| Error::io(&folder, e))?;
                    let taken = matches!(lock.try_lock(), Err(TryLockError::WouldBlock));
                    // Another process may have taken the folder for an old one before it was locked.
                    if !taken && folder.join(LOCK).exists() {
                        return Ok(Self { folder, _lock: lock });
                    }
                }
                // Another process has this number, elsewhere.
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && attempt < 1000 => {}
                Err(e) => {
                    let message = format!("no temporary folder can be made ({e}); name another place in TMPDIR");
                    return Err(Error::io(parent, std::io::Error::new(e.kind(), message)));
                }
            }
        }
        Err(Error::config("no name is left for a temporary folder"))
    }

    /// The place of a file in it.
    pub fn file(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Refuses to write a picture to a terminal.
///
/// # Errors
/// [`Error::Config`] where stdout is one.
pub fn check_stdout() -> Result<()> {
    match stdout().is_terminal() {
        true => Err(Error::config("-o - writes a PNG to stdout, which is a terminal: give a file, or a pipe")),
        false => Ok(()),
    }
}

/// Writes a file to stdout.
///
/// # Errors
/// [`Error::Io`] where the system refuses.
pub fn to_stdout(path: &Path) -> Result<()> {
    let bytes = fs::read(path).map_err(|e| Error::io(path, e))?;
    let mut out = stdout().lock();
    out.write_all(&bytes).and_then(|()| out.flush()).map_err(crate::out::failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_the_dead_are_removed_and_those_of_the_living_stay() {
        let alive = Scratch::new().unwrap();
        let parent = std::env::temp_dir();
        let dead = parent.join(format!("{SCRATCH}dead-{}", std::process::id()));
        let foreign = parent.join(format!("{SCRATCH}foreign-{}", std::process::id()));
        for folder in [&dead, &foreign] {
            fs::create_dir(folder).unwrap();
            fs::write(folder.join("stdout.png"), "x").unwrap();
        }
        fs::write(dead.join(LOCK), "").unwrap();
        let second = Scratch::new().unwrap();
        assert!(!dead.exists() && foreign.exists() && alive.file(LOCK).exists() && second.file(LOCK).exists());
        let folders = [alive.file(""), second.file("")];
        drop((alive, second));
        assert!(folders.iter().all(|folder| !folder.exists()));
        fs::remove_dir_all(foreign).unwrap();
    }
}
