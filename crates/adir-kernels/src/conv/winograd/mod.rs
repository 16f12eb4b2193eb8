//! 3x3 convolution with stride 1 by Winograd's F(4x4, 3x3): a quarter of the multiplications.
//!
//! The image is cut into 6 by 6 tiles overlapping by two, the 36 numbers of each transformed, and each of the 36
//! points becomes a product of matrices (tiles by channels). The input gradient is the same convolution with
//! turned weights; the weight gradient is the transposed algorithm. Lanes are channels throughout, so the
//! transforms shuffle nothing, and the products of a group of tiles are transformed back while they are in the
//! cache. Tiles that the lower and the right border cut have groups of their own, with the points that they need. Rounding
//! errors are larger than in the direct sum (about 1e-6 relative instead of 2e-7).

mod gradient;
pub(super) mod low_rank;
mod region;
mod transform;

use std::mem::MaybeUninit;

pub(super) use gradient::weight_gradient;

use self::region::Region;
use self::transform::{IN, Input, InputPart, OUT, Output, OutputPart, POINTS, Transform, Weight, is_used, two_sided};
use super::Geometry;
use super::pack::{Packed, Purpose};
use crate::layout::{ChannelsLast, Padding, Planes, Transpose, transpose};
use crate::machine;
use crate::numbers::Numbers;
use crate::parallel::{Shared, SharedMut, filled, for_each, hand_out};
use crate::scratch::Scratch;
use crate::simd::{Kernel, Simd, dispatch};
use crate::tile::{COLS, Init, ROWS, RowsOperands, Single, rows_tile};

/// Tiles whose products a task keeps, so that the weights of a point serve several rows of the product.
const GROUP: usize = 32;
/// From this many groups on, a task is a whole group; below, a group's panels are tasks too.
const ENOUGH_GROUPS: usize = 8;
/// Added to the distance between points: a power of two would put all 36 in the same few lines of the cache.
const OFF: usize = 16;
/// Distance between the points of a group's products.
const PRODUCTS: usize = GROUP * COLS + OFF;
/// Channels below which the transforms cost more than they save.
const LEAST_CHANNELS: usize = 16;
/// Tiles below which the direct sum, with a quarter of the weights to read, is faster.
const LEAST_TILES: usize = 8;

/// Whether this convolution goes this way.
pub(super) fn applies(g: &Geometry) -> bool {
    let tiles = g.batch * g.out_height().div_ceil(OUT) * g.out_width().div_ceil(OUT);
    machine::current().winograd
        && (g.kernel, g.stride) == (3, 1)
        && g.padding <= 2
        && g.inputs.min(g.outputs) >= LEAST_CHANNELS
        && tiles >= LEAST_TILES
}

/// Transforms and packs a weight `[out, in, 3, 3]`: the 36 points take the place of the taps.
pub(super) fn pack(weight: Numbers<'_>, g: &Geometry, purpose: Purpose) -> Packed {
    let turned = purpose == Purpose::InputGradient;
    let mut packed = Packed::empty(g, purpose, POINTS);
    let (depth, columns) = (packed.depth, packed.columns);
    let to = SharedMut(packed.as_mut_ptr());
    let strips = depth.div_ceil(STRIP);
    for_each(columns.div_ceil(COLS) * strips, |task| {
        let (panel, k) = (task / strips, task % strips * STRIP);
        let first = panel * COLS;
        let count = STRIP.min(depth - k);
        // SAFETY: the lines of these summed channels, in the buffer and written by no other task.
        let to = unsafe { to.add((panel * POINTS * depth + k) * COLS) };
        let columns = COLS.min(columns - first);
        dispatch(PackKernel { weight, inputs: g.inputs, turned, first, columns, k, count, to, pitch: depth * COLS });
    });
    packed
}

/// Summed channels that a task packs.
const STRIP: usize = 16;

struct PackKernel<'a> {
    /// `[out, inputs, 3, 3]`.
    weight: Numbers<'a>,
    inputs: usize,
    /// Whether inputs are columns, and the kernels turned by half a turn.
    turned: bool,
    first: usize,
    columns: usize,
    /// The first of `count` summed channels.
    k: usize,
    count: usize,
    to: *mut f32,
    pitch: usize,
}

