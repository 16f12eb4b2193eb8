//! The cache that Hugging Face tools share: `models--ORG--NAME/{blobs,refs,snapshots/COMMIT}`.

use std::fs;
use std::path::{Path, PathBuf};

use adir::{Error, Result};

use super::environment;
use super::id::{Reference, is_commit, is_id};

/// The revision of a model that none is named for.
pub const MAIN: &str = "main";

/// Ends of the names of weights.
pub const WEIGHTS: [&str; 5] = [".safetensors", ".pt", ".pth", ".ckpt", ".bin"];

/// Whether a file's name is that of weights.
pub fn is_weights(name: &str) -> bool {
    WEIGHTS.iter().any(|end| name.ends_with(end))
}

/// The cache.
#[derive(Debug, Clone)]
pub struct HubCache {
    root: PathBuf,
}

/// A model in the cache.
#[derive(Debug)]
pub struct Kept {
    /// `ORG/NAME`.
    pub id: String,
    /// Revisions with their commits.
    pub revisions: Vec<(String, String)>,
    /// Bytes of its files.
    pub bytes: u64,
    /// Bytes of files whose download was not finished.
    pub unfinished: u64,
}

impl HubCache {
    /// The cache that the variables name, whether it is there or not.
    ///
    /// # Errors
    /// As [`environment::cache`].
    pub fn open() -> Result<Self> {
        Ok(Self { root: environment::cache()? })
    }

    /// The folder of all models.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of a model.
    pub fn model(&self, id: &str) -> PathBuf {
        self.root.join(format!("models--{}", id.replace('/', "--")))
    }

    /// The file or folder that [`Reference`] names, if it is there.
    ///
    /// # Errors
    /// [`Error::Model`] if the model is there in other revisions or without that file, or if several weights are there and
    /// none is named.
    pub fn find(&self, wanted: &Reference) -> Result<Option<PathBuf>> {
        let model = self.model(&wanted.id);
        let Some(snapshot) = snapshot(&model, wanted.revision.as_deref().unwrap_or(MAIN)) else {
            return self.other_revision(wanted);
        };
        let Some(file) = &wanted.file else { return model_in(&snapshot, &wanted.id).map(Some) };
        let path = snapshot.join(file);
        if path.exists() {
            return Ok(Some(path));
        }
        let message = format!("is not among what was pulled: adir models pull {} --file {file}", wanted.model());
        Err(Error::model(path, message))
    }

    /// What to say where the revision is not there: nothing, if no other is.
    fn other_revision(&self, wanted: &Reference) -> Result<Option<PathBuf>> {
        let found = revisions(&self.model(&wanted.id));
        if found.is_empty() {
            return Ok(None);
        }
        let names: Vec<_> = found.iter().map(|(name, _)| format!("{}@{name}", wanted.id)).collect();
        let message = format!(
            "this revision was not pulled, but {}: name that one, or adir models pull {}",
            names.join(", "),
            wanted.model()
        );
        Err(Error::model(wanted.to_string(), message))
    }

    /// All models that are there, by name.
    ///
    /// # Errors
    /// [`Error::Io`] if the folder cannot be read.
    pub fn models(&self) -> Result<Vec<Kept>> {
        let entries = match fs::read_dir(&self.root) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|e| Error::io(&self.root, e))?,
        };
        let mut kept = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| Error::io(&self.root, e))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let id = name.strip_prefix("models--").map(|name| name.replacen("--", "/", 1));
            if let Some(id) = id.filter(|id| is_id(id)) {
                kept.push(Kept::of(id, &entry.path()));
            }
        }
        kept.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(kept)
    }
}

impl Kept {
    fn of(id: String, model: &Path) -> Self {
        let revisions = revisions(model);
        let blobs = sizes(&model.join("blobs"));
        let is_part = |path: &Path| path.extension().is_some_and(|end| end == "incomplete");
        let unfinished = blobs.iter().filter(|(path, _)| is_part(path)).map(|(_, bytes)| bytes).sum();
        // Where the file system has no links, files lie in the snapshots only.
        let files = sizes(&model.join("snapshots"));
        let whole = blobs.iter().filter(|(path, _)| !is_part(path)).chain(&files).map(|(_, bytes)| bytes).sum();
        Self { id, revisions, bytes: whole, unfinished }
    }
}

/// The files below a folder with their sizes; a link has none.
fn sizes(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(about) if about.is_dir() => found.extend(sizes(&entry.path())),
            Ok(about) if about.is_file() => found.push((entry.path(), about.len())),
            _ => {}
        }
    }
    found
}

/// The folder with the files of a revision, if it is there.
pub fn snapshot(model: &Path, revision: &str) -> Option<PathBuf> {
    let commit = if is_commit(revision) { revision.to_owned() } else { commit_of(model, revision)? };
    Some(model.join("snapshots").join(commit)).filter(|path| path.is_dir())
}

/// The commit that a branch or tag was at when it was pulled.
fn commit_of(model: &Path, revision: &str) -> Option<String> {
    let text = fs::read_to_string(model.join("refs").join(revision)).ok()?;
    Some(text.trim().to_owned()).filter(|text| is_commit(text))
}

/// The revisions that were pulled, with their commits. A commit that no branch or tag leads to is one of its own name.
fn revisions(model: &Path) -> Vec<(String, String)> {
    let refs = model.join("refs");
    let mut found = Vec::new();
    for (path, _) in sizes(&refs) {
        let name = path.strip_prefix(&refs).ok().and_then(Path::to_str).map(|name| name.replace('\\', "/"));
        let Some((name, commit)) = name.and_then(|name| Some((name.clone(), commit_of(model, &name)?))) else {
            continue;
        };
        if snapshot(model, &commit).is_some() {
            found.push((name, commit));
        }
    }
    for entry in fs::read_dir(model.join("snapshots")).into_iter().flatten().flatten() {
        let commit = entry.file_name().to_string_lossy().into_owned();
        if is_commit(&commit) && !found.iter().any(|(_, known)| *known == commit) {
            found.push((commit.clone(), commit));
        }
    }
    found.sort();
    found
}

/// What of a snapshot is the model: the folder, if it has configurations that tell what is where, else the only weights.
fn model_in(snapshot: &Path, id: &str) -> Result<PathBuf> {
    if snapshot.join("model_index.json").is_file() {
        return Ok(snapshot.to_owned());
    }
    let mut found = Vec::new();
    weights_in(snapshot, snapshot, &mut found);
    found.sort();
    match &found[..] {
        [only] => Ok(snapshot.join(only)),
        [] => Ok(snapshot.to_owned()),
        _ if snapshot.join("config.json").is_file() => Ok(snapshot.to_owned()),
        several => {
            let names: Vec<_> = several.iter().map(|name| format!("{id}/{name}")).collect();
            Err(Error::model(id, format!("has several weights, name one: {}", names.join(", "))))
        }
    }
}

/// The names of the weights in a folder, from `root`.
fn weights_in(root: &Path, folder: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            weights_in(root, &path, found);
        } else if let Some(name) = path.strip_prefix(root).ok().and_then(Path::to_str)
            && is_weights(name)
            && path.is_file()
        {
            found.push(name.replace('\\', "/"));
        }
    }
}

/// A number of bytes for people.
pub fn bytes(count: u64) -> String {
    match count {
        0..1000 => format!("{count} B"),
        1000..1_000_000 => format!("{:.1} kB", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", count as f64 / 1e6),
        _ => format!("{:.2} GB", count as f64 / 1e9),
    }
}
