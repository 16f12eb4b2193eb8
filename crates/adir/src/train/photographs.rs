//! The photographs a prior is trained on, and random crops of them.
//!
//! Files are decoded once and kept as 8-bit RGB in memory, large ones in tiles. If they do not fit into the given
//! memory, a share of the tiles is kept, chosen by name, so that every run on the same files uses the same tiles.

use std::collections::HashSet;
use std::path::Path;

use rayon::prelude::*;

use super::split::{Tiles, held_out};
use crate::io::folder::images_to_learn_from;
use crate::io::hash::{ContentHash, Hasher};
use crate::io::image::read_image;
use crate::io::limits::Limits;
use crate::io::tally::{Tally, counted};
use crate::models::ImageMean;
use crate::noise::{Noise, Stream};
use crate::tensor::{self, Device, Tensor};
use crate::{Error, Result};

/// Side of the tiles of large images, in crops, and the minimum in pixels.
const TILE_IN_CROPS: usize = 4;
const LEAST_TILE: usize = 512;
/// Share of crops at the images' own scale; the others are averaged from twice the side.
const AT_OWN_SCALE: f64 = 0.6;

/// An 8-bit RGB image, or a part of one.
#[derive(Debug, Clone)]
struct Tile {
    height: usize,
    width: usize,
    /// height * width * 3 values, row by row.
    pixels: Vec<u8>,
}

/// Images of one folder in memory.
#[derive(Debug, Clone, Default)]
pub struct Photographs {
    tiles: Vec<Tile>,
}

/// The photographs of a folder.
#[derive(Debug)]
pub struct Collection {
    /// Images to train on.
    pub training: Photographs,
    /// Images of photographs that the training never sees.
    pub held_out: Photographs,
    /// Files that were left out, with the reason.
    pub skipped: Vec<Error>,
    /// What does not count, in words, a line for each kind: folders and names that could not be looked at, pages,
    /// transparency.
    pub unseen: Vec<String>,
    /// Files with the pixels of another one, which are left out.
    pub copies: usize,
    /// The share of the images that fits in memory: 1, 1/2, 1/4 ...
    pub share: f64,
}

/// A tile that may be dropped.
struct Candidate {
    /// Hash of file name and tile number; decides which tiles stay if memory is short.
    hash: u32,
    /// Of the pixels of the image it belongs to.
    image: ContentHash,
    held_out: bool,
    tile: Tile,
}

