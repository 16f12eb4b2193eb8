//! Multi-head self-attention, a strip of 32 queries at a time, and its gradients.
//!
//! Tensors arrive with channels before tokens, which suits the transposed score matrix: `S[key][query]` has
//! queries in the vector lanes, so maximum, exponential and sum over keys never cross lanes. A strip of scores
//! (all keys, 32 queries) stays in the cache; the whole score matrix never exists. The backward pass makes the
//! strips again from the kept logarithm of each query's sum.

use crate::QkvOrder;
use crate::layout::{Transpose, transpose};
use crate::parallel::{Shared, SharedMut, filled, for_each};
use crate::scratch::Scratch;
use crate::simd::math::exp;
use crate::simd::{Kernel, Simd, dispatch};
use crate::tile::{COLS, ColumnsOperands, Init, ROWS, RowsOperands, Single, columns_tile, rows_tile};

/// The shapes of one attention, `[batch, 3 * heads * depth, tokens]` to `[batch, heads * depth, tokens]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub batch: usize,
    pub heads: usize,
    pub depth: usize,
    pub tokens: usize,
    pub order: QkvOrder,
}

impl Shape {
    fn tasks(&self) -> usize {
        self.batch * self.heads
    }

    /// Query panels of a head.
    fn panels(&self) -> usize {
        self.tokens.div_ceil(COLS)
    }

    /// Numbers of one head's query, key or value.
    fn plane(&self) -> usize {
        self.depth * self.tokens
    }

    /// Numbers of the result.
    fn results(&self) -> usize {
        self.tasks() * self.plane()
    }

    /// Where query, key and value of a task (a batch entry's head) start.
    fn starts(&self, task: usize) -> [usize; 3] {
        let (image, head) = (task / self.heads, task % self.heads);
        let base = image * 3 * self.heads * self.plane();
        [0, 1, 2].map(|part| {
            base + self.plane()
                * match self.order {
                    QkvOrder::HeadsFirst => head * 3 + part,
                    QkvOrder::QkvFirst => part * self.heads + head,
                }
        })
    }

    /// The factor on query times key: `d^(-1/4)` on each.
    fn scale(&self) -> f32 {
        (1.0 / (self.depth as f64).sqrt()) as f32
    }

    /// Numbers of one operand packed by [`pack`], whatever the width.
    fn packed(&self) -> usize {
        self.panels() * COLS * self.depth
    }

    /// Panels of channels, and numbers of one operand in [`transposed`] form.
    fn channel_panels(&self) -> (usize, usize) {
        let panels = self.depth.div_ceil(COLS);
        (panels, panels * self.panels() * COLS * COLS)
    }
}

/// Copies `[depth, tokens]` to `[tokens / width][depth][width]`, zeros behind the last token.
///
/// # Safety
/// `from` must be readable for the plane, `to` writable for `shape.packed()` numbers.
#[inline(always)]
unsafe fn pack(from: *const f32, shape: &Shape, width: usize, to: *mut f32) {
    for panel in 0..shape.panels() * (COLS / width) {
        let first = panel * width;
        let count = width.min(shape.tokens.saturating_sub(first));
        for row in 0..shape.depth {
            // SAFETY: the caller's promise.
            unsafe {
                let line = to.add((panel * shape.depth + row) * width);
                let source = from.add(row * shape.tokens + first.min(shape.tokens));
                std::ptr::copy_nonoverlapping(source, line, count);
                line.add(count).write_bytes(0, width - count);
            }
        }
    }
}

