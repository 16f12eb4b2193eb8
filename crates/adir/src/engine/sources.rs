//! The images that a prior is adapted to: different ones, whatever their files are called.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::adapt::{AdaptPlan, Observed};
use super::event::{Event, Watch, report, warn};
use super::gallery::{Found, Gallery, LeftOut};
use super::open::Engine;
use super::plan::{content_of, content_of_values};
use super::record::ImageRecord;
use super::request::{Adapt, Query, Target};
use crate::adapt::{AdaptConfig, CropScale, reduced};
use crate::encode::Embedding;
use crate::io::folder::images_to_learn_from;
use crate::io::hash::sha256;
use crate::io::image::read_hashed;
use crate::io::shards::{hash_in, read_image_in};
use crate::io::tally::Tally;
use crate::io::tally::counted;
use crate::models::{Denoiser, Prior};
use crate::noise::{Noise, Stream};
use crate::retrieve::{ContentHash, Neighbour};
use crate::tensor::{self, Tensor};
use crate::{Error, Result};

/// Memory for the images of an archive, in values.
const ARCHIVE_VALUES: usize = 1 << 28;

/// The same for images that are read for an adaptation, all together: what a plan counts for them.
pub(super) const HELD_VALUES: usize = 1 << 24;

/// The pixels of the images that a training with `settings` crops. Where crops are scaled down, as far scaled down as all of
/// them are; where they are not, of images that are too large for all to be held, a part, which their content chooses.
pub(super) fn held(sources: Vec<Source>, settings: &AdaptConfig, engine: &Engine) -> Result<Vec<Tensor<4>>> {
    let share = HELD_VALUES / sources.len().max(1);
    let hold = |source: Source| {
        let (content, at_hand) = (source.content(), source.pixels.is_some());
        let image = source.pixels(engine)?;
        match settings.scale {
            _ if at_hand => Ok(image),
            CropScale::Resized => Ok(reduced(image, settings.crop)),
            CropScale::Native => part_of(&image, share, settings.crop, &content),
        }
    };
    sources.into_iter().map(hold).collect()
}

/// A part of an image with about `most` values, as wide for its height as the image, and at least a crop each way.
fn part_of(image: &Tensor<4>, most: usize, crop: usize, content: &ContentHash) -> Result<Tensor<4>> {
    let [n, c, h, w] = image.dims();
    let shrink = (most as f64 / (n * c * h * w) as f64).sqrt();
    if shrink >= 1.0 {
        return Ok(image.clone());
    }
    let side = |side: usize| ((side as f64 * shrink) as usize).max(crop).min(side);
    let (height, width) = (side(h), side(w));
    let seed = content.0.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let noise = Noise::new(seed, Stream::Adaptation);
    let (top, left) = (noise.below(0, 0, h - height + 1), noise.below(0, 1, w - width + 1));
    let part = image.clone().narrow(2, top, height).narrow(3, left, width);
    // A copy: a view would hold all of the image.
    Ok(tensor::from_f32(tensor::to_f32(&part)?, part.dims(), &image.device()))
}

/// An image to adapt to: its place and content, and its pixels where they are at hand.
pub(super) struct Source {
    path: Option<PathBuf>,
    pub record: ImageRecord,
    pixels: Option<Tensor<4>>,
}

impl Source {
    pub fn found(found: Found) -> Self {
        Self { path: Some(found.path), record: found.record, pixels: None }
    }

    /// SHA-256 of what is adapted to: of the file, and of the tile's place in it.
    pub fn content(&self) -> ContentHash {
        let ImageRecord { sha256: file, tile, .. } = &self.record;
        tile.map_or(*file, |tile| sha256(format!("{file} {tile}").as_bytes()))
    }

    /// Its pixels, read now if they are not at hand.
    pub fn pixels(self, engine: &Engine) -> Result<Tensor<4>> {
        match (self.pixels, self.path) {
            (Some(pixels), _) => Ok(pixels),
            (None, Some(path)) => {
                let whole = read_image_in(&path, &engine.limits)?.tensor;
                self.record.tile.map_or_else(|| Ok(whole.clone()), |tile| tile.cut(&whole))
            }
            (None, None) => Err(Error::config("an image without pixels and file")),
        }
    }
}

