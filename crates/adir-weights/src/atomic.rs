//! Writing files so that a reader, a crash or a power cut never meets half of one.
//!
//! A scratch file in the same folder is written, flushed and synced, then renamed over the target, then
//! the folder is synced. After an error or a kill the path holds the old file or the new one, whole. On
//! `Ok` the new one survives a power cut (on Unix; elsewhere folders cannot be synced). A symbolic link
//! at the path is replaced, not followed. What a kill leaves is a scratch file, which the next process that writes to
//! the folder removes.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use crate::{Error, Result};

mod scratch;

/// The operations at which the system can fail, in order; the seam where tests make it fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Create,
    Write,
    SyncFile,
    Rename,
    SyncFolder,
}

/// Called before each [`Step`]; an error stands for the system refusing that step.
type Hook<'a> = &'a mut dyn FnMut(Step) -> io::Result<()>;

/// The scratch file being filled, buffered.
pub struct AtomicFile<'a>(BufWriter<Hooked<'a>>);

impl Write for AtomicFile<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Seek for AtomicFile<'_> {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.0.seek(position)
    }
}

struct Hooked<'a> {
    file: File,
    hook: Hook<'a>,
}

impl Write for Hooked<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (self.hook)(Step::Write)?;
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for Hooked<'_> {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.file.seek(position)
    }
}

/// Writes the file at `path` whole or not at all; `fill` provides the content. Missing folders are made.
///
/// # Errors
/// What `fill` returns, [`Error::Invalid`] where a device, a pipe or a socket has the path, or [`Error::Io`] where the system
/// refuses; `path` then holds what it held before
/// (after a failure to sync the folder, the last step: the new content).
pub fn write<E: From<Error>>(path: &Path, fill: impl FnOnce(&mut AtomicFile<'_>) -> Result<(), E>) -> Result<(), E> {
    write_with(path, fill, &mut |_| Ok(()))
}

fn write_with<E: From<Error>>(
    path: &Path,
    fill: impl FnOnce(&mut AtomicFile<'_>) -> Result<(), E>,
    hook: Hook<'_>,
) -> Result<(), E> {
    let io_error = |e| E::from(Error::io(path, e));
    let folder = folder_of(path);
    check_replaceable(path)?;
    hook(Step::Create).and_then(|()| make_folder(folder)).map_err(io_error)?;
    let (file, scratch) = scratch::create(folder).map_err(io_error)?;
    if let Ok(existing) = fs::metadata(path) {
        // Overwriting must not make a private file public.
        fs::set_permissions(&scratch.0, existing.permissions()).map_err(io_error)?;
    }
    let mut writer = AtomicFile(BufWriter::new(Hooked { file, hook }));
    let filled = fill(&mut writer).and_then(|()| writer.flush().map_err(io_error));
    // Taken apart, so that dropping the buffer after an error does not try to write it again.
    let (Hooked { file, hook }, _unwritten) = writer.0.into_parts();
    filled?;
    hook(Step::SyncFile).and_then(|()| file.sync_all()).map_err(io_error)?;
    // Open until it has its name: what is not open is taken for the scratch file of a process that is gone.
    hook(Step::Rename).and_then(|()| fs::rename(&scratch.0, path)).map_err(io_error)?;
    drop(file);
    scratch.forget();
    hook(Step::SyncFolder).and_then(|()| sync_folder(folder)).map_err(io_error)
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Why a path like `missing/../x` is refused: it leads nowhere until the folder is made, and then perhaps to a file that is
/// there.
const LEADS_BACK: &str = "leads back (..) from a folder that is not there: name it without ..";

/// Makes a folder and those it lies in, so that they survive a power cut.
fn make_folder(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if folder.file_name().is_none() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, LEADS_BACK));
    }
    let outer = folder_of(folder);
    make_folder(outer)?;
    match fs::create_dir(folder) {
        // Someone else was faster.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        made => made.and_then(|()| sync_folder(outer)),
    }
}

