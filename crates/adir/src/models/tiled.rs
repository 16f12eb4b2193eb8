//! A denoiser that computes a large x_t in overlapping tiles, blended at every step.
//!
//! Only the network sees tiles: noise, estimates, guidance and A stay those of the whole image. So agreement with y holds
//! across tiles, and two tiles differ in nothing but what the network sees around a pixel. In the overlap their
//! predictions are mixed with weights that fall to the border of each tile.

use super::{Conditioning, Denoiser, DenoiserInfo, Prediction, Pullback};
use crate::schedule::Timestep;
use crate::tensor::{self, Tensor};
use crate::{Error, Result};

/// Overlap of neighbouring tiles, as a part of their side.
const OVERLAP: usize = 4;

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
    /// Tiles of at most `tile` over `length`, both multiples of `multiple`, that overlap by a quarter or more.
    fn new(length: usize, tile: usize, multiple: usize) -> Self {
        if length <= tile {
            return Self { length, tile: length, starts: vec![0], overlap: 0 };
        }
        let overlap = (tile / OVERLAP).next_multiple_of(multiple).min(tile - multiple);
        let count = (length - overlap).div_ceil(tile - overlap);
        let last = length - tile;
        let start = |i: usize| (last * i / (count - 1)).next_multiple_of(multiple).min(last);
        Self { length, tile, starts: (0..count).map(start).collect(), overlap }
    }

    /// The weight of the `i`-th pixel of the `k`-th tile before all weights of the pixel are made to sum to 1.
    fn weight(&self, k: usize, i: usize) -> f64 {
        let ramp = |distance: usize| ((distance as f64 + 0.5) / self.overlap as f64).min(1.0);
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

/// A denoiser in tiles of at most a given side, or on whole images.
pub struct Tiled<'a> {
    inner: &'a dyn Denoiser,
    tile: Option<usize>,
}

/// A tile: its place, and the weights of its rows and columns.
struct Tile {
    at: [usize; 2],
    rows: Vec<f64>,
    columns: Vec<f64>,
}

impl Tile {
    fn of(&self, image: &Tensor<4>) -> Tensor<4> {
        image.clone().narrow(2, self.at[0], self.rows.len()).narrow(3, self.at[1], self.columns.len())
    }

    /// `values`, of the tile, times its weights.
    fn weighted(&self, values: &Tensor<4>) -> Tensor<4> {
        let (device, dtype) = (values.device(), values.dtype());
        let rows = tensor::from_f64(self.rows.clone(), [1, 1, self.rows.len(), 1], &device).cast(dtype);
        let columns = tensor::from_f64(self.columns.clone(), [1, 1, 1, self.columns.len()], &device).cast(dtype);
        values.clone() * rows * columns
    }

    /// Adds `values`, of the tile, to an image.
    fn add(&self, image: Tensor<4>, values: Tensor<4>) -> Tensor<4> {
        let [n, c, h, w] = values.dims();
        let [y, x] = self.at;
        let sum = self.of(&image) + values;
        image.slice_assign([0..n, 0..c, y..y + h, x..x + w], sum)
    }
}

impl<'a> Tiled<'a> {
    /// `inner` in tiles of at most `tile` pixels a side; without a side it sees whole images.
    ///
    /// # Errors
    /// [`Error::Config`] for a side that is no multiple of what the network accepts, or less than two of them.
    pub fn new(inner: &'a dyn Denoiser, tile: Option<usize>) -> Result<Self> {
        tile.map_or(Ok(()), |tile| check_tile(tile, inner.info().size_multiple))?;
        Ok(Self { inner, tile })
    }

