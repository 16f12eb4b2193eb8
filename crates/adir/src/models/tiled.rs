//! A denoiser that computes a large x_t in overlapping tiles, blended at every step.
//!
//! Only the network sees tiles: noise, estimates, guidance and A stay those of the whole image. So agreement with y holds
//! across tiles, and two tiles differ in nothing but what the network sees around a pixel. In the overlap their
//! predictions are mixed with weights that fall to the border of each tile.

use super::tiles::{Tile, check_tile, tiles};
use super::{Conditioning, Denoiser, DenoiserInfo, Prediction, Pullback};
use crate::compute::Workers;
use crate::schedule::Timestep;
use crate::tensor::{Device, Tensor};
use crate::{Error, Result};

/// A denoiser in tiles of at most a given side, or on whole images.
pub struct Tiled<'a> {
    inner: &'a dyn Denoiser,
    tile: Option<usize>,
    workers: Option<Workers>,
}

impl<'a> Tiled<'a> {
    /// `inner` in tiles of at most `tile` pixels a side; without a side it sees whole images.
    ///
    /// # Errors
    /// [`Error::Config`] for a side that is no multiple of what the network accepts, or less than two of them.
    pub fn new(inner: &'a dyn Denoiser, tile: Option<usize>) -> Result<Self> {
        tile.map_or(Ok(()), |tile| check_tile(tile, inner.info().size_multiple))?;
        Ok(Self { inner, tile, workers: None })
    }

    /// The same with several tiles at once, one a thread. On a CPU this is faster than all threads on one tile; the
    /// result is the same.
    ///
    /// # Errors
    /// [`Error::Backend`] when the system gives no threads.
    pub fn in_parallel(self) -> Result<Self> {
        Ok(Self { workers: Some(Workers::new()?), ..self })
    }

    fn tiles(&self, height: usize, width: usize) -> Vec<Tile> {
        tiles(self.tile.unwrap_or(height.max(width)), self.inner.info().size_multiple, height, width)
    }

    /// Computes something of every tile, and takes it in the order of the tiles.
    fn each<T: Send>(
        &self,
        tiles: &[Tile],
        compute: impl Fn(&Tile) -> Result<T> + Sync,
        mut take: impl FnMut(&Tile, T) + Send,
    ) -> Result<()> {
        let compute = |k: usize| Ok((k, compute(&tiles[k])?));
        let mut take = |(k, found): (usize, T)| take(&tiles[k], found);
        match &self.workers {
            Some(workers) => workers.run(tiles.len(), compute, take),
            None => (0..tiles.len()).try_for_each(|k| compute(k).map(&mut take)),
        }
    }
}