impl Collection {
    /// Reads all images in `folder`, which must allow crops of side `crop`, into at most `bytes` of memory.
    /// Files that cannot be used are listed, not fatal. `report` receives the number of files done and the total.
    ///
    /// Every 25th photograph is held out whole; `tiles` tells which files are parts of one photograph. Of several files
    /// with the same pixels one is kept, and none of them is both trained on and held out.
    ///
    /// # Errors
    /// [`Error::Input`] when the folder cannot be listed, or leaves no images; what `report` returns.
    pub fn read(
        folder: &Path,
        crop: usize,
        bytes: usize,
        limits: &Limits,
        tiles: Tiles,
        mut report: impl FnMut(usize, usize) -> Result<()>,
    ) -> Result<Self> {
        let listing = images_to_learn_from(folder)?;
        let (mut unseen, listing_says) = (listing.warnings(), listing.no_images());
        let files = listing.files;
        let mut notes = Tally::default();
        let held_out = held_out(&files, tiles);
        let (mut seen, mut copies) = ([HashSet::new(), HashSet::new()], 0);
        let mut skipped = Vec::new();
        let mut kept: Vec<Candidate> = Vec::new();
        // A tile stays when these bits of its hash are zero; each further bit halves their number.
        let mut mask = 0_u32;
        let at_once = 8 * rayon::current_num_threads();
        for (batch, some) in files.chunks(at_once).enumerate() {
            report(batch * at_once, files.len())?;
            let read = |file: &String| -> Result<(ContentHash, Vec<Candidate>, Vec<String>)> {
                let path = folder.join(file);
                let (whole, notes) = read_rgb(&path, limits)?;
                let (image, tiles) = (whole.hash(), cut(&whole, crop));
                if tiles.is_empty() {
                    return Err(Error::input(path, format!("is smaller than a crop of {crop}x{crop}")));
                }
                let candidate = |(k, tile): (usize, Tile)| Candidate {
                    hash: crc32fast::hash(format!("{file} {k}").as_bytes()),
                    image,
                    held_out: held_out.contains(file.as_str()),
                    tile,
                };
                Ok((image, tiles.into_iter().enumerate().map(candidate).collect(), notes))
            };
            for (file, result) in some.iter().zip(some.par_iter().map(read).collect::<Vec<_>>()) {
                match result {
                    Ok((image, ..)) if !seen[usize::from(held_out.contains(file.as_str()))].insert(image) => {
                        copies += 1
                    }
                    Ok((_, candidates, said)) => {
                        said.into_iter().for_each(|note| notes.add(note, file));
                        kept.extend(candidates.into_iter().filter(|c| c.hash & mask == 0));
                    }
                    Err(error) => skipped.push(error),
                }
            }
            while mask < u32::MAX && kept.iter().map(|c| c.tile.pixels.len()).sum::<usize>() > bytes {
                mask = mask << 1 | 1;
                kept.retain(|c| c.hash & mask == 0);
            }
        }
        report(files.len(), files.len())?;
        unseen.extend(notes.lines());
        // A copy of what is held out is not trained on.
        let [trained_on, out] = &seen;
        copies += trained_on.intersection(out).count();
        kept.retain(|c| c.held_out || !out.contains(&c.image));
        let (out, training): (Vec<_>, Vec<_>) = kept.into_iter().partition(|c| c.held_out);
        if training.is_empty() && out.is_empty() {
            return Err(Error::input(folder, nothing_left(&listing_says, &skipped, files.len(), crop, bytes)));
        }
        let photographs =
            |some: Vec<Candidate>| Photographs { tiles: some.into_iter().map(|candidate| candidate.tile).collect() };
        Ok(Self {
            training: photographs(training),
            held_out: photographs(out),
            skipped,
            unseen,
            copies,
            share: 1.0 / (f64::from(mask) + 1.0),
        })
    }

    /// # Errors
    /// [`Error::Input`] about `folder`, from which they were read, if there is nothing to train on or to measure by.
    pub fn check_trainable(&self, folder: &Path) -> Result<()> {
        if self.training.is_empty() || self.held_out.is_empty() {
            let (training, held_out) = (self.training.len(), self.held_out.len());
            let message = format!(
                "leaves {} for training and {held_out} held out: at least two photographs are needed, \
                 or more memory for them",
                counted(training, "image")
            );
            return Err(Error::input(folder, message));
        }
        Ok(())
    }
}

impl Photographs {
    /// Number of images, or tiles of images.
    pub fn len(&self) -> usize {
        self.tiles.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.tiles.is_empty()
    }

    /// How the mean colours of random crops of `side` pixels vary.
    ///
    /// # Errors
    /// As [`ImageMean::of`].
    pub fn image_mean(&self, side: usize, seed: u64) -> Result<ImageMean> {
        const CROPS: usize = 4096;
        const AT_ONCE: usize = 64;
        let noise = Noise::new(seed, Stream::Evaluation);
        let mut means = Vec::with_capacity(3 * CROPS);
        for step in 0..CROPS / AT_ONCE {
            let crops = self.crops(&noise, step as u32, AT_ONCE, side, &tensor::cpu());
            means.extend(tensor::to_f64(&crops.mean_dim(3).mean_dim(2))?);
        }
        ImageMean::of(means.as_chunks::<3>().0)
    }

