//! The small matrices of F(4x4, 3x3) on tiles whose lanes are channels.
//!
//! With B, G and A of Lavin and Gray (arXiv 1509.09308, section 4.3; points 0, 1, -1, 2, -2 and infinity), a tile
//! of results is `A^T ((G g G^T) . (B^T d B)) A`. The gradient of the weight is the same bilinear form read the
//! other way: `G^T ((A dy A^T) . (B^T d B)) G`.

use crate::simd::Simd;

/// Side of a tile of results.
pub(super) const OUT: usize = 4;
/// Side of a tile of the image, and of its transform.
pub(super) const IN: usize = 6;
/// Numbers of a transformed tile.
pub(super) const POINTS: usize = IN * IN;

/// A small matrix applied to vectors; `apply` is `#[inline(always)]`.
pub(super) trait Matrix<const N: usize, const M: usize> {
    fn apply<S: Simd>(s: S, d: [S::V; N]) -> [S::V; M];
}

/// `B^T`, 6 by 6.
#[derive(Clone, Copy)]
pub(super) struct Input;

impl Matrix<6, 6> for Input {
    #[inline(always)]
    fn apply<S: Simd>(s: S, d: [S::V; 6]) -> [S::V; 6] {
        let (two, four, five) = (s.splat(2.0), s.splat(4.0), s.splat(5.0));
        let minus_four = s.splat(-4.0);
        let even = s.mul_add(minus_four, d[2], d[4]);
        let odd = s.mul_add(minus_four, d[1], d[3]);
        let outer = s.sub(d[4], d[2]);
        let outer_odd = s.mul(two, s.sub(d[3], d[1]));
        [
            s.mul_add(four, d[0], s.sub(d[4], s.mul(five, d[2]))),
            s.add(even, odd),
            s.sub(even, odd),
            s.add(outer, outer_odd),
            s.sub(outer, outer_odd),
            s.mul_add(four, d[1], s.sub(d[5], s.mul(five, d[3]))),
        ]
    }
}

/// `A^T`, 4 by 6.
pub(super) struct Output;

impl Matrix<6, 4> for Output {
    #[inline(always)]
    fn apply<S: Simd>(s: S, m: [S::V; 6]) -> [S::V; 4] {
        let (near, near_odd) = (s.add(m[1], m[2]), s.sub(m[1], m[2]));
        let (far, far_odd) = (s.add(m[3], m[4]), s.sub(m[3], m[4]));
        [
            s.add(m[0], s.add(near, far)),
            s.mul_add(s.splat(2.0), far_odd, near_odd),
            s.mul_add(s.splat(4.0), far, near),
            s.add(s.mul_add(s.splat(8.0), far_odd, near_odd), m[5]),
        ]
    }
}

/// `A`, 6 by 4.
#[derive(Clone, Copy)]
pub(super) struct OutputTransposed;

impl Matrix<4, 6> for OutputTransposed {
    #[inline(always)]
    fn apply<S: Simd>(s: S, y: [S::V; 4]) -> [S::V; 6] {
        let (near, near_odd) = (s.add(y[0], y[2]), s.add(y[1], y[3]));
        let far = s.mul_add(s.splat(4.0), y[2], y[0]);
        let far_odd = s.mul(s.splat(2.0), s.mul_add(s.splat(4.0), y[3], y[1]));
        [y[0], s.add(near, near_odd), s.sub(near, near_odd), s.add(far, far_odd), s.sub(far, far_odd), y[3]]
    }
}

/// `G`, 6 by 3.
pub(super) struct Weight;

impl Matrix<3, 6> for Weight {
    #[inline(always)]
    fn apply<S: Simd>(s: S, g: [S::V; 3]) -> [S::V; 6] {
        let outer = s.add(g[0], g[2]);
        let minus_sixth = s.splat(-1.0 / 6.0);
        let far = s.mul_add(s.splat(1.0 / 6.0), g[2], s.mul(s.splat(1.0 / 24.0), g[0]));
        let middle = s.mul(s.splat(1.0 / 12.0), g[1]);
        [
            s.mul(s.splat(0.25), g[0]),
            s.mul(minus_sixth, s.add(outer, g[1])),
            s.mul(minus_sixth, s.sub(outer, g[1])),
            s.add(far, middle),
            s.sub(far, middle),
            g[2],
        ]
    }
}

