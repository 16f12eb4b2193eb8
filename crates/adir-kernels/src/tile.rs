//! The two inner loops everything that multiplies matrices is built from.
//!
//! Both compute an 8 by 32 tile in registers, over the whole inner dimension, as sums of scalar times vector.
//! They differ in where the scalars lie: [`rows_tile`] walks along eight rows (which may start anywhere, so a
//! convolution needs no im2col), [`columns_tile`] reads eight neighbours at a time. The tile has the same shape
//! on every instruction set, so packed weights do not depend on it.

use crate::simd::Simd;

/// Rows of a tile.
pub(crate) const ROWS: usize = 8;
/// Columns of a tile, and the width of a packed panel.
pub(crate) const COLS: usize = 32;

/// What a number's place in the operands of [`rows_tile`] holds.
pub(crate) trait Product: Copy + Send + Sync + 'static {
    /// Whether it holds two bfloat16 numbers.
    const BF16: bool;
    /// `left right + sum`.
    fn mul_add<S: Simd>(s: S, left: S::V, right: S::V, sum: S::V) -> S::V;
}

/// One single-precision number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Single;

impl Product for Single {
    const BF16: bool = false;

    #[inline(always)]
    fn mul_add<S: Simd>(s: S, left: S::V, right: S::V, sum: S::V) -> S::V {
        s.mul_add(left, right, sum)
    }
}

/// Two bfloat16 numbers, both of whose products are added up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pair;

impl Product for Pair {
    const BF16: bool = true;

    #[inline(always)]
    fn mul_add<S: Simd>(s: S, left: S::V, right: S::V, sum: S::V) -> S::V {
        s.dot_bf16(left, right, sum)
    }
}

/// The left and right operands of [`rows_tile`].
#[derive(Clone, Copy)]
pub(crate) struct RowsOperands<'a> {
    /// Where row i starts is `a + rows[i]`.
    pub a: *const f32,
    pub rows: &'a [usize; ROWS],
    /// A packed panel, [`COLS`] numbers a step.
    pub b: *const f32,
    /// Offsets added to the rows and to the panel for each stretch of `depth` steps.
    pub stretches: &'a [(usize, usize)],
    pub depth: usize,
}

/// What the sums start from: row i at `start + i * pitch`, [`COLS`] numbers each. A pitch of 0 gives all rows the
/// same (a bias); the result itself makes it accumulate.
#[derive(Clone, Copy)]
pub(crate) struct Init {
    pub start: *const f32,
    pub pitch: usize,
}

/// `out[i][j] = init[i][j] + sum over stretches (p, q) and k of a[rows[i] + p + k] b[q + COLS k + j]`, the first
/// `cols` columns, rows of `out` `pitch` apart.
///
/// # Safety
/// Everything addressed must be in bounds: 8 rows of `depth` numbers for each stretch, `depth` panel lines of
/// [`COLS`], 8 rows of [`COLS`] numbers of `init`, and 8 rows of `cols` numbers of `out`.
#[inline(always)]
pub(crate) unsafe fn rows_tile<S: Simd, P: Product>(
    s: S,
    operands: RowsOperands<'_>,
    init: Init,
    out: *mut f32,
    pitch: usize,
    cols: usize,
) {
    // Sub-tiles fill the registers: 16 accumulators of 32 with AVX-512, 8 of 16 elsewhere.
    // SAFETY: the caller's promise, for parts of the tile.
    unsafe {
        if S::LANES == 16 {
            if cols > 16 {
                rows_part::<S, P, 8, 2>(s, operands, 0, 0, init, out, pitch, cols);
            } else {
                rows_part::<S, P, 8, 1>(s, operands, 0, 0, init, out, pitch, cols);
            }
        } else {
            let width = 2 * S::LANES;
            let mut column = 0;
            while column < cols {
                for row in [0, 4] {
                    let out = out.add(row * pitch + column);
                    rows_part::<S, P, 4, 2>(s, operands, row, column, init, out, pitch, cols - column);
                }
                column += width;
            }
        }
    }
}

#[inline(always)]
#[expect(clippy::too_many_arguments)]
unsafe fn rows_part<S: Simd, P: Product, const R: usize, const N: usize>(
    s: S,
    operands: RowsOperands<'_>,
    row: usize,
    column: usize,
    init: Init,
    out: *mut f32,
    pitch: usize,
    cols: usize,
) {
    let RowsOperands { a, rows, b, stretches, depth } = operands;
    // SAFETY: the caller's promise.
    unsafe {
        let mut acc = [[s.splat(0.0); N]; R];
        for (i, line) in acc.iter_mut().enumerate() {
            for (j, value) in line.iter_mut().enumerate() {
                *value = s.load(init.start.add((row + i) * init.pitch + column + j * S::LANES));
            }
        }
        for &(p, q) in stretches {
            let mut starts = [a; R];
            for (i, start) in starts.iter_mut().enumerate() {
                *start = a.add(rows[row + i] + p);
            }
            let mut line = b.add(q + column);
            for k in 0..depth {
                let mut right = [s.splat(0.0); N];
                for (j, value) in right.iter_mut().enumerate() {
                    *value = s.load(line.add(j * S::LANES));
                }
                for (start, line) in starts.iter().zip(&mut acc) {
                    let left = s.splat(*start.add(k));
                    for (sum, &right) in line.iter_mut().zip(&right) {
                        *sum = P::mul_add(s, left, right, *sum);
                    }
                }
                line = line.add(COLS);
            }
        }
        for (i, line) in acc.iter().enumerate() {
            store_line(s, line, out.add(i * pitch), cols);
        }
    }
}

