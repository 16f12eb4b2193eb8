//! Models of the Hugging Face Hub: what was pulled is found in the cache that its tools share. Connections are opened by
//! [`pull`](pull::run) only, which the feature `download` adds.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use adir::{Error, Result};
use clap::builder::{PathBufValueParser, TypedValueParser};

mod aliases;
pub mod cache;
mod environment;
pub mod id;

#[cfg(feature = "download")]
pub mod access;
#[cfg(feature = "download")]
pub mod address;
#[cfg(feature = "download")]
mod blob;
#[cfg(feature = "download")]
pub mod http;
#[cfg(feature = "download")]
mod listing;
#[cfg(feature = "download")]
mod place;
#[cfg(feature = "download")]
pub mod proxy;
#[cfg(feature = "download")]
pub mod pull;
#[cfg(feature = "download")]
mod select;
#[cfg(feature = "download")]
mod transfer;

use aliases::Aliases;
use cache::{HubCache, is_weights};
use id::Reference;

/// What was found under other names while the arguments were read, when there is no log yet.
static NOTES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// What [`model_path`] has to say; each is said once.
pub fn notes() -> Vec<String> {
    std::mem::take(&mut *NOTES.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
}

/// A path, or the name of a model of the Hub that is in the cache, for clap. What exists as a path is one.
pub fn model_path() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| locate(path).map_err(|error| error.to_string()))
}

fn locate(path: PathBuf) -> Result<PathBuf> {
    let Some(wanted) = name_of(&path) else { return Ok(path) };
    match find(&wanted) {
        Ok(Some((found, note))) => {
            NOTES.lock().unwrap_or_else(std::sync::PoisonError::into_inner).extend(note);
            Ok(found)
        }
        // A path of more parts is one to a file that is missing; who opens it says so.
        Ok(None) if wanted.file.is_some() => Ok(path),
        Ok(None) => Err(missing(&wanted)?),
        Err(error) => Err(error),
    }
}

/// The model that a text names, unless it is a path to something that is there, or to weights that are not.
fn name_of(path: &Path) -> Option<Reference> {
    if path.symlink_metadata().is_ok() {
        return None;
    }
    let wanted = Reference::parse(path.to_str()?)?;
    let is_file = wanted.file.is_none() && wanted.revision.is_none() && is_weights(&wanted.id);
    (!is_file).then_some(wanted)
}

/// What to say of a model that is not in the cache.
fn missing(wanted: &Reference) -> Result<Error> {
    let root = HubCache::open()?.root().to_owned();
    let pull = wanted.model();
    Ok(Error::config(format!(
        "no such file or folder, and no such model in {}; if it is a model of the Hub: adir models pull {pull}",
        root.display()
    )))
}

/// A model in the cache, under its own name or that of a copy; what to say of the latter.
///
/// # Errors
/// As [`HubCache::find`] and [`Aliases::read`].
pub fn find(wanted: &Reference) -> Result<Option<(PathBuf, Option<String>)>> {
    let cache = HubCache::open()?;
    if let Some(path) = cache.find(wanted)? {
        return Ok(Some((path, None)));
    }
    for copy in Aliases::read()?.of(&wanted.id) {
        if let Some(path) = cache.find(&wanted.of(copy))? {
            let note = format!("{} was not pulled: using its copy {copy}", wanted.id);
            return Ok(Some((path, Some(note))));
        }
    }
    Ok(None)
}

/// Where a model lies, for `adir models where`.
///
/// # Errors
/// [`Error::Config`] if the text names no model; [`Error::Model`] if it was not pulled; as [`find`].
pub fn place_of(text: &str) -> Result<(PathBuf, Option<String>)> {
    let wanted = parse(text)?;
    let message = || format!("was not pulled: adir models pull {}", wanted.model());
    find(&wanted)?.ok_or_else(|| Error::model(&wanted.id, message()))
}

/// The model that a text names.
///
/// # Errors
/// [`Error::Config`] if it names none.
pub fn parse(text: &str) -> Result<Reference> {
    Reference::parse(text)
        .ok_or_else(|| Error::config(format!("{text}: expected ORG/NAME, ORG/NAME@REVISION or ORG/NAME/FILE@REVISION")))
}
