//! The weight gradient by the transposed algorithm.

use super::transform::{IN, Input, OUT, OutputTransposed, POINTS, WeightTransposed, two_sided};
use super::{Tiling, pitch, transform_tiles};
use crate::conv::Geometry;
use crate::layout::ChannelsLast;
use crate::parallel::{Shared, SharedMut, filled, for_each};
use crate::scratch::Scratch;
use crate::simd::{Kernel, Simd, dispatch};
use crate::tile::{COLS, ColumnsOperands, ROWS, columns_tile};

/// Numbers of transformed image and result gradient held at a time.
const HELD: usize = 6 << 20;
/// Numbers of a task's sums: all points of 8 by 32 channels.
const SUMS: usize = POINTS * ROWS * COLS;

/// See [`crate::conv::weight_gradient`].
pub(in crate::conv) fn weight_gradient(x: &[f32], dy: &[f32], g: &Geometry) -> Vec<f32> {
    let (oh, ow) = (g.out_height(), g.out_width());
    let tiling = Tiling::new(g.batch, oh, ow);
    let source = ChannelsLast::from_planes(x, g.in_shape(), tiling.padding(g.padding, g.height, g.width, IN));
    let dy = ChannelsLast::from_planes(dy, g.out_shape(), tiling.padding(0, oh, ow, OUT));
    let (step, dy_step) = (pitch(g.inputs), pitch(g.outputs));
    let (groups, panels, total) = (g.inputs.div_ceil(ROWS), g.outputs.div_ceil(COLS), tiling.count());
    let held = (HELD / (POINTS * (step + dy_step))).max(64).min(total);
    let mut tiles = Scratch::take(POINTS * held * step);
    let mut dy_tiles = Scratch::take(POINTS * held * dy_step);
    // Between chunks of tiles the sums wait in memory; with one chunk they never leave the cache.
    let chunks = total.div_ceil(held);
    let mut waiting = Scratch::take(if chunks > 1 { groups * panels * SUMS } else { 0 });
    let (tiles, dy_tiles) = (SharedMut(tiles.as_mut_ptr()), SharedMut(dy_tiles.as_mut_ptr()));
    let waiting = SharedMut(waiting.as_mut_ptr());
    // SAFETY: the last chunk's tasks write the kernels of all pairs of channels.
    unsafe {
        filled(g.outputs * g.inputs * 9, |out| {
            for chunk in 0..chunks {
                let first = chunk * held;
                let count = held.min(total - first);
                transform_tiles::<Input, IN>(&source, tiling, first, count, tiles);
                transform_tiles::<OutputTransposed, OUT>(&dy, tiling, first, count, dy_tiles);
                let (from, dy_from) = (Shared(tiles.0), Shared(dy_tiles.0));
                for_each(groups * panels, |task| {
                    let (group, panel) = (task / panels, task % panels);
                    let mut own = (chunks == 1).then(|| Scratch::take(SUMS));
                    let sums = match &mut own {
                        Some(own) => own.as_mut_ptr(),
                        None => waiting.add(task * SUMS),
                    };
                    dispatch(Sums {
                        a: from.add(group * ROWS),
                        b: dy_from.add(panel * COLS),
                        count,
                        steps: (step, dy_step),
                        accumulate: chunk > 0,
                        sums,
                    });
                    if chunk + 1 == chunks {
                        dispatch(Kernels { sums, geometry: g, group, panel, out });
                    }
                });
            }
        })
    }
}

/// Sums over tiles, for all points.
struct Sums {
    a: *const f32,
    b: *const f32,
    count: usize,
    steps: (usize, usize),
    accumulate: bool,
    sums: *mut f32,
}

impl Kernel for Sums {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Sums { a, b, count, steps: (a_step, b_step), accumulate, sums } = self;
        for point in 0..POINTS {
            let stretches = [(point * count * a_step, point * count * b_step)];
            let operands = ColumnsOperands { a, b, stretches: &stretches, depth: count, a_step, b_step };
            // SAFETY: both hold `count` steps for each point; the sums are this task's. The last vectors may
            // read into the slack.
            unsafe { columns_tile(s, operands, accumulate, sums.add(point * ROWS * COLS), COLS, COLS) }
        }
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