/// Copies `[depth, tokens]` to `[depth / COLS][tokens, rounded up][COLS]`, zeros behind the last of both.
///
/// # Safety
/// `from` must be readable for the plane, `to` writable for `shape.channel_panels().1` numbers.
#[inline(always)]
unsafe fn transposed<S: Simd>(s: S, from: *const f32, shape: &Shape, to: *mut f32) {
    let (panels, size) = shape.channel_panels();
    // SAFETY: the caller's promise.
    unsafe {
        to.write_bytes(0, size);
        for panel in 0..panels {
            let first = panel * COLS;
            transpose(
                s,
                Transpose {
                    src: from.add(first * shape.tokens),
                    src_pitch: shape.tokens,
                    rows: COLS.min(shape.depth - first),
                    columns: shape.tokens,
                    dst: to.add(panel * shape.panels() * COLS * COLS),
                    dst_pitch: COLS,
                },
            );
        }
    }
}

/// The result, and for each head and query the logarithm of the sum of exponentials.
pub(crate) fn forward(qkv: &[f32], shape: Shape) -> (Vec<f32>, Vec<f32>) {
    assert_eq!(qkv.len(), 3 * shape.results(), "attention: numbers of {shape:?}");
    let packed = shape.packed();
    let mut operands = Scratch::take(2 * shape.tasks() * packed);
    let (from, to) = (Shared(qkv.as_ptr()), SharedMut(operands.as_mut_ptr()));
    for_each(shape.tasks(), |task| {
        let [q, k, _] = shape.starts(task);
        // SAFETY: the starts are inside qkv; each task packs into its own two parts.
        unsafe {
            pack(from.add(q), &shape, COLS, to.add(2 * task * packed));
            pack(from.add(k), &shape, ROWS, to.add((2 * task + 1) * packed));
        }
    });
    let operands = Shared(operands.as_ptr());
    let mut logs = vec![0.0; shape.tasks() * shape.panels() * COLS];
    let logs_to = SharedMut(logs.as_mut_ptr());
    // SAFETY: every query of every head is written by its strip's task.
    let out = unsafe {
        filled(shape.results(), |out| {
            for_each(shape.tasks() * shape.panels(), |strip| {
                let (task, panel) = (strip / shape.panels(), strip % shape.panels());
                let q = operands.add(2 * task * packed + panel * COLS * shape.depth);
                let k = operands.add((2 * task + 1) * packed);
                let value = from.add(shape.starts(task)[2]);
                let out = out.add(task * shape.plane());
                dispatch(Strip { shape: &shape, panel, q, k, value, out, logs: logs_to.add(strip * COLS) });
            });
        })
    };
    (out, logs)
}

struct Strip<'a> {
    shape: &'a Shape,
    panel: usize,
    /// Packed by [`COLS`], this strip's queries.
    q: *const f32,
    /// Packed by [`ROWS`], all keys.
    k: *const f32,
    /// `[depth, tokens]`.
    value: *const f32,
    out: *mut f32,
    logs: *mut f32,
}

impl Kernel for Strip<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Shape { depth, tokens, .. } = *self.shape;
        let mut strip = Scratch::take((tokens.next_multiple_of(ROWS) + ROWS) * COLS);
        let scores = strip.as_mut_ptr();
        let first = self.panel * COLS;
        let count = COLS.min(tokens - first);
        // SAFETY: the operands were packed for this shape, the strip has a line for every key and eight more.
        unsafe {
            products(s, self.k, self.q, self.shape, scores);
            // The result of eight channels, in the lines behind the scores.
            let sums = scores.add(tokens.next_multiple_of(ROWS) * COLS);
            let scale = s.splat(self.shape.scale());
            let mut totals = [0.0f32; COLS];
            for lane in (0..COLS).step_by(S::LANES) {
                let mut most = s.splat(f32::NEG_INFINITY);
                for key in 0..tokens {
                    most = s.max(most, s.load(scores.add(key * COLS + lane)));
                }
                let most = s.mul(most, scale);
                let mut total = s.splat(0.0);
                for key in 0..tokens {
                    let at = scores.add(key * COLS + lane);
                    let weight = exp(s, s.sub(s.mul(s.load(at), scale), most));
                    s.store(at, weight);
                    total = s.add(total, weight);
                }
                s.store(totals.as_mut_ptr().add(lane), total);
                s.store(self.logs.add(lane), most);
            }
            for (lane, total) in totals.iter().enumerate() {
                *self.logs.add(lane) += total.ln();
            }
            let zeros = [0.0; COLS];
            for channel in (0..depth).step_by(ROWS) {
                let rows = std::array::from_fn(|i| (channel + i).min(depth - 1) * tokens);
                let operands =
                    RowsOperands { a: self.value, rows: &rows, b: scores, stretches: &[(0, 0)], depth: tokens };
                rows_tile::<S, Single>(s, operands, Init { start: zeros.as_ptr(), pitch: 0 }, sums, COLS, COLS);
                for i in 0..ROWS.min(depth - channel) {
                    for (lane, total) in totals.iter().enumerate().take(count) {
                        *self.out.add((channel + i) * tokens + first + lane) = *sums.add(i * COLS + lane) / total;
                    }
                }
            }
        }
    }
}

