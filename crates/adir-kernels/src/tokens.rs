//! What transformers do to tokens between their products: layer normalisation and the gated linear unit.
//!
//! Channels come before tokens, `[batch, channels, tokens]`, as everywhere here. A task is a strip of neighbouring tokens,
//! whose channels it sums up line by line.

use crate::parallel::{Shared, SharedMut, filled, for_each};
use crate::simd::math::normal;
use crate::simd::{Kernel, Simd, dispatch};

/// Tokens of a strip.
const STRIP: usize = 64;

/// Sides of a map of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub batch: usize,
    pub channels: usize,
    pub tokens: usize,
}

impl Shape {
    fn len(&self) -> usize {
        self.batch * self.channels * self.tokens
    }

    fn strips(&self) -> usize {
        self.tokens.div_ceil(STRIP)
    }

    /// Where a strip's first channel begins in the map and its tokens among all tokens, and how many they are.
    fn strip(&self, task: usize) -> (usize, usize, usize) {
        let (image, first) = (task / self.strips(), task % self.strips() * STRIP);
        (image * self.channels * self.tokens + first, image * self.tokens + first, STRIP.min(self.tokens - first))
    }
}

/// Mean and inverse deviation of every token's channels, `[batch, tokens]` both.
#[derive(Debug, Clone)]
pub(crate) struct Moments {
    mean: Vec<f32>,
    inverse: Vec<f32>,
}

/// Every token's channels with mean 0 and variance 1, times `gamma` plus `beta`.
pub(crate) fn layer_norm(x: &[f32], gamma: &[f32], beta: &[f32], eps: f64, shape: Shape) -> (Vec<f32>, Moments) {
    assert_eq!((x.len(), gamma.len(), beta.len()), (shape.len(), shape.channels, shape.channels), "{shape:?}");
    let tokens = shape.batch * shape.tokens;
    let mut moments = Moments { mean: vec![0.0; tokens], inverse: vec![0.0; tokens] };
    let from = Shared(x.as_ptr());
    let (means, inverses) = (SharedMut(moments.mean.as_mut_ptr()), SharedMut(moments.inverse.as_mut_ptr()));
    // SAFETY: every strip writes its own tokens of the result and of the moments.
    let out = unsafe {
        filled(x.len(), |out| {
            for_each(shape.batch * shape.strips(), |task| {
                let (at, token, count) = shape.strip(task);
                dispatch(Normalise {
                    x: from.add(at),
                    out: out.add(at),
                    mean: means.add(token),
                    inverse: inverses.add(token),
                    gamma,
                    beta,
                    eps: eps as f32,
                    pitch: shape.tokens,
                    count,
                });
            });
        })
    };
    (out, moments)
}

struct Normalise<'a> {
    x: *const f32,
    out: *mut f32,
    mean: *mut f32,
    inverse: *mut f32,
    gamma: &'a [f32],
    beta: &'a [f32],
    eps: f32,
    pitch: usize,
    count: usize,
}

impl Kernel for Normalise<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Self { x, out, pitch, count, .. } = self;
        let n = self.gamma.len() as f32;
        // SAFETY: `count` tokens of every channel are inside the map, promised by whoever made the strip.
        let line = |channel: usize| unsafe { std::slice::from_raw_parts(x.add(channel * pitch), count) };
        let (mut mean, mut inverse) = ([0.0f32; STRIP], [0.0f32; STRIP]);
        for channel in 0..self.gamma.len() {
            for (sum, v) in mean.iter_mut().zip(line(channel)) {
                *sum += v;
            }
        }
        for mean in &mut mean {
            *mean /= n;
        }
        for channel in 0..self.gamma.len() {
            for ((sum, mean), v) in inverse.iter_mut().zip(&mean).zip(line(channel)) {
                *sum += (v - mean) * (v - mean);
            }
        }
        for inverse in &mut inverse {
            *inverse = 1.0 / (*inverse / n + self.eps).sqrt();
        }
        for (channel, (&gamma, &beta)) in self.gamma.iter().zip(self.beta).enumerate() {
            // SAFETY: as above; no other strip writes these.
            let out = unsafe { std::slice::from_raw_parts_mut(out.add(channel * pitch), count) };
            for (((out, v), mean), inverse) in out.iter_mut().zip(line(channel)).zip(&mean).zip(&inverse) {
                *out = (v - mean) * inverse * gamma + beta;
            }
        }
        // SAFETY: room for the strip's tokens.
        unsafe {
            self.mean.copy_from_nonoverlapping(mean.as_ptr(), count);
            self.inverse.copy_from_nonoverlapping(inverse.as_ptr(), count);
        }
    }
}

