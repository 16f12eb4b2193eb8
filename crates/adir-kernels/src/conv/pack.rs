//! Weights in the order the inner loop reads them.

use std::mem::MaybeUninit;

use super::Geometry;
use crate::layout::{Transpose, transpose};
use crate::numbers::Numbers;
use crate::parallel::{Shared, SharedMut, for_each};
use crate::scratch::Scratch;
use crate::simd::{Kernel, Simd, dispatch, round_bf16};
use crate::tile::COLS;

/// What packed weights are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Purpose {
    /// Panels of output channels, summed over input channels.
    Forward,
    /// Panels of input channels, summed over output channels.
    InputGradient,
}

/// `[panel][tap][summed channel][COLS]`, the last panel filled up with zeros.
pub(crate) struct Packed {
    data: Scratch,
    /// Channels summed over, or pairs of them.
    pub depth: usize,
    /// Whether a number's place holds two bfloat16 numbers.
    pub bf16: bool,
    /// Channels produced.
    pub columns: usize,
    taps: usize,
}

impl Packed {
    /// Room for packed weights with `taps` taps, or what takes their place; the contents are arbitrary.
    pub(super) fn empty(g: &Geometry, purpose: Purpose, taps: usize) -> Packed {
        let (depth, columns) = match purpose {
            Purpose::Forward => (g.inputs, g.outputs),
            Purpose::InputGradient => (g.outputs, g.inputs),
        };
        Packed { data: Scratch::take(columns.div_ceil(COLS) * taps * depth * COLS), depth, columns, taps, bf16: false }
    }

    /// The same rounded to bfloat16, two summed channels in a number's place; there must be an even number of them.
    pub(super) fn paired(self) -> Packed {
        assert_eq!(self.depth % 2, 0, "summed channels in pairs");
        let (depth, blocks) = (self.depth / 2, self.columns.div_ceil(COLS) * self.taps);
        let mut data = Scratch::take(blocks * depth * COLS);
        let (from, to) = (Shared(self.data.as_ptr()), SharedMut(data.as_mut_ptr()));
        for_each(blocks, |block| {
            // SAFETY: the block in both buffers; the task is the only one to write it.
            let (from, to) = unsafe {
                let from = std::slice::from_raw_parts(from.add(2 * block * depth * COLS), 2 * depth * COLS);
                (from, std::slice::from_raw_parts_mut(to.add(block * depth * COLS), depth * COLS))
            };
            for (lines, out) in from.chunks_exact(2 * COLS).zip(to.chunks_exact_mut(COLS)) {
                let (low, high) = lines.split_at(COLS);
                for ((out, &low), &high) in out.iter_mut().zip(low).zip(high) {
                    *out = f32::from_bits(u32::from(round_bf16(low)) | u32::from(round_bf16(high)) << 16);
                }
            }
        });
        Packed { data, depth, bf16: true, ..self }
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut f32 {
        self.data.as_mut_ptr()
    }

    /// The start of a panel.
    pub(crate) fn panel(&self, panel: usize) -> *const f32 {
        assert!(panel < self.columns.div_ceil(COLS), "panel {panel} of {} columns", self.columns);
        // SAFETY: inside the buffer, which holds all panels.
        unsafe { self.data.as_ptr().add(panel * self.taps * self.depth * COLS) }
    }

    /// The offset of a tap in a panel.
    pub(crate) fn tap(&self, tap: usize) -> usize {
        tap * self.depth * COLS
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.data.bytes()
    }
}

/// Packs a weight `[out, in, k, k]`.
pub(super) fn pack(weight: Numbers<'_>, g: &Geometry, purpose: Purpose) -> Packed {
    let taps = g.taps();
    assert_eq!(weight.len(), g.outputs * g.inputs * taps, "a weight for {g:?}");
    let mut packed = Packed::empty(g, purpose, taps);
    let (depth, columns) = (packed.depth, packed.columns);
    // Distances in the weight between summed channels and between columns.
    let (depth_step, column_step) = match purpose {
        Purpose::Forward => (taps, g.inputs * taps),
        Purpose::InputGradient => (g.inputs * taps, taps),
    };
    let panels = columns.div_ceil(COLS);
    let to = SharedMut(packed.as_mut_ptr());
    if taps == 1 && purpose == Purpose::Forward {
        for_each(panels, |panel| {
            let first = panel * COLS;
            let rows = COLS.min(columns - first);
            // SAFETY: the task's own panel.
            let to = unsafe {
                let to = to.add(first * depth);
                if rows < COLS {
                    to.write_bytes(0, depth * COLS);
                }
                to
            };
            dispatch(PanelKernel { weight, first: first * depth, rows, depth, to });
        });
        return packed;
    }
    for_each(panels * depth, |task| {
        let (panel, k) = (task / depth, task % depth);
        let first = panel * COLS;
        for tap in 0..taps {
            // SAFETY: the task's line of this tap, inside the buffer and written by no other task.
            let line =
                unsafe { std::slice::from_raw_parts_mut(to.add(((panel * taps + tap) * depth + k) * COLS), COLS) };
            for (j, value) in line.iter_mut().enumerate() {
                let column = first + j;
                *value = if column < columns { weight.get(k * depth_step + column * column_step + tap) } else { 0.0 };
            }
        }
    });
    packed
}

/// A panel of a weight of one tap: `rows` rows of `depth` numbers, turned.
struct PanelKernel<'a> {
    weight: Numbers<'a>,
    first: usize,
    rows: usize,
    depth: usize,
    to: *mut f32,
}

impl Kernel for PanelKernel<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        /// Summed channels that are turned at once.
        const AT_ONCE: usize = 128;
        let PanelKernel { weight, first, rows, depth, to } = self;
        let mut room = MaybeUninit::<[f32; AT_ONCE * COLS]>::uninit();
        for k in (0..depth).step_by(AT_ONCE) {
            let columns = AT_ONCE.min(depth - k);
            let (src, src_pitch) = weight.lines(first + k, depth, [rows, columns], &mut room);
            // SAFETY: the lines are readable; whoever made it gives room for `depth` lines of COLS numbers.
            unsafe { transpose(s, Transpose { src, src_pitch, rows, columns, dst: to.add(k * COLS), dst_pitch: COLS }) }
        }
    }
}
