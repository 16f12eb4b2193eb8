//! The folders that Hugging Face tools share, and the program's own.

use std::env;
use std::path::PathBuf;

use adir::{Error, Result};

/// A folder that a variable names; `~/` is the user's own folder.
pub fn folder(name: &str) -> Option<PathBuf> {
    let value = env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)?;
    match value.strip_prefix("~") {
        Ok(rest) => home().map(|home| home.join(rest)),
        Err(_) => Some(value),
    }
}

/// The user's own folder.
fn home() -> Option<PathBuf> {
    let named = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    named("HOME").or_else(|| named("USERPROFILE"))
}

/// What Hugging Face tools keep: `HF_HOME`, else `huggingface` in the user's cache folder.
pub fn hugging_face() -> Option<PathBuf> {
    let cache = || folder("XDG_CACHE_HOME").or_else(|| Some(home()?.join(".cache")));
    folder("HF_HOME").or_else(|| Some(cache()?.join("huggingface")))
}

/// Where models are kept: `HF_HUB_CACHE`, else `hub` in `HF_HOME`.
///
/// # Errors
/// [`Error::Config`] where no folder is known.
pub fn cache() -> Result<PathBuf> {
    let older = || folder("HUGGINGFACE_HUB_CACHE");
    let found = folder("HF_HUB_CACHE").or_else(older).or_else(|| Some(hugging_face()?.join("hub")));
    found
        .ok_or_else(|| Error::config("cannot determine where models are kept: set HF_HOME or HF_HUB_CACHE to a folder"))
}

/// The program's own settings of the user: `adir` in the configuration folder.
pub fn settings() -> Option<PathBuf> {
    let standard = || Some(home()?.join(".config"));
    let found = folder("XDG_CONFIG_HOME").or_else(|| folder("APPDATA")).or_else(standard);
    found.map(|folder| folder.join("adir"))
}
