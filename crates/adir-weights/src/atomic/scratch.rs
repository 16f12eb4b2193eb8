//! Scratch files: removed when they are done with, and cleared away where a process that was killed left them.
//!
//! Whoever writes a scratch file holds a lock on it, which the system releases when the process ends, however it ends. A
//! scratch file that can be locked belongs to nobody. File systems that several machines share may know no locks, or
//! only those of one machine: what another machine made must also be a day old.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

const START: &str = ".adir-";
const END: &str = ".part";
/// Older than any file that is still being written.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Removes the scratch file when it goes out of scope, whatever the reason.
pub(super) struct Scratch(pub PathBuf);

impl Scratch {
    /// Lets the file be: it has become something else.
    pub fn forget(mut self) {
        self.0 = PathBuf::new();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.0.as_os_str().is_empty() {
            // Nothing more can be done here, and the error that led here matters more.
            let _ = fs::remove_file(&self.0);
        }
    }
}

/// What tells this machine, since it was started, from others; none where the system does not say.
fn machine() -> Option<&'static str> {
    static MACHINE: OnceLock<Option<String>> = OnceLock::new();
    let read = || {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let digits: String = id.chars().filter(char::is_ascii_hexdigit).take(12).collect();
        (digits.len() == 12).then_some(digits)
    };
    MACHINE.get_or_init(read).as_deref()
}

/// A new scratch file in a folder, which no one else clears away as long as it is open. What killed processes left there
/// is removed, once per process and folder.
pub(super) fn create(folder: &Path) -> io::Result<(File, Scratch)> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    static SWEPT: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    if SWEPT.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.to_owned()) {
        sweep(folder);
    }
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let (machine, process) = (machine().unwrap_or("0"), std::process::id());
        let path = folder.join(format!("{START}{machine}-{process}-{number}{END}"));
        let file = match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => file,
            // Left behind by a killed process that had the same number.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(e) => return Err(e),
        };
        let taken = matches!(file.try_lock(), Err(TryLockError::WouldBlock));
        // Another process may have taken it for an old one before it was locked.
        if !taken && path.symlink_metadata().is_ok() {
            return Ok((file, Scratch(path)));
        }
    }
}

/// Removes the scratch files of processes that are gone. Whatever goes wrong, they stay.
fn sweep(folder: &Path) {
    let ours = machine().map(|machine| format!("{START}{machine}-"));
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| name.starts_with(START) && name.ends_with(END)) else { continue };
        let Ok(found) = entry.metadata() else { continue };
        let age = found.modified().ok().and_then(|written| written.elapsed().ok()).unwrap_or_default();
        let ours = ours.as_ref().is_some_and(|ours| name.starts_with(ours));
        if found.is_file()
            && (ours || age > DAY)
            && let Ok(file) = File::open(entry.path())
            && file.try_lock().is_ok()
        {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("adir-scratch-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn what_a_killed_process_left_is_cleared_away() {
        let f = folder("sweep");
        let path = |name: &str| f.join(name);
        let old = |name: &str| {
            fs::write(path(name), "x").unwrap();
            let day_before_yesterday = std::time::SystemTime::now() - 2 * DAY;
            OpenOptions::new().write(true).open(path(name)).unwrap().set_modified(day_before_yesterday).unwrap();
        };
        // Of another machine, or of an earlier version, and young; old; something else.
        fs::write(path(".adir-ffffffffffff-7-0.part"), "x").unwrap();
        old(".adir-123-0.part");
        old("mine.part");
        fs::create_dir(path(".adir-1-1.part")).unwrap();
        let dead = machine().map(|machine| format!(".adir-{machine}-1-0.part"));
        dead.iter().for_each(|name| fs::write(path(name), "x").unwrap());
        // One that is being written, in a process that has swept before.
        let (file, scratch) = create(&folder("elsewhere")).unwrap();
        let alive = path(scratch.0.file_name().unwrap().to_str().unwrap());
        fs::rename(&scratch.0, &alive).unwrap();
        drop(create(&f).unwrap());
        assert!(!path(".adir-123-0.part").exists());
        assert!(dead.iter().all(|name| !path(name).exists()));
        for stays in [".adir-ffffffffffff-7-0.part", "mine.part", ".adir-1-1.part"] {
            assert!(path(stays).exists(), "{stays}");
        }
        assert!(alive.exists());
        drop(file);
        sweep(&f);
        assert!(machine().is_none() || !alive.exists());
        drop(scratch);
        fs::remove_dir_all(f).unwrap();
        fs::remove_dir_all(folder("elsewhere")).unwrap();
    }

    /// Whoever sweeps at the same time, a file that was made stays until it is done with.
    #[test]
    fn sweeping_takes_no_file_of_the_living() {
        let f = folder("race");
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| {
                        for _ in 0..500 {
                            let (_file, scratch) = create(&f).unwrap();
                            assert!(scratch.0.exists());
                        }
                    })
                })
                .collect();
            while writers.iter().any(|writer| !writer.is_finished()) {
                sweep(&f);
            }
        });
        assert_eq!(fs::read_dir(&f).unwrap().count(), 0);
        fs::remove_dir_all(f).unwrap();
    }
}