impl Denoiser for Tiled<'_> {
    fn info(&self) -> &DenoiserInfo {
        self.inner.info()
    }

    fn device(&self) -> Device {
        self.inner.device()
    }

    fn predict(&self, x_t: &Tensor<4>, t: Timestep, conditioning: &Conditioning) -> Result<Prediction> {
        self.info().check(x_t)?;
        let [_, _, h, w] = x_t.dims();
        let tiles = self.tiles(h, w);
        if let [_] = tiles.as_slice() {
            return self.inner.predict(x_t, t, conditioning);
        }
        let (mut eps, mut variance) = (x_t.zeros_like(), None::<Tensor<4>>);
        let predict = |tile: &Tile| {
            let found = self.inner.predict(&tile.of(x_t), t, &conditioning.of(|beside| tile.of(beside)))?;
            Ok((tile.weighted(&found.eps), found.variance.map(|found| tile.weighted(&found))))
        };
        self.each(&tiles, predict, |tile, (of_eps, of_variance)| {
            tile.add(&mut eps, of_eps);
            if let Some(found) = of_variance {
                tile.add(variance.get_or_insert_with(|| x_t.zeros_like()), found);
            }
        })?;
        Ok(Prediction { eps, variance })
    }

    /// The tiles are computed once more on the way back, so that the maps of only those at work are held.
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
        let back = |tile: &Tile| {
            let conditioning = self.conditioning.of(|beside| tile.of(beside));
            let (_, back) = self.denoiser.inner.predict_back(&tile.of(&self.x_t), self.t, &conditioning)?;
            back.x_t(&tile.weighted(&tile.of(cotangent)))
        };
        let mut gradient = self.x_t.zeros_like();
        let take = |tile: &Tile, found| tile.add(&mut gradient, found);
        self.denoiser.each(&self.denoiser.tiles(h, w), back, take)?;
        Ok(gradient)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::{Noise, Stream};
    use crate::schedule::{BetaSchedule, Schedule};
    use crate::tensor::{DType, cpu, from_f64, to_f64};
    use crate::testing::{GaussianDenoiser, assert_close};

    /// A denoiser that looks at single pixels is the same in tiles, and so is its way back.
    #[test]
    fn a_pointwise_denoiser_is_the_same_in_tiles() {
        let schedule = Schedule::new(BetaSchedule::Linear, 1000).unwrap();
        let one = |v: f64| from_f64(vec![v; 3], [1, 3, 1, 1], &cpu());
        let whole = GaussianDenoiser::new(schedule, one(0.2), one(0.3));
        let tiled = Tiled::new(&whole, Some(16)).unwrap();
        let in_parallel = Tiled::new(&whole, Some(16)).unwrap().in_parallel().unwrap();
        let normal = |k| Noise::new(k, Stream::Sampling).normal_tensor(0, [2, 3, 40, 23], &cpu(), DType::F64);
        let (x_t, cotangent) = (normal(0), normal(1));
        let ask = |denoiser: &dyn Denoiser| {
            let (prediction, back) = denoiser.predict_back(&x_t, Timestep(300), &Conditioning::None).unwrap();
            (to_f64(&prediction.eps).unwrap(), to_f64(&back.x_t(&cotangent).unwrap()).unwrap())
        };
        let (expected, found) = (ask(&whole), ask(&tiled));
        assert_close(&found.0, &expected.0, 1e-12);
        assert_close(&found.1, &expected.1, 1e-12);
        assert_eq!(ask(&in_parallel), found);
        assert!(Tiled::new(&whole, Some(1)).is_err());
    }

    /// A denoiser whose eps is one value for all of an image, the mean of x_t: another one in each tile.
    struct Flat(DenoiserInfo);

    struct FlatBack([usize; 4]);

    /// The sum of all values, divided among as many as there are.
    fn spread(x: &Tensor<4>) -> Tensor<4> {
        let values = to_f64(x).unwrap();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        from_f64(vec![mean; values.len()], x.dims(), &cpu())
    }

    impl Pullback for FlatBack {
        fn x_t(&self, cotangent: &Tensor<4>) -> Result<Tensor<4>> {
            assert_eq!(cotangent.dims(), self.0);
            Ok(spread(cotangent))
        }
    }

    impl Denoiser for Flat {
        fn info(&self) -> &DenoiserInfo {
            &self.0
        }

        fn predict(&self, x_t: &Tensor<4>, _: Timestep, _: &Conditioning) -> Result<Prediction> {
            Ok(Prediction { eps: spread(x_t), variance: None })
        }

        fn predict_back(
            &self,
            x_t: &Tensor<4>,
            t: Timestep,
            conditioning: &Conditioning,
        ) -> Result<(Prediction, Box<dyn Pullback + '_>)> {
            Ok((self.predict(x_t, t, conditioning)?, Box::new(FlatBack(x_t.dims()))))
        }
    }

    /// Where tiles say different things, one turns into the other little by little, and nothing of a tile is seen near its
    /// border. The way back is the transpose.
    #[test]
    fn tiles_that_differ_are_blended() {
        let schedule = Schedule::new(BetaSchedule::Linear, 1000).unwrap();
        let one = from_f64(vec![0.5; 3], [1, 3, 1, 1], &cpu());
        let flat = Flat(GaussianDenoiser::new(schedule, one.clone(), one).info().clone());
        let tiled = Tiled::new(&flat, Some(64)).unwrap();
        // Three tiles of 64 along 160 pixels, which overlap by 16.
        const LONG: usize = 160;
        for dims in [[1, 3, 8, LONG], [1, 3, LONG, 8]] {
            let along = |i: usize| if dims[3] == LONG { i % LONG } else { i / 8 % LONG };
            let x_t = from_f64((0..3 * 8 * LONG).map(|i| along(i) as f64).collect(), dims, &cpu());
            let (prediction, back) = tiled.predict_back(&x_t, Timestep(300), &Conditioning::None).unwrap();
            let eps = to_f64(&prediction.eps).unwrap();
            let mut line = vec![f64::NAN; LONG];
            for (i, v) in eps.iter().enumerate() {
                let known = std::mem::replace(&mut line[along(i)], *v);
                assert!(known.is_nan() || (known - v).abs() < 1e-9, "across the tiles nothing changes");
            }
            // The means of columns 0 to 63, 48 to 111 and 96 to 159.
            let of_tiles = [31.5, 79.5, 127.5];
            for (columns, expected) in [(0..52, of_tiles[0]), (60..100, of_tiles[1]), (108..LONG, of_tiles[2])] {
                assert!(line[columns].iter().all(|v| (v - expected).abs() < 1e-3), "{line:?}");
            }
            // 48 in 8 steps.
            let most = line.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max);
            assert!((4.0..9.0).contains(&most), "a step of {most}: {line:?}");
            let cotangent = Noise::new(1, Stream::Sampling).normal_tensor(0, dims, &cpu(), DType::F64);
            let dot = |a: &Tensor<4>, b: &Tensor<4>| to_f64(&(a.clone() * b.clone())).unwrap().iter().sum::<f64>();
            let (there, back) = (dot(&prediction.eps, &cotangent), dot(&x_t, &back.x_t(&cotangent).unwrap()));
            assert!((there - back).abs() < 1e-9 * there.abs(), "{there} {back}");
        }
    }
}
