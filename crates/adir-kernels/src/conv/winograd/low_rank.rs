//! Gradients of low-rank factors: one pass over image and result gradient, a group of tiles at a time.
//!
//! With `h` the convolution of the image by the first factor and `z` the result's gradient led back through the second,
//! the gradient of the first is that of the weight of a convolution to `z`, and the gradient of the second the sum over
//! pixels of result gradient times `h`. Both need the image's transformed tiles, which are made once for a group and
//! stay in the cache: `h` is computed as in the forward pass, the other by the transposed algorithm.

use super::gradient::Kernels;
use super::transform::{IN, Input, OUT, Output, OutputTransposed, POINTS, two_sided};
use super::{GROUP, OFF, TileKernel, TileLayout, Tiling};
use crate::conv::pack::Packed;
use crate::conv::{Geometry, LowRankGradients};
use crate::layout::{ChannelsLast, Padding};
use crate::parallel::{SharedMut, filled, for_each};
use crate::scratch::Scratch;
use crate::simd::{Kernel, Simd, dispatch};
use crate::tile::{COLS, ColumnsOperands, Init, ROWS, RowsOperands, Single, columns_tile, rows_tile};

/// Channels of the image whose transformed tiles are held together.
const HELD: usize = 32;
/// Groups of tiles below which a chunk of them, with sums of its own, is not worth another thread.
const LEAST_GROUPS: usize = 8;
/// Chunks at most. The number depends on the shapes alone, so that results do not depend on threads.
const MOST_CHUNKS: usize = 16;
/// Pixels of a tile of results.
const PIXELS: usize = OUT * OUT;

/// The zeros that an image must have around it for [`gradients`].
pub(in crate::conv) fn padding_of_image(g: &Geometry) -> Padding {
    tiling(g).padding(g.padding, g.height, g.width, IN)
}

/// The zeros that a result's gradient must have around it for [`gradients`] and for the gradient of the image.
pub(in crate::conv) fn padding_of_result(g: &Geometry) -> Padding {
    let (oh, ow) = (g.out_height(), g.out_width());
    let around = 2 - g.padding;
    let input = Tiling::new(g.batch, g.height, g.width).padding(around, oh, ow, IN);
    let own = tiling(g);
    let reach = |tiles: usize, size: usize| tiles * OUT - size;
    Padding {
        bottom: input.bottom.max(reach(own.region.rows, oh)),
        right: input.right.max(reach(own.region.columns, ow)),
        ..input
    }
}

fn tiling(g: &Geometry) -> Tiling {
    Tiling::new(g.batch, g.out_height(), g.out_width())
}

/// Gradients of both factors, for ranks of one panel: `a` is the packed first factor, of which `panel` counts, `b` its part
/// of the second, times the scale, `[out, COLS]`, and `rank` the number of its columns. The gradient of `b` is that
/// without the scale.
///
/// `x` and `dy` have the zeros around them that [`padding_of_image`] and [`padding_of_result`] say.
pub(in crate::conv) fn gradients(
    x: &ChannelsLast,
    dy: &ChannelsLast,
    a: &Packed,
    panel: usize,
    b: &[f32],
    rank: usize,
    g: &Geometry,
) -> LowRankGradients {
    let tiling = tiling(g);
    let (total, groups) = (tiling.count(), tiling.count().div_ceil(GROUP));
    let chunks = (groups / LEAST_GROUPS).clamp(1, MOST_CHUNKS);
    let lanes = if rank <= 16 { 16 } else { COLS };
    let sums = Sums::new(g, lanes);
    let mut all = Scratch::take(chunks * sums.len());
    let to = SharedMut(all.as_mut_ptr());
    for_each(chunks, |chunk| {
        // SAFETY: the chunk's own sums.
        let own = unsafe { to.add(chunk * sums.len()) };
        let mut scratch = Scratch::take(Room::new(lanes).len());
        let room = scratch.as_mut_ptr();
        let mine = (chunk * groups / chunks)..((chunk + 1) * groups / chunks);
        for group in mine.clone() {
            let (first, accumulate) = (group * GROUP, group > mine.start);
            let count = GROUP.min(total - first);
            let a = a.panel(panel);
            dispatch(Group { x, dy, a, b, rank, lanes, g, tiling, first, count, accumulate, room, sums, own });
        }
    });
    let (first, rest) = (to, (1..chunks).map(|chunk| chunk * sums.len()));
    for offset in rest {
        // SAFETY: both are the sums of a chunk, apart from each other.
        let (sum, add) = unsafe {
            let add = std::slice::from_raw_parts(to.add(offset).cast_const(), sums.len());
            (std::slice::from_raw_parts_mut(first.add(0), sums.len()), add)
        };
        for (sum, add) in sum.iter_mut().zip(add) {
            *sum += add;
        }
    }
    let geometry = Geometry { outputs: rank, ..*g };
    // SAFETY: every group of inputs writes its kernels of all ranks; the sums hold them.
    let of_a = unsafe {
        filled(rank * g.inputs * 9, |out| {
            for_each(g.inputs.div_ceil(ROWS), |group| {
                let from = to.add(group * sums.of_group()).cast_const();
                let point = sums.point();
                dispatch(Kernels { sums: from, pitch: lanes, point, geometry: &geometry, group, panel: 0, out });
            });
        })
    };
    let mut of_b = vec![0.0; g.outputs * rank];
    for (output, row) in of_b.chunks_exact_mut(rank).enumerate() {
        // SAFETY: a row of the second factor's sums.
        let from = unsafe { std::slice::from_raw_parts(to.add(sums.b() + output * lanes).cast_const(), rank) };
        row.copy_from_slice(from);
    }
    LowRankGradients { a: of_a, b: of_b }
}

