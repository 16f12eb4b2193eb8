//! Loops over planes: what is computed for a vector of positions, and the loops that apply it.
//!
//! Structs instead of closures: a closure cannot be `#[inline(always)]`, and one that is not inlined is compiled
//! without the vector instructions.

use crate::simd::Simd;
use crate::simd::math::{silu, silu_slope};

/// One vector from `N`.
pub(super) trait Map<S: Simd, const N: usize> {
    fn apply(&self, s: S, values: [S::V; N]) -> S::V;
}

/// `M` terms to be summed, from `N` vectors.
pub(super) trait Terms<S: Simd, const N: usize, const M: usize> {
    fn apply(&self, s: S, values: [S::V; N]) -> [S::V; M];
}

/// `a x + b`.
pub(super) struct Affine<S: Simd> {
    pub a: S::V,
    pub b: S::V,
}

impl<S: Simd> Map<S, 1> for Affine<S> {
    #[inline(always)]
    fn apply(&self, s: S, [x]: [S::V; 1]) -> S::V {
        s.mul_add(self.a, x, self.b)
    }
}

/// `silu(a x + b)`.
pub(super) struct AffineSilu<S: Simd>(pub Affine<S>);

impl<S: Simd> Map<S, 1> for AffineSilu<S> {
    #[inline(always)]
    fn apply(&self, s: S, x: [S::V; 1]) -> S::V {
        silu(s, self.0.apply(s, x))
    }
}

/// `dy silu'(a x + b)`, from x and dy.
pub(super) struct SiluGradient<S: Simd>(pub Affine<S>);

impl<S: Simd> Map<S, 2> for SiluGradient<S> {
    #[inline(always)]
    fn apply(&self, s: S, [x, dy]: [S::V; 2]) -> S::V {
        s.mul(dy, silu_slope(s, self.0.apply(s, [x])))
    }
}

/// `factor du + slope x + offset`, from x and du.
pub(super) struct InputGradient<S: Simd> {
    pub factor: S::V,
    pub slope: S::V,
    pub offset: S::V,
    pub mean: S::V,
}

impl<S: Simd> Map<S, 2> for InputGradient<S> {
    #[inline(always)]
    fn apply(&self, s: S, [x, du]: [S::V; 2]) -> S::V {
        s.mul_add(self.factor, du, s.mul_add(self.slope, s.sub(x, self.mean), self.offset))
    }
}

/// x itself.
pub(super) struct Identity;

impl<S: Simd> Terms<S, 1, 1> for Identity {
    #[inline(always)]
    fn apply(&self, _: S, x: [S::V; 1]) -> [S::V; 1] {
        x
    }
}

/// The deviation of x from the centre, and its square.
pub(super) struct Deviations<S: Simd> {
    pub centre: S::V,
}

impl<S: Simd> Terms<S, 1, 2> for Deviations<S> {
    #[inline(always)]
    fn apply(&self, s: S, [x]: [S::V; 1]) -> [S::V; 2] {
        let d = s.sub(x, self.centre);
        [d, s.mul(d, d)]
    }
}

/// du, and du times the normalised x, from x and du.
pub(super) struct GradientSums<S: Simd> {
    pub mean: S::V,
    pub inverse: S::V,
}

impl<S: Simd> Terms<S, 2, 2> for GradientSums<S> {
    #[inline(always)]
    fn apply(&self, s: S, [x, du]: [S::V; 2]) -> [S::V; 2] {
        [du, s.mul(du, s.mul(s.sub(x, self.mean), self.inverse))]
    }
}

/// `to[i] = f(from[i]..)`; `to` may be one of the sources.
///
/// # Safety
/// All must be in bounds for `count` numbers.
#[inline(always)]
pub(super) unsafe fn map<S: Simd, const N: usize>(
    s: S,
    from: [*const f32; N],
    to: *mut f32,
    count: usize,
    f: &impl Map<S, N>,
) {
    let whole = count / S::LANES * S::LANES;
    let mut values = [s.splat(0.0); N];
    // SAFETY: the caller's promise.
    unsafe {
        let mut i = 0;
        while i < whole {
            for (value, p) in values.iter_mut().zip(from) {
                *value = s.load(p.add(i));
            }
            s.store(to.add(i), f.apply(s, values));
            i += S::LANES;
        }
        if whole < count {
            for (value, p) in values.iter_mut().zip(from) {
                *value = s.load_partial(p.add(whole), count - whole);
            }
            s.store_partial(to.add(whole), count - whole, f.apply(s, values));
        }
    }
}

/// The sums of `f(from[i]..)` over i; `f` must be zero where all its arguments are, unless `count` is a multiple of
/// the vector's lanes.
///
/// # Safety
/// All must be in bounds for `count` numbers.
#[inline(always)]
pub(super) unsafe fn reduce<S: Simd, const N: usize, const M: usize>(
    s: S,
    from: [*const f32; N],
    count: usize,
    f: &impl Terms<S, N, M>,
) -> [f32; M] {
    // Four chains, because an addition takes several cycles.
    let mut sums = [[s.splat(0.0); M]; 4];
    let mut values = [s.splat(0.0); N];
    // SAFETY: the caller's promise.
    unsafe {
        let mut i = 0;
        while i + 4 * S::LANES <= count {
            for (chain, sum) in sums.iter_mut().enumerate() {
                for (value, p) in values.iter_mut().zip(from) {
                    *value = s.load(p.add(i + chain * S::LANES));
                }
                for (sum, term) in sum.iter_mut().zip(f.apply(s, values)) {
                    *sum = s.add(*sum, term);
                }
            }
            i += 4 * S::LANES;
        }
        while i < count {
            for (value, p) in values.iter_mut().zip(from) {
                *value = if i + S::LANES <= count { s.load(p.add(i)) } else { s.load_partial(p.add(i), count - i) };
            }
            for (sum, term) in sums[0].iter_mut().zip(f.apply(s, values)) {
                *sum = s.add(*sum, term);
            }
            i += S::LANES;
        }
    }
    let mut totals = [0.0; M];
    for (j, total) in totals.iter_mut().enumerate() {
        *total = s.sum(s.add(s.add(sums[0][j], sums[1][j]), s.add(sums[2][j], sums[3][j])));
    }
    totals
}
