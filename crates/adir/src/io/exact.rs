//! Values of a file of floats that are written again as they were.
//!
//! A tensor holds 2 v - 1, which has fewer places near black than v.

use std::path::Path;

use super::codec::{Raster, Samples};
use super::image::{Reading, decode_file, orientation_of};
use super::limits::Limits;
use super::turned::Turned;
use crate::{Error, Result};

/// The values of a file at some of its pixels.
#[derive(Debug)]
pub(crate) struct Exact {
    /// All values, those of a pixel side by side, alpha last.
    values: Vec<f32>,
    /// Whether a pixel is kept, by rows.
    kept: Vec<bool>,
}

impl Exact {
    /// The values of an image at the pixels that are `kept`, upright as in its picture.
    ///
    /// # Errors
    /// As [`super::image::read_image_as`]; [`Error::Input`] if it has another number of pixels.
    pub fn read(path: &Path, reading: &Reading, limits: &Limits, kept: Vec<bool>) -> Result<Self> {
        let (_, mut decoded) = decode_file(path, reading, limits)?;
        let orientation = orientation_of(&mut decoded);
        let raster = &decoded.raster;
        let turned = Turned::new(orientation, raster.width as usize, raster.height as usize);
        let pixels = turned.pixels();
        if pixels != kept.len() {
            return Err(Error::input(path, "has changed since it was read"));
        }
        let mut planes = Vec::with_capacity(raster.channels * pixels);
        for channel in 0..raster.channels {
            turned.plane(raster, channel, |v| v, &mut planes);
        }
        let channels = raster.channels;
        let values = (0..channels * pixels).map(|i| planes[i % channels * pixels + i / channels]).collect();
        Ok(Self { values, kept })
    }

    /// Puts them in their places, if what is written has floats and as many channels.
    pub(super) fn put_back(&self, raster: &mut Raster) {
        let channels = raster.channels;
        let Samples::Float(samples) = &mut raster.samples else { return };
        if samples.len() != self.values.len() || samples.len() != channels * self.kept.len() {
            return;
        }
        let pixels = samples.chunks_exact_mut(channels).zip(self.values.chunks_exact(channels)).zip(&self.kept);
        pixels.filter(|(_, kept)| **kept).for_each(|((sample, value), _)| sample.copy_from_slice(value));
    }
}
