//! Multi-head attention, a strip of 32 queries at a time, and its gradients.
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

/// The shapes of one attention; the result is `[batch, heads * depth, queries]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub batch: usize,
    pub heads: usize,
    pub depth: usize,
    pub queries: usize,
    pub keys: usize,
}

impl Shape {
    fn tasks(&self) -> usize {
        self.batch * self.heads
    }

    /// Query panels of a head.
    fn panels(&self) -> usize {
        self.queries.div_ceil(COLS)
    }

    /// Numbers of one head's queries, or of its result.
    fn plane(&self) -> usize {
        self.depth * self.queries
    }

    /// Numbers of the result.
    fn results(&self) -> usize {
        self.tasks() * self.plane()
    }

    /// The factor on query times key: `d^(-1/4)` on each.
    fn scale(&self) -> f32 {
        (1.0 / (self.depth as f64).sqrt()) as f32
    }

    /// Numbers of `tokens` of one head packed by [`pack`], whatever the width.
    fn packed(&self, tokens: usize) -> usize {
        tokens.next_multiple_of(COLS) * self.depth
    }

    /// Numbers of a panel of channels of `tokens`, and of all of them, in [`transposed`] form.
    fn turned(&self, tokens: usize) -> (usize, usize) {
        let panel = tokens.next_multiple_of(COLS) * COLS;
        (panel, self.depth.div_ceil(COLS) * panel)
    }
}