/// Where sums lie: for each group of 8 inputs and each point 8 by `lanes` numbers, then `lanes` for each output.
#[derive(Clone, Copy)]
struct Sums {
    groups: usize,
    outputs: usize,
    lanes: usize,
}

impl Sums {
    fn new(g: &Geometry, lanes: usize) -> Sums {
        Sums { groups: g.inputs.div_ceil(ROWS), outputs: g.outputs.next_multiple_of(ROWS), lanes }
    }

    fn point(&self) -> usize {
        ROWS * self.lanes + OFF
    }

    fn of_group(&self) -> usize {
        POINTS * self.point()
    }

    fn b(&self) -> usize {
        self.groups * self.of_group()
    }

    fn len(&self) -> usize {
        self.b() + self.outputs * self.lanes
    }
}

/// What a group needs of memory: `z`, then `h`, as pixels `[tile][pixel][lanes]`; transformed `z`; transformed channels of
/// the image; products `[point][tile][lanes]`.
struct Room {
    lanes: usize,
    z: TileLayout,
    x: TileLayout,
}

impl Room {
    fn new(lanes: usize) -> Room {
        Room { lanes, z: TileLayout::rows(lanes, GROUP), x: TileLayout::rows(HELD, GROUP) }
    }

    fn z(&self) -> usize {
        GROUP * PIXELS * self.lanes
    }

    fn x(&self) -> usize {
        self.z() + POINTS * self.z.point
    }

    fn products(&self) -> usize {
        self.x() + POINTS * self.x.point
    }

    /// Distance between the products of two points.
    fn point(&self) -> usize {
        GROUP * self.lanes + OFF
    }

    fn len(&self) -> usize {
        self.products() + POINTS * self.point()
    }
}

struct Group<'a> {
    x: &'a ChannelsLast,
    dy: &'a ChannelsLast,
    /// The panel of the packed first factor.
    a: *const f32,
    /// `[out, COLS]`.
    b: &'a [f32],
    rank: usize,
    lanes: usize,
    g: &'a Geometry,
    tiling: Tiling,
    first: usize,
    count: usize,
    /// Whether the sums hold those of other groups.
    accumulate: bool,
    room: *mut f32,
    sums: Sums,
    own: *mut f32,
}

