//! Exit codes, decided in one place, and what to do about each kind of failure.

use std::borrow::Cow;
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
        Error::Limits(_) | Error::TooLarge { .. } => LIMITS,
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

/// What the user can do next, where the message alone does not say; `has` tells which options the command has.
pub fn hint(error: &Error, has: &dyn Fn(&str) -> bool) -> Option<Cow<'static, str>> {
    match error {
        Error::TooLarge { memory, .. } => return Some(for_large_images(*memory, has)),
        Error::Limits(_) => return Some(for_little_memory(has)),
        // Of `adir models info` itself.
        Error::Model { path, .. } if has("test") && path.exists() => {
            return Some("`adir models list` names the networks that are known".into());
        }
        _ => {}
    }
    fixed(error).map(Cow::Borrowed)
}

/// What helps for an image that takes `memory` bytes at least.
fn for_large_images(memory: u64, has: &dyn Fn(&str) -> bool) -> Cow<'static, str> {
    match has("max-memory") {
        // The next larger number of two digits behind the point.
        true => format!(
            "cut the image into parts or scale it down, or give --max-memory {:.2} or more if there is that much memory",
            (memory as f64 / 1e7).ceil() / 100.0
        )
        .into(),
        false => "cut the image into parts, or scale it down".into(),
    }
}

/// What takes less memory.
fn for_little_memory(has: &dyn Fn(&str) -> bool) -> Cow<'static, str> {
    let ways = [
        ("tile", "a smaller --tile (192, or 64 with --model FOLDER)"),
        ("samples", "fewer --samples"),
        ("micro-batch", "--micro-batch 1"),
        ("recompute", "--recompute"),
        ("adapt-micro-batch", "--adapt-micro-batch 1"),
        ("lora", "--lora 16"),
        ("crop", "a smaller --crop"),
        ("crops", "fewer --crops"),
        ("adapt-crop", "a smaller --adapt-crop"),
        ("max-memory", "a larger --max-memory, if it was given"),
    ];
    let ways: Vec<&str> = ways.iter().filter(|(option, _)| has(option)).map(|(_, way)| *way).collect();
    match ways.as_slice() {
        [] => "use a smaller image, or free some memory".into(),
        _ => format!("free some memory, use a smaller image, or try {}", ways.join(", ")).into(),
    }
}

fn fixed(error: &Error) -> Option<&'static str> {
    match error {
        // Only what is there can be shown.
        Error::Model { path, .. } if !path.exists() => None,
        Error::Model { .. } => Some("`adir models info --model FILE` shows what a weights file holds"),
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use adir::io::limits::Limits;

    use super::*;

    /// What a hint says can be done, and is enough.
    #[test]
    fn hints_name_options_that_the_command_has() {
        let error = Limits::default().refused(Path::new("y.png"), "the file has", 12_345_678_901);
        let hint = |options: &[&str]| hint(&error, &|option| options.contains(&option)).unwrap();
        let with = hint(&["max-memory", "tile"]);
        let gigabytes = with.split("--max-memory ").nth(1).unwrap().split(' ').next().unwrap();
        let memory = (gigabytes.parse::<f64>().unwrap() * 1e9) as u64;
        assert!(Limits::within(memory).max_decoded_bytes >= 12_345_678_901, "{with}");
        assert!(!hint(&["tile"]).contains("--"));
        let error = Error::Limits("this needs more".into());
        let hint = |options: &[&str]| super::hint(&error, &|option| options.contains(&option)).unwrap();
        assert!(hint(&["tile", "lora"]).ends_with("--tile (192, or 64 with --model FOLDER), --lora 16"));
        assert!(!hint(&[]).contains("--"));
    }
}
