//! How a large image is cut into overlapping tiles, and what each pixel of them counts.

use crate::tensor::{self, Tensor};
use crate::{Error, Result};

/// Overlap of neighbouring tiles in pixels at least, where their side is at least four times that; else a quarter of the side.
const OVERLAP: usize = 16;
/// Pixels at a tile's border that count for nothing: the network sees zeros beyond them.
const MARGIN: usize = 4;
/// Sides of tiles are multiples of this where they are at least [`LARGE`]: others leave the kernels parts of their blocks at
/// every level of a network, which takes up to a tenth longer.
const GRAIN: usize = 32;
const LARGE: usize = 192;

/// Tiles along one side of an image, and the weights in them.
#[derive(Debug, Clone, PartialEq)]
struct Side {
    length: usize,
    /// Where each tile begins, and its length.
    tiles: Vec<(usize, usize)>,
}

impl Side {
    /// The fewest tiles of at most `tile` over `length`, both multiples of `multiple`, and as small and as alike as these
    /// can be.
    fn new(length: usize, tile: usize, multiple: usize) -> Self {
        if length <= tile {
            return Self { length, tiles: vec![(0, length)] };
        }
        let grain = if tile >= LARGE && GRAIN.is_multiple_of(multiple) { GRAIN } else { multiple };
        let (most, grain) =
            if tile.is_multiple_of(grain) { (tile / grain, grain) } else { (tile / multiple, multiple) };
        let overlap = OVERLAP.min(tile / 4).next_multiple_of(multiple).min(tile - multiple);
        let grains = |count: usize| (length + (count - 1) * overlap).div_ceil(grain);
        let mut count = (length - overlap).div_ceil(tile - overlap);
        while grains(count) > count * most {
            count += 1;
        }
        // What is left over makes some tiles one grain longer, and overlaps a little wider.
        let (each, longer) = (grains(count) / count, grains(count) % count);
        let lengths = (0..count).map(|k| (each + usize::from(k < longer)) * grain);
        let shared = lengths.clone().sum::<usize>() - length;
        let mut end = 0;
        let place = |(k, tile): (usize, usize)| {
            let before = end - (shared * k / (count - 1)).next_multiple_of(multiple).min(shared);
            end += tile;
            (before.min(length - tile), tile)
        };
        Self { length, tiles: lengths.enumerate().map(place).collect() }
    }

    /// The weight of the `i`-th pixel of the `k`-th tile before all weights of the pixel are made to sum to 1: from 0 at
    /// a border that meets another tile to 1 where that one's begins.
    fn weight(&self, k: usize, i: usize) -> f64 {
        let (start, tile) = self.tiles[k];
        let ramp = |distance: usize, overlap: usize| {
            let margin = MARGIN.min(overlap / 4) as f64;
            ((distance as f64 + 0.5 - margin) / (overlap as f64 - 2.0 * margin)).clamp(1e-6, 1.0)
        };
        let end_before = k.checked_sub(1).map(|k| self.tiles[k].0 + self.tiles[k].1);
        let before = end_before.map_or(1.0, |end| ramp(i, end - start));
        let after = self.tiles.get(k + 1).map_or(1.0, |(next, _)| ramp(tile - 1 - i, start + tile - next));
        before * after
    }

    /// The weights of every tile.
    fn weights(&self) -> Vec<Vec<f64>> {
        let mut sums = vec![0.0; self.length];
        let of_tile = |(k, (_, tile)): (usize, &(usize, usize))| (0..*tile).map(|i| self.weight(k, i)).collect();
        let mut weights: Vec<Vec<f64>> = self.tiles.iter().enumerate().map(of_tile).collect();
        for ((start, _), weights) in self.tiles.iter().zip(&weights) {
            weights.iter().enumerate().for_each(|(i, w)| sums[start + i] += w);
        }
        for ((start, _), weights) in self.tiles.iter().zip(&mut weights) {
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

/// The number and the largest length of the tiles down and across an image of that size.
pub(crate) fn tiles_of(tile: usize, multiple: usize, height: usize, width: usize) -> [(usize, usize); 2] {
    let sides = [height, width].map(|side| Side::new(side, tile, multiple.max(1)).tiles);
    sides.map(|tiles| (tiles.len(), tiles.iter().map(|(_, tile)| *tile).max().unwrap_or_default()))
}

/// The tiles of at most `tile` a side of an image.
pub(super) fn tiles(tile: usize, multiple: usize, height: usize, width: usize) -> Vec<Tile> {
    let [rows, columns] = [height, width].map(|side| Side::new(side, tile, multiple.max(1)));
    let (of_rows, of_columns) = (rows.weights(), columns.weights());
    let across = |((y, _), weights): (&(usize, usize), &Vec<f64>)| -> Vec<Tile> {
        let tile = |((x, _), columns): (&(usize, usize), &Vec<f64>)| Tile {
            at: [*y, *x],
            rows: weights.clone(),
            columns: columns.clone(),
        };
        columns.tiles.iter().zip(&of_columns).map(tile).collect()
    };
    rows.tiles.iter().zip(&of_rows).flat_map(across).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::assert_close;

    #[test]
    fn tiles_cover_every_side_and_weights_sum_to_one() {
        for length in (16..1600).step_by(8).chain([2048, 3000, 4096]) {
            for (tile, multiple) in [(16, 8), (64, 8), (64, 16), (72, 8), (192, 8), (200, 8), (384, 16), (512, 8)] {
                if length % multiple > 0 {
                    continue;
                }
                let side = Side::new(length, tile, multiple);
                let mut sums = vec![0.0; length];
                for ((start, found), weights) in side.tiles.iter().zip(side.weights()) {
                    assert!(start.is_multiple_of(multiple) && found.is_multiple_of(multiple), "{side:?}");
                    assert!(start + found <= length && *found <= tile.max(multiple), "{side:?}");
                    weights.iter().enumerate().for_each(|(i, w)| sums[start + i] += w);
                }
                assert_close(&sums, &vec![1.0; length], 1e-12);
                let enough = OVERLAP.min(tile / 4);
                let overlap = |pair: &[(usize, usize)]| pair[0].0 + pair[0].1 >= pair[1].0 + enough;
                assert!(side.tiles.windows(2).all(overlap), "{side:?}");
                // Only neighbours meet.
                assert!(side.tiles.windows(3).all(|three| three[0].0 + three[0].1 <= three[2].0), "{side:?}");
            }
        }
        let four = Side::new(2048, 512, 8);
        assert_eq!(four.tiles, [(0, 448), (432, 416), (832, 416), (1232, 416), (1632, 416)]);
    }
}