/// `G^T`, 3 by 6.
pub(super) struct WeightTransposed;

impl Matrix<6, 3> for WeightTransposed {
    #[inline(always)]
    fn apply<S: Simd>(s: S, u: [S::V; 6]) -> [S::V; 3] {
        let sixth = s.splat(1.0 / 6.0);
        let (near, near_odd) = (s.add(u[1], u[2]), s.sub(u[2], u[1]));
        let (far, far_odd) = (s.add(u[3], u[4]), s.sub(u[3], u[4]));
        let near = s.mul(sixth, near);
        [
            s.mul_add(s.splat(1.0 / 24.0), far, s.sub(s.mul(s.splat(0.25), u[0]), near)),
            s.mul_add(s.splat(1.0 / 12.0), far_odd, s.mul(sixth, near_odd)),
            s.sub(s.mul_add(sixth, far, u[5]), near),
        ]
    }
}

/// `T d T^T` of an N by N block of vectors, giving M by M.
///
/// # Safety
/// Row y, column x of the block lies at `from[y] + x * step`; the result's at `to + (y * M + x) * pitch`.
/// All must be in bounds for a vector.
#[inline(always)]
pub(super) unsafe fn two_sided<S: Simd, T: Matrix<N, M>, const N: usize, const M: usize>(
    s: S,
    from: [*const f32; N],
    step: usize,
    to: *mut f32,
    pitch: usize,
) {
    let zero = s.splat(0.0);
    let mut half = [[zero; N]; M];
    // SAFETY: the caller's promise.
    unsafe {
        for x in 0..N {
            let mut column = [zero; N];
            for (value, row) in column.iter_mut().zip(from) {
                *value = s.load(row.add(x * step));
            }
            for (row, value) in half.iter_mut().zip(T::apply(s, column)) {
                row[x] = value;
            }
        }
        for (y, row) in half.into_iter().enumerate() {
            for (x, value) in T::apply(s, row).into_iter().enumerate() {
                s.store(to.add((y * M + x) * pitch), value);
            }
        }
    }
}

/// A small matrix of which only a part is needed, applied to vectors; all methods are `#[inline(always)]`.
pub(super) trait Part<const N: usize, const M: usize>: Copy {
    fn apply<S: Simd>(self, s: S, d: [S::V; N]) -> [S::V; M];

    /// Whether that entry of the argument counts; the others are 0 and need not be in memory.
    fn reads(self, entry: usize) -> bool;

    /// Whether that entry of the result counts; the others are not written.
    fn writes(self, entry: usize) -> bool;
}

/// Whether a point is used for that many of a side's four results: F(m, 3) needs m + 2 points, and takes 0, 1, -1, 2, -2 in
/// this order, and infinity. Weights are those of four results then, too.
#[inline(always)]
pub(super) fn is_used(point: usize, results: usize) -> bool {
    point <= results || point == IN - 1
}

/// `B^T` for that many results, of four. What it gives goes with the weights of [`Weight`], which are those of F(m, 3) times
/// the ratio of their denominators, so that this one is divided by it.
#[derive(Clone, Copy)]
pub(super) struct InputPart(pub usize);