/// The gradient of x, and of gamma and beta where `affine` asks for them.
pub(crate) fn layer_norm_backward(
    x: &[f32],
    gamma: &[f32],
    moments: &Moments,
    dy: &[f32],
    shape: Shape,
    affine: bool,
) -> (Vec<f32>, Option<[Vec<f32>; 2]>) {
    let (from, dy_from) = (Shared(x.as_ptr()), Shared(dy.as_ptr()));
    let (means, inverses) = (Shared(moments.mean.as_ptr()), Shared(moments.inverse.as_ptr()));
    // SAFETY: every strip writes its own tokens of the gradient.
    let dx = unsafe {
        filled(x.len(), |dx| {
            for_each(shape.batch * shape.strips(), |task| {
                let (at, token, count) = shape.strip(task);
                dispatch(NormaliseBack {
                    x: from.add(at),
                    dy: dy_from.add(at),
                    dx: dx.add(at),
                    mean: means.add(token),
                    inverse: inverses.add(token),
                    gamma,
                    pitch: shape.tokens,
                    count,
                });
            });
        })
    };
    let affine = affine.then(|| {
        let (mut gamma, mut beta) = (vec![0.0; shape.channels], vec![0.0; shape.channels]);
        let (gammas, betas) = (SharedMut(gamma.as_mut_ptr()), SharedMut(beta.as_mut_ptr()));
        for_each(shape.channels, |channel| {
            let (mut of_gamma, mut of_beta) = (0.0f64, 0.0f64);
            for image in 0..shape.batch {
                let line = (image * shape.channels + channel) * shape.tokens;
                let tokens = image * shape.tokens..(image + 1) * shape.tokens;
                let moments = moments.mean[tokens.clone()].iter().zip(&moments.inverse[tokens]);
                let lines = x[line..line + shape.tokens].iter().zip(&dy[line..line + shape.tokens]);
                for ((x, dy), (mean, inverse)) in lines.zip(moments) {
                    of_gamma += f64::from(dy * (x - mean) * inverse);
                    of_beta += f64::from(*dy);
                }
            }
            // SAFETY: one number a channel.
            unsafe { (*gammas.add(channel), *betas.add(channel)) = (of_gamma as f32, of_beta as f32) }
        });
        [gamma, beta]
    });
    (dx, affine)
}

struct NormaliseBack<'a> {
    x: *const f32,
    dy: *const f32,
    dx: *mut f32,
    mean: *const f32,
    inverse: *const f32,
    gamma: &'a [f32],
    pitch: usize,
    count: usize,
}

impl Kernel for NormaliseBack<'_> {
    type Output = ();

    /// With x' the normalised x and g = gamma dy: dx = (g - mean g - x' mean(g x')) / deviation.
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Self { pitch, count, .. } = self;
        let n = self.gamma.len() as f32;
        // SAFETY: `count` tokens of every channel are inside the maps, promised by whoever made the strip.
        let line =
            |of: *const f32, channel: usize| unsafe { std::slice::from_raw_parts(of.add(channel * pitch), count) };
        let (means, inverses) = (line(self.mean, 0), line(self.inverse, 0));
        let (mut of_g, mut of_product) = ([0.0f32; STRIP], [0.0f32; STRIP]);
        for (channel, &gamma) in self.gamma.iter().enumerate() {
            let lines = line(self.x, channel).iter().zip(line(self.dy, channel)).zip(means.iter().zip(inverses));
            for (((x, dy), (mean, inverse)), (of_g, of_product)) in lines.zip(of_g.iter_mut().zip(&mut of_product)) {
                let g = gamma * dy;
                *of_g += g;
                *of_product += g * (x - mean) * inverse;
            }
        }
        for (of_g, of_product) in of_g.iter_mut().zip(&mut of_product) {
            (*of_g, *of_product) = (*of_g / n, *of_product / n);
        }
        for (channel, &gamma) in self.gamma.iter().enumerate() {
            // SAFETY: as above; no other strip writes these.
            let dx = unsafe { std::slice::from_raw_parts_mut(self.dx.add(channel * pitch), count) };
            let lines = line(self.x, channel).iter().zip(line(self.dy, channel)).zip(means.iter().zip(inverses));
            for ((dx, ((x, dy), (mean, inverse))), (of_g, of_product)) in
                dx.iter_mut().zip(lines).zip(of_g.iter().zip(&of_product))
            {
                *dx = (gamma * dy - of_g - (x - mean) * inverse * of_product) * inverse;
            }
        }
    }
}

