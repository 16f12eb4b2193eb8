//! What is kept between runs: adapters, and the indexes of galleries.

use std::fmt::Debug;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::adapt::{Adapter, AdapterInfo};
use crate::encode::EncoderId;
use crate::io::atomic;
use crate::io::hash::sha256;
use crate::io::tally::counted;
use crate::io::weights::WeightFile;
use crate::models::Prior;
use crate::retrieve::{Index, TileSide};
use crate::{Error, Result};

/// An adapter may be named by the first digits of its key, at least this many, if no other starts with them.
const SHORTEST_KEY: usize = 6;

/// How long the state of an interrupted run is kept.
const STATES_LAST: Duration = Duration::from_secs(30 * 24 * 3600);
/// The end of the names of states that are removed when their training ends.
const PASSING: &str = ".running.checkpoint";

/// Keeps what was expensive to make.
///
/// Whatever is wrong with an entry, the run goes on without it: a [`Cache`] reports the fault, and the engine makes the
/// entry anew. What a cache does not say is that of [`NoCache`].
pub trait Cache: Debug + Send + Sync {
    /// Whether something can be kept: worth knowing before it is made.
    ///
    /// # Errors
    /// [`Error::Io`] where the system refuses.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    /// The adapter kept under `key`, for `prior`.
    ///
    /// # Errors
    /// [`Error::Model`] when the entry is damaged or belongs to other weights.
    fn adapter(&self, key: &str, prior: &Prior) -> Result<Option<(Adapter, AdapterInfo)>> {
        let _ = (key, prior);
        Ok(None)
    }

    /// Keeps an adapter under `key`, in place of one that is there.
    ///
    /// # Errors
    /// [`Error::Io`] where the system refuses.
    fn keep_adapter(&self, key: &str, adapter: &Adapter, info: &AdapterInfo, prior: &Prior) -> Result<()> {
        let _ = (key, adapter, info, prior);
        Ok(())
    }

    /// The number of training steps noted under `key`.
    fn steps(&self, key: &str) -> Option<u32> {
        let _ = key;
        None
    }

    /// Notes a number of training steps under `key`.
    ///
    /// # Errors
    /// [`Error::Io`] where the system refuses.
    fn note_steps(&self, key: &str, steps: u32) -> Result<()> {
        let _ = (key, steps);
        Ok(())
    }

    /// Where the state of a training named `key` may be kept, if anywhere.
    fn state_path(&self, key: &str) -> Option<PathBuf> {
        let _ = key;
        None
    }

    /// Where an adapter of a latent diffusion model named `key` may be kept, if anywhere.
    fn latent_adapter_path(&self, key: &str) -> Option<PathBuf> {
        let _ = key;
        None
    }

    /// Removes the adapter kept under `key`, of a latent diffusion model or another, where it is there.
    fn forget_adapter(&self, key: &str) {
        let _ = key;
    }

    /// The folder where the states of the samples of a restoration named `key` may be kept, if anywhere.
    fn sampling_folder(&self, key: &str) -> Option<PathBuf> {
        let _ = key;
        None
    }

    /// Removes the states of restorations and trainings that were interrupted long ago.
    fn forget_old_states(&self) {}

    /// The index of the folder `gallery`, in such tiles or of whole images, by an encoder, finished or not.
    ///
    /// # Errors
    /// [`Error::Input`] when the entry is damaged.
    fn index(&self, gallery: &Path, encoder: &EncoderId, tiles: Option<TileSide>) -> Result<Option<Index>> {
        let _ = (gallery, encoder, tiles);
        Ok(None)
    }

    /// Keeps the index of a folder, in place of one that is there.
    ///
    /// # Errors
    /// [`Error::Io`] where the system refuses.
    fn keep_index(&self, gallery: &Path, index: &Index) -> Result<()> {
        let _ = (gallery, index);
        Ok(())
    }

    /// The file of the adapter that `reference` means: the path of a file, the name or the first digits of the key of
    /// an adapter that is kept, or a folder of adapters. Of several it is the one that was made for the observation with
    /// the SHA-256 `observation`, in hexadecimal.
    ///
    /// # Errors
    /// [`Error::Config`] when there is none, or none can be chosen.
    fn find_adapter(&self, reference: &Path, observation: Option<&str>) -> Result<PathBuf> {
        let _ = observation;
        if reference.is_file() { Ok(reference.to_owned()) } else { Err(no_adapter(reference)) }
    }
}

/// Keeps nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoCache;

impl Cache for NoCache {}

