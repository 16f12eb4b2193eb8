//! Group normalisation with scale-shift and SiLU in one sweep over memory, and its gradients.
//!
//! A group is a contiguous stretch (its channels' planes follow each other), small enough to stay in the cache
//! between the passes: statistics, then one multiply-add and the activation. With
//! `u = a x + b`, `a = gamma (1 + scale) / sigma` and `b = (beta - mean gamma / sigma) (1 + scale) + shift`,
//! everything before the activation is a single multiply-add for each channel. Statistics are summed in single
//! precision over stretches of 4096 numbers and in double beyond.

mod passes;

use rayon::prelude::*;

use self::passes::{Affine, AffineSilu, Deviations, GradientSums, Identity, InputGradient, SiluGradient, map, reduce};
use crate::layout::Modulation;
use crate::parallel::{SharedMut, filled, for_each};
use crate::simd::{Kernel, Simd, dispatch};

/// The shapes of one normalisation: `[batch, channels, positions]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub batch: usize,
    pub channels: usize,
    pub positions: usize,
    pub groups: usize,
}

impl Shape {
    fn check(&self, x: &[f32], params: &Params<'_>) {
        let Shape { batch, channels, positions, groups } = *self;
        assert!(groups > 0 && channels % groups == 0, "group_norm: {channels} channels in {groups} groups");
        assert_eq!(x.len(), batch * channels * positions, "group_norm: numbers of {self:?}");
        assert_eq!((params.gamma.len(), params.beta.len()), (channels, channels), "group_norm: gamma and beta");
        let each = batch * channels;
        assert_eq!((params.scale.len(), params.shift.len()), (each, each), "group_norm: scale and shift");
    }

    fn channels_per_group(&self) -> usize {
        self.channels / self.groups
    }
}

/// What is applied after the normalisation; `scale` and `shift` are `[batch, channels]`.
#[derive(Clone, Copy)]
pub(crate) struct Params<'a> {
    pub gamma: &'a [f32],
    pub beta: &'a [f32],
    pub scale: &'a [f32],
    pub shift: &'a [f32],
    pub eps: f64,
    pub silu: bool,
}

/// Mean and 1 / sigma for each batch entry and group.
pub(crate) type Statistics = Vec<(f32, f32)>;

/// The normalised tensor and the statistics that [`backward`] needs.
pub(crate) fn forward(x: &[f32], params: &Params<'_>, shape: Shape) -> (Vec<f32>, Statistics) {
    shape.check(x, params);
    let tasks = shape.batch * shape.groups;
    let mut statistics = vec![0.0; 2 * tasks];
    let to = SharedMut(statistics.as_mut_ptr());
    // SAFETY: every group is written by its task, and so are its two statistics.
    let out = unsafe {
        filled(x.len(), |out| {
            for_each(tasks, |task| {
                let (mean, inverse) = dispatch(Forward { x, params, shape, task, out });
                to.add(2 * task).write(mean);
                to.add(2 * task + 1).write(inverse);
            });
        })
    };
    (out, statistics.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

/// The statistics alone.
pub(crate) fn statistics(x: &[f32], params: &Params<'_>, shape: Shape) -> Statistics {
    shape.check(x, params);
    let size = shape.channels_per_group() * shape.positions;
    let mut statistics = vec![(0.0, 0.0); shape.batch * shape.groups];
    statistics.par_iter_mut().enumerate().for_each(|(task, statistics)| {
        let (mean, variance) = dispatch(Moments(&x[task * size..][..size]));
        *statistics = (mean as f32, (1.0 / (variance + params.eps).sqrt()) as f32);
    });
    statistics
}

/// The normalisation as what is done to every number.
pub(crate) fn modulation(params: &Params<'_>, statistics: &Statistics, shape: Shape) -> Modulation {
    let Shape { batch, channels, groups, .. } = shape;
    let of = |at: usize| {
        let (image, channel) = (at / channels, at % channels);
        let (mean, inverse) = statistics[image * groups + channel / shape.channels_per_group()];
        coefficients(params, channel, at, f64::from(mean), f64::from(inverse))
    };
    let (a, b) = (0..batch * channels).map(of).unzip();
    Modulation { a, b, silu: params.silu }
}

struct Forward<'a> {
    x: &'a [f32],
    params: &'a Params<'a>,
    shape: Shape,
    task: usize,
    out: SharedMut,
}

impl Kernel for Forward<'_> {
    type Output = (f32, f32);

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (f32, f32) {
        let Shape { positions, groups, channels, .. } = self.shape;
        let per_group = self.shape.channels_per_group();
        let size = per_group * positions;
        let start = self.task * size;
        let x = &self.x[start..start + size];
        let (mean, variance) = Moments(x).run(s);
        let inverse = 1.0 / (variance + self.params.eps).sqrt();
        let (image, group) = (self.task / groups, self.task % groups);
        for c in 0..per_group {
            let channel = group * per_group + c;
            let affine = affine(s, self.params, channel, image * channels + channel, mean, inverse);
            let from = x[c * positions..].as_ptr();
            // SAFETY: the channel's plane lies inside x and, at the same place, inside the output.
            unsafe {
                let to = self.out.add(start + c * positions);
                if self.params.silu {
                    map(s, [from], to, positions, &AffineSilu(affine));
                } else {
                    map(s, [from], to, positions, &affine);
                }
            }
        }
        (mean as f32, inverse as f32)
    }
}

