//! `adir index`: embeddings of the images in a folder, and search.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use adir::engine::{Chosen, Event, build_index, open_encoder};
use adir::io::atomic::check_outputs;
use adir::io::ending::{Written, check_ending};
use adir::io::folder::image_files;
use adir::io::limits::Limits;
use adir::io::shards::{NO_END, Shard};
use adir::io::tally::{Tally, counted};
use adir::retrieve::{
    Index, NpyRows, Precision, TileSide, count_parquet_rows, read_names, read_parquet_names, read_parquet_vectors,
};
use adir::{Error, Result};
use clap::{Args, Subcommand};
use serde_json::json;

use super::lists;
use super::search::{Search, opened};
use crate::log::Log;
use crate::out;
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
        /// Index the images inside the folder's .tar files, too (WebDataset shards), without unpacking them
        #[arg(long)]
        shards: bool,
        /// Index only the images whose names, without folders and file extensions, are in a list: Open Images' .csv
        /// lists of image ids, or text with one name per line. Several lists count as one
        #[arg(long, num_args = 1.., value_name = "FILE")]
        list: Vec<PathBuf>,
        /// Column of the names in .csv lists
        #[arg(long, default_value = "ImageID", value_name = "COLUMN", requires = "list")]
        list_column: String,
        /// Store f32 instead of f16
        #[arg(long)]
        f32: bool,
    },
    /// List the images nearest to an image or a text: distance in radians and path, nearest first
    Search(Search),
    /// Make an index from embeddings computed elsewhere, for example by clip-retrieval
    ///
    /// For clip-retrieval's output: adir index import OUT/img_emb/*.npy --names OUT/metadata/*.parquet --folder IMAGES
    /// --encoder CLIP -o FILE. There must be one names file per embeddings file, in the same order. Use FILE as
    /// --gallery. Millions of embeddings go from file to file; only their names are in memory.
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
    /// Names are keys of images inside the folder's .tar files, as clip-retrieval notes them of WebDataset shards
    #[arg(long)]
    shards: bool,
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
                "{} of --names for {} of embeddings; give one per embeddings file",
                counted(files, "file"),
                counted(vectors, "file")
            )));
        }
        let inputs = self.vectors.iter().chain(names).chain(&self.encoder).map(PathBuf::as_path);
        check_ending(&self.output, Written::Index)?;
        check_outputs(&inputs.collect::<Vec<_>>(), &[&self.output], self.overwrite)?;
        let root = self.folder.canonicalize();
        let root = root.map_err(|e| Error::input(&self.folder, format!("cannot be opened: {e}")))?;
        let encoder = open_encoder(self.encoder.as_deref())?;
        let precision = if self.f32 { Precision::F32 } else { Precision::F16 };
        let dimension = encoder.id().dimension;
        let members = if self.shards { Some(keys(&root, log)?) } else { None };
        let mut paths = Vec::new();
        let mut counts = Vec::with_capacity(names.len());
        for (vectors, names) in self.vectors.iter().zip(names) {
            // A list may come from a pipe, which may have no writer.
            log.no_longer_heard()?;
            let count = rows_of(vectors, dimension)?;
            let found = self.paths(names, &root, count)?;
            match &members {
                None => paths.extend(found),
                Some(members) => {
                    for key in found {
                        let path = members.get(&key).ok_or_else(|| {
                            Error::input(names, format!("{key:?} is no image in the .tar files of {}", root.display()))
                        })?;
                        paths.push(path.clone());
                    }
                }
            }
            counts.push(count);
        }
        if paths.is_empty() {
            return Err(Error::input(&self.vectors[0], "contains no embeddings"));
        }
        let count = paths.len();
        let progress = log.progress("", "importing", self.vectors.len());
        // Only one file is open at a time.
        let rows = self.vectors.iter().zip(counts).flat_map(|(vectors, count)| -> Rows<'_> {
            let read = log.check().and_then(|()| self.rows(vectors, count, dimension));
            progress.step("", json!({"path": vectors.to_string_lossy()}));
            read.unwrap_or_else(|error| Box::new(std::iter::once(Err(error))))
        });
        let rows = rows.enumerate().map(|(i, row)| if i % CHECKED == 0 { log.check().and(row) } else { row });
        Index::import(&self.output, encoder.id(), precision, &root, paths, rows)?;
        drop(progress);
        log.info(&format!("{}: {}", self.output.display(), counted(count, "image")));
        Ok(())
    }

    /// The embeddings in a file that has `count`.
    fn rows(&self, vectors: &Path, count: usize, dimension: usize) -> Result<Rows<'_>> {
        if !is_parquet(vectors) {
            return Ok(Box::new(NpyRows::open(vectors)?));
        }
        let (rows, found, values) = read_parquet_vectors(vectors, &self.vector_column)?;
        if rows > 0 {
            check_dimension(vectors, found, dimension)?;
        }
        if rows != count {
            return Err(Error::input(
                vectors,
                format!("holds {}, but {}", counted(rows, "embedding"), counted(count, "row")),
            ));
        }
        Ok(Box::new((0..rows).map(move |i| Ok(values[i * dimension..(i + 1) * dimension].to_vec()))))
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