impl Part<6, 6> for InputPart {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, d: [S::V; 6]) -> [S::V; 6] {
        let (zero, two, three, four) = (s.splat(0.0), s.splat(2.0), s.splat(3.0), s.splat(4.0));
        match self.0 {
            1 => {
                let at_one = s.mul(s.splat(-6.0), d[1]);
                [s.mul(four, s.sub(d[0], d[1])), at_one, zero, zero, zero, s.sub(d[2], d[1])]
            }
            2 => {
                let at_one = s.mul(s.splat(-3.0), s.add(d[1], d[2]));
                let at_minus_one = s.mul(three, s.sub(d[1], d[2]));
                [s.mul(four, s.sub(d[0], d[2])), at_one, at_minus_one, zero, zero, s.sub(d[3], d[1])]
            }
            3 => {
                let (off, far) = (s.sub(d[0], d[2]), s.sub(d[3], d[1]));
                let at_one = s.mul_add(three, s.sub(d[3], d[2]), s.mul(s.splat(-6.0), d[1]));
                let at_minus_one = s.mul_add(two, d[1], s.mul_add(s.splat(-3.0), d[2], d[3]));
                let at_infinity = s.mul_add(s.splat(-2.0), far, s.sub(d[4], d[2]));
                [s.mul_add(four, off, s.mul(two, far)), at_one, at_minus_one, s.mul(four, far), zero, at_infinity]
            }
            _ => Input::apply(s, d),
        }
    }

    #[inline(always)]
    fn reads(self, entry: usize) -> bool {
        entry < self.0 + 2
    }

    #[inline(always)]
    fn writes(self, entry: usize) -> bool {
        is_used(entry, self.0)
    }
}

/// `A^T` for that many results, of four.
#[derive(Clone, Copy)]
pub(super) struct OutputPart(pub usize);

impl Part<6, 4> for OutputPart {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, m: [S::V; 6]) -> [S::V; 4] {
        let zero = s.splat(0.0);
        let (near, near_odd) = (s.add(m[1], m[2]), s.sub(m[1], m[2]));
        match self.0 {
            1 => [s.add(m[0], s.add(m[1], m[5])), zero, zero, zero],
            2 => [s.add(m[0], near), s.add(near_odd, m[5]), zero, zero],
            3 => {
                let third = s.add(s.mul_add(s.splat(4.0), m[3], near), m[5]);
                [s.add(m[0], s.add(near, m[3])), s.mul_add(s.splat(2.0), m[3], near_odd), third, zero]
            }
            _ => Output::apply(s, m),
        }
    }

    #[inline(always)]
    fn reads(self, entry: usize) -> bool {
        is_used(entry, self.0)
    }

    #[inline(always)]
    fn writes(self, entry: usize) -> bool {
        entry < self.0
    }
}

/// What a tile becomes: [`two_sided`] by a matrix, or `V d H^T` by parts of two.
pub(super) trait Transform<const N: usize, const M: usize>: Copy {
    /// # Safety
    /// As [`two_sided`], for what the parts read and write.
    unsafe fn of<S: Simd>(self, s: S, from: [*const f32; N], step: usize, to: *mut f32, pitch: usize);
}

impl<T: Matrix<N, M> + Copy, const N: usize, const M: usize> Transform<N, M> for T {
    #[inline(always)]
    unsafe fn of<S: Simd>(self, s: S, from: [*const f32; N], step: usize, to: *mut f32, pitch: usize) {
        // SAFETY: the caller's promise.
        unsafe { two_sided::<S, T, N, M>(s, from, step, to, pitch) }
    }
}

impl<P: Part<N, M>, const N: usize, const M: usize> Transform<N, M> for [P; 2] {
    #[inline(always)]
    unsafe fn of<S: Simd>(self, s: S, from: [*const f32; N], step: usize, to: *mut f32, pitch: usize) {
        let [vertical, horizontal] = self;
        let zero = s.splat(0.0);
        let mut half = [[zero; N]; M];
        // SAFETY: the caller's promise; other addresses are not used.
        unsafe {
            for x in (0..N).filter(|&x| horizontal.reads(x)) {
                let mut column = [zero; N];
                for (y, (value, row)) in column.iter_mut().zip(from).enumerate() {
                    if vertical.reads(y) {
                        *value = s.load(row.add(x * step));
                    }
                }
                for (row, value) in half.iter_mut().zip(vertical.apply(s, column)) {
                    row[x] = value;
                }
            }
            for (y, row) in half.into_iter().enumerate().filter(|&(y, _)| vertical.writes(y)) {
                for (x, value) in horizontal.apply(s, row).into_iter().enumerate() {
                    if horizontal.writes(x) {
                        s.store(to.add((y * M + x) * pitch), value);
                    }
                }
            }
        }
    }
}