/// Keeps nothing and finds nothing of its own accord, but knows the adapters of a folder by their names.
#[derive(Debug, Clone)]
pub struct NamedAdapters(pub FolderCache);

impl Cache for NamedAdapters {
    fn find_adapter(&self, reference: &Path, observation: Option<&str>) -> Result<PathBuf> {
        self.0.find_adapter(reference, observation)
    }
}

/// Keeps everything in a folder: `adapters/KEY.safetensors` and `indexes/HASH.index`; `steps/HASH` notes how many steps
/// some minutes of training became, and `adapters/HASH.checkpoint` is a training that can go on
/// (`HASH.running.checkpoint`: one that was interrupted). `latent/KEY.safetensors` are adapters of latent diffusion models. `sampling/HASH/` holds the samples of a restoration that was
/// interrupted. What was interrupted more than 30 days ago is removed by the next run that writes such a state.
#[derive(Debug, Clone)]
pub struct FolderCache {
    folder: PathBuf,
}

/// An adapter in a [`FolderCache`].
#[derive(Debug, Clone, PartialEq)]
pub struct KeptAdapter {
    /// Its key.
    pub key: String,
    /// Its file.
    pub path: PathBuf,
    /// What it says of itself.
    pub info: AdapterInfo,
}

impl FolderCache {
    /// A cache in `folder`, which is made when something is kept.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The adapters in the cache, sorted by name and key, and errors for unreadable files.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder cannot be listed.
    pub fn adapters(&self) -> Result<(Vec<KeptAdapter>, Vec<Error>)> {
        adapters_in(&self.folder.join("adapters"))
    }

    fn adapter_path(&self, key: &str) -> PathBuf {
        self.folder.join("adapters").join(format!("{key}.safetensors"))
    }

    fn index_path(&self, gallery: &Path, encoder: &EncoderId, tiles: Option<TileSide>) -> PathBuf {
        // Of the bytes of the path: two names that are not Unicode may look alike.
        let tiles = tiles.map_or_else(String::new, |side| format!(" tiles {side}"));
        let name = sha256(&[gallery.as_os_str().as_encoded_bytes(), format!(" {encoder}{tiles}").as_bytes()].concat());
        self.folder.join("indexes").join(format!("{name}.index"))
    }
}

impl Cache for FolderCache {
    fn check(&self) -> Result<()> {
        Ok(atomic::check_writable(&self.adapter_path("check"))?)
    }

    fn adapter(&self, key: &str, prior: &Prior) -> Result<Option<(Adapter, AdapterInfo)>> {
        let path = self.adapter_path(key);
        if !path.is_file() {
            return Ok(None);
        }
        let file = WeightFile::open(&path)?;
        let (adapter, info) = (Adapter::load(&file, prior)?, Adapter::info(&file)?);
        if info.provenance.key()? != key {
            return Err(Error::model(&path, "is another adapter than its name says"));
        }
        Ok(Some((adapter, info)))
    }

    fn keep_adapter(&self, key: &str, adapter: &Adapter, info: &AdapterInfo, prior: &Prior) -> Result<()> {
        let path = self.adapter_path(key);
        adapter.save(&path, info, prior)
    }

    fn steps(&self, key: &str) -> Option<u32> {
        std::fs::read_to_string(self.folder.join("steps").join(key)).ok()?.trim().parse().ok()
    }

    fn note_steps(&self, key: &str, steps: u32) -> Result<()> {
        let path = self.folder.join("steps").join(key);
        atomic::write(&path, |file| writeln!(file, "{steps}").map_err(|e| Error::io(&path, e)))
    }

    fn state_path(&self, key: &str) -> Option<PathBuf> {
        Some(self.folder.join("adapters").join(format!("{key}.checkpoint")))
    }

    fn latent_adapter_path(&self, key: &str) -> Option<PathBuf> {
        Some(self.folder.join("latent").join(format!("{key}.safetensors")))
    }

    fn forget_adapter(&self, key: &str) {
        for path in std::iter::once(self.adapter_path(key)).chain(self.latent_adapter_path(key)) {
            let _ = std::fs::remove_file(path);
        }
    }

    fn sampling_folder(&self, key: &str) -> Option<PathBuf> {
        Some(self.folder.join("sampling").join(key))
    }

