//! Convolution as products over shifted pixels: any kernel, stride and padding.

use std::marker::PhantomData;

use super::{Geometry, Packed};
use crate::layout::{ChannelsLast, Padding, Planes, Transpose, transpose};
use crate::parallel::{Shared, SharedMut, filled, for_each};
use crate::scratch::Scratch;
use crate::simd::{Kernel, Simd, dispatch};
use crate::tile::{COLS, ColumnsOperands, Init, Pair, Product, ROWS, RowsOperands, Single, columns_tile, rows_tile};

/// Pixels a task computes, for one panel of channels.
const BLOCK: usize = 64;
/// Steps of a weight gradient between visits to its accumulators, so that both operands stay in the cache.
const GRADIENT_STEPS: usize = 1024;

/// A rectangle of result pixels, the source pixel each starts from, and the taps they share.
struct Grid {
    rows: usize,
    columns: usize,
    /// Source offset of the first pixel, and what a row and a column down add to it.
    source: (usize, usize, usize),
    /// The same in a plane of the result.
    target: (usize, usize, usize),
    /// For each tap, what it adds to the source offset and where it lies in a panel.
    taps: Vec<(usize, usize)>,
}

/// Planes as a source for products with `weight`, whose precision it takes.
fn source_for(weight: &Packed, planes: Planes<'_>, shape: [usize; 4], padding: Padding) -> ChannelsLast {
    let source = ChannelsLast::from_planes(planes, shape, padding);
    if weight.bf16 { source.paired() } else { source }
}

/// See [`super::forward`].
pub(super) fn forward(x: Planes<'_>, weight: &Packed, bias: Option<&[f32]>, g: &Geometry) -> Vec<f32> {
    let source = source_for(weight, x, g.in_shape(), Padding::same(g.padding));
    let (c, line) = (source.step, source.line());
    let taps = (0..g.taps()).map(|tap| (tap / g.kernel * line + tap % g.kernel * c, weight.tap(tap))).collect();
    let grid = Grid {
        rows: g.out_height(),
        columns: g.out_width(),
        source: (0, g.stride * line, g.stride * c),
        target: (0, g.out_width(), 1),
        taps,
    };
    let plane = g.out_height() * g.out_width();
    // SAFETY: the one grid covers the whole plane.
    unsafe { filled(g.batch * g.outputs * plane, |out| convolve(&source, weight, bias, &grid, g.batch, plane, out)) }
}

/// See [`super::input_gradient`].
pub(super) fn input_gradient(dy: &[f32], weight: &Packed, g: &Geometry) -> Vec<f32> {
    let (s, k) = (g.stride, g.kernel);
    // Input position y gathers output position q - j through tap r + j s, where y + padding = q s + r.
    let reach = (k - 1) / s;
    let last = |size: usize, out: usize| ((size - 1 + g.padding) / s).saturating_sub(out - 1);
    let padding = Padding {
        top: reach,
        bottom: last(g.height, g.out_height()),
        left: reach,
        right: last(g.width, g.out_width()),
    };
    let source = source_for(weight, dy.into(), g.out_shape(), padding);
    let (c, line) = (source.step, source.line());
    let plane = g.height * g.width;
    // For a remainder r: the taps (offset back, tap), the first position, its q, and how many there are.
    let class = |r: usize, size: usize| {
        let first = (r + s - g.padding % s) % s;
        let taps: Vec<(usize, usize)> = (r..k).step_by(s).map(|tap| ((tap - r) / s, tap)).collect();
        (taps, first, (first + g.padding) / s, size.saturating_sub(first).div_ceil(s))
    };
    // SAFETY: every position has one remainder in each direction, so the grids cover the plane.
    unsafe {
        filled(g.batch * g.inputs * plane, |out| {
            for ry in 0..s {
                for rx in 0..s {
                    let (taps_y, y0, qy, rows) = class(ry, g.height);
                    let (taps_x, x0, qx, columns) = class(rx, g.width);
                    let mut taps = Vec::with_capacity(taps_y.len() * taps_x.len());
                    for &(jy, ky) in &taps_y {
                        for &(jx, kx) in &taps_x {
                            taps.push(((reach - jy) * line + (reach - jx) * c, weight.tap(ky * k + kx)));
                        }
                    }
                    let grid = Grid {
                        rows,
                        columns,
                        source: (qy * line + qx * c, line, c),
                        target: (y0 * g.width + x0, s * g.width, s),
                        taps,
                    };
                    convolve(&source, weight, None, &grid, g.batch, plane, out);
                }
            }
        })
    }
}

