//! Parts of large images, each an image of its own to a search.
//!
//! A scan of a page or a survey of the sky shows many things, and its embedding is that of none of them. So an image is
//! divided into equal parts that do not overlap: what is held out of an adaptation then shares no pixel with the rest.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::tensor::Tensor;
use crate::{Error, Result};

/// A part of an image, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tile {
    /// First row.
    pub top: u32,
    /// First column.
    pub left: u32,
    /// Number of rows, at least 1.
    pub height: u32,
    /// Number of columns, at least 1.
    pub width: u32,
}

impl Tile {
    /// That part of `image`, `[1, c, h, w]`.
    ///
    /// # Errors
    /// [`Error::Config`] when the image does not reach so far.
    pub fn cut(&self, image: &Tensor<4>) -> Result<Tensor<4>> {
        let [.., h, w] = image.dims();
        let [top, left, height, width] = [self.top, self.left, self.height, self.width].map(|v| v as usize);
        if height == 0 || width == 0 || top + height > h || left + width > w {
            return Err(Error::config(format!("an image of {w}x{h} pixels has no part {self}")));
        }
        Ok(image.clone().narrow(2, top, height).narrow(3, left, width))
    }
}

impl fmt::Display for Tile {
    /// WIDTHxHEIGHT+LEFT+TOP, as X and ImageMagick write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}+{}+{}", self.width, self.height, self.left, self.top)
    }
}

/// The side of tiles in pixels, at least [`TileSide::LEAST`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct TileSide(u32);

impl TileSide {
    /// Tiles smaller than what an encoder looks at say little.
    pub const LEAST: u32 = 32;

    /// # Errors
    /// [`Error::Config`] below [`TileSide::LEAST`].
    pub fn new(side: u32) -> Result<Self> {
        match side {
            Self::LEAST.. => Ok(Self(side)),
            _ => Err(Error::config(format!("tiles of {side} pixels: expected {} or more", Self::LEAST))),
        }
    }

    /// In pixels.
    pub fn pixels(self) -> u32 {
        self.0
    }

    /// The parts of an image of `height` x `width` pixels, row by row: as many along each side as tiles of this side come
    /// nearest to, so that each has 2/3 to 3/2 of it. None for an image that is one tile.
    pub fn tiles(self, height: usize, width: usize) -> Vec<Tile> {
        let parts = |length: usize| -> Vec<(u32, u32)> {
            let count = ((length as f64 / f64::from(self.0)).round() as usize).max(1);
            let at = |i: usize| (i * length / count) as u32;
            (0..count).map(|i| (at(i), at(i + 1) - at(i))).collect()
        };
        let (rows, columns) = (parts(height), parts(width));
        if rows.len() * columns.len() == 1 {
            return Vec::new();
        }
        let tile = |(top, height): (u32, u32), (left, width): (u32, u32)| Tile { top, left, height, width };
        rows.iter().flat_map(|row| columns.iter().map(move |column| tile(*row, *column))).collect()
    }
}

impl TryFrom<u32> for TileSide {
    type Error = Error;

    fn try_from(side: u32) -> Result<Self> {
        Self::new(side)
    }
}

impl From<TileSide> for u32 {
    fn from(side: TileSide) -> Self {
        side.0
    }
}

impl std::str::FromStr for TileSide {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let side = text.parse().map_err(|_| Error::config(format!("{text:?}: expected a number of pixels")))?;
        Self::new(side)
    }
}

impl fmt::Display for TileSide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_an_image_once() {
        for (side, height, width, count) in
            [(256, 1000, 300, 4), (128, 100, 5000, 39), (64, 95, 95, 0), (64, 97, 95, 2), (32, 1, 65_000, 2031)]
        {
            let tiles = TileSide::new(side).unwrap().tiles(height, width);
            assert_eq!(tiles.len(), count, "{height}x{width} by {side}");
            assert!(tiles.is_sorted());
            let mut seen = vec![0_u8; height * width];
            for tile in &tiles {
                for row in tile.top..tile.top + tile.height {
                    for column in tile.left..tile.left + tile.width {
                        seen[row as usize * width + column as usize] += 1;
                    }
                }
            }
            assert!(tiles.is_empty() || seen.iter().all(|&n| n == 1));
        }
        assert!(TileSide::new(31).is_err() && "128".parse::<TileSide>().is_ok() && "x".parse::<TileSide>().is_err());
    }

    #[test]
    fn a_tile_is_its_part() {
        let image = crate::tensor::from_f64((0..20).map(f64::from).collect(), [1, 1, 4, 5], &crate::tensor::cpu());
        let tile = Tile { top: 1, left: 2, height: 2, width: 3 };
        let part = crate::tensor::to_f64(&tile.cut(&image).unwrap()).unwrap();
        assert_eq!(part, [7.0, 8.0, 9.0, 12.0, 13.0, 14.0]);
        assert!(Tile { top: 3, ..tile }.cut(&image).is_err());
        assert_eq!(tile.to_string(), "3x2+2+1");
    }
}