/// The images in the tar files of a folder, by their names up to the first dot, as WebDataset calls them.
fn keys(folder: &Path, log: &Log) -> Result<HashMap<String, String>> {
    let listing = image_files(folder)?;
    if listing.shards.is_empty() {
        return Err(Error::input(folder, listing.no_shards()));
    }
    let (mut keys, mut endless) = (HashMap::new(), Tally::default());
    for shard in listing.shards {
        let listed = Shard::open(&folder.join(&shard))?;
        if !listed.ends {
            endless.add(NO_END, &shard);
        }
        for member in listed.images {
            let (start, name) = member
                .name
                .rsplit_once('/')
                .map_or(("", &*member.name), |(_, name)| (&member.name[..member.name.len() - name.len()], name));
            let key = format!("{start}{}", name.split('.').next().unwrap_or_default());
            let path = format!("{shard}/{}", member.name);
            if let Some(other) = keys.insert(key, path.clone()) {
                return Err(Error::input(folder, format!("{other} and {path} have the same key")));
            }
        }
    }
    endless.lines().iter().for_each(|line| log.warn(line));
    Ok(keys)
}

/// Embeddings, one after the other.
type Rows<'a> = Box<dyn Iterator<Item = Result<Vec<f32>>> + 'a>;

/// Embeddings between two looks at whether the user has asked to stop.
const CHECKED: usize = 10_000;

/// The number of embeddings in a file, if they can be those of the encoder as far as its header tells.
fn rows_of(vectors: &Path, dimension: usize) -> Result<usize> {
    if is_parquet(vectors) {
        return count_parquet_rows(vectors);
    }
    let all = NpyRows::open(vectors)?;
    if all.rows() > 0 {
        check_dimension(vectors, all.dimension(), dimension)?;
    }
    Ok(all.rows())
}

fn check_dimension(vectors: &Path, found: usize, expected: usize) -> Result<()> {
    match found == expected {
        true => Ok(()),
        false => {
            let message = format!("has {found} numbers per row; the encoder makes {expected} (see --encoder)");
            Err(Error::input(vectors, message))
        }
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

/// What the entries of an index are.
fn kind(index: &Index) -> &'static str {
    if index.tiles().is_some() { "images and tiles" } else { "images" }
}

pub fn run(args: &IndexArgs, log: &Log) -> Result<u8> {
    match &args.command {
        IndexCommand::Import(import) => import.run(log)?,
        IndexCommand::Build { folder, output, encoder, tiles, shards, list, list_column, f32 } => {
            let path = output.clone().map_or_else(|| beside(folder), Ok)?;
            check_ending(&path, Written::Index)?;
            check_outputs(&list.iter().map(PathBuf::as_path).collect::<Vec<_>>(), &[&path], true)?;
            let precision = if *f32 { Precision::F32 } else { Precision::F16 };
            let names = if list.is_empty() { None } else { Some(lists::names(list, list_column)?) };
            let encoder = open_encoder(encoder.as_deref())?;
            let watcher = log.watcher();
            let watch = |event: &Event| watcher.see(event);
            let (encoder, limits) = (encoder.as_ref(), Limits::default());
            let index = build_index(
                folder,
                encoder,
                precision,
                Chosen { tiles: *tiles, shards: *shards, names },
                &path,
                &limits,
                &watch,
            )?;
            watcher.finish();
            log.info(&format!("{}: {} {}", path.display(), index.len(), kind(&index)));
        }
        IndexCommand::Search(search) => search.run(log)?,
        IndexCommand::Info { index: path, encoder, store } => {
            let index = match path.is_dir() {
                true => opened(path, &open_encoder(encoder.as_deref())?, store, log)?,
                false => Index::open(path)?,
            };
            say!("folder     {}", out::name(&index.root().to_string_lossy()))?;
            say!("images     {}", index.len())?;
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
