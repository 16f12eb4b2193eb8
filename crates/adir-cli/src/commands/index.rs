//! `adir index`: embeddings of the images in a folder, and search.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use adir::encode::Encoder;
use adir::engine::{Cache, Event, Gallery, NoCache, build_index, open_encoder};
use adir::io::atomic::check_outputs;
use adir::io::ending::{Written, check_ending};
use adir::io::image::read_hashed;
use adir::io::limits::Limits;
use adir::retrieve::{
    Entry, Exclude, Index, Precision, TileSide, read_names, read_npy, read_parquet_names, read_parquet_vectors,
};
use adir::{Error, Result};
use clap::{Args, Subcommand};
use serde_json::json;

use crate::log::Log;
use crate::out::name;
use crate::store::Store;
use crate::time::ago;

/// Index the images of a folder, and find the ones most similar to an image or a text.
#[derive(Debug, Args)]
pub struct IndexArgs {
    #[command(subcommand)]
    command: IndexCommand,
}

#[derive(Debug, Subcommand)]
enum IndexCommand {
    /// Embed the images of a folder; unchanged files are not embedded again
    Build {
        /// The folder
        folder: PathBuf,
        /// The index [default: FOLDER.index]
        #[arg(short, long)]
        output: Option<PathBuf>,
        /// A CLIP model: file, folder, or ORG/NAME as pulled [default: the embedded EfficientNet-Lite0]
        #[arg(long, value_name = "WEIGHTS", value_parser = crate::hub::model_path())]
        encoder: Option<PathBuf>,
        /// Divide large images into tiles of about this side, each an image of its own to a search
        #[arg(long, value_name = "PIXELS")]
        tiles: Option<TileSide>,
        /// Store f32 instead of f16
        #[arg(long)]
        f32: bool,
    },
    /// List the images nearest to an image or a text: distance in radians and path, nearest first
    Search {
        /// The index, or the folder of images, whose index is then kept in the cache as for --gallery
        index: PathBuf,
        /// The image
        #[arg(required_unless_present = "text", conflicts_with = "text")]
        image: Option<PathBuf>,
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
        #[command(flatten)]
        store: Store,
    },
    /// Make an index from embeddings computed elsewhere, for example by clip-retrieval
    ///
    /// For clip-retrieval's output: adir index import OUT/img_emb/*.npy --names OUT/metadata/*.parquet --folder IMAGES
    /// --encoder CLIP -o FILE. There must be one names file per embeddings file, in the same order. Use FILE as
    /// --gallery.
    Import(Import),
    /// Show the contents of an index
    Info {
        /// The index, or the folder of images, whose index is then kept in the cache as for --gallery
        index: PathBuf,
        /// For a folder: a CLIP model, as for `adir index build` [default: the embedded EfficientNet-Lite0]
        #[arg(long, value_name = "WEIGHTS", value_parser = crate::hub::model_path())]
        encoder: Option<PathBuf>,
        #[command(flatten)]
        store: Store,
    },
}

#[derive(Debug, Args)]
struct Import {
    /// Embeddings, one row per image: .npy arrays, or .parquet files with a column of lists
    #[arg(required = true)]
    vectors: Vec<PathBuf>,
    /// Paths of the images in the same order, one file per embeddings file: .parquet, or text with one path per line
    /// [default: the .parquet files of the embeddings]
    #[arg(long, num_args = 1.., value_name = "FILE")]
    names: Vec<PathBuf>,
    /// Folder that contains the images; paths may begin with it
    #[arg(long)]
    folder: PathBuf,
    /// The index to write
    #[arg(short, long)]
    output: PathBuf,
    /// The CLIP model that made the embeddings (file, folder, or ORG/NAME as pulled); by default the embedded EfficientNet-Lite0
    #[arg(long, value_name = "WEIGHTS", value_parser = crate::hub::model_path())]
    encoder: Option<PathBuf>,
    /// Column with the paths in .parquet files
    #[arg(long, default_value = "image_path", value_name = "COLUMN")]
    path_column: String,
    /// Column with the embeddings in .parquet files
    #[arg(long, default_value = "embedding", value_name = "COLUMN")]
    vector_column: String,
    /// Store f32 instead of f16
    #[arg(long)]
    f32: bool,
    /// Replace an existing index
    #[arg(long)]
    overwrite: bool,
}

