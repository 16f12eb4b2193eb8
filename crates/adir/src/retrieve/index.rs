//! The index: one embedding per image of an archive, ordered by path.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use adir_weights::ContentHash;
use half::f16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::stored::{Rows, Stored};
use super::tile::{Tile, TileSide};
use crate::encode::norm;
use crate::encode::{Embedding, EncoderId};
use crate::io::folder::is_plain;
use crate::{Error, Result};

/// How an index stores a number. f16 halves the memory and the time of a search; what it rounds away is far
/// below what separates neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// IEEE half precision.
    F16,
    /// IEEE single precision.
    F32,
}

/// An image of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path below the archive's folder, with `/` between its parts.
    pub path: String,
    /// Size of the file in bytes; 0 where the vector came from elsewhere.
    pub size: u64,
    /// SHA-256 of the file; absent where the vector came from elsewhere.
    pub content: Option<ContentHash>,
    /// When the file was last changed, in nanoseconds since 1970, if that had settled when it was hashed. With the same
    /// path, size and time, the file need not be read again.
    pub modified: Option<u64>,
    /// The part of the image, where it is large and the index is one of tiles; else the whole.
    pub tile: Option<Tile>,
}

impl Entry {
    /// What the entries are ordered by.
    fn place(&self) -> (&str, Option<Tile>) {
        (&self.path, self.tile)
    }
}

/// The stored vectors, row after row.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Vectors {
    F16(Vec<f16>),
    F32(Vec<f32>),
}

impl Vectors {
    pub fn new(precision: Precision) -> Self {
        match precision {
            Precision::F16 => Self::F16(Vec::new()),
            Precision::F32 => Self::F32(Vec::new()),
        }
    }

    pub fn precision(&self) -> Precision {
        match self {
            Self::F16(_) => Precision::F16,
            Self::F32(_) => Precision::F32,
        }
    }

    /// Reserves space for more numbers.
    pub fn reserve(&mut self, numbers: usize) -> Result<()> {
        let reserved = match self {
            Self::F16(all) => all.try_reserve_exact(numbers),
            Self::F32(all) => all.try_reserve_exact(numbers),
        };
        reserved.map_err(|e| Error::Limits(format!("cannot allocate {numbers} numbers: {e}")))
    }

    pub fn push(&mut self, values: &[f32]) {
        match self {
            Self::F16(all) => all.extend(values.iter().map(|&v| f16::from_f32(v))),
            Self::F32(all) => all.extend_from_slice(values),
        }
    }

    /// Adds the vectors of a block, as they are.
    pub fn append(&mut self, rows: &Rows<'_>) {
        match (self, rows) {
            (Self::F16(all), Rows::F16(more)) => all.extend_from_slice(more),
            (Self::F32(all), Rows::F32(more)) => all.extend_from_slice(more),
            (Self::F16(all), Rows::F32(more)) => all.extend(more.iter().map(|&v| f16::from_f32(v))),
            (Self::F32(all), Rows::F16(more)) => all.extend(more.iter().map(|v| v.to_f32())),
        }
    }

    /// Row `id`, widened.
    pub fn row(&self, id: usize, dimension: usize) -> Vec<f32> {
        let range = id * dimension..(id + 1) * dimension;
        match self {
            Self::F16(all) => all[range].to_f32_vec(),
            Self::F32(all) => all[range].to_vec(),
        }
    }
}

/// The embeddings of an archive's images, or of tiles of the large ones. An image's *id* is its position in the order of
/// paths and tiles.
///
/// A small index is in memory. A large one stays in its file, which a search reads from front to back.
#[derive(Debug, Clone)]
pub struct Index {
    encoder: Arc<EncoderId>,
    root: PathBuf,
    complete: bool,
    tiles: Option<TileSide>,
    pub(super) content: Arc<Content>,
}

/// Entries and vectors.
#[derive(Debug)]
pub(super) enum Content {
    Memory(Held),
    File(Stored),
}

/// Those in memory.
#[derive(Debug)]
pub(super) struct Held {
    pub entries: Vec<Entry>,
    pub vectors: Vectors,
    /// One over the length of each stored vector: rounding to f16 leaves lengths of 1 +- 1e-4.
    pub inverse_norms: Vec<f32>,
}