    /// `count` random square crops `[count, 3, side, side]` in [-1, 1]: 60 in 100 at the image's own scale and
    /// the rest averaged over 2x2 pixels and rounded to 8 bit again (where the image is large enough), half
    /// of them mirrored. They depend on `noise` and `step` alone.
    ///
    /// # Panics
    /// If an image is smaller than `side`.
    pub fn crops(&self, noise: &Noise, step: u32, count: usize, side: usize, device: &Device) -> Tensor<4> {
        let mut values = vec![0.0_f32; count * 3 * side * side];
        values.par_chunks_mut((3 * side * side).max(1)).enumerate().for_each(|(k, out)| {
            let k = k as u32;
            let tile = &self.tiles[noise.below(step, 3 * k, self.tiles.len())];
            let own = noise.uniform(step, 2 * k) < AT_OWN_SCALE || tile.height.min(tile.width) < 2 * side;
            let scale = if own { 1 } else { 2 };
            let top = noise.below(step, 3 * k + 1, tile.height - scale * side + 1);
            let left = noise.below(step, 3 * k + 2, tile.width - scale * side + 1);
            let mirrored = noise.uniform(step, 2 * k + 1) < 0.5;
            tile.crop(top, left, scale, mirrored, side, out);
        });
        tensor::from_f32(values, [count, 3, side, side], device)
    }
}

impl Tile {
    /// Of its size and pixels.
    fn hash(&self) -> ContentHash {
        let mut hasher = Hasher::default();
        hasher.update(format!("{} {}\n", self.height, self.width).as_bytes());
        hasher.update(&self.pixels);
        hasher.finish()
    }

    /// Writes a square crop in [-1, 1], channel by channel; each value is the mean of `scale * scale` pixels.
    fn crop(&self, top: usize, left: usize, scale: usize, mirrored: bool, side: usize, out: &mut [f32]) {
        let area = (scale * scale) as u32;
        for (i, value) in out.iter_mut().enumerate() {
            let (channel, y, column) = (i / (side * side), i / side % side, i % side);
            let x = if mirrored { side - 1 - column } else { column };
            let mut sum = 0;
            for at_y in (top + scale * y..).take(scale) {
                for at_x in (left + scale * x..).take(scale) {
                    sum += u32::from(self.pixels[3 * (at_y * self.width + at_x) + channel]);
                }
            }
            *value = ((sum + area / 2) / area) as f32 / 127.5 - 1.0;
        }
    }
}

/// What to say of a folder of `files` images none of which can be used: it has none, all are too small or damaged, or the
/// memory holds none.
fn nothing_left(no_images: &str, skipped: &[Error], files: usize, crop: usize, bytes: usize) -> String {
    match skipped.last() {
        _ if files == 0 => no_images.to_owned(),
        Some(last) if skipped.len() == files => format!(
            "holds {}, none of which can be used: they must be readable and have at least {crop}x{crop} pixels, \
             the side of a crop. The last one: {last}",
            counted(files, "image")
        ),
        _ => format!(
            "holds {} that can be used, but {:.3} GB of memory are too few for one of them",
            counted(files - skipped.len(), "image"),
            bytes as f64 / 1e9
        ),
    }
}