/// `out[key][query] = sum over channels of left[key] right[query]`, for all keys and the queries of a panel.
///
/// # Safety
/// `left` packed by [`ROWS`], `right` a panel packed by [`COLS`]; `out` has a line for each key, rounded up.
#[inline(always)]
unsafe fn products<S: Simd>(s: S, left: *const f32, right: *const f32, shape: &Shape, out: *mut f32) {
    for group in 0..shape.tokens.div_ceil(ROWS) {
        // SAFETY: the caller's promise.
        unsafe {
            let a = left.add(group * ROWS * shape.depth);
            let operands =
                ColumnsOperands { a, b: right, stretches: &[(0, 0)], depth: shape.depth, a_step: ROWS, b_step: COLS };
            columns_tile(s, operands, false, out.add(group * ROWS * COLS), COLS, COLS);
        }
    }
}

/// The gradient of the fused projection from that of the result.
pub(crate) fn backward(qkv: &[f32], out: &[f32], logs: &[f32], dy: &[f32], shape: Shape) -> Vec<f32> {
    assert_eq!(qkv.len(), 3 * shape.results(), "attention: numbers of {shape:?}");
    assert_eq!((out.len(), dy.len()), (shape.results(), shape.results()), "attention: results of {shape:?}");
    assert_eq!(logs.len(), shape.tasks() * shape.panels() * COLS, "attention: sums of {shape:?}");
    let (from, out, dy) = (Shared(qkv.as_ptr()), Shared(out.as_ptr()), Shared(dy.as_ptr()));
    // SAFETY: every head's task writes its three planes in full.
    unsafe {
        filled(qkv.len(), |gradient| {
            for_each(shape.tasks(), |task| {
                let at = task * shape.plane();
                let logs = logs[task * shape.panels() * COLS..].as_ptr();
                let starts = shape.starts(task);
                let qkv = starts.map(|start| from.add(start));
                let gradient = starts.map(|start| gradient.add(start));
                dispatch(Backward { shape: &shape, qkv, out: out.add(at), dy: dy.add(at), logs, gradient });
            });
        })
    }
}

