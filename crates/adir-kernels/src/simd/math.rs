//! Functions of whole vectors: the exponential, the logistic function, SiLU, and the normal distribution.

use super::Simd;

/// e^x, at most 2 units in the last place off for results in the normal range; 0 below -104, infinity above 88.73.
///
/// x = n ln 2 + r with |r| <= ln 2 / 2, and e^r by its Taylor polynomial of degree 7 (remainder 5e-9 relative).
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer
    // NaN must come through: `max` and `min` return their second operand then.
    let x = s.min(s.splat(89.0), s.max(s.splat(-104.0), x));
    let n = s.sub(s.mul_add(x, s.splat(std::f32::consts::LOG2_E), s.splat(ROUND)), s.splat(ROUND));
    // ln 2 in two parts, the first with trailing zeros so that n times it is exact.
    let r = s.mul_add(n, s.splat(-355.0 / 512.0), x);
    let r = s.mul_add(n, s.splat(2.121_944_4e-4), r);
    let mut p = s.splat(1.0 / 5040.0);
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5] {
        p = s.mul_add(p, r, s.splat(c));
    }
    let p = s.add(s.mul_add(s.mul(p, r), r, r), s.splat(1.0));
    s.scale_by_power(p, n)
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    s.div(s.splat(1.0), s.add(s.splat(1.0), exp(s, s.sub(s.splat(0.0), x))))
}

/// x / (1 + e^-x).
#[inline(always)]
pub(crate) fn silu<S: Simd>(s: S, x: S::V) -> S::V {
    s.div(x, s.add(s.splat(1.0), exp(s, s.sub(s.splat(0.0), x))))
}

/// The derivative of SiLU, sigma(x) (1 + x (1 - sigma(x))).
#[inline(always)]
pub(crate) fn silu_slope<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    let sigma = sigmoid(s, x);
    s.mul(sigma, s.mul_add(x, s.sub(one, sigma), one))
}

/// The distribution function Phi(x) of the standard normal, within 1e-7, and exp(-x^2 / 2).
///
/// With z = |x| / sqrt(2) and t = 1 / (1 + z / 2), exp(z^2) erfc(z) is a polynomial of t; its coefficients are fitted, with
/// errors below 9e-9 where z is at most 4.2.
#[inline(always)]
pub(crate) fn normal<S: Simd>(s: S, x: S::V) -> (S::V, S::V) {
    let magnitude = s.max(x, s.sub(s.splat(0.0), x));
    let slope = exp(s, s.mul(s.mul(x, x), s.splat(-0.5)));
    let t = s.div(s.splat(1.0), s.mul_add(magnitude, s.splat(0.5 * std::f32::consts::FRAC_1_SQRT_2), s.splat(1.0)));
    let mut p = s.splat(0.102_418_13);
    for c in [-0.621_617_1, 1.258_730_3, -0.592_889, 0.649_373_65, 0.195_331_74, 0.008_652_247_5] {
        p = s.mul_add(p, t, s.splat(c));
    }
    let tail = s.mul(s.mul(p, slope), s.splat(0.5));
    // The sign of x, 0 at 0.
    let sign = s.max(s.min(s.mul(x, s.splat(1e30)), s.splat(1.0)), s.splat(-1.0));
    (s.mul_add(sign, s.sub(s.splat(0.5), tail), s.splat(0.5)), slope)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{self, Machine};
    use crate::simd::{Isa, Kernel, dispatch};

    struct Exp<'a>(&'a mut [f32]);

    impl Kernel for Exp<'_> {
        type Output = ();

        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            for part in self.0.chunks_exact_mut(S::LANES) {
                // SAFETY: the part is one vector.
                unsafe { s.store(part.as_mut_ptr(), exp(s, s.load(part.as_ptr()))) }
            }
        }
    }

    fn exp_of(arguments: &[f32]) -> Vec<f32> {
        let mut values = arguments.to_vec();
        dispatch(Exp(&mut values));
        values
    }

    /// Against the double-precision exponential, in units of the last place of the result.
    #[test]
    fn exp_is_within_two_units() {
        // Every 1031st single-precision number of both signs whose exponential is in the normal range.
        let all = (0..=87.3f32.to_bits()).step_by(1031).flat_map(|bits| [f32::from_bits(bits), -f32::from_bits(bits)]);
        let mut arguments: Vec<f32> = all.collect();
        arguments.resize(arguments.len().next_multiple_of(16), 0.0);
        for isa in Isa::available() {
            let exp_of = |arguments: &[f32]| {
                machine::with(Machine { isa: Some(isa), ..Machine::default() }, || exp_of(arguments))
            };
            for (x, found) in arguments.iter().zip(exp_of(&arguments)) {
                let exact = f64::from(*x).exp();
                let nearest = exact as f32;
                let unit = f64::from(f32::from_bits(nearest.to_bits() + 1)) - f64::from(nearest);
                let off = (f64::from(found) - exact).abs() / unit;
                assert!(off <= 2.0, "{isa:?}: exp({x}) = {found}, {off:.2} units from {exact}");
            }
            let mut edges = [0.0; 16];
            edges[..5].copy_from_slice(&[f32::INFINITY, 100.0, -200.0, f32::NEG_INFINITY, f32::NAN]);
            let found = exp_of(&edges);
            assert_eq!(found[..4], [f32::INFINITY, f32::INFINITY, 0.0, 0.0], "{isa:?}");
            assert!(found[4].is_nan(), "{isa:?}");
        }
    }
}
