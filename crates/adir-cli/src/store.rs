//! Where the program keeps indexes and adapted weights.

use std::path::{Path, PathBuf};

use adir::engine::{Cache, FolderCache, NoCache};
use adir::{Error, Result};
use clap::Args;

/// The program's folder below that of the user which `variable` names, or `usual` below the home.
pub fn user_folder(variable: &str, usual: &str) -> Option<PathBuf> {
    let named = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let home = || Some(named("HOME")?.join(usual));
    named(variable).or_else(home).or_else(|| named("LOCALAPPDATA")).map(|folder| folder.join("adir"))
}

/// Where indexes and adapted weights are kept.
#[derive(Debug, Clone, Args)]
pub struct Store {
    /// Folder for indexes and adapted weights [default: the user's cache folder]
    #[arg(long, value_name = "FOLDER")]
    cache: Option<PathBuf>,
}

impl Store {
    /// The cache, where a folder for it is known.
    pub fn find(&self) -> Option<FolderCache> {
        self.cache.clone().or_else(|| user_folder("XDG_CACHE_HOME", ".cache")).map(FolderCache::new)
    }

    /// The same wherever the current folder is.
    ///
    /// # Errors
    /// [`Error::Io`] where the system does not know the current folder.
    pub fn absolute(&self) -> Result<Self> {
        let absolute = |path: &PathBuf| std::path::absolute(path).map_err(|e| Error::io(path, e));
        Ok(Self { cache: self.cache.as_ref().map(absolute).transpose()? })
    }

    /// The file of an adapter; only names and keys need a cache.
    ///
    /// # Errors
    /// As [`Cache::find_adapter`], and [`Error::Config`] when no folder for the cache is known.
    pub fn find_adapter(&self, adapter: &Path) -> Result<PathBuf> {
        if adapter.is_file() { NoCache.find_adapter(adapter, None) } else { self.open()?.find_adapter(adapter, None) }
    }

    /// The cache.
    ///
    /// # Errors
    /// [`Error::Config`] when no folder for it is known.
    pub fn open(&self) -> Result<FolderCache> {
        self.find().ok_or_else(|| Error::config("cannot determine the cache folder: give one with --cache FOLDER"))
    }
}
