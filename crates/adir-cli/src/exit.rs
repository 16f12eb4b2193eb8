//! Exit codes, decided in one place, and what to do about each kind of failure.

use std::io::ErrorKind;

use adir::Error;

/// Everything was done.
pub const DONE: u8 = 0;
/// A verification or some of several images failed.
pub const SOME_FAILED: u8 = 1;
/// Usage or configuration.
pub const CONFIG: u8 = 2;
/// An input file.
pub const INPUT: u8 = 3;
/// A model file.
pub const MODEL: u8 = 4;
/// Limits: memory, disk, image size.
pub const LIMITS: u8 = 5;
/// A numerical or backend failure.
pub const NUMERICAL: u8 = 6;
/// Interrupted by the user.
pub const INTERRUPTED: u8 = 130;

/// The exit code of an error.
pub fn code(error: &Error) -> u8 {
    match error {
        Error::Input { .. } => INPUT,
        Error::Model { .. } => MODEL,
        Error::Config(_) => CONFIG,
        Error::Limits(_) => LIMITS,
        Error::Interrupted => INTERRUPTED,
        Error::Io { source, .. } => match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge | ErrorKind::OutOfMemory => {
                LIMITS
            }
            _ => INPUT,
        },
        _ => NUMERICAL,
    }
}

/// What the user can do next, where the message alone does not say.
pub fn hint(error: &Error) -> Option<&'static str> {
    match error {
        // Only what is there can be shown.
        Error::Model { path, .. } if !path.exists() => None,
        Error::Model { .. } => Some("`adir models info --model FILE` shows what a weights file holds"),
        Error::Limits(_) => Some(
            "use a smaller image or fewer samples at once; for adaptation, try --recompute, --adapt-micro-batch 1 or \
             --lora 16",
        ),
        Error::Numerical(_) => {
            Some("lower the guidance strength (--scale), keep --cap true, or check the weights with `adir verify`")
        }
        Error::Backend(_) => Some("try --device cpu"),
        Error::Io { source, .. } => match source.kind() {
            ErrorKind::NotFound => Some("check the path"),
            ErrorKind::PermissionDenied => Some("check the permissions of the file and its folder"),
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                Some("free some space, or write to another disk")
            }
            _ => None,
        },
        _ => None,
    }
}