impl Kernel for PackKernel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let PackKernel { weight, inputs, turned, first, columns, k, count, to, pitch } = self;
        // Lines of one tap each, with a column in each place. Turned ones come one summed channel at a time and have room
        // behind them, so that whole vectors may be transposed.
        let mut taps = [[0.0f32; COLS]; 9 * STRIP];
        let mut room = MaybeUninit::<[f32; 9 * STRIP * COLS]>::uninit();
        if !turned {
            let lines = [columns, count * 9];
            let (src, src_pitch) = weight.lines((first * inputs + k) * 9, inputs * 9, lines, &mut room);
            let dst = taps.as_mut_ptr().cast();
            let all = Transpose { src, src_pitch, rows: columns, columns: count * 9, dst, dst_pitch: COLS };
            // SAFETY: the kernels of these channels are inside the weight, their lines inside `taps`.
            unsafe { transpose(s, all) };
        }
        for i in 0..count {
            let mut lines = [[0.0f32; COLS]; 9];
            if turned {
                let from = ((k + i) * inputs + first) * 9;
                let wide = if weight.len() - from >= columns * 9 + 7 { 16 } else { 9 };
                let (src, _) = weight.lines(from, 0, [1, columns * 9 + wide - 9], &mut room);
                let dst = taps.as_mut_ptr().cast();
                let own = Transpose { src, src_pitch: 9, rows: columns, columns: wide, dst, dst_pitch: COLS };
                // SAFETY: rows of `wide` numbers nine apart are inside the weight, `wide` lines inside `taps`.
                unsafe { transpose(s, own) };
                for (line, tap) in lines.iter_mut().zip(taps[..9].iter().rev()) {
                    *line = *tap;
                }
            } else {
                lines.copy_from_slice(&taps[i * 9..][..9]);
            }
            for lane in (0..COLS).step_by(S::LANES) {
                let rows = [lines[0][lane..].as_ptr(), lines[3][lane..].as_ptr(), lines[6][lane..].as_ptr()];
                // SAFETY: whoever made it gives room for 36 lines of COLS numbers.
                unsafe { two_sided::<S, Weight, 3, 6>(s, rows, COLS, to.add(i * COLS + lane), pitch) }
            }
        }
    }
}

/// Whole tiles of a batch of images, numbered row by row.
#[derive(Clone, Copy)]
struct Tiling {
    region: Region,
    batch: usize,
}

impl Tiling {
    fn new(batch: usize, height: usize, width: usize) -> Tiling {
        Tiling { region: Region::whole(height, width), batch }
    }

    fn count(&self) -> usize {
        self.batch * self.region.tiles()
    }

    /// What zeros an image must have so that every tile is inside, `extra` being the convolution's own.
    fn padding(&self, extra: usize, height: usize, width: usize, side: usize) -> Padding {
        let reach = |tiles: usize, size: usize| (tiles * OUT + side - OUT).saturating_sub(extra + size);
        Padding {
            top: extra,
            left: extra,
            bottom: reach(self.region.rows, height),
            right: reach(self.region.columns, width),
        }
    }
}

/// Channels rounded up to whole vectors.
fn pitch(channels: usize) -> usize {
    channels.next_multiple_of(16)
}

/// Where a transformed tile goes: number `lane` of point p, tile t lies at
/// `p * point + t * tile + lane / COLS * panel + lane % COLS`.
#[derive(Clone, Copy)]
struct TileLayout {
    point: usize,
    tile: usize,
    panel: usize,
}

impl TileLayout {
    /// The channels of a tile together: rows for [`rows_tile`].
    fn rows(channels: usize, tiles: usize) -> TileLayout {
        TileLayout { point: tiles * pitch(channels) + OFF, tile: pitch(channels), panel: COLS }
    }

    /// The tiles of a panel of channels together: columns for [`crate::tile::columns_tile`].
    fn panels(channels: usize, tiles: usize) -> TileLayout {
        TileLayout { point: channels.next_multiple_of(COLS) * tiles + OFF, tile: COLS, panel: COLS * tiles }
    }
}

/// Transforms a channels-last image's tile, whose first pixel `origin` says: image, row and column.
///
/// # Safety
/// The tile must be inside the source, and `to` have room for it.
unsafe fn transform_tile<T: Transform<N, IN>, const N: usize>(
    source: &ChannelsLast,
    origin: (usize, usize, usize),
    transform: T,
    to: *mut f32,
    layout: TileLayout,
) {
    let (step, line) = (source.step, source.line());
    let (image, y, x) = origin;
    // SAFETY: the caller's promise.
    let from = unsafe { source.as_ptr().add(image * source.image() + y * line + x * step) };
    dispatch(TileKernel { from, step, line, channels: source.channels, to, layout, transform });
}