    fn tiles(&self, height: usize, width: usize) -> Vec<Tile> {
        tiles(self.tile.unwrap_or(height.max(width)), self.inner.info().size_multiple, height, width)
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

/// The number of tiles down and across an image of that size.
pub(crate) fn tile_counts(tile: usize, multiple: usize, height: usize, width: usize) -> [usize; 2] {
    [height, width].map(|side| Side::new(side, tile, multiple.max(1)).starts.len())
}

fn tiles(tile: usize, multiple: usize, height: usize, width: usize) -> Vec<Tile> {
    let [rows, columns] = [height, width].map(|side| Side::new(side, tile, multiple.max(1)));
    let (of_rows, of_columns) = (rows.weights(), columns.weights());
    let across = |(y, weights): (&usize, &Vec<f64>)| -> Vec<Tile> {
        let tile =
            |(x, columns): (&usize, &Vec<f64>)| Tile { at: [*y, *x], rows: weights.clone(), columns: columns.clone() };
        columns.starts.iter().zip(&of_columns).map(tile).collect()
    };
    rows.starts.iter().zip(&of_rows).flat_map(across).collect()
}

impl Denoiser for Tiled<'_> {
    fn info(&self) -> &DenoiserInfo {
        self.inner.info()
    }

    fn predict(&self, x_t: &Tensor<4>, t: Timestep, conditioning: &Conditioning) -> Result<Prediction> {
        self.info().check(x_t)?;
        let [_, _, h, w] = x_t.dims();
        let tiles = self.tiles(h, w);
        if let [_] = tiles.as_slice() {
            return self.inner.predict(x_t, t, conditioning);
        }
        let (mut eps, mut variance) = (x_t.zeros_like(), None::<Tensor<4>>);
        for tile in tiles {
            let found = self.inner.predict(&tile.of(x_t), t, conditioning)?;
            eps = tile.add(eps, tile.weighted(&found.eps));
            if let Some(found) = found.variance {
                let sum = variance.take().unwrap_or_else(|| x_t.zeros_like());
                variance = Some(tile.add(sum, tile.weighted(&found)));
            }
        }
        Ok(Prediction { eps, variance })
    }

    /// The tiles are computed once more on the way back, one at a time, so that the maps of only one are held.
    fn predict_back(
        &self,
        x_t: &Tensor<4>,
        t: Timestep,
        conditioning: &Conditioning,
    ) -> Result<(Prediction, Box<dyn Pullback + '_>)> {
        let [_, _, h, w] = x_t.dims();
        if let [_] = self.tiles(h, w).as_slice() {
            return self.inner.predict_back(x_t, t, conditioning);
        }
        let prediction = self.predict(x_t, t, conditioning)?;
        let (x_t, conditioning) = (x_t.clone(), conditioning.clone());
        Ok((prediction, Box::new(TiledBack { denoiser: self, x_t, t, conditioning })))
    }
}

/// The way back through all tiles.
struct TiledBack<'a> {
    denoiser: &'a Tiled<'a>,
    x_t: Tensor<4>,
    t: Timestep,
    conditioning: Conditioning,
}

impl Pullback for TiledBack<'_> {
    fn x_t(&self, cotangent: &Tensor<4>) -> Result<Tensor<4>> {
        if cotangent.dims() != self.x_t.dims() {
            let message = format!("a cotangent of shape {:?} for eps of {:?}", cotangent.dims(), self.x_t.dims());
            return Err(Error::config(message));
        }
        let [_, _, h, w] = self.x_t.dims();
        self.denoiser.tiles(h, w).iter().try_fold(self.x_t.zeros_like(), |sum, tile| {
            let (_, back) = self.denoiser.inner.predict_back(&tile.of(&self.x_t), self.t, &self.conditioning)?;
            Ok(tile.add(sum, back.x_t(&tile.weighted(&tile.of(cotangent)))?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::{Noise, Stream};
    use crate::schedule::{BetaSchedule, Schedule};
    use crate::tensor::{DType, cpu, from_f64, to_f64};
    use crate::testing::{GaussianDenoiser, assert_close};

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
            let close = |pair: &[usize]| pair[0] + side.tile >= pair[1] + tile / OVERLAP;
            assert!(side.starts.windows(2).all(close), "{side:?}");
        }
    }

    /// A denoiser that looks at single pixels is the same in tiles, and so is its way back.
    #[test]
    fn a_pointwise_denoiser_is_the_same_in_tiles() {
        let schedule = Schedule::new(BetaSchedule::Linear, 1000).unwrap();
        let one = |v: f64| from_f64(vec![v; 3], [1, 3, 1, 1], &cpu());
        let whole = GaussianDenoiser::new(schedule, one(0.2), one(0.3));
        let tiled = Tiled::new(&whole, Some(16)).unwrap();
        let normal = |k| Noise::new(k, Stream::Sampling).normal_tensor(0, [2, 3, 40, 23], &cpu(), DType::F64);
        let (x_t, cotangent) = (normal(0), normal(1));
        let ask = |denoiser: &dyn Denoiser| {
            let (prediction, back) = denoiser.predict_back(&x_t, Timestep(300), &Conditioning::None).unwrap();
            (to_f64(&prediction.eps).unwrap(), to_f64(&back.x_t(&cotangent).unwrap()).unwrap())
        };
        let (expected, found) = (ask(&whole), ask(&tiled));
        assert_close(&found.0, &expected.0, 1e-12);
        assert_close(&found.1, &expected.1, 1e-12);
        assert!(Tiled::new(&whole, Some(1)).is_err());
    }
}