/// Computes the pixels of a grid, all images and channels; `out` has planes of `plane` numbers.
fn convolve(
    source: &ChannelsLast,
    weight: &Packed,
    bias: Option<&[f32]>,
    grid: &Grid,
    batch: usize,
    plane: usize,
    out: SharedMut,
) {
    let (pixels, columns) = (grid.rows * grid.columns, weight.columns);
    let (blocks, panels) = (pixels.div_ceil(BLOCK), columns.div_ceil(COLS));
    let from = source.as_ptr();
    for_each(panels * batch * blocks, |task| {
        let (panel, image, block) = (task / (batch * blocks), task / blocks % batch, task % blocks);
        let first_channel = panel * COLS;
        let cols = COLS.min(columns - first_channel);
        let mut init = [0.0; COLS];
        if let Some(bias) = bias {
            init[..cols].copy_from_slice(&bias[first_channel..first_channel + cols]);
        }
        let first = block * BLOCK;
        let count = BLOCK.min(pixels - first);
        let (mut rows, mut targets) = ([0; BLOCK], [0; BLOCK]);
        for i in 0..BLOCK {
            // Beyond the last pixel it is computed again and not stored.
            let pixel = first + i.min(count - 1);
            let (y, x) = (pixel / grid.columns, pixel % grid.columns);
            rows[i] = image * source.image() + grid.source.0 + y * grid.source.1 + x * grid.source.2;
            targets[i] = grid.target.0 + y * grid.target.1 + x * grid.target.2;
        }
        // SAFETY: the channels of this panel, in planes no other task of this panel and block touches.
        let planes = unsafe { out.add((image * columns + first_channel) * plane) };
        let block = Block {
            source: from.get(),
            rows: &rows,
            taps: &grid.taps,
            depth: weight.depth,
            panel: weight.panel(panel),
            init: &init,
            targets: &targets[..count],
            contiguous: targets[count - 1] - targets[0] == count - 1,
            planes,
            plane,
            cols,
        };
        match weight.bf16 {
            true => dispatch(BlockKernel { block, kind: PhantomData::<Pair> }),
            false => dispatch(BlockKernel { block, kind: PhantomData::<Single> }),
        }
    });
}

struct Block<'a> {
    source: *const f32,
    rows: &'a [usize; BLOCK],
    taps: &'a [(usize, usize)],
    depth: usize,
    panel: *const f32,
    init: &'a [f32; COLS],
    targets: &'a [usize],
    contiguous: bool,
    planes: *mut f32,
    plane: usize,
    cols: usize,
}

struct BlockKernel<'a, P> {
    block: Block<'a>,
    kind: PhantomData<P>,
}

impl<P: Product> Kernel for BlockKernel<'_, P> {
    type Output = ();
    const BF16: bool = P::BF16;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let this = self.block;
        let count = this.targets.len();
        let mut pixels = [[0.0f32; COLS]; BLOCK];
        let out: *mut f32 = pixels.as_mut_ptr().cast();
        // SAFETY: rows and taps were made to stay inside the padded source, targets inside a plane.
        unsafe {
            for (i, rows) in this.rows.as_chunks::<ROWS>().0.iter().enumerate().take(count.div_ceil(ROWS)) {
                let operands =
                    RowsOperands { a: this.source, rows, b: this.panel, stretches: this.taps, depth: this.depth };
                let init = Init { start: this.init.as_ptr(), pitch: 0 };
                rows_tile::<S, P>(s, operands, init, out.add(i * ROWS * COLS), COLS, this.cols);
            }
            if this.contiguous {
                let dst = this.planes.add(this.targets[0]);
                let (src, rows, columns) = (out.cast_const(), count, this.cols);
                transpose(s, Transpose { src, src_pitch: COLS, rows, columns, dst, dst_pitch: this.plane });
            } else {
                for j in 0..this.cols {
                    for (i, &target) in this.targets.iter().enumerate() {
                        *this.planes.add(j * this.plane + target) = *out.add(i * COLS + j);
                    }
                }
            }
        }
    }
}

