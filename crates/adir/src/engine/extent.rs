//! How much of a restoration is computed at once, and what that takes of memory.

use super::open::Engine;
use super::request::SamplingRequest;
use crate::Result;
use crate::compute::Workers;
use crate::models::{Denoiser, PriorHeader, Tiled, check_tile, tiles_of};
use crate::operator::{Degradation, ImageShape};
use crate::problem::Problem;
use crate::restore::RestorePlan;
use crate::task::Hint;
use crate::tensor::is_cpu;

/// What a run takes of memory at most, in bytes, weights included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Sampling.
    pub sampling: u64,
    /// The adaptation before it, if there is one.
    pub adaptation: Option<u64>,
}

impl Memory {
    /// The larger of the two and a quarter of the other: freed memory is kept, and does not serve all that comes after it
    /// (docs/results/memory.md).
    pub fn most(&self) -> u64 {
        let adaptation = self.adaptation.unwrap_or(0);
        self.sampling.max(adaptation) + self.sampling.min(adaptation) / 4
    }
}

/// Pixels up to which the network sees the whole image, where the memory suffices. A larger one takes longer as a whole
/// than in tiles: attention grows with the square of its pixels, and maps outgrow the caches.
const WHOLE: usize = 768 * 768;
/// Sides of tiles, largest first: the quickest one, and what takes less memory. Below the least, too much of a tile is
/// overlap.
const TILES: [usize; 4] = [512, 384, 256, 192];
/// Bytes for a value of the image while it is sampled in tiles: state, estimate, noise, and what guidance computes in f64.
/// Blurs are solved for in the spectrum, and by iterations; a blur before a down-sampling makes copies.
const BYTES_PER_VALUE: u64 = 60;
const BYTES_PER_COPIED_VALUE: u64 = 75;
const BYTES_PER_BLURRED_VALUE: u64 = 125;

/// How much is computed at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// Side of the tiles that the network sees; absent where it sees the whole image.
    pub tile: Option<usize>,
    /// Their number and length, down and across.
    pub tiles: Option<[(usize, usize); 2]>,
    /// Samples at once, or tiles of one sample.
    pub at_once: usize,
    /// What sampling takes of memory.
    pub memory: u64,
}

impl Extent {
    /// `inner`, computed so.
    pub fn denoiser<'a>(&self, inner: &'a dyn Denoiser) -> Result<Tiled<'a>> {
        let tiled = Tiled::new(inner, self.tile)?;
        if self.tile.is_some() && self.at_once > 1 { tiled.in_parallel() } else { Ok(tiled) }
    }
}

/// Bytes beside the network for a value of an image of which the network sees a tile at a time.
fn bytes_per_value(hint: Hint, composed: bool) -> u64 {
    match hint {
        Hint::Blurs | Hint::Unknown => BYTES_PER_BLURRED_VALUE,
        _ if composed => BYTES_PER_COPIED_VALUE,
        _ => BYTES_PER_VALUE,
    }
}

impl Engine {
    /// What every way to sample an image of that shape takes of memory, at least.
    pub(super) fn least_memory(&self, shape: ImageShape, header: &PriorHeader, problem: &Problem) -> u64 {
        if shape.height.saturating_mul(shape.width) <= WHOLE {
            return 0;
        }
        let multiple = header.info().size_multiple.max(1);
        let tiles = TILES.into_iter().filter(|tile| tile.is_multiple_of(multiple));
        let network =
            tiles.map(|tile| header.network().forward_memory(tile, tile, 1, self.compute().dtype)).min().unwrap_or(0);
        let beside = bytes_per_value(problem.task.hint(), problem.kernel.is_some());
        network.saturating_add(beside.saturating_mul(shape.elements() as u64))
    }

    /// How much is computed at once: one image or tile a thread where these fit into the memory, else one at a time. The
    /// image as a whole where it is small enough, else the largest tiles that fit.
    pub(super) fn extent(
        &self,
        restore: &RestorePlan,
        header: &PriorHeader,
        sampling: &SamplingRequest,
    ) -> Result<Extent> {
        let (canvas, multiple) = (restore.canvas(), header.info().size_multiple.max(1));
        let on_cpu = is_cpu(&self.compute().device);
        let free = self.memory.filter(|_| on_cpu).unwrap_or(u64::MAX);
        let threads = if on_cpu { Workers::available() } else { 1 };
        let longest = canvas.height.max(canvas.width);
        let cut = |tile: usize| tiles_of(tile, multiple, canvas.height, canvas.width);
        let need = |tile: Option<usize>, at_once: usize| {
            let [height, width] = tile.map_or([canvas.height, canvas.width], |tile| cut(tile).map(|(_, side)| side));
            let (network, dtype) = (header.network(), self.compute().dtype);
            let network = match restore.needs_gradient() {
                true => network.gradient_memory(height, width, at_once, dtype),
                false => network.forward_memory(height, width, at_once, dtype),
            };
            let (measurement, values) = (restore.measurement(), canvas.elements() as u64);
            let blurs = matches!(measurement.hint(), Hint::Blurs | Hint::Unknown);
            let composed = matches!(measurement.degradation(), Some(Degradation::Compose(_)));
            // Of a whole image, what guidance computes in f64 is small beside the network's maps, unless several do at once.
            let beside = match tile {
                Some(_) => values * bytes_per_value(measurement.hint(), composed),
                None if blurs && at_once > 1 => at_once as u64 * values * BYTES_PER_VALUE,
                None => 0,
            };
            // Threads that end their tiles at different times keep what others could use: of a backward pass, more.
            let percent = if restore.needs_gradient() { 22 } else { 6 };
            let apart = if tile.is_some() && at_once > 1 { network * percent / 100 } else { 0 };
            network + apart + beside
        };
        let extent = |tile: Option<usize>, at_once: usize| Extent {
            tile,
            tiles: tile.map(cut),
            at_once,
            memory: need(tile, at_once),
        };
        let most = |tile: Option<usize>| match tile {
            None => sampling.samples.min(threads),
            Some(tile) => threads.min(cut(tile).map(|(count, _)| count).iter().product()),
        };
        let sides: Vec<Option<usize>> = match sampling.tile {
            Some(tile) if tile >= longest => vec![None],
            Some(tile) => {
                check_tile(tile, multiple)?;
                vec![Some(tile)]
            }
            None => {
                let whole = canvas.pixels() <= WHOLE;
                let tiles = TILES.into_iter().filter(|tile| tile.is_multiple_of(multiple) && *tile < longest);
                whole.then_some(None).into_iter().chain(tiles.map(Some)).collect()
            }
        };
        let fitting = sides.iter().flat_map(|&tile| [(tile, most(tile)), (tile, 1)]);
        let fitting = fitting.into_iter().find(|&(tile, at_once)| need(tile, at_once) <= free);
        // Where nothing fits, the least is what is refused.
        let (tile, at_once) = fitting.unwrap_or((sides.last().copied().flatten(), 1));
        Ok(extent(tile, at_once))
    }
}