struct TileKernel<T, const N: usize> {
    from: *const f32,
    step: usize,
    line: usize,
    channels: usize,
    to: *mut f32,
    layout: TileLayout,
    transform: T,
}

impl<T: Transform<N, IN>, const N: usize> Kernel for TileKernel<T, N> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for lane in (0..pitch(self.channels)).step_by(S::LANES) {
            let mut rows = [self.from; N];
            // SAFETY: whoever made it keeps the tile inside the source. The last vector of a pixel may read into
            // the next pixel or the slack, and fills the row up to its pitch.
            unsafe {
                for (y, row) in rows.iter_mut().enumerate() {
                    *row = self.from.add(y * self.line + lane);
                }
                let to = self.to.add(lane / COLS * self.layout.panel + lane % COLS);
                self.transform.of(s, rows, self.step, to, self.layout.point);
            }
        }
    }
}

/// The convolution of planes `x`, `[n, depth, h, w]`, with transformed weights; the result is `[n, columns, oh, ow]`.
///
/// `shape` is the shape of `x`, `padding` the zeros on every side.
pub(super) fn convolve(
    x: Planes<'_>,
    shape: [usize; 4],
    weight: &Packed,
    bias: Option<&[f32]>,
    padding: usize,
) -> Vec<f32> {
    let [batch, _, h, w] = shape;
    let [height, width] = [h, w].map(|side| side + 2 * padding - 2);
    let around = Tiling::new(batch, height, width).padding(padding, h, w, IN);
    convolve_source(&ChannelsLast::from_planes(x, shape, around), [batch, height, width], weight, bias)
}

/// [`convolve`] of an image with the zeros it needs around it, to a result of `[batch, height, width]`.
pub(super) fn convolve_source(
    source: &ChannelsLast,
    [batch, height, width]: [usize; 3],
    weight: &Packed,
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let (depth, columns) = (weight.depth, weight.columns);
    let (plane, panels) = (height * width, columns.div_ceil(COLS));
    let groups = Region::groups(batch, height, width);
    let total = groups.iter().map(|group| group.count).sum();
    let compute = |tiles: *const f32, layout: TileLayout, group: &region::Group, panel: usize, out: SharedMut| {
        let channel = panel * COLS;
        let cols = COLS.min(columns - channel);
        let mut init = [0.0; COLS];
        if let Some(bias) = bias {
            init[..cols].copy_from_slice(&bias[channel..channel + cols]);
        }
        let target = Target { height, width, out, channel, columns, cols };
        dispatch(GroupKernel { tiles, layout, group, weight: weight.panel(panel), depth, bias: &init, target });
    };
    // SAFETY: the groups cover every pixel of every panel; tiles are inside the padded source, and what is
    // transformed is laid out for a group or for all tiles.
    unsafe {
        filled(batch * columns * plane, |out| {
            if groups.len() >= ENOUGH_GROUPS {
                // Each task transforms its own tiles, which then stay in its cache.
                let layout = TileLayout::rows(depth, GROUP);
                hand_out(groups.len(), |group| {
                    let group = &groups[group];
                    let mut own = Scratch::take(POINTS * layout.point);
                    for tile in 0..group.count {
                        group.transform(source, tile, own.as_mut_ptr().add(tile * layout.tile), layout);
                    }
                    for panel in 0..panels {
                        compute(own.as_ptr(), layout, group, panel, out);
                    }
                });
            } else {
                let layout = TileLayout::rows(depth, total);
                let mut all = Scratch::take(POINTS * layout.point);
                let to = SharedMut(all.as_mut_ptr());
                let tiles: Vec<_> =
                    groups.iter().flat_map(|group| (0..group.count).map(move |tile| (group, tile))).collect();
                for_each(total, |i| {
                    let (group, tile) = tiles[i];
                    group.transform(source, tile, to.add(i * layout.tile), layout);
                });
                let from = Shared(all.as_ptr());
                for_each(groups.len() * panels, |task| {
                    let (panel, group) = (task / groups.len(), &groups[task % groups.len()]);
                    compute(from.add(group.before * layout.tile), layout, group, panel, out);
                });
            }
        })
    }
}