impl Engine {
    /// The images that `plan` adapts to for `observed`, of which `first` is a restoration, nearest first, and the settings that
    /// suit them.
    pub(super) fn sources(
        &self,
        prior: &Prior,
        plan: &AdaptPlan,
        observed: &Observed<'_>,
        first: Option<&Tensor<4>>,
        watch: &Watch<'_>,
    ) -> Result<(Vec<Source>, AdaptConfig)> {
        let mut config = plan.config().clone();
        let sources = match &plan.request().target {
            Target::Adapter(_) => return Err(Error::config("an adapter that is there already is not made again")),
            Target::Itself => {
                let [_, _, h, w] = observed.y.dims();
                let multiple = prior.info().size_multiple;
                config.crop = config.crop.min((h.min(w) / multiple * multiple).max(multiple));
                config.scale = CropScale::Native;
                // Its file would not say which page this is, nor how its values were read.
                let record = ImageRecord {
                    path: observed.file.map(Path::to_owned),
                    sha256: content_of_values(observed.y)?,
                    tile: None,
                    distance: None,
                };
                vec![Source { path: None, record, pixels: Some(observed.y.clone()) }]
            }
            Target::Archive(folder) => self.archive(folder, plan, watch)?,
            Target::Images(files) => self.files(files)?,
            Target::Gallery(path) | Target::Text { gallery: path, .. } if !plan.request().shared.is_empty() => {
                let mut sources = self.files(&plan.request().shared)?;
                let gallery = self.gallery(path, plan.request().tiles, watch)?;
                for source in &mut sources {
                    let known = source.record.path.as_ref().and_then(|path| gallery.name_of(path));
                    source.record.path = known.or(source.record.path.take());
                }
                sources
            }
            Target::Gallery(path) | Target::Text { gallery: path, .. } => {
                let gallery = self.gallery(path, plan.request().tiles, watch)?;
                let nearest = self.nearest(&gallery, plan.request(), observed, first, watch)?;
                gallery.describe(&nearest, &self.limits)?.into_iter().map(Source::found).collect()
            }
        };
        Ok((sources, config))
    }

    /// The different images among `files`.
    pub(super) fn files(&self, files: &[PathBuf]) -> Result<Vec<Source>> {
        let mut seen = HashSet::new();
        let sources = files.iter().map(|file| self.source(file)).collect::<Result<Vec<_>>>()?;
        Ok(sources.into_iter().filter(|source| seen.insert(source.record.sha256)).collect())
    }

    fn source(&self, file: &Path) -> Result<Source> {
        let record = ImageRecord {
            path: Some(file.to_owned()),
            sha256: hash_in(file, &self.limits)?,
            tile: None,
            distance: None,
        };
        Ok(Source { path: Some(file.to_owned()), record, pixels: None })
    }

    /// The different images of a folder, in an order that the seed of `plan` decides, as many as fit into a gigabyte, which
    /// are refused where its training and they need more than the engine may take.
    pub(super) fn archive(&self, folder: &Path, plan: &AdaptPlan, watch: &Watch<'_>) -> Result<Vec<Source>> {
        let seed = plan.config().seed;
        let listing = images_to_learn_from(folder)?;
        for message in listing.warnings() {
            warn(watch, message)?;
        }
        let mut names = listing.files;
        names.sort_by_cached_key(|name| sha256(format!("{seed} {name}").as_bytes()).to_string());
        let (mut sources, mut values, mut copies, mut seen) = (Vec::new(), 0, 0, HashSet::new());
        let (mut notes, mut left_out) = (Tally::default(), LeftOut::default());
        for (done, name) in names.iter().enumerate() {
            let path = folder.join(name);
            match read_hashed(&path, &self.limits) {
                Ok((picture, _)) if !seen.insert(content_of(&picture)?) => copies += 1,
                Ok((picture, sha256)) => {
                    picture.notes_on_colours().into_iter().for_each(|note| notes.add(note, name));
                    values += picture.tensor.dims().iter().product::<usize>();
                    if values > ARCHIVE_VALUES && !sources.is_empty() {
                        warn(watch, format!("{done} of {} images fit into memory and are used", names.len()))?;
                        break;
                    }
                    self.check_memory(plan.memory().saturating_add(4 * values as u64))?;
                    let record = ImageRecord { path: Some(name.into()), sha256, tile: None, distance: None };
                    sources.push(Source { path: Some(path), record, pixels: Some(picture.tensor) });
                }
                Err(e) => left_out.add(&e, watch)?,
            }
            report(watch, &Event::Indexing { done: done + 1, total: names.len(), path: name.clone() })?;
        }
        left_out.end(watch)?;
        for note in notes.lines() {
            warn(watch, note)?;
        }
        if copies > 0 {
            warn(watch, format!("left out: {} with the same pixels as another one", counted(copies, "file")))?;
        }
        if sources.is_empty() {
            return Err(Error::input(folder, "contains no images"));
        }
        Ok(sources)
    }