/// Refuses to put a file in the place of a device, a pipe or a socket, which others rely on.
fn check_replaceable(path: &Path) -> Result<()> {
    match path.symlink_metadata().map(|found| found.file_type()) {
        Ok(kind) if !(kind.is_file() || kind.is_symlink() || kind.is_dir()) => {
            Err(Error::invalid(format!("{} is a device, a pipe or a socket, expected a file", path.display())))
        }
        _ => Ok(()),
    }
}

/// Whether [`write()`] could begin at `path`, tried with an empty scratch file: worth knowing before a long computation.
/// No folder is made.
///
/// # Errors
/// [`Error::Io`] where the folder takes no files, or a missing one cannot be made; [`Error::Invalid`] where the path is a
/// folder, a device, a pipe or a socket, leads back from a folder that is missing, or a name in it is longer than the file
/// system takes.
pub fn check_writable(path: &Path) -> Result<()> {
    if path.is_dir() || path.file_name().is_none() {
        return Err(Error::invalid(format!("{} is a folder, expected a file name", path.display())));
    }
    check_replaceable(path)?;
    let (mut folder, mut names) = (folder_of(path), vec![path.file_name()]);
    while folder.symlink_metadata().is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
        let Some(name) = folder.file_name() else {
            return Err(Error::invalid(format!("{} {LEADS_BACK}", path.display())));
        };
        names.push(Some(name));
        folder = folder_of(folder);
    }
    let is_long = |path: &Path| path.symlink_metadata().is_err_and(|e| e.kind() == io::ErrorKind::InvalidFilename);
    if let Some(name) = names.into_iter().flatten().find(|name| is_long(&folder.join(name))) {
        return Err(too_long(path, name));
    }
    scratch::create(folder).map(drop).map_err(|e| Error::io(folder, e))
}