impl region::Group {
    /// Transforms one of its tiles.
    ///
    /// # Safety
    /// As [`transform_tile`].
    unsafe fn transform(&self, source: &ChannelsLast, tile: usize, to: *mut f32, layout: TileLayout) {
        let origin = self.region.origin(self.first + tile);
        // SAFETY: the caller's promise.
        unsafe {
            if self.region.is_whole() {
                transform_tile(source, origin, Input, to, layout);
            } else {
                transform_tile(source, origin, self.region.results.map(InputPart), to, layout);
            }
        }
    }
}

/// Where a panel's pixels go.
#[derive(Clone, Copy)]
struct Target {
    height: usize,
    width: usize,
    out: SharedMut,
    /// The panel's first channel of all `columns`, and how many it has.
    channel: usize,
    columns: usize,
    cols: usize,
}

struct GroupKernel<'a> {
    /// The transformed tiles of this group.
    tiles: *const f32,
    layout: TileLayout,
    group: &'a region::Group,
    weight: *const f32,
    depth: usize,
    bias: &'a [f32; COLS],
    target: Target,
}

impl Kernel for GroupKernel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Target { height, width, out, channel, columns, cols } = self.target;
        let region::Group { region, first, count, .. } = *self.group;
        let plane = height * width;
        // Products [point][tile][COLS], then pixels [row of a tile][tile][column of a tile][COLS].
        let mut scratch = Scratch::take(POINTS * PRODUCTS + OUT * OUT * GROUP * COLS);
        let products = scratch.as_mut_ptr();
        let zeros = [0.0; COLS];
        // SAFETY: operands and scratch are laid out as above; a pixel is stored only inside its plane.
        unsafe {
            let [used_rows, used_columns] = region.results;
            for point in 0..POINTS {
                if !is_used(point / IN, used_rows) || !is_used(point % IN, used_columns) {
                    continue;
                }
                for tile in (0..count).step_by(ROWS) {
                    let rows = std::array::from_fn(|i| (tile + i).min(count - 1) * self.layout.tile);
                    let operands = RowsOperands {
                        a: self.tiles.add(point * self.layout.point),
                        rows: &rows,
                        b: self.weight.add(point * self.depth * COLS),
                        stretches: &[(0, 0)],
                        depth: self.depth,
                    };
                    let to = products.add(point * PRODUCTS + tile * COLS);
                    rows_tile::<S, Single>(s, operands, Init { start: zeros.as_ptr(), pitch: 0 }, to, COLS, cols);
                }
            }
            let pixels = products.add(POINTS * PRODUCTS);
            let row_pitch = GROUP * OUT * COLS;
            for tile in 0..count {
                for lane in (0..cols).step_by(S::LANES) {
                    let from = products.add(tile * COLS + lane).cast_const();
                    let rows = std::array::from_fn(|y| from.wrapping_add(y * IN * PRODUCTS));
                    // In place of the first sixteen products, then to where pixels of a row are neighbours.
                    let mut square = [0.0f32; OUT * OUT * 16];
                    let square_at = square.as_mut_ptr();
                    if region.is_whole() {
                        two_sided::<S, Output, IN, OUT>(s, rows, PRODUCTS, square_at, S::LANES);
                    } else {
                        region.results.map(OutputPart).of(s, rows, PRODUCTS, square_at, S::LANES);
                    }
                    let bias = s.load(self.bias.as_ptr().add(lane));
                    for y in 0..OUT {
                        for x in 0..OUT {
                            let value = s.load(square.as_ptr().add((y * OUT + x) * S::LANES));
                            s.store(pixels.add(y * row_pitch + (tile * OUT + x) * COLS + lane), s.add(value, bias));
                        }
                    }
                }
            }
            // Stretches of tiles in one row of the region are stretches of pixels.
            let mut tile = 0;
            while tile < count {
                let (image, y, x) = region.origin(first + tile);
                let run = (region.columns - (first + tile) % region.columns).min(count - tile);
                let dst = out.add(((image * columns + channel) * height + y) * width + x);
                for row in 0..OUT.min(height - y) {
                    transpose(
                        s,
                        Transpose {
                            src: pixels.add(row * row_pitch + tile * OUT * COLS),
                            src_pitch: COLS,
                            rows: (run * OUT).min(width - x),
                            columns: cols,
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