/// The first half of the channels times `gelu` of the second: `shape` is that of the result.
pub(crate) fn geglu(x: &[f32], shape: Shape) -> Vec<f32> {
    assert_eq!(x.len(), 2 * shape.len(), "{shape:?}");
    let from = Shared(x.as_ptr());
    let plane = shape.channels * shape.tokens;
    // SAFETY: every task writes its own line.
    unsafe {
        filled(shape.len(), |out| {
            for_each(shape.batch * shape.channels, |line| {
                let (image, channel) = (line / shape.channels, line % shape.channels);
                let value = from.add(image * 2 * plane + channel * shape.tokens);
                dispatch(Geglu {
                    value,
                    gate: value.add(plane),
                    out: out.add(line * shape.tokens),
                    count: shape.tokens,
                });
            });
        })
    }
}

struct Geglu {
    value: *const f32,
    gate: *const f32,
    out: *mut f32,
    count: usize,
}

impl Kernel for Geglu {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { value, gate, out, count } = self;
        let product = |value: S::V, gate: S::V| s.mul(s.mul(value, gate), normal(s, gate).0);
        let whole = count / S::LANES * S::LANES;
        // SAFETY: `count` numbers behind each pointer.
        unsafe {
            for i in (0..whole).step_by(S::LANES) {
                s.store(out.add(i), product(s.load(value.add(i)), s.load(gate.add(i))));
            }
            let rest = count - whole;
            if rest > 0 {
                let of = |p: *const f32| s.load_partial(p.add(whole), rest);
                s.store_partial(out.add(whole), rest, product(of(value), of(gate)));
            }
        }
    }
}

/// The gradient of [`geglu`]'s argument from that of its result.
pub(crate) fn geglu_backward(x: &[f32], dy: &[f32], shape: Shape) -> Vec<f32> {
    assert_eq!((x.len(), dy.len()), (2 * shape.len(), shape.len()), "{shape:?}");
    let (from, dy) = (Shared(x.as_ptr()), Shared(dy.as_ptr()));
    let plane = shape.channels * shape.tokens;
    // SAFETY: every task writes a line of both halves.
    unsafe {
        filled(x.len(), |dx| {
            for_each(shape.batch * shape.channels, |line| {
                let (image, channel) = (line / shape.channels, line % shape.channels);
                let at = image * 2 * plane + channel * shape.tokens;
                dispatch(GegluBack {
                    value: from.add(at),
                    dvalue: dx.add(at),
                    dy: dy.add(line * shape.tokens),
                    plane,
                    count: shape.tokens,
                });
            });
        })
    }
}

struct GegluBack {
    value: *const f32,
    dvalue: *mut f32,
    dy: *const f32,
    /// How far the gate is behind the value.
    plane: usize,
    count: usize,
}

impl Kernel for GegluBack {
    type Output = ();

    /// gelu(g) = g Phi(g), and its slope is Phi(g) + g phi(g).
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        const PHI_0: f32 = 0.398_942_3; // 1 / sqrt(2 pi)
        let Self { value, dvalue, dy, plane, count } = self;
        let gradients = |value: S::V, gate: S::V, dy: S::V| {
            let (cumulative, density) = normal(s, gate);
            let slope = s.mul_add(s.mul(gate, s.splat(PHI_0)), density, cumulative);
            (s.mul(dy, s.mul(gate, cumulative)), s.mul(dy, s.mul(value, slope)))
        };
        let whole = count / S::LANES * S::LANES;
        // SAFETY: `count` numbers behind each pointer, and as many `plane` numbers on.
        unsafe {
            for i in (0..whole).step_by(S::LANES) {
                let of = |p: *const f32| s.load(p.add(i));
                let (of_value, of_gate) = gradients(of(value), of(value.add(plane)), of(dy));
                s.store(dvalue.add(i), of_value);
                s.store(dvalue.add(plane + i), of_gate);
            }
            let rest = count - whole;
            if rest > 0 {
                let of = |p: *const f32| s.load_partial(p.add(whole), rest);
                let (of_value, of_gate) = gradients(of(value), of(value.add(plane)), of(dy));
                s.store_partial(dvalue.add(whole), rest, of_value);
                s.store_partial(dvalue.add(plane + whole), rest, of_gate);
            }
        }
    }
}