    fn forget_old_states(&self) {
        let entries = |folder: &str| std::fs::read_dir(self.folder.join(folder)).into_iter().flatten().flatten();
        let is_old = |path: &Path| {
            let written = path.symlink_metadata().and_then(|found| found.modified()).ok();
            written.and_then(|written| written.elapsed().ok()).is_some_and(|age| age > STATES_LAST)
        };
        // A state that is written again is a new entry of its folder, which is as young as that.
        for folder in entries("sampling").map(|entry| entry.path()).filter(|path| is_old(path)) {
            let _ = std::fs::remove_dir_all(folder);
        }
        let passing = |path: &Path| path.to_string_lossy().ends_with(PASSING);
        for file in entries("adapters").map(|entry| entry.path()).filter(|path| passing(path) && is_old(path)) {
            let _ = std::fs::remove_file(file);
        }
    }

    fn index(&self, gallery: &Path, encoder: &EncoderId, tiles: Option<TileSide>) -> Result<Option<Index>> {
        let path = self.index_path(gallery, encoder, tiles);
        if path.is_file() { Index::open(&path).map(Some) } else { Ok(None) }
    }

    fn keep_index(&self, gallery: &Path, index: &Index) -> Result<()> {
        let path = self.index_path(gallery, index.encoder(), index.tiles());
        index.save(&path)
    }

    fn find_adapter(&self, reference: &Path, observation: Option<&str>) -> Result<PathBuf> {
        if reference.is_file() {
            return Ok(reference.to_owned());
        }
        let text = reference.to_string_lossy();
        let is_meant =
            |k: &KeptAdapter| k.info.is_named(&text) || text.len() >= SHORTEST_KEY && k.key.starts_with(&*text);
        let mut found: Vec<KeptAdapter> = self.adapters()?.0.into_iter().filter(is_meant).collect();
        // Names come first: a folder of observations gave its own to their adapters.
        let in_folder = found.is_empty() && reference.is_dir();
        if in_folder {
            found = adapters_in(reference)?.0;
        }
        if found.is_empty()
            && let Ok(folder) = reference.canonicalize()
            && let Some(name) = folder.file_name()
        {
            // The folder that an adapter was made from and named after, by any path.
            found = self.adapters()?.0.into_iter().filter(|k| k.info.is_named(&name.to_string_lossy())).collect();
        }
        if found.is_empty() {
            return Err(no_adapter(reference));
        }
        let keys = found.iter().map(|k| format!("{:.12}", k.key)).collect::<Vec<_>>();
        if observation.is_some() && (found.len() > 1 || in_folder) {
            let serves = |k: &KeptAdapter| observation.is_some_and(|hash| k.info.serves.iter().any(|s| s == hash));
            // One of an archive was made for no observation, and serves all.
            let for_all = !found.iter().any(serves);
            found.retain(|k| if for_all { k.info.serves.is_empty() } else { serves(k) });
        }
        let (count, keys) = (keys.len(), keys.join(", "));
        match (found.len(), observation) {
            (1, _) => Ok(found.remove(0).path),
            (0, Some(hash)) => Err(Error::config(format!(
                "of {} in {text:?} none was made for this observation (SHA-256 {hash:.12}...): make one with `adir adapt \
                 create`, or choose one by its file or key: {keys}",
                counted(count, "adapter")
            ))),
            _ => Err(Error::config(format!(
                "{count} adapters are named {text:?}; choose one by its file or key: {keys}"
            ))),
        }
    }
}

fn no_adapter(reference: &Path) -> Error {
    let text = reference.to_string_lossy();
    Error::config(format!(
        "no adapter {text:?}: expected a file, a folder of adapters, or a name or key shown by `adir adapt list`"
    ))
}

/// The adapters in a folder, sorted by name and key, and errors for unreadable files; empty if the folder does not
/// exist.
fn adapters_in(folder: &Path) -> Result<(Vec<KeptAdapter>, Vec<Error>)> {
    let (mut kept, mut broken) = (Vec::new(), Vec::new());
    let files = match std::fs::read_dir(folder) {
        Ok(files) => files,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok((kept, broken)),
        Err(e) => return Err(Error::io(folder, e)),
    };
    for file in files {
        let path = file.map_err(|e| Error::io(folder, e))?.path();
        let Some(key) = path.file_name().map(|name| name.to_string_lossy().into_owned()) else { continue };
        let Some(key) = key.strip_suffix(".safetensors") else { continue };
        let info = WeightFile::open(&path).map_err(Error::from).and_then(|file| Adapter::info(&file));
        match info {
            Ok(info) => kept.push(KeptAdapter { key: key.to_owned(), path: path.clone(), info }),
            Err(e) => broken.push(e),
        }
    }
    kept.sort_by(|a, b| (&a.info.name, &a.key).cmp(&(&b.info.name, &b.key)));
    Ok((kept, broken))
}