/// An image as 8-bit RGB, and what of it does not count: grey is repeated, alpha left out.
fn read_rgb(path: &Path, limits: &Limits) -> Result<(Tile, Vec<String>)> {
    let picture = read_image(path, limits)?;
    let [_, channels, height, width] = picture.tensor.dims();
    let values = tensor::to_f32(&picture.tensor)?;
    let plane = height * width;
    let level = |v: f32| ((v + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8;
    let pixels = (0..3 * plane).map(|i| level(values[i % 3 % channels * plane + i / 3])).collect();
    Ok((Tile { height, width, pixels }, picture.notes_on_colours()))
}

/// The image itself, or its tiles where it is larger than a tile; the last ones of a row or column overlap
/// their neighbours. Nothing where the image does not hold a crop.
fn cut(image: &Tile, crop: usize) -> Vec<Tile> {
    if image.height.min(image.width) < crop {
        return Vec::new();
    }
    let side = (TILE_IN_CROPS * crop).max(LEAST_TILE);
    let starts = |length: usize| {
        let size = length.min(side);
        (0..length.div_ceil(side)).map(move |k| ((k * side).min(length - size), size))
    };
    let mut tiles = Vec::new();
    for (top, height) in starts(image.height) {
        for (left, width) in starts(image.width) {
            let rows = (top..top + height).flat_map(|y| {
                let start = 3 * (y * image.width + left);
                image.pixels[start..start + 3 * width].iter().copied()
            });
            tiles.push(Tile { height, width, pixels: rows.collect() });
        }
    }
    tiles
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::Stream;

    /// The crop of a ramp is a ramp: position, scale, mirroring and the order of channels.
    #[test]
    fn crops_of_a_ramp() {
        let (height, width) = (9, 12);
        let pixels = (0..height * width * 3).map(|i| (10 * (i % 3) + i / 3 / width + 4 * (i / 3 % width)) as u8);
        let tile = Tile { height, width, pixels: pixels.collect() };
        let at = |channel: usize, y: usize, x: usize| (10 * channel + y + 4 * x) as f64;
        for (top, left, scale, mirrored) in [(0, 0, 1, false), (3, 2, 1, true), (1, 4, 2, false), (1, 3, 2, true)] {
            let mut out = vec![0.0; 3 * 4 * 4];
            tile.crop(top, left, scale, mirrored, 4, &mut out);
            for (i, value) in out.iter().enumerate() {
                let (channel, y, column) = (i / 16, i / 4 % 4, i % 4);
                let x = if mirrored { 3 - column } else { column };
                let exact = match scale {
                    1 => at(channel, top + y, left + x),
                    // The mean of 2x2 pixels of this ramp is a half above a whole number; halves go up.
                    _ => at(channel, top + 2 * y, left + 2 * x) + 3.0,
                };
                assert!((f64::from(*value) - (exact / 127.5 - 1.0)).abs() < 1e-6, "{scale} {mirrored} at {i}");
            }
        }
    }

    #[test]
    fn tiles_cover_an_image_and_stay_inside() {
        let (height, width) = (600, 520);
        let pixels: Vec<u8> = (0..height * width * 3).map(|i| (i % 251) as u8).collect();
        let image = Tile { height, width, pixels };
        let tiles = cut(&image, 8);
        assert_eq!(tiles.len(), 4);
        assert!(tiles.iter().all(|t| t.height == 512 && t.width == 512 && t.pixels.len() == 512 * 512 * 3));
        assert_eq!(tiles[0].pixels[..3 * 512], image.pixels[..3 * 512]);
        let row = |tile: &Tile| tile.pixels[tile.pixels.len() - 3 * 512..].to_vec();
        assert_eq!(row(&tiles[3]), image.pixels[image.pixels.len() - 3 * 512..]);
        assert_eq!(cut(&image, 150)[0].height, 600);
        assert!(cut(&image, 521).is_empty());
    }

    #[test]
    fn a_draw_depends_on_seed_and_step_alone() {
        let tile = Tile { height: 40, width: 50, pixels: (0..40 * 50 * 3).map(|i| (i * 7 % 256) as u8).collect() };
        let photographs = Photographs { tiles: vec![tile; 3] };
        let draw = |seed, step, count| {
            let crops = photographs.crops(&Noise::new(seed, Stream::Training), step, count, 16, &tensor::cpu());
            tensor::to_f32(&crops).unwrap()
        };
        assert_eq!(draw(1, 5, 8)[..3 * 256], draw(1, 5, 1));
        assert_ne!(draw(1, 5, 1), draw(1, 6, 1));
        assert_ne!(draw(1, 5, 1), draw(2, 5, 1));
    }
}
