//! The small inputs beside an image: masks for inpainting and blur kernels.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

use super::codec::kinds::{other_kind, way_out};
use super::codec::{Decoded, ImageFormat, Raster, Samples};
use super::image::{Reading, decode_file, orientation_of, read_marks};
use super::limits::Limits;
use super::turned::Turned;
use crate::operator::{Mask, Rows, read_rows};
use crate::tensor::to_f32;
use crate::{Error, Result};

/// Largest kernel written as text or as a NumPy array, in bytes.
const MAX_KERNEL_BYTES: u64 = 16 << 20;

/// Grey levels that are neither black nor white, in a mask.
const GREY: std::ops::Range<f32> = 0.1..0.9;

/// What is expected of a kernel's file.
const KERNEL: &str = "a kernel is rows of numbers in a text, a NumPy array (.npy), or an image";

/// Reads a mask image: white is unknown, to be filled in; black is known.
///
/// Colour counts by the mean of its channels, and from half of white upwards a pixel is unknown. Of an image of two
/// colours the brighter one is unknown if the other is black, however dark it is: 0 and 1, or two entries of a palette.
/// Where all colours are alike and only alpha tells pixels apart, what is opaque is unknown: it was painted.
///
/// # Errors
/// As [`read_image`](super::image::read_image); [`Error::Input`] for a file of several pages, and for one with more greys than
/// black and white, which is a picture; [`Error::Config`] when no pixel is known.
pub fn read_mask(path: &Path, limits: &Limits) -> Result<Mask> {
    let picture = read_marks(path, limits)?;
    refuse_pages(path, picture.pages, "a mask")?;
    let [_, _, height, width] = picture.tensor.dims();
    // From 0, black, to 1.
    let levels: Vec<f32> = to_f32(&picture.tensor.mean_dim(1))?.into_iter().map(|v| (v + 1.0) / 2.0).collect();
    if is_picture(&levels) {
        return Err(Error::input(
            path,
            "most of its pixels are neither black nor white: paint what is unknown white, and all the rest black",
        ));
    }
    let unknown = unknown_by(&levels, picture.alpha.as_deref());
    let mask = Mask::new(height, width, unknown.into_iter().map(|unknown| !unknown).collect());
    mask.map_err(|error| match error {
        Error::Config(message) => Error::config(format!("{}: {message}", path.display())),
        other => other,
    })
}

/// Refuses a file of several pages, of which nobody can tell which one is meant.
fn refuse_pages(path: &Path, pages: usize, what: &str) -> Result<()> {
    match pages {
        0 | 1 => Ok(()),
        _ => Err(Error::input(
            path,
            format!("has {pages} pages, but {what} is one: save the one to use as a file of its own"),
        )),
    }
}

/// Whether most pixels are of many different greys, as in a photograph. Soft edges of what was painted are few, and two greys
/// may be meant.
fn is_picture(levels: &[f32]) -> bool {
    const MOST_MEANT: usize = 8;
    let grey = levels.iter().filter(|level| GREY.contains(level));
    if 2 * grey.clone().count() <= levels.len() {
        return false;
    }
    let different: BTreeSet<u8> = grey.map(|level| (level * 255.0).round() as u8).collect();
    different.len() > MOST_MEANT
}

/// Which pixels are unknown, by their grey levels and alpha, both from 0 to 1.
fn unknown_by(levels: &[f32], alpha: Option<&[f32]>) -> Vec<bool> {
    let (low, high) = range(levels);
    let telling = |alpha: &&[f32]| low == high && range(alpha).0 < 0.5 && range(alpha).1 >= 0.5;
    if let Some(alpha) = alpha.filter(telling) {
        return alpha.iter().map(|alpha| *alpha >= 0.5).collect();
    }
    let two = low == 0.0 && levels.iter().all(|level| *level == low || *level == high);
    let least = if two && high > 0.0 { high } else { 0.5 };
    levels.iter().map(|level| *level >= least).collect()
}

fn range(values: &[f32]) -> (f32, f32) {
    let least = values.iter().copied().fold(f32::INFINITY, f32::min);
    (least, values.iter().copied().fold(f32::NEG_INFINITY, f32::max))
}

