//! Writes the index's file front to back, an image at a time.

use std::borrow::Cow;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use half::f16;
use half::slice::HalfFloatSliceExt;
use serde::{Deserialize, Serialize};

use super::index::{Entry, Precision};
use super::layout::{BLOCK, Layout, MAGIC, PLAIN, ROUNDED, checksum, write_entry};
use super::rounded;
use super::tile::{Tile, TileSide};
use crate::encode::{EncoderId, norm};
use crate::io::folder::is_plain;
use crate::{Error, Result};

/// Bytes written at a time: large writes become large pieces of the system's cache, which are read faster.
const CHUNK: usize = 4 << 20;

/// What an index says of itself.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    pub encoder: EncoderId,
    pub precision: Precision,
    pub images: u64,
    pub complete: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tiles: Option<TileSide>,
    pub root: String,
    /// The bytes of the folder's path where it is not UTF-8, on systems whose paths are bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root_bytes: Option<Vec<u8>>,
}

impl Header {
    /// The path of the folder.
    pub fn root(&self) -> PathBuf {
        #[cfg(unix)]
        if let Some(bytes) = &self.root_bytes {
            return <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(bytes).into();
        }
        PathBuf::from(&self.root)
    }
}

/// A file that is being written. Vectors go out block by block; entries, which follow them, wait in memory.
pub(super) struct Writer<'a, W: Write> {
    path: &'a Path,
    out: BufWriter<W>,
    layout: Layout,
    tiles: Option<TileSide>,
    last: Option<(String, Option<Tile>)>,
    block: usize,
    inverse_norms: Vec<f32>,
    vectors: Vec<u8>,
    /// The vectors of length one, where they are to be rounded.
    directions: Vec<f32>,
    /// One vector.
    halves: Vec<f16>,
    ends: Vec<u64>,
    entries: Vec<u8>,
}

impl<'a, W: Write> Writer<'a, W> {
    /// Begins the file at `path`, for as many images as the header says. If their vectors take more than `in_memory` bytes,
    /// rounded copies are written, too.
    pub fn new(path: &'a Path, out: W, header: &Header, in_memory: u64) -> Result<Self> {
        let mut out = BufWriter::with_capacity(CHUNK, out);
        let text = serde_json::to_vec(header).map_err(|e| Error::config(format!("invalid index header: {e}")))?;
        let images = usize::try_from(header.images).map_err(|_| Error::config("an index of too many images"))?;
        let (dimension, precision) = (header.encoder.dimension, header.precision);
        let layout = |version| {
            let layout = Layout::new(version, images, dimension, precision, text.len() as u64 + 20);
            let layout = layout.filter(|_| dimension > 0);
            layout.ok_or_else(|| Error::Config(format!("an index of {images} times {dimension} numbers")))
        };
        let version = if layout(PLAIN)?.vectors() > in_memory { ROUNDED } else { PLAIN };
        let layout = layout(version)?;
        let start = [MAGIC, &version.to_le_bytes()[..], &(text.len() as u32).to_le_bytes(), &text].concat();
        out.write_all(&start).and_then(|()| out.write_all(&crc32fast::hash(&start).to_le_bytes())).map_err(io(path))?;
        Ok(Self {
            path,
            out,
            layout,
            tiles: header.tiles,
            last: None,
            block: 0,
            inverse_norms: Vec::with_capacity(BLOCK),
            vectors: Vec::with_capacity(BLOCK * layout.row()),
            directions: Vec::new(),
            halves: vec![f16::ZERO; dimension],
            ends: Vec::new(),
            entries: Vec::new(),
        })
    }

    /// Adds an image; they come in the order of their paths and tiles.
    ///
    /// # Errors
    /// [`Error::Config`] for one that is out of order or comes twice, has an unsafe path, or a vector without direction;
    /// [`Error::Io`] where the system refuses.
    pub fn push(&mut self, entry: &Entry, vector: &[f32]) -> Result<()> {
        let place = (entry.path.as_str(), entry.tile);
        if let Some((path, tile)) = &self.last
            && (path.as_str(), *tile) >= place
        {
            return Err(Error::Config(format!("{path:?} and {:?} are not in ascending order", entry.path)));
        }
        if self.tiles.is_none() && entry.tile.is_some() {
            return Err(Error::config("tiles in an index of whole images"));
        }
        if !is_plain(&entry.path) {
            return Err(Error::Config(format!("{:?} is not a path inside the folder", entry.path)));
        }
        if vector.len() != self.layout.dimension || self.ends.len() == self.layout.images {
            let (images, dimension) = (self.layout.images, self.layout.dimension);
            return Err(Error::Config(format!("an index of {images} times {dimension} numbers is given others")));
        }
        let vector = match self.layout.precision {
            Precision::F16 => {
                self.halves.convert_from_f32_slice(vector);
                self.vectors.extend(self.halves.iter().flat_map(|v| v.to_le_bytes()));
                Cow::Owned(self.halves.to_f32_vec())
            }
            Precision::F32 => {
                self.vectors.extend(vector.iter().flat_map(|v| v.to_le_bytes()));
                Cow::Borrowed(vector)
            }
        };
        let length = norm(&vector);
        if !length.is_finite() || length < 1e-6 {
            let path = &entry.path;
            return Err(Error::Config(format!(
                "the embedding of {path:?} has length {length}, which has no direction"
            )));
        }
        self.inverse_norms.push((1.0 / length) as f32);
        if self.layout.rounded {
            self.directions.extend(vector.iter().map(|&v| (f64::from(v) / length) as f32));
        }
        write_entry(entry, &mut self.entries).map_err(io(self.path))?;
        self.ends.push(self.entries.len() as u64);
        self.last = Some((entry.path.clone(), entry.tile));
        if self.inverse_norms.len() == BLOCK { self.flush() } else { Ok(()) }
    }

    /// Writes what follows the vectors.
    ///
    /// # Errors
    /// [`Error::Config`] if images are missing; [`Error::Io`].
    pub fn finish(mut self) -> Result<()> {
        let (given, images) = (self.ends.len(), self.layout.images);
        if given != images {
            return Err(Error::Config(format!("{given} images for an index of {images}")));
        }
        if !self.inverse_norms.is_empty() {
            self.flush()?;
        }
        let Self { path, mut out, ends, entries, .. } = self;
        for part in ends.chunks(1 << 16) {
            let bytes: Vec<u8> = part.iter().flat_map(|end| end.to_le_bytes()).collect();
            out.write_all(&bytes).map_err(io(path))?;
        }
        out.write_all(&entries).and_then(|()| out.flush()).map_err(io(path))
    }

    fn flush(&mut self) -> Result<()> {
        let mut bytes: Vec<u8> = self.inverse_norms.iter().flat_map(|norm| norm.to_le_bytes()).collect();
        bytes.append(&mut self.vectors);
        self.write_part(bytes)?;
        if self.layout.rounded {
            self.write_part(rounded::encode(&self.directions, self.layout.dimension))?;
        }
        self.block += 1;
        self.inverse_norms.clear();
        self.directions.clear();
        Ok(())
    }

    /// Writes bytes that end with a word, and their checksum.
    fn write_part(&mut self, mut bytes: Vec<u8>) -> Result<()> {
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        let words: Vec<u64> = bytes.as_chunks::<8>().0.iter().map(|&word| u64::from_ne_bytes(word)).collect();
        bytes.extend(checksum(self.block, &words).to_le_bytes());
        self.out.write_all(&bytes).map_err(io(self.path))
    }
}

fn io(path: &Path) -> impl Fn(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |e| Error::io(&path, e)
}