    /// What the files of a gallery hold that show what `x` does: those within that angle of it, a few of the nearest.
    ///
    /// # Errors
    /// As [`Engine::gallery`].
    pub(crate) fn copies_of(
        &self,
        gallery: &Path,
        x: &Tensor<4>,
        within: f64,
        watch: &Watch<'_>,
    ) -> Result<Vec<ContentHash>> {
        /// As many copies as a gallery will hold.
        const MOST: usize = 16;
        let gallery = self.gallery(gallery, None, watch)?;
        let nearest = gallery.nearest(&gallery.encoder().image(x)?, MOST, 0.0, &[], &self.limits, watch)?;
        let close: Vec<_> = nearest.into_iter().filter(|n| n.distance < within).collect();
        Ok(gallery.describe(&close, &self.limits)?.into_iter().map(|found| found.record.sha256).collect())
    }

    /// The images of a gallery that are nearest to `observed`, to its `first` restoration where the request says so, or to the
    /// prompt, nearest first.
    pub(super) fn nearest(
        &self,
        gallery: &Gallery,
        request: &Adapt,
        observed: &Observed<'_>,
        first: Option<&Tensor<4>>,
        watch: &Watch<'_>,
    ) -> Result<Vec<Neighbour>> {
        let encoder = gallery.encoder();
        let query: Embedding = match (&request.target, request.query, first) {
            (Target::Text { prompt, .. }, ..) => encoder.text(prompt)?,
            (_, Query::Observation, _) => encoder.image(observed.y)?,
            (_, Query::Restoration, Some(first)) => encoder.image(first)?,
            (_, Query::Both, Some(first)) => Embedding::mean(&[encoder.image(observed.y)?, encoder.image(first)?])?,
            (_, Query::Restoration | Query::Both, None) => {
                return Err(Error::config(
                    "a search by a first restoration needs a restoration, and there is none here",
                ));
            }
        };
        let exclude: Vec<_> = std::iter::once(observed.content).chain(request.exclude.iter().copied()).collect();
        gallery.nearest(&query, request.neighbours, request.closer_than, &exclude, &self.limits, watch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::{cpu, from_f32, to_f32};

    #[test]
    fn of_a_large_image_a_part_is_held_that_its_content_chooses() {
        let (height, width) = (60, 90);
        let values: Vec<f32> = (0..height * width).map(|i| i as f32).collect();
        let image = from_f32(values.clone(), [1, 1, height, width], &cpu());
        let part = |most: usize, content: &[u8]| part_of(&image, most, 8, &sha256(content)).unwrap();
        let found = part(1500, b"a");
        assert_eq!(found.dims(), [1, 1, 31, 47]);
        let found = to_f32(&found).unwrap();
        let first = found[0] as usize;
        assert!(first / width + 31 <= height && first % width + 47 <= width, "{first}");
        for (i, value) in found.iter().enumerate() {
            assert_eq!(*value, values[first + i / 47 * width + i % 47]);
        }
        assert_eq!(found, to_f32(&part(1500, b"a")).unwrap());
        assert_ne!(found, to_f32(&part(1500, b"b")).unwrap());
        assert_eq!(part(10, b"a").dims(), [1, 1, 8, 8], "a crop at least");
        assert_eq!(part(height * width, b"a").dims(), image.dims());
    }
}
