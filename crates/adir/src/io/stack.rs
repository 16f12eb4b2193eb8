//! Files of several pages, made of files of one.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::atomic;
use super::codec::{Raster, Samples, Stack};
use super::image::{ImageFormat, decode_file};
use super::limits::Limits;
use super::scale::Reading;
use crate::{Error, Result};

/// Refuses a name that is not that of a file of several pages.
///
/// # Errors
/// [`Error::Config`] for all but TIFF.
pub fn check_stack_name(path: &Path) -> Result<()> {
    match ImageFormat::from_path(path)? {
        ImageFormat::Tiff => Ok(()),
        _ => Err(Error::config(format!(
            "{}: several pages are written as one .tif file, or give a folder for a file a page",
            path.display()
        ))),
    }
}

/// Writes a TIFF file whose pages are the first ones of `pages`, in their order, whole or not at all. Samples stay what they
/// are, and so do metadata, except EXIF in files of more than 3.8 GB. Sizes and depths may differ from page to page. One
/// page at a time is in memory.
///
/// # Errors
/// As [`check_stack_name`]; as [`read_image`](super::image::read_image) for a page; [`Error::Io`] where the system refuses.
pub fn write_stack(path: &Path, pages: &[PathBuf], limits: &Limits) -> Result<()> {
    check_stack_name(path)?;
    let read = |page: &PathBuf| decode_file(page, &Reading::default(), limits).map(|(_, decoded)| decoded);
    let [first, ..] = pages else { return Err(Error::config(format!("{}: no pages", path.display()))) };
    // Where sizes differ, the largest page is seldom much larger than the first one.
    let first = read(first)?;
    let bytes = bytes_of(&first.raster).saturating_mul(pages.len() as u64);
    atomic::write(path, |file| {
        {
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