/// What to say of a path that is too long as a whole, or by a name in it: the last one if no other is to blame.
fn too_long(path: &Path, last: &std::ffi::OsStr) -> Error {
    // Those of usual systems.
    const LONGEST_NAME: usize = 255;
    const LONGEST_PATH: usize = 1000;
    let mut names = path.components().map(|part| part.as_os_str());
    let (what, text) = match names.find(|name| name.len() > LONGEST_NAME) {
        Some(name) => ("name", name),
        None if path.as_os_str().len() > LONGEST_PATH => ("path", path.as_os_str()),
        None => ("name", last),
    };
    let start: String = text.to_string_lossy().chars().take(40).collect();
    Error::invalid(format!(
        "the {what} {start}... has {} bytes, which is longer than the file system takes",
        text.len()
    ))
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("adir-atomic-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// Fails the n-th step for n = 1, 2, ... until the write succeeds.
    fn fail_each_step(existing: Option<&[u8]>) -> usize {
        let folder = folder(if existing.is_some() { "replace" } else { "create" });
        let path = folder.join("out.bin");
        // Larger than the buffer, so that several writes reach the file.
        let new = vec![7_u8; 50_000];
        for n in 1.. {
            match existing {
                Some(old) => fs::write(&path, old).unwrap(),
                None => drop(fs::remove_file(&path)),
            }
            let mut steps = Vec::new();
            let fill = |file: &mut AtomicFile<'_>| {
                new.chunks(5000).try_for_each(|part| file.write_all(part)).map_err(|e| Error::io(&path, e))
            };
            let result = write_with(&path, fill, &mut |step| {
                steps.push(step);
                if steps.len() == n { Err(io::Error::from(io::ErrorKind::StorageFull)) } else { Ok(()) }
            });
            let found = fs::read(&path).ok();
            let files = fs::read_dir(&folder).unwrap().count();
            assert_eq!(files, usize::from(found.is_some()), "step {n}: a scratch file is left");
            if result.is_ok() {
                assert_eq!(found.as_deref(), Some(&new[..]));
                fs::remove_dir_all(&folder).unwrap();
                return steps.len();
            }
            assert_eq!(steps.len(), n, "nothing runs after a failed step");
            let replaced = steps.last() == Some(&Step::SyncFolder);
            assert_eq!(found.as_deref(), if replaced { Some(&new[..]) } else { existing }, "step {n}");
        }
        unreachable!()
    }

    #[test]
    fn a_failure_at_any_step_leaves_the_old_file_or_the_new_one() {
        assert!(fail_each_step(Some(b"old")) >= 9);
        assert!(fail_each_step(None) >= 9);
    }

    #[test]
    fn an_error_or_a_panic_while_filling_leaves_nothing() {
        let folder = folder("fill");
        let path = folder.join("out.bin");
        let failed = write(&path, |file| {
            file.write_all(b"half").unwrap();
            Err(Error::invalid("stop"))
        });
        assert!(matches!(failed, Err(Error::Invalid(_))));
        let panicked = std::panic::catch_unwind(|| write::<Error>(&path, |_| panic!("deliberate")));
        assert!(panicked.is_err());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_folder_that_takes_no_files_is_known_before_anything_is_written() {
        let folder = folder("writable");
        check_writable(&folder.join("new.png")).unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0, "the trial leaves nothing");
        fs::write(folder.join("file"), b"x").unwrap();
        let no_folder = check_writable(&folder.join("file/new.png")).unwrap_err();
        assert!(matches!(&no_folder, Error::Io { path, .. } if path.ends_with("file")), "{no_folder}");
        assert!(matches!(check_writable(&folder), Err(Error::Invalid(_))));
        for long in ["x".repeat(256), format!("missing/{}", "é".repeat(128)), format!("{}/x", "y".repeat(300))] {
            let refused = check_writable(&folder.join(long)).unwrap_err().to_string();
            assert!(refused.contains("longer than the file system takes"), "{refused}");
        }
        check_writable(&folder.join("x".repeat(255))).unwrap();
        // Who is to blame: a name, wherever it stands, or none of them.
        let refused = |path: String| check_writable(&folder.join(path)).unwrap_err().to_string();
        let middle = refused(format!("{}/{}/x.png", "a".repeat(9), "z".repeat(300)));
        assert!(middle.contains("the name zzz") && middle.contains("300 bytes"), "{middle}");
        let whole = refused(format!("{}x.png", "long/".repeat(2000)));
        assert!(whole.contains("the path ") && whole.len() < 200, "{whole}");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_not_replaced() {
        let folder = folder("socket");
        let path = folder.join("socket");
        let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(matches!(check_writable(&path), Err(Error::Invalid(_))));
        assert!(matches!(write(&path, |_| Ok::<_, Error>(())), Err(Error::Invalid(_))));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        // A link is replaced, not what it leads to.
        std::os::unix::fs::symlink(&path, folder.join("link")).unwrap();
        write(&folder.join("link"), |_| Ok::<_, Error>(())).unwrap();
        assert!(path.exists());
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn missing_folders_are_made_when_something_is_written() {
        let folder = folder("missing");
        let path = folder.join("a/b/new.bin");
        check_writable(&path).unwrap();
        assert!(!folder.join("a").exists(), "asking makes none");
        write(&path, |file| file.write_all(b"new").map_err(|e| Error::io("x", e))).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        fs::remove_dir_all(&folder).unwrap();
    }

    /// Once the missing folder was made, such a path led to a file that no check had seen.
    #[test]
    fn a_path_does_not_lead_back_from_a_folder_that_is_missing() {
        let folder = folder("back");
        fs::write(folder.join("a.png"), b"old").unwrap();
        for path in ["new/../a.png", "new/./../a.png", "new/er/../../a.png", "new/../../back.png", "new/../b/c.png"] {
            let path = folder.join(path);
            let refused = check_writable(&path).unwrap_err().to_string();
            assert!(refused.contains("without .."), "{refused}");
            assert!(write(&path, |_| Ok::<_, Error>(())).is_err());
        }
        assert_eq!(fs::read(folder.join("a.png")).unwrap(), b"old");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "no folder is made");
        fs::create_dir(folder.join("there")).unwrap();
        check_writable(&folder.join("there/../b.png")).unwrap();
        fs::remove_dir_all(&folder).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn overwriting_keeps_a_private_file_private() {
        use std::os::unix::fs::PermissionsExt;
        let folder = folder("mode");
        let path = folder.join("out.bin");
        fs::write(&path, b"old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        write(&path, |file| file.write_all(b"new").map_err(|e| Error::io("x", e))).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::remove_dir_all(&folder).unwrap();
    }
}