struct Backward<'a> {
    shape: &'a Shape,
    qkv: [*const f32; 3],
    out: *const f32,
    dy: *const f32,
    logs: *const f32,
    gradient: [*mut f32; 3],
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let shape = self.shape;
        let Shape { depth, tokens, .. } = *shape;
        let [q, k, v] = self.qkv;
        let [dq, dk, dv] = self.gradient;
        let lines = tokens.next_multiple_of(ROWS);
        let (channel_panels, channel_size) = shape.channel_panels();
        let packed = shape.packed();
        let mut buffer = Scratch::take(4 * packed + 4 * channel_size + (2 * lines + ROWS) * COLS);
        let start = buffer.as_mut_ptr();
        // SAFETY: the parts below follow one another in the buffer; all operands are packed for this shape.
        unsafe {
            let [packed_q, packed_dy, packed_k, packed_v] = [0, 1, 2, 3].map(|i| start.add(i * packed));
            let rest = start.add(4 * packed);
            let [turned_q, turned_dy, sums_k, sums_v] = [0, 1, 2, 3].map(|i| rest.add(i * channel_size));
            let weights = rest.add(4 * channel_size);
            let slopes = weights.add(lines * COLS);
            let sums = slopes.add(lines * COLS);
            pack(q, shape, COLS, packed_q);
            pack(self.dy, shape, COLS, packed_dy);
            pack(k, shape, ROWS, packed_k);
            pack(v, shape, ROWS, packed_v);
            transposed(s, q, shape, turned_q);
            transposed(s, self.dy, shape, turned_dy);
            sums_k.write_bytes(0, 2 * channel_size);
            let scale = s.splat(shape.scale());
            for panel in 0..shape.panels() {
                let first = panel * COLS;
                let count = COLS.min(tokens - first);
                // With P the weights and dP their gradient: dS = P (dP - sum over channels of dy out).
                products(s, packed_k, packed_q.add(first * depth), shape, weights);
                products(s, packed_v, packed_dy.add(first * depth), shape, slopes);
                let mut inner = [0.0f32; COLS];
                for channel in 0..depth {
                    let row = channel * tokens + first;
                    for (i, inner) in inner.iter_mut().enumerate().take(count) {
                        *inner += *self.dy.add(row + i) * *self.out.add(row + i);
                    }
                }
                for lane in (0..COLS).step_by(S::LANES) {
                    let log = s.load(self.logs.add(first + lane));
                    let inner = s.load(inner.as_ptr().add(lane));
                    for key in 0..tokens {
                        let (weight_at, slope_at) = (weights.add(key * COLS + lane), slopes.add(key * COLS + lane));
                        let weight = exp(s, s.sub(s.mul(s.load(weight_at), scale), log));
                        let slope = s.mul(s.mul(weight, scale), s.sub(s.load(slope_at), inner));
                        s.store(weight_at, weight);
                        s.store(slope_at, slope);
                    }
                }
                let zeros = [0.0; COLS];
                for channel in (0..depth).step_by(ROWS) {
                    let rows = std::array::from_fn(|i| (channel + i).min(depth - 1) * tokens);
                    let operands = RowsOperands { a: k, rows: &rows, b: slopes, stretches: &[(0, 0)], depth: tokens };
                    rows_tile::<S, Single>(s, operands, Init { start: zeros.as_ptr(), pitch: 0 }, sums, COLS, COLS);
                    for i in 0..ROWS.min(depth - channel) {
                        let to = dq.add((channel + i) * tokens + first);
                        std::ptr::copy_nonoverlapping(sums.add(i * COLS).cast_const(), to, count);
                    }
                }
                for channels in 0..channel_panels {
                    let at = channels * shape.panels() * COLS * COLS;
                    let b = at + first * COLS;
                    for key in (0..tokens).step_by(ROWS) {
                        let rows = std::array::from_fn(|i| (key + i) * COLS);
                        for (a, b, sums) in [
                            (slopes, turned_q.add(b), sums_k.add(at + key * COLS)),
                            (weights, turned_dy.add(b), sums_v.add(at + key * COLS)),
                        ] {
                            let operands = RowsOperands { a, rows: &rows, b, stretches: &[(0, 0)], depth: COLS };
                            rows_tile::<S, Single>(s, operands, Init { start: sums, pitch: COLS }, sums, COLS, COLS);
                        }
                    }
                }
            }
            for channels in 0..channel_panels {
                let at = channels * shape.panels() * COLS * COLS;
                let columns = COLS.min(depth - channels * COLS);
                for (sums, to) in [(sums_k, dk), (sums_v, dv)] {
                    let dst = to.add(channels * COLS * tokens);
                    let src = sums.add(at).cast_const();
                    transpose(s, Transpose { src, src_pitch: COLS, rows: tokens, columns, dst, dst_pitch: tokens });
                }
            }
        }
    }
}
