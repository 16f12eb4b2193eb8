//! A A^T in closed form: what solves a data step exactly, and shapes the noise of a step frequency by frequency.
//!
//! Pseudo-inverse, proximal step and the noise that y leaves in an estimate are all functions g(A A^T). Where the
//! eigenvectors of A A^T are known, such a function costs no more than two transforms of y. The basis of x is never
//! needed: with A^T it follows from that of y, and a down-sampling has far fewer of these.

use std::sync::Arc;

use rayon::prelude::*;

use super::waves::{Origin, Precision, Waves};
use super::{ImageShape, Kernel, host};
use crate::tensor::{DType, Tensor};
use crate::{Error, Result};

/// Eigenvalues, as a share of the largest, below which a direction counts as not observed.
const NOTHING: f64 = 1e-10;

/// A A^T of an operator by its eigenvalues, the same for every channel of y unless values are weighted.
#[derive(Debug, Clone)]
pub struct Gram {
    range: ImageShape,
    basis: Basis,
    scale: f64,
    exact: bool,
    /// Where the waves are weighted: weights of the values of y. Around a value, A A^T is taken for that of a y that has its
    /// weight everywhere, which is right where weights change slowly.
    weights: Option<Arc<[f64]>>,
}

/// An r of the range of A, and a function of the eigenvalues of A A^T.
pub(super) type Term<'a> = (&'a Tensor<4>, &'a (dyn Fn(f64) -> f64 + Sync));

/// About the inverse of a system, see [`Gram::near_inverse`].
pub(super) type NearInverse<'a> = Box<dyn Fn(&Tensor<4>) -> Result<Tensor<4>> + 'a>;

/// Eigenvectors of A A^T.
#[derive(Debug, Clone)]
enum Basis {
    /// Any: A A^T = scale I.
    Any,
    /// The pixels: scale where y is observed, 0 elsewhere.
    Pixels(Arc<[bool]>),
    /// The values of y: scale times the one of each.
    Values(Arc<[f64]>),
    /// Waves.
    Waves(Arc<Waves>),
}

impl Gram {
    /// A A^T = `scale` I: rows are orthogonal and of equal length.
    pub fn scaled(range: ImageShape, scale: f64) -> Self {
        Self { range, basis: Basis::Any, scale, exact: true, weights: None }
    }

    /// A A^T is 1 at the pixels that are `known` (row-major, the same for every channel) and 0 elsewhere.
    pub fn pixels(range: ImageShape, known: &[bool]) -> Self {
        Self { range, basis: Basis::Pixels(known.into()), scale: 1.0, exact: true, weights: None }
    }

    /// A A^T of a circular convolution of planes of y's size with `kernel`: the squares of its transfer function.
    pub(super) fn circular(range: ImageShape, kernel: &Kernel) -> Self {
        Self::waves(range, Waves::periodic(range, kernel.clone()))
    }

    /// The same on planes that continue mirrored (half-sample symmetric), for kernels symmetric in both axes.
    pub(super) fn mirrored(range: ImageShape, kernel: &Kernel) -> Self {
        Self::waves(range, Waves::mirrored(range, Origin::Kernel(kernel.clone())))
    }

    /// A A^T of a separable map that commutes with mirroring, by the first column of A A^T on each axis.
    ///
    /// Its eigenvalues on an axis of n are those of the even extension of that column, a convolution of 2 n values.
    pub(super) fn separable(range: ImageShape, vertical: &[f64], horizontal: &[f64]) -> Self {
        let (vertical, horizontal) = (cosine_eigenvalues(vertical), cosine_eigenvalues(horizontal));
        Self::waves(range, Waves::mirrored(range, Origin::Axes { vertical, horizontal }))
    }

    fn waves(range: ImageShape, waves: Waves) -> Self {
        Self { range, basis: Basis::Waves(Arc::new(waves)), scale: 1.0, exact: true, weights: None }
    }

    /// The same eigenvectors, as an approximation: good as a preconditioner and for noise, not for a solution.
    #[must_use]
    pub fn approximate(self) -> Self {
        Self { exact: false, ..self }
    }

    /// `factor` times it.
    #[must_use]
    pub fn times(self, factor: f64) -> Self {
        Self { scale: self.scale * factor, ..self }
    }