/// a and b of `u = a x + b`; `at` is the place of the channel in scale and shift.
#[inline(always)]
fn affine<S: Simd>(s: S, params: &Params<'_>, channel: usize, at: usize, mean: f64, inverse: f64) -> Affine<S> {
    let (a, b) = coefficients(params, channel, at, mean, inverse);
    Affine { a: s.splat(a), b: s.splat(b) }
}

/// See [`affine`].
#[inline(always)]
fn coefficients(params: &Params<'_>, channel: usize, at: usize, mean: f64, inverse: f64) -> (f32, f32) {
    let (gamma, beta) = (f64::from(params.gamma[channel]), f64::from(params.beta[channel]));
    let (scale, shift) = (f64::from(params.scale[at]), f64::from(params.shift[at]));
    let a = gamma * inverse;
    let b = (beta - mean * a) * (1.0 + scale) + shift;
    ((a * (1.0 + scale)) as f32, b as f32)
}

/// The sum of all numbers, added up in f64 part by part.
pub(crate) struct Sum<'a>(pub &'a [f32]);

impl Kernel for Sum<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let mut sum = 0.0;
        for part in self.0.chunks(4096) {
            // SAFETY: the whole part is readable.
            sum += f64::from(unsafe { reduce(s, [part.as_ptr()], part.len(), &Identity) }[0]);
        }
        sum
    }
}

/// Mean and biased variance.
struct Moments<'a>(&'a [f32]);

impl Kernel for Moments<'_> {
    type Output = (f64, f64);

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> (f64, f64) {
        let x = self.0;
        let mean = Sum(x).run(s) / x.len() as f64;
        let centre = s.splat(mean as f32);
        let (mut deviations, mut squares) = (0.0, 0.0);
        for part in x.chunks(4096) {
            // A zero from a partial vector would count as a deviation, so the remainder is left to the scalar loop.
            let whole = part.len() / S::LANES * S::LANES;
            // SAFETY: the whole part is readable.
            let [d, d2] = unsafe { reduce(s, [part.as_ptr()], whole, &Deviations { centre }) };
            deviations += f64::from(d);
            squares += f64::from(d2);
            for &x in &part[whole..] {
                let d = f64::from(x) - f64::from(mean as f32);
                deviations += d;
                squares += d * d;
            }
        }
        // The centre was rounded to single precision: the mean deviation from it corrects both.
        let off = deviations / x.len() as f64;
        (f64::from(mean as f32) + off, (squares / x.len() as f64 - off * off).max(0.0))
    }
}

/// Gradients of the normalisation's inputs: x, then gamma and beta (`[channels]`), scale and shift
/// (`[batch, channels]`).
pub(crate) struct Gradients {
    pub x: Vec<f32>,
    pub gamma: Vec<f32>,
    pub beta: Vec<f32>,
    pub scale: Vec<f32>,
    pub shift: Vec<f32>,
}