impl Import {
    fn run(&self, log: &Log) -> Result<()> {
        let names = if self.names.is_empty() { &self.vectors } else { &self.names };
        if names.len() != self.vectors.len() {
            let (files, vectors) = (names.len(), self.vectors.len());
            return Err(Error::config(format!(
                "{files} --names files for {vectors} embeddings files; give one per embeddings file"
            )));
        }
        let inputs = self.vectors.iter().chain(names).chain(&self.encoder).map(PathBuf::as_path);
        check_ending(&self.output, Written::Index)?;
        check_outputs(&inputs.collect::<Vec<_>>(), &[&self.output], self.overwrite)?;
        let root = self.folder.canonicalize();
        let root = root.map_err(|e| Error::input(&self.folder, format!("cannot be opened: {e}")))?;
        let encoder = open_encoder(self.encoder.as_deref())?;
        let precision = if self.f32 { Precision::F32 } else { Precision::F16 };
        let progress = log.progress("", "importing", names.len());
        // Only one file is in memory at a time; the first unreadable file ends the rows.
        let failed = RefCell::new(None);
        let rows = self.vectors.iter().zip(names).map_while(|(vectors, names)| {
            let read = log.check().and_then(|()| self.rows(vectors, names, &root, encoder.id().dimension));
            progress.step("", json!({"path": vectors.to_string_lossy()}));
            read.map_err(|e| failed.replace(Some(e))).ok()
        });
        let index = Index::from_features(encoder.id().clone(), precision, &root, &mut rows.flatten());
        drop(progress);
        if let Some(error) = failed.into_inner() {
            return Err(error);
        }
        let index = index?;
        if index.entries().is_empty() {
            return Err(Error::input(&self.vectors[0], "contains no embeddings"));
        }
        index.save(&self.output)?;
        log.info(&format!("{}: {} images", self.output.display(), index.entries().len()));
        Ok(())
    }

    /// The images in a file of embeddings and one of names.
    fn rows(
        &self,
        vectors: &Path,
        names: &Path,
        root: &Path,
        expected: usize,
    ) -> Result<impl Iterator<Item = (String, Vec<f32>)>> {
        let (rows, dimension, values) = match is_parquet(vectors) {
            true => read_parquet_vectors(vectors, &self.vector_column)?,
            false => read_npy(vectors)?,
        };
        if dimension != expected && rows > 0 {
            let message = format!("has {dimension} numbers per row; the encoder makes {expected} (see --encoder)");
            return Err(Error::input(vectors, message));
        }
        let paths = self.paths(names, root, rows)?;
        let row = move |i: usize| values[i * dimension..(i + 1) * dimension].to_vec();
        Ok(paths.into_iter().enumerate().map(move |(i, path)| (path, row(i))))
    }

    /// The `count` paths in that file, below the folder.
    fn paths(&self, file: &Path, root: &Path, count: usize) -> Result<Vec<String>> {
        let paths = match is_parquet(file) {
            true => read_parquet_names(file, &self.path_column, count)?,
            false => read_names(file, count)?,
        };
        let below = |path: String| {
            let given = Path::new(&path);
            let inner = given.strip_prefix(&self.folder).or_else(|_| given.strip_prefix(root)).unwrap_or(given);
            inner.to_str().map_or(path.clone(), |inner| inner.replace(std::path::MAIN_SEPARATOR, "/"))
        };
        Ok(paths.into_iter().map(below).collect())
    }
}

fn is_parquet(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("parquet"))
}

/// The file of a folder's index: beside the folder, under its name.
fn beside(folder: &Path) -> Result<PathBuf> {
    let folder = match folder.file_name() {
        Some(_) => folder.components().collect(),
        // `.` and `..` have names of their own elsewhere.
        None => folder.canonicalize().map_err(|e| Error::input(folder, format!("cannot be opened: {e}")))?,
    };
    let Some(name) = folder.file_name() else {
        return Err(Error::config("the root has no place beside it for an index: give one with -o"));
    };
    let mut name = name.to_owned();
    name.push(".index");
    Ok(folder.with_file_name(name))
}

