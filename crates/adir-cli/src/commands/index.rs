//! `adir index`: embeddings of a folder's images, and what lies near.

use std::path::PathBuf;

use adir::io::image::read_image;
use adir::io::limits::Limits;
use adir::retrieve::{ContentHash, Exclude, Index, Precision};
use adir::{Error, Result};
use clap::{Args, Subcommand};
use serde_json::json;

use crate::adaptation::{build_index, open_encoder};
use crate::log::Log;

/// Index the images of a folder, and find those most like an image or a text.
#[derive(Debug, Args)]
pub struct IndexArgs {
    #[command(subcommand)]
    command: IndexCommand,
}

#[derive(Debug, Subcommand)]
enum IndexCommand {
    /// Embed the images of a folder; files that have not changed are not embedded again
    Build {
        /// The folder
        folder: PathBuf,
        /// The index [default: FOLDER.index]
        #[arg(short, long)]
        output: Option<PathBuf>,
        /// A CLIP model (file or folder); by default the embedded EfficientNet-Lite0
        #[arg(long, value_name = "WEIGHTS")]
        encoder: Option<PathBuf>,
        /// Keep f32 numbers instead of f16
        #[arg(long)]
        f32: bool,
    },
    /// List the images nearest to an image or a text, nearest first: distance in radians, path
    Search {
        /// The index
        index: PathBuf,
        /// The image
        #[arg(required_unless_present = "text", conflicts_with = "text")]
        image: Option<PathBuf>,
        /// A text (needs the CLIP model that made the index)
        #[arg(long)]
        text: Option<String>,
        /// The model that made the index, if it was not the embedded one
        #[arg(long, value_name = "WEIGHTS")]
        encoder: Option<PathBuf>,
        /// How many
        #[arg(short = 'k', long, default_value_t = 20)]
        neighbours: usize,
        /// Leave out images closer than this, in radians
        #[arg(long, default_value_t = 0.0, value_name = "RADIANS", value_parser = crate::args::distance)]
        closer_than: f64,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Tell what an index holds
    Info {
        /// The index
        index: PathBuf,
    },
}

pub fn run(args: &IndexArgs, log: &Log) -> Result<u8> {
    match &args.command {
        IndexCommand::Build { folder, output, encoder, f32 } => {
            let path = output.clone().unwrap_or_else(|| {
                let mut name = folder.components().collect::<PathBuf>().into_os_string();
                name.push(".index");
                name.into()
            });
            let root = folder.canonicalize().map_err(|e| Error::input(folder, format!("cannot be opened: {e}")))?;
            let precision = if *f32 { Precision::F32 } else { Precision::F16 };
            let encoder = open_encoder(encoder.as_deref())?;
            let index = build_index(&root, encoder.as_ref(), precision, &path, log)?;
            log.info(&format!("{}: {} images", path.display(), index.entries().len()));
        }
        IndexCommand::Search { index, image, text, encoder, neighbours, closer_than, json } => {
            let index = Index::open(index)?;
            let encoder = open_encoder(encoder.as_deref())?;
            let (query, content) = match (image, text) {
                (Some(path), _) => {
                    let picture = read_image(path, &Limits::default())?;
                    (encoder.image(&picture.tensor)?, Some(ContentHash::of_file(path)?))
                }
                (None, Some(text)) => (encoder.text(text)?, None),
                (None, None) => return Err(Error::config("an image or --text is needed")),
            };
            let exclude = Exclude { closer_than: *closer_than, content };
            for found in index.nearest(&query, *neighbours, &exclude)? {
                let path = &index.entries()[found.id].path;
                match json {
                    true => say!("{}", json!({"distance": found.distance, "path": path}))?,
                    false => say!("{:.4} {path}", found.distance)?,
                }
            }
        }
        IndexCommand::Info { index } => {
            let index = Index::open(index)?;
            say!("folder     {}", index.root().display())?;
            say!("images     {}", index.entries().len())?;
            say!("encoder    {}", index.encoder())?;
            say!("numbers    {:?}", index.precision())?;
            say!("complete   {}", if index.is_complete() { "yes" } else { "no: build again to go on" })?;
        }
    }
    Ok(crate::exit::DONE)
}
