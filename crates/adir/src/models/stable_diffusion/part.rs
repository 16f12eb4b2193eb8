//! The weight files of one part of a model, and how their tensors are named.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use crate::compute::WeightPrecision;
use crate::io::hash::{ContentHash, Hasher};
use crate::io::weights::{Dtype, WeightFile};
use crate::models::guided_diffusion::{KeyReport, Shapes};
use crate::models::load::{fault_of, values};
use crate::models::params::{ParamLayout, ParamSpec, Params};
use crate::models::placing::{bytes, is_weight, kept_in};
use crate::tensor::{Compute, DType};
use crate::{Error, Result};

/// Largest configuration or index that is read.
const MAX_TEXT: u64 = 16 << 20;

/// A text file of a model's folder.
///
/// # Errors
/// [`Error::Model`] naming the file if it is missing, not text, or larger than 16 MiB.
pub(super) fn text_of(path: &Path) -> Result<String> {
    use std::io::Read;
    let file = crate::io::open_regular(path).map_err(|e| Error::model(path, e.to_string()))?;
    let mut text = String::new();
    let read = file.take(MAX_TEXT + 1).read_to_string(&mut text).map_err(|e| Error::model(path, e.to_string()))?;
    if read as u64 > MAX_TEXT {
        return Err(Error::model(path, "is larger than 16 MiB, too large for a configuration"));
    }
    Ok(text)
}

/// The weights of a part: one file, or the shards of one.
#[derive(Debug)]
pub(super) struct Part {
    pub files: Vec<WeightFile>,
}

/// `*.safetensors.index.json`: which shard has which tensor.
#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

impl Part {
    /// The weights in a folder, by the names that diffusers and transformers give: `stem.safetensors`,
    /// `stem.fp16.safetensors`, the same in shards, and `other` (`.bin`).
    ///
    /// # Errors
    /// [`Error::Model`] naming the folder and what was looked for, or a file that cannot be read.
    pub fn find(folder: &Path, stem: &str, other: &str) -> Result<Self> {
        let whole = [format!("{stem}.safetensors"), format!("{stem}.fp16.safetensors"), other.to_owned()];
        let indices = [format!("{stem}.safetensors.index.json"), format!("{stem}.safetensors.index.fp16.json")];
        if let Some(name) = whole.iter().find(|name| folder.join(name).is_file()) {
            return Ok(Self { files: vec![WeightFile::open(&folder.join(name))?] });
        }
        if let Some(name) = indices.iter().find(|name| folder.join(name).is_file()) {
            return Self::shards(folder, &folder.join(name));
        }
        Err(Error::model(folder, format!("has no weights: none of {} is there", whole.join(", "))))
    }

    fn shards(folder: &Path, index: &Path) -> Result<Self> {
        let parsed: ShardIndex =
            serde_json::from_str(&text_of(index)?).map_err(|e| Error::model(index, format!("is no index: {e}")))?;
        let mut names: Vec<_> = parsed.weight_map.values().collect();
        names.sort();
        names.dedup();
        let plain = |name: &str| !name.is_empty() && Path::new(name).file_name() == Some(name.as_ref());
        if let Some(name) = names.iter().find(|name| !plain(name)) {
            return Err(Error::model(index, format!("names the shard {name:?}, which is no file name")));
        }
        let files: Vec<_> =
            names.into_iter().map(|name| WeightFile::open(&folder.join(name))).collect::<Result<_, _>>()?;
        if files.is_empty() {
            return Err(Error::model(index, "names no shards"));
        }
        Ok(Self { files })
    }

    /// The first file, for messages.
    pub fn path(&self) -> &Path {
        self.files[0].path()
    }

    /// Whether there is a tensor of that name.
    pub fn has(&self, name: &str) -> bool {
        self.files.iter().any(|file| file.info(name).is_some())
    }