/// An index file, or the index of a folder, brought up to date in the cache.
fn opened(path: &Path, encoder: &Arc<dyn Encoder>, store: &Store, log: &Log) -> Result<Index> {
    let cache: Box<dyn Cache> = store.find().map_or_else(|| Box::new(NoCache) as _, |cache| Box::new(cache) as _);
    let watcher = log.watcher();
    let watch = |event: &Event| watcher.see(event);
    let gallery = Gallery::open(path, None, encoder.clone(), cache.as_ref(), &Limits::default(), &watch)?;
    watcher.finish();
    Ok(gallery.index().clone())
}

/// What the entries of an index are.
fn counted(index: &Index) -> &'static str {
    if index.tiles().is_some() { "images and tiles" } else { "images" }
}

pub fn run(args: &IndexArgs, log: &Log) -> Result<u8> {
    match &args.command {
        IndexCommand::Import(import) => import.run(log)?,
        IndexCommand::Build { folder, output, encoder, tiles, f32 } => {
            let path = output.clone().map_or_else(|| beside(folder), Ok)?;
            check_ending(&path, Written::Index)?;
            check_outputs(&[], &[&path], true)?;
            let precision = if *f32 { Precision::F32 } else { Precision::F16 };
            let encoder = open_encoder(encoder.as_deref())?;
            let watcher = log.watcher();
            let watch = |event: &Event| watcher.see(event);
            let index = build_index(folder, encoder.as_ref(), precision, *tiles, &path, &Limits::default(), &watch)?;
            watcher.finish();
            log.info(&format!("{}: {} {}", path.display(), index.entries().len(), counted(&index)));
        }
        IndexCommand::Search { index, image, text, encoder, neighbours, closer_than, json, store } => {
            let encoder = open_encoder(encoder.as_deref())?;
            let index = opened(index, &encoder, store, log)?;
            let (query, content) = match (image, text) {
                (Some(path), _) => {
                    let (picture, content) = read_hashed(path, &Limits::default())?;
                    let notes = picture.notes_on_colours();
                    notes.iter().for_each(|note| log.warn(&format!("{}: {note}", path.display())));
                    (encoder.image(&picture.tensor)?, Some(content))
                }
                (None, Some(text)) => (encoder.text(text)?, None),
                (None, None) => return Err(Error::config("give an image or --text")),
            };
            let exclude = Exclude { closer_than: *closer_than, content };
            for found in index.nearest(&query, *neighbours, &exclude)? {
                let Entry { path, tile, .. } = &index.entries()[found.id];
                match (json, tile) {
                    (true, None) => say!("{}", json!({"distance": found.distance, "path": path}))?,
                    (true, Some(_)) => say!("{}", json!({"distance": found.distance, "path": path, "tile": tile}))?,
                    (false, None) => say!("{:.4} {}", found.distance, name(path))?,
                    (false, Some(tile)) => say!("{:.4} {} {tile}", found.distance, name(path))?,
                }
            }
        }
        IndexCommand::Info { index: path, encoder, store } => {
            let index = match path.is_dir() {
                true => opened(path, &open_encoder(encoder.as_deref())?, store, log)?,
                false => Index::open(path)?,
            };
            say!("folder     {}", index.root().display())?;
            say!("images     {}", index.entries().len())?;
            if let Some(side) = index.tiles() {
                say!("tiles      of about {side} pixels, each counted as an image")?;
            }
            say!("encoder    {}", index.encoder())?;
            say!("numbers    {:?}", index.precision())?;
            if let Some(changed) = ago(path).filter(|_| path.is_file()) {
                say!("written    {changed}")?;
            }
            say!(
                "complete   {}",
                if index.is_complete() { "yes" } else { "no: run `adir index build` again to continue" }
            )?;
        }
    }
    Ok(crate::exit::DONE)
}