    /// W A A^T W for a diagonal W, by a weight for each value of y: exact where A A^T is diagonal, too; else right where the
    /// weights change slowly.
    #[must_use]
    pub(super) fn weighted(self, weights: &Arc<[f64]>) -> Self {
        let squares = weights.iter().map(|weight| weight * weight);
        let values: Arc<[f64]> = match &self.basis {
            Basis::Any => squares.collect(),
            Basis::Pixels(known) => {
                squares.zip(known.iter().cycle()).map(|(v, known)| if *known { v } else { 0.0 }).collect()
            }
            Basis::Values(values) => squares.zip(values.iter()).map(|(v, value)| v * value).collect(),
            Basis::Waves(_) => return Self { weights: Some(weights.clone()), ..self },
        };
        Self { basis: Basis::Values(values), ..self }
    }

    /// Whether waves are weighted.
    pub fn is_weighted(&self) -> bool {
        self.weights.is_some()
    }

    /// Without the weights of weighted waves.
    #[must_use]
    pub fn unweighted(self) -> Self {
        Self { weights: None, ..self }
    }

    /// Whether these are the eigenvectors and eigenvalues, and not near them.
    pub fn is_exact(&self) -> bool {
        self.exact && self.weights.is_none()
    }

    /// Whether they are, or would be if all weights were the same: good enough to tell what noise y leaves in an estimate,
    /// and where it decides.
    pub fn is_exact_nearby(&self) -> bool {
        self.exact
    }

    /// The c with A A^T = c I, if it is so.
    pub fn constant(&self) -> Option<f64> {
        (self.is_exact() && matches!(self.basis, Basis::Any)).then_some(self.scale)
    }

    /// Largest eigenvalue.
    pub fn largest(&self) -> f64 {
        self.scale
            * match &self.basis {
                Basis::Any | Basis::Pixels(_) => 1.0,
                Basis::Values(values) => values.iter().copied().fold(0.0, f64::max),
                Basis::Waves(waves) => {
                    let most = self.weights.iter().flat_map(|weights| weights.iter()).copied().fold(0.0, f64::max);
                    let most = if self.weights.is_some() { most * most } else { 1.0 };
                    most * waves.largest()
                }
            }
    }

