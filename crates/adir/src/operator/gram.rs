//! A A^T in closed form: what solves a data step exactly, and shapes the noise of a step frequency by frequency.
//!
//! Pseudo-inverse, proximal step and the noise that y leaves in an estimate are all functions g(A A^T). Where the
//! eigenvectors of A A^T are known, such a function costs no more than two transforms of y. The basis of x is never
//! needed: with A^T it follows from that of y, and a down-sampling has far fewer of these.

use std::sync::{Arc, OnceLock};

use rayon::prelude::*;
use rustfft::num_complex::Complex64;

use super::dct::Dct2d;
use super::fft::Fft2d;
use super::{ImageShape, Kernel, host};
use crate::Result;
use crate::tensor::Tensor;

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

/// Waves on planes.
#[derive(Debug)]
struct Waves {
    transform: Transform,
    origin: Origin,
    eigenvalues: OnceLock<Vec<f64>>,
}

/// What the eigenvalues of waves come from.
#[derive(Debug)]
enum Origin {
    /// A is the convolution with a kernel.
    Kernel(Kernel),
    /// A A^T is separable. The eigenvalues on each axis.
    Axes { vertical: Vec<f64>, horizontal: Vec<f64> },
}

/// Planes to the amplitudes of waves, and back.
#[derive(Debug)]
enum Transform {
    /// The Fourier basis, of planes that continue periodically.
    Fourier(Fft2d),
    /// The cosine basis, of planes that continue mirrored.
    Cosine(Dct2d),
}

impl Transform {
    fn forward(&self, plane: Vec<Complex64>) -> Vec<Complex64> {
        match self {
            Self::Fourier(fft) => fft.forward(plane),
            Self::Cosine(dct) => dct.forward(plane),
        }
    }