impl Kernel for Group<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Group { x, dy, a, b, rank, lanes, g, tiling, first, count, accumulate, room, sums, own } = self;
        let layout = Room::new(lanes);
        let pixels = room;
        let zeros = [0.0; COLS];
        let none = Init { start: zeros.as_ptr(), pitch: 0 };
        // Where each tile's first pixel lies in the image and in the result's gradient.
        let (mut at_x, mut at_dy) = ([0; GROUP], [0; GROUP]);
        let around = 2 - g.padding;
        for tile in 0..count {
            let (image, row, column) = tiling.region.origin(first + tile);
            at_x[tile] = image * x.image() + row * x.line() + column * x.step;
            at_dy[tile] = image * dy.image() + (row + around) * dy.line() + (column + around) * dy.step;
        }
        // SAFETY: tiles are inside the padded image and result gradient; the room is laid out as `Room` says, the sums as
        // `Sums` says; factors have `COLS` numbers a line.
        unsafe {
            let (z_tiles, x_tiles, products) =
                (room.add(layout.z()), room.add(layout.x()), room.add(layout.products()));
            // z of every pixel, and its tiles.
            for (tile, &at_dy) in at_dy.iter().enumerate().take(count) {
                for half in 0..2 {
                    let mut rows = [0; ROWS];
                    for (i, row) in rows.iter_mut().enumerate() {
                        *row = at_dy + (2 * half + i / OUT) * dy.line() + i % OUT * dy.step;
                    }
                    let operands = RowsOperands {
                        a: dy.as_ptr().get(),
                        rows: &rows,
                        b: b.as_ptr(),
                        stretches: &[(0, 0)],
                        depth: g.outputs,
                    };
                    let to = pixels.add((tile * PIXELS + half * ROWS) * lanes);
                    rows_tile::<S, Single>(s, operands, none, to, lanes, rank);
                }
                for lane in (0..lanes).step_by(S::LANES) {
                    let from = pixels.add(tile * PIXELS * lanes + lane).cast_const();
                    let rows: [*const f32; OUT] = std::array::from_fn(|y| from.wrapping_add(y * OUT * lanes));
                    let to = z_tiles.add(tile * layout.z.tile + lane);
                    two_sided::<S, OutputTransposed, OUT, IN>(s, rows, lanes, to, layout.z.point);
                }
            }
            // The image's channels, some at a time: their part of h, and the first factor's gradient.
            for channel in (0..g.inputs).step_by(HELD) {
                let channels = HELD.min(g.inputs - channel);
                for (tile, &at_x) in at_x.iter().enumerate().take(count) {
                    let from = x.as_ptr().add(at_x + channel);
                    let to = x_tiles.add(tile * layout.x.tile);
                    let (step, line) = (x.step, x.line());
                    TileKernel { from, step, line, channels, to, layout: layout.x, transform: Input }.run(s);
                }
                for point in 0..POINTS {
                    let tiles = x_tiles.add(point * layout.x.point).cast_const();
                    for tile in (0..count).step_by(ROWS) {
                        let rows = std::array::from_fn(|i| (tile + i).min(count - 1) * layout.x.tile);
                        let operands = RowsOperands {
                            a: tiles,
                            rows: &rows,
                            b: a.add((point * g.inputs + channel) * COLS),
                            stretches: &[(0, 0)],
                            depth: channels,
                        };
                        let to = products.add(point * layout.point() + tile * lanes);
                        let init = if channel == 0 { none } else { Init { start: to.cast_const(), pitch: lanes } };
                        rows_tile::<S, Single>(s, operands, init, to, lanes, rank);
                    }
                    for group in 0..channels.div_ceil(ROWS) {
                        let operands = ColumnsOperands {
                            a: tiles.add(group * ROWS),
                            b: z_tiles.add(point * layout.z.point).cast_const(),
                            stretches: &[(0, 0)],
                            depth: count,
                            a_step: layout.x.tile,
                            b_step: layout.z.tile,
                        };
                        let to = own.add((channel / ROWS + group) * sums.of_group() + point * sums.point());
                        columns_tile(s, operands, accumulate, to, lanes, rank);
                    }
                }
            }
            // h of every pixel in place of z; where a tile leaves the image, the result's gradient is zero.
            for tile in 0..count {
                for lane in (0..lanes).step_by(S::LANES) {
                    let from = products.add(tile * lanes + lane).cast_const();
                    let rows: [*const f32; IN] = std::array::from_fn(|y| from.wrapping_add(y * IN * layout.point()));
                    let to = pixels.add(tile * PIXELS * lanes + lane);
                    two_sided::<S, Output, IN, OUT>(s, rows, layout.point(), to, lanes);
                }
            }
            let mut stretches = [(0, 0); GROUP * OUT];
            for (i, stretch) in stretches.iter_mut().enumerate().take(count * OUT) {
                let (tile, row) = (i / OUT, i % OUT);
                *stretch = (at_dy[tile] + row * dy.line(), (tile * PIXELS + row * OUT) * lanes);
            }
            for output in (0..g.outputs).step_by(ROWS) {
                let operands = ColumnsOperands {
                    a: dy.as_ptr().add(output),
                    b: pixels.cast_const(),
                    stretches: &stretches[..count * OUT],
                    depth: OUT,
                    a_step: dy.step,
                    b_step: lanes,
                };
                columns_tile(s, operands, accumulate, own.add(sums.b() + output * lanes), lanes, rank);
            }
        }
    }
}
