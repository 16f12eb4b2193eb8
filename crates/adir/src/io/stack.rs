//! Files of several pages, made of files of one.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::atomic;
use super::codec::{Array, Raster, Samples, Stack};
use super::fits_cards::FitsHeader;
use super::image::{BitDepth, ImageFormat, decode_file};
use super::limits::Limits;
use super::metadata::Metadata;
use super::scale::Reading;
use crate::operator::ImageShape;
use crate::{Error, Result};

/// The format of a file of several pages, by its name: TIFF or FITS.
///
/// # Errors
/// [`Error::Config`] for any other.
pub fn stack_format(path: &Path) -> Result<ImageFormat> {
    match ImageFormat::from_path(path)? {
        format @ (ImageFormat::Tiff | ImageFormat::Fits) => Ok(format),
        _ => Err(Error::config(format!(
            "{}: several pages are written as one .tif or .fits file, or give a folder for a file a page",
            path.display()
        ))),
    }
}

/// What a page must have in common with others to be a plane of the same FITS cube.
#[derive(Debug, Clone)]
pub(crate) struct Plane {
    /// Its place among the pages, from 0.
    pub k: usize,
    /// Its size.
    pub size: ImageShape,
    /// How it is stored.
    pub depth: BitDepth,
    /// Its header, if it comes from a FITS file.
    pub header: Option<FitsHeader>,
}

impl Plane {
    fn of(k: usize, raster: &Raster, metadata: &Metadata) -> Self {
        let size =
            ImageShape { channels: raster.channels, height: raster.height as usize, width: raster.width as usize };
        let depth = match raster.samples {
            Samples::Eight(_) => BitDepth::Eight,
            Samples::Sixteen(_) => BitDepth::Sixteen,
            Samples::Float(_) => BitDepth::Float,
        };
        Self { k, size, depth, header: metadata.fits.clone() }
    }
}

/// Refuses planes that are no cube: the first one, and one behind it.
///
/// # Errors
/// [`Error::Config`] saying what differs.
pub(crate) fn check_cube(path: &Path, first: &Plane, plane: &Plane) -> Result<()> {
    let fault = if plane.size.channels != 1 {
        "is in colours"
    } else if (plane.size, plane.depth) != (first.size, first.depth) {
        "has another size or depth than the first one"
    } else {
        match (&first.header, &plane.header) {
            (None, None) => return Ok(()),
            (Some(header), Some(own)) if own.is_plane_of(header, plane.k - first.k) => return Ok(()),
            _ => "has another header than the first one, or lies along a fourth axis",
        }
    };
    Err(Error::config(format!(
        "{}: page {} {fault}, so that the pages are no FITS cube: name a .tif file, or a folder for a file a page",
        path.display(),
        plane.k + 1
    )))
}

/// Writes a TIFF file or FITS cube whose pages are the first ones of `pages`, in their order, whole or not at all. Samples stay
/// what they are, and so do metadata, except EXIF in TIFF files of more than 3.8 GB. Sizes and depths may differ from page to
/// page of a TIFF file; planes of a cube are grey and alike, and the header is that of the first one. One page at a time is in
/// memory.
///
/// # Errors
/// As [`stack_format`]; as [`read_image`](super::image::read_image) for a page; [`Error::Config`] for pages that are no cube;
/// [`Error::Io`] where the system refuses.
pub fn write_stack(path: &Path, pages: &[PathBuf], limits: &Limits) -> Result<()> {
    let format = stack_format(path)?;
    let read = |page: &PathBuf| decode_file(page, &Reading::default(), limits).map(|(_, decoded)| decoded);
    let [first, ..] = pages else { return Err(Error::config(format!("{}: no pages", path.display()))) };
    // Where sizes differ, the largest page is seldom much larger than the first one.
    let first = read(first)?;
    let bytes = bytes_of(&first.raster).saturating_mul(pages.len() as u64);
    let plane = Plane::of(0, &first.raster, &first.metadata);
    atomic::write(path, |file| {
        if format == ImageFormat::Fits {
            let mut cube = Array::begin(path, file, &first.raster, &first.metadata, Some(pages.len()))?;
            for (k, page) in std::iter::once(Ok(first)).chain(pages[1..].iter().map(read)).enumerate() {
                let page = page?;
                check_cube(path, &plane, &Plane::of(k, &page.raster, &page.metadata))?;
                cube.add(path, &page.raster)?;
            }
            cube.end(path)?;
        } else {
            let mut stack = Stack::begin(path, file, bytes)?;
            std::iter::once(Ok(first)).chain(pages[1..].iter().map(read)).try_for_each(|page| {
                let page = page?;
                stack.add(path, &page.raster, &page.metadata)
            })?;
        }
        file.flush().map_err(|e| Error::io(path, e))
    })
}

/// Bytes of the pixels.
fn bytes_of(raster: &Raster) -> u64 {
    let sample = match raster.samples {
        Samples::Eight(_) => 1,
        Samples::Sixteen(_) => 2,
        Samples::Float(_) => 4,
    };
    u64::from(raster.width) * u64::from(raster.height) * raster.channels as u64 * sample
}