    /// The shape of the tensor of that name.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.files.iter().find_map(|file| file.info(name)).map(|info| info.shape.as_slice())
    }

    /// The precision of the tensor of that name.
    fn dtype(&self, name: &str) -> Option<Dtype> {
        self.files.iter().find_map(|file| file.info(name)).map(|info| info.dtype)
    }

    /// All names and shapes.
    fn shapes(&self) -> Shapes {
        let of_file = |file: &WeightFile| -> Shapes {
            let shape = |name: &str| Some((name.to_owned(), file.info(name)?.shape.clone()));
            file.names().filter_map(shape).collect()
        };
        self.files.iter().flat_map(of_file).collect()
    }

    /// The SHA-256 of the file, or of the hashes of its shards. Reads all of it.
    pub fn hash(&self) -> Result<ContentHash> {
        Ok(joined(&self.files.iter().map(|file| file.sha256()).collect::<Result<Vec<_>, _>>()?))
    }

    /// The files.
    pub fn paths(&self) -> impl Iterator<Item = PathBuf> {
        self.files.iter().map(|file| file.path().to_owned())
    }
}

/// Where a parameter lies.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Place {
    /// The tensor.
    pub name: String,
    /// Of a tensor that holds queries (0), keys (1) and values (2), head after head, which of them it is.
    pub part: Option<usize>,
}

impl Place {
    /// All of a tensor.
    pub fn whole(name: impl Into<String>) -> Self {
        Self { name: name.into(), part: None }
    }

    /// The shape of the tensor, of a parameter of that shape.
    fn shape(&self, own: &[usize]) -> Vec<usize> {
        let mut shape = own.to_vec();
        if self.part.is_some() {
            shape[0] *= 3;
        }
        shape
    }

    /// The values of a parameter of that shape among those of the tensor, whose heads have so many channels.
    fn of<'a>(&self, values: impl Into<Cow<'a, [f32]>>, shape: &[usize], head: usize) -> Vec<f32> {
        let values = values.into();
        match self.part {
            None => values.into_owned(),
            Some(part) => {
                let length = head * shape[1..].iter().product::<usize>();
                values.chunks_exact(length.max(1)).skip(part).step_by(3).flatten().copied().collect()
            }
        }
    }
}

/// Where the parameters of a network lie: `places` by the order of its layout.
#[derive(Debug)]
pub(super) struct Stored {
    layout: Arc<ParamLayout>,
    places: Vec<Place>,
    /// Channels of a head of what lies in one tensor with others.
    head: usize,
}

impl Stored {
    /// Under the names that `name` gives.
    pub fn new(layout: &Arc<ParamLayout>, name: impl Fn(&str) -> Option<String>) -> Self {
        Self::at(layout, 0, |own| Place::whole(name(own).unwrap_or_else(|| own.to_owned())))
    }

    /// At the places that `place` gives, with heads of so many channels in tensors that hold queries, keys and values.
    pub fn at(layout: &Arc<ParamLayout>, head: usize, place: impl Fn(&str) -> Place) -> Self {
        let places = layout.specs().iter().map(|spec| place(&spec.name)).collect();
        Self { layout: layout.clone(), places, head }
    }

    /// Compares names and shapes with those of `part`. Tensors whose name `ignored` accepts may be more than are needed; a
    /// linear layer may be stored as the 1x1 convolution it is, and the other way round.
    ///
    /// # Errors
    /// [`Error::Model`] listing what is missing, unexpected, or has another shape.
    pub fn check(&self, part: &Part, ignored: impl Fn(&str) -> bool) -> Result<()> {
        let expected: Shapes =
            self.each().map(|(place, spec)| (place.name.clone(), place.shape(&spec.shape))).collect();
        let mut found = part.shapes();
        found.retain(|name, _| !ignored(name) || expected.contains_key(name));
        for (name, expected) in &expected {
            if let Some(shape) = found.get_mut(name)
                && alike(shape, expected)
            {
                shape.clone_from(expected);
            }
        }
        let expected = expected.iter().map(|(name, shape)| (name.as_str(), shape.as_slice()));
        let report = KeyReport::compare(expected, &found);
        if report.is_clean() {
            return Ok(());
        }
        Err(Error::model(part.path(), format!("the weights do not fit the network: {report}")))
    }

    /// What weights are kept in that were asked for in `precision`, where that is narrower than f32.
    pub fn kept_in(&self, part: &Part, precision: WeightPrecision) -> Option<DType> {
        let weights = self.each().filter(|(_, spec)| is_weight(spec));
        kept_in(precision, weights.filter_map(|(place, _)| part.dtype(&place.name)))
    }