/// The operands of [`columns_tile`].
#[derive(Clone, Copy)]
pub(crate) struct ColumnsOperands<'a> {
    pub a: *const f32,
    pub b: *const f32,
    /// Offsets added to both sides for each stretch of `depth` steps.
    pub stretches: &'a [(usize, usize)],
    pub depth: usize,
    /// Distance between steps on the left and on the right.
    pub a_step: usize,
    pub b_step: usize,
}

/// `out[i][j] = (out[i][j] if accumulate) + sum over stretches (p, q) and k of
/// a[p + k a_step + i] b[q + k b_step + j]`, the first `cols` columns, rows of `out` `pitch` apart.
///
/// # Safety
/// Everything addressed must be in bounds: 8 numbers of `a` and [`COLS`] of `b` at each step, and 8 rows of
/// `cols` numbers of `out`.
#[inline(always)]
pub(crate) unsafe fn columns_tile<S: Simd>(
    s: S,
    operands: ColumnsOperands<'_>,
    accumulate: bool,
    out: *mut f32,
    pitch: usize,
    cols: usize,
) {
    // SAFETY: the caller's promise, for parts of the tile.
    unsafe {
        if S::LANES == 16 {
            if cols > 16 {
                columns_part::<S, 8, 2>(s, operands, 0, 0, accumulate, out, pitch, cols);
            } else {
                columns_part::<S, 8, 1>(s, operands, 0, 0, accumulate, out, pitch, cols);
            }
        } else {
            let width = 2 * S::LANES;
            let mut column = 0;
            while column < cols {
                for row in [0, 4] {
                    let out = out.add(row * pitch + column);
                    columns_part::<S, 4, 2>(s, operands, row, column, accumulate, out, pitch, cols - column);
                }
                column += width;
            }
        }
    }
}

#[inline(always)]
#[expect(clippy::too_many_arguments)]
unsafe fn columns_part<S: Simd, const R: usize, const N: usize>(
    s: S,
    operands: ColumnsOperands<'_>,
    row: usize,
    column: usize,
    accumulate: bool,
    out: *mut f32,
    pitch: usize,
    cols: usize,
) {
    let ColumnsOperands { a, b, stretches, depth, a_step, b_step } = operands;
    // SAFETY: the caller's promise.
    unsafe {
        let mut acc = [[s.splat(0.0); N]; R];
        if accumulate {
            for (i, line) in acc.iter_mut().enumerate() {
                load_line(s, line, out.add(i * pitch), cols);
            }
        }
        for &(p, q) in stretches {
            let mut left_line = a.add(p + row);
            let mut right_line = b.add(q + column);
            for _ in 0..depth {
                let mut right = [s.splat(0.0); N];
                for (j, value) in right.iter_mut().enumerate() {
                    *value = s.load(right_line.add(j * S::LANES));
                }
                for (i, line) in acc.iter_mut().enumerate() {
                    let left = s.splat(*left_line.add(i));
                    for (sum, &right) in line.iter_mut().zip(&right) {
                        *sum = s.mul_add(left, right, *sum);
                    }
                }
                // Wrapping, because the last step may point beyond the buffer; it is not read there.
                left_line = left_line.wrapping_add(a_step);
                right_line = right_line.wrapping_add(b_step);
            }
        }
        for (i, line) in acc.iter().enumerate() {
            store_line(s, line, out.add(i * pitch), cols);
        }
    }
}

/// # Safety
/// `out` must be writable for `cols` numbers, or for all of `line` where that is less.
#[inline(always)]
unsafe fn store_line<S: Simd, const N: usize>(s: S, line: &[S::V; N], out: *mut f32, cols: usize) {
    for (j, &value) in line.iter().enumerate() {
        let first = j * S::LANES;
        // SAFETY: first + LANES <= cols in the first case, first < cols in the second.
        unsafe {
            if first + S::LANES <= cols {
                s.store(out.add(first), value);
            } else if first < cols {
                s.store_partial(out.add(first), cols - first, value);
            }
        }
    }
}

/// # Safety
/// `from` must be readable for `cols` numbers, or for all of `line` where that is less.
#[inline(always)]
unsafe fn load_line<S: Simd, const N: usize>(s: S, line: &mut [S::V; N], from: *const f32, cols: usize) {
    for (j, value) in line.iter_mut().enumerate() {
        let first = j * S::LANES;
        // SAFETY: first + LANES <= cols in the first case, first < cols in the second.
        unsafe {
            if first + S::LANES <= cols {
                *value = s.load(from.add(first));
            } else if first < cols {
                *value = s.load_partial(from.add(first), cols - first);
            }
        }
    }
}
