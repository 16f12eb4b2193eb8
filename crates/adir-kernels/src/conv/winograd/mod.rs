//! 3x3 convolution with stride 1 by Winograd's F(4x4, 3x3): a quarter of the multiplications.
//!
//! The image is cut into 6 by 6 tiles overlapping by two, the 36 numbers of each transformed, and each of the 36
//! points becomes a product of matrices (tiles by channels). The input gradient is the same convolution with
//! turned weights; the weight gradient is the transposed algorithm. Lanes are channels throughout, so the
//! transforms shuffle nothing, and the products of a group of tiles are transformed back while they are in the
//! cache. Rounding errors are larger than in the direct sum (about 1e-6 relative instead of 2e-7), which is what
//! the switch is for.

mod gradient;
mod transform;

use std::sync::atomic::{AtomicBool, Ordering};

pub(super) use gradient::weight_gradient;

use self::transform::{IN, Input, OUT, Output, POINTS, Weight, two_sided};
use super::Geometry;
use super::pack::{Packed, Purpose};
use crate::layout::{ChannelsLast, Padding, Transpose, transpose};
use crate::parallel::{Shared, SharedMut, filled, for_each};
use crate::scratch::Scratch;
use crate::simd::{Kernel, Simd, dispatch};
use crate::tile::{COLS, Init, ROWS, RowsOperands, rows_tile};

/// Tiles whose products a task keeps, so that the weights of a point serve several rows of the product.
const GROUP: usize = 32;
/// Numbers of transformed image held at a time.
const HELD: usize = 3 << 20;
/// Channels below which the transforms cost more than they save.
const LEAST_CHANNELS: usize = 16;
/// Tiles below which the direct sum, with a quarter of the weights to read, is faster.
const LEAST_TILES: usize = 8;

static ENABLED: AtomicBool = AtomicBool::new(true);

/// Whether convolutions may use Winograd's algorithm; they may unless told otherwise.
///
/// Off, every sum is taken directly, which is slower and rounds less.
pub fn set_winograd(enabled: bool) {
    ENABLED.store(enabled, Ordering::Relaxed);
}

/// Whether this convolution goes this way.
pub(super) fn applies(g: &Geometry) -> bool {
    let tiles = g.batch * g.out_height().div_ceil(OUT) * g.out_width().div_ceil(OUT);
    ENABLED.load(Ordering::Relaxed)
        && (g.kernel, g.stride) == (3, 1)
        && g.padding <= 2
        && g.inputs.min(g.outputs) >= LEAST_CHANNELS
        && tiles >= LEAST_TILES
}

/// Transforms and packs a weight `[out, in, 3, 3]`: the 36 points take the place of the taps.
pub(super) fn pack(weight: &[f32], g: &Geometry, purpose: Purpose) -> Packed {
    let turned = purpose == Purpose::InputGradient;
    let mut packed = Packed::empty(g, purpose, POINTS);
    let (depth, columns) = (packed.depth, packed.columns);
    let to = SharedMut(packed.as_mut_ptr());
    for_each(columns.div_ceil(COLS) * depth, |task| {
        let (panel, k) = (task / depth, task % depth);
        let first = panel * COLS;
        let mut taps = [[0.0f32; COLS]; 9];
        for j in 0..COLS.min(columns - first) {
            let (output, input) = if turned { (k, first + j) } else { (first + j, k) };
            let kernel = &weight[(output * g.inputs + input) * 9..][..9];
            for (tap, line) in taps.iter_mut().enumerate() {
                line[j] = kernel[if turned { 8 - tap } else { tap }];
            }
        }
        // SAFETY: the 36 lines of this task, in the buffer and written by no other task.
        unsafe {
            dispatch(PackKernel { taps: &taps, to: to.add((panel * POINTS * depth + k) * COLS), pitch: depth * COLS })
        }
    });
    packed
}

struct PackKernel<'a> {
    taps: &'a [[f32; COLS]; 9],
    to: *mut f32,
    pitch: usize,
}

impl Kernel for PackKernel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for lane in (0..COLS).step_by(S::LANES) {
            let rows = [0, 3, 6].map(|tap| self.taps[tap][lane..].as_ptr());
            // SAFETY: whoever made it gives room for 36 lines of COLS numbers.
            unsafe { two_sided::<S, Weight, 3, 6>(s, rows, COLS, self.to.add(lane), self.pitch) }
        }
    }
}

