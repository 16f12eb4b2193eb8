//! The weight gradient by the transposed algorithm.

use super::transform::{IN, Input, OUT, OutputTransposed, POINTS, WeightTransposed, two_sided};
use super::{OFF, TileLayout, Tiling, transform_tile};
use crate::conv::Geometry;
use crate::layout::{ChannelsLast, Planes};
use crate::parallel::{SharedMut, filled, for_each};
use crate::scratch::Scratch;
use crate::simd::{Kernel, Simd, dispatch};
use crate::tile::{COLS, ColumnsOperands, ROWS, columns_tile};

/// Numbers of transformed image and result gradient held at a time.
const HELD: usize = 1 << 20;
/// Pairs of 8 and 32 channels above which their sums do not fit in the cache together.
const MANY_PAIRS: usize = 128;
/// Groups of 8 channels a task takes together.
const TOGETHER: usize = 4;
/// Numbers of the sums of 8 by 32 channels, all points.
const SUMS: usize = POINTS * POINT;
/// Distance between the sums of two points.
const POINT: usize = ROWS * COLS + OFF;

/// See [`crate::conv::weight_gradient`].
pub(in crate::conv) fn weight_gradient(x: Planes<'_>, dy: &[f32], g: &Geometry) -> Vec<f32> {
    let (oh, ow) = (g.out_height(), g.out_width());
    let tiling = Tiling::new(g.batch, oh, ow);
    let source = ChannelsLast::from_planes(x, g.in_shape(), tiling.padding(g.padding, g.height, g.width, IN));
    let dy = ChannelsLast::from_planes(dy, g.out_shape(), tiling.padding(0, oh, ow, OUT));
    let (groups, panels, total) = (g.inputs.div_ceil(ROWS), g.outputs.div_ceil(COLS), tiling.count());
    let held = (HELD / (POINTS * (g.inputs + g.outputs))).max(64).min(total);
    let numbers = |channels: usize| POINTS * TileLayout::panels(channels, held).point;
    let (mut tiles, mut dy_tiles) = (Scratch::take(numbers(g.inputs)), Scratch::take(numbers(g.outputs)));
    let (tiles, dy_tiles) = (SharedMut(tiles.as_mut_ptr()), SharedMut(dy_tiles.as_mut_ptr()));
    let pairs = groups * panels;
    let in_passing = total <= held && pairs > MANY_PAIRS;
    let mut sums = Scratch::take(if in_passing { 0 } else { pairs * SUMS });
    let sums = SharedMut(sums.as_mut_ptr());
    // SAFETY: tiles are inside the padded images; every pair of channels gets its kernel from one task.
    unsafe {
        filled(g.outputs * g.inputs * 9, |out| {
            for first in (0..total).step_by(held) {
                let count = held.min(total - first);
                let left = TileLayout::panels(g.inputs, count);
                let right = TileLayout::panels(g.outputs, count);
                for_each(count, |tile| {
                    let (to, dy_to) = (tiles.add(tile * left.tile), dy_tiles.add(tile * right.tile));
                    let origin = tiling.region.origin(first + tile);
                    transform_tile(&source, origin, Input, to, left);
                    transform_tile(&dy, origin, OutputTransposed, dy_to, right);
                });
                let add_up = |point: usize, group: usize, panel: usize, sums: *mut f32| {
                    let (at, lane) = (group * ROWS / COLS, group * ROWS % COLS);
                    dispatch(Sums {
                        a: tiles.add(point * left.point + at * left.panel + lane),
                        b: dy_tiles.add(point * right.point + panel * right.panel),
                        count,
                        accumulate: first > 0,
                        sums: sums.add(point * POINT),
                        cols: COLS.min(g.outputs - panel * COLS),
                    });
                };
                if in_passing {
                    // The sums of a few groups stay in the cache until their kernels are made; together the
                    // groups share a pass over the right side.
                    for_each(groups.div_ceil(TOGETHER) * panels, |task| {
                        let (block, panel) = (task / panels, task % panels);
                        let groups = block * TOGETHER..((block + 1) * TOGETHER).min(groups);
                        let mut own = Scratch::take(TOGETHER * SUMS);
                        let own = own.as_mut_ptr();
                        for point in 0..POINTS {
                            for (i, group) in groups.clone().enumerate() {
                                add_up(point, group, panel, own.add(i * SUMS));
                            }
                        }
                        for (i, group) in groups.enumerate() {
                            let sums = own.add(i * SUMS).cast_const();
                            dispatch(Kernels { sums, pitch: COLS, point: POINT, geometry: g, group, panel, out });
                        }
                    });
                } else {
                    // Both sides of a point stay in the cache, the sums need not.
                    for_each(POINTS, |point| {
                        for pair in 0..pairs {
                            add_up(point, pair / panels, pair % panels, sums.add(pair * SUMS));
                        }
                    });
                }
            }
            if !in_passing {
                for_each(pairs, |pair| {
                    let (group, panel) = (pair / panels, pair % panels);
                    let sums = sums.add(pair * SUMS).cast_const();
                    dispatch(Kernels { sums, pitch: COLS, point: POINT, geometry: g, group, panel, out });
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
pub(super) struct Kernels<'a> {
    /// 36 blocks `point` numbers apart, of 8 rows `pitch` numbers apart.
    pub sums: *const f32,
    pub pitch: usize,
    pub point: usize,
    pub geometry: &'a Geometry,
    pub group: usize,
    pub panel: usize,
    pub out: SharedMut,
}

impl Kernel for Kernels<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let g = self.geometry;
        let (first_input, first_output) = (self.group * ROWS, self.panel * COLS);
        let (pitch, point) = (self.pitch, self.point);
        let mut taps = [[0.0f32; COLS]; 9];
        for row in 0..ROWS.min(g.inputs - first_input) {
            for lane in (0..pitch).step_by(S::LANES) {
                let from = self.sums.wrapping_add(row * pitch + lane);
                let rows = std::array::from_fn(|y| from.wrapping_add(y * IN * point));
                // SAFETY: the sums have 36 blocks of `point` numbers, the taps nine lines of COLS.
                unsafe {
                    let to = taps.as_mut_ptr().cast::<f32>().add(lane);
                    two_sided::<S, WeightTransposed, 6, 3>(s, rows, point, to, COLS);
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