/// Everything's gradient from that of the result.
pub(crate) fn backward(x: &[f32], dy: &[f32], params: &Params<'_>, statistics: &Statistics, shape: Shape) -> Gradients {
    shape.check(x, params);
    assert_eq!(x.len(), dy.len(), "group_norm: gradient of {shape:?}");
    let each = shape.batch * shape.channels;
    // For each batch entry and channel: the sums over positions of du and of du times the normalised x.
    let mut sums = vec![0.0; 2 * each];
    let to = SharedMut(sums.as_mut_ptr());
    // SAFETY: every group is written by its task, and so are its channels' sums.
    let dx = unsafe {
        filled(x.len(), |dx| {
            for_each(shape.batch * shape.groups, |task| {
                dispatch(Backward { x, dy, params, shape, task, statistics: statistics[task], dx, sums: to });
            });
        })
    };
    let (mut gamma, mut beta) = (vec![0.0f64; shape.channels], vec![0.0f64; shape.channels]);
    let (mut scale, mut shift) = (vec![0.0; each], vec![0.0; each]);
    for at in 0..each {
        let channel = at % shape.channels;
        let (du, du_normal) = (f64::from(sums[2 * at]), f64::from(sums[2 * at + 1]));
        let factor = 1.0 + f64::from(params.scale[at]);
        gamma[channel] += factor * du_normal;
        beta[channel] += factor * du;
        scale[at] = (f64::from(params.gamma[channel]) * du_normal + f64::from(params.beta[channel]) * du) as f32;
        shift[at] = du as f32;
    }
    let narrow = |values: Vec<f64>| values.into_iter().map(|v| v as f32).collect();
    Gradients { x: dx, gamma: narrow(gamma), beta: narrow(beta), scale, shift }
}

struct Backward<'a> {
    x: &'a [f32],
    dy: &'a [f32],
    params: &'a Params<'a>,
    shape: Shape,
    task: usize,
    statistics: (f32, f32),
    dx: SharedMut,
    sums: SharedMut,
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Shape { positions, groups, channels, .. } = self.shape;
        let per_group = self.shape.channels_per_group();
        let size = per_group * positions;
        let start = self.task * size;
        let (mean, inverse) = self.statistics;
        let (image, group) = (self.task / groups, self.task % groups);
        let first_channel = group * per_group;
        let (v_mean, v_inverse) = (s.splat(mean), s.splat(inverse));
        let planes = |c: usize| (self.x[start + c * positions..].as_ptr(), self.dy[start + c * positions..].as_ptr());
        // The gradient before the activation goes to dx for now; the two sums weighted by the channels' factors.
        let (mut total, mut total_normal) = (0.0, 0.0);
        for c in 0..per_group {
            let channel = first_channel + c;
            let at = image * channels + channel;
            let (x, dy) = planes(c);
            let (mut sum, mut sum_normal) = (0.0, 0.0);
            for first in (0..positions).step_by(4096) {
                let count = 4096.min(positions - first);
                // SAFETY: the stretch lies inside the channel's plane, of which dx has the same.
                let [du, du_normal] = unsafe {
                    let du = self.dx.add(start + c * positions + first);
                    if self.params.silu {
                        let affine = affine(s, self.params, channel, at, f64::from(mean), f64::from(inverse));
                        map(s, [x.add(first), dy.add(first)], du, count, &SiluGradient(affine));
                    } else {
                        std::ptr::copy_nonoverlapping(dy.add(first), du, count);
                    }
                    let terms = GradientSums { mean: v_mean, inverse: v_inverse };
                    reduce(s, [x.add(first), du.cast_const()], count, &terms)
                };
                sum += f64::from(du);
                sum_normal += f64::from(du_normal);
            }
            // SAFETY: the channel's own two sums.
            unsafe {
                self.sums.add(2 * at).write(sum as f32);
                self.sums.add(2 * at + 1).write(sum_normal as f32);
            }
            let factor = f64::from(self.params.gamma[channel]) * (1.0 + f64::from(self.params.scale[at]));
            total += factor * sum;
            total_normal += factor * sum_normal;
        }
        // dx = (factor du - mean(factor du) - n mean(factor du n)) / sigma, n the normalised x.
        let offset = s.splat(-(total / size as f64) as f32 * inverse);
        let slope = s.splat(-(total_normal / size as f64) as f32 * inverse * inverse);
        for c in 0..per_group {
            let channel = first_channel + c;
            let factor = self.params.gamma[channel] * (1.0 + self.params.scale[image * channels + channel]) * inverse;
            let (x, _) = planes(c);
            let gradient = InputGradient { factor: s.splat(factor), slope, offset, mean: v_mean };
            // SAFETY: the channel's plane of x and of dx.
            unsafe {
                let dx = self.dx.add(start + c * positions);
                map(s, [x, dx.cast_const()], dx, positions, &gradient);
            }
        }
    }
}
