//! Pictures of the page.

use adir::Result;
use adir::io::image::Picture;

use super::html::data_url;
use crate::picture;

/// Pixels of a picture's longer side on the page at most.
const LONGEST: usize = 1600;
/// Pixels of a thumbnail's longer side.
const THUMBNAIL: usize = 96;

/// A picture on the page.
pub struct Shown {
    /// The address that holds it.
    pub url: String,
    /// Its width on the page.
    pub width: usize,
    /// Its height on the page.
    pub height: usize,
    /// Whether it was made smaller.
    pub shrunk: bool,
}

/// A picture, made smaller where a page should not hold all of it. Alpha is left out.
pub fn shown(picture: &Picture) -> Result<Shown> {
    at_most(picture, LONGEST)
}

/// A small one.
pub fn thumbnail(picture: &Picture) -> Result<Shown> {
    at_most(picture, THUMBNAIL)
}

fn at_most(picture: &Picture, longest: usize) -> Result<Shown> {
    let (picture, shrunk) = picture::at_most(picture, longest)?;
    let [_, _, height, width] = picture.tensor.dims();
    Ok(Shown { url: data_url(&picture.to_png()?), width, height, shrunk })
}

#[cfg(test)]
mod tests {
    use adir::tensor::{cpu, from_f32};

    use super::*;

    #[test]
    fn large_pictures_are_made_smaller() {
        let picture = |h: usize, w: usize| Picture::from_tensor(from_f32(vec![0.0; h * w], [1, 1, h, w], &cpu()));
        let large = shown(&picture(10, 3200)).unwrap();
        assert_eq!((large.height, large.width, large.shrunk), (5, 1600, true));
        let small = shown(&picture(10, 1600)).unwrap();
        assert_eq!((small.height, small.width, small.shrunk), (10, 1600, false));
        assert_eq!(thumbnail(&picture(1, 4000)).unwrap().height, 1);
    }
}