/// Tiles of a batch of images, numbered row by row.
#[derive(Clone, Copy)]
struct Tiling {
    rows: usize,
    columns: usize,
    /// Of the result.
    height: usize,
    width: usize,
    batch: usize,
}

impl Tiling {
    fn new(batch: usize, height: usize, width: usize) -> Tiling {
        Tiling { rows: height.div_ceil(OUT), columns: width.div_ceil(OUT), height, width, batch }
    }

    fn count(&self) -> usize {
        self.batch * self.rows * self.columns
    }

    /// Image, and row and column of the first result pixel.
    fn origin(&self, tile: usize) -> (usize, usize, usize) {
        let (image, rest) = (tile / (self.rows * self.columns), tile % (self.rows * self.columns));
        (image, rest / self.columns * OUT, rest % self.columns * OUT)
    }

    /// What zeros an image must have so that every tile is inside, `extra` being the convolution's own.
    fn padding(&self, extra: usize, height: usize, width: usize, side: usize) -> Padding {
        let reach = |tiles: usize, size: usize| (tiles * OUT + side - OUT).saturating_sub(extra + size);
        Padding { top: extra, left: extra, bottom: reach(self.rows, height), right: reach(self.columns, width) }
    }
}

/// Channels rounded up to whole vectors.
fn pitch(channels: usize) -> usize {
    channels.next_multiple_of(16)
}

/// Transforms tiles `first .. first + count` of a channels-last image into `[point][tile][pitch]` with matrix `T`.
fn transform_tiles<T: transform::Matrix<N, IN> + Sync + 'static, const N: usize>(
    source: &ChannelsLast,
    tiling: Tiling,
    first: usize,
    count: usize,
    to: SharedMut,
) {
    let (c, line) = (source.channels, source.width * source.channels);
    let from = source.as_ptr();
    for_each(count, |tile| {
        let (image, y, x) = tiling.origin(first + tile);
        // SAFETY: the source is padded so that every tile is inside; the tile's 36 rows are its own. The last
        // vector of a pixel may read into the next one or the slack, and fills the row up to its pitch.
        unsafe {
            let from = from.add(image * source.image() + y * line + x * c);
            let to = to.add(tile * pitch(c));
            dispatch(TileKernel::<T, N> {
                from,
                line,
                channels: c,
                to,
                pitch: count * pitch(c),
                matrix: std::marker::PhantomData,
            });
        }
    });
}

struct TileKernel<T, const N: usize> {
    from: *const f32,
    line: usize,
    channels: usize,
    to: *mut f32,
    pitch: usize,
    matrix: std::marker::PhantomData<T>,
}

impl<T: transform::Matrix<N, IN>, const N: usize> Kernel for TileKernel<T, N> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for lane in (0..pitch(self.channels)).step_by(S::LANES) {
            let mut rows = [self.from; N];
            // SAFETY: whoever made it keeps the tile inside the source.
            unsafe {
                for (y, row) in rows.iter_mut().enumerate() {
                    *row = self.from.add(y * self.line + lane);
                }
                two_sided::<S, T, N, IN>(s, rows, self.channels, self.to.add(lane), self.pitch);
            }
        }
    }
}

/// The convolution of planes `x`, `[n, depth, h, w]`, with transformed weights; the result is `[n, columns, oh, ow]`.
///
/// `shape` is the shape of `x`, `padding` the zeros on every side.
pub(super) fn convolve(
    x: &[f32],
    shape: [usize; 4],
    weight: &Packed,
    bias: Option<&[f32]>,
    padding: usize,
) -> Vec<f32> {
    let [batch, depth, h, w] = shape;
    let columns = weight.columns;
    let tiling = Tiling::new(batch, h + 2 * padding - 2, w + 2 * padding - 2);
    let source = ChannelsLast::from_planes(x, shape, tiling.padding(padding, h, w, IN));
    let (plane, panels, total) = (tiling.height * tiling.width, columns.div_ceil(COLS), tiling.count());
    let step = pitch(depth);
    let held = (HELD / (POINTS * step)).next_multiple_of(GROUP).min(total.next_multiple_of(ROWS));
    let mut transformed = Scratch::take(POINTS * held * step);
    let tiles = SharedMut(transformed.as_mut_ptr());
    // SAFETY: the tiles cover every pixel, and each group and panel is written by its task.
    unsafe {
        filled(batch * columns * plane, |out| {
            for first in (0..total).step_by(held) {
                let count = held.min(total - first);
                transform_tiles::<Input, IN>(&source, tiling, first, count, tiles);
                let groups = count.div_ceil(GROUP);
                let from = Shared(tiles.0);
                for_each(groups * panels, |task| {
                    let (panel, group) = (task / groups, task % groups);
                    let start = group * GROUP;
                    let channel = panel * COLS;
                    let cols = COLS.min(columns - channel);
                    let mut init = [0.0; COLS];
                    if let Some(bias) = bias {
                        init[..cols].copy_from_slice(&bias[channel..channel + cols]);
                    }
                    dispatch(GroupKernel {
                        tiles: from.add(start * step),
                        point_pitch: count * step,
                        step,
                        count: GROUP.min(count - start),
                        first: first + start,
                        tiling,
                        weight: weight.panel(panel),
                        depth,
                        bias: &init,
                        out,
                        channel,
                        columns,
                        cols,
                    });
                });
            }
        })
    }
}