    fn each(&self) -> impl Iterator<Item = (&Place, &ParamSpec)> {
        self.places.iter().zip(self.layout.specs())
    }

    /// Bytes of the parameters, kept so.
    pub fn bytes(&self, part: &Part, precision: WeightPrecision) -> u64 {
        bytes(&self.layout, self.kept_in(part, precision).is_some())
    }

    /// Reads the parameters in one pass over the files, which gives their SHA-256, too; of several, that of their hashes.
    ///
    /// # Errors
    /// [`Error::Model`] for one that is missing, has another number of values or is not finite.
    pub fn load_hashed(&self, part: &Part, compute: &Compute) -> Result<(Params, ContentHash)> {
        let mut own: HashMap<&str, Vec<(&Place, &ParamSpec)>> = HashMap::new();
        for (place, spec) in self.each() {
            own.entry(&place.name).or_default().push((place, spec));
        }
        let read = |take: &mut dyn FnMut(&str, Vec<f32>) -> Result<()>| {
            let mut visit = |name: &str, values: Vec<f32>| match own[name].as_slice() {
                [(place, spec)] => take(&spec.name, place.of(values, &spec.shape, self.head)),
                several => several
                    .iter()
                    .try_for_each(|(place, spec)| take(&spec.name, place.of(&values, &spec.shape, self.head))),
            };
            let hashes = part.files.iter().map(|file| file.stream(|name, _| own.contains_key(name), &mut visit));
            hashes.collect::<Result<Vec<ContentHash>>>()
        };
        let (params, hashes) = Params::stream(self.layout.clone(), compute, read).map_err(fault_of(part.path()))?;
        Ok((params, joined(&hashes)))
    }

    /// Reads the parameters one by one.
    ///
    /// # Errors
    /// [`Error::Model`] for one that is missing, has another shape or is not finite.
    pub fn load(&self, part: &Part, compute: &Compute) -> Result<Params> {
        let mut places = self.places.iter();
        Params::load(self.layout.clone(), compute, |spec| {
            let place = places.next().expect("a place for every parameter");
            let (name, expected) = (&place.name, place.shape(&spec.shape));
            let file = part.files.iter().find(|file| file.info(name).is_some()).unwrap_or(&part.files[0]);
            let stored = file.info(name).map(|info| info.shape.clone());
            let shape = stored.filter(|shape| alike(shape, &expected)).unwrap_or(expected);
            let values = values(file, name, &shape)?;
            Ok(place.of(values, &spec.shape, self.head))
        })
        .map_err(fault_of(part.path()))
    }
}

/// The hash of a file, or of the hashes of several.
fn joined(hashes: &[ContentHash]) -> ContentHash {
    if let [one] = hashes {
        return *one;
    }
    let mut hasher = Hasher::default();
    hashes.iter().for_each(|hash| hasher.update(hash.to_string().as_bytes()));
    hasher.finish()
}

/// Whether two shapes differ by ones at their end only: `[c, c]` and `[c, c, 1, 1]`.
fn alike(a: &[usize], b: &[usize]) -> bool {
    fn bare(shape: &[usize]) -> &[usize] {
        let ones = shape.iter().rev().take_while(|side| **side == 1).count();
        &shape[..shape.len() - ones]
    }
    a == b || (a.len() > 1 && b.len() > 1 && bare(a) == bare(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two heads of two channels, of three numbers each: queries, keys and values of the first head, then of the second.
    #[test]
    fn queries_keys_and_values_of_all_heads_are_taken_apart() {
        let values: Vec<f32> = (0..12 * 3).map(|i| i as f32).collect();
        let rows = |part: usize| Place { name: String::new(), part: Some(part) }.of(&values, &[4, 3, 1, 1], 2);
        let expected = |first: [usize; 4]| {
            first.iter().flat_map(|row| (3 * row..3 * row + 3).map(|i| i as f32)).collect::<Vec<_>>()
        };
        assert_eq!(rows(0), expected([0, 1, 6, 7]));
        assert_eq!(rows(1), expected([2, 3, 8, 9]));
        assert_eq!(rows(2), expected([4, 5, 10, 11]));
        let bias = Place { name: String::new(), part: Some(1) }.of(&values[..12], &[4], 2);
        assert_eq!(bias, [2.0, 3.0, 8.0, 9.0]);
    }
}