    fn inverse(&self, spectrum: Vec<Complex64>) -> Vec<Complex64> {
        match self {
            Self::Fourier(fft) => fft.inverse(spectrum),
            Self::Cosine(dct) => dct.inverse(spectrum),
        }
    }
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
        let transform = Transform::Fourier(Fft2d::new(range.height, range.width));
        Self::waves(range, transform, Origin::Kernel(kernel.clone()))
    }

    /// The same on planes that continue mirrored (half-sample symmetric), for kernels symmetric in both axes.
    pub(super) fn mirrored(range: ImageShape, kernel: &Kernel) -> Self {
        Self::cosines(range, Origin::Kernel(kernel.clone()))
    }

    /// A A^T of a separable map that commutes with mirroring, by the first column of A A^T on each axis.
    ///
    /// Its eigenvalues on an axis of n are those of the even extension of that column, a convolution of 2 n values.
    pub(super) fn separable(range: ImageShape, vertical: &[f64], horizontal: &[f64]) -> Self {
        let (vertical, horizontal) = (cosine_eigenvalues(vertical), cosine_eigenvalues(horizontal));
        Self::cosines(range, Origin::Axes { vertical, horizontal })
    }

    fn cosines(range: ImageShape, origin: Origin) -> Self {
        let transform = Transform::Cosine(Dct2d::new(range.height, range.width));
        Self::waves(range, transform, origin)
    }

    fn waves(range: ImageShape, transform: Transform, origin: Origin) -> Self {
        let waves = Waves { transform, origin, eigenvalues: OnceLock::new() };
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

    /// About (scale A A^T + damping I)^-1 r, to precondition its iterative solution.
    ///
    /// With weights it is S^-1 (scale A A^T + damping I)^-1 S^-1 with the unweighted A and a diagonal S: W where the damping
    /// is nothing, I where it is all, and between them what makes it right for an A A^T that is a multiple of I.
    ///
    /// # Errors
    /// As [`Gram::filter`].
    pub(super) fn near_inverse(&self, r: &Tensor<4>, scale: f64, damping: f64) -> Result<Tensor<4>> {
        let inverse = |eigenvalue: f64| 1.0 / (scale * eigenvalue + damping);
        let (Some(weights), Basis::Waves(waves)) = (&self.weights, &self.basis) else { return self.filter(r, inverse) };
        let eigenvalues = waves.eigenvalues();
        let mean = eigenvalues.iter().sum::<f64>() / eigenvalues.len() as f64;
        let usual = scale * self.scale * mean;
        let divided = |r: &Tensor<4>| {
            host::map_images(r, self.range, self.range, |r, out| {
                for ((out, r), weight) in out.iter_mut().zip(r).zip(weights.iter()) {
                    *out = r * ((usual + damping) / (usual * weight * weight + damping)).sqrt();
                }
            })
        };
        divided(&self.clone().unweighted().filter(&divided(r)?, inverse)?)
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
        let nothing = NOTHING * self.largest();
        let g = |eigenvalue: f64| g(if eigenvalue > nothing { eigenvalue } else { 0.0 });
        match &self.basis {
            Basis::Any => {
                host::check_shape(r, self.range)?;
                Ok(r.clone().mul_scalar(g(self.scale)))
            }
            Basis::Pixels(known) => {
                let gains = [g(0.0), g(self.scale)];
                host::map_planes(r, self.range, self.range, |r, out| {
                    for ((out, r), known) in out.iter_mut().zip(r).zip(known.iter()) {
                        *out = gains[usize::from(*known)] * r;
                    }
                })
            }
            Basis::Values(values) => host::map_images(r, self.range, self.range, |r, out| {
                out.iter_mut().zip(r).zip(values.iter()).for_each(|((out, r), v)| *out = g(self.scale * v) * r);
            }),
            Basis::Waves(waves) => {
                let gains = |factor: f64| -> Vec<f64> {
                    waves.eigenvalues().par_iter().map(|v| g(self.scale * factor * v)).collect()
                };
                match &self.weights {
                    None => {
                        let gains = gains(1.0);
                        host::map_images(r, self.range, self.range, |r, out| waves.filter(self.range, r, &gains, out))
                    }
                    Some(weights) => {
                        let steps = Steps::of(weights);
                        let gains: Vec<Vec<f64>> = steps.weights().map(|weight| gains(weight * weight)).collect();
                        host::map_images(r, self.range, self.range, |r, out| {
                            let mut filtered = vec![0.0; r.len()];
                            for (step, gains) in gains.iter().enumerate() {
                                waves.filter(self.range, r, gains, &mut filtered);
                                for ((out, filtered), weight) in out.iter_mut().zip(&filtered).zip(weights.iter()) {
                                    *out += steps.share(step, *weight) * filtered;
                                }
                            }
                        })
                    }
                }
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

impl Waves {
    /// In the order of the transform's spectrum. Computed on the first call, then kept: a plan asks for none of them.
    fn eigenvalues(&self) -> &[f64] {
        self.eigenvalues.get_or_init(|| match (&self.origin, &self.transform) {
            (Origin::Axes { vertical, horizontal }, _) => {
                horizontal.iter().flat_map(|h| vertical.iter().map(move |v| h * v)).collect()
            }
            (Origin::Kernel(kernel), Transform::Fourier(fft)) => {
                transfer(fft, kernel).iter().map(Complex64::norm_sqr).collect()
            }
            (Origin::Kernel(kernel), Transform::Cosine(dct)) => {
                // Of planes with their mirrored copies, the waves up to half of the frequencies are the cosines.
                let (height, width) = (dct.height(), dct.width());
                let copied = transfer(&Fft2d::new(2 * height, 2 * width), kernel);
                let columns = copied.chunks(2 * height).take(width);
                columns.flat_map(|column| column[..height].iter().map(Complex64::norm_sqr)).collect()
            }
        })
    }

    /// The largest eigenvalue. A kernel that takes no light away has it at the constant wave, which it keeps as it is.
    fn largest(&self) -> f64 {
        let most = |values: &[f64]| values.iter().copied().fold(0.0, f64::max);
        match &self.origin {
            Origin::Axes { vertical, horizontal } => most(vertical) * most(horizontal),
            Origin::Kernel(kernel) if kernel.is_non_negative() => 1.0,
            Origin::Kernel(_) => most(self.eigenvalues()),
        }
    }

    /// Filters the planes of `r`, two at a time: as the real and the imaginary part of one.
    fn filter(&self, shape: ImageShape, r: &[f64], gains: &[f64], out: &mut [f64]) {
        let pair = 2 * shape.pixels();
        for (r, out) in r.chunks(pair).zip(out.chunks_mut(pair)) {
            let (re, im) = r.split_at(shape.pixels());
            let plane = match im {
                [] => re.iter().map(|re| Complex64::new(*re, 0.0)).collect(),
                _ => re.iter().zip(im).map(|(re, im)| Complex64::new(*re, *im)).collect(),
            };
            let mut spectrum = self.transform.forward(plane);
            spectrum.iter_mut().zip(gains).for_each(|(v, gain)| *v *= gain);
            let plane = self.transform.inverse(spectrum);
            let (re, im) = out.split_at_mut(shape.pixels());
            re.iter_mut().zip(&plane).for_each(|(out, v)| *out = v.re);
            im.iter_mut().zip(&plane).for_each(|(out, v)| *out = v.im);
        }
    }
}

/// The transfer function of a circular convolution with `kernel`, in the order of the transform.
pub(super) fn transfer(fft: &Fft2d, kernel: &Kernel) -> Vec<Complex64> {
    let (height, width) = (fft.height, fft.width);
    let mut wrapped = vec![Complex64::ZERO; height * width];
    for (i, weight) in kernel.weights().iter().enumerate() {
        let (row, column) = (i / kernel.width(), i % kernel.width());
        wrapped[row % height * width + column % width] += weight;
    }
    fft.forward(wrapped)
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
            assert_eq!(waves.eigenvalues.get().is_none(), at_once);
            let most = waves.eigenvalues().iter().copied().fold(0.0, f64::max);
            assert!((largest / most - 1.0).abs() < 1e-12, "{largest} {most}");
        }
    }
}