struct GroupKernel<'a> {
    /// Transformed tiles of this group: point p, tile t at `p * point_pitch + t * step`.
    tiles: *const f32,
    point_pitch: usize,
    step: usize,
    count: usize,
    /// The group's first tile in the tiling.
    first: usize,
    tiling: Tiling,
    weight: *const f32,
    depth: usize,
    bias: &'a [f32; COLS],
    out: SharedMut,
    /// The panel's first channel of all `columns`, and how many it has.
    channel: usize,
    columns: usize,
    cols: usize,
}

impl Kernel for GroupKernel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Tiling { height, width, .. } = self.tiling;
        let plane = height * width;
        // Products [point][tile][COLS], then pixels [row of a tile][tile][column of a tile][COLS].
        let mut scratch = Scratch::take((POINTS + OUT * OUT) * GROUP * COLS);
        let products = scratch.as_mut_ptr();
        let zeros = [0.0; COLS];
        // SAFETY: operands and scratch are laid out as above; a pixel is stored only inside its plane.
        unsafe {
            for point in 0..POINTS {
                for tile in (0..self.count).step_by(ROWS) {
                    let rows = std::array::from_fn(|i| (tile + i).min(self.count - 1) * self.step);
                    let operands = RowsOperands {
                        a: self.tiles.add(point * self.point_pitch),
                        rows: &rows,
                        b: self.weight.add(point * self.depth * COLS),
                        stretches: &[(0, 0)],
                        depth: self.depth,
                    };
                    let to = products.add((point * GROUP + tile) * COLS);
                    rows_tile(s, operands, Init { start: zeros.as_ptr(), pitch: 0 }, to, COLS, self.cols);
                }
            }
            let pixels = products.add(POINTS * GROUP * COLS);
            let row_pitch = GROUP * OUT * COLS;
            for tile in 0..self.count {
                for lane in (0..self.cols).step_by(S::LANES) {
                    let from = products.add(tile * COLS + lane).cast_const();
                    let rows = std::array::from_fn(|y| from.wrapping_add(y * IN * GROUP * COLS));
                    // In place of the first sixteen products, then to where pixels of a row are neighbours.
                    let mut square = [0.0f32; OUT * OUT * 16];
                    two_sided::<S, Output, IN, OUT>(s, rows, GROUP * COLS, square.as_mut_ptr(), S::LANES);
                    let bias = s.load(self.bias.as_ptr().add(lane));
                    for y in 0..OUT {
                        for x in 0..OUT {
                            let value = s.load(square.as_ptr().add((y * OUT + x) * S::LANES));
                            s.store(pixels.add(y * row_pitch + (tile * OUT + x) * COLS + lane), s.add(value, bias));
                        }
                    }
                }
            }
            // Stretches of tiles in one row of the tiling are stretches of pixels.
            let mut tile = 0;
            while tile < self.count {
                let (image, y, x) = self.tiling.origin(self.first + tile);
                let run = (self.tiling.columns - x / OUT).min(self.count - tile);
                let dst = self.out.add(((image * self.columns + self.channel) * self.tiling.height + y) * width + x);
                for row in 0..OUT.min(height - y) {
                    transpose(
                        s,
                        Transpose {
                            src: pixels.add(row * row_pitch + tile * OUT * COLS),
                            src_pitch: COLS,
                            rows: (run * OUT).min(width - x),
                            columns: self.cols,
                            dst: dst.add(row * width),
                            dst_pitch: plane,
                        },
                    );
                }
                tile += run;
            }
        }
    }
}
