//! Pictures as a browser shows them.

use std::path::Path;

use adir::Result;
use adir::io::image::{Picture, Reading, read_hashed_as};
use adir::io::limits::Limits;
use adir::operator::bicubic_resize;

/// An observation, which may have pixels that were not observed.
///
/// # Errors
/// Those of [`read_hashed_as`].
pub fn observation(path: &Path, reading: &Reading, limits: &Limits) -> Result<Picture> {
    Ok(read_hashed_as(path, reading, limits)?.0)
}

/// A picture of 8 bits without alpha, at most `longest` pixels on its longer side, and whether it was made smaller.
///
/// # Errors
/// Those of the resize.
pub fn at_most(picture: &Picture, longest: usize) -> Result<(Picture, bool)> {
    let [_, _, h, w] = picture.tensor.dims();
    let shrunk = h.max(w) > longest;
    let side = |side: usize| (side * longest / h.max(w)).max(1);
    let tensor = match shrunk {
        true => bicubic_resize(&picture.tensor, side(h), side(w))?,
        false => picture.tensor.clone(),
    };
    Ok((Picture::from_tensor(tensor), shrunk))
}