/// Queries, keys and values.
#[derive(Clone, Copy)]
pub(crate) enum Qkv<'a> {
    /// One above the other, `[batch, 3 * heads * depth, tokens]`.
    Fused(&'a [f32], QkvOrder),
    /// `[batch, heads * depth, queries]`, and twice `[batch, heads * depth, keys]`.
    Apart([&'a [f32]; 3]),
}

impl<'a> Qkv<'a> {
    fn slices(&self) -> Vec<&'a [f32]> {
        match *self {
            Self::Fused(qkv, _) => vec![qkv],
            Self::Apart(parts) => parts.to_vec(),
        }
    }

    fn check(&self, shape: &Shape) {
        let keys = shape.tasks() * shape.depth * shape.keys;
        let expected = match self {
            Self::Fused(..) => vec![shape.results() + 2 * keys],
            Self::Apart(_) => vec![shape.results(), keys, keys],
        };
        let found: Vec<_> = self.slices().iter().map(|part| part.len()).collect();
        assert_eq!(found, expected, "attention: numbers of {shape:?}");
    }

    /// In which slice, and where in it, queries, keys and values of a task (a batch entry's head) start.
    fn starts(&self, shape: &Shape, task: usize) -> [(usize, usize); 3] {
        let keys = task * shape.depth * shape.keys;
        match self {
            Self::Apart(_) => [(0, task * shape.plane()), (1, keys), (2, keys)],
            Self::Fused(_, order) => {
                let (image, head) = (task / shape.heads, task % shape.heads);
                let base = image * 3 * shape.heads;
                [0, 1, 2].map(|part| {
                    let place = match order {
                        QkvOrder::HeadsFirst => head * 3 + part,
                        QkvOrder::QkvFirst => part * shape.heads + head,
                    };
                    (0, (base + place) * shape.plane())
                })
            }
        }
    }
}

/// Copies `[depth, tokens]` to `[tokens / width][depth][width]`, zeros behind the last token.
///
/// # Safety
/// `from` must be readable for the plane, `to` writable for `shape.packed(tokens)` numbers.
#[inline(always)]
unsafe fn pack(from: *const f32, shape: &Shape, tokens: usize, width: usize, to: *mut f32) {
    for panel in 0..tokens.next_multiple_of(COLS) / width {
        let first = panel * width;
        let count = width.min(tokens.saturating_sub(first));
        for row in 0..shape.depth {
            // SAFETY: the caller's promise.
            unsafe {
                let line = to.add((panel * shape.depth + row) * width);
                let source = from.add(row * tokens + first.min(tokens));
                std::ptr::copy_nonoverlapping(source, line, count);
                line.add(count).write_bytes(0, width - count);
            }
        }
    }
}

/// Copies `[depth, tokens]` to `[depth / COLS][tokens, rounded up][COLS]`, zeros behind the last of both.
///
/// # Safety
/// `from` must be readable for the plane, `to` writable for `shape.turned(tokens).1` numbers.
#[inline(always)]
unsafe fn transposed<S: Simd>(s: S, from: *const f32, shape: &Shape, tokens: usize, to: *mut f32) {
    let (line, size) = shape.turned(tokens);
    // SAFETY: the caller's promise.
    unsafe {
        to.write_bytes(0, size);
        for panel in 0..size / line.max(1) {
            let first = panel * COLS;
            transpose(
                s,
                Transpose {
                    src: from.add(first * tokens),
                    src_pitch: tokens,
                    rows: COLS.min(shape.depth - first),
                    columns: tokens,
                    dst: to.add(panel * line),
                    dst_pitch: COLS,
                },
            );
        }
    }
}

/// The result, and for each head and query the logarithm of the sum of exponentials.
pub(crate) fn forward(qkv: Qkv<'_>, shape: Shape) -> (Vec<f32>, Vec<f32>) {
    qkv.check(&shape);
    let (queries, keys) = (shape.packed(shape.queries), shape.packed(shape.keys));
    let mut operands = Scratch::take(shape.tasks() * (queries + keys));
    let from: Vec<_> = qkv.slices().iter().map(|part| Shared(part.as_ptr())).collect();
    let to = SharedMut(operands.as_mut_ptr());
    for_each(shape.tasks(), |task| {
        let [q, k, _] = qkv.starts(&shape, task);
        // SAFETY: the starts are inside their slices; each task packs into its own two parts.
        unsafe {
            let to = to.add(task * (queries + keys));
            pack(from[q.0].add(q.1), &shape, shape.queries, COLS, to);
            pack(from[k.0].add(k.1), &shape, shape.keys, ROWS, to.add(queries));
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
                let operands = operands.add(task * (queries + keys));
                let (q, k) = (operands.add(panel * COLS * shape.depth), operands.add(queries));
                let [_, _, value] = qkv.starts(&shape, task);
                let value = from[value.0].add(value.1);
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
    /// `[depth, keys]`.
    value: *const f32,
    out: *mut f32,
    logs: *mut f32,
}

impl Kernel for Strip<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Shape { depth, queries, keys, .. } = *self.shape;
        let mut strip = Scratch::take((keys.next_multiple_of(ROWS) + ROWS) * COLS);
        let scores = strip.as_mut_ptr();
        let first = self.panel * COLS;
        let count = COLS.min(queries - first);
        // SAFETY: the operands were packed for this shape, the strip has a line for every key and eight more.
        unsafe {
            products(s, self.k, self.q, self.shape, scores);
            // The result of eight channels, in the lines behind the scores.
            let sums = scores.add(keys.next_multiple_of(ROWS) * COLS);
            let scale = s.splat(self.shape.scale());
            let mut totals = [0.0f32; COLS];
            for lane in (0..COLS).step_by(S::LANES) {
                let mut most = s.splat(f32::NEG_INFINITY);
                for key in 0..keys {
                    most = s.max(most, s.load(scores.add(key * COLS + lane)));
                }
                let most = s.mul(most, scale);
                let mut total = s.splat(0.0);
                for key in 0..keys {
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
                let rows = std::array::from_fn(|i| (channel + i).min(depth - 1) * keys);
                let operands =
                    RowsOperands { a: self.value, rows: &rows, b: scores, stretches: &[(0, 0)], depth: keys };
                rows_tile::<S, Single>(s, operands, Init { start: zeros.as_ptr(), pitch: 0 }, sums, COLS, COLS);
                for i in 0..ROWS.min(depth - channel) {
                    for (lane, total) in totals.iter().enumerate().take(count) {
                        *self.out.add((channel + i) * queries + first + lane) = *sums.add(i * COLS + lane) / total;
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
    for group in 0..shape.keys.div_ceil(ROWS) {
        // SAFETY: the caller's promise.
        unsafe {
            let a = left.add(group * ROWS * shape.depth);
            let operands =
                ColumnsOperands { a, b: right, stretches: &[(0, 0)], depth: shape.depth, a_step: ROWS, b_step: COLS };
            columns_tile(s, operands, false, out.add(group * ROWS * COLS), COLS, COLS);
        }
    }
}

/// The gradients of the slices of `qkv` from that of the result.
pub(crate) fn backward(qkv: Qkv<'_>, out: &[f32], logs: &[f32], dy: &[f32], shape: Shape) -> Vec<Vec<f32>> {
    qkv.check(&shape);
    assert_eq!((out.len(), dy.len()), (shape.results(), shape.results()), "attention: results of {shape:?}");
    assert_eq!(logs.len(), shape.tasks() * shape.panels() * COLS, "attention: sums of {shape:?}");
    let slices = qkv.slices();
    let mut gradients: Vec<_> = slices.iter().map(|part| vec![0.0; part.len()]).collect();
    let from: Vec<_> = slices.iter().map(|part| Shared(part.as_ptr())).collect();
    let to: Vec<_> = gradients.iter_mut().map(|part| SharedMut(part.as_mut_ptr())).collect();
    let (out, dy) = (Shared(out.as_ptr()), Shared(dy.as_ptr()));
    for_each(shape.tasks(), |task| {
        let at = task * shape.plane();
        let logs = logs[task * shape.panels() * COLS..].as_ptr();
        let starts = qkv.starts(&shape, task);
        // SAFETY: the starts are inside their slices; every head's task writes its own three planes.
        unsafe {
            let qkv = starts.map(|(slice, start)| from[slice].add(start));
            let gradient = starts.map(|(slice, start)| to[slice].add(start));
            dispatch(Backward { shape: &shape, qkv, out: out.add(at), dy: dy.add(at), logs, gradient });
        }
    });
    gradients
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
        let Shape { depth, queries, keys, .. } = *shape;
        let [q, k, v] = self.qkv;
        let [dq, dk, dv] = self.gradient;
        let lines = keys.next_multiple_of(ROWS);
        let (packed_queries, packed_keys) = (shape.packed(queries), shape.packed(keys));
        let ((query_panel, turned_queries), (key_panel, turned_keys)) = (shape.turned(queries), shape.turned(keys));
        let packed = packed_queries + packed_keys;
        let turned = turned_queries + turned_keys;
        let mut buffer = Scratch::take(2 * packed + 2 * turned + (2 * lines + ROWS) * COLS);
        let start = buffer.as_mut_ptr();
        // SAFETY: the parts below follow one another in the buffer; all operands are packed for this shape.
        unsafe {
            let [packed_q, packed_dy] = [0, 1].map(|i| start.add(i * packed));
            let [packed_k, packed_v] = [packed_q, packed_dy].map(|query| query.add(packed_queries));
            let rest = start.add(2 * packed);
            let [turned_q, turned_dy] = [0, 1].map(|i| rest.add(i * turned));
            let sums_k = turned_q.add(turned_queries);
            let sums_v = turned_dy.add(turned_queries);
            let weights = rest.add(2 * turned);
            let slopes = weights.add(lines * COLS);
            let sums = slopes.add(lines * COLS);
            pack(q, shape, queries, COLS, packed_q);
            pack(self.dy, shape, queries, COLS, packed_dy);
            pack(k, shape, keys, ROWS, packed_k);
            pack(v, shape, keys, ROWS, packed_v);
            transposed(s, q, shape, queries, turned_q);
            transposed(s, self.dy, shape, queries, turned_dy);
            sums_k.write_bytes(0, turned_keys);
            sums_v.write_bytes(0, turned_keys);
            let scale = s.splat(shape.scale());
            for panel in 0..shape.panels() {
                let first = panel * COLS;
                let count = COLS.min(queries - first);
                // With P the weights and dP their gradient: dS = P (dP - sum over channels of dy out).
                products(s, packed_k, packed_q.add(first * depth), shape, weights);
                products(s, packed_v, packed_dy.add(first * depth), shape, slopes);
                let mut inner = [0.0f32; COLS];
                for channel in 0..depth {
                    let row = channel * queries + first;
                    for (i, inner) in inner.iter_mut().enumerate().take(count) {
                        *inner += *self.dy.add(row + i) * *self.out.add(row + i);
                    }
                }
                for lane in (0..COLS).step_by(S::LANES) {
                    let log = s.load(self.logs.add(first + lane));
                    let inner = s.load(inner.as_ptr().add(lane));
                    for key in 0..keys {
                        let (weight_at, slope_at) = (weights.add(key * COLS + lane), slopes.add(key * COLS + lane));
                        let weight = exp(s, s.sub(s.mul(s.load(weight_at), scale), log));
                        let slope = s.mul(s.mul(weight, scale), s.sub(s.load(slope_at), inner));
                        s.store(weight_at, weight);
                        s.store(slope_at, slope);
                    }
                }
                let zeros = [0.0; COLS];
                for channel in (0..depth).step_by(ROWS) {
                    let rows = std::array::from_fn(|i| (channel + i).min(depth - 1) * keys);
                    let operands = RowsOperands { a: k, rows: &rows, b: slopes, stretches: &[(0, 0)], depth: keys };
                    rows_tile::<S, Single>(s, operands, Init { start: zeros.as_ptr(), pitch: 0 }, sums, COLS, COLS);
                    for i in 0..ROWS.min(depth - channel) {
                        let to = dq.add((channel + i) * queries + first);
                        std::ptr::copy_nonoverlapping(sums.add(i * COLS).cast_const(), to, count);
                    }
                }
                for channels in 0..depth.div_ceil(COLS) {
                    let (at, b) = (channels * key_panel, channels * query_panel + first * COLS);
                    for key in (0..keys).step_by(ROWS) {
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
            for channels in 0..depth.div_ceil(COLS) {
                let at = channels * key_panel;
                let columns = COLS.min(depth - channels * COLS);
                for (sums, to) in [(sums_k, dk), (sums_v, dv)] {
                    let dst = to.add(channels * COLS * keys);
                    let src = sums.add(at).cast_const();
                    transpose(s, Transpose { src, src_pitch: COLS, rows: keys, columns, dst, dst_pitch: keys });
                }
            }
        }
    }
}