    /// r to about (scale A A^T + damping I)^-1 r, to precondition its iterative solution: gains are found once for all steps.
    ///
    /// Waves are computed in `precision`.
    ///
    /// With weights it is S^-1 (scale A A^T + damping I)^-1 S^-1 with the unweighted A and a diagonal S: W where the damping
    /// is nothing, I where it is all, and between them what makes it right for an A A^T that is a multiple of I. Errors are
    /// those of [`Gram::filter`].
    pub(super) fn near_inverse(&self, scale: f64, damping: f64, precision: DType) -> NearInverse<'_> {
        let inverse = move |eigenvalue: f64| 1.0 / (scale * eigenvalue + damping);
        let Basis::Waves(waves) = &self.basis else {
            return Box::new(move |r| self.filtered(&[(r, &inverse)], precision));
        };
        let near = match precision {
            DType::F64 => self.near_waves::<f64>(waves, &inverse),
            _ => self.near_waves::<f32>(waves, &inverse),
        };
        let Some(weights) = &self.weights else { return near };
        let eigenvalues = waves.eigenvalues();
        let mean = eigenvalues.iter().sum::<f64>() / eigenvalues.len() as f64;
        let usual = scale * self.scale * mean;
        let part = |weight: &f64| ((usual + damping) / (usual * weight * weight + damping)).sqrt();
        let parts: Vec<f64> = weights.par_iter().map(part).collect();
        let divided = move |r: &Tensor<4>| {
            host::map_images(r, self.range, self.range, |r, out| {
                out.iter_mut().zip(r).zip(&parts).for_each(|((out, r), part)| *out = r * part);
            })
        };
        Box::new(move |r| divided(&near(&divided(r)?)?))
    }

    /// g(A A^T) r without the weights of waves, for g by the eigenvalue.
    fn near_waves<'a, T: Precision>(&'a self, waves: &'a Waves, g: &(dyn Fn(f64) -> f64 + Sync)) -> NearInverse<'a> {
        let gains = [self.clone().unweighted().gains::<T>(waves, g, 1.0)];
        Box::new(move |r| host::sum_images(&[r], self.range, |rs, out| out.copy_from_slice(&waves.filter(rs, &gains))))
    }

    /// g(A A^T) by wave, for a y that has `weight` everywhere.
    fn gains<T: Precision>(&self, waves: &Waves, g: &(dyn Fn(f64) -> f64 + Sync), weight: f64) -> Vec<T> {
        let (nothing, scale) = (NOTHING * self.largest(), self.scale * weight * weight);
        let of = |v: &f64| T::of(g(if scale * v > nothing { scale * v } else { 0.0 }));
        waves.kept().par_iter().map(of).collect()
    }

    /// g(A A^T) r, where `g` maps an eigenvalue of A A^T to that of the result. For directions that A does not observe,
    /// or less than rounding errors, it gets exactly 0.
    ///
    /// # Shapes
    /// r and the result `[n, range]`, in the same precision and on the same device.
    ///
    /// # Errors
    /// [`crate::Error::Config`] when r is not of the operator's range.
    pub fn filter(&self, r: &Tensor<4>, g: impl Fn(f64) -> f64 + Sync) -> Result<Tensor<4>> {
        self.filtered(&[(r, &g)], DType::F64)
    }

    /// The sum of g(A A^T) r over several g and r, as [`Gram::filter`], but for waves in the precision of the first r.
    ///
    /// # Shapes
    /// Every r and the result `[n, range]`, in the same precision and on the same device.
    ///
    /// # Errors
    /// [`crate::Error::Config`] when there is no r, one is not of the operator's range, or their numbers of images differ.
    pub(super) fn filter_sum(&self, terms: &[Term<'_>]) -> Result<Tensor<4>> {
        self.filtered(terms, terms.first().map_or(DType::F64, |(r, _)| r.dtype()))
    }

    fn filtered(&self, terms: &[Term<'_>], precision: DType) -> Result<Tensor<4>> {
        let nothing = NOTHING * self.largest();
        let g = |term: usize, eigenvalue: f64| terms[term].1(if eigenvalue > nothing { eigenvalue } else { 0.0 });
        let batches: Vec<&Tensor<4>> = terms.iter().map(|(r, _)| *r).collect();
        match &self.basis {
            Basis::Any => {
                batches.iter().try_for_each(|r| host::check_shape(r, self.range).map(drop))?;
                let scaled = batches.iter().enumerate().map(|(term, r)| (*r).clone().mul_scalar(g(term, self.scale)));
                scaled.reduce(|a, b| a + b).ok_or_else(|| Error::config("a sum of no images"))
            }
            Basis::Pixels(known) => {
                let gains: Vec<[f64; 2]> = (0..terms.len()).map(|term| [g(term, 0.0), g(term, self.scale)]).collect();
                host::sum_images(&batches, self.range, |rs, out| {
                    for (r, gains) in rs.iter().zip(&gains) {
                        for ((out, r), known) in out.iter_mut().zip(*r).zip(known.iter().cycle()) {
                            *out += gains[usize::from(*known)] * r;
                        }
                    }
                })
            }
            Basis::Values(values) => host::sum_images(&batches, self.range, |rs, out| {
                for (term, r) in rs.iter().enumerate() {
                    out.iter_mut()
                        .zip(*r)
                        .zip(values.iter())
                        .for_each(|((out, r), v)| *out += g(term, self.scale * v) * r);
                }
            }),
            Basis::Waves(waves) => match precision {
                DType::F64 => self.filtered_waves::<f64>(waves, terms, &batches),
                _ => self.filtered_waves::<f32>(waves, terms, &batches),
            },
        }
    }

    fn filtered_waves<T: Precision>(
        &self,
        waves: &Waves,
        terms: &[Term<'_>],
        batches: &[&Tensor<4>],
    ) -> Result<Tensor<4>> {
        let gains = |weight: f64| -> Vec<Vec<T>> { terms.iter().map(|(_, g)| self.gains(waves, g, weight)).collect() };
        match &self.weights {
            None => {
                let gains = gains(1.0);
                host::sum_images(batches, self.range, |rs, out| out.copy_from_slice(&waves.filter(rs, &gains)))
            }
            Some(weights) => {
                let steps = Steps::of(weights);
                let gains: Vec<Vec<Vec<T>>> = steps.weights().map(gains).collect();
                host::sum_images(batches, self.range, |rs, out| {
                    for (step, gains) in gains.iter().enumerate() {
                        let filtered = waves.filter(rs, gains);
                        for ((out, filtered), weight) in out.iter_mut().zip(&filtered).zip(weights.iter()) {
                            *out += steps.share(step, *weight) * filtered;
                        }
                    }
                })
            }
        }
    }
}

/// Steps from the least weight to the largest, in which what depends on the weight is interpolated.
struct Steps {
    least: f64,
    /// Of the logarithm.
    width: f64,
    count: usize,
}

impl Steps {
    /// The largest ratio of neighbours.
    const RATIO: f64 = 1.4;
    const MOST: usize = 10;

    fn of(weights: &[f64]) -> Self {
        let (least, most) = weights.iter().fold((f64::INFINITY, 0.0_f64), |(a, b), w| (a.min(*w), b.max(*w)));
        let span = (most / least).ln().max(0.0);
        let count = ((span / Self::RATIO.ln()).ceil() as usize).min(Self::MOST) + 1;
        Self { least, width: span / (count - 1).max(1) as f64, count }
    }

    fn weights(&self) -> impl Iterator<Item = f64> + '_ {
        (0..self.count).map(|step| self.least * (step as f64 * self.width).exp())
    }

    /// How much `step` counts for a weight: the shares of neighbours add up to 1.
    fn share(&self, step: usize, weight: f64) -> f64 {
        if self.count == 1 {
            return 1.0;
        }
        (1.0 - ((weight / self.least).ln() / self.width - step as f64).abs()).max(0.0)
    }
}

/// Eigenvalues of the symmetric map whose first column is given and whose
/// eigenvectors are the n cosines cos(pi k (i + 1/2) / n).
fn cosine_eigenvalues(column: &[f64]) -> Vec<f64> {
    let n = column.len();
    let angle = |k: usize, i: usize| std::f64::consts::PI * (k as f64) * (i as f64 + 0.5) / n as f64;
    // G e_0 and e_0 on cosine k.
    let eigenvalue = |k: usize| -> f64 {
        let terms = column.iter().enumerate().filter(|(_, v)| **v != 0.0);
        terms.map(|(i, v)| v * angle(k, i).cos()).sum::<f64>() / angle(k, 0).cos()
    };
    (0..n).map(|k| eigenvalue(k).max(0.0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::{BicubicDownsample, Blur, Boundary, LinearOperator};

    /// The largest eigenvalue is that of them all, and but for kernels with negative weights none of them is computed.
    #[test]
    fn the_largest_eigenvalue_is_known_without_the_others() {
        let shape = ImageShape::new(1, 36, 24);
        let mixed = Kernel::from_values(3, 3, vec![-1.0, 2.0, -1.0, 2.0, 9.0, 2.0, -1.0, 2.0, -1.0]).unwrap();
        let blur = |kernel, boundary| Blur::new(shape, kernel, boundary).unwrap().gram().unwrap();
        let all = [
            (blur(Kernel::boxed(5).unwrap(), Boundary::Circular), true),
            (blur(Kernel::motion(7.0, 30.0).unwrap(), Boundary::Circular), true),
            (blur(Kernel::gaussian(9, 1.6).unwrap(), Boundary::Reflect), true),
            (BicubicDownsample::new(shape, 4).unwrap().gram().unwrap(), true),
            (blur(mixed.clone(), Boundary::Circular), false),
            (blur(mixed, Boundary::Reflect), false),
        ];
        for (gram, at_once) in all {
            let largest = gram.largest();
            let Basis::Waves(waves) = &gram.basis else { panic!("{gram:?} has waves") };
            assert_eq!(!waves.are_known(), at_once);
            let most = waves.eigenvalues().iter().copied().fold(0.0, f64::max);
            assert!((largest / most - 1.0).abs() < 1e-12, "{largest} {most}");
        }
    }
}
