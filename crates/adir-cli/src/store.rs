//! The cache folder: indexes of galleries, and adapters by what determined them.

use std::path::{Path, PathBuf};

use adir::adapt::{Adapter, AdapterInfo};
use adir::io::hash::sha256;
use adir::io::weights::WeightFile;
use adir::models::Prior;
use adir::retrieve::{ContentHash, Encoder};
use adir::{Error, Result};
use clap::Args;

/// An adapter may be called by so many digits of its key, if no other starts with them.
const SHORTEST_KEY: usize = 6;

/// Where indexes and adapted weights are kept.
#[derive(Debug, Clone, Args)]
pub struct Store {
    /// Where indexes and adapted weights are kept [default: the user's cache folder]
    #[arg(long, value_name = "FOLDER")]
    cache: Option<PathBuf>,
}

/// An adapter in the cache.
pub struct Kept {
    pub key: String,
    pub path: PathBuf,
    pub info: AdapterInfo,
}

impl Store {
    fn folder(&self) -> Result<PathBuf> {
        let of = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let standard = || {
            of("XDG_CACHE_HOME")
                .or_else(|| Some(of("HOME")?.join(".cache")))
                .or_else(|| of("LOCALAPPDATA"))
                .map(|folder| folder.join("adir"))
        };
        let found = self.cache.clone().or_else(standard);
        found.ok_or_else(|| Error::config("no cache folder is known: give one with --cache"))
    }

    /// Where the index of a gallery is kept.
    pub fn index_path(&self, gallery: &Path, encoder: &dyn Encoder) -> Result<PathBuf> {
        let name = sha256(format!("{} {}", gallery.display(), encoder.id()).as_bytes());
        Ok(self.folder()?.join("indexes").join(format!("{name}.index")))
    }

    /// Where the adapter of that key is kept.
    pub fn adapter_path(&self, key: &str) -> Result<PathBuf> {
        Ok(self.folder()?.join("adapters").join(format!("{key}.safetensors")))
    }

    /// Keeps an adapter.
    pub fn keep(&self, key: &str, adapter: &Adapter, info: &AdapterInfo, model: &Prior) -> Result<()> {
        let path = self.adapter_path(key)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, e))?;
        adapter.save(&path, info, model)
    }

    /// The adapters kept, by name and key, and the files that cannot be read as such.
    pub fn adapters(&self) -> Result<(Vec<Kept>, Vec<Error>)> {
        adapters_in(&self.folder()?.join("adapters"))
    }

    /// The file of an adapter: a path, or else the name or first digits of the key of one that is kept.
    pub fn resolve(&self, reference: &Path) -> Result<PathBuf> {
        self.one_of(reference, None)
    }

    /// The file of the adapter for the observation in `file`: as [`Store::resolve`], and where a folder is given or
    /// several adapters have the name, the one that was made for it.
    pub fn resolve_for(&self, reference: &Path, file: &Path) -> Result<PathBuf> {
        self.one_of(reference, Some(ContentHash::of_file(file)?.to_string()))
    }

    fn one_of(&self, reference: &Path, observation: Option<String>) -> Result<PathBuf> {
        if reference.is_file() {
            return Ok(reference.to_owned());
        }
        let text = reference.to_string_lossy();
        let called = |k: &Kept| k.info.name == text || text.len() >= SHORTEST_KEY && k.key.starts_with(&*text);
        let mut found: Vec<Kept> = self.adapters()?.0.into_iter().filter(called).collect();
        // Names come first: a folder of observations gave its own to their adapters.
        let in_folder = found.is_empty() && reference.is_dir();
        if in_folder {
            found = adapters_in(reference)?.0;
        }
        if found.is_empty() {
            let expected = "expected a file, a folder of such files, or a name or key of `adir adapt list`";
            return Err(Error::config(format!("no adapter {text:?}: {expected}")));
        }
        let keys: Vec<_> = found.iter().map(|k| format!("{:.12}", k.key)).collect();
        if in_folder || found.len() > 1 {
            found.retain(|k| observation.as_ref().is_some_and(|own| k.info.serves.contains(own)));
        }
        match (found.len(), observation) {
            (1, _) => Ok(found.remove(0).path),
            (0, Some(own)) => Err(Error::config(format!(
                "of {} adapters in {text:?} none was made for this observation (SHA-256 {own:.12}...): make one with \
                 `adir adapt create`, or take one by its file or key: {}",
                keys.len(),
                keys.join(", ")
            ))),
            _ => {
                let (n, keys) = (keys.len(), keys.join(", "));
                Err(Error::config(format!("{n} adapters are called {text:?}; take one by its file or key: {keys}")))
            }
        }
    }
}

/// The adapters in a folder, by name and key, and the files that cannot be read as such; none if there is no folder.
fn adapters_in(folder: &Path) -> Result<(Vec<Kept>, Vec<Error>)> {
    let (mut kept, mut broken) = (Vec::new(), Vec::new());
    let files = match std::fs::read_dir(folder) {
        Ok(files) => files,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok((kept, broken)),
        Err(e) => return Err(Error::io(folder, e)),
    };
    for file in files {
        let path = file.map_err(|e| Error::io(folder, e))?.path();
        let Some(key) = path.file_name().and_then(|n| n.to_str()?.strip_suffix(".safetensors")) else { continue };
        match WeightFile::open(&path).map_err(Into::into).and_then(|file| Adapter::info(&file)) {
            Ok(info) => kept.push(Kept { key: key.to_owned(), path: path.clone(), info }),
            Err(e) => broken.push(e),
        }
    }
    kept.sort_by(|a, b| (&a.info.name, &a.key).cmp(&(&b.info.name, &b.key)));
    Ok((kept, broken))
}