/// Reads the values of a blur kernel, not normalised and not centred: from an image (grey values from 0 to 1; colour
/// counts by its mean), from a NumPy array (.npy) of one or two dimensions, or from text, see [`read_rows`].
///
/// # Errors
/// [`Error::Input`] if the file is missing or damaged, a number cannot be read or is not finite, or rows
/// differ in length, or an image has several pages; [`Error::Limits`] if it is too large.
pub fn read_kernel_values(path: &Path, limits: &Limits) -> Result<Rows> {
    let cannot = |e: std::io::Error| Error::input(path, format!("cannot be read: {e}"));
    let mut file = super::open_regular(path).map_err(cannot)?;
    let mut start = Vec::new();
    (&mut file).take(ImageFormat::START).read_to_end(&mut start).map_err(cannot)?;
    if ImageFormat::from_content(&start).is_some() {
        let mut decoded = decode_file(path, &Reading::default(), limits)?.1;
        let orientation = orientation_of(&mut decoded);
        let Decoded { raster, unobserved, pages, .. } = decoded;
        refuse_pages(path, pages, "a kernel")?;
        if !unobserved.is_empty() {
            return Err(Error::input(path, "holds BLANK or NaN, which is no weight of a kernel"));
        }
        let values = grey(&raster);
        let alike = |values: &[f64]| values.windows(2).all(|pair| pair[0] == pair[1]);
        if alike(&values) && alpha(&raster).is_some_and(|alpha| !alike(&alpha)) {
            let message = "holds the shape of the kernel in its transparency alone: save the weights as greys on black";
            return Err(Error::input(path, message));
        }
        let turned = Turned::new(orientation, raster.width as usize, raster.height as usize);
        return Ok(Rows { values: turned.values(&values), height: turned.height, width: turned.width });
    }
    file.take(MAX_KERNEL_BYTES).read_to_end(&mut start).map_err(cannot)?;
    if start.len() as u64 >= MAX_KERNEL_BYTES {
        let most = MAX_KERNEL_BYTES;
        return Err(Error::Limits(format!("{}: the kernel has more than {most} bytes", path.display())));
    }
    if start.starts_with(b"\x93NUMPY") {
        let array = adir_weights::npy::matrix(path, &start[..], start.len() as u64);
        let (height, width, values) = array.map_err(|error| match error {
            adir_weights::Error::Malformed { message, .. } => Error::input(path, message),
            other => other.into(),
        })?;
        return Ok(Rows { values, height, width });
    }
    if let Some(kind) = other_kind(&start) {
        return Err(Error::input(path, format!("is a {kind} file, which is no kernel: {}", way_out(kind))));
    }
    let text = String::from_utf8(start).map_err(|_| Error::input(path, format!("is not text in UTF-8; {KERNEL}")))?;
    read_rows(&text).map_err(|message| Error::input(path, format!("{message}; {KERNEL}")))
}

/// The mean of each pixel's colour channels, black 0 to white 1.
fn grey(raster: &Raster) -> Vec<f64> {
    let color = if raster.channels >= 3 { 3 } else { 1 };
    of_pixels(raster, |pixel| pixel[..color].iter().sum::<f64>() / color as f64)
}

/// How opaque each pixel is, 0 to 1, where the raster tells.
fn alpha(raster: &Raster) -> Option<Vec<f64>> {
    matches!(raster.channels, 2 | 4).then(|| of_pixels(raster, |pixel| pixel[raster.channels - 1]))
}

/// A number of the channels of each pixel, black 0 to white 1.
fn of_pixels(raster: &Raster, of: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let mut pixel = vec![0.0; raster.channels];
    let mut each = |values: &mut dyn Iterator<Item = f64>| {
        pixel.iter_mut().zip(values).for_each(|(to, value)| *to = value);
        of(&pixel)
    };
    let channels = raster.channels;
    match &raster.samples {
        Samples::Eight(s) => {
            s.chunks_exact(channels).map(|p| each(&mut p.iter().map(|&v| f64::from(v) / 255.0))).collect()
        }
        Samples::Sixteen(s) => {
            s.chunks_exact(channels).map(|p| each(&mut p.iter().map(|&v| f64::from(v) / 65535.0))).collect()
        }
        Samples::Float(s) => s.chunks_exact(channels).map(|p| each(&mut p.iter().map(|&v| v.into()))).collect(),
    }
}