impl Index {
    /// Assembles and checks an index.
    ///
    /// # Errors
    /// [`Error::Config`] if counts differ, paths are unsafe or out of order, or a vector has no direction.
    pub(super) fn new(
        encoder: Arc<EncoderId>,
        root: PathBuf,
        complete: bool,
        tiles: Option<TileSide>,
        entries: Vec<Entry>,
        vectors: Vectors,
    ) -> Result<Self> {
        let dimension = encoder.dimension;
        let numbers = match &vectors {
            Vectors::F16(all) => all.len(),
            Vectors::F32(all) => all.len(),
        };
        if dimension == 0 || entries.len().checked_mul(dimension) != Some(numbers) {
            return Err(Error::Config(format!(
                "{} images of {dimension} numbers each do not make the {numbers} stored",
                entries.len()
            )));
        }
        for pair in entries.windows(2) {
            let [a, b] = [pair[0].place(), pair[1].place()];
            if a >= b {
                return Err(Error::Config(format!("{:?} and {:?} are not in ascending order", a.0, b.0)));
            }
        }
        if tiles.is_none() && entries.iter().any(|entry| entry.tile.is_some()) {
            return Err(Error::config("tiles in an index of whole images"));
        }
        if let Some(bad) = entries.iter().find(|entry| !is_plain(&entry.path)) {
            return Err(Error::Config(format!("{:?} is not a path inside the folder", bad.path)));
        }
        let norms: Vec<f64> = (0..entries.len()).into_par_iter().map(|id| norm(&vectors.row(id, dimension))).collect();
        if let Some(id) = norms.iter().position(|norm| !norm.is_finite() || *norm < 1e-6) {
            let (path, norm) = (&entries[id].path, norms[id]);
            return Err(Error::Config(format!("the embedding of {path:?} has length {norm}, which has no direction")));
        }
        let inverse_norms = norms.iter().map(|norm| (1.0 / norm) as f32).collect();
        let content = Arc::new(Content::Memory(Held { entries, vectors, inverse_norms }));
        Ok(Self { encoder, root, complete, tiles, content })
    }

    /// An index in a file, whose header says the same.
    pub(super) fn stored(
        encoder: Arc<EncoderId>,
        root: PathBuf,
        complete: bool,
        tiles: Option<TileSide>,
        file: Stored,
    ) -> Self {
        Self { encoder, root, complete, tiles, content: Arc::new(Content::File(file)) }
    }

    /// An index of vectors computed elsewhere, such as clip-retrieval's: names and features, in any order. The
    /// caller vouches that they come from `encoder`.
    ///
    /// # Errors
    /// [`Error::Config`] if a name is repeated or is not a plain path below a folder, or features are not of
    /// the encoder's dimension; [`Error::Numerical`] if they are zero or not finite.
    pub fn from_features(
        encoder: Arc<EncoderId>,
        precision: Precision,
        root: &Path,
        rows: &mut dyn Iterator<Item = (String, Vec<f32>)>,
    ) -> Result<Self> {
        let mut vectors = Vectors::new(precision);
        vectors.reserve(rows.size_hint().0.saturating_mul(encoder.dimension))?;
        let mut entries = Vec::new();
        for (path, features) in rows {
            vectors.push(Embedding::new(encoder.clone(), features)?.values());
            entries.push(Entry { path, size: 0, content: None, modified: None, tile: None });
        }
        if !entries.is_sorted_by(|a, b| a.path <= b.path) {
            let mut order: Vec<usize> = (0..entries.len()).collect();
            order.sort_by(|&a, &b| entries[a].path.cmp(&entries[b].path));
            let mut ordered = Vectors::new(precision);
            order.iter().for_each(|&id| ordered.push(&vectors.row(id, encoder.dimension)));
            vectors = ordered;
            entries.sort_by(|a, b| a.path.cmp(&b.path));
        }
        Self::new(encoder, root.to_owned(), true, None, entries, vectors)
    }

    /// What made the embeddings.
    pub fn encoder(&self) -> &Arc<EncoderId> {
        &self.encoder
    }

    /// How numbers are stored.
    pub fn precision(&self) -> Precision {
        match &*self.content {
            Content::Memory(held) => held.vectors.precision(),
            Content::File(file) => file.layout().precision,
        }
    }

    /// The archive's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether the build that made it saw the whole folder.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// The side that large images were divided by; `None` where every image is whole.
    pub fn tiles(&self) -> Option<TileSide> {
        self.tiles
    }

    /// The number of images.
    pub fn len(&self) -> usize {
        match &*self.content {
            Content::Memory(held) => held.entries.len(),
            Content::File(file) => file.layout().images,
        }
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether it is in memory as a whole.
    pub fn is_in_memory(&self) -> bool {
        matches!(*self.content, Content::Memory(_))
    }

    /// The images, by id; those of a large index are read from its file.
    ///
    /// # Errors
    /// [`Error::Input`] if the file cannot be read or is damaged.
    pub fn entries(&self) -> Result<Cow<'_, [Entry]>> {
        match &*self.content {
            Content::Memory(held) => Ok(Cow::Borrowed(&held.entries)),
            Content::File(file) => file.entries().map(Cow::Owned),
        }
    }

    /// The image `id`.
    ///
    /// # Errors
    /// [`Error::Config`] if there are fewer; [`Error::Input`] if the file of a large index cannot be read or is damaged.
    pub fn entry(&self, id: usize) -> Result<Entry> {
        self.check(id)?;
        match &*self.content {
            Content::Memory(held) => Ok(held.entries[id].clone()),
            Content::File(file) => file.entry(id),
        }
    }

