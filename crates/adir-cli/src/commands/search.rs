//! `adir index search`: the images of an index that are nearest to others, or to a text.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use adir::encode::{Embedding, Encoder};
use adir::engine::{Cache, Event, Gallery, NoCache, open_encoder};
use adir::io::image::read_hashed;
use adir::io::limits::Limits;
#[cfg(feature = "download")]
use adir::retrieve::Remotes;
use adir::retrieve::{ContentHash, Entry, Exclude, Index, remote_address};
use adir::{Error, Result};
use clap::Args;
use serde_json::json;

use crate::log::Log;
use crate::out::name;
#[cfg(feature = "download")]
use crate::remote::RemoteArgs;
use crate::store::Store;

#[derive(Debug, Args)]
pub struct Search {
    /// The index, the folder of images, whose index is then kept in the cache as for --gallery, or an index on a server
    /// (qdrant://HOST/COLLECTION, clip-retrieval://HOST/INDEX)
    index: PathBuf,
    /// The image, which is itself left out of the results. Several, such as an observation and a first restoration of
    /// it, are searched for by the mean of their directions
    #[arg(required_unless_present = "text", conflicts_with = "text")]
    image: Vec<PathBuf>,
    /// The text (needs the CLIP model that made the index as --encoder)
    #[arg(long)]
    text: Option<String>,
    /// The CLIP model that made the index [default: the embedded EfficientNet-Lite0]
    #[arg(long, value_name = "WEIGHTS", value_parser = crate::hub::model_path())]
    encoder: Option<PathBuf>,
    /// Number of images
    #[arg(short = 'k', long, default_value_t = 20, value_parser = crate::args::at_least_one::<usize>)]
    neighbours: usize,
    /// Leave out images closer than this angle in radians, 0 to pi
    #[arg(long, default_value_t = 0.0, value_name = "RADIANS", value_parser = crate::args::distance)]
    closer_than: f64,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
    /// What an index on a server calls the paths or addresses of its images [default: path, image_path, file, url or
    /// image_url, whichever there is]
    #[arg(long, value_name = "NAME")]
    gallery_field: Option<String>,
    #[command(flatten)]
    store: Store,
}

impl Search {
    pub fn run(&self, log: &Log) -> Result<()> {
        let encoder = open_encoder(self.encoder.as_deref())?;
        if let Some(address) = remote_address(&self.index) {
            return self.on_server(address, &encoder, log);
        }
        if self.gallery_field.is_some() {
            return Err(Error::config("--gallery-field has no effect without an index on a server"));
        }
        let index = opened(&self.index, &encoder, &self.store, log)?;
        let (query, own) = self.query(&encoder, log)?;
        let exclude = Exclude { closer_than: self.closer_than, content: own.first().copied() };
        let mut wanted = self.neighbours;
        let (found, entries) = loop {
            let mut found = index.nearest(&query, wanted, &exclude)?;
            let exhausted = found.len() < wanted;
            let mut entries = Vec::with_capacity(found.len());
            for n in &found {
                entries.push(index.entry(n.id)?);
            }
            // Further images of the question.
            let is_own = |entry: &Entry| entry.content.is_some_and(|content| own.contains(&content));
            let mut keep = entries.iter().map(|entry| !is_own(entry));
            found.retain(|_| keep.next().is_some_and(|keep| keep));
            entries.retain(|entry| !is_own(entry));
            if exhausted || found.len() >= self.neighbours {
                break (found, entries);
            }
            wanted = wanted.saturating_mul(2);
        };
        for (found, Entry { path, tile, .. }) in found.iter().zip(&entries).take(self.neighbours) {
            match (self.json, tile) {
                (true, None) => say!("{}", json!({"distance": found.distance, "path": path}))?,
                (true, Some(_)) => say!("{}", json!({"distance": found.distance, "path": path, "tile": tile}))?,
                (false, None) => say!("{:.4} {}", found.distance, name(path))?,
                (false, Some(tile)) => say!("{:.4} {} {tile}", found.distance, name(path))?,
            }
        }
        Ok(())
    }

    /// What is searched for, and the contents of its files.
    fn query(&self, encoder: &Arc<dyn Encoder>, log: &Log) -> Result<(Embedding, Vec<ContentHash>)> {
        if let Some(text) = &self.text {
            return Ok((encoder.text(text)?, Vec::new()));
        }
        let (mut directions, mut own) = (Vec::new(), Vec::new());
        for path in &self.image {
            let (picture, content) = read_hashed(path, &Limits::default())?;
            let notes = picture.notes_on_colours();
            notes.iter().for_each(|note| log.warn(&format!("{}: {note}", path.display())));
            directions.push(encoder.image(&picture.tensor)?);
            own.push(content);
        }
        Ok((Embedding::mean(&directions)?, own))
    }

    /// Asks a server. No image is fetched.
    #[cfg(feature = "download")]
    fn on_server(&self, address: &str, encoder: &Arc<dyn Encoder>, log: &Log) -> Result<()> {
        let args = RemoteArgs { gallery_field: self.gallery_field.clone(), ..RemoteArgs::default() };
        let index = args.servers(&self.store, false).open(address, encoder.id())?;
        let (query, _) = self.query(encoder, log)?;
        let found = index.nearest(&query, self.neighbours)?;
        for hit in found.iter().filter(|hit| hit.distance >= self.closer_than) {
            match self.json {
                true => say!("{}", json!({"distance": hit.distance, "path": hit.place}))?,
                false => say!("{:.4} {}", hit.distance, name(&hit.place))?,
            }
        }
        Ok(())
    }

    #[cfg(not(feature = "download"))]
    fn on_server(&self, address: &str, _: &Arc<dyn Encoder>, _: &Log) -> Result<()> {
        Err(Error::config(format!("{address}: this program was built without the feature `download`")))
    }
}

/// An index file, or the index of a folder, brought up to date in the cache.
pub fn opened(path: &Path, encoder: &Arc<dyn Encoder>, store: &Store, log: &Log) -> Result<Index> {
    let cache: Box<dyn Cache> = store.find().map_or_else(|| Box::new(NoCache) as _, |cache| Box::new(cache) as _);
    let watcher = log.watcher();
    let watch = |event: &Event| watcher.see(event);
    let gallery = Gallery::open(path, None, encoder.clone(), cache.as_ref(), &Limits::default(), &watch)?;
    watcher.finish();
    Ok(gallery.index()?.clone())
}
