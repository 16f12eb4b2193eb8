//! What an adaptation names is looked at before anything is computed: all that a run would refuse is refused by its plan.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::adapt::Observed;
use super::open::Engine;
use super::request::{Adapt, Keep, Target};
use crate::adapt::{AdapterInfo, HeldOut};
use crate::io::folder::image_files;
use crate::io::image::read_hashed;
use crate::io::limits::Limits;
use crate::io::open_regular;
use crate::io::shards::split;
use crate::io::tally::counted;
use crate::retrieve::{ContentHash, TileSide, remote_address};
use crate::{Error, Result};

/// A gallery that a plan has looked at, with its tiles and the text that is searched for.
#[derive(Debug)]
pub(super) struct LookedAt {
    path: PathBuf,
    tiles: Option<TileSide>,
    prompt: Option<String>,
    /// The content of its only image, if it has but one.
    only: Option<ContentHash>,
}

impl Engine {
    /// Refuses a gallery, an archive or images that an adaptation could not use, and an encoder that cannot be opened. Each
    /// gallery is looked at once: an engine plans many files that have the same.
    pub(super) fn check_target(&self, request: &Adapt) -> Result<()> {
        match &request.target {
            Target::Gallery(path) => self.check_gallery(path, request.tiles, None),
            Target::Text { gallery, prompt } => self.check_gallery(gallery, request.tiles, Some(prompt)),
            Target::Archive(folder) => only_image(folder, &self.limits).map(drop),
            Target::Images(images) => images.iter().try_for_each(|image| {
                let file = split(image).map_or_else(|| image.clone(), |(shard, _)| shard);
                let opened = open_regular(&file).map(drop);
                opened.map_err(|e| Error::input(image, format!("cannot be read: {e}")))
            }),
            Target::Itself | Target::Adapter(_) => Ok(()),
        }
    }

    /// Refuses a gallery that no image could be chosen from: by the observation, or by `prompt`.
    ///
    /// # Errors
    /// [`Error::Input`] when it is not there, cannot be opened, or holds no image that can be used; as [`Engine::encoder`].
    pub fn check_gallery(&self, path: &Path, tiles: Option<TileSide>, prompt: Option<&str>) -> Result<()> {
        let is_known =
            |known: &LookedAt| known.path == path && known.tiles == tiles && known.prompt.as_deref() == prompt;
        if self.lock().looked_at.iter().any(is_known) {
            return Ok(());
        }
        let mut found = LookedAt { path: path.to_owned(), tiles, prompt: prompt.map(str::to_owned), only: None };
        if let Some(address) = remote_address(path) {
            let gallery = self.gallery(Path::new(address), tiles, &|_| ControlFlow::Continue(()))?;
            if let Some(prompt) = prompt {
                gallery.encoder().text(prompt)?;
            }
            self.lock().looked_at.push(found);
            return Ok(());
        }
        if path.is_dir() {
            found.only = only_image(path, &self.limits)?;
        } else if !path.is_file() {
            return Err(Error::input(path, "is neither a folder nor an index"));
        }
        let encoder = self.encoder()?;
        if let Some(prompt) = prompt {
            encoder.text(prompt)?;
        }
        // What is opened here is kept for the run.
        if path.is_file() {
            let gallery = self.gallery(path, tiles, &|_| ControlFlow::Continue(()))?;
            match gallery.index()?.len() {
                0 => return Err(Error::input(path, "is an index without images")),
                1 => found.only = gallery.index()?.entry(0)?.content,
                _ => {}
            }
            let root = gallery.root();
            if !root.is_dir() {
                let index = path.display();
                let message =
                    format!("contains no images to adapt to: this folder, of the index {index}, is not there");
                return Err(Error::input(root, message));
            }
            gallery.check(&self.limits)?;
        }
        self.lock().looked_at.push(found);
        Ok(())
    }

    /// Refuses a gallery, one that [`Engine::check_gallery`] has looked at, whose only image is the observation.
    pub(super) fn check_besides(&self, request: &Adapt, observed: ContentHash) -> Result<()> {
        let (Target::Gallery(path) | Target::Text { gallery: path, .. }) = &request.target else { return Ok(()) };
        let is_all = |known: &LookedAt| known.path == *path && known.only == Some(observed);
        if self.lock().looked_at.iter().any(is_all) {
            return Err(Error::input(path, "contains no images to adapt to besides the observation itself"));
        }
        Ok(())
    }

    /// Whether it is plain that there is but one image to adapt to, so that none can be held out.
    pub(super) fn has_one_image(&self, request: &Adapt) -> bool {
        let (Target::Gallery(path) | Target::Text { gallery: path, .. }) = &request.target else { return false };
        let is_all = |known: &LookedAt| known.path == *path && known.tiles.is_none() && known.only.is_some();
        request.shared.is_empty() && (request.neighbours == 1 || self.lock().looked_at.iter().any(is_all))
    }

    /// Refuses an adapter that is not there, is damaged, or belongs to other weights: the one that is used, or the one from
    /// which an adaptation starts. Reads the prior. Returns what a user should know of it.
    pub(super) fn check_adapter(&self, request: &Adapt, observed: &Observed<'_>) -> Result<Option<String>> {
        let reference = match &request.target {
            Target::Adapter(reference) => Some(reference),
            _ => request.start.as_ref(),
        };
        let Some(reference) = reference else { return Ok(None) };
        let path = self.cache.find_adapter(reference, Some(&observed.content.to_string()))?;
        // Many files of a folder are planned with the same one.
        let known = self.lock().adapter.clone().filter(|(of, _)| *of == path);
        let info = match known {
            Some((_, info)) => info,
            None => {
                let prior = self.prior(&|_| ControlFlow::Continue(()))?;
                let info = self.kept(&prior, &path, observed)?.info;
                self.lock().adapter = Some((path, info.clone()));
                info
            }
        };
        Ok(doubts(request, &info))
    }
}

/// The content of the only image of a folder; `None` if it has several. Reads images until it knows.
///
/// # Errors
/// [`Error::Input`] for a folder without images that can be read.
fn only_image(folder: &Path, limits: &Limits) -> Result<Option<ContentHash>> {
    let found = image_files(folder)?;
    if found.files.is_empty() && found.odd_names.is_empty() {
        return Err(Error::input(folder, found.no_images()));
    }
    let (mut only, mut first_fault) = (None, None);
    for name in &found.files {
        match read_hashed(&folder.join(name), limits) {
            Ok((_, content)) if only.is_some_and(|other| other != content) => return Ok(None),
            Ok((_, content)) => only = Some(content),
            Err(e) => first_fault = first_fault.or(Some(e)),
        }
    }
    match (only, first_fault) {
        (None, Some(fault)) => {
            let count = counted(found.files.len(), "file");
            Err(Error::input(folder, format!("contains no image that can be read: {count}, the first: {fault}")))
        }
        (only, _) => Ok(only),
    }
}

/// What a user should know of an adapter that is used because it was named, whatever it says of itself.
fn doubts(request: &Adapt, info: &AdapterInfo) -> Option<String> {
    let named = matches!(request.target, Target::Adapter(_)) && request.keep == Keep::Always;
    let HeldOut { before, after, significance, .. } = info.outcome.as_ref().filter(|outcome| !outcome.fell())?;
    let went = if *significance >= 0.0 { "fell" } else { "rose" };
    named.then(|| {
        format!(
            "the adapter {:?} denoises the images held out of its training no better than the prior: their loss {went} from \
             {before:.5} to {after:.5}, by {:.1} standard errors. It is used, as --adapter names it; --adapt auto \
             leaves it out",
            info.name,
            significance.abs()
        )
    })
}