    /// The file of the image `id`.
    ///
    /// # Errors
    /// As [`Index::entry`].
    pub fn file(&self, id: usize) -> Result<PathBuf> {
        Ok(self.root.join(self.entry(id)?.path))
    }

    /// The stored vector of the image `id`: of length one but for rounding.
    ///
    /// # Errors
    /// As [`Index::entry`].
    pub fn vector(&self, id: usize) -> Result<Vec<f32>> {
        self.check(id)?;
        match &*self.content {
            Content::Memory(held) => Ok(held.vectors.row(id, self.encoder.dimension)),
            Content::File(file) => file.row(id),
        }
    }

    /// The embedding of the image `id`.
    ///
    /// # Errors
    /// As [`Index::entry`]; [`Error::Numerical`] if the vector of a damaged file has no direction.
    pub fn embedding(&self, id: usize) -> Result<Embedding> {
        Embedding::new(self.encoder.clone(), self.vector(id)?)
    }

    fn check(&self, id: usize) -> Result<()> {
        match self.len() {
            images if id < images => Ok(()),
            images => Err(Error::Config(format!("image {id} of an index of {images}"))),
        }
    }

    /// # Errors
    /// [`Error::Config`] naming both if `encoder` is not the one that made this index.
    pub fn check_encoder(&self, encoder: &EncoderId) -> Result<()> {
        if *self.encoder == *encoder {
            return Ok(());
        }
        Err(Error::Config(format!("the index was made by the encoder {}, not by {encoder}", self.encoder)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn encoder(dimension: usize) -> Arc<EncoderId> {
        let (weights, preprocessing) = ("00".repeat(32), "11".repeat(8));
        Arc::new(EncoderId { name: "test".into(), weights, preprocessing, dimension })
    }

    fn entry(path: &str) -> Entry {
        Entry { path: path.into(), size: 1, content: None, modified: None, tile: None }
    }

    fn made(paths: &[&str], values: &[f32]) -> Result<Index> {
        let entries = paths.iter().map(|p| entry(p)).collect();
        Index::new(encoder(2), PathBuf::from("archive"), true, None, entries, Vectors::F32(values.to_vec()))
    }

    #[test]
    fn an_index_holds_what_it_was_given() {
        let index = made(&["a.png", "b/c.png"], &[3.0, 4.0, 0.0, -2.0]).unwrap();
        assert_eq!(index.embedding(0).unwrap().values(), [0.6, 0.8]);
        assert_eq!(index.embedding(1).unwrap().values(), [0.0, -1.0]);
        assert!(index.embedding(2).is_err() && index.file(2).is_err());
        assert_eq!(index.file(1).unwrap(), Path::new("archive/b/c.png"));
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(made(&["a", "b"], &[1.0; 3]).is_err(), "count");
        assert!(made(&["b", "a"], &[1.0; 4]).is_err(), "order");
        assert!(made(&["a", "a"], &[1.0; 4]).is_err(), "repeated");
        assert!(made(&["a"], &[0.0; 2]).is_err(), "zero");
        assert!(made(&["a"], &[1.0, f32::NAN]).is_err(), "NaN");
        for path in ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", "a\\b", "./a", "a\0"] {
            assert!(made(&[path], &[1.0; 2]).is_err(), "{path:?}");
        }
    }

    #[test]
    fn features_are_ordered_by_name_and_scaled() {
        let made = |rows: [(&str, [f32; 2]); 2]| {
            let mut rows = rows.into_iter().map(|(name, row)| (name.to_owned(), row.to_vec()));
            Index::from_features(encoder(2), Precision::F16, Path::new("x"), &mut rows)
        };
        let index = made([("b", [0.0, 8.0]), ("a", [3.0, 4.0])]).unwrap();
        assert_eq!(index.entry(0).unwrap().path, "a");
        assert!((index.embedding(0).unwrap().values()[0] - 0.6).abs() < 1e-3);
        assert_eq!(index.embedding(1).unwrap().values(), [0.0, 1.0]);
        assert!(made([("a", [0.0, 8.0]), ("a", [3.0, 4.0])]).is_err(), "repeated");
        assert!(made([("a", [0.0, 0.0]), ("b", [3.0, 4.0])]).is_err(), "zero");
    }

    #[test]
    fn another_encoder_is_refused_by_name() {
        let index = made(&["a"], &[1.0, 0.0]).unwrap();
        assert!(index.check_encoder(&encoder(2)).is_ok());
        let other = EncoderId { weights: "22".repeat(32), ..(*encoder(2)).clone() };
        let message = index.check_encoder(&other).unwrap_err().to_string();
        assert!(message.contains("weights 00000000") && message.contains("weights 22222222"), "{message}");
    }
}
