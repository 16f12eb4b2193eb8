//! Pictures as a browser shows them.

use adir::Result;
use adir::io::image::Picture;
use adir::operator::bicubic_resize;

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
