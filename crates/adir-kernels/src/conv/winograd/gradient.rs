//! The weight gradient by the transposed algorithm.

use super::transform::{IN, Input, OUT, OutputTransposed, POINTS, WeightTransposed, two_sided};
use super::{TileLayout, Tiling, transform_tile};
use crate::conv::Geometry;
use crate::layout::ChannelsLast;
use crate::parallel::{SharedMut, filled, for_each};
use crate::scratch::Scratch;
use crate::simd::{Kernel, Simd, dispatch};
use crate::tile::{COLS, ColumnsOperands, ROWS, columns_tile};

/// Numbers of transformed image and result gradient held at a time.
const HELD: usize = 6 << 20;
/// Numbers of the sums of 8 by 32 channels, all points.
const SUMS: usize = POINTS * ROWS * COLS;

/// See [`crate::conv::weight_gradient`].
pub(in crate::conv) fn weight_gradient(x: &[f32], dy: &[f32], g: &Geometry) -> Vec<f32> {
    let (oh, ow) = (g.out_height(), g.out_width());
    let tiling = Tiling::new(g.batch, oh, ow);
    let source = ChannelsLast::from_planes(x, g.in_shape(), tiling.padding(g.padding, g.height, g.width, IN));
    let dy = ChannelsLast::from_planes(dy, g.out_shape(), tiling.padding(0, oh, ow, OUT));
    let (groups, panels, total) = (g.inputs.div_ceil(ROWS), g.outputs.div_ceil(COLS), tiling.count());
    // Tasks take several groups where that leaves enough of them: they share a pass over the right side.
    let together = if groups * panels >= 64 { 4 } else { 1 };
    let blocks = groups.div_ceil(together);
    let held = (HELD / (POINTS * (g.inputs + g.outputs))).max(64).min(total);
    let numbers = |channels: usize| POINTS * TileLayout::panels(channels, held).point;
    let (mut tiles, mut dy_tiles) = (Scratch::take(numbers(g.inputs)), Scratch::take(numbers(g.outputs)));
    let mut sums = Scratch::take(groups * panels * SUMS);
    let (tiles, dy_tiles) = (SharedMut(tiles.as_mut_ptr()), SharedMut(dy_tiles.as_mut_ptr()));
    let sums = SharedMut(sums.as_mut_ptr());
    let chunks = total.div_ceil(held);
    // SAFETY: tiles are inside the padded images; the last chunk's tasks write the kernels of all channels.
    unsafe {
        filled(g.outputs * g.inputs * 9, |out| {
            for chunk in 0..chunks {
                let first = chunk * held;
                let count = held.min(total - first);
                let left = TileLayout::panels(g.inputs, count);
                let right = TileLayout::panels(g.outputs, count);
                for_each(count, |tile| {
                    let (to, dy_to) = (tiles.add(tile * left.tile), dy_tiles.add(tile * right.tile));
                    transform_tile::<Input, IN>(&source, tiling, first + tile, to, left);
                    transform_tile::<OutputTransposed, OUT>(&dy, tiling, first + tile, dy_to, right);
                });
                for_each(blocks * panels, |task| {
                    let (block, panel) = (task / panels, task % panels);
                    let groups = block * together..((block + 1) * together).min(groups);
                    for point in 0..POINTS {
                        for group in groups.clone() {
                            let (at, lane) = (group * ROWS / COLS, group * ROWS % COLS);
                            dispatch(Sums {
                                a: tiles.add(point * left.point + at * left.panel + lane),
                                b: dy_tiles.add(point * right.point + panel * right.panel),
                                count,
                                accumulate: chunk > 0,
                                sums: sums.add((group * panels + panel) * SUMS + point * ROWS * COLS),
                                cols: COLS.min(g.outputs - panel * COLS),
                            });
                        }
                    }
                    if chunk + 1 == chunks {
                        for group in groups {
                            let sums = sums.add((group * panels + panel) * SUMS);
                            dispatch(Kernels { sums, geometry: g, group, panel, out });
                        }
                    }
                });
            }
        })
    }
}

/// Sums over tiles at a point, for 8 by 32 channels.
struct Sums {
    a: *const f32,
    b: *const f32,
    count: usize,
    accumulate: bool,
    sums: *mut f32,
    cols: usize,
}

impl Kernel for Sums {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Sums { a, b, count, accumulate, sums, cols } = self;
        let operands = ColumnsOperands { a, b, stretches: &[(0, 0)], depth: count, a_step: COLS, b_step: COLS };
        // SAFETY: both are panels of `count` steps; the sums are this task's.
        unsafe { columns_tile(s, operands, accumulate, sums, COLS, cols) }
    }
}

/// From sums to 3 by 3 kernels.
struct Kernels<'a> {
    sums: *const f32,
    geometry: &'a Geometry,
    group: usize,
    panel: usize,
    out: SharedMut,
}

impl Kernel for Kernels<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let g = self.geometry;
        let (first_input, first_output) = (self.group * ROWS, self.panel * COLS);
        let mut taps = [[0.0f32; COLS]; 9];
        for row in 0..ROWS.min(g.inputs - first_input) {
            for lane in (0..COLS).step_by(S::LANES) {
                let from = self.sums.wrapping_add(row * COLS + lane);
                let rows = std::array::from_fn(|y| from.wrapping_add(y * IN * ROWS * COLS));
                // SAFETY: the sums have 36 blocks of ROWS by COLS, the taps nine lines of COLS.
                unsafe {
                    let to = taps.as_mut_ptr().cast::<f32>().add(lane);
                    two_sided::<S, WeightTransposed, 6, 3>(s, rows, ROWS * COLS, to, COLS);
                }
            }
            for j in 0..COLS.min(g.outputs - first_output) {
                let at = ((first_output + j) * g.inputs + first_input + row) * 9;
                for (tap, line) in taps.iter().enumerate() {
                    // SAFETY: the kernel of this pair of channels, which is this task's.
                    unsafe { *self.out.add(at + tap) = line[j] };
                }
            }
        }
    }
}
