//! Galleries on servers: `--gallery qdrant://HOST/COLLECTION` and `clip-retrieval://HOST/INDEX`. Connections are opened to
//! the server that was named, and, if `--fetch` is given, to those that its images lie on.

use std::path::{Path, PathBuf};

use adir::engine::EngineBuilder;
use adir::retrieve::remote_address;
use adir::{Error, Result};
use clap::Args;

#[cfg(feature = "download")]
mod address;
#[cfg(feature = "download")]
mod client;
#[cfg(feature = "download")]
mod clip_retrieval;
#[cfg(feature = "download")]
mod images;
#[cfg(feature = "download")]
mod open;
#[cfg(feature = "download")]
mod qdrant;

#[cfg(feature = "download")]
pub use open::Servers;

use crate::store::Store;

/// How the images of a gallery on a server are had.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct RemoteArgs {
    /// Fetch the nearest images of a gallery on a server (qdrant://HOST/COLLECTION, clip-retrieval://HOST/INDEX) from the
    /// addresses that it gives, at most 64 MiB each; they are kept in the cache
    #[arg(long)]
    pub fetch: bool,
    /// Folder of the images of a gallery on a server that gives paths
    #[arg(long, value_name = "FOLDER", conflicts_with = "fetch")]
    pub gallery_images: Option<PathBuf>,
    /// What a gallery on a server calls the paths or addresses of its images [default: path, image_path, file, url or
    /// image_url, whichever there is]
    #[arg(long, value_name = "NAME")]
    pub gallery_field: Option<String>,
}

impl RemoteArgs {
    /// The first option given.
    pub fn given(&self) -> Option<&'static str> {
        let given = [
            (self.fetch, "--fetch"),
            (self.gallery_images.is_some(), "--gallery-images"),
            (self.gallery_field.is_some(), "--gallery-field"),
        ];
        given.into_iter().find(|(given, _)| *given).map(|(_, name)| name)
    }

    /// Refuses these options where the gallery is on no server.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub fn check(&self, gallery: Option<&Path>) -> Result<()> {
        match self.given() {
            Some(option) if gallery.is_none_or(|gallery| remote_address(gallery).is_none()) => {
                Err(Error::config(format!(
                    "{option} has no effect without a gallery on a server, such as --gallery qdrant://HOST/COLLECTION"
                )))
            }
            _ => Ok(()),
        }
    }

    /// An engine that opens such galleries.
    pub fn engine(&self, builder: EngineBuilder, store: &Store, no_cache: bool) -> EngineBuilder {
        #[cfg(feature = "download")]
        return builder.remotes(self.servers(store, no_cache));
        #[cfg(not(feature = "download"))]
        {
            let _ = (store, no_cache);
            builder
        }
    }

    /// What opens such galleries.
    #[cfg(feature = "download")]
    pub fn servers(&self, store: &Store, no_cache: bool) -> Servers {
        let cache = store.find().filter(|_| !no_cache).map(|cache| cache.folder().join("remote"));
        Servers { args: self.clone(), cache }
    }
}
