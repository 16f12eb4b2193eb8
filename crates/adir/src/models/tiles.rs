//! How a large image is cut into overlapping tiles, and what each pixel of them counts.

use crate::tensor::{self, Tensor};
use crate::{Error, Result};

/// Overlap of neighbouring tiles in pixels, where their side is at least four times that; else a quarter of the side.
const OVERLAP: usize = 32;
/// Pixels at a tile's border that count for nothing: the network sees zeros beyond them.
const MARGIN: usize = 4;

/// Tiles along one side of an image, and the weights in them.
#[derive(Debug, Clone, PartialEq)]
struct Side {
    length: usize,
    tile: usize,
    /// Where each tile begins.
    starts: Vec<usize>,
    overlap: usize,
}

impl Side {
    /// The fewest tiles of at most `tile` over `length`, both multiples of `multiple`, and as small as these can be.
    fn new(length: usize, tile: usize, multiple: usize) -> Self {
        if length <= tile {
            return Self { length, tile: length, starts: vec![0], overlap: 0 };
        }
        let overlap = OVERLAP.min(tile / 4).next_multiple_of(multiple).min(tile - multiple);
        let count = (length - overlap).div_ceil(tile - overlap);
        let tile = (length + (count - 1) * overlap).div_ceil(count).next_multiple_of(multiple);
        let last = length - tile;
        let start = |i: usize| (last * i / (count - 1)).next_multiple_of(multiple).min(last);
        Self { length, tile, starts: (0..count).map(start).collect(), overlap }
    }

    /// The weight of the `i`-th pixel of the `k`-th tile before all weights of the pixel are made to sum to 1: from 0 at
    /// a border that meets another tile to 1 where that one's begins.
    fn weight(&self, k: usize, i: usize) -> f64 {
        let margin = MARGIN.min(self.overlap / 4) as f64;
        let ramp = |distance: usize| {
            ((distance as f64 + 0.5 - margin) / (self.overlap as f64 - 2.0 * margin)).clamp(1e-6, 1.0)
        };
        let before = if k == 0 { 1.0 } else { ramp(i) };
        let after = if k + 1 == self.starts.len() { 1.0 } else { ramp(self.tile - 1 - i) };
        before * after
    }

    /// The weights of every tile.
    fn weights(&self) -> Vec<Vec<f64>> {
        let mut sums = vec![0.0; self.length];
        let mut weights: Vec<Vec<f64>> =
            (0..self.starts.len()).map(|k| (0..self.tile).map(|i| self.weight(k, i)).collect()).collect();
        for (start, weights) in self.starts.iter().zip(&weights) {
            weights.iter().enumerate().for_each(|(i, w)| sums[start + i] += w);
        }
        for (start, weights) in self.starts.iter().zip(&mut weights) {
            weights.iter_mut().enumerate().for_each(|(i, w)| *w /= sums[start + i]);
        }
        weights
    }
}

/// A tile: its place, and the weights of its rows and columns.
pub(super) struct Tile {
    at: [usize; 2],
    rows: Vec<f64>,
    columns: Vec<f64>,
}

impl Tile {
    /// That part of `image`.
    pub(super) fn of(&self, image: &Tensor<4>) -> Tensor<4> {
        image.clone().narrow(2, self.at[0], self.rows.len()).narrow(3, self.at[1], self.columns.len())
    }

    /// `values`, of the tile, times its weights.
    pub(super) fn weighted(&self, values: &Tensor<4>) -> Tensor<4> {
        let (device, dtype) = (values.device(), values.dtype());
        let rows = tensor::from_f64(self.rows.clone(), [1, 1, self.rows.len(), 1], &device).cast(dtype);
        let columns = tensor::from_f64(self.columns.clone(), [1, 1, 1, self.columns.len()], &device).cast(dtype);
        values.clone() * rows * columns
    }

    /// Adds `values`, of the tile, to an image.
    pub(super) fn add(&self, image: &mut Tensor<4>, values: Tensor<4>) {
        let [n, c, h, w] = values.dims();
        let [y, x] = self.at;
        let sum = self.of(image) + values;
        image.inplace(|image| image.slice_assign([0..n, 0..c, y..y + h, x..x + w], sum));
    }
}

/// Refuses tiles that the network cannot take.
pub(crate) fn check_tile(tile: usize, multiple: usize) -> Result<()> {
    let multiple = multiple.max(1);
    if tile < 2 * multiple || !tile.is_multiple_of(multiple) {
        return Err(Error::config(format!(
            "tiles of {tile} pixels: expected a multiple of {multiple}, {} or more",
            2 * multiple
        )));
    }
    Ok(())
}

/// The number and the length of the tiles down and across an image of that size.
pub(crate) fn tiles_of(tile: usize, multiple: usize, height: usize, width: usize) -> [(usize, usize); 2] {
    [height, width].map(|side| Side::new(side, tile, multiple.max(1))).map(|side| (side.starts.len(), side.tile))
}

/// The tiles of at most `tile` a side of an image.
pub(super) fn tiles(tile: usize, multiple: usize, height: usize, width: usize) -> Vec<Tile> {
    let [rows, columns] = [height, width].map(|side| Side::new(side, tile, multiple.max(1)));
    let (of_rows, of_columns) = (rows.weights(), columns.weights());
    let across = |(y, weights): (&usize, &Vec<f64>)| -> Vec<Tile> {
        let tile =
            |(x, columns): (&usize, &Vec<f64>)| Tile { at: [*y, *x], rows: weights.clone(), columns: columns.clone() };
        columns.starts.iter().zip(&of_columns).map(tile).collect()
    };
    rows.starts.iter().zip(&of_rows).flat_map(across).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::assert_close;

    #[test]
    fn tiles_cover_every_side_and_weights_sum_to_one() {
        for (length, tile, multiple) in
            [(64, 64, 8), (72, 64, 8), (512, 128, 16), (1000, 200, 8), (24, 16, 8), (16, 64, 16)]
        {
            let side = Side::new(length, tile, multiple);
            let mut sums = vec![0.0; length];
            for (start, weights) in side.starts.iter().zip(side.weights()) {
                assert!(start.is_multiple_of(multiple) && start + side.tile <= length, "{side:?}");
                weights.iter().enumerate().for_each(|(i, w)| sums[start + i] += w);
            }
            assert_close(&sums, &vec![1.0; length], 1e-12);
            let close = |pair: &[usize]| pair[0] + side.tile + multiple >= pair[1] + OVERLAP.min(tile / 4);
            assert!(side.starts.windows(2).all(close), "{side:?}");
        }
    }
}