/// See [`super::weight_gradient`]; the source is padded already, `dy` is not padded.
pub(super) fn weight_gradient(source: &ChannelsLast, dy: &ChannelsLast, g: &Geometry) -> Vec<f32> {
    let (taps, panels, groups) = (g.taps(), g.outputs.div_ceil(COLS), g.inputs.div_ceil(ROWS));
    let (oh, ow) = (g.out_height(), g.out_width());
    let line = source.line();
    // One stretch is a row of the result: where it starts in the source and in dy.
    let stretches: Vec<(usize, usize)> = (0..g.batch * oh)
        .map(|row| (row / oh * source.image() + row % oh * g.stride * line, row * dy.line()))
        .collect();
    // [panel][tap][input][COLS], inputs rounded up.
    let tile = ROWS * COLS;
    let mut sums = Scratch::take(panels * taps * groups * tile);
    let (a, b, to) = (source.as_ptr(), dy.as_ptr(), SharedMut(sums.as_mut_ptr()));
    for (chunk, stretches) in stretches.chunks(GRADIENT_STEPS.div_ceil(ow)).enumerate() {
        for_each(panels * taps * groups, |task| {
            let (panel, tap, group) = (task / (taps * groups), task / groups % taps, task % groups);
            // SAFETY: the offsets stay inside both buffers; the tile belongs to this task.
            unsafe {
                let a = a.add(tap / g.kernel * line + tap % g.kernel * source.step + group * ROWS);
                dispatch(GradientKernel {
                    a,
                    b: b.add(panel * COLS),
                    stretches,
                    depth: ow,
                    a_step: g.stride * source.step,
                    b_step: dy.step,
                    accumulate: chunk > 0,
                    out: to.add(task * tile),
                    cols: COLS.min(g.outputs - panel * COLS),
                });
            }
        });
    }
    let from = Shared(sums.as_ptr());
    // SAFETY: every weight is written: a task for each panel of outputs, and all its inputs and taps.
    unsafe {
        filled(g.outputs * g.inputs * taps, |out| {
            for_each(panels, |panel| {
                let columns = COLS.min(g.outputs - panel * COLS);
                let src = from.add(panel * taps * groups * tile);
                let dst = out.add(panel * COLS * g.inputs * taps);
                if taps == 1 {
                    let (src_pitch, dst_pitch) = (COLS, g.inputs);
                    dispatch(Transpose { src, src_pitch, rows: g.inputs, columns, dst, dst_pitch });
                    return;
                }
                for column in 0..columns {
                    for input in 0..g.inputs {
                        for tap in 0..taps {
                            let value = *src.add((tap * groups * ROWS + input) * COLS + column);
                            *dst.add((column * g.inputs + input) * taps + tap) = value;
                        }
                    }
                }
            });
        })
    }
}

struct GradientKernel<'a> {
    a: *const f32,
    b: *const f32,
    stretches: &'a [(usize, usize)],
    depth: usize,
    a_step: usize,
    b_step: usize,
    accumulate: bool,
    out: *mut f32,
    cols: usize,
}

impl Kernel for GradientKernel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let GradientKernel { a, b, stretches, depth, a_step, b_step, accumulate, out, cols } = self;
        let operands = ColumnsOperands { a, b, stretches, depth, a_step, b_step };
        // SAFETY: whoever made it keeps the offsets inside the buffers and their slack.
        unsafe { columns_tile(s, operands, accumulate, out, COLS, cols) }
    }
}
