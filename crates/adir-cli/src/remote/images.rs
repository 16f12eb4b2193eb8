//! The images of a gallery on a server: files of a folder, or fetched and kept in the cache.

use std::io::Write;
use std::path::{Path, PathBuf};

use adir::io::folder::is_plain;
use adir::io::hash::sha256;
use adir::io::image::{Reading, read_bytes};
use adir::io::limits::Limits;
use adir::{Error, Result};

use super::RemoteArgs;
use super::client::Client;

/// Where images come from.
pub struct Images {
    gallery: String,
    folder: Option<PathBuf>,
    fetch: bool,
    cache: Option<PathBuf>,
    client: Client,
}

impl Images {
    /// # Errors
    /// As [`Client::new`].
    pub fn new(gallery: &str, args: &RemoteArgs, cache: Option<PathBuf>) -> Result<Self> {
        let client = Client::new(gallery, None)?;
        Ok(Self { gallery: gallery.to_owned(), folder: args.gallery_images.clone(), fetch: args.fetch, cache, client })
    }

    /// See [`RemoteIndex::check_images`](adir::retrieve::RemoteIndex::check_images).
    pub fn check(&self) -> Result<()> {
        let gallery = &self.gallery;
        match (&self.folder, self.fetch, &self.cache) {
            (Some(folder), ..) if !folder.is_dir() => Err(Error::input(folder, "is no folder (--gallery-images)")),
            (Some(_), ..) | (None, true, Some(_)) => Ok(()),
            (None, true, None) => {
                Err(Error::config("--fetch keeps images in the cache: leave out --no-cache, or give --cache FOLDER"))
            }
            (None, false, _) => Err(Error::config(format!(
                "{gallery}: its images are fetched only if you ask for it: give --fetch, or --gallery-images FOLDER if \
                 they are here"
            ))),
        }
    }

    /// The file of the image at a place.
    ///
    /// # Errors
    /// [`Error::Input`] if it is not there, cannot be fetched or is no image; [`Error::Config`] if it may not be fetched.
    pub fn file(&self, place: &str) -> Result<PathBuf> {
        if place.starts_with('#') {
            let message = format!("image {place} has no path and no address (see --gallery-field)");
            return Err(Error::input(&self.gallery, message));
        }
        let is_address = place.starts_with("http://") || place.starts_with("https://");
        match (&self.folder, is_address) {
            (Some(folder), false) => found_in(folder, place),
            (None, false) => Err(Error::config(format!(
                "{}: gives paths, such as {place:?}: give --gallery-images FOLDER",
                self.gallery
            ))),
            (Some(_), true) => Err(Error::config(format!(
                "{}: gives addresses, which are fetched with --fetch in place of --gallery-images",
                self.gallery
            ))),
            (None, true) => {
                self.check()?;
                self.fetched(place)
            }
        }
    }

    fn fetched(&self, address: &str) -> Result<PathBuf> {
        let cache = self.cache.as_ref().ok_or_else(|| Error::config("no cache for images: give --cache FOLDER"))?;
        let path = cache.join(sha256(address.as_bytes()).to_string());
        if path.is_file() {
            return Ok(path);
        }
        let bytes = self.client.image(address)?;
        let name = Path::new(address.split('?').next().unwrap_or_default());
        read_bytes(name, &bytes, &Reading::default(), &Limits::default())?;
        adir::io::atomic::write(&path, |file| file.write_all(&bytes).map_err(|e| Error::io(&path, e)))?;
        Ok(path)
    }
}

/// The image of that path in a folder.
fn found_in(folder: &Path, place: &str) -> Result<PathBuf> {
    let below = Path::new(place).strip_prefix(folder).ok().and_then(Path::to_str).unwrap_or(place);
    if !is_plain(below) {
        return Err(Error::input(place, "is no path inside the folder of --gallery-images"));
    }
    let path = folder.join(below);
    match path.is_file() {
        true => Ok(path),
        false => Err(Error::input(&path, "is not there")),
    }
}
